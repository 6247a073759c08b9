"""A file's rows as payments: in order, cut to a span, under the names that the topic uses.

rows ──first pass: times──▶ order, span, count
 └────a slice at a time──▶ mapped ──▶ payment, and what its label will say

A row that breaks the contract goes on as it is, to become a dead letter; a file that lacks a whole
column of it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.event import EVENT_TIME_MAX_MS, format_time
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.replay.span import TimeSpan
from fraudstream.replay.stream import FINDING_FIELDS, Finding, Payment
from fraudstream.rows import (
    Row,
    encode_row,
    open_rows,
    read_truth,
    require_columns,
    source_of,
)

#: The truth is not the worker's to know: the contract's name for it, and the simulator's detail.
_TRUTH = ("is_fraud", "fraud_kind")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64_MAX = np.iinfo(np.int64).max
#: As the schema registry writes it: a zero byte, and the number of a schema.
CONFLUENT_FRAMING = b"\0\0\0\0\0"


@dataclass(frozen=True, slots=True)
class RowForm:
    """How a row is read, and in what form it is published.

    Parameters
    ----------
    mapping
        What the file's columns mean; None if they have our names.
    is_mapped_by_worker
        The topic carries the file's own names, because the worker has the same mapping.
    framing
        Put before each record's JSON.
    """

    mapping: EventMapping | None = None
    is_mapped_by_worker: bool = False
    framing: bytes = b""

    def reader(self) -> Callable[[Row, int], Payment]:
        """Make a function of a row and its time that gives the payment."""
        apply = compile_mapping(self.mapping) if self.mapping is not None else dict
        hidden = {*_TRUTH, source_of("is_fraud", self.mapping)}
        repeated = self._repeated()

        def read(row: Row, time_ms: int) -> Payment:
            if isinstance(row, bytes):
                return Payment(time_ms, None, self.framing + row)
            event = apply(row)
            is_fraud = read_truth(event.get("is_fraud")) or False
            event["event_time"] = _published_time(event.get("event_time"))
            body = row if self.is_mapped_by_worker else event
            for name in hidden:
                body.pop(name, None)
            card_id = event.get("card_id")
            return Payment(
                time_ms,
                None if card_id is None else str(card_id).encode(),
                self.framing + encode_row(body),
                _finding(event, body, repeated) if is_fraud else None,
            )

        return read

    def _repeated(self) -> list[str]:
        """Name the columns of a published payment that its label repeats."""
        if not self.is_mapped_by_worker:
            return list(FINDING_FIELDS)
        # A worker maps labels as it maps payments. A row may also have our own name at once.
        columns = (name for f in FINDING_FIELDS for name in (source_of(f, self.mapping), f))
        return list(dict.fromkeys(columns))


class PaymentFile:
    """A file's payments in event-time order.

    Parameters
    ----------
    file
        Parquet, CSV or JSON lines.
    form
        How its rows are read.
    span
        Which of them are taken, by their event time.
    labels_after_ms
        How long after a payment its label is sent; None if none is. The frauds of so long before
        the span are read too, without a value: their labels fall into it.

    Attributes
    ----------
    first_ms, last_ms
        Event times of the first and the last payment.
    is_in_order
        Whether the file was in event-time order. Equal times keep its order.
    without_time
        How many rows have no time that can be read. They stay behind the row before them.

    Raises
    ------
    UsageError
        It cannot be read, lacks columns, or holds nothing in the span.
    """

    def __init__(
        self, file: Path, form: RowForm, span: TimeSpan, *, labels_after_ms: int | None = None
    ) -> None:
        self._file = open_rows(file, form.mapping)
        self._form = form
        truth_for = None if labels_after_ms is None else "for --labels-after"
        require_columns(self._file, file.name, form.mapping, truth_for=truth_for)
        times_ms, self.without_time = _without_gaps(file.name, self._file.times_ms())
        numbers = _in_span(file.name, times_ms, span, before_ms=labels_after_ms or 0)
        chosen_ms = times_ms[numbers]
        self.is_in_order = bool((chosen_ms[1:] >= chosen_ms[:-1]).all())
        if not self.is_in_order:
            order = np.argsort(chosen_ms, kind="stable")
            numbers, chosen_ms = numbers[order], chosen_ms[order]
        self._numbers, self._times_ms = numbers, chosen_ms
        self._before = 0 if span.from_ms is None else int((chosen_ms < span.from_ms).sum())
        self.first_ms, self.last_ms = int(chosen_ms[self._before]), int(chosen_ms[-1])

    def __len__(self) -> int:
        """Return the number of payments in the span."""
        return len(self._numbers) - self._before

    def __iter__(self) -> Iterator[Payment]:
        """Read the payments, a slice at a time."""
        read = self._form.reader()
        rows = zip(self._file.rows(self._numbers), self._times_ms, strict=True)
        for number, (row, time_ms) in enumerate(rows):
            payment = read(row, int(time_ms))
            if number >= self._before:
                yield payment
            elif payment.finding is not None:
                yield payment._replace(value=None)


def _without_gaps(name: str, times_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Give rows without a time that of the row before, or of the first row that has one."""
    if not len(times_ms):
        raise UsageError(f"{name} holds no rows")
    # Nor has one whose time lies before 1970 or cannot be written: they sort to nowhere.
    is_known = (times_ms >= 0) & (times_ms <= EVENT_TIME_MAX_MS)
    if is_known.all():
        return times_ms, 0
    if not is_known.any():
        raise UsageError(
            f"{name}: no row has an event time that can be read; times are RFC 3339 with a zone, "
            "or epoch milliseconds; for others --mapping FILE gives a unit or a zone"
        )
    numbers = np.where(is_known, np.arange(len(times_ms)), int(is_known.argmax()))
    return times_ms[np.maximum.accumulate(numbers)], int((~is_known).sum())


def _in_span(
    name: str, times_ms: NDArray[np.int64], span: TimeSpan, *, before_ms: int
) -> NDArray[np.int64]:
    """Give the numbers of the rows in the span, and of those at most so long before it."""
    is_inside = np.ones(len(times_ms), dtype=np.bool_)
    is_wanted = is_inside
    if span.from_ms is not None:
        is_inside = times_ms >= span.from_ms
        is_wanted = times_ms >= span.from_ms - before_ms
    if span.until_ms is not None:
        is_inside = is_inside & (times_ms < span.until_ms)
        is_wanted = is_wanted & (times_ms < span.until_ms)
    if not is_inside.any():
        raise UsageError(
            f"{name}: no row lies between --from and --until; its {len(times_ms)} rows go from "
            f"{format_time(int(times_ms.min()))} to {format_time(int(times_ms.max()))}"
        )
    return np.flatnonzero(is_wanted)


def _published_time(value: object) -> object:
    """Write datetimes and epoch milliseconds as RFC 3339; leave all else for validation."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = (value - _EPOCH) // timedelta(milliseconds=1)
    if type(value) is int and 0 <= value <= EVENT_TIME_MAX_MS:
        return format_time(value)
    if type(value) is int and abs(value) > _INT64_MAX:
        return str(value)  # as refused as the number, which a label could not be written with
    return value


def _finding(
    event: Mapping[str, object], published: Mapping[str, object], repeated: Sequence[str]
) -> Finding | None:
    """Take what a label repeats of its payment; None if that has not got it."""
    if any(event.get(name) is None for name in FINDING_FIELDS):
        return None
    same = {name: published[name] for name in repeated if name in published}
    return Finding(str(event["terminal_id"]), same)
