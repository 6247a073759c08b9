"""What a reader of the topics has seen so far: the figures behind the panel.

Fed by the observer's thread, read by the main one; every method takes the lock.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from fraudstream.demo.count import Position, body, source
from fraudstream.demo.plan import INPUTS, OUTPUTS
from fraudstream.event import Record

#: Rates and percentiles on the panel are of so long ago at most.
RECENT_S: Final = 5.0
_RATE_S: Final = 2.0
_ALERTS_MAX: Final = 3


class Answer(NamedTuple):
    """One decision as it reached its reader."""

    #: Kafka's time stamp of the payment, epoch seconds.
    asked_at_s: float
    #: When its decision was readable, epoch seconds.
    arrived_at_s: float
    is_degraded: bool

    @property
    def latency_ms(self) -> float:
        """From one to the other; a millisecond is what Kafka's time stamps resolve."""
        return max(self.arrived_at_s - self.asked_at_s, 0.0) * 1_000


@dataclass(frozen=True, slots=True)
class Figures:
    """What the panel shows.

    Attributes
    ----------
    asked, answered
        Payments and bad records in Kafka, and those with an answer.
    rate_per_s
        Decisions, lately.
    latency_ms
        p50 and p99 of the last seconds; None if there were no decisions.
    """

    asked: int
    answered: int
    rate_per_s: float
    latency_ms: tuple[float, float] | None
    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    degraded: int
    alerts: int
    latest_alerts: tuple[Mapping[str, Any], ...]

    @property
    def lag(self) -> int:
        """How many are waiting."""
        return max(self.asked - self.answered, 0)


@dataclass(slots=True)
class Recovery:
    """The wait for the partitions of a worker that was killed.

    Attributes
    ----------
    killed_at_s
        Epoch seconds.
    waiting
        Its partitions in which no payment that came after the kill was decided yet.
    seconds
        How long that took in the slowest of them; None until then.
    """

    killed_at_s: float
    partitions: frozenset[int]
    waiting: set[int] = field(default_factory=set)
    seconds: float | None = None


class Live:
    """The books of the observer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at_s: dict[Position, float] = {}
        self._early: dict[Position, tuple[float, bool]] = {}
        self._answers: list[Answer] = []
        self._owners: dict[int, int] = {}
        self._recoveries: list[Recovery] = []
        self._asked = 0
        self._answered: set[Position] = set()
        self._outcomes: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()
        self._degraded = 0
        self._last_degraded_at_s = 0.0
        self._alerts = 0
        self._latest_alerts: deque[Mapping[str, Any]] = deque(maxlen=_ALERTS_MAX)

    def note(self, records: Iterable[Record], arrived_at_s: float) -> None:
        """Write down what the reader was just given."""
        handlers = {
            INPUTS.transactions: self._note_payment,
            OUTPUTS.decisions: self._note_decision,
            OUTPUTS.alerts: self._note_alert,
            OUTPUTS.dead_letters: self._note_dead_letter,
        }
        with self._lock:
            for record in records:
                handlers[record.topic](record, arrived_at_s)

    def figures(self, now_s: float) -> Figures:
        """Sum up for the panel."""
        with self._lock:
            recent = self._since(now_s - RECENT_S)
            latencies = [answer.latency_ms for answer in recent]
            rate = sum(answer.arrived_at_s > now_s - _RATE_S for answer in recent) / _RATE_S
            return Figures(
                asked=self._asked,
                answered=len(self._answered),
                rate_per_s=rate,
                latency_ms=percentiles_ms(latencies),
                outcomes=dict(self._outcomes),
                dead_letters=dict(self._dead_letters),
                degraded=self._degraded,
                alerts=self._alerts,
                latest_alerts=tuple(self._latest_alerts),
            )

    def answers(self) -> list[Answer]:
        """Give all decisions in the order in which they arrived."""
        with self._lock:
            return list(self._answers)

    def answered(self) -> int:
        """Count the events of both input topics that have an answer."""
        with self._lock:
            return len(self._answered)

    def dead_letters(self) -> int:
        """Count the dead letters."""
        with self._lock:
            return self._dead_letters.total()

    def last_degraded_at_s(self) -> float:
        """Say when the last decision without profiles arrived, epoch seconds; 0 for never."""
        with self._lock:
            return self._last_degraded_at_s

    def expect_recovery(self, slot: int, killed_at_s: float) -> Recovery:
        """Watch the partitions that a worker decided last, from its death on."""
        with self._lock:
            owned = frozenset(p for p, owner in self._owners.items() if owner == slot)
            # A worker that has decided nothing yet may have had any of them.
            partitions = owned or frozenset(self._owners)
            recovery = Recovery(killed_at_s, partitions, set(partitions))
            self._recoveries.append(recovery)
            return recovery

    def _note_payment(self, record: Record, _: float) -> None:
        position = Position(*record[:3])
        asked_at_s = record.timestamp_ms / 1_000
        self._asked += 1
        early = self._early.pop(position, None)
        if early is not None:
            self._note_answer(position, Answer(asked_at_s, *early))
        elif position not in self._answered:
            self._asked_at_s[position] = asked_at_s

    def _note_decision(self, record: Record, arrived_at_s: float) -> None:
        position = source(record)
        decision = body(record)
        is_degraded = "degraded" in decision["flags"]
        self._outcomes[decision["outcome"]] += 1
        if is_degraded:
            self._degraded += 1
            self._last_degraded_at_s = arrived_at_s
        self._owners[position.partition] = _slot(record)
        self._answered.add(position)
        # Partitions are read side by side: a decision may come before its payment.
        asked_at_s = self._asked_at_s.pop(position, None)
        if asked_at_s is None:
            self._early[position] = (arrived_at_s, is_degraded)
        else:
            self._note_answer(position, Answer(asked_at_s, arrived_at_s, is_degraded))

    def _note_answer(self, position: Position, answer: Answer) -> None:
        self._answers.append(answer)
        for recovery in self._recoveries:
            if position.partition in recovery.waiting and answer.asked_at_s > recovery.killed_at_s:
                recovery.waiting.discard(position.partition)
                if not recovery.waiting:
                    recovery.seconds = answer.arrived_at_s - recovery.killed_at_s

    def _note_alert(self, record: Record, _: float) -> None:
        self._alerts += 1
        self._latest_alerts.append(body(record))

    def _note_dead_letter(self, record: Record, _: float) -> None:
        position = source(record)
        self._answered.add(position)
        self._asked_at_s.pop(position, None)
        if position.topic == INPUTS.labels:
            self._asked += 1  # a label counts as an event once it turns out to be bad
        self._dead_letters[(dict(record.headers).get("fs_reason") or b"").decode()] += 1

    def _since(self, start_s: float) -> list[Answer]:
        recent = []
        for answer in reversed(self._answers):
            if answer.arrived_at_s <= start_s:
                break
            recent.append(answer)
        return recent


def percentiles_ms(latencies_ms: list[float]) -> tuple[float, float] | None:
    """Give p50 and p99, None of nothing.

    Examples
    --------
    >>> percentiles_ms([1.0, 2.0, 3.0])
    (2.0, 2.98)
    """
    if not latencies_ms:
        return None
    median, high = np.percentile(latencies_ms, [50, 99]).tolist()
    return round(median, 3), round(high, 3)


def _slot(record: Record) -> int:
    """Read which worker answered: ``<group>-<slot>-<i>/<run>/<transaction>``."""
    attempt = dict(record.headers).get("fs_attempt") or b""
    slot = attempt.decode().partition("/")[0].split("-")[-2:-1]
    return int(slot[0]) if slot and slot[0].isdigit() else -1
