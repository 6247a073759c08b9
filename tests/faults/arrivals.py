"""When a record reached the profiles, as far as one worker's outputs and journal tell.

Partitions are applied in order, and one worker's transactions come one after the other. So what was
decided in an earlier one had been recorded, with two exceptions: what was decided without profiles
was recorded later, and an attempt that failed may have recorded what a later one decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from harness import Partition, Position
from run_view import RunView, every_output


class Arrival(NamedTuple):
    """When a record came.

    Attributes
    ----------
    place
        The record's.
    earliest, settled
        The first transaction (by rank) that may have met it, and the first from which on it was
        there for certain; −1 and infinity where nothing is known.
    appended_ms
        When it was published.
    """

    place: Position
    earliest: float
    settled: float
    appended_ms: int


class Reader(NamedTuple):
    """A decision that looks at others: which, in which transaction, and until when."""

    place: Position
    rank: float
    until_ms: int

    def has_met(self, arrival: Arrival) -> bool:
        """Say whether a transaction had been recorded for certain."""
        is_before = arrival.place[:2] == self.place[:2] and arrival.place[2] <= self.place[2]
        return is_before or arrival.settled < self.rank

    def may_have_met(self, arrival: Arrival) -> bool:
        """Say whether a transaction may have been recorded."""
        is_after = arrival.place[:2] == self.place[:2] and arrival.place[2] > self.place[2]
        if is_after and arrival.earliest >= 0:
            return False
        return arrival.earliest <= self.rank and arrival.appended_ms <= self.until_ms


@dataclass
class Arrivals:
    """The order in which one worker did its work.

    Parameters
    ----------
    view
        Of a history with one worker.
    """

    view: RunView

    def __post_init__(self) -> None:
        """Put the transactions in order, and find the ones that were decided with profiles."""
        self._ranks = _ranks(self.view)
        self._whole = {d.attempt for d in self.view.decisions if not d.is_degraded}

    def of_transactions(self) -> dict[Position, Arrival]:
        """Say when each transaction came."""
        found = {}
        settled: dict[Partition, float] = {}
        for place, _ in reversed(self.view.transactions):
            decision = self.view.decided.get(place)
            rank = self._rank_of(place)
            if decision is not None and not decision.is_degraded:
                settled[place[:2]] = rank
            found[place] = self._arrival(place, rank, settled.get(place[:2], math.inf))
        return found

    def of_labels(self) -> dict[Position, Arrival]:
        """Say when each label came: nothing but the journal tells."""
        attempts = sorted(
            (a for a in self.view.history.attempts if a.is_committed),
            key=lambda attempt: self._ranks[attempt.attempt],
        )
        found = {}
        for partition, places in _by_partition(place for place, _ in self.view.labels):
            covering = [a for a in attempts if partition in a.ends]
            ends = [a.ends[partition] for a in covering]
            ranks = [self._ranks[a.attempt] for a in covering]
            settled = list(self._settled(ranks, [a.attempt in self._whole for a in covering]))
            step = 0
            for place in places:
                while step < len(ends) and ends[step] <= place[2]:
                    step += 1
                is_known = step < len(ends)
                rank = ranks[step] if is_known else math.inf
                found[place] = self._arrival(place, rank, settled[step] if is_known else math.inf)
        return found

    def reader(self, place: Position) -> Reader:
        """Describe the decision on a transaction as one who looks at others."""
        decision = self.view.decided[place]
        until_ms = self.view.history.seen_at_ms.get(place, decision.timestamp_ms)
        return Reader(place, self._ranks.get(decision.attempt, math.inf), until_ms)

    def _rank_of(self, place: Position) -> float:
        decision, letter = self.view.decided.get(place), self.view.dead.get(place)
        if decision is not None:
            return self._ranks.get(decision.attempt, math.inf)
        if letter is not None:
            return self._ranks.get(letter.headers.get("fs_attempt", ""), math.inf)
        return math.inf

    def _arrival(self, place: Position, rank: float, settled: float) -> Arrival:
        is_sure = not self.view.is_disturbed and rank < math.inf
        return Arrival(place, rank if is_sure else -1, settled, self.view.rows[place].timestamp_ms)

    def _settled(self, ranks: list[float], are_whole: list[bool]) -> Iterator[float]:
        """Give the rank from which on each transaction's records were there for certain."""
        for step, rank in enumerate(ranks):
            if not self.view.is_disturbed:
                yield rank
                continue
            later = (
                r for r, is_whole in zip(ranks[step:], are_whole[step:], strict=True) if is_whole
            )
            yield next(later, math.inf)


def _ranks(view: RunView) -> dict[str, float]:
    """Put transactions in order: run after run, and within a run as the worker counted them."""
    times_ms = {a.attempt: a.begun_at_ms for a in view.history.attempts}
    for row in every_output(view.history.outputs):
        name = row.headers.get("fs_attempt", "")
        times_ms[name] = min(times_ms.get(name, row.timestamp_ms), row.timestamp_ms)
    begun_ms: dict[str, int] = {}
    for name, time_ms in times_ms.items():
        run = name.rpartition("/")[0]
        begun_ms[run] = min(begun_ms.get(run, time_ms), time_ms)

    def order(name: str) -> tuple[int, str, int]:
        run, _, number = name.rpartition("/")
        return begun_ms[run], run, int(number) if number.isdigit() else 0

    return {name: float(rank) for rank, name in enumerate(sorted(times_ms, key=order))}


def _by_partition(places: Iterable[Position]) -> list[tuple[Partition, list[Position]]]:
    found: dict[Partition, list[Position]] = {}
    for place in places:
        found.setdefault(place[:2], []).append(place)
    return list(found.items())
