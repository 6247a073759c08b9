"""One payment's features, from what is said to have been recorded before it.

The offline evaluator makes them: payments sorted by event time, those of one time in the order in
which they were recorded, the payment in question last. Findings are given to it as known from the
start, because only those that were known are passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudstream.event import Label, Transaction
from fraudstream.features import Feature, VectorBuilder
from fraudstream.offline.columns import Payments
from fraudstream.offline.evaluator import answers
from fraudstream.offline.labels import Findings, KnownFindings
from fraudstream.profile import ProfileDefinition


@dataclass(frozen=True, slots=True, eq=False)
class _KnownAlready:
    """A `fraudstream.offline.labels.LabelRule` for findings of which all are known."""

    findings: Findings

    def __str__(self) -> str:
        """Say it in words."""
        return "findings that were known"

    def known(self, payments: Payments) -> KnownFindings:
        """Say that each is known to every row."""
        del payments
        return KnownFindings(self.findings, np.zeros(len(self.findings), dtype=np.int64))


class Recomputer:
    """Computes features of single payments.

    Parameters
    ----------
    features
        The k columns.
    definition
        The series that they are made of.
    minor_per_major
        Minor units in one major unit of the profiles' currency.
    extra_fields
        Event fields beyond the contract that the series or features read.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        definition: ProfileDefinition,
        minor_per_major: int,
        extra_fields: Sequence[str] = (),
    ) -> None:
        self._builder = VectorBuilder(features, definition, minor_per_major)
        self._definition = definition
        self._extra_fields = tuple(extra_fields)

    def vector(
        self, own: Transaction, past: Sequence[Transaction], labels: Sequence[Label]
    ) -> NDArray[np.float32]:
        """Compute a payment's features.

        Parameters
        ----------
        own
            The payment.
        past
            What was recorded before it, in that order. Later events, and events of others, do no
            harm.
        labels
            What was known before it.

        Returns
        -------
        vector
            Shape (k,), float32.
        """
        time_ms = own.event_time_ms
        rows = [event for event in past if event.event_time_ms <= time_ms]
        # Last of its time: everything else of this very time was there before it.
        payments = Payments.of([*rows, own], self._extra_fields)
        # Copies of the payment have its time, and must be answered together with it.
        first = int(np.searchsorted(payments.event_time_ms, time_ms))
        rule = _KnownAlready(Findings.of(list(labels)))
        found = answers(self._definition, payments, rule, first)
        events = payments.events(first, self._builder.text_fields)
        vector: NDArray[np.float32] = self._builder.build(events, found)[-1]
        return vector
