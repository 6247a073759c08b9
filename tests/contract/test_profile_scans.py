"""What is found by looking at a window's records one by one, and what is not recorded at all."""

from __future__ import annotations

import numpy as np
import pytest
from feeds import (
    DEFINITION,
    LAG_MS,
    LAGGED,
    LENGTH_MS,
    PLAIN,
    RICH,
    WITHOUT_PRESENT,
    Answer,
    Feed,
    T,
    answers_of,
    entry,
    finding,
    payment,
    record,
    rows,
)
from places import Place, place_fixture  # noqa: F401

from fraudstream.adapters.profile_backend import BucketRequest, ProfileBackend
from fraudstream.profile import (
    NO_ATTRIBUTE,
    SCAN_NOTHING,
    SCAN_RECORDS_MAX,
    SCAN_UNKNOWN,
    Mark,
    ProfileDefinition,
    Recording,
    Scan,
    Series,
    id_hash,
)


def scanning(*scans: Scan) -> ProfileDefinition:
    """Define a card series with an attribute, a long lateness, and these scans."""
    measures = ("amount_minor", "amount_known")
    series = Series(
        "card_tx", "card_id", "transactions", measures, (), 10**9, ("terminal_id",), scans
    )
    return ProfileDefinition((series,))


def pay_at_terminals(
    place: Place, definition: ProfileDefinition, terminals: str, *, step_ms: int = 10
) -> list[Answer]:
    """Pay once at each of these terminals, which are letters, step by step; the last one at T."""
    feed = Feed(place.open(definition), definition)
    first_ms = T - step_ms * (len(terminals) - 1)
    return feed.pay(
        *[
            payment(f"x{number}", first_ms + step_ms * number, number, terminal=name)
            for number, name in enumerate(terminals)
        ]
    )


def test_distinct_counts_values_and_not_records(place: Place) -> None:
    definition = scanning(Scan("distinct", PLAIN, "terminal_id"))
    answers = pay_at_terminals(place, definition, "aababc")
    assert [answer.scans for answer in answers] == [[1], [1], [2], [2], [2], [3]]


def test_distinct_leaves_the_present_event_out_if_it_is_told_to(place: Place) -> None:
    definition = scanning(Scan("distinct", WITHOUT_PRESENT, "terminal_id"))
    answers = pay_at_terminals(place, definition, "aababc")
    assert [answer.scans for answer in answers] == [[0], [1], [1], [2], [2], [2]]


def test_a_lagged_distinct_sees_what_its_window_holds(place: Place) -> None:
    definition = scanning(Scan("distinct", LAGGED, "terminal_id"))
    *_, last = pay_at_terminals(place, definition, "abcdefg", step_ms=LAG_MS // 2)
    # Ages of f, e, d, c, b, a: 250, 500, … 1500; (t - 1500, t - 500] holds e to b.
    assert last.scans == [4]


def test_an_event_without_the_attribute_adds_none(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    payments = [payment("a", T, mcc="m1"), payment("b", T + 1, mcc=None), payment("c", T + 2)]
    answers = feed.pay(*payments, payment("d", T + 3, mcc="m2"), payment("e", T + 4))
    assert [answer.scans[1] for answer in answers] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("per_mille", "places"),
    [
        # Nearest rank: of n amounts 0, 1, … n - 1 the one at place ⌈n · per_mille / 1000⌉, from 1.
        (1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (500, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
        (900, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]),
        (1000, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_a_quantile_is_the_amount_at_the_nearest_rank(
    place: Place, per_mille: int, places: list[int]
) -> None:
    definition = scanning(Scan("quantile", PLAIN, per_mille=per_mille))
    answers = pay_at_terminals(place, definition, "a" * 11)
    assert [answer.scans for answer in answers] == [[found] for found in places]


def test_a_quantile_is_of_known_amounts_in_whatever_order_they_came(place: Place) -> None:
    definition = scanning(
        Scan("quantile", PLAIN, per_mille=500), Scan("quantile", WITHOUT_PRESENT, per_mille=500)
    )
    feed = Feed(place.open(definition), definition)
    amounts = [None, 70, 10, None, 50, 20, 90]
    answers = feed.pay(*[payment(f"x{n}", T + n, amount) for n, amount in enumerate(amounts)])
    with_present = [SCAN_NOTHING, 70, 10, 10, 50, 20, 50]
    without = [SCAN_NOTHING, SCAN_NOTHING, 70, 10, 10, 50, 20]
    assert [answer.scans for answer in answers] == [
        list(both) for both in zip(with_present, without, strict=True)
    ]


def test_a_quantile_of_the_greatest_amounts_is_exact(place: Place) -> None:
    definition = scanning(Scan("quantile", PLAIN, per_mille=1000))
    feed = Feed(place.open(definition), definition)
    amounts = [10**12, 10**12 - 1, 10**12 - 2]
    answers = feed.pay(*[payment(f"x{n}", T + n, amount) for n, amount in enumerate(amounts)])
    assert [answer.scans for answer in answers] == [[10**12]] * 3


@pytest.mark.parametrize("records", [SCAN_RECORDS_MAX, SCAN_RECORDS_MAX + 1, 700])
def test_scans_see_the_latest_records_of_a_window_and_saturate_alike(
    place: Place, records: int
) -> None:
    definition = scanning(
        Scan("distinct", PLAIN, "terminal_id"), Scan("quantile", PLAIN, per_mille=1)
    )
    feed = Feed(place.open(definition), definition)
    for first in range(0, records, 100):
        numbers = range(first, min(first + 100, records))
        payments = [payment(f"x{n}", T + n, n, terminal=f"t{n}") for n in numbers]
        *_, last = feed.pay(*payments)
    assert last.scans == [SCAN_RECORDS_MAX, records - SCAN_RECORDS_MAX]


def test_last_is_the_age_of_the_latest_record_before_the_present_event(place: Place) -> None:
    definition = scanning(Scan("last", PLAIN), Scan("last", LAGGED))
    feed = Feed(place.open(definition), definition)
    times_ms = [0, 0, 40, 540, 1_539, 3_000]
    answers = feed.pay(*[payment(f"x{n}", T + ms) for n, ms in enumerate(times_ms)])
    nothing = SCAN_NOTHING
    plain = [nothing, 0, 40, 500, 999, nothing]
    lagged = [nothing, nothing, nothing, 500, 999, 1_461]
    assert [answer.scans for answer in answers] == [
        list(p) for p in zip(plain, lagged, strict=True)
    ]


def test_last_never_counts_the_present_event_although_it_comes_again(place: Place) -> None:
    definition = scanning(Scan("last", PLAIN))
    feed = Feed(place.open(definition), definition)
    located = [feed.read(payment("a", T)), feed.read(payment("b", T + 7))]
    copy = feed.read(payment("b", T + 7))
    for events in (located, [*located, copy]):
        found = answers_of(feed.apply(*events))
        assert [answer.scans for answer in found[:2]] == [[SCAN_NOTHING], [7]]
    assert (found[2].outcome, found[2].scans) == (Recording.DUPLICATE, [7])


def look(backend: ProfileBackend, time_ms: int) -> list[int]:
    """Read the scans of a card at a time, recording nothing."""
    attributes = (NO_ATTRIBUTE,)
    one = entry("look", time_ms, 99, (0, 0), attributes=attributes)._replace(is_recorded=False)
    (reply,) = backend.apply([BucketRequest(0, {}, [one])])
    return rows(reply)[0][2:]


def test_where_a_window_reaches_back_too_far_only_a_record_that_is_there_is_known(
    place: Place,
) -> None:
    scans = (
        Scan("distinct", PLAIN, "terminal_id"),
        Scan("quantile", PLAIN, per_mille=500),
        Scan("last", PLAIN),
    )
    backend = place.open(scanning(*scans), known_from_ms=T)
    assert look(backend, T + LENGTH_MS - 1) == [SCAN_UNKNOWN] * 3
    assert look(backend, T + LENGTH_MS) == [0, SCAN_NOTHING, SCAN_NOTHING]
    record(backend, entry("a", T + 5, 0, (7, 1), attributes=(id_hash("t1"),)))
    assert look(backend, T + LENGTH_MS - 1) == [SCAN_UNKNOWN, SCAN_UNKNOWN, LENGTH_MS - 6]
    assert look(backend, T + LENGTH_MS) == [1, 7, LENGTH_MS - 5]
    # What is only looked at has no place of its own: whatever is there counts, to the millisecond.
    assert look(backend, T + 5)[2] == 0


def test_of_a_payment_that_came_too_late_nothing_is_known(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(payment("newest", T), payment("earlier", T - 1_000))
    (late,) = feed.pay(payment("late", T - 2_000))
    assert late.outcome == Recording.TOO_LATE
    assert (late.counts, late.scans) == ([-1] * 3, [SCAN_UNKNOWN] * 7)
    assert not late.is_absent


def test_another_attribute_makes_a_copy_a_conflict(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    (first,) = feed.pay(payment("a", T, mcc="m1"))
    (same,) = feed.pay(payment("a", T, mcc="m1"))
    (other,) = feed.pay(payment("a", T, mcc="m2"))
    (none,) = feed.pay(payment("a", T))
    assert [a.marks for a in (first, same, other, none)] == [0, 0, Mark.CONFLICT, Mark.CONFLICT]
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert [r.attributes for r in kept.records] == [(id_hash("t1"), id_hash("m1"))]


def test_a_late_record_brings_its_attributes_to_its_place(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.pay(payment("a", T - 900, mcc="m1"), payment("c", T, mcc="m3"))
    (late,) = feed.pay(payment("b", T - 400, mcc="m2"))
    assert late.scans[:3] == [1, 1, 1]
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert [r.attributes[1] for r in kept.records] == [id_hash(f"m{n}") for n in (1, 2, 3)]


def test_the_present_event_is_left_out_of_a_window_that_says_so(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    answers = feed.pay(payment("a", T, 1), payment("b", T, 10), payment("c", T + 1, 100))
    assert [(a.counts[0], a.counts[2]) for a in answers] == [(1, 0), (2, 1), (3, 2)]
    assert [a.sums[2] for a in answers] == [[0, 0], [1, 1], [11, 2]]
    located = feed.read(payment("late", T, 1000))
    for outcome in (Recording.RECORDED, Recording.RETRY):
        (late,) = answers_of(feed.apply(located))
        assert (late.outcome, late.counts[2], late.sums[2]) == (outcome, 2, [11, 2])


def test_a_payment_without_an_optional_entity_is_not_recorded_there_and_unknown(
    place: Place,
) -> None:
    feed = Feed(place.open(RICH), RICH)
    events = [
        payment("a", T, device_id="d1", mcc="m1"),
        payment("b", T + 1),
        payment("c", T + 2, device_id=None),
        payment("d", T + 3, device_id="d1"),
    ]
    answers = feed.apply(*[feed.read(event) for event in events])
    devices = answers_of(answers, "device_tx")
    assert [a.is_absent for a in devices] == [False, True, True, False]
    assert [a.outcome for a in devices] == [1, 0, 0, 1]
    assert [a.counts for a in devices] == [[1], [-1], [-1], [2]]
    assert [a.sums for a in devices] == [[[100]], [[0]], [[0]], [[200]]]
    assert answers.series["card_tx"].counts[:, 0].tolist() == [1, 2, 3, 4]
    assert not answers.series["card_tx"].absent.any()
    assert set(place.kept(feed.backend)) == {
        ("card_tx", "c1"),
        ("terminal_tx", "t1"),
        ("device_tx", "d1"),
        ("mcc_tx", "m1"),
    }


def test_a_series_that_is_only_recorded_answers_with_outcomes(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    first, second = feed.read(payment("a", T, mcc="m1")), feed.read(payment("b", T, mcc="m1"))
    feed.apply(first)
    answers = feed.apply(first, second)
    found = answers.series["mcc_tx"]
    assert found.outcomes.tolist() == [Recording.RETRY, Recording.RECORDED]
    assert (found.counts.shape, found.sums.shape, found.scans.shape) == ((2, 0), (2, 0, 0), (2, 0))
    assert len(place.kept(feed.backend)["mcc_tx", "m1"].records) == 2


def test_labels_are_looked_for_too(place: Place) -> None:
    feed = Feed(place.open(RICH), RICH)
    feed.find(finding("x", T - 300), finding("y", T - 200))
    answers = feed.apply(feed.read(payment("now", T)))
    assert answers_of(answers, "terminal_label")[0].scans == [200]


def test_an_empty_batch_has_answers_of_every_shape(place: Place) -> None:
    answers = Feed(place.open(RICH), RICH).apply()
    card = answers.series["card_tx"]
    assert card.sums.shape == (0, 3, 2)
    assert card.scans.shape == (0, 7)
    assert card.scans.dtype == np.int64
    assert card.absent.dtype == np.bool_
    assert set(Feed(place.open(DEFINITION)).apply().series) == {
        "card_tx",
        "terminal_tx",
        "terminal_label",
    }
