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
from fraudstream.event import Record
from fraudstream.features import profile_definition
from fraudstream.pipeline import InputBatch, Pipeline
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Stretch,
)
from fraudstream.repair import Repairer
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
        return InputBatch(found[:records_max], {partition: stretch})


class Shop:
    """A pipeline over empty profiles, whose payments are of one card unless said otherwise."""

    def __init__(self) -> None:
        settings = Settings(model=ModelSettings(bundle=BUNDLE))
        definition = profile_definition(load_bundle(BUNDLE).features)
        self.store = BucketedProfileStore(definition, MemoryBackend(definition))
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

    def repair(self, partition: InputPartition, kept: Sequence[Record]) -> None:
        end = kept[-1].offset + 1
        repairer = Repairer(self.store, KeptLog(kept), self.pipeline.parse)
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
