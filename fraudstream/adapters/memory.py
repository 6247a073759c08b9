"""The in-memory twin of the Valkey function library: the same contract, in plain Python.

    MemoryBackend ── _Bucket ─┬─ epoch, floor, watermarks, rebuilding marks
                              └─ MemorySeries      one for each series of each entity

It serves training (features by the same code as online), the edge, and tests, where it must pass
the same contract suite as ``profile.lua``. At the edge a snapshot keeps it over a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.memory_series import MemorySeries
from fraudstream.adapters.memory_snapshot import BucketContent, pack_snapshot, unpack_snapshot
from fraudstream.adapters.profile_backend import (
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    SeriesContent,
    SeriesRun,
    bucket_of,
    unknown_answers,
)
from fraudstream.profile import InputPartition, Mark, ProfileDefinition, Recording


@dataclass(slots=True)
class _Bucket:
    """What one bucket's watermarks and rebuilding hashes hold, and its series."""

    epoch: bytes = b""
    floor_ms: int = 0
    watermarks: dict[InputPartition, int] = field(default_factory=dict)
    rebuilding: dict[InputPartition, int] = field(default_factory=dict)
    series: dict[tuple[int, str], MemorySeries] = field(default_factory=dict)

    def content(self) -> BucketContent:
        """Give all that it holds."""
        contents = [series.content(*key) for key, series in self.series.items()]
        return BucketContent(self.epoch, self.floor_ms, self.watermarks, self.rebuilding, contents)

    def take_in(self, definition: ProfileDefinition, content: BucketContent) -> None:
        """Hold what another one held."""
        self.epoch, self.floor_ms = content.epoch, content.floor_ms
        self.watermarks, self.rebuilding = dict(content.watermarks), dict(content.rebuilding)
        for found in content.series:
            number, entity = found.run.series, found.run.entity
            self.series[number, entity] = MemorySeries.of(definition.series[number], found)


class MemoryBackend:
    """A `ProfileBackend` in this process.

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
        # Asked for at every entry, and not free to compute.
        self._horizons_ms = [series.horizon_ms for series in definition.series]
        self._unknown = [unknown_answers(series) for series in definition.series]

    @classmethod
    def restore(cls, definition: ProfileDefinition, data: bytes) -> MemoryBackend:
        """Make a backend that goes on where a snapshot was taken.

        Raises
        ------
        StoreUnfitError
            The bytes are no snapshot, of another release or of other definitions, or damaged.
        """
        known_from_ms, buckets = unpack_snapshot(definition, data)
        backend = cls(definition, len(buckets), known_from_ms)
        for bucket, content in zip(backend._buckets, buckets, strict=True):
            bucket.take_in(definition, content)
        return backend

    @property
    def definition(self) -> ProfileDefinition:
        """The series it keeps."""
        return self._definition

    def snapshot(self) -> bytes:
        """Write down all that is kept; the same profiles give the same bytes."""
        buckets = [bucket.content() for bucket in self._buckets]
        return pack_snapshot(self._definition, self._known_from_ms, buckets)

    def flush(self) -> None:
        """Forget everything, as a FLUSHALL does."""
        self._buckets = [_Bucket() for _ in self._buckets]

    def require_available(self) -> None:
        """Memory always is."""

    def generation(self) -> str:
        """Memory is not restarted: a restored snapshot is another backend."""
        return "memory"

    def states(self) -> list[BucketState]:
        """Read every bucket's epoch and watermarks."""
        return [BucketState(b.epoch, dict(b.watermarks), b.floor_ms) for b in self._buckets]

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        """Say in every bucket that a partition is being rebuilt."""
        for bucket in self._buckets:
            bucket.rebuilding[partition] = target

    def raise_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that nothing before this time is known any more."""
        for bucket in self._buckets:
            bucket.floor_ms = max(bucket.floor_ms, known_from_ms)

    def lower_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that what came from this time on is known again."""
        for bucket in self._buckets:
            bucket.floor_ms = min(bucket.floor_ms, known_from_ms)

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        """Carry out the requests, each atomically."""
        return [self._apply(self._buckets[request.bucket], request) for request in requests]

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        """Merge records into their series (see `ProfileBackend.merge`)."""
        for run in runs:
            if len(run):
                self._series(run.series, run.entity).merge(run)

    def forget(self, series: int, entity: str, until_ms: int) -> int:
        """Drop an entity's records up to a time, and refuse such records from then on."""
        return self._series(series, entity).forget(until_ms)

    def content(self, series: int, entity: str) -> SeriesContent | None:
        """Read all that is kept of one series; None if there is nothing."""
        found = self._bucket(entity).series.get((series, entity))
        return found.content(series, entity) if found else None

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
        self, bucket: _Bucket, entry: Entry, known_from_ms: int, request: BucketRequest
    ) -> list[int]:
        key = (entry.series, entry.entity)
        series = bucket.series.get(key)
        if series is None:
            series = MemorySeries(self._definition.series[entry.series])
            if entry.is_recorded:  # a mere look must not leave an empty series behind
                bucket.series[key] = series
        outcome, mark, index = Recording.READ_ONLY, Mark.NONE, None
        horizon_ms = self._horizons_ms[entry.series]
        if entry.is_recorded:
            outcome, mark, index = series.record(entry, horizon_ms)
        row = [int(outcome), int(mark)]
        if not request.is_record_only:
            if index is not None and outcome is not Recording.RECORDED:
                row[1] |= Mark.LATE if series.came_late(entry, index) else Mark.NONE
            if outcome is Recording.TOO_LATE:
                row += self._unknown[entry.series]
            else:
                row += series.read(entry.event_time_ms, index, known_from_ms)
        if outcome is Recording.RECORDED:
            series.trim(min(series.times_ms[-1], request.oldest_ms) - horizon_ms)
        return row

    def _bucket(self, entity: str) -> _Bucket:
        return self._buckets[bucket_of(entity, len(self._buckets))]

    def _series(self, number: int, entity: str) -> MemorySeries:
        """Give a series, which is there from now on."""
        new = MemorySeries(self._definition.series[number])
        return self._bucket(entity).series.setdefault((number, entity), new)
