"""What is remembered of a card or a terminal. Second stage of the data's way.

    Transaction ──┐                    ┌─ card_tx         time-ordered records of one card
    Label ────────┴─▶ ProfileStore ────┼─ terminal_tx     time-ordered records of one terminal
                         │             └─ terminal_label  findings about its payments
                         └─▶ ProfileAnswers: counts and sums over exact sliding windows

A *series* is the time-ordered list of what happened to one entity. A *window* of length w and lag
l, read at time t, is ``(t − l − w, t − l]`` to the millisecond. A transaction's own windows
count only records up to its own place in the series, so reading it again later gives the same
answer.

Recording is idempotent. A record is known by (event time, hash of the transaction id) and keeps
the *source position of its first writer*: found again with the same position it is a retry, with
another a duplicate, with none (it did not come through Kafka) it is claimed.

Kafka is the truth and the store a view of it. Every application of records says which stretch
``[from, to)`` of each input partition it covers; the store keeps the end of the last one as a
*watermark*, in the same atomic step as the data, and refuses a stretch that would leave a gap.

This module holds the definitions and the protocol. `fraudstream.adapters.profiles` keeps the books
of stretches and watermarks; behind it stand two implementations of one contract: Valkey
(``adapters/valkey.py`` with ``profile.lua``) and memory (``adapters/memory.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fraudstream.event import Label, Transaction

#: Version of the records' layout and of the keys, part of every key's name through the digest.
LAYOUT_VERSION = 1
DAY_MS = 86_400_000
#: Later than any event.
NO_TIME_MS = 2**53 - 1
#: The most series entries one call may carry: a call blocks the server for everybody.
CALL_ENTRIES_MAX = 128


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A sliding window ``(t − lag − length, t − lag]``."""

    length_ms: int
    lag_ms: int = 0

    @property
    def reach_ms(self) -> int:
        """How far back it looks from the time it is read at."""
        return self.length_ms + self.lag_ms


@dataclass(frozen=True, slots=True)
class Series:
    """What is recorded of one kind of entity, and how it will be read.

    Parameters
    ----------
    name
        Part of the keys' names: ``card_tx``.
    entity
        The event field that names the entity: ``card_id``.
    kind
        ``transactions`` or ``labels``: which events are recorded.
    measures
        Integer columns kept as running sums beside the count. Known measures: ``amount_minor``
        and ``amount_known`` (1 when the amount is known in the profiles' currency) of a
        transaction; ``fraud`` of a label.
    windows
        What is read for every transaction.
    allowed_lateness_ms
        How much later than the newest event of its series an event may come and still find every
        window whole.
    """

    name: str
    entity: Literal["card_id", "terminal_id"]
    kind: Literal["transactions", "labels"]
    measures: tuple[str, ...]
    windows: tuple[Window, ...]
    allowed_lateness_ms: int = DAY_MS

    @property
    def horizon_ms(self) -> int:
        """How far behind the newest record a series is kept."""
        return max(window.reach_ms for window in self.windows) + self.allowed_lateness_ms

    @property
    def is_versioned(self) -> bool:
        """Whether a newer finding replaces an older one."""
        return self.kind == "labels"


@dataclass(frozen=True, slots=True)
class ProfileDefinition:
    """All series of a deployment. The digest of it is part of every key's name."""

    series: tuple[Series, ...]

    @property
    def horizon_ms(self) -> int:
        """The longest time any series is kept: how far back the log must reach for a rebuild."""
        return max((series.horizon_ms for series in self.series), default=0)

    @property
    def digest(self) -> str:
        """Short hash of the definitions: code with others never writes into the same keys."""
        canonical = json.dumps(
            [
                LAYOUT_VERSION,
                [
                    [s.name, s.entity, s.kind, s.measures, s.horizon_ms]
                    for s in sorted(self.series, key=lambda series: series.name)
                ],
            ]
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class InputPartition(NamedTuple):
    """A partition of an input topic. Topics are numbered so that a position fits 8 bytes."""

    topic_number: int
    partition: int


#: Topic numbers are part of the stored records: they never change their meaning.
TRANSACTIONS_TOPIC_NUMBER = 1
LABELS_TOPIC_NUMBER = 2


class Recording(IntEnum):
    """What recording an event came to."""

    READ_ONLY = 0
    RECORDED = 1
    RETRY = 2
    DUPLICATE = 3
    TOO_LATE = 4
    #: A finding that a newer one (or, at equal times, a genuine one) already stands against.
    SUPERSEDED = 5


class Mark(IntFlag):
    """What else is worth knowing about a recorded event."""

    NONE = 0
    #: The series already held a later event when this one first came.
    LATE = 1
    #: The copy found under the same identity has other measures. The first one stands.
    CONFLICT = 2


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


class Stretch(NamedTuple):
    """A half-open range of offsets of one input partition."""

    start: int
    end: int


class Located(NamedTuple):
    """A transaction or label with the place it was read from."""

    event: Transaction | Label
    partition: InputPartition
    offset: int


@dataclass(frozen=True, slots=True)
class ProfileBatch:
    """A micro-batch for the store, in the order in which it is applied.

    ``stretches`` says, for each input partition in the batch, which offsets it covers. They
    include offsets of records that were dead-lettered or that are no records at all.
    """

    labels: Sequence[Located]
    transactions: Sequence[Located]
    stretches: Mapping[InputPartition, Stretch]


@dataclass(frozen=True, slots=True)
class SeriesAnswers:
    """One series' answers for the n transactions of a batch.

    Attributes
    ----------
    outcomes, marks
        Shape (n,), int64: `Recording` and `Mark` values.
    counts
        Shape (n, windows), int64; −1 where the window reaches back before what is known.
    sums
        Shape (n, windows, measures), int64.
    """

    outcomes: NDArray[np.int64]
    marks: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ProfileAnswers:
    """What the store says of a batch: one `SeriesAnswers` by series name, and label counts."""

    series: Mapping[str, SeriesAnswers]
    labels_too_late: int = 0
    labels_superseded: int = 0


class ProfileStore(Protocol):
    """Where profiles live, as the pipeline sees it."""

    @property
    def definition(self) -> ProfileDefinition:
        """The series it keeps."""
        ...

    def apply(self, batch: ProfileBatch) -> ProfileAnswers:
        """Record a batch, and read every transaction's windows.

        Raises
        ------
        StoreUnavailableError
            No answer within the deadline. Part of the batch may have been recorded, which is
            harmless: it is recorded again later.
        ProfileLossError
            The store lacks something that came before. Its answers would be wrong.
        """
        ...


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
    measures)): outcome, marks, then for each window its count and sums.
    """

    is_applied: bool
    epoch: bytes
    partitions_known: int
    partitions_rebuilding: int
    rows: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BucketState:
    """What a bucket remembers of the log: epoch (``b""``: none) and watermarks."""

    epoch: bytes
    watermarks: Mapping[InputPartition, int]


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


def id_hash(transaction_id: str) -> bytes:
    """Hash a transaction id to the 8 bytes that records keep."""
    return hashlib.blake2b(transaction_id.encode(), digest_size=8).digest()


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


def transaction_values(series: Series, transaction: Transaction) -> tuple[int, ...]:
    """Give a transaction's integer columns for a series."""
    known = transaction.amount_base_minor is not None
    columns = {
        "amount_minor": transaction.amount_base_minor or 0,
        "amount_known": int(known),
    }
    return tuple(columns[measure] for measure in series.measures)
