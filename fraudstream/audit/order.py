"""What had been recorded when a decision was made, as far as the log can tell.

    its own partition      offset below its own: before          exact
    other partitions       when was it decided?  ──┬─ surely before │ surely after
    labels                 when was it reported? ──┘     └─ within the tolerance: unknown

A label has no decision to tell when it was read. It is taken to have waited no longer than the
payment itself did: where payments wait in a backlog, labels may, and the interval grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic

from fraudstream.audit.decided import DecidedTimes
from fraudstream.audit.past import Arrival, EventT, Question
from fraudstream.event import Label, Transaction


class Order(Enum):
    """How an event stands to a decision."""

    BEFORE = auto()
    AFTER = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class LogOrder:
    """Tells what came before a decision.

    Parameters
    ----------
    times
        When payments were decided.
    tolerance_ms
        How far apart two time stamps must be to tell an order.
    """

    times: DecidedTimes
    tolerance_ms: int

    def of_payment(self, question: Question, arrival: Arrival[Transaction]) -> Order:
        """Say whether a payment was recorded before a decision was made."""
        decision, own = question
        if arrival.partition == own.partition:
            return Order.BEFORE if arrival.offset < own.offset else Order.AFTER
        first_ms, last_ms = self.times.when(arrival.partition, arrival.offset)
        if last_ms < decision.decided_ms - self.tolerance_ms:
            return Order.BEFORE
        if first_ms > decision.decided_ms + self.tolerance_ms:
            return Order.AFTER
        return Order.UNKNOWN

    def of_label(self, question: Question, arrival: Arrival[Label]) -> Order:
        """Say whether a finding was recorded before a decision was made."""
        decision, own = question
        waited_ms = max(decision.decided_ms - own.timestamp_ms, 0)
        if arrival.timestamp_ms < own.timestamp_ms - waited_ms - self.tolerance_ms:
            return Order.BEFORE
        if arrival.timestamp_ms > decision.decided_ms + self.tolerance_ms:
            return Order.AFTER
        return Order.UNKNOWN

    def place(self, arrival: Arrival[Transaction]) -> tuple[int, int, int]:
        """Give what payments are sorted by into the order in which they were recorded."""
        first_ms, _ = self.times.when(arrival.partition, arrival.offset)
        return first_ms, arrival.partition, arrival.offset


@dataclass(frozen=True, slots=True)
class Before(Generic[EventT]):
    """What came before a decision, for certain and perhaps.

    Attributes
    ----------
    certain
        What surely was recorded then.
    likely
        Of the rest what probably was, going by the time stamps of the records.
    doubtful
        All the rest.
    """

    certain: tuple[EventT, ...]
    likely: tuple[EventT, ...]
    doubtful: tuple[EventT, ...]


def sort_out(
    question: Question,
    arrivals: Sequence[Arrival[EventT]],
    order: Callable[[Question, Arrival[EventT]], Order],
) -> Before[EventT]:
    """Sort what was kept of a decision's entities by what it can have known of."""
    certain: list[EventT] = []
    likely: list[EventT] = []
    doubtful: list[EventT] = []
    for arrival in arrivals:
        found = order(question, arrival)
        if found is Order.BEFORE:
            certain.append(arrival.event)
        elif found is Order.UNKNOWN:
            doubtful.append(arrival.event)
            if arrival.timestamp_ms <= question.own.timestamp_ms:
                likely.append(arrival.event)
    return Before(tuple(certain), tuple(likely), tuple(doubtful))
