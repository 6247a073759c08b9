"""What profiles must answer, found by filtering a plain list: slow, and too short to be wrong.

A store may forget what lies further back than a series' horizon, when it likes. So windows that
stay within the horizon must be exact, and for the others "not known" will do as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudstream.profile import Entry, Mark, ProfileDefinition, Recording, Series

NO_POSITION = b"\0" * 8


@dataclass(slots=True)
class Remembered:
    """One record of a series."""

    time_ms: int
    arrival: int
    id_hash: bytes
    position: bytes
    version_ms: int
    values: tuple[int, ...]


class Expectation(NamedTuple):
    """What a row may say: any of the outcomes, these marks, and any of each window's answers."""

    outcomes: frozenset[Recording]
    marks: Mark
    windows: list[frozenset[tuple[int, ...]]]

    def admits(self, row: list[int]) -> bool:
        """Say whether a row of the store is right."""
        columns = len(next(iter(self.windows[0])))
        answers = [tuple(row[i : i + columns]) for i in range(2, len(row), columns)]
        if row[0] not in self.outcomes or len(answers) != len(self.windows):
            return False
        if row[0] == Recording.TOO_LATE:
            return row[1] == Mark.NONE and set(answers) == {_unknown(columns - 1)}
        return row[1] == self.marks and all(
            answer in allowed for answer, allowed in zip(answers, self.windows, strict=True)
        )


@dataclass(slots=True)
class SeriesOracle:
    """One series as a plain list, in order of arrival."""

    series: Series
    records: list[Remembered] = field(default_factory=list)
    #: The latest time of an event that was refused as too late.
    refused_ms: float = -math.inf

    def expect(self, entry: Entry) -> Expectation:
        """Record an entry, then say what the row of it must be."""
        newest_ms = max((r.time_ms for r in self.records), default=-math.inf)
        floor_ms = newest_ms - self.series.horizon_ms
        outcomes, marks, arrival = {Recording.READ_ONLY}, Mark.NONE, math.inf
        if entry.is_recorded:
            known = self._find(entry)
            if known is None:
                outcomes, marks = self._add(entry, newest_ms, floor_ms)
            else:
                outcomes, marks, arrival = self._meet_again(entry, known)
                if entry.event_time_ms <= floor_ms:
                    outcomes.add(Recording.TOO_LATE)
        windows = self._windows(entry.event_time_ms, arrival, floor_ms)
        return Expectation(frozenset(outcomes), marks, windows)

    def _find(self, entry: Entry) -> Remembered | None:
        wanted = (entry.event_time_ms, entry.id_hash)
        return next((r for r in self.records if (r.time_ms, r.id_hash) == wanted), None)

    def _add(self, entry: Entry, newest_ms: float, floor_ms: float) -> tuple[set[Recording], Mark]:
        time_ms = entry.event_time_ms
        if time_ms <= floor_ms:
            self.refused_ms = max(self.refused_ms, time_ms)
            return {Recording.TOO_LATE}, Mark.NONE
        place = (entry.id_hash, entry.position, entry.version_ms, entry.values)
        self.records.append(Remembered(time_ms, len(self.records), *place))
        return {Recording.RECORDED}, Mark.LATE if newest_ms > time_ms else Mark.NONE

    def _meet_again(self, entry: Entry, known: Remembered) -> tuple[set[Recording], Mark, float]:
        if self.series.is_versioned:
            return {self._renew(entry, known)}, Mark.NONE, math.inf
        marks = Mark.NONE if entry.values == known.values else Mark.CONFLICT
        if known.position == NO_POSITION != entry.position:
            known.position = entry.position
            return {Recording.RECORDED}, marks, known.arrival
        if any(self._came_first(entry, known, other) for other in self.records):
            marks |= Mark.LATE
        is_retry = entry.position in (known.position, NO_POSITION)
        return {Recording.RETRY if is_retry else Recording.DUPLICATE}, marks, known.arrival

    def _came_first(self, entry: Entry, known: Remembered, other: Remembered) -> bool:
        is_later = (other.time_ms, other.arrival) > (known.time_ms, known.arrival)
        is_of_our_partition = other.position[:3] == entry.position[:3]
        return is_later and is_of_our_partition and other.position < entry.position

    def _renew(self, entry: Entry, known: Remembered) -> Recording:
        """Take the newer finding; of two at the same time, genuine (0)."""
        ours, theirs = (-entry.version_ms, *entry.values), (-known.version_ms, *known.values)
        if ours < theirs:
            known.version_ms, known.values = entry.version_ms, entry.values
            return Recording.RECORDED
        return Recording.RETRY if ours == theirs else Recording.SUPERSEDED

    def _windows(
        self, time_ms: int, arrival: float, floor_ms: float
    ) -> list[frozenset[tuple[int, ...]]]:
        answers = []
        columns = len(self.series.measures)
        for window in self.series.windows:
            last_ms = time_ms - window.lag_ms
            first_ms = last_ms - window.length_ms
            inside = [
                r.values
                for r in self.records
                if first_ms < r.time_ms <= last_ms and (r.time_ms, r.arrival) <= (time_ms, arrival)
            ]
            allowed = {(len(inside), *(sum(v[c] for v in inside) for c in range(columns)))}
            if first_ms < self.refused_ms:
                allowed.clear()
            if first_ms < floor_ms:
                allowed.add(_unknown(columns))
            answers.append(frozenset(allowed))
        return answers


class Oracle:
    """All series of a definition."""

    def __init__(self, definition: ProfileDefinition) -> None:
        self._definition = definition
        self._series: dict[tuple[int, str], SeriesOracle] = {}

    def expect(self, entry: Entry) -> Expectation:
        """Record an entry, then say what the row of it must be."""
        new = SeriesOracle(self._definition.series[entry.series])
        return self._series.setdefault((entry.series, entry.entity), new).expect(entry)

    def records(
        self, series: int, entity: str, after_ms: int
    ) -> list[tuple[int, bytes, bytes, int, tuple[int, ...]]]:
        """List what a series holds after a time: time, hash, position, version, values."""
        found = [r for r in self._series[series, entity].records if r.time_ms > after_ms]
        found.sort(key=lambda r: (r.time_ms, r.arrival))
        return [(r.time_ms, r.id_hash, r.position, r.version_ms, r.values) for r in found]


def _unknown(columns: int) -> tuple[int, ...]:
    return (-1, *(0,) * columns)
