"""The in-memory twin of the Valkey function library: the same contract, in plain Python.

It serves training (features by the same code as online), the edge, and tests, where it must pass
the same contract suite as ``profile.lua``. Names and order follow that file, so that the two can
be read side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fraudstream.profile import (
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    InputPartition,
    Mark,
    ProfileDefinition,
    Recording,
    Series,
)

_NO_POSITION = b"\0" * 8
_LATE_SCAN_MAX = 512


@dataclass(slots=True)
class MemorySeries:
    """One entity's records, in order of event time; equal times in order of arrival.

    ``sums[c][i]`` is the cumulative sum of column c up to and including record i.
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

    def __post_init__(self) -> None:
        """Give every column its base sum and its list."""
        self.base_sums = [0] * len(self.definition.measures)
        self.sums = [[] for _ in self.definition.measures]

    def record(self, entry: Entry) -> tuple[Recording, Mark, int | None]:
        """Insert a record at its place unless it is there; say what came of it and where it is."""
        times = self.times_ms
        place = bisect_right(times, entry.event_time_ms)
        index = self._find(entry, place)
        if index is not None:
            if self.definition.is_versioned:
                return self._renew_label(entry, index), Mark.NONE, None
            outcome, mark = self._meet_again(entry, index)
            return outcome, mark, index
        floor_ms = self.trimmed_to_ms
        if times:
            floor_ms = max(floor_ms, times[-1] - self.definition.horizon_ms)
            if entry.event_time_ms <= floor_ms:
                self.trimmed_to_ms = max(self.trimmed_to_ms, entry.event_time_ms)
                return Recording.TOO_LATE, Mark.NONE, None
        self._insert(entry, place)
        return Recording.RECORDED, Mark.LATE if place < len(times) - 1 else Mark.NONE, place

    def came_late(self, entry: Entry, index: int) -> bool:
        """Say whether a later event of the same partition came before this one."""
        partition = entry.position[:3]
        later = self.positions[index + 1 : index + 1 + _LATE_SCAN_MAX]
        return any(p[:3] == partition and p < entry.position for p in later)

    def read(self, time_ms: int, upto: int, known_from_ms: float) -> list[int]:
        """Give count and sums of every window, as of the first ``upto`` records."""
        row: list[int] = []
        for window in self.definition.windows:
            last_ms = time_ms - window.lag_ms
            first_ms = last_ms - window.length_ms
            if first_ms < known_from_ms:
                row.append(-1)
                row.extend(0 for _ in self.sums)
                continue
            upper = bisect_right(self.times_ms, last_ms, 0, upto) if window.lag_ms else upto
            lower = bisect_right(self.times_ms, first_ms, 0, upper)
            row.append(upper - lower)
            row.extend(
                self._sum(column, upper - 1) - self._sum(column, lower - 1)
                for column in range(len(self.sums))
            )
        return row

    def trim(self, oldest_ms: int) -> None:
        """Drop what no window can reach, once a quarter of the series is of that kind.

        What an event of time ``oldest_ms`` looks back on is kept.
        """
        times = self.times_ms
        floor_ms = min(times[-1], oldest_ms) - self.definition.horizon_ms
        if len(times) < 4 or times[len(times) // 4] > floor_ms:
            return
        dropped = bisect_right(times, floor_ms)
        self.base_sums = [self._sum(column, dropped - 1) for column in range(len(self.sums))]
        self.base_count += dropped
        self.trimmed_to_ms = max(self.trimmed_to_ms, floor_ms)
        for column in (times, self.hashes, self.positions, self.versions_ms, *self.sums):
            del column[:dropped]  # type: ignore[attr-defined]

    def _sum(self, column: int, index: int) -> int:
        return self.sums[column][index] if index >= 0 else self.base_sums[column]

    def _find(self, entry: Entry, place: int) -> int | None:
        index = place - 1
        while index >= 0 and self.times_ms[index] == entry.event_time_ms:
            if self.hashes[index] == entry.id_hash:
                return index
            index -= 1
        return None

    def _values(self, index: int) -> tuple[int, ...]:
        columns = range(len(self.sums))
        return tuple(self._sum(c, index) - self._sum(c, index - 1) for c in columns)

    def _meet_again(self, entry: Entry, index: int) -> tuple[Recording, Mark]:
        mark = Mark.NONE if self._values(index) == entry.values else Mark.CONFLICT
        position = self.positions[index]
        if entry.position in (position, _NO_POSITION):
            return Recording.RETRY, mark
        if position == _NO_POSITION:
            self.positions[index] = entry.position
            return Recording.RECORDED, mark
        return Recording.DUPLICATE, mark

    def _renew_label(self, entry: Entry, index: int) -> Recording:
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
        before = [self._sum(column, place - 1) for column in range(len(self.sums))]
        self._shift(place, entry.values)
        self.times_ms.insert(place, entry.event_time_ms)
        self.hashes.insert(place, entry.id_hash)
        self.positions.insert(place, entry.position)
        self.versions_ms.insert(place, entry.version_ms)
        for column, value in enumerate(entry.values):
            self.sums[column].insert(place, before[column] + value)

    def _shift(self, first: int, deltas: Sequence[int]) -> None:
        for column, delta in enumerate(deltas):
            sums = self.sums[column]
            for index in range(first, len(sums)):
                sums[index] += delta


@dataclass(slots=True)
class _Bucket:
    """What one bucket's watermarks and rebuilding hashes hold, and its series."""

    epoch: bytes = b""
    floor_ms: int = 0
    watermarks: dict[InputPartition, int] = field(default_factory=dict)
    rebuilding: dict[InputPartition, int] = field(default_factory=dict)
    series: dict[tuple[int, str], MemorySeries] = field(default_factory=dict)


class MemoryBackend:
    """A `fraudstream.profile.ProfileBackend` in this process.

    Parameters
    ----------
    definition
        The series to keep.
    buckets
        How many buckets entities are spread over.
    known_from_ms
        Windows that reach back before this time are unknown.
    """

    def __init__(
        self, definition: ProfileDefinition, buckets: int = 1, known_from_ms: int = 0
    ) -> None:
        self._definition = definition
        self._known_from_ms = known_from_ms
        self._buckets = [_Bucket() for _ in range(buckets)]

    def flush(self) -> None:
        """Forget everything, as a FLUSHALL does."""
        self._buckets = [_Bucket() for _ in self._buckets]

    def require_available(self) -> None:
        """Memory always is."""

    def states(self) -> list[BucketState]:
        """Read every bucket's epoch and watermarks."""
        return [BucketState(bucket.epoch, dict(bucket.watermarks)) for bucket in self._buckets]

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        """Say in every bucket that a partition is being rebuilt."""
        for bucket in self._buckets:
            bucket.rebuilding[partition] = target

    def raise_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that nothing before this time is known any more."""
        for bucket in self._buckets:
            bucket.floor_ms = max(bucket.floor_ms, known_from_ms)

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        """Carry out the requests, each atomically."""
        return [self._apply(self._buckets[request.bucket], request) for request in requests]

    def all_series(self) -> dict[tuple[str, str], MemorySeries]:
        """Give every series by (series name, entity), for tests and for inspection."""
        return {
            (self._definition.series[number].name, entity): series
            for bucket in self._buckets
            for (number, entity), series in bucket.series.items()
        }

    def _apply(self, bucket: _Bucket, request: BucketRequest) -> BucketReply:
        is_applied = request.epoch in (b"", bucket.epoch or request.candidate_epoch)
        for partition, stretch in request.stretches.items():
            stored = bucket.watermarks.get(partition)
            if stored is None:
                is_applied = is_applied and request.is_initial
            elif stored < stretch.start:
                is_applied = False
        if not is_applied:
            return self._reply(bucket, is_applied=False)
        bucket.epoch = bucket.epoch or request.candidate_epoch
        known_from_ms = max(bucket.floor_ms, self._known_from_ms)
        rows: dict[int, list[list[int]]] = {}
        for entry in request.entries:
            row = self._process(bucket, entry, known_from_ms, request)
            rows.setdefault(entry.series, []).append(row)
        for partition, stretch in request.stretches.items():
            reached = max(bucket.watermarks.get(partition, -1), stretch.end)
            bucket.watermarks[partition] = reached
            if reached >= bucket.rebuilding.get(partition, reached + 1):
                del bucket.rebuilding[partition]
        arrays: dict[int, NDArray[np.int64]] = {
            number: np.array(series_rows, dtype=np.int64) for number, series_rows in rows.items()
        }
        return self._reply(bucket, is_applied=True, rows=arrays)

    def _reply(
        self,
        bucket: _Bucket,
        *,
        is_applied: bool,
        rows: dict[int, NDArray[np.int64]] | None = None,
    ) -> BucketReply:
        return BucketReply(
            is_applied=is_applied,
            epoch=bucket.epoch,
            partitions_known=len(bucket.watermarks),
            partitions_rebuilding=len(bucket.rebuilding),
            rows=rows or {},
        )

    def _process(
        self, bucket: _Bucket, entry: Entry, known_from_ms: float, request: BucketRequest
    ) -> list[int]:
        key = (entry.series, entry.entity)
        series = bucket.series.get(key)
        if series is None:
            series = MemorySeries(self._definition.series[entry.series])
            if entry.is_recorded:  # a mere look must not leave an empty series behind
                bucket.series[key] = series
        outcome, mark, index = Recording.READ_ONLY, Mark.NONE, None
        if entry.is_recorded:
            outcome, mark, index = series.record(entry)
        row = [int(outcome), int(mark)]
        if not request.is_record_only:
            if index is not None and outcome is not Recording.RECORDED:
                row[1] |= Mark.LATE if series.came_late(entry, index) else Mark.NONE
            known_from_ms = max(known_from_ms, series.trimmed_to_ms)
            if outcome is Recording.TOO_LATE:
                known_from_ms = float("inf")
            upto = (
                bisect_right(series.times_ms, entry.event_time_ms) if index is None else index + 1
            )
            row += series.read(entry.event_time_ms, upto, known_from_ms)
        if outcome is Recording.RECORDED:
            series.trim(request.oldest_ms)
        return row
