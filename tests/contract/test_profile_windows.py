"""Windows: which records they count, and when nothing can be said of them."""

from __future__ import annotations

import pytest
from feeds import (
    DEFINITION,
    LABELS,
    LAG_MS,
    LENGTH_MS,
    PAYMENTS,
    Feed,
    T,
    answers_of,
    finding,
    payment,
)
from places import MemoryPlace, Place, ValkeyPlace, place_fixture  # noqa: F401

from fraudstream.adapters.profile_backend import BucketRequest
from fraudstream.errors import (
    ProfileLossError,
)
from fraudstream.profile import Mark, Recording, Stretch

#: Age of an earlier record, and whether (t − 1000, t] and (t − 1500, t − 500] hold it.
EDGES = [
    (0, 1, 0),
    (1, 1, 0),
    (499, 1, 0),
    (500, 1, 1),
    (501, 1, 1),
    (999, 1, 1),
    (1000, 0, 1),
    (1001, 0, 1),
    (1499, 0, 1),
    (1500, 0, 0),
    (1501, 0, 0),
]


@pytest.mark.parametrize(("age_ms", "in_plain", "in_lagged"), EDGES)
def test_a_window_ends_to_the_millisecond(
    place: Place, age_ms: int, in_plain: int, in_lagged: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - age_ms, 30))
    (answer,) = feed.pay(payment("now", T, 500))
    assert answer.counts == [1 + in_plain, in_lagged]
    assert answer.sums == [
        [500 + 30 * in_plain, 1 + in_plain],
        [30 * in_lagged, in_lagged],
    ]


@pytest.mark.parametrize(("age_ms", "in_lagged"), [(age, lagged) for age, _, lagged in EDGES])
def test_a_lagged_window_of_a_terminal_and_of_its_labels_ends_to_the_millisecond(
    place: Place, age_ms: int, in_lagged: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - age_ms, card="another"))
    feed.find(finding("before", T - age_ms))
    answers = feed.apply(feed.read(payment("now", T)))
    assert answers_of(answers, "terminal_tx")[0].counts == [in_lagged]
    label = answers_of(answers, "terminal_label")[0]
    assert (label.outcome, label.counts) == (Recording.READ_ONLY, [in_lagged])
    assert label.sums == [[in_lagged]]


def test_a_payment_of_an_unknown_amount_is_counted_and_adds_nothing(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("unknown", T - 1, None))
    (answer,) = feed.pay(payment("known", T, 500))
    assert answer.counts[0] == 2
    assert answer.sums[0] == [500, 1]


def test_at_equal_times_each_sees_those_before_it_and_itself(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    together = feed.pay(payment("a", T, 1), payment("b", T, 10))
    (alone,) = feed.pay(payment("c", T, 100))
    assert [answer.counts[0] for answer in (*together, alone)] == [1, 2, 3]
    assert [answer.sums[0][0] for answer in (*together, alone)] == [1, 11, 111]
    assert {answer.marks for answer in (*together, alone)} == {Mark.NONE}


def test_cards_and_terminals_do_not_see_each_other(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("a", T - 700, card="c1", terminal="t1"))
    answers = feed.apply(feed.read(payment("b", T, card="c2", terminal="t2")))
    assert answers_of(answers)[0].counts == [1, 0]
    assert answers_of(answers, "terminal_tx")[0].counts == [0]
    # One name for a card and a terminal is still two entities.
    answers = feed.apply(feed.read(payment("c", T, card="t1", terminal="c1")))
    assert answers_of(answers)[0].counts == [1, 0]


def test_amounts_up_to_the_contracts_greatest_are_summed_exactly(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    for number in range(200):
        (answer,) = feed.pay(payment(f"x{number}", T + number, 10**12 - number))
    assert answer.counts[0] == 200
    assert answer.sums[0][0] == sum(10**12 - number for number in range(200))


# ------------------------------------------------------------------ known from


def test_windows_that_reach_back_before_known_from_are_unknown(place: Place) -> None:
    feed = Feed(place.open(DEFINITION, known_from_ms=T - LENGTH_MS))
    (at_edge,) = feed.pay(payment("a", T))
    (before,) = feed.pay(payment("b", T - 1))
    (after,) = feed.pay(payment("c", T + LAG_MS))
    assert [at_edge.counts, before.counts, after.counts] == [[1, -1], [-1, -1], [3, 2]]


def test_a_raised_floor_stays_and_is_never_lowered(place: Place) -> None:
    backend = place.open(DEFINITION, buckets=2)
    feed = Feed(backend, buckets=2)
    feed.store.raise_floor(T - LENGTH_MS)
    feed.store.raise_floor(T - LENGTH_MS - 10)
    for card in ("c1", "c2", "c3", "c4"):  # of both buckets
        (known,) = feed.pay(payment("a", T, card=card))
        (unknown,) = feed.pay(payment("b", T - 1, card=card))
        assert (known.counts[0], unknown.counts[0]) == (1, -1)


def test_a_floor_is_lowered_when_what_lies_before_it_is_known_again(place: Place) -> None:
    backend = place.open(DEFINITION, buckets=2)
    feed = Feed(backend, buckets=2)
    feed.store.raise_floor(T)
    assert feed.store.floor_ms() == T
    feed.store.lower_floor(T - LENGTH_MS)
    feed.store.lower_floor(T)  # no floor is raised by it
    assert feed.store.floor_ms() == T - LENGTH_MS
    for card in ("c1", "c2", "c3", "c4"):  # of both buckets
        (known,) = feed.pay(payment("a", T, card=card))
        (unknown,) = feed.pay(payment("b", T - 1, card=card))
        assert (known.counts[0], unknown.counts[0]) == (1, -1)


def test_raising_the_floor_of_an_empty_bucket_does_not_make_later_losses_invisible(
    place: Place,
) -> None:
    """The bucket's epoch must be one that no other bucket, made after a loss, will have."""
    backend = place.open(DEFINITION)
    backend.raise_floor(T)
    feed = Feed(backend)
    place.wipe(backend)
    backend.apply(
        [
            BucketRequest(
                0,
                {PAYMENTS: Stretch(0, 0), LABELS: Stretch(0, 0)},
                [],
                is_initial=True,
                candidate_epoch=b"anewlife",
            )
        ]
    )
    with pytest.raises(ProfileLossError):
        feed.pay(payment("a", T))


def test_a_sum_is_exact_although_more_went_through_the_series_than_a_double_can_count(
    place: Place,
) -> None:
    """2^53 is 9 · 10^15: some 9,000 payments of the greatest amount."""
    feed = Feed(place.open(DEFINITION))
    count, step_ms = 10_000, 2
    for first in range(0, count, 1_000):
        numbers = range(first, first + 1_000)
        *_, last = feed.pay(*[payment(f"x{n}", T + step_ms * n, 10**12 - n % 7) for n in numbers])
    in_window = [10**12 - n % 7 for n in range(count - LENGTH_MS // step_ms, count)]
    assert count * 10**12 > 2**53
    assert (last.counts[0], last.sums[0]) == (len(in_window), [sum(in_window), len(in_window)])
    located = feed.read(payment("late", T + step_ms * (count - 100), 10**12))
    feed.apply(located)
    (after,) = feed.pay(payment("after", T + step_ms * (count - 1), 1))
    assert after.sums[0] == [sum(in_window) + 10**12 + 1, len(in_window) + 2]
