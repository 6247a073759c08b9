"""Records: retries and duplicates, late and too late, and what is trimmed."""

from __future__ import annotations

import pytest
from feeds import (
    DEFINITION,
    HORIZON_MS,
    LAG_MS,
    LATENESS_MS,
    LENGTH_MS,
    Feed,
    T,
    answers_of,
    entry,
    payment,
    record,
    rows,
)
from oracle import Oracle
from places import MemoryPlace, Place, ValkeyPlace, place_fixture  # noqa: F401

from fraudstream.adapters.profile_backend import BucketRequest
from fraudstream.profile import DAY_MS, Mark, Recording

# ------------------------------------------------------------------ meeting a record again


def test_the_same_record_again_is_a_retry_and_is_not_counted_twice(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    located = feed.read(payment("a", T))
    first, second = feed.apply(located), feed.apply(located)
    assert answers_of(first)[0].outcome == Recording.RECORDED
    assert answers_of(second)[0] == answers_of(first)[0]._replace(outcome=Recording.RETRY)


def test_another_record_of_the_same_payment_is_a_duplicate_for_ever(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    original, copy = feed.read(payment("a", T)), feed.read(payment("a", T))
    answers = answers_of(feed.apply(original, copy))
    assert [a.outcome for a in answers] == [Recording.RECORDED, Recording.DUPLICATE]
    assert [a.counts[0] for a in answers] == [1, 1]
    # Which of the two is the duplicate does not depend on how often they are read.
    answers = answers_of(feed.apply(original, copy))
    assert [a.outcome for a in answers] == [Recording.RETRY, Recording.DUPLICATE]


def test_the_same_id_at_another_time_is_another_payment(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("a", T))
    (answer,) = feed.pay(payment("a", T + 1))
    assert (answer.outcome, answer.counts[0]) == (Recording.RECORDED, 2)


def test_a_copy_with_other_content_is_marked_and_the_first_one_stands(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - 1, 7), payment("a", T, 100))
    (copy,) = feed.pay(payment("a", T, 999))
    assert (copy.outcome, copy.marks) == (Recording.DUPLICATE, Mark.CONFLICT)
    assert copy.sums[0][0] == 107
    (unknown,) = feed.pay(payment("a", T, None))
    assert unknown.marks == Mark.CONFLICT
    (same,) = feed.pay(payment("a", T, 100))
    assert same.marks == Mark.NONE


def test_a_record_that_did_not_come_through_kafka_is_claimed_by_its_first_copy(
    place: Place,
) -> None:
    backend = place.open(DEFINITION)
    assert record(backend, entry("a", T, None)) == [(Recording.RECORDED, 0)]
    assert record(backend, entry("a", T, None)) == [(Recording.RETRY, 0)]
    assert record(backend, entry("a", T, 5, (1, 1))) == [(Recording.RECORDED, Mark.CONFLICT)]
    assert record(backend, entry("a", T, 5)) == [(Recording.RETRY, 0)]
    assert record(backend, entry("a", T, 6)) == [(Recording.DUPLICATE, 0)]
    assert record(backend, entry("a", T, None)) == [(Recording.RETRY, 0)]
    assert len(place.kept(backend)["card_tx", "c1"].records) == 1


def test_reading_again_gives_the_same_answer_although_more_was_recorded(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    located = [feed.read(payment(f"x{i}", T + 100 * (i // 2), i)) for i in range(12)]
    first = answers_of(feed.apply(*located[:6]))
    feed.apply(*located[6:])
    again = answers_of(feed.apply(*located[:6]))
    assert again == [answer._replace(outcome=Recording.RETRY) for answer in first]


# ------------------------------------------------------------------ late, and too late


def test_a_late_payment_is_inserted_at_its_place(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("first", T - 900, 1), payment("last", T, 100))
    (late,) = feed.pay(payment("late", T - 400, 10))
    assert (late.outcome, late.marks) == (Recording.RECORDED, Mark.LATE)
    assert (late.counts, late.sums[0]) == ([2, 1], [11, 2])
    (after,) = feed.pay(payment("after", T + 1, 1000))
    assert (after.counts, after.sums[0], after.marks) == ([4, 1], [1111, 4], Mark.NONE)
    records = place.kept(feed.backend)["card_tx", "c1"].records
    assert [time_ms for time_ms, *_ in records] == [T - 900, T - 400, T, T + 1]
    assert [record.values for record in records] == [(1, 1), (10, 1), (100, 1), (1000, 1)]


def test_a_late_payment_is_marked_late_on_a_retry_too(place: Place) -> None:
    """The first attempt saw the later payment come first; so must the second."""
    feed = Feed(place.open(DEFINITION))
    batch = [
        feed.read(payment("ahead", T + 50)),
        feed.read(payment("late", T)),
        feed.read(payment("tied", T)),
        feed.read(payment("in order", T + 60)),
        feed.read(payment("last", T + 70)),
    ]
    marks = [Mark.NONE, Mark.LATE, Mark.LATE, Mark.NONE, Mark.NONE]
    assert [answer.marks for answer in answers_of(feed.apply(*batch))] == marks
    again = answers_of(feed.apply(*batch))
    assert {answer.outcome for answer in again} == {Recording.RETRY}
    assert [answer.marks for answer in again] == marks


@pytest.mark.parametrize(("between", "marks"), [(511, Mark.LATE), (512, Mark.NONE)])
def test_what_came_first_is_looked_for_among_the_512_next_records(
    place: Place, between: int, marks: Mark
) -> None:
    """A retry lies behind at most a batch of later records, and the search must end."""
    backend = place.open(DEFINITION)
    late = entry("late", T, 5_000)
    record(backend, late)
    others = [entry(f"x{number}", T + 1, 6_000 + number) for number in range(between)]
    for batch in (others[:300], others[300:], [entry("ahead", T + 2, 4_000)]):
        record(backend, *batch)
    assert record(backend, late) == [(Recording.RETRY, marks)]


@pytest.mark.parametrize(("age_ms", "is_late"), [(HORIZON_MS - 1, False), (HORIZON_MS, True)])
def test_what_is_as_old_as_the_horizon_is_too_late(
    place: Place, age_ms: int, is_late: bool
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("newest", T))
    (answer,) = feed.pay(payment("old", T - age_ms))
    kept = place.kept(feed.backend)
    if is_late:
        assert answer[:4] == (Recording.TOO_LATE, Mark.NONE, [-1, -1], [[0, 0], [0, 0]])
        assert len(kept["card_tx", "c1"].records) == len(kept["terminal_tx", "t1"].records) == 1
    else:
        assert (answer.outcome, answer.marks) == (Recording.RECORDED, Mark.LATE)
        assert (answer.counts, answer.sums[0]) == ([1, 0], [100, 1])
        assert len(kept["card_tx", "c1"].records) == len(kept["terminal_tx", "t1"].records) == 2


def test_what_is_within_the_allowed_lateness_finds_every_window_whole(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    for number in range(60):  # much is trimmed on the way
        feed.pay(payment(f"x{number}", T + 100 * number, number))
    (late,) = feed.pay(payment("late", T + 5_900 - LATENESS_MS, 7))
    assert late.marks == Mark.LATE
    assert late.counts == [11, 10]


def test_a_window_that_should_hold_what_came_too_late_is_unknown(place: Place) -> None:
    """A series that refused a payment must not go on as if it had never been."""
    refused_ms = T - HORIZON_MS - 300
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("newest", T))
    (whole,) = feed.pay(payment("late", refused_ms + LENGTH_MS + LAG_MS - 1))
    assert whole.counts == [1, 0]
    # Of two that are too late, the later one says how far back nothing is known.
    for name, time_ms in (("refused", refused_ms), ("refused too", refused_ms - 100)):
        (refused,) = feed.pay(payment(name, time_ms))
        assert refused.outcome == Recording.TOO_LATE
    (unknown,) = feed.pay(payment("late too", refused_ms + LENGTH_MS + LAG_MS - 1))
    assert unknown.counts == [2, -1]
    (known,) = feed.pay(payment("less late", refused_ms + LENGTH_MS + LAG_MS))
    assert known.counts == [3, 0]


# ------------------------------------------------------------------ trimming


def test_trimming_drops_what_no_window_reaches_and_changes_no_count(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    untrimmed = Oracle(DEFINITION)
    for number in range(100):
        (answer,) = feed.pay(payment(f"x{number}", T + 150 * number, number))
        row = [answer.outcome, answer.marks]
        for count, sums in zip(answer.counts, answer.sums, strict=True):
            row += [count, *sums]
        expected = untrimmed.expect(entry(f"x{number}", T + 150 * number, number, (number, 1)))
        assert -1 not in answer.counts
        assert expected.admits(row), (expected, row)
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert kept.base_count > 0
    assert kept.base_count + len(kept.records) == 100
    assert kept.base_sums == (sum(range(kept.base_count)), kept.base_count)
    assert len(kept.records) <= 2 * HORIZON_MS // 150
    assert kept.trimmed_to_ms <= T + 150 * 99 - HORIZON_MS < T + 150 * 99 - LENGTH_MS - LAG_MS


@pytest.mark.parametrize(
    ("old", "newest_ms", "dropped"),
    [
        (3, T + HORIZON_MS, 0),  # of four, one is out of reach
        (3, T + HORIZON_MS + 1, 2),
        (2, T + HORIZON_MS + 9, 0),  # fewer than four are left alone
        (7, T + HORIZON_MS + 1, 0),
        (7, T + HORIZON_MS + 2, 3),
    ],
)
def test_a_series_is_trimmed_once_more_than_a_quarter_of_it_is_out_of_reach(
    place: Place, old: int, newest_ms: int, dropped: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(*[payment(f"x{number}", T + number) for number in range(old)])
    feed.pay(payment("newest", newest_ms))
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert (kept.base_count, len(kept.records)) == (dropped, old + 1 - dropped)
    assert kept.trimmed_to_ms == (newest_ms - HORIZON_MS if dropped else 0)


def test_a_series_that_was_trimmed_does_not_know_what_was_before(place: Place) -> None:
    backend = place.open(DEFINITION)
    feed = Feed(backend)
    for number in range(4):
        feed.pay(payment(f"x{number}", T + number))
    feed.pay(payment("later", T + HORIZON_MS + 1_000))
    trimmed_to_ms = place.kept(backend)["card_tx", "c1"].trimmed_to_ms
    assert trimmed_to_ms == T + 1_000

    def counts_at(time_ms: int) -> list[int]:
        (reply,) = backend.apply(
            [BucketRequest(0, {}, [entry("look", time_ms, 99)._replace(is_recorded=False)])]
        )
        return [rows(reply)[0][2], rows(reply)[0][5]]

    # (first, last] is known as a whole if first is not before trimmed_to.
    assert counts_at(trimmed_to_ms + LENGTH_MS) == [0, -1]
    assert counts_at(trimmed_to_ms + LENGTH_MS - 1) == [-1, -1]
    assert counts_at(trimmed_to_ms + LENGTH_MS + LAG_MS) == [0, 0]
    assert counts_at(trimmed_to_ms + LENGTH_MS + LAG_MS - 1) == [0, -1]


def test_what_was_trimmed_and_comes_again_is_too_late_and_not_counted_again(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    old = [feed.read(payment(f"x{number}", T + number)) for number in range(4)]
    feed.apply(*old)
    feed.pay(payment("later", T + 10_000))
    before = place.kept(feed.backend)
    again = answers_of(feed.apply(*old))
    assert {answer.outcome for answer in again} == {Recording.TOO_LATE}
    assert place.kept(feed.backend) == before


def test_a_batch_that_comes_again_reads_what_it_read_although_it_spans_days(place: Place) -> None:
    """A crash after the profiles, before the commit: later events of the batch trimmed nothing."""
    feed = Feed(place.open(DEFINITION))
    past = [feed.read(payment(f"p{n}", T + n * DAY_MS)) for n in range(40)]
    for event in past:
        feed.apply(event)
    batch = [feed.read(payment(f"b{n}", T + (40 + 3 * n) * DAY_MS)) for n in range(10)]
    first, again = feed.apply(*batch), feed.apply(*batch)
    for name, answers in first.series.items():
        assert (answers.counts >= 0).all()
        assert answers.counts.tolist() == again.series[name].counts.tolist()
        assert answers.sums.tolist() == again.series[name].sums.tolist()
