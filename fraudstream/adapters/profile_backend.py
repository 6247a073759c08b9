"""What a place must offer where profile series are kept. Valkey and memory do.

A call goes to one *bucket*: the series of its entities, and, of each input partition, the
*watermark* that says how far the log has been applied to it. A call is applied wholly or not at
all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fraudstream.profile import SCAN_UNKNOWN, InputPartition, Series, Stretch

#: The most series entries one call may carry: a call blocks the server for everybody.
CALL_ENTRIES_MAX = 128
#: Later than any event.
NO_TIME_MS = 2**53 - 1


class Entry(NamedTuple):
    """One event's part in one series: what to record, and at which time to read."""

    series: int
    entity: str
    is_recorded: bool
    event_time_ms: int
    id_hash: bytes
    position: bytes
    version_ms: int
    values: tuple[int, ...]
    #: One 8-byte hash (`id_hash`) for each attribute of the series; all zero where there is none.
    attributes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketRequest:
    """One call to one bucket: applied wholly or not at all.

    Attributes
    ----------
    bucket
        Which bucket's keys and watermarks.
    stretches
        By input partition: applied only if the stored watermark is at or above ``start``.
    entries
        At most `CALL_ENTRIES_MAX`, in order.
    is_initial
        Set the watermark of partitions that have none to their stretch's ``start`` first.
    is_record_only
        Read nothing: rows are outcome and marks alone. For repairs.
    oldest_ms
        Nothing is trimmed that an event of this time looks back on: the oldest of the batch, for
        after a crash the whole batch comes again and must read what it read.
    epoch
        The epoch this bucket is expected to have, ``b""`` when not known.
    candidate_epoch
        8 random bytes, kept as the epoch if the bucket has none.
    """

    bucket: int
    stretches: Mapping[InputPartition, Stretch]
    entries: Sequence[Entry]
    is_initial: bool = False
    is_record_only: bool = False
    oldest_ms: int = NO_TIME_MS
    epoch: bytes = b""
    candidate_epoch: bytes = b"\0" * 8


@dataclass(frozen=True, slots=True)
class BucketReply:
    """The answer to one `BucketRequest`.

    ``is_applied`` is False when a watermark was missing or too low, or the epoch another: then
    nothing was written and ``rows`` is empty. ``partitions_known`` counts the partitions that have
    a watermark, ``partitions_rebuilding`` those whose rebuild is not done. ``rows`` holds, for
    each series index, an int64 array of shape (entries of that series, 2 + windows × (1 +
    measures) + scans): outcome, marks, then for each window its count and sums, then the scans.
    """

    is_applied: bool
    epoch: bytes
    partitions_known: int
    partitions_rebuilding: int
    rows: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BucketState:
    """What a bucket remembers of the log: epoch (``b""``: none), watermarks, and the floor.

    Nothing before ``floor_ms`` is known; 0 where nothing was ever lost for good.
    """

    epoch: bytes
    watermarks: Mapping[InputPartition, int]
    floor_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRun:
    """n records of one series of one entity, in order of event time; equal times as they arrived.

    What a rebuild merges into a series, and what a look at a series gives back.

    Attributes
    ----------
    series, entity
        Whose they are: the series' number in the definition, and the entity's id.
    times_ms
        Shape (n,), int64.
    hashes, positions
        Shape (n,), ``S8``-like opaque bytes kept as big-endian uint64: hash of the transaction id,
        source position of the first writer (0: none).
    versions_ms
        Shape (n,), int64; zeros where the series has no versions.
    values
        Shape (n, measures), int64: each record's own values, not sums.
    attributes
        Shape (n, attributes), big-endian uint64.
    """

    series: int
    entity: str
    times_ms: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    versions_ms: NDArray[np.int64]
    values: NDArray[np.int64]
    attributes: NDArray[np.uint64]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.times_ms)


@dataclass(frozen=True, slots=True)
class SeriesContent:
    """All that is kept of one series: its records, and what was trimmed before them."""

    run: SeriesRun
    trimmed_to_ms: int
    base_count: int
    base_sums: tuple[int, ...]


class ProfileBackend(Protocol):
    """The few operations a store must offer; the rest is `adapters.profiles`' bookkeeping."""

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        """Carry out the requests in one round trip, each atomically."""
        ...

    def require_available(self) -> None:
        """Raise `StoreUnavailableError` if a call would not even be tried."""
        ...

    def states(self) -> list[BucketState]:
        """Read every bucket's epoch and watermarks."""
        ...

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        """Say in every bucket that a partition is being rebuilt until its watermark is there."""
        ...

    def raise_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that nothing before this time is known any more."""
        ...

    def lower_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that what came from this time on is known again."""
        ...

    def generation(self) -> str:
        """Say which run of the store answers: another one after a restart or a failover.

        Merging moves no watermark, so a store that was put back to an earlier state meanwhile is
        not noticed by them.
        """
        ...

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        """Merge records into their series, as recording each of them would have done.

        For rebuilds: watermarks stay as they are, nothing is read, and what is merged again changes
        nothing. Nothing is trimmed.
        """
        ...

    def forget(self, series: int, entity: str, until_ms: int) -> int:
        """Drop an entity's records up to a time, and refuse such records from then on.

        Returns
        -------
        dropped
            How many records there were. Windows that reach back to that time are unknown from now.
        """
        ...

    def content(self, series: int, entity: str) -> SeriesContent | None:
        """Read all that is kept of one series; None if there is nothing."""
        ...


def pack_position(partition: InputPartition, offset: int) -> bytes:
    """Pack a source position into 8 bytes: topic number · partition · offset + 1.

    All zero is left free: it means "did not come through Kafka".

    Examples
    --------
    >>> pack_position(InputPartition(1, 3), 41).hex()
    '010003000000002a'
    """
    number = partition.topic_number << 56 | partition.partition << 40 | (offset + 1)
    return number.to_bytes(8, "big")


def bucket_of(entity: str, buckets: int) -> int:
    """Say which of so many buckets holds an entity: its series are together, in every process.

    Examples
    --------
    >>> bucket_of("c1", 64), bucket_of("c1", 1)
    (33, 0)
    """
    return crc32(entity.encode()) % buckets if buckets > 1 else 0


def unknown_answers(series: Series) -> list[int]:
    """Give the part of a row behind outcome and marks that says: nothing of this is known."""
    window = [-1, *(0 for _ in series.measures)]
    return window * len(series.windows) + [SCAN_UNKNOWN] * len(series.scans)
