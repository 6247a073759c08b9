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

This module holds the definitions, and the store as the pipeline sees it. What stands behind it is
in ``adapters``: ``profiles`` keeps the books of stretches and watermarks, `ProfileBackend`
(``adapters/profile_backend.py``) is what a place for records must offer, and Valkey
(``valkey.py`` with ``profile.lua``) and memory (``memory.py``) are two such places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fraudstream.event import Label, Transaction

#: Version of the records' layout and of the keys, part of every key's name through the digest.
LAYOUT_VERSION = 2
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A sliding window ``(t − lag − length, t − lag]``.

    ``counts_present`` False leaves the present event itself out of a window without a lag: only
    what stands before it in the series counts.
    """

    length_ms: int
    lag_ms: int = 0
    counts_present: bool = True

    @property
    def reach_ms(self) -> int:
        """How far back it looks from the time it is read at."""
        return self.length_ms + self.lag_ms


#: A scan looks at no more than so many of a window's records, the latest ones.
SCAN_RECORDS_MAX = 256
#: Answers of a scan that are none: the window reaches back before what is known; it holds nothing.
SCAN_UNKNOWN, SCAN_NOTHING = -1, -2


@dataclass(frozen=True, slots=True, order=True)
class Scan:
    """Something that two positions do not tell: the records of a window are looked at one by one.

    Parameters
    ----------
    kind
        ``distinct``: how many values of an attribute there are (an event without one adds none).
        ``quantile``: the nearest rank, the amount at place ⌈n · per_mille / 1000⌉ of the n known
        amounts in ascending order, minor units. ``last``: how many milliseconds before the present
        event the latest record of the window is; never the present event itself, known also where
        the window reaches back further than what is known, if there is such a record.
    window
        Over which window. ``distinct`` and ``quantile`` see its latest `SCAN_RECORDS_MAX` records.
    attribute
        Which attribute of the series, for ``distinct``.
    per_mille
        Which quantile: 500 is the median.
    """

    kind: Literal["distinct", "quantile", "last"]
    window: Window
    attribute: str = ""
    per_mille: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    """What is recorded of one kind of entity, and how it will be read.

    Parameters
    ----------
    name
        Part of the keys' names: ``card_tx``.
    entity
        The event field that names the entity: ``card_id``. Events without it (a field beyond the
        contract may be missing) are not recorded, and their windows are unknown.
    kind
        ``transactions`` or ``labels``: which events are recorded.
    measures
        Integer columns kept as running sums beside the count; `MEASURES` lists them.
    windows
        What is read for every transaction: count and sums of each.
    allowed_lateness_ms
        How much later than the newest event of its series an event may come and still find every
        window whole.
    attributes
        Event fields of which each record keeps an 8-byte hash, for scans.
    scans
        What is looked up for every transaction by going through the latest records of a window.
    """

    name: str
    entity: str
    kind: Literal["transactions", "labels"]
    measures: tuple[str, ...]
    windows: tuple[Window, ...]
    allowed_lateness_ms: int = DAY_MS
    attributes: tuple[str, ...] = ()
    scans: tuple[Scan, ...] = ()

    @property
    def horizon_ms(self) -> int:
        """How far behind the newest record a series is kept."""
        windows = (*self.windows, *(scan.window for scan in self.scans))
        reach_ms = max((window.reach_ms for window in windows), default=0)
        return reach_ms + self.allowed_lateness_ms

    @property
    def is_versioned(self) -> bool:
        """Whether a newer finding replaces an older one."""
        return self.kind == "labels"


@dataclass(frozen=True, slots=True)
class ProfileDefinition:
    """All series of a deployment, and the one currency of their amounts.

    The digest of it is part of every key's name.
    """

    series: tuple[Series, ...]
    currency: str = "EUR"

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
                self.currency,
                [
                    [s.name, s.entity, s.kind, s.measures, s.attributes, s.horizon_ms]
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
    scans
        Shape (n, scans), int64: values from 0, `SCAN_UNKNOWN` or `SCAN_NOTHING`.
    absent
        Shape (n,), bool: the transaction does not name this series' entity. All is unknown then.
    """

    outcomes: NDArray[np.int64]
    marks: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.int64]
    scans: NDArray[np.int64]
    absent: NDArray[np.bool_]


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


def id_hash(transaction_id: str) -> bytes:
    """Hash a transaction id to the 8 bytes that records keep."""
    return hashlib.blake2b(transaction_id.encode(), digest_size=8).digest()


#: What a series can keep sums of, by the kind of its events. Squares of amounts are kept in three
#: limbs of 27 bits, lowest first, so that their sums stay whole numbers of at most 53 bits.
MEASURES: Mapping[str, tuple[str, ...]] = {
    "transactions": (
        "amount_minor",
        "amount_known",
        "amount_square_0",
        "amount_square_1",
        "amount_square_2",
    ),
    "labels": ("fraud",),
}
SQUARE_LIMB_BITS = 27
NO_ATTRIBUTE = b"\0" * 8


def transaction_values(series: Series, transaction: Transaction) -> tuple[int, ...]:
    """Give a transaction's integer columns for a series."""
    amount = transaction.amount_base_minor
    if series.measures == ("amount_minor", "amount_known"):
        return (0, 0) if amount is None else (amount, 1)
    known = amount or 0
    square, limb = known * known, (1 << SQUARE_LIMB_BITS) - 1
    columns = {
        "amount_minor": known,
        "amount_known": int(amount is not None),
        "amount_square_0": square & limb,
        "amount_square_1": square >> SQUARE_LIMB_BITS & limb,
        "amount_square_2": square >> 2 * SQUARE_LIMB_BITS,
    }
    return tuple(columns[measure] for measure in series.measures)


def transaction_attributes(series: Series, transaction: Transaction) -> tuple[bytes, ...]:
    """Give the hashes that a series keeps of a transaction's fields."""
    values = (transaction.text(name) for name in series.attributes)
    return tuple(NO_ATTRIBUTE if value is None else id_hash(value) for value in values)
