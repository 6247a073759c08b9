"""Labelled payments for tests, read and made vectors of by the product's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from feature_names import DEFAULT
from numpy.typing import NDArray

from fraudstream.event import Transaction, format_time
from fraudstream.feature_set import FeatureSet
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors, Reading, open_labelled, read_labelled
from fraudstream.training.simulate import Transactions
from fraudstream.training.stream_file import write_stream

NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z


@dataclass(frozen=True)
class Case:
    """Payments in event-time order, and which of them are frauds."""

    payments: list[Transaction]
    is_fraud: Sequence[bool] | NDArray[np.bool_]

    def write(self, folder: Path) -> Path:
        """Write them as a file that a user could have."""
        file = folder / "case.parquet"
        frame = pl.DataFrame(
            {
                "transaction_id": [payment.transaction_id for payment in self.payments],
                "event_time": [format_time(payment.event_time_ms) for payment in self.payments],
                "card_id": [payment.card_id for payment in self.payments],
                "terminal_id": [payment.terminal_id for payment in self.payments],
                "amount_minor": [payment.amount_minor for payment in self.payments],
                "currency": [payment.currency for payment in self.payments],
                "is_fraud": [bool(truth) for truth in self.is_fraud],
            }
        )
        frame.write_parquet(file)
        return file


def payment(number: int, day: float, terminal: str = "t1") -> Transaction:
    time_ms = NOON_MS + int(day * DAY_MS)
    return Transaction(f"tx{number}", time_ms, f"c{number}", terminal, 1000, "EUR", 1000)


def case_of(days: Sequence[float], frauds: Sequence[bool]) -> Case:
    """Payments of many cards at one terminal."""
    return Case([payment(number, day) for number, day in enumerate(days)], frauds)


def read(
    file: Path,
    feature_set: FeatureSet = DEFAULT,
    *,
    delay_ms: int = 7 * DAY_MS,
    on_progress: Callable[[int], None] = lambda _: None,
    reading: Reading | None = None,
) -> LabelledVectors:
    """Read a file as `fraudstream train` does, all features of a set its columns."""
    reading = reading or Reading(feature_set)
    reading = replace(reading, labels_after_ms=delay_ms)
    return read_labelled(open_labelled(file, reading), file.name, reading, on_progress)


def rows_of(
    case: Case | Transactions,
    folder: Path,
    feature_set: FeatureSet = DEFAULT,
    *,
    delay_ms: int = 7 * DAY_MS,
) -> LabelledVectors:
    """Make vectors of payments, or of a simulated world, by way of a file."""
    if isinstance(case, Case):
        return read(case.write(folder), feature_set, delay_ms=delay_ms)
    file = folder / "world.parquet"
    write_stream(case, file)
    return read(file, feature_set, delay_ms=delay_ms)


def made_rows(
    vectors: NDArray[np.float32],
    is_fraud: NDArray[np.bool_],
    event_time_ms: NDArray[np.int64],
    card_id: Sequence[str],
) -> LabelledVectors:
    """Put rows together of which only this much matters."""
    count = len(is_fraud)
    return LabelledVectors(
        vectors,
        is_fraud,
        event_time_ms,
        np.full(count, 1000, dtype=np.int64),
        np.array([f"tx{number}" for number in range(count)], dtype=object),
        np.array(card_id, dtype=object),
        np.full(count, "", dtype=object),
    )
