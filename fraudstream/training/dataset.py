"""Labelled payments → vectors as they would have been online, with the truth about them.

    file ─ contract ─▶ payments ─ offline evaluator ─▶ vectors ┐
                          └─ is_fraud, amount, card, segment ──┴─▶ LabelledVectors

The vectors are those of `fraudstream.offline`, which tests hold to the live consumer's bit by bit.
A label enters a feature only from the moment it would have been known, a fixed delay after its
payment and never before it, so that no vector knows more than it could have known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.event import TEXT_FIELDS
from fraudstream.feature_set import FeatureSet
from fraudstream.mapping import EventMapping
from fraudstream.offline.contract import Rules
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.labels import LabelsAfter
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Evaluated, Plan, Tally, evaluate_stretches
from fraudstream.profile import DAY_MS


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
    amount_minor
        Shape (n,), int64: in minor units of the profiles' currency, −1 where that is not known.
    transaction_id, card_id
        Shape (n,), strings.
    segment
        Shape (n,), strings: the field by which figures are split; empty where there is none.
    """

    vectors: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]
    event_time_ms: NDArray[np.int64]
    amount_minor: NDArray[np.int64]
    transaction_id: NDArray[np.object_]
    card_id: NDArray[np.object_]
    segment: NDArray[np.object_]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.is_fraud)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> LabelledVectors:
        """Give some of the rows."""
        return LabelledVectors(*(getattr(self, field.name)[rows] for field in fields(self)))

    def between(self, start_ms: int, end_ms: int) -> LabelledVectors:
        """Give the rows of ``[start_ms, end_ms)``."""
        first, last = np.searchsorted(self.event_time_ms, [start_ms, end_ms])
        return self.take(slice(int(first), int(last)))

    def columns(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Give some of the features, shape (n, len(indices))."""
        return np.ascontiguousarray(self.vectors[:, list(indices)])

    @property
    def end_ms(self) -> int:
        """The end of the last row's day (UTC)."""
        return (int(self.event_time_ms[-1]) // DAY_MS + 1) * DAY_MS

    @property
    def start_ms(self) -> int:
        """The beginning of the first row's day (UTC)."""
        return int(self.event_time_ms[0]) // DAY_MS * DAY_MS

    def sha256(self) -> str:
        """Hash vectors and labels: all that a model can learn from."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        digest.update(np.ascontiguousarray(self.is_fraud).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file of labelled payments is read.

    Parameters
    ----------
    feature_set, names
        The features, and which of them are the columns, in order; all if None.
    currency
        The profiles' currency.
    labels_after_ms
        How long after a fraud its label is known.
    mapping
        What the file's columns mean; None if they have our names.
    until_ms
        Rows from then on are not looked at, nor what became of them.
    segment
        The event field by which figures are split.
    is_lenient
        Leave out rows that break the event contract.
    """

    feature_set: FeatureSet
    names: tuple[str, ...] | None = None
    currency: str = "EUR"
    labels_after_ms: int = 7 * DAY_MS
    mapping: EventMapping | None = None
    until_ms: int | None = None
    segment: str | None = None
    is_lenient: bool = False


def open_labelled(file: Path, reading: Reading) -> PaymentSource:
    """Open a file of labelled payments, for `read_labelled`.

    Raises
    ------
    UsageError
        It cannot be read, or lacks columns.
    """
    return PaymentSource(
        file,
        Rules(
            reading.currency,
            reading.mapping,
            _extra_fields(reading),
            needs_truth=True,
            truth_for="the truth to learn from, or to judge by",
        ),
    )


def read_labelled(
    source: PaymentSource,
    name: str,
    reading: Reading,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelledVectors:
    """Read labelled payments and build their vectors.

    Parameters
    ----------
    source, name
        From `open_labelled`, and the file's name for messages.
    reading
        What is made of it.
    on_progress
        Told how many rows are done.

    Raises
    ------
    UsageError
        It holds nothing that could be learnt from, or rows break the contract.
    """
    evaluator = Evaluator(
        reading.feature_set,
        reading.currency,
        LabelsAfter(reading.labels_after_ms),
        reading.names,
    )
    plan = Plan(
        evaluator,
        _extra_fields(reading),
        until_ms=reading.until_ms,
        is_lenient=reading.is_lenient,
    )
    parts = []
    for part in evaluate_stretches(source, name, plan, Tally()):
        parts.append(_labelled(part, reading.segment))
        on_progress(part.done)
    rows = concatenate(parts)
    if not len(rows):
        raise UsageError(f"{name}: no row is left: all of them break the event contract")
    return rows


def concatenate(parts: Sequence[LabelledVectors]) -> LabelledVectors:
    """Put parts one after the other."""
    return LabelledVectors(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(LabelledVectors)
        )
    )


def _labelled(part: Evaluated, segment: str | None) -> LabelledVectors:
    payments, first = part.payments, part.first
    assert payments.is_fraud is not None
    texts = payments.texts[first:]
    segments = texts[segment] if segment is not None else pl.repeat("", len(texts), eager=True)
    return LabelledVectors(
        part.vectors,
        payments.is_fraud[first:],
        payments.event_time_ms[first:],
        payments.amount_base_minor[first:],
        texts["transaction_id"].to_numpy(),
        texts["card_id"].to_numpy(),
        segments.fill_null("").to_numpy(),
    )


def _extra_fields(reading: Reading) -> tuple[str, ...]:
    segment = reading.segment
    if segment is None or segment in TEXT_FIELDS:
        return reading.feature_set.extra_fields
    return tuple(sorted({*reading.feature_set.extra_fields, segment}))


def require_both_kinds(rows: LabelledVectors, what: str) -> None:
    """Refuse rows among which there is nothing to tell apart.

    Raises
    ------
    UsageError
        There are only frauds, or none at all.
    """
    if not rows.is_fraud.any():
        raise UsageError(f"there is no fraud in {what}: take more or other days")
    if rows.is_fraud.all():
        raise UsageError(f"there is no genuine payment in {what}: take more or other days")
