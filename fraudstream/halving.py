"""Finds the one record whose output Kafka will never take, and gives that output up.

    a batch is refused ─▶ half as many records are read ─▶ … ─▶ one alone is refused
        ─▶ a dead letter in the place of its outputs ─▶ refused too: one without its payload

The broker refuses what was sent together, so the output that it names first may be innocent.
Without this, one record would abort its batch for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from fraudstream.alert import OutputRecord
from fraudstream.errors import InvalidEventError, OutputRefusedError, Reason
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch, Processed

#: Makes the dead letter of a record (`Pipeline.refuse`).
Refuse = Callable[[Record, InvalidEventError], OutputRecord]


class Halving:
    """How many records to read at once, and which of them have outputs that were refused.

    Parameters
    ----------
    records_max
        How many records a batch takes while nothing is refused.
    """

    def __init__(self, records_max: int) -> None:
        self._limit = records_max
        self._records_max = records_max
        #: How often the outputs of a record were refused while it was alone.
        self._refused: dict[tuple[str, int, int], int] = {}

    @property
    def records_max(self) -> int:
        """How many records the next batch may take."""
        return self._records_max

    def narrow(self, batch: InputBatch, error: OutputRefusedError) -> None:
        """Take half as much the next time; a record that was alone is the one at fault."""
        if len(batch.records) > 1:
            self._records_max = max(len(batch.records) // 2, 1)
        else:
            self._refused[error.source] = self._refused.get(error.source, 0) + 1

    def widen(self, batch: InputBatch) -> None:
        """After a commit: forget what was refused in it; take larger batches again."""
        for record in batch.records:
            self._refused.pop((record.topic, record.partition, record.offset), None)
        if not self._refused:
            self._records_max = min(2 * self._records_max, self._limit)

    def forget(self) -> None:
        """Forget what was refused: whoever reads it now finds out for itself."""
        self._refused.clear()

    def replace(self, batch: InputBatch, processed: Processed, refuse: Refuse) -> None:
        """Put dead letters in the place of outputs that Kafka will never take."""
        for index, record in enumerate(batch.records) if self._refused else ():
            times = self._refused.get((record.topic, record.partition, record.offset), 0)
            if times:
                # Refused again: even the dead letter is too large with its payload.
                kept_of_it = record if times == 1 else record._replace(key=None, value=None)
                error = InvalidEventError(Reason.OUTPUT_REFUSED)
                letter = refuse(kept_of_it, error)._replace(source_index=index)
                processed.replace(index, letter, Reason.OUTPUT_REFUSED)
