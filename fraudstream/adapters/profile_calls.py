"""How events become entries, and entries become calls of bounded size."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    CALL_ENTRIES_MAX,
    Entry,
    InputPartition,
    Located,
    ProfileDefinition,
    id_hash,
    pack_position,
    transaction_values,
)

#: The owner of a label's row, where a transaction's is its index in the batch.
LABEL_OWNER = -1


@dataclass(slots=True)
class Call:
    """A request under construction, with the transactions that its rows belong to."""

    bucket: int
    entries: list[Entry] = field(default_factory=list)
    #: For each series, the transaction's index in the batch (or `LABEL_OWNER`) of each of its rows.
    owners: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[InputPartition, int] = field(default_factory=dict)


class Cutter:
    """Turns events into entries, and entries into calls of bounded size."""

    def __init__(self, definition: ProfileDefinition, buckets: int) -> None:
        self._definition = definition
        self._buckets = buckets
        self._open: dict[int, Call] = {}
        self.calls: list[Call] = []

    def add(self, located: Located, owner: int) -> None:
        """Add one event: all of its entries for one bucket stay in one call."""
        by_bucket: dict[int, list[Entry]] = {}
        for entry in self._entries(located):
            bucket = crc32(entry.entity.encode()) % self._buckets if self._buckets > 1 else 0
            by_bucket.setdefault(bucket, []).append(entry)
        for bucket, entries in by_bucket.items():
            call = self._call(bucket, len(entries))
            for entry in entries:
                call.entries.append(entry)
                call.owners.setdefault(entry.series, []).append(owner)
            call.ends[located.partition] = located.offset + 1

    def _call(self, bucket: int, entries: int) -> Call:
        call = self._open.get(bucket)
        if call is None or len(call.entries) + entries > CALL_ENTRIES_MAX:
            call = self._open[bucket] = Call(bucket)
            self.calls.append(call)
        return call

    def _entries(self, located: Located) -> list[Entry]:
        event = located.event
        hashed = id_hash(event.transaction_id)
        position = pack_position(located.partition, located.offset)
        if isinstance(event, Label):
            return self._label_entries(event, hashed, position)
        return self._transaction_entries(event, hashed, position)

    def _label_entries(self, label: Label, hashed: bytes, position: bytes) -> list[Entry]:
        return [
            Entry(
                number,
                label.terminal_id if series.entity == "terminal_id" else label.card_id,
                True,
                label.event_time_ms,
                hashed,
                position,
                label.reported_at_ms,
                (int(label.is_fraud),),
            )
            for number, series in enumerate(self._definition.series)
            if series.kind == "labels"
        ]

    def _transaction_entries(
        self, transaction: Transaction, hashed: bytes, position: bytes
    ) -> list[Entry]:
        entries = []
        for number, series in enumerate(self._definition.series):
            is_recorded = series.kind == "transactions"
            entity = transaction.card_id if series.entity == "card_id" else transaction.terminal_id
            values = (
                transaction_values(series, transaction)
                if is_recorded
                else (0,) * len(series.measures)
            )
            entries.append(
                Entry(
                    number,
                    entity,
                    is_recorded,
                    transaction.event_time_ms,
                    hashed,
                    position,
                    0,
                    values,
                )
            )
        return entries
