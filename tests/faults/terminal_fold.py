"""What the features of a terminal must be, where one worker did all the work.

Its payments come from many partitions, so an exact answer needs to know what had come before what
(`arrivals`). Windows end days before the payment: nearly always all that they hold had come long
ago. Where that is not certain, the answer may lie between what had come for certain and what may
have.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np
from arrivals import Arrival, Arrivals, Reader
from harness import Position
from run_view import RunView

from fraudstream.event import Label, Transaction
from fraudstream.features import Feature
from fraudstream.profile import Window

#: Lowest and highest.
Bounds: TypeAlias = "tuple[int, int]"
TERMINAL_AGGREGATES = frozenset({"count", "rate"})


class Finding(NamedTuple):
    """What a label says of a payment; the newer one counts, of two as new the genuine one."""

    reported_at_ms: int
    is_fraud: bool
    arrival: Arrival

    @property
    def strength(self) -> tuple[int, bool]:
        """The greatest one counts."""
        return self.reported_at_ms, not self.is_fraud


class _Sums(NamedTuple):
    """How much stands before each place of a timeline, at least and at most, from ``first`` on."""

    times_ms: Sequence[int]
    first: int
    lowest: Sequence[int]
    highest: Sequence[int]

    def bounds(self, window: Window, now_ms: int) -> Bounds:
        """Give what may be in a window."""
        last_ms = now_ms - window.lag_ms
        start = bisect_right(self.times_ms, last_ms - window.length_ms) - self.first
        end = bisect_right(self.times_ms, last_ms) - self.first
        return self.lowest[end] - self.lowest[start], self.highest[end] - self.highest[start]


@dataclass(slots=True)
class _Timeline:
    """The payments, or the findings, of one terminal in order of event time."""

    times_ms: list[int] = field(default_factory=list)
    #: Of each, what a reader may make of it: the numbers that it may add.
    judges: list[Callable[[Reader], Bounds]] = field(default_factory=list)
    #: What stands before each place once everything is there for good; one longer than those.
    totals: list[int] = field(default_factory=lambda: [0])
    #: By how many there are: by which rank all of the first ones had come.
    settled: list[float] = field(default_factory=lambda: [-math.inf])

    def append(
        self, time_ms: int, total: int, settled: float, judge: Callable[[Reader], Bounds]
    ) -> None:
        """Add one, later than all before it."""
        self.times_ms.append(time_ms)
        self.judges.append(judge)
        self.totals.append(self.totals[-1] + total)
        self.settled.append(max(self.settled[-1], settled))

    def at(self, now_ms: int, reach: Window, reader: Reader) -> _Sums:
        """Give what a reader may have found: exactly, if all in its reach had come before."""
        end = bisect_right(self.times_ms, now_ms - reach.lag_ms)
        if self.settled[end] < reader.rank:
            return _Sums(self.times_ms, 0, self.totals, self.totals)
        first = bisect_right(self.times_ms, now_ms - reach.lag_ms - reach.length_ms, 0, end)
        found = [judge(reader) for judge in self.judges[first:end]]
        lowest = list(accumulate((low for low, _ in found), initial=0))
        highest = list(accumulate((high for _, high in found), initial=0))
        return _Sums(self.times_ms, first, lowest, highest)


_EMPTY = _Timeline()


class TerminalFold:
    """All terminals of a history.

    Parameters
    ----------
    view
        The history.
    features
        The terminal features.
    horizons_ms
        By kind of record (``transactions``, ``labels``), how far behind its newest one a terminal's
        are kept.
    """

    def __init__(
        self, view: RunView, features: Sequence[Feature], horizons_ms: dict[str, int]
    ) -> None:
        self._features = features
        windows = [feature.window for feature in features if feature.window is not None]
        lag_ms = min((window.lag_ms for window in windows), default=0)
        reach_ms = max((window.reach_ms for window in windows), default=0)
        #: All windows together.
        self._reach = Window(reach_ms - lag_ms, lag_ms)
        self._arrivals = Arrivals(view)
        payments = self._arrivals.of_transactions()
        self._payments = _payments(view, payments, horizons_ms["transactions"])
        self._labels = _labels(view, self._arrivals.of_labels(), horizons_ms["labels"])

    def exact(self, place: Position, event: Transaction) -> list[float] | None:
        """Give what each feature of a decided payment must be; None if that is not certain."""
        payments, labels = self._found(place, event)
        if payments.lowest is not payments.highest or labels.lowest is not labels.highest:
            return None
        values = []
        for feature, counts, frauds in self._read(payments, labels, event.event_time_ms):
            values.append(_value(feature, frauds[0], counts[0]))
        return values

    def wrong(
        self, place: Position, event: Transaction, logged: Sequence[np.float32]
    ) -> Iterator[tuple[Feature, np.float32, str]]:
        """Give the features of a decided payment that cannot be so, and what they may be."""
        payments, labels = self._found(place, event)
        read = self._read(payments, labels, event.event_time_ms)
        for (feature, counts, frauds), found in zip(read, logged, strict=True):
            if not _admits(feature, counts, frauds, found):
                lowest = np.float32(_value(feature, frauds[0], counts[1]))
                highest = np.float32(_value(feature, frauds[1], counts[0]))
                if feature.aggregate == "count":
                    lowest, highest = highest, lowest
                yield feature, found, f"{lowest} to {highest}"

    def _found(self, place: Position, event: Transaction) -> tuple[_Sums, _Sums]:
        reader, now_ms = self._arrivals.reader(place), event.event_time_ms
        payments = self._payments[event.terminal_id].at(now_ms, self._reach, reader)
        labels = self._labels.get(event.terminal_id, _EMPTY).at(now_ms, self._reach, reader)
        return payments, labels

    def _read(
        self, payments: _Sums, labels: _Sums, now_ms: int
    ) -> Iterator[tuple[Feature, Bounds, Bounds]]:
        """Give each feature with how many payments, and how many frauds, its window may hold."""
        counted: dict[Window, Bounds] = {}
        for feature in self._features:
            window = feature.window
            assert window is not None
            counts = counted.get(window)
            if counts is None:
                counts = counted[window] = payments.bounds(window, now_ms)
            is_rate = feature.aggregate == "rate"
            yield feature, counts, labels.bounds(window, now_ms) if is_rate else (0, 0)


def _payments(
    view: RunView, arrivals: dict[Position, Arrival], horizon_ms: int
) -> dict[str, _Timeline]:
    copies: dict[str, dict[tuple[int, str], list[Arrival]]] = defaultdict(lambda: defaultdict(list))
    newest_ms: dict[str, int] = {}
    for place, event in sorted(view.transactions, key=lambda found: arrivals[found[0]].settled):
        arrival, time_ms = arrivals[place], event.event_time_ms
        if time_ms <= newest_ms.get(event.terminal_id, time_ms) - horizon_ms:
            arrival = arrival._replace(settled=math.inf)  # refused, unless it came sooner
        newest_ms[event.terminal_id] = max(newest_ms.get(event.terminal_id, time_ms), time_ms)
        copies[event.terminal_id][time_ms, event.transaction_id].append(arrival)
    return {terminal: _payment_line(found) for terminal, found in copies.items()}


def _payment_line(found: dict[tuple[int, str], list[Arrival]]) -> _Timeline:
    line = _Timeline()
    for (time_ms, _), copies in sorted(found.items(), key=lambda item: item[0]):
        line.append(time_ms, 1, min(a.settled for a in copies), partial(_is_there, copies))
    return line


def _is_there(copies: Sequence[Arrival], reader: Reader) -> Bounds:
    if any(map(reader.has_met, copies)):
        return 1, 1
    return 0, int(any(map(reader.may_have_met, copies)))


def _labels(
    view: RunView, arrivals: dict[Position, Arrival], horizon_ms: int
) -> dict[str, _Timeline]:
    found: dict[str, dict[tuple[int, str], list[Finding]]] = defaultdict(lambda: defaultdict(list))
    newest_ms: dict[str, int] = {}
    for _, label in view.labels:
        newest = newest_ms.get(label.terminal_id, label.event_time_ms)
        newest_ms[label.terminal_id] = max(newest, label.event_time_ms)
    for place, label in view.labels:
        arrival = arrivals[place]
        if label.event_time_ms <= newest_ms[label.terminal_id] - horizon_ms:
            arrival = arrival._replace(earliest=-1, settled=math.inf)
        finding = Finding(label.reported_at_ms, label.is_fraud, arrival)
        found[label.terminal_id][_identity(label)].append(finding)
    return {terminal: _label_line(own) for terminal, own in found.items()}


def _label_line(found: dict[tuple[int, str], list[Finding]]) -> _Timeline:
    line = _Timeline()
    for (time_ms, _), findings in sorted(found.items(), key=lambda item: item[0]):
        strongest = max(findings, key=lambda finding: finding.strength)
        settled = max(finding.arrival.settled for finding in findings)
        line.append(time_ms, int(strongest.is_fraud), settled, partial(_fraud, findings))
    return line


def _fraud(findings: Sequence[Finding], reader: Reader) -> Bounds:
    """Say what may have been known of a payment: labels go before payments in a transaction."""
    certain = [f for f in findings if f.arrival.settled <= reader.rank]
    strongest = max(certain, key=lambda f: f.strength) if certain else None
    values = {int(strongest.is_fraud) if strongest else 0}
    for finding in findings:
        arrival = finding.arrival
        may_count = arrival.earliest <= reader.rank and arrival.appended_ms <= reader.until_ms
        if may_count and (strongest is None or finding.strength > strongest.strength):
            values.add(int(finding.is_fraud))
    return min(values), max(values)


def _identity(event: Label) -> tuple[int, str]:
    return event.event_time_ms, event.transaction_id


def _admits(feature: Feature, counts: Bounds, frauds: Bounds, found: np.float32) -> bool:
    """Say whether a value is one that some count, and some number of frauds, would give."""
    if feature.aggregate == "count":
        return any(_is_same(found, _value(feature, 0, n)) for n in _near(found, counts))
    return any(
        _is_same(found, _value(feature, fraud, count))
        for count in range(counts[0], counts[1] + 1)
        for fraud in (_near(found * count, frauds) if count else [0])
    )


def _near(found: np.float32, bounds: Bounds) -> list[int]:
    """Give the whole number that a value stands for, if it is within bounds."""
    if np.isnan(found):
        return []
    number = round(float(found))
    return [number] if bounds[0] <= number <= bounds[1] else []


def _is_same(found: np.float32, value: float) -> bool:
    return np.float32(value).tobytes() == found.tobytes()


def _value(feature: Feature, frauds: int, count: int) -> float:
    if feature.aggregate == "count":
        return float(count)
    if count:
        return frauds / count
    return math.nan if feature.when_empty is None else feature.when_empty


class Newest:
    """The time of each terminal's newest payment of those that were published by some moment.

    Parameters
    ----------
    view
        The history.
    """

    def __init__(self, view: RunView) -> None:
        self._moments: dict[str, list[int]] = defaultdict(list)
        self._newest_ms: dict[str, list[int]] = defaultdict(list)
        published = [(view.rows[place].timestamp_ms, event) for place, event in view.transactions]
        for moment_ms, event in sorted(published, key=lambda found: found[0]):
            newest_ms = self._newest_ms[event.terminal_id]
            newest_ms.append(max([event.event_time_ms, *newest_ms[-1:]]))
            self._moments[event.terminal_id].append(moment_ms)

    def of(self, terminal: str, until_ms: int) -> float:
        """Give the event time (ms) of the newest; minus infinity if there is none yet."""
        count = bisect_right(self._moments[terminal], until_ms)
        return self._newest_ms[terminal][count - 1] if count else -math.inf
