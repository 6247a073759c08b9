"""What profiles must answer, found by filtering a plain list: slow, and too short to be wrong.

A store may forget what lies further back than a series' horizon, when it likes. So windows that
stay within the horizon must be exact, and for the others "not known" will do as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from places import KeptRecord

from fraudstream.adapters.profile_backend import Entry
from fraudstream.profile import (
    NO_ATTRIBUTE,
    SCAN_NOTHING,
    SCAN_RECORDS_MAX,
    Mark,
    ProfileDefinition,
    Recording,
    Scan,
    Series,
    Window,
)

NO_POSITION = b"\0" * 8
UNKNOWN = (-1,)


@dataclass(slots=True)
class Remembered:
    """One record of a series."""

    time_ms: int
    arrival: int
    id_hash: bytes
    position: bytes
    version_ms: int
    values: tuple[int, ...]
    attributes: tuple[bytes, ...]

    @property
    def place(self) -> tuple[int, int]:
        return self.time_ms, self.arrival


class Expectation(NamedTuple):
    """What a row may say: any of the outcomes, these marks, and any of each answer's values.

    An answer is a window's count and sums, or a scan's one number.
    """

    outcomes: frozenset[Recording]
    marks: Mark
    answers: list[frozenset[tuple[int, ...]]]

    def admits(self, row: list[int]) -> bool:
        """Say whether a row of the store is right."""
        found, at = [], 2
        for allowed in self.answers:
            size = len(next(iter(allowed)))
            found.append(tuple(row[at : at + size]))
            at += size
        if row[0] not in self.outcomes or len(row) != at:
            return False
        if row[0] == Recording.TOO_LATE:
            return row[1] == Mark.NONE and all(f == _unknown(len(f) - 1) for f in found)
        return row[1] == self.marks and all(
            answer in allowed for answer, allowed in zip(found, self.answers, strict=True)
        )


@dataclass(slots=True)
class SeriesOracle:
    """One series as a plain list, in order of arrival."""

    series: Series
    records: list[Remembered] = field(default_factory=list)
    #: What was refused as too late: a rebuild brings it back.
    refused: list[Remembered] = field(default_factory=list)
    #: Up to here something was refused or erased.
    unknown_to_ms: float = -math.inf
    erased_to_ms: float = -math.inf
    arrivals: int = 0

    def expect(self, entry: Entry) -> Expectation:
        """Record an entry, then say what the row of it must be."""
        newest_ms = max((r.time_ms for r in self.records), default=-math.inf)
        floor_ms = newest_ms - self.series.horizon_ms
        outcomes, marks, own = {Recording.READ_ONLY}, Mark.NONE, None
        if entry.is_recorded:
            own = _find(entry, self.records)
            if own is None:
                outcomes, marks, own = self._add(entry, newest_ms, floor_ms)
            else:
                outcomes, marks = self._meet_again(entry, own)
                if entry.event_time_ms <= floor_ms:
                    outcomes.add(Recording.TOO_LATE)
                if self.series.is_versioned:
                    own = None
        time_ms = entry.event_time_ms
        answers = [self._window(window, time_ms, own, floor_ms) for window in self.series.windows]
        answers += [self._scan(scan, time_ms, own, floor_ms) for scan in self.series.scans]
        return Expectation(frozenset(outcomes), marks, answers)

    def forget(self, until_ms: int) -> None:
        """Erase everything up to a time."""
        self.records = [r for r in self.records if r.time_ms > until_ms]
        self.refused = [r for r in self.refused if r.time_ms > until_ms]
        self.erased_to_ms = max(self.erased_to_ms, until_ms)
        self.unknown_to_ms = max(self.unknown_to_ms, until_ms)

    def rebuild(self) -> None:
        """Know again what was refused, as after a rebuild from a log that holds it too."""
        self.records += self.refused
        self.refused, self.unknown_to_ms = [], self.erased_to_ms

    def _add(
        self, entry: Entry, newest_ms: float, floor_ms: float
    ) -> tuple[set[Recording], Mark, Remembered | None]:
        time_ms = entry.event_time_ms
        content = (entry.id_hash, entry.position, entry.version_ms, entry.values, entry.attributes)
        new = Remembered(time_ms, self.arrivals, *content)
        self.arrivals += 1
        if time_ms <= max(floor_ms, self.unknown_to_ms):
            self.unknown_to_ms = max(self.unknown_to_ms, time_ms)
            if time_ms > self.erased_to_ms and not _find(entry, self.refused):
                self.refused.append(new)
            return {Recording.TOO_LATE}, Mark.NONE, None
        self.records.append(new)
        return {Recording.RECORDED}, Mark.LATE if newest_ms > time_ms else Mark.NONE, new

    def _meet_again(self, entry: Entry, known: Remembered) -> tuple[set[Recording], Mark]:
        if self.series.is_versioned:
            return {self._renew(entry, known)}, Mark.NONE
        is_same = (entry.values, entry.attributes) == (known.values, known.attributes)
        marks = Mark.NONE if is_same else Mark.CONFLICT
        if known.position == NO_POSITION != entry.position:
            known.position = entry.position
            return {Recording.RECORDED}, marks
        if any(_came_first(entry, known, other) for other in self.records):
            marks |= Mark.LATE
        is_retry = entry.position in (known.position, NO_POSITION)
        return {Recording.RETRY if is_retry else Recording.DUPLICATE}, marks

    def _renew(self, entry: Entry, known: Remembered) -> Recording:
        """Take the newer finding; of two at the same time, genuine (0)."""
        ours, theirs = (-entry.version_ms, *entry.values), (-known.version_ms, *known.values)
        if ours < theirs:
            known.version_ms, known.values = entry.version_ms, entry.values
            return Recording.RECORDED
        return Recording.RETRY if ours == theirs else Recording.SUPERSEDED

    def _inside(self, window: Window, time_ms: int, own: Remembered | None) -> list[Remembered]:
        """List a window's records, in order, without the present event's own."""
        last_ms = time_ms - window.lag_ms
        end = (time_ms, math.inf) if own is None else own.place
        return sorted(
            (
                r
                for r in self.records
                if last_ms - window.length_ms < r.time_ms <= last_ms
                and r.place <= end
                and r is not own
            ),
            key=lambda record: record.place,
        )

    def _counted(self, window: Window, time_ms: int, own: Remembered | None) -> list[Remembered]:
        is_inside = own is not None and window.lag_ms == 0 and window.counts_present
        return self._inside(window, time_ms, own) + ([own] if own and is_inside else [])

    def _window(
        self, window: Window, time_ms: int, own: Remembered | None, floor_ms: float
    ) -> frozenset[tuple[int, ...]]:
        counted = self._counted(window, time_ms, own)
        columns = range(len(self.series.measures))
        answer = (len(counted), *(sum(r.values[c] for r in counted) for c in columns))
        return self._or_unknown(answer, time_ms - window.reach_ms, floor_ms)

    def _scan(
        self, scan: Scan, time_ms: int, own: Remembered | None, floor_ms: float
    ) -> frozenset[tuple[int, ...]]:
        first_ms = time_ms - scan.window.reach_ms
        latest = self._counted(scan.window, time_ms, own)[-SCAN_RECORDS_MAX:]
        if scan.kind == "last":
            before = self._inside(scan.window, time_ms, own)
            if not before:
                return self._or_unknown((SCAN_NOTHING,), first_ms, floor_ms)
            answer = (time_ms - before[-1].time_ms,)
            return frozenset({answer} if before[-1].time_ms > floor_ms else {answer, UNKNOWN})
        if scan.kind == "distinct":
            column = self.series.attributes.index(scan.attribute)
            answer = (len({r.attributes[column] for r in latest} - {NO_ATTRIBUTE}),)
        else:
            amounts = sorted(r.values[0] for r in latest if r.values[1])
            rank = max(1, math.ceil(len(amounts) * scan.per_mille / 1000))
            answer = (amounts[rank - 1] if amounts else SCAN_NOTHING,)
        return self._or_unknown(answer, first_ms, floor_ms)

    def _or_unknown(
        self, answer: tuple[int, ...], first_ms: float, floor_ms: float
    ) -> frozenset[tuple[int, ...]]:
        unknown = _unknown(len(answer) - 1)
        if first_ms < self.unknown_to_ms:
            return frozenset({unknown})
        return frozenset({answer, unknown} if first_ms < floor_ms else {answer})


class Oracle:
    """All series of a definition."""

    def __init__(self, definition: ProfileDefinition) -> None:
        self._definition = definition
        self.series: dict[tuple[int, str], SeriesOracle] = {}

    def expect(self, entry: Entry) -> Expectation:
        """Record an entry, then say what the row of it must be."""
        return self.of(entry.series, entry.entity).expect(entry)

    def of(self, series: int, entity: str) -> SeriesOracle:
        """Give one series."""
        new = SeriesOracle(self._definition.series[series])
        return self.series.setdefault((series, entity), new)

    def records(self, series: int, entity: str, after_ms: float) -> list[KeptRecord]:
        """List what a series holds after a time."""
        found = [r for r in self.of(series, entity).records if r.time_ms > after_ms]
        found.sort(key=lambda record: record.place)
        return [
            KeptRecord(r.time_ms, r.id_hash, r.position, r.version_ms, r.values, r.attributes)
            for r in found
        ]


def _find(entry: Entry, records: list[Remembered]) -> Remembered | None:
    wanted = (entry.event_time_ms, entry.id_hash)
    return next((r for r in records if (r.time_ms, r.id_hash) == wanted), None)


def _came_first(entry: Entry, known: Remembered, other: Remembered) -> bool:
    is_of_our_partition = other.position[:3] == entry.position[:3]
    return other.place > known.place and is_of_our_partition and other.position < entry.position


def _unknown(columns: int) -> tuple[int, ...]:
    return (-1, *(0,) * columns)
