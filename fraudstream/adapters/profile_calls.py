"""How events become entries, entries calls of bounded size, and the rows of replies answers.

    Located ──SeriesPlan──▶ Entry, one a series ──Cutter──▶ Call, some a bucket ─┐
                                                                                ▼
    SeriesAnswers, a row for each transaction ◀──answers_of── rows, in the order of entries

This runs for every event, so what depends on the definition alone is worked out once, in `plans`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, methodcaller
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.profile_backend import (
    CALL_ENTRIES_MAX,
    BucketReply,
    Entry,
    bucket_of,
    pack_position,
    unknown_answers,
)
from fraudstream.event import TEXT_FIELDS, Label, Transaction
from fraudstream.profile import (
    NO_ATTRIBUTE,
    InputPartition,
    Located,
    Mark,
    ProfileAnswers,
    ProfileDefinition,
    Recording,
    Series,
    SeriesAnswers,
    id_hash,
    transaction_attributes,
    transaction_values,
)

#: The owner of a label's row, where a transaction's is its index in the batch.
LABEL_OWNER = -1
#: The entities that labels name.
LABEL_ENTITIES = ("card_id", "terminal_id")


class SeriesPlan(NamedTuple):
    """What is known of a series' entries before there is an event.

    Attributes
    ----------
    number
        The series' number in the definition.
    series
        Its definition.
    entity
        Takes the entity from an event; None where a transaction does not name one.
    records_transactions
        Whether transactions are recorded, or only look.
    nothing
        Values and attributes of an entry that has none to tell.
    unknown_row
        The row of a transaction that does not name the entity.
    """

    number: int
    series: Series
    entity: Callable[[Transaction | Label], str | None]
    records_transactions: bool
    nothing: tuple[tuple[int, ...], tuple[bytes, ...]]
    unknown_row: NDArray[np.int64]


def plans(definition: ProfileDefinition) -> tuple[SeriesPlan, ...]:
    """Work out the plan of every series.

    Raises
    ------
    ValueError
        A label series is of an entity that labels do not name.
    """
    return tuple(_plan(number, series) for number, series in enumerate(definition.series))


def _plan(number: int, series: Series) -> SeriesPlan:
    is_label = series.kind == "labels"
    if is_label and series.entity not in LABEL_ENTITIES:
        raise ValueError(f"labels do not name {series.entity}, the entity of {series.name}")
    return SeriesPlan(
        number,
        series,
        attrgetter(series.entity)
        if series.entity in TEXT_FIELDS
        else methodcaller("text", series.entity),
        not is_label,
        ((0,) * len(series.measures), (NO_ATTRIBUTE,) * len(series.attributes)),
        np.array([Recording.READ_ONLY, Mark.NONE, *unknown_answers(series)], dtype=np.int64),
    )


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

    def __init__(self, series_plans: Sequence[SeriesPlan], buckets: int) -> None:
        self._plans = series_plans
        self._label_plans = [plan for plan in series_plans if not plan.records_transactions]
        self._buckets = buckets
        self._open: dict[int, Call] = {}
        self.calls: list[Call] = []

    def add(self, located: Located, owner: int) -> None:
        """Add one event: all of its entries for one bucket stay in one call."""
        event = located.event
        hashed = id_hash(event.transaction_id)
        position = pack_position(located.partition, located.offset)
        if isinstance(event, Label):
            entries = self._label_entries(event, hashed, position)
        else:
            entries = self._transaction_entries(event, hashed, position)
        if self._buckets == 1:
            if entries:
                self._put(0, entries, located, owner)
            return
        by_bucket: dict[int, list[Entry]] = {}
        for entry in entries:
            by_bucket.setdefault(bucket_of(entry.entity, self._buckets), []).append(entry)
        for bucket, bucket_entries in by_bucket.items():
            self._put(bucket, bucket_entries, located, owner)

    def _put(self, bucket: int, entries: list[Entry], located: Located, owner: int) -> None:
        call = self._open.get(bucket)
        if call is None or len(call.entries) + len(entries) > CALL_ENTRIES_MAX:
            call = self._open[bucket] = Call(bucket)
            call.owners = {plan.number: [] for plan in self._plans}
            self.calls.append(call)
        call.entries += entries
        for entry in entries:
            call.owners[entry.series].append(owner)
        call.ends[located.partition] = located.offset + 1

    def _label_entries(self, label: Label, hashed: bytes, position: bytes) -> list[Entry]:
        entries = []
        for plan in self._label_plans:
            entity = plan.entity(label)
            assert entity is not None
            event = (label.event_time_ms, hashed, position, label.reported_at_ms)
            values = (int(label.is_fraud),)
            entries.append(Entry(plan.number, entity, True, *event, values, plan.nothing[1]))
        return entries

    def _transaction_entries(
        self, transaction: Transaction, hashed: bytes, position: bytes
    ) -> list[Entry]:
        entries = []
        time_ms = transaction.event_time_ms
        for number, series, entity_of, is_recorded, (values, attributes), _ in self._plans:
            entity = entity_of(transaction)
            if entity is None:
                continue
            if is_recorded and values:
                values = transaction_values(series, transaction)
            if is_recorded and attributes:
                attributes = transaction_attributes(series, transaction)
            entries.append(
                Entry(number, entity, is_recorded, time_ms, hashed, position, 0, values, attributes)
            )
        return entries


def answers_of(
    series_plans: Sequence[SeriesPlan],
    transactions: int,
    calls: Sequence[Call],
    replies: Sequence[BucketReply],
) -> ProfileAnswers:
    """Put the rows of a batch's replies in the order of its n transactions."""
    answers: dict[str, SeriesAnswers] = {}
    label_outcomes: list[int] = []
    for plan in series_plans:
        rows = np.tile(plan.unknown_row, (transactions, 1))
        is_absent = np.ones(transactions, dtype=np.bool_)
        for call, reply in zip(calls, replies, strict=True):
            found = reply.rows.get(plan.number)
            if found is None:
                continue
            owners = np.array(call.owners[plan.number], dtype=np.int64)
            if not plan.records_transactions:  # labels, among the transactions that look at them
                is_label = owners == LABEL_OWNER
                label_outcomes += found[is_label, 0].tolist()
                owners, found = owners[~is_label], found[~is_label]
            rows[owners] = found
            is_absent[owners] = False
        answers[plan.series.name] = _split(plan.series, rows, is_absent)
    return ProfileAnswers(
        answers,
        labels_too_late=label_outcomes.count(Recording.TOO_LATE),
        labels_superseded=label_outcomes.count(Recording.SUPERSEDED),
    )


def _split(series: Series, rows: NDArray[np.int64], is_absent: NDArray[np.bool_]) -> SeriesAnswers:
    """Take rows apart: outcome, marks, then each window's count and sums, then the scans."""
    windows, columns = len(series.windows), 1 + len(series.measures)
    first_scan = 2 + windows * columns
    by_window = rows[:, 2:first_scan].reshape(len(rows), windows, columns)
    return SeriesAnswers(
        rows[:, 0],
        rows[:, 1],
        by_window[:, :, 0],
        by_window[:, :, 1:],
        rows[:, first_scan:],
        is_absent,
    )
