"""One entity's series in memory: what a key of Valkey holds, as plain lists.

    times_ms    t0   t1   t2   t3      in order; equal times as they arrived
    sums[c]     s0   s1   s2   s3      cumulative, up to and including the record
                    └─────────┘        a window is two positions: count and sums are differences

Names and order follow ``profile.lua``, so that the two can be read side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.profile_backend import Entry, SeriesContent, SeriesRun
from fraudstream.profile import (
    NO_ATTRIBUTE,
    SCAN_NOTHING,
    SCAN_RECORDS_MAX,
    SCAN_UNKNOWN,
    Mark,
    Recording,
    Scan,
    Series,
    Window,
)

_NO_POSITION = b"\0" * 8
_LATE_SCAN_MAX = 512


@dataclass(slots=True)
class MemorySeries:
    """One entity's records, in order of event time; equal times in order of arrival.

    ``sums[c][i]`` is the cumulative sum of column c up to and including record i, and
    ``attributes[a][i]`` the hash of attribute a of record i.
    """

    definition: Series
    trimmed_to_ms: int = 0
    base_count: int = 0
    base_sums: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    positions: list[bytes] = field(default_factory=list)
    versions_ms: list[int] = field(default_factory=list)
    sums: list[list[int]] = field(default_factory=list)
    attributes: list[list[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Give every column its base sum and its list."""
        self.base_sums = self.base_sums or [0] * len(self.definition.measures)
        self.sums = [[] for _ in self.definition.measures]
        self.attributes = [[] for _ in self.definition.attributes]

    # -------------------------------------------------------------- recording

    def record(self, entry: Entry, horizon_ms: int) -> tuple[Recording, Mark, int | None]:
        """Insert a record at its place unless it is there; say what came of it and where it is."""
        times, time_ms = self.times_ms, entry.event_time_ms
        place = bisect_right(times, time_ms)
        index = self._find(time_ms, entry.id_hash, place)
        if index is not None:
            if self.definition.is_versioned:
                return self._renew_label(entry, index), Mark.NONE, None
            outcome, mark = self._meet_again(entry, index)
            return outcome, mark, index
        floor_ms = self.trimmed_to_ms
        if times:
            floor_ms = max(floor_ms, times[-1] - horizon_ms)
        if time_ms <= floor_ms:
            self.trimmed_to_ms = max(self.trimmed_to_ms, time_ms)
            return Recording.TOO_LATE, Mark.NONE, None
        self._insert(entry, place)
        return Recording.RECORDED, Mark.LATE if place < len(times) - 1 else Mark.NONE, place

    def came_late(self, entry: Entry, index: int) -> bool:
        """Say whether a later event of the same partition came before this one."""
        partition = entry.position[:3]
        later = self.positions[index + 1 : index + 1 + _LATE_SCAN_MAX]
        return any(p[:3] == partition and p < entry.position for p in later)

    def merge(self, run: SeriesRun) -> None:
        """Put in what is not there, as recording each would have; refuse and trim nothing else."""
        known = set(zip(self.times_ms, self.hashes, strict=True))
        fresh: list[int] = []
        met: list[int] = []
        hashes = _octets(run.hashes)
        for index, identity in enumerate(zip(run.times_ms.tolist(), hashes, strict=True)):
            if identity[0] > self.trimmed_to_ms:
                (met if identity in known else fresh).append(index)
                known.add(identity)
        self._take_in(_pick(run, fresh))
        for entry in _entries(_pick(run, met)):
            place = bisect_right(self.times_ms, entry.event_time_ms)
            found = self._find(entry.event_time_ms, entry.id_hash, place)
            if found is not None and self.definition.is_versioned:
                self._renew_label(entry, found)
            elif found is not None:
                self._meet_again(entry, found)

    def _find(self, time_ms: int, id_hash: bytes, place: int) -> int | None:
        index = place - 1
        while index >= 0 and self.times_ms[index] == time_ms:
            if self.hashes[index] == id_hash:
                return index
            index -= 1
        return None

    def _meet_again(self, entry: Entry, index: int) -> tuple[Recording, Mark]:
        attributes = tuple(column[index] for column in self.attributes)
        is_same = self._values(index) == entry.values and attributes == entry.attributes
        mark = Mark.NONE if is_same else Mark.CONFLICT
        position = self.positions[index]
        if entry.position in (position, _NO_POSITION):
            return Recording.RETRY, mark
        if position == _NO_POSITION:
            self.positions[index] = entry.position
            return Recording.RECORDED, mark
        return Recording.DUPLICATE, mark

    def _renew_label(self, entry: Entry, index: int) -> Recording:
        """Take the newer finding; at equal times genuine (0) wins over fraud (1)."""
        version_ms = self.versions_ms[index]
        (value,) = self._values(index)
        (new_value,) = entry.values
        if entry.version_ms < version_ms or (entry.version_ms == version_ms and new_value >= value):
            is_same = (entry.version_ms, new_value) == (version_ms, value)
            return Recording.RETRY if is_same else Recording.SUPERSEDED
        self.versions_ms[index] = entry.version_ms
        self._shift(index, (new_value - value,))
        return Recording.RECORDED

    def _insert(self, entry: Entry, place: int) -> None:
        if place < len(self.times_ms):
            self._shift(place, entry.values)
        self.times_ms.insert(place, entry.event_time_ms)
        self.hashes.insert(place, entry.id_hash)
        self.positions.insert(place, entry.position)
        self.versions_ms.insert(place, entry.version_ms)
        for attributes, attribute in zip(self.attributes, entry.attributes, strict=True):
            attributes.insert(place, attribute)
        for column, value in enumerate(entry.values):
            sums = self.sums[column]
            before = sums[place - 1] if place else self.base_sums[column]
            sums.insert(place, before + value)

    def _shift(self, first: int, deltas: Sequence[int]) -> None:
        for sums, delta in zip(self.sums, deltas, strict=True):
            sums[first:] = [value + delta for value in sums[first:]]

    # -------------------------------------------------------------- reading

    def read(self, time_ms: int, own: int | None, known_from_ms: int) -> list[int]:
        """Give every window's count and sums, then every scan.

        Parameters
        ----------
        time_ms
            When it is read.
        own
            The place of the present event; None: it has none, and all up to its time count.
        known_from_ms
            Windows that reach back before this time are unknown.
        """
        known_from_ms = max(known_from_ms, self.trimmed_to_ms)
        upto = bisect_right(self.times_ms, time_ms) if own is None else own + 1
        row: list[int] = []
        for window in self.definition.windows:
            if time_ms - window.lag_ms - window.length_ms < known_from_ms:
                row += (-1, *[0] * len(self.sums))
                continue
            lower, upper = self._span(window, time_ms, own, upto)
            row.append(upper - lower)
            for sums, base in zip(self.sums, self.base_sums, strict=True):
                before = sums[lower - 1] if lower else base
                row.append(sums[upper - 1] - before if upper > lower else 0)
        for scan in self.definition.scans:
            is_known = time_ms - scan.window.reach_ms >= known_from_ms
            if scan.kind == "last":
                row.append(self._last(scan.window, time_ms, upto if own is None else own, is_known))
            elif is_known:
                lower, upper = self._span(scan.window, time_ms, own, upto)
                row.append(self._look(scan, max(lower, upper - SCAN_RECORDS_MAX), upper))
            else:
                row.append(SCAN_UNKNOWN)
        return row

    def _span(self, window: Window, time_ms: int, own: int | None, upto: int) -> tuple[int, int]:
        """Give the positions [lower, upper) of a window's records."""
        last_ms = time_ms - window.lag_ms
        upper = upto
        if window.lag_ms:
            upper = bisect_right(self.times_ms, last_ms, 0, upto)
        elif own is not None and not window.counts_present:
            upper = own
        return bisect_right(self.times_ms, last_ms - window.length_ms, 0, upper), upper

    def _last(self, window: Window, time_ms: int, before: int, is_known: bool) -> int:
        lower, upper = self._span(window, time_ms, None, before)
        if upper > lower:
            return time_ms - self.times_ms[upper - 1]
        return SCAN_NOTHING if is_known else SCAN_UNKNOWN

    def _look(self, scan: Scan, lower: int, upper: int) -> int:
        if scan.kind == "distinct":
            column = self.attributes[self.definition.attributes.index(scan.attribute)]
            return len(set(column[lower:upper]) - {NO_ATTRIBUTE})
        amounts, known = (
            self._column_values(self.definition.measures.index(measure), lower, upper)
            for measure in ("amount_minor", "amount_known")
        )
        ranked = sorted(a for a, is_known in zip(amounts, known, strict=True) if is_known)
        rank = max(1, -(-len(ranked) * scan.per_mille // 1000))
        return ranked[rank - 1] if ranked else SCAN_NOTHING

    def _values(self, index: int) -> tuple[int, ...]:
        columns = range(len(self.sums))
        return tuple(self._column_values(column, index, index + 1)[0] for column in columns)

    def _column_values(self, column: int, lower: int, upper: int) -> list[int]:
        """Give a column's own values of the records [lower, upper), which are differences."""
        sums = self.sums[column]
        before = sums[lower - 1] if lower else self.base_sums[column]
        return [b - a for a, b in pairwise((before, *sums[lower:upper]))]

    # -------------------------------------------------------------- what is kept

    def trim(self, floor_ms: int) -> None:
        """Drop what lies at or before a time, once a quarter of the series is of that kind."""
        times = self.times_ms
        if len(times) >= 4 and times[len(times) // 4] <= floor_ms:
            self.base_count += self._drop(bisect_right(times, floor_ms))
            self.trimmed_to_ms = max(self.trimmed_to_ms, floor_ms)

    def forget(self, until_ms: int) -> int:
        """Drop what lies at or before a time, and its traces in the header; say how much it was."""
        dropped = self._drop(bisect_right(self.times_ms, until_ms))
        self._shift(0, [-base for base in self.base_sums])
        self.base_count, self.base_sums = 0, [0] * len(self.sums)
        self.trimmed_to_ms = max(self.trimmed_to_ms, until_ms)
        return dropped

    def content(self, number: int, entity: str) -> SeriesContent:
        """Give all that is kept, as series ``number`` of an entity."""
        count = len(self.times_ms)
        values = [self._column_values(column, 0, count) for column in range(len(self.sums))]
        attributes = [_numbers(column) for column in self.attributes]
        run = SeriesRun(
            number,
            entity,
            np.array(self.times_ms, dtype=np.int64),
            _numbers(self.hashes),
            _numbers(self.positions),
            np.array(self.versions_ms, dtype=np.int64),
            np.array(values, dtype=np.int64).reshape(len(values), count).T,
            np.array(attributes, dtype=">u8").reshape(len(attributes), count).T,
        )
        return SeriesContent(run, self.trimmed_to_ms, self.base_count, tuple(self.base_sums))

    @classmethod
    def of(cls, definition: Series, content: SeriesContent) -> MemorySeries:
        """Make a series of all that was kept of it."""
        series = cls(definition, content.trimmed_to_ms, content.base_count, list(content.base_sums))
        series._take_in(content.run)
        return series

    def _drop(self, count: int) -> int:
        if count:
            self.base_sums = [sums[count - 1] for sums in self.sums]
        for column in self._columns():
            del column[:count]
        for sums in self.sums:
            del sums[:count]
        return count

    def _take_in(self, run: SeriesRun) -> None:
        """Put in records that are not there, each behind what it is equal to in time."""
        values = [self._column_values(c, 0, len(sums)) for c, sums in enumerate(self.sums)]
        self.times_ms += run.times_ms.tolist()
        self.hashes += _octets(run.hashes)
        self.positions += _octets(run.positions)
        self.versions_ms += run.versions_ms.tolist()
        for column, added in zip(values, run.values.T, strict=True):
            column += added.tolist()
        for attributes, hashes in zip(self.attributes, run.attributes.T, strict=True):
            attributes += _octets(hashes)
        order = sorted(range(len(self.times_ms)), key=self.times_ms.__getitem__)
        for column in (*self._columns(), *values):
            column[:] = [column[index] for index in order]
        self.sums = [
            list(accumulate(column, initial=base))[1:]
            for base, column in zip(self.base_sums, values, strict=True)
        ]

    def _columns(self) -> list[list[Any]]:
        """Give every list that has one item a record, but for the sums."""
        return [self.times_ms, self.hashes, self.positions, self.versions_ms, *self.attributes]


def _pick(run: SeriesRun, indices: Sequence[int]) -> SeriesRun:
    picked = np.array(indices, dtype=np.int64)
    return replace(
        run,
        times_ms=run.times_ms[picked],
        hashes=run.hashes[picked],
        positions=run.positions[picked],
        versions_ms=run.versions_ms[picked],
        values=run.values[picked],
        attributes=run.attributes[picked],
    )


def _entries(run: SeriesRun) -> Iterator[Entry]:
    """Give a run's records as recording would have met them."""
    hashes, positions = _octets(run.hashes), _octets(run.positions)
    versions_ms, values = run.versions_ms.tolist(), run.values.tolist()
    attributes = [_octets(row) for row in run.attributes]
    for index, time_ms in enumerate(run.times_ms.tolist()):
        yield Entry(
            run.series,
            run.entity,
            True,
            time_ms,
            hashes[index],
            positions[index],
            versions_ms[index],
            tuple(values[index]),
            tuple(attributes[index]),
        )


def _octets(numbers: NDArray[np.uint64]) -> list[bytes]:
    """Give big-endian numbers as the 8 bytes that they stand for."""
    data = numbers.astype(">u8").tobytes()
    return [data[at : at + 8] for at in range(0, len(data), 8)]


def _numbers(octets: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(octets), dtype=">u8")
