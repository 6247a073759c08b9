"""C12 and C13: how much was done and how long it took. Figures to report, none of them wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from harness import Partition
from history import History
from run_view import RunView, every_output


@dataclass(frozen=True)
class Figures:
    """What a run came to.

    Attributes
    ----------
    events, labels, decisions, alerts, dead_letters
        How many records. Events are transactions, good or bad.
    degraded, duplicates, late, too_late, incomplete
        How many decisions have the flag.
    committed, aborted, unknown, unfinished
        Transactions: as the journals say, or without any as the topics show. Unfinished: the worker
        died in it. Unknown ones are counted once more by what became of them, if that is known.
    aborted_records
        Output records that nobody may read.
    faults
        How many faults were injected.
    unchecked
        Decisions whose card features no oracle could work out: the card is in many partitions.
    latency_ms_p50, latency_ms_p99
        From the input's append to when a live reader saw the decision, outside fault windows.
    fault_latency_ms_p50, fault_latency_ms_p99
        The same inside them (recovery included). NaN where there is none.
    stalls_ms
        By input partition, the longest time in which a record waited and none was decided.
    """

    events: int
    labels: int
    decisions: int
    alerts: int
    dead_letters: int
    degraded: int
    duplicates: int
    late: int
    too_late: int
    incomplete: int
    committed: int
    aborted: int
    unknown: int
    unfinished: int
    aborted_records: int
    faults: int
    unchecked: int
    latency_ms_p50: float
    latency_ms_p99: float
    fault_latency_ms_p50: float
    fault_latency_ms_p99: float
    stalls_ms: dict[Partition, int] = field(default_factory=dict)

    @property
    def transactions(self) -> int:
        """Kafka transactions, whatever became of them."""
        return self.committed + self.aborted + self.unfinished

    @property
    def longest_stall_ms(self) -> int:
        """The longest stall of all partitions."""
        return max(self.stalls_ms.values(), default=0)


def figures_of(view: RunView) -> Figures:
    """Count and measure."""
    history = view.history
    flags = [flag for decision in view.decisions for flag in decision.flags]
    inside, outside = _latencies_ms(view)
    committed, aborted, unfinished = _transactions(view)
    visible = sum(1 for _ in every_output(history.outputs))
    return Figures(
        events=sum(place[0] == history.transactions_topic for place in view.rows),
        labels=sum(place[0] == history.labels_topic for place in view.rows),
        decisions=len(history.outputs["decisions"]),
        alerts=len(history.outputs["alerts"]),
        dead_letters=len(history.outputs["dead_letters"]),
        degraded=flags.count("degraded"),
        duplicates=flags.count("duplicate"),
        late=flags.count("late"),
        too_late=flags.count("too_late"),
        incomplete=flags.count("incomplete"),
        committed=committed,
        aborted=aborted,
        unknown=sum(attempt.state == "unknown" for attempt in history.attempts),
        unfinished=unfinished,
        aborted_records=sum(1 for _ in every_output(history.uncommitted)) - visible,
        faults=len(history.faults),
        unchecked=_unchecked(view),
        latency_ms_p50=_percentile(outside, 50),
        latency_ms_p99=_percentile(outside, 99),
        fault_latency_ms_p50=_percentile(inside, 50),
        fault_latency_ms_p99=_percentile(inside, 99),
        stalls_ms=_stalls_ms(view),
    )


def _transactions(view: RunView) -> tuple[int, int, int]:
    """Count transactions: committed, aborted, and unfinished or never found out about."""
    history = view.history
    visible = set(view.visible_attempts)
    if not history.attempts:
        names = {r.headers.get("fs_attempt", "") for r in every_output(history.uncommitted)}
        return len(visible), len(names - visible), 0
    states = [True if a.attempt in visible else a.is_committed for a in history.attempts]
    return states.count(True), states.count(False), states.count(None)


def _unchecked(view: RunView) -> int:
    partitions: dict[str, set[int]] = {}
    for place, event in view.transactions:
        partitions.setdefault(event.card_id, set()).add(place[1])
    scattered = {card for card, found in partitions.items() if len(found) > 1}
    return sum(decision.payload[2] in scattered for decision in view.decisions)


def _latencies_ms(view: RunView) -> tuple[list[int], list[int]]:
    """Give the latencies inside fault windows, and outside."""
    history = view.history
    windows = list(_windows(history))
    inside: list[int] = []
    outside: list[int] = []
    for place, seen_ms in history.seen_at_ms.items():
        row = view.rows.get(place)
        if row is not None:
            # What was waiting when the fault began waited for it.
            is_inside = any(row.timestamp_ms <= end and seen_ms >= start for start, end in windows)
            (inside if is_inside else outside).append(seen_ms - row.timestamp_ms)
    return inside, outside


def _windows(history: History) -> Iterator[tuple[int, int]]:
    for fault in history.faults:
        yield fault.start_ms, fault.end_ms + history.recovery_ms


def _stalls_ms(view: RunView) -> dict[Partition, int]:
    """Find how long a record waited at most while nothing of its partition was decided."""
    times: dict[Partition, list[tuple[int, int]]] = {}
    for place, seen_ms in view.history.seen_at_ms.items():
        row = view.rows.get(place)
        if row is not None:
            times.setdefault(place[:2], []).append((seen_ms, row.timestamp_ms))
    return {partition: _longest(sorted(found)) for partition, found in times.items()}


def _longest(times: Sequence[tuple[int, int]]) -> int:
    longest, before_ms = 0, 0
    for seen_ms, appended_ms in times:
        longest = max(longest, seen_ms - max(before_ms, appended_ms))
        before_ms = seen_ms
    return longest


def _percentile(latencies_ms: Sequence[int], percent: float) -> float:
    return float(np.percentile(latencies_ms, percent)) if latencies_ms else float("nan")
