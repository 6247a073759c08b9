"""Findings about payments, and from which row of the stream on each of them is known.

                 payment             reported at
    stream ─────────●──────────────────────●───────────────▶
                    └ never known before   └ known to the payments from here on

A finding counts for a payment only if it was reported by then, and comes after its own payment in
the stream: a label that becomes known at the very millisecond of other payments comes before them,
but no payment knows its own. This is the order in which a replay sends labels and payments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.event import Label
from fraudstream.offline.columns import Payments

Integers = NDArray[np.int64]
_ID_FIELDS = ("transaction_id", "card_id", "terminal_id")


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """m findings.

    Attributes
    ----------
    event_time_ms, reported_at_ms
        Shape (m,), int64: the payment's time, and when the finding was made.
    is_fraud
        Shape (m,), bool.
    ids
        m rows of strings: transaction, card and terminal.
    """

    event_time_ms: Integers
    reported_at_ms: Integers
    is_fraud: NDArray[np.bool_]
    ids: pl.DataFrame

    def __len__(self) -> int:
        """Return the number of findings."""
        return len(self.event_time_ms)

    @classmethod
    def of(cls, labels: list[Label]) -> Findings:
        """Take the columns out of labels."""
        columns = {name: [getattr(label, name) for label in labels] for name in _ID_FIELDS}
        return cls(
            np.array([label.event_time_ms for label in labels], dtype=np.int64),
            np.array([label.reported_at_ms for label in labels], dtype=np.int64),
            np.array([label.is_fraud for label in labels], dtype=bool),
            pl.DataFrame(columns, schema=dict.fromkeys(_ID_FIELDS, pl.String)),
        )

    def take(self, chosen: NDArray[np.bool_] | Integers) -> Findings:
        """Give some of them."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return Findings(
            self.event_time_ms[numbers],
            self.reported_at_ms[numbers],
            self.is_fraud[numbers],
            self.ids[numbers],
        )


@dataclass(frozen=True, slots=True, eq=False)
class KnownFindings:
    """Findings with the first row of a stream that knows them; shape (m,)."""

    findings: Findings
    known_from: Integers


class LabelRule(Protocol):
    """When the findings about payments become known."""

    def __str__(self) -> str:
        """Say the rule in words, for the file that is written."""

    def known(self, payments: Payments) -> KnownFindings:
        """Say what becomes known in a stretch of the stream, and from which row on."""
        ...


@dataclass(frozen=True, slots=True)
class LabelsAfter:
    """The file's own frauds, each known a fixed time after its payment."""

    delay_ms: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"frauds of the file, known {self.delay_ms} ms after their payments"

    def known(self, payments: Payments) -> KnownFindings:
        """Say what becomes known, and from which row on."""
        assert payments.is_fraud is not None
        rows = np.flatnonzero(payments.is_fraud)
        times_ms = payments.event_time_ms[rows]
        ids = payments.texts.select(_ID_FIELDS)[rows]
        reported_at_ms = times_ms + self.delay_ms
        findings = Findings(times_ms, reported_at_ms, np.ones(len(rows), dtype=bool), ids)
        return _known(findings, rows, payments)


@dataclass(frozen=True, slots=True, eq=False)
class LabelsReported:
    """Findings that say themselves when they were made."""

    findings: Findings

    def __str__(self) -> str:
        """Say it in words."""
        return "findings of a file, each known at its reported_at"

    def known(self, payments: Payments) -> KnownFindings:
        """Say what becomes known, and from which row on."""
        if not len(payments):
            return KnownFindings(self.findings, np.zeros(len(self.findings), dtype=np.int64))
        findings = self.findings.take(self.findings.event_time_ms >= payments.event_time_ms[0])
        theirs = findings.ids.select("transaction_id", time=findings.event_time_ms)
        # Findings are few and payments many: look only at payments that somebody speaks of.
        own = (
            payments.texts.lazy()
            .select("transaction_id", pl.Series("time", payments.event_time_ms))
            .with_row_index("row")
            .join(theirs.lazy().unique(), on=["transaction_id", "time"], how="semi")
            .group_by("transaction_id", "time")
            .agg(pl.col("row").min().cast(pl.Int64))
        )
        found = theirs.lazy().join(
            own, on=["transaction_id", "time"], how="left", maintain_order="left"
        )
        rows = found.select(pl.col("row").fill_null(-1)).collect().to_series().to_numpy()
        return _known(findings, rows, payments)


def _known(findings: Findings, own_rows: Integers, payments: Payments) -> KnownFindings:
    # One whose payment is not in the stream is not known before that payment's time either.
    reported_at_ms = np.maximum(findings.reported_at_ms, findings.event_time_ms)
    known_from = np.searchsorted(payments.event_time_ms, reported_at_ms, side="left")
    return KnownFindings(findings, np.maximum(known_from, own_rows + 1))
