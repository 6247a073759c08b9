"""What is done with whole series: merged from sorted runs, erased, looked at."""

from __future__ import annotations

import numpy as np
import pytest
from feeds import (
    CARD_TX,
    HORIZON_MS,
    LENGTH_MS,
    LONG,
    RICH,
    TERMINAL_LABEL,
    Feed,
    T,
    answers_of,
    entry,
    finding,
    in_batches,
    payment,
    random_events,
    record,
    run_of,
)
from oracle import NO_POSITION
from places import KeptRecord, MemoryPlace, Place, kept_of, place_fixture  # noqa: F401

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import BucketRequest, ProfileBackend, SeriesRun
from fraudstream.profile import NO_ATTRIBUTE, InputPartition, Recording, Stretch, id_hash

NO_ATTRIBUTES = (NO_ATTRIBUTE, NO_ATTRIBUTE)


def of_card(name: str, time_ms: int, amount: int = 100, position: int = 0) -> KeptRecord:
    """Make a record of the rich card series; position 0: it did not come through Kafka."""
    source = position.to_bytes(8, "big")
    return KeptRecord(time_ms, id_hash(name), source, 0, (amount, 1), NO_ATTRIBUTES)


def merge(backend: ProfileBackend, *records: KeptRecord, entity: str = "c1") -> None:
    backend.merge([run_of(RICH, CARD_TX, entity, records)])


def runs_of(backend: MemoryBackend) -> list[SeriesRun]:
    """Take everything out of a twin, a run for each series."""
    names = [series.name for series in RICH.series]
    contents = [backend.content(names.index(name), e) for name, e in backend.all_series()]
    return [content.run for content in contents if content is not None]


# ------------------------------------------------------------------ merging


@pytest.mark.parametrize("buckets", [1, 8])
def test_what_is_merged_is_as_if_it_had_been_recorded(place: Place, buckets: int) -> None:
    recorded = Feed(MemoryBackend(RICH, buckets), RICH, buckets)
    for batch in in_batches([recorded.read(event) for event in random_events(3, 300)], 37):
        recorded.apply(*batch)
    assert isinstance(recorded.backend, MemoryBackend)
    runs = runs_of(recorded.backend)
    merged = place.open(RICH, buckets=buckets)
    for _ in range(2):  # again is no change
        merged.merge(runs[::-1])
        kept = place.kept(merged)
        records = {key: series.records for key, series in kept.items()}
        expected = MemoryPlace().kept(recorded.backend)
        assert records == {key: series.records for key, series in expected.items()}
        assert {series.trimmed_to_ms for series in kept.values()} == {0}
    assert all(not state.watermarks for state in merged.states())


def test_what_is_merged_behind_and_between_is_put_in_its_place(place: Place) -> None:
    backend = place.open(RICH)
    first = [of_card(f"a{n}", T + 10 * n, n) for n in range(5)]
    second = [of_card(f"b{n}", T + 10 * n + 5, 10 + n) for n in range(-3, 9)]
    merge(backend, *first)
    merge(backend, *second)
    kept = place.kept(backend)["card_tx", "c1"]
    assert kept.records == sorted((*first, *second))


def test_at_equal_times_what_was_there_stays_before_what_is_merged(place: Place) -> None:
    backend = place.open(RICH)
    old, new = of_card("z", T), of_card("a", T)
    merge(backend, old, of_card("later", T + 1))
    merge(backend, new)
    assert place.kept(backend)["card_tx", "c1"].records[:2] == [old, new]


def test_a_run_that_holds_a_payment_twice_counts_it_once_and_the_first_stands(
    place: Place,
) -> None:
    backend = place.open(RICH)
    merge(backend, of_card("a", T, 5, 7), of_card("b", T, 6, 8), of_card("a", T, 9, 9))
    found = [(r.values[0], r.position[-1]) for r in place.kept(backend)["card_tx", "c1"].records]
    assert found == [(5, 7), (6, 8)]


def test_a_record_without_a_position_is_claimed_by_the_one_that_is_merged(place: Place) -> None:
    backend = place.open(RICH)
    unclaimed = entry("a", T, None, attributes=NO_ATTRIBUTES)
    record(backend, unclaimed, entry("b", T, 1, attributes=NO_ATTRIBUTES))
    merge(backend, of_card("a", T, position=7), of_card("b", T, position=8), of_card("c", T))
    merge(backend, of_card("a", T, position=9), of_card("a", T), of_card("c", T, position=10))
    kept = place.kept(backend)["card_tx", "c1"].records
    assert [r.position[-1] for r in kept] == [7, 2, 10]
    assert [r.position == NO_POSITION for r in kept] == [False, False, False]


def test_of_merged_findings_the_newer_stands(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.find(*[finding(f"x{n}", T + n, is_fraud=n % 2 == 0, reported_at_ms=T) for n in range(4)])

    def merge_findings(version_ms: int, frauds: tuple[int, ...]) -> list[tuple[int, int]]:
        findings = [
            KeptRecord(T + n, id_hash(f"x{n}"), b"\0" * 7 + b"\1", version_ms, (fraud,), ())
            for n, fraud in enumerate(frauds)
        ]
        feed.backend.merge([run_of(RICH, TERMINAL_LABEL, "t1", findings)])
        kept = place.kept(feed.backend)["terminal_label", "t1"].records
        return [(r.version_ms - T, r.values[0]) for r in kept]

    assert merge_findings(T - 1, (0, 1, 0, 1)) == [(0, 1), (0, 0), (0, 1), (0, 0)]
    # At equal times genuine stands, as ever.
    assert merge_findings(T, (0, 1, 1, 0)) == [(0, 0), (0, 0), (0, 1), (0, 0)]
    assert merge_findings(T + 1, (1, 1, 0, 0)) == [(1, 1), (1, 1), (1, 0), (1, 0)]


def test_what_was_trimmed_is_not_merged_again(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(*[payment(f"x{n}", T + n) for n in range(4)])
    feed.pay(payment("newest", T + HORIZON_MS + 2))
    before = place.kept(feed.backend)["card_tx", "c1"]
    assert before.trimmed_to_ms == T + 2
    merge(feed.backend, of_card("x0", T), of_card("y", T + 2), of_card("z", T + 3, 50))
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert kept[:3] == before[:3]
    assert [r.id_hash for r in kept.records] == [id_hash(name) for name in ("x3", "z", "newest")]


def test_a_merge_refuses_nothing_for_its_age_and_trims_nothing(place: Place) -> None:
    backend = place.open(RICH)
    merge(backend, of_card("new", T))
    merge(backend, *[of_card(f"old{n}", T - 10 * HORIZON_MS + n) for n in range(20)])
    kept = place.kept(backend)["card_tx", "c1"]
    assert (len(kept.records), kept.base_count, kept.trimmed_to_ms) == (21, 0, 0)


def test_an_empty_run_leaves_nothing_behind(place: Place) -> None:
    backend = place.open(RICH)
    merge(backend)
    assert not place.kept(backend)
    assert backend.content(CARD_TX, "c1") is None


def test_long_runs_are_merged_in_any_order(place: Place) -> None:
    rng = np.random.default_rng(5)
    count = 20_000
    records = [
        KeptRecord(T + 10 * (n // 2), id_hash(f"x{n}"), n.to_bytes(8, "big"), 0, (n % 97,), ())
        for n in range(1, count + 1)
    ]
    backend = place.open(LONG)
    pieces = [records[first : first + 5_000] for first in range(1, count, 5_000)]
    pieces += [records[:1], records[100:15_000:3]]  # and much of it twice
    for index in rng.permutation(len(pieces)).tolist():
        backend.merge([run_of(LONG, CARD_TX, "c1", pieces[index])])
    content = backend.content(CARD_TX, "c1")
    kept = kept_of(content)
    assert sorted(kept.records) == sorted(records)
    assert content is not None
    assert np.all(np.diff(content.run.times_ms) >= 0)
    look = entry("look", T + 10 * count, 0, (0,))._replace(is_recorded=False)
    (reply,) = backend.apply([BucketRequest(0, {}, [look])])
    assert reply.rows[CARD_TX].tolist() == [[0, 0, count, sum(r.values[0] for r in records)]]


# ------------------------------------------------------------------ erasure


def test_what_was_erased_is_gone_and_what_came_after_it_stays(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(*[payment(f"x{n}", T + 100 * n, 10**n) for n in range(5)])
    assert feed.store.forget("card_tx", "c1", T + 200) == 3
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert kept[:3] == (T + 200, 0, (0, 0))
    assert [(r.time_ms, r.values) for r in kept.records] == [
        (T + 300, (1_000, 1)),
        (T + 400, (10_000, 1)),
    ]
    (unknown,) = feed.pay(payment("soon", T + 200 + LENGTH_MS - 1, 5))
    (known,) = feed.pay(payment("later", T + 200 + LENGTH_MS, 6))
    assert (unknown.counts[0], unknown.scans[5]) == (-1, LENGTH_MS - 201)
    assert (known.counts[0], known.sums[0]) == (4, [11_011, 4])


def test_an_erasure_leaves_no_trace_of_what_was_trimmed_before(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    for number in range(40):
        feed.pay(payment(f"x{number}", T + 300 * number, 7))
    before = place.kept(feed.backend)["card_tx", "c1"]
    assert before.base_count > 0
    assert feed.store.forget("card_tx", "c1", T) == 0
    after = place.kept(feed.backend)["card_tx", "c1"]
    assert after == before._replace(base_count=0, base_sums=(0, 0))


def test_what_was_erased_is_refused_when_it_comes_again(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    old = feed.read(payment("old", T))
    feed.apply(old)
    assert feed.store.forget("card_tx", "c1", T + 500) == 1
    (again,) = answers_of(feed.apply(old))
    (other,) = feed.pay(payment("other", T + 500))
    assert {again.outcome, other.outcome} == {Recording.TOO_LATE}
    merge(feed.backend, of_card("old", T), of_card("after", T + 501))
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert [r.id_hash for r in kept.records] == [id_hash("after")]
    (new,) = feed.pay(payment("new", T + 502))
    assert new.outcome == Recording.RECORDED


def test_an_entity_that_is_not_there_is_refused_after_its_erasure_too(place: Place) -> None:
    feed = Feed(place.open(RICH, buckets=8), RICH, 8)
    assert feed.store.forget("card_tx", "c1", T) == 0
    assert place.kept(feed.backend) == {("card_tx", "c1"): kept_of_nothing(T)}
    (refused,) = feed.pay(payment("old", T))
    assert refused.outcome == Recording.TOO_LATE
    (taken,) = feed.pay(payment("new", T + 1))
    assert (taken.outcome, taken.counts[0]) == (Recording.RECORDED, -1)


def kept_of_nothing(trimmed_to_ms: int) -> object:
    return (trimmed_to_ms, 0, (0, 0), [])


def test_an_earlier_erasure_after_a_later_one_changes_nothing(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(*[payment(f"x{n}", T + n) for n in range(4)])
    feed.store.forget("card_tx", "c1", T + 2)
    before = place.kept(feed.backend)
    assert feed.store.forget("card_tx", "c1", T + 1) == 0
    assert place.kept(feed.backend) == before


def test_findings_are_erased_too(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.find(finding("x", T), finding("y", T + 1))
    assert feed.store.forget("terminal_label", "t1", T) == 1
    assert feed.find(finding("x", T, is_fraud=False)).labels_too_late == 1
    kept = place.kept(feed.backend)["terminal_label", "t1"]
    assert [(r.time_ms, r.values) for r in kept.records] == [(T + 1, (1,))]


# ------------------------------------------------------------------ looking


def test_a_series_is_shown_as_it_was_recorded(place: Place) -> None:
    feed = Feed(place.open(RICH, buckets=8), RICH, 8)
    feed.pay(payment("b", T + 1, 7, mcc="m1"), payment("a", T, None), payment("c", T + 1, 9))
    feed.find(finding("a", T))
    content = feed.store.content("card_tx", "c1")
    assert content is not None
    assert (content.run.series, content.run.entity, len(content.run)) == (CARD_TX, "c1", 3)
    assert content.run.values.shape == (3, 2)
    assert content.run.attributes.shape == (3, 2)
    assert [(r.time_ms, r.id_hash, r.values, r.attributes) for r in kept_of(content).records] == [
        (T, id_hash("a"), (0, 0), (id_hash("t1"), NO_ATTRIBUTE)),
        (T + 1, id_hash("b"), (7, 1), (id_hash("t1"), id_hash("m1"))),
        (T + 1, id_hash("c"), (9, 1), (id_hash("t1"), NO_ATTRIBUTE)),
    ]
    labels = feed.store.content("terminal_label", "t1")
    assert labels is not None
    assert labels.run.versions_ms.tolist() == [finding("a", T).reported_at_ms]
    stops = feed.store.content("terminal_tx", "t1")
    assert stops is not None
    assert stops.run.values.shape == (3, 0)
    assert feed.store.content("card_tx", "nobody") is None


def test_what_is_shown_can_be_merged_elsewhere(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(*[payment(f"x{n}", T + n // 2, n, mcc=f"m{n % 3}") for n in range(9)])
    content = feed.store.content("card_tx", "c1")
    assert content is not None
    other = place.open(RICH)
    other.merge([content.run])
    assert place.kept(other)["card_tx", "c1"] == place.kept(feed.backend)["card_tx", "c1"]


def test_a_merge_leaves_watermarks_alone(place: Place) -> None:
    backend = place.open(RICH)
    partition = InputPartition(1, 0)
    begin = BucketRequest(0, {partition: Stretch(0, 3)}, [], True, candidate_epoch=b"an-epoch")
    backend.apply([begin])
    merge(backend, of_card("a", T))
    (state,) = backend.states()
    assert (state.epoch, state.watermarks) == (b"an-epoch", {partition: 3})
