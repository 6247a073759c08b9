"""Gives up the output that Kafka will never take, once the one record behind it is found.

    a batch is refused ─▶ the same records, half by half ─▶ … ─▶ one alone is refused
        ─▶ a dead letter in the place of its outputs ─▶ refused too: one without its payload

The broker refuses what was sent together, so the output that it names first may be innocent.
Without this, one record would abort its batch for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import orjson

from fraudstream.alert import OutputRecord
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch, Processed
from fraudstream.profile import InputPartition, Stretch

#: Gives the number under which a record's partition is known (`KafkaSource.partition_of`).
PartitionOf = Callable[[Record], InputPartition]
#: Makes the dead letter of a record (`Pipeline.refuse`).
Refuse = Callable[[Record, InvalidEventError], OutputRecord]


#: Its outputs, its dead letter with its payload, and without.
_REFUSALS_MAX = 3


class Refusals:
    """Which records have outputs that were refused while they were alone in their batch."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, int, int], int] = {}

    def note(self, record: Record) -> bool:
        """Note that a record that was alone was refused; say whether less can be tried."""
        place = _place(record)
        self._refused[place] = self._refused.get(place, 0) + 1
        return self._refused[place] < _REFUSALS_MAX

    def forget(self, batch: InputBatch) -> None:
        """Forget what was refused in a batch that is committed."""
        for record in batch.records if self._refused else ():
            self._refused.pop(_place(record), None)

    def forget_all(self) -> None:
        """Forget what was refused: whoever reads it now finds out for itself."""
        self._refused.clear()

    def replace(self, batch: InputBatch, processed: Processed, refuse: Refuse) -> None:
        """Put dead letters in the place of outputs that Kafka will never take."""
        for index, record in enumerate(batch.records) if self._refused else ():
            times = self._refused.get(_place(record), 0)
            if times:
                # Refused again: even the dead letter is too large with its payload.
                kept_of_it = record if times == 1 else record._replace(key=None, value=None)
                letter = refuse(kept_of_it, InvalidEventError(Reason.OUTPUT_REFUSED))
                _put(processed, letter._replace(source_index=index))


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _put(processed: Processed, letter: OutputRecord) -> None:
    """Put a dead letter in the place of one record's outputs, also in what was counted."""
    kept: list[OutputRecord] = []
    is_put = False
    for output in processed.outputs:
        if output.source_index != letter.source_index:
            kept.append(output)
            continue
        processed.counts.subtract(_counted(output))
        if not is_put:
            kept.append(letter)
            is_put = True
    processed.outputs = kept
    processed.counts.update(_counted(letter))


def _counted(output: OutputRecord) -> list[str]:
    """Say what an output was counted as."""
    if output.is_dead_letter:
        reason = dict(output.headers)["fs_reason"]
        assert isinstance(reason, bytes)
        return ["dead_letters", f"dead_letter_{reason.decode()}"]
    body = orjson.loads(output.value or b"{}")
    if "alert_id" in body:
        return ["alerts"]
    flags = [f"flag_{flag}" for flag in body["flags"]]
    return ["transactions", f"outcome_{body['outcome']}", *flags]


def halve(batch: InputBatch, partition_of: PartitionOf) -> tuple[InputBatch, InputBatch]:
    """Cut a batch of several records in two, to be handled one after the other."""
    middle = len(batch.records) // 2
    first = _cut(batch.records[:middle], batch.stretches, partition_of)
    # The second goes on where the first ends.
    ends = {p: Stretch(s.end, s.end) for p, s in first.stretches.items()}
    starts = dict(batch.stretches) | ends
    return first, _cut(batch.records[middle:], starts, partition_of)


def _cut(
    records: Sequence[Record],
    starts: Mapping[InputPartition, Stretch],
    partition_of: PartitionOf,
) -> InputBatch:
    stretches: dict[InputPartition, Stretch] = {}
    for record in records:
        partition = partition_of(record)
        stretches[partition] = Stretch(starts[partition].start, record.offset + 1)
    return InputBatch(records, stretches)
