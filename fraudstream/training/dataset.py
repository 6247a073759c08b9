"""A labelled stream → vectors as they would have been online, and the periods to learn from.

The vectors are made by the online code itself: the profile store (its in-memory twin) and the
vector builder, driven in event-time order. A label is applied when it would have been reported, a
fixed delay after its payment and never before it, so that no vector knows more than it could have
known.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.errors import UsageError
from fraudstream.event import Label, Transaction
from fraudstream.features import EventColumns, Feature, VectorBuilder
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Stretch,
)
from fraudstream.training.stream_file import LabelledStream

_TRANSACTIONS: Final = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
_LABELS: Final = InputPartition(LABELS_TOPIC_NUMBER, 0)
_BATCH_MAX: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class LabelledVectors:
    """Vectors with the truth about them, n rows in event-time order.

    Attributes
    ----------
    vectors
        Shape (n, features), float32.
    is_fraud
        Shape (n,), bool.
    event_time_ms
        Shape (n,), int64.
    card_id
        Shape (n,), strings.
    """

    vectors: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]
    event_time_ms: NDArray[np.int64]
    card_id: NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.is_fraud)

    def between(self, start_ms: int, end_ms: int) -> LabelledVectors:
        """Give the rows of ``[start_ms, end_ms)``."""
        first, last = np.searchsorted(self.event_time_ms, [start_ms, end_ms])
        rows = slice(int(first), int(last))
        return LabelledVectors(
            self.vectors[rows], self.is_fraud[rows], self.event_time_ms[rows], self.card_id[rows]
        )

    def columns(self, indices: list[int]) -> LabelledVectors:
        """Give all rows with some of their features."""
        vectors = np.ascontiguousarray(self.vectors[:, indices])
        return LabelledVectors(vectors, self.is_fraud, self.event_time_ms, self.card_id)

    def sha256(self) -> str:
        """Hash vectors and labels: all that a model can learn from."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        digest.update(np.ascontiguousarray(self.is_fraud).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Periods:
    """Where to learn and where to measure, epoch milliseconds, each ``[start, end)``.

    Between the two lies the label delay: what happens there is not known yet when the model is
    made.
    """

    train_ms: tuple[int, int]
    validation_ms: tuple[int, int]


def split_periods(
    event_time_ms: NDArray[np.int64],
    *,
    warm_up_days: int,
    label_delay_days: int,
    validation_days: int,
) -> Periods:
    """Cut a stream by time, in whole days (UTC): warm-up, train, delay, validation.

    Raises
    ------
    UsageError
        The stream is too short for it.

    Examples
    --------
    >>> times_ms = np.array([0, 30 * DAY_MS - 1])
    >>> periods = split_periods(
    ...     times_ms, warm_up_days=2, label_delay_days=7, validation_days=7
    ... )
    >>> [day // DAY_MS for day in periods.train_ms + periods.validation_ms]
    [2, 16, 23, 30]
    """
    start_ms = int(event_time_ms[0]) // DAY_MS * DAY_MS
    end_ms = (int(event_time_ms[-1]) // DAY_MS + 1) * DAY_MS
    validation_start_ms = end_ms - validation_days * DAY_MS
    train_end_ms = validation_start_ms - label_delay_days * DAY_MS
    train_start_ms = start_ms + warm_up_days * DAY_MS
    if train_start_ms >= train_end_ms:
        needed = warm_up_days + label_delay_days + validation_days + 1
        raise UsageError(
            f"the stream covers {(end_ms - start_ms) // DAY_MS} days and at least {needed} are "
            "needed (warm-up, training, label delay, validation)"
        )
    return Periods((train_start_ms, train_end_ms), (validation_start_ms, end_ms))


def build_vectors(
    stream: LabelledStream,
    features: Sequence[Feature],
    definition: ProfileDefinition,
    *,
    label_delay_ms: int,
    minor_per_major: int = 100,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelledVectors:
    """Build every payment's vector as it would have been online.

    Parameters
    ----------
    stream
        Payments in event-time order.
    features
        The columns.
    definition
        The series that they read.
    label_delay_ms
        How long after a fraud its label is known.
    minor_per_major
        Minor units in one major unit of the profiles' currency.
    on_progress
        Told how many payments were done, batch by batch.
    """
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({_TRANSACTIONS: AttachPoint(0, 0), _LABELS: AttachPoint(0, 0)})
    builder = VectorBuilder(features, definition, minor_per_major)
    vectors = np.empty((len(stream.transactions), len(features)), dtype=np.float32)
    done = 0
    for batch in _batches(stream, label_delay_ms):
        answers = store.apply(batch)
        transactions = stream.transactions[done : done + len(batch.transactions)]
        vectors[done : done + len(transactions)] = builder.build(
            EventColumns.of(transactions, builder.text_fields), answers
        )
        done += len(transactions)
        on_progress(len(transactions))
    return LabelledVectors(
        vectors,
        stream.is_fraud,
        np.array([t.event_time_ms for t in stream.transactions], dtype=np.int64),
        np.array([t.card_id for t in stream.transactions]),
    )


def _batches(stream: LabelledStream, label_delay_ms: int) -> Iterator[ProfileBatch]:
    """Cut the stream so that labels, which a batch applies first, are never applied too soon.

    A batch ends where the next label becomes known. A payment of that very millisecond comes
    after it, if it also comes after the label's own payment: without a delay nothing else would
    keep a payment from knowing what it turned out to be. A replay sends them in the same order.
    """
    frauds = np.flatnonzero(stream.is_fraud).tolist()
    labels = [_label(stream.transactions[number], label_delay_ms) for number in frauds]
    times_ms = [transaction.event_time_ms for transaction in stream.transactions]
    known_at = [
        max(bisect_left(times_ms, label.reported_at_ms), number + 1)
        for number, label in zip(frauds, labels, strict=True)
    ]
    known, first = 0, 0
    while first < len(times_ms):
        start, known = known, bisect_right(known_at, first, known)
        last = min(first + _BATCH_MAX, len(times_ms), *known_at[known : known + 1])
        yield ProfileBatch(
            labels=[Located(labels[i], _LABELS, i) for i in range(start, known)],
            transactions=[
                Located(stream.transactions[i], _TRANSACTIONS, i) for i in range(first, last)
            ],
            stretches={_LABELS: Stretch(start, known), _TRANSACTIONS: Stretch(first, last)},
        )
        first = last


def _label(transaction: Transaction, label_delay_ms: int) -> Label:
    return Label(
        transaction.transaction_id,
        transaction.event_time_ms,
        transaction.card_id,
        transaction.terminal_id,
        is_fraud=True,
        reported_at_ms=transaction.event_time_ms + label_delay_ms,
        source="training",
    )
