"""Labels: of several findings about a payment one stands, in whatever order they come."""

from __future__ import annotations

import pytest
from feeds import (
    DEFINITION,
    HORIZON_MS,
    LAG_MS,
    TERMINAL_LABEL,
    Feed,
    T,
    answers_of,
    entry,
    finding,
    payment,
    rows,
)
from places import MemoryPlace, Place, ValkeyPlace, place_fixture  # noqa: F401

from fraudstream.adapters.profile_backend import BucketRequest
from fraudstream.profile import DAY_MS


def label_sum(feed: Feed, at_ms: int = T) -> tuple[int, int]:
    """Read how many labels, and how many frauds, a look at this time finds."""
    look = entry("look", at_ms, 0, (0,), series=TERMINAL_LABEL)._replace(is_recorded=False)
    (reply,) = feed.backend.apply([BucketRequest(0, {}, [look])])
    _, _, count, frauds = rows(reply, TERMINAL_LABEL)[0]
    return count, frauds


DAY_1, DAY_2, DAY_3 = T + DAY_MS, T + 2 * DAY_MS, T + 3 * DAY_MS


@pytest.mark.parametrize(
    ("reports", "frauds"),
    [
        ([(True, DAY_1)], 1),
        ([(False, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_2)], 0),
        ([(False, DAY_1), (True, DAY_2)], 1),
        ([(True, DAY_2), (False, DAY_1)], 1),
        ([(False, DAY_2), (True, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_1)], 0),
        ([(False, DAY_1), (True, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_2), (True, DAY_3)], 1),
        ([(True, DAY_1), (False, DAY_3), (True, DAY_2)], 0),
    ],
)
def test_of_several_findings_the_newer_wins_and_at_equal_times_genuine(
    place: Place, reports: list[tuple[bool, int]], frauds: int
) -> None:
    time_ms = T - LAG_MS
    feed = Feed(place.open(DEFINITION))
    feed.find(finding("around", time_ms - 1), finding("around too", time_ms, reported_at_ms=DAY_1))
    for is_fraud, reported_at_ms in reports:
        feed.find(finding("x", time_ms, is_fraud=is_fraud, reported_at_ms=reported_at_ms))
    feed.find(finding("after", time_ms + 1))
    assert label_sum(feed) == (3, 2 + frauds)
    assert label_sum(feed, T + 1) == (4, 3 + frauds)


def test_an_old_finding_that_comes_again_changes_nothing(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    old = feed.read(finding("x", T - LAG_MS, is_fraud=True, reported_at_ms=DAY_1))
    feed.apply(old)
    withdrawn = feed.read(finding("x", T - LAG_MS, is_fraud=False, reported_at_ms=DAY_2))
    answers = feed.apply(withdrawn)
    assert (answers.labels_superseded, label_sum(feed)) == (0, (1, 0))
    before = place.kept(feed.backend)
    assert feed.apply(old).labels_superseded == 1
    assert feed.apply(withdrawn).labels_superseded == 0
    resumed = feed.read(finding("x", T - LAG_MS, is_fraud=True, reported_at_ms=DAY_1))
    assert feed.apply(resumed).labels_superseded == 1
    assert place.kept(feed.backend) == before


def test_a_label_too_old_for_its_series_is_counted_and_not_recorded(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.find(finding("newest", T))
    answers = feed.find(finding("old", T - HORIZON_MS), finding("newer", T - HORIZON_MS + 1))
    assert answers.labels_too_late == 1
    records = place.kept(feed.backend)["terminal_label", "t1"].records
    assert [time_ms for time_ms, *_ in records] == [T - HORIZON_MS + 1, T]


def test_labels_go_before_the_payments_of_their_batch(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    events = [feed.read(payment("now", T)), feed.read(finding("before", T - LAG_MS))]
    answers = feed.apply(*events)
    assert answers_of(answers, "terminal_label")[0].counts == [1]
