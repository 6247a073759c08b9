"""Events in bulk → sorted runs of records, one for each series of each entity.

    events ──add──▶ columns (times, hashes, positions, entity codes, …) ──take──▶ runs ──▶ merge

What a rebuild needs of an event is a handful of numbers. They are kept as columns, in the order of
arrival; `RunCollector.take` sorts them once by (entity, event time) and cuts them at the entities.
Sorting is stable, so equal times keep the order in which they came.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.profile_backend import SeriesRun, pack_position
from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    NO_ATTRIBUTE,
    SQUARE_LIMB_BITS,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Series,
    id_hash,
)

_ABSENT = -1
_HASH = np.dtype(">u8")
_LIMB = np.int64((1 << SQUARE_LIMB_BITS) - 1)

_Int64s = NDArray[np.int64]
_NumberT = TypeVar("_NumberT", np.int64, np.uint64)


class RunCollector:
    """Collects events until they are taken as runs.

    Parameters
    ----------
    definition
        The series to make runs of.
    on_entity
        Called with (event field, id) of each entity when it first comes since the last `take`.
    """

    def __init__(
        self,
        definition: ProfileDefinition,
        on_entity: Callable[[str, str], None] | None = None,
    ) -> None:
        self._definition = definition
        self._on_entity = on_entity
        self._entities = {series.entity for series in definition.series}
        self._clear()

    def __len__(self) -> int:
        """Return the number of events since the last `take`."""
        return len(self._transactions) + len(self._labels)

    def add_transactions(
        self, transactions: Sequence[Transaction], positions: Iterable[int]
    ) -> None:
        """Add payments, in the order in which they came.

        Parameters
        ----------
        transactions
            The n payments.
        positions
            Their n source positions as numbers (`positions_of`); 0: not through Kafka.
        """
        self._transactions.add(transactions, positions)

    def add_labels(self, labels: Sequence[Label], positions: Iterable[int]) -> None:
        """Add findings; as `add_transactions`."""
        self._labels.add(labels, positions)

    def take(self) -> Iterator[SeriesRun]:
        """Give what was collected as runs, one for each series of each entity, and begin anew.

        They are made one by one, as they are asked for: as columns they are much smaller.
        """
        transactions, labels = self._transactions, self._labels
        self._clear()
        return (
            run
            for number, series in enumerate(self._definition.series)
            for run in (labels if series.is_versioned else transactions).runs(number, series)
        )

    def _clear(self) -> None:
        texts = {field: _Texts() for field in self._fields("transactions")}
        labelled = {field: texts.get(field) or _Texts() for field in self._fields("labels")}
        for field in self._entities:
            # Both kinds of events share an entity's codes: it is announced once.
            shared = texts.get(field) or labelled[field]
            shared.on_new = self._announcer(field)
        self._transactions = _Transactions(texts)
        self._labels = _Labels(labelled)

    def _announcer(self, field: str) -> Callable[[str], None] | None:
        announce = self._on_entity
        return None if announce is None else lambda text: announce(field, text)

    def _fields(self, kind: str) -> list[str]:
        """Name the text fields that the series of a kind need."""
        chosen = [series for series in self._definition.series if series.kind == kind]
        fields = [field for s in chosen for field in (s.entity, *s.attributes)]
        return list(dict.fromkeys(fields))


def positions_of(partition: InputPartition, offsets: Iterable[int]) -> list[int]:
    """Give source positions as numbers.

    Examples
    --------
    >>> [hex(position) for position in positions_of(InputPartition(1, 3), [41])]
    ['0x10003000000002a']
    """
    base = int.from_bytes(pack_position(partition, -1), "big")
    return [base + offset + 1 for offset in offsets]


def add_batch(collector: RunCollector, batch: ProfileBatch) -> None:
    """Add the events of a batch with the places that they were read from."""
    transactions = [one.event for one in batch.transactions if isinstance(one.event, Transaction)]
    labels = [one.event for one in batch.labels if isinstance(one.event, Label)]
    collector.add_transactions(transactions, _places(batch.transactions))
    collector.add_labels(labels, _places(batch.labels))


def _places(located: Sequence[Located]) -> list[int]:
    bases = {p: positions_of(p, [0])[0] for p in {one.partition for one in located}}
    return [bases[one.partition] + one.offset for one in located]


def portions(runs: Iterable[SeriesRun], records_max: int) -> Iterator[list[SeriesRun]]:
    """Cut a sequence of runs into lists of at most so many records, or one run."""
    portion: list[SeriesRun] = []
    records = 0
    for run in runs:
        if portion and records + len(run) > records_max:
            yield portion
            portion, records = [], 0
        portion.append(run)
        records += len(run)
    if portion:
        yield portion


class _Texts:
    """A text column, kept as numbers: each text is held once."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.on_new: Callable[[str], None] | None = None

    def encode(self, values: Iterable[str | None]) -> list[int]:
        codes = self.codes
        found = []
        for value in values:
            code = codes.get(value, _ABSENT) if value is not None else _ABSENT
            if code == _ABSENT and value is not None:
                code = codes[value] = len(codes)
                if self.on_new is not None:
                    self.on_new(value)
            found.append(code)
        return found

    def hashes(self, codes: _Int64s) -> NDArray[np.uint64]:
        """Give the attribute hashes of codes; zero where there is no text."""
        packed = b"".join((*(id_hash(text) for text in self.codes), NO_ATTRIBUTE))
        # The hash of "none" is the last one, where the code -1 points.
        table: NDArray[np.uint64] = np.frombuffer(packed, dtype=_HASH)
        return table[codes]


class _Columns:
    """What both kinds of events have."""

    def __init__(self, texts: Mapping[str, _Texts]) -> None:
        self._texts = texts
        self._codes = {field: array("q") for field in texts}
        self._times_ms = array("q")
        self._positions = array("Q")
        self._hashes = bytearray()

    def __len__(self) -> int:
        return len(self._times_ms)

    def _add_common(
        self, events: Sequence[Transaction] | Sequence[Label], positions: Iterable[int]
    ) -> None:
        self._times_ms.extend([event.event_time_ms for event in events])
        self._positions.extend(positions)
        self._hashes += b"".join([id_hash(event.transaction_id) for event in events])

    def _versions_ms(self) -> _Int64s:
        return np.zeros(len(self), dtype=np.int64)

    def _measure(self, name: str) -> _Int64s:
        raise NotImplementedError

    def runs(self, number: int, series: Series) -> Iterator[SeriesRun]:
        """Sort by entity and time, and cut at the entities."""
        if not len(self):
            return
        codes = np.frombuffer(self._codes[series.entity], dtype=np.int64)
        times_ms = np.frombuffer(self._times_ms, dtype=np.int64)
        order = np.lexsort((times_ms, codes))
        order = order[np.searchsorted(codes[order], 0) :]  # those without the entity come first
        if not len(order):
            return
        codes, times_ms = codes[order], times_ms[order]
        hashes: NDArray[np.uint64] = np.frombuffer(bytes(self._hashes), dtype=_HASH)[order]
        positions: NDArray[np.uint64] = np.frombuffer(self._positions, dtype=np.uint64)[
            order
        ].astype(_HASH)
        versions_ms = self._versions_ms()[order]
        values = _stack([self._measure(name)[order] for name in series.measures], len(order), "<i8")
        attributes = _stack(
            [self._attribute(name, order) for name in series.attributes], len(order), ">u8"
        )
        names = list(self._texts[series.entity].codes)
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = np.append(starts[1:], len(codes))
        for code, start, end in zip(
            codes[starts].tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            part = slice(start, end)
            yield SeriesRun(
                number,
                names[code],
                times_ms[part],
                hashes[part],
                positions[part],
                versions_ms[part],
                values[part],
                attributes[part],
            )

    def _attribute(self, name: str, order: NDArray[np.intp]) -> NDArray[np.uint64]:
        codes = np.frombuffer(self._codes[name], dtype=np.int64)[order]
        return self._texts[name].hashes(codes)


class _Transactions(_Columns):
    """Payments: with an amount, or without one in the profiles' currency."""

    def __init__(self, texts: Mapping[str, _Texts]) -> None:
        super().__init__(texts)
        self._amounts_minor = array("q")

    def add(self, events: Sequence[Transaction], positions: Iterable[int]) -> None:
        self._add_common(events, positions)
        amounts = [event.amount_base_minor for event in events]
        self._amounts_minor.extend([-1 if amount is None else amount for amount in amounts])
        for field, texts in self._texts.items():
            values: Iterable[str | None]
            if field == "card_id":
                values = [event.card_id for event in events]
            elif field == "terminal_id":
                values = [event.terminal_id for event in events]
            else:
                values = [event.text(field) for event in events]
            self._codes[field].extend(texts.encode(values))

    def _measure(self, name: str) -> _Int64s:
        amounts = np.frombuffer(self._amounts_minor, dtype=np.int64)
        if name == "amount_known":
            return (amounts >= 0).astype(np.int64)
        known = np.maximum(amounts, 0)
        return known if name == "amount_minor" else square_limbs(known)[int(name[-1])]


class _Labels(_Columns):
    """Findings: true or false, and when they were made."""

    def __init__(self, texts: Mapping[str, _Texts]) -> None:
        super().__init__(texts)
        self._reported_at_ms = array("q")
        self._are_fraud = array("q")

    def add(self, events: Sequence[Label], positions: Iterable[int]) -> None:
        self._add_common(events, positions)
        self._reported_at_ms.extend([event.reported_at_ms for event in events])
        self._are_fraud.extend([event.is_fraud for event in events])
        for field, texts in self._texts.items():
            self._codes[field].extend(texts.encode([getattr(event, field) for event in events]))

    def _versions_ms(self) -> _Int64s:
        return np.frombuffer(self._reported_at_ms, dtype=np.int64)

    def _measure(self, name: str) -> _Int64s:
        assert name == "fraud"
        return np.frombuffer(self._are_fraud, dtype=np.int64)


def square_limbs(amounts_minor: _Int64s) -> tuple[_Int64s, _Int64s, _Int64s]:
    """Square amounts of at most 10^12, in three limbs of 27 bits, lowest first.

    Examples
    --------
    >>> limbs = square_limbs(np.array([10**12]))
    >>> sum(int(limb[0]) << 27 * place for place, limb in enumerate(limbs)) == 10**24
    True
    """
    low, high = amounts_minor & _LIMB, amounts_minor >> SQUARE_LIMB_BITS
    lowest = low * low
    middle = 2 * high * low + (lowest >> SQUARE_LIMB_BITS)
    return lowest & _LIMB, middle & _LIMB, high * high + (middle >> SQUARE_LIMB_BITS)


def _stack(columns: Sequence[NDArray[_NumberT]], rows: int, dtype: str) -> NDArray[_NumberT]:
    """Put n columns of so many rows side by side, shape (rows, n), also where there is none."""
    stacked = np.column_stack(columns) if columns else np.empty((rows, 0))
    return stacked.astype(dtype, copy=False)
