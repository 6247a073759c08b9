"""What the repair says of profiles whose log no longer reaches back to the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.app import build_pipeline
from fraudstream.bundle import load_bundle
from fraudstream.erasures import EntityHasher, ErasureList
from fraudstream.errors import ProfileLossError
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch, Pipeline
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    ProfileBatch,
    Stretch,
)
from fraudstream.repair import CHECK_INTERVAL_S, SLICE_RECORDS_MAX, Repairer
from fraudstream.settings import ModelSettings, Settings

BUNDLE = Path(__file__).parents[2] / "models" / "default"
T = 1_600_000_000_000
PAYMENTS, LABELS = (
    InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0),
    InputPartition(LABELS_TOPIC_NUMBER, 0),
)
#: The log begins here: what was before is forgotten.
LOG_START = 100


class KeptLog:
    """A log of a few records."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
        found = [r for r in self._records if stretch.start <= r.offset < stretch.end]
        if len(found) > records_max:
            found = found[:records_max]
            stretch = Stretch(stretch.start, found[-1].offset + 1)
        return InputBatch(found, {partition: stretch})


class Shop:
    """A pipeline over empty profiles, whose payments are of one card unless said otherwise."""

    def __init__(self) -> None:
        settings = Settings(model=ModelSettings(bundle=str(BUNDLE)))
        definition = load_bundle(BUNDLE).feature_set.profile_definition("EUR")
        self.backend = MemoryBackend(definition)
        self.store = BucketedProfileStore(definition, self.backend)
        self.topics = settings.topics
        self.pipeline: Pipeline = build_pipeline(settings, load_bundle(BUNDLE), self.store)

    def payment(self, offset: int, time_ms: int, **fields: object) -> Record:
        event: dict[str, object] = {
            "transaction_id": f"x{offset}",
            "event_time": time_ms,
            "card_id": "c1",
            "terminal_id": "t1",
            "amount_minor": 90_000,
            "currency": "EUR",
        }
        return Record(
            self.topics.transactions, 0, offset, time_ms, b"k", orjson.dumps(event | fields)
        )

    def label(self, offset: int, time_ms: int, reported_at_ms: int) -> Record:
        event = {"transaction_id": "y", "event_time": time_ms, "card_id": "c1", "is_fraud": True,
                 "terminal_id": "t1", "reported_at": reported_at_ms, "source": "s"}  # fmt: skip
        return Record(self.topics.labels, 0, offset, T, b"k", orjson.dumps(event))

    def repair(
        self,
        partition: InputPartition,
        kept: Sequence[Record],
        **options: Any,  # noqa: ANN401
    ) -> None:
        end = kept[-1].offset + 1
        repairer = Repairer(self.store, KeptLog(kept), self.pipeline.parse, **options)
        repairer.attach({partition: AttachPoint(end, LOG_START)})
        assert repairer.turn({partition: end}) == 0

    def decide(self, *records: Record) -> list[dict[str, Any]]:
        stretch = Stretch(records[0].offset, records[-1].offset + 1)
        self.store.attach({PAYMENTS: AttachPoint(stretch.start, stretch.start)})
        processed = self.pipeline.process(InputBatch(records, {PAYMENTS: stretch}))
        values = [orjson.loads(output.value or b"null") for output in processed.outputs]
        return [value for value in values if "decision_id" in value and "alert_id" not in value]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_one_late_payment_does_not_make_a_short_log_seem_long(shop: Shop) -> None:
    kept = [shop.payment(LOG_START + n, T + n) for n in range(5)]
    kept[3] = shop.payment(LOG_START + 3, T - 700 * DAY_MS, card_id="c9", terminal_id="t9")
    shop.repair(PAYMENTS, kept)
    (decision,) = shop.decide(shop.payment(LOG_START + 5, T + 10))
    assert "incomplete" in decision["flags"]
    assert decision["features"]["card_tx_count_30d"] is None


def test_a_label_says_as_much_as_its_report_is_old(shop: Shop) -> None:
    shop.repair(LABELS, [shop.label(LOG_START, T - 20 * DAY_MS, T)])
    (decision,) = shop.decide(shop.payment(0, T + DAY_MS))
    assert "incomplete" in decision["flags"]
    assert decision["features"]["terminal_fraud_rate_7d_lag7d"] is None


def test_what_lies_behind_the_logs_beginning_is_whole(shop: Shop) -> None:
    shop.repair(PAYMENTS, [shop.payment(LOG_START + n, T + n) for n in range(5)])
    (decision,) = shop.decide(shop.payment(LOG_START + 5, T + 60 * DAY_MS))
    assert decision["flags"] == []


def test_a_copy_is_a_duplicate_at_the_same_terminal_or_of_the_same_card(shop: Shop) -> None:
    same = {"transaction_id": "x"}
    flags = [
        decision["flags"]
        for decision in shop.decide(
            shop.payment(0, T, **same),
            shop.payment(1, T, **same),
            shop.payment(2, T, **same, card_id="c2"),
            shop.payment(3, T, **same, terminal_id="t2"),
            shop.payment(4, T, **same, card_id="c3", terminal_id="t3"),
        )
    ]
    assert flags == [[], ["duplicate"], ["duplicate"], ["duplicate"], []]


# ------------------------------------------------------------------ large gaps


def many(shop: Shop, count: int = 1_500) -> list[Record]:
    """Give payments of some cards, a few of them twice and some out of order."""
    return [
        shop.payment(
            LOG_START + n,
            T + (n - n % 7) * 1_000,
            card_id=f"c{n % 11}",
            terminal_id=f"t{n % 5}",
            transaction_id=f"x{n - n % 13}" if n % 13 == 1 else f"x{n}",
        )
        for n in range(count)
    ]


def kept_in(shop: Shop) -> dict[tuple[str, str], list[object]]:
    return {
        key: [series.times_ms, series.hashes, series.positions, series.sums]
        for key, series in shop.backend.all_series().items()
    }


def test_a_large_gap_is_merged_into_what_recording_makes(shop: Shop) -> None:
    other = Shop()
    shop.repair(PAYMENTS, many(shop), bulk_records_min=1_000)
    other.repair(PAYMENTS, many(other), bulk_records_min=10_000)
    assert len(kept_in(shop)) == 11 + 5
    assert kept_in(shop) == kept_in(other)
    assert shop.store.applied == other.store.applied == {PAYMENTS: LOG_START + 1_500}


def test_a_large_gap_is_closed_in_short_turns(shop: Shop) -> None:
    """Every turn ends soon, so that the stream goes on beside the repair."""
    kept = many(shop, 4_000)
    end = kept[-1].offset + 1
    ticks = iter(range(10**6))
    repairer = Repairer(
        shop.store,
        KeptLog(kept),
        shop.pipeline.parse,
        turn_s=2.0,
        bulk_records_min=3_000,
        clock=lambda: next(ticks),
    )
    repairer.attach({PAYMENTS: AttachPoint(end, LOG_START)})
    turns = 1
    while missing := repairer.turn({PAYMENTS: end}):
        assert missing == 4_000  # the watermark moves when all of it is in
        turns += 1
    assert turns > 3
    assert shop.store.applied == {PAYMENTS: end}


def test_what_a_rebuild_did_meanwhile_is_not_done_again(shop: Shop) -> None:
    kept = many(shop, 4_000)
    end = kept[-1].offset + 1
    times_s = iter([0.0, *(n * 10.0 for n in range(100))])
    read: list[Stretch] = []

    class Watched(KeptLog):
        def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
            read.append(stretch)
            return super().read(partition, stretch, records_max)

    repairer = Repairer(
        shop.store,
        Watched(kept),
        shop.pipeline.parse,
        bulk_records_min=3_000,
        clock=lambda: next(times_s),
    )
    repairer.attach({PAYMENTS: AttachPoint(end, LOG_START)})
    assert repairer.turn({PAYMENTS: end}) == 4_000
    other = BucketedProfileStore(shop.store.definition, shop.backend)
    other.attach({PAYMENTS: AttachPoint(end, LOG_START)})
    other.repair(ProfileBatch((), (), {PAYMENTS: Stretch(LOG_START, end)}))
    assert repairer.turn({PAYMENTS: end}) == 0
    assert len(read) < 4_000 / SLICE_RECORDS_MAX


@pytest.mark.parametrize("bulk_records_min", [1_000, 10_000])
def test_who_was_erased_stays_forgotten(shop: Shop, bulk_records_min: int) -> None:
    hasher, until_ms = EntityHasher(b"k" * 32), T + 1_000_000
    erasures = ErasureList(hasher, {("card_id", hasher("card_id", "c3")): until_ms})
    shop.repair(PAYMENTS, many(shop), bulk_records_min=bulk_records_min, erasures=lambda: erasures)
    other = Shop()
    other.repair(PAYMENTS, many(other))
    expected = kept_in(other)
    found = kept_in(shop)
    assert found.keys() == expected.keys()
    times_ms = other.backend.all_series()["card_tx", "c3"].times_ms
    erased = shop.backend.all_series()["card_tx", "c3"]
    assert erased.times_ms == [t for t in times_ms if t > until_ms]
    assert erased.trimmed_to_ms == until_ms
    assert min(times_ms) < until_ms < max(times_ms)
    assert {k: v for k, v in found.items() if k != ("card_tx", "c3")} == {
        k: v for k, v in expected.items() if k != ("card_tx", "c3")
    }


def test_a_loss_is_noticed_by_the_timer_and_not_looked_for_all_the_time(shop: Shop) -> None:
    now_s = 100.0
    repairer = Repairer(shop.store, KeptLog([]), shop.pipeline.parse, clock=lambda: now_s)
    repairer.attach({PAYMENTS: AttachPoint(LOG_START, LOG_START)})
    repairer.check()
    shop.backend.flush()
    repairer.check()
    assert not repairer.must_look_again
    now_s += CHECK_INTERVAL_S
    with pytest.raises(ProfileLossError):
        repairer.check()
    assert repairer.must_look_again


def test_a_store_that_is_back_is_looked_at_at_once(shop: Shop) -> None:
    repairer = Repairer(shop.store, KeptLog([]), shop.pipeline.parse, clock=lambda: 100.0)
    repairer.attach({PAYMENTS: AttachPoint(LOG_START, LOG_START)})
    repairer.check()
    shop.backend.flush()
    repairer.check_soon()
    with pytest.raises(ProfileLossError):
        repairer.check()
