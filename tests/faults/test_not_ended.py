"""Which transaction a worker had in hand when it went to sleep."""

from __future__ import annotations

from faults_workers import not_ended
from history import Attempt

SLEEPS_AT_MS = 1_000


def attempt(number: int, ended_at_ms: int | None, slot: int = 0) -> Attempt:
    """Make a transaction that began before the sleep."""
    state = "begun" if ended_at_ms is None else "committed"
    return Attempt(f"w/{number}", slot, state, 1, {}, 900, ended_at_ms)


def test_a_commit_in_the_millisecond_of_the_sleep_came_before_it() -> None:
    before, in_hand, after = attempt(1, SLEEPS_AT_MS), attempt(2, 9_000), attempt(3, 9_500)
    assert not_ended([before, in_hand, after], 0, SLEEPS_AT_MS) == [in_hand, after]


def test_one_that_never_ended_was_in_hand_and_another_workers_was_not() -> None:
    in_hand = attempt(1, None)
    assert not_ended([attempt(2, 9_000, slot=1), in_hand], 0, SLEEPS_AT_MS) == [in_hand]
