"""Files of payments and of findings → checked columns, a stretch of the stream at a time.

    Parquet        read lazily: a stretch and its look-back at a time, if the file is in order
    CSV            held in memory, its columns checked like Parquet's
    JSON lines     read line by line as a worker reads them

The stream is the file in the order of event time; equal times keep the file's order. Rows without
a time that can be read stay behind the row before them until the check refuses them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import InvalidEventError, UsageError
from fraudstream.event import (
    EVENT_TIME_MAX_MS,
    EVENT_TIME_MIN_MS,
    TEXT_FIELDS,
    EventRules,
    Record,
    parse_label,
    parse_transaction,
)
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.offline.columns import UNKNOWN_AMOUNT
from fraudstream.offline.contract import Rules, check_labels, check_payments
from fraudstream.rows import (
    FrameFile,
    RowFile,
    encode_row,
    open_rows,
    read_truth,
    require_columns,
    source_of,
)

_TIMESTAMP_MS = 2**53  # the past is long over: no time is too far in the future of a file
_LABEL_FIELDS = (
    "transaction_id",
    "event_time",
    "card_id",
    "terminal_id",
    "is_fraud",
    "reported_at",
)


class PaymentSource:
    """A file's payments in the order of their stream.

    Parameters
    ----------
    file
        Parquet, CSV or JSON lines.
    rules
        How it is read.

    Attributes
    ----------
    times_ms
        Shape (n,), never falling: the event times of all rows, the unreadable ones made up.
    numbers
        Shape (n,): which row of the file each is; None if the file is in order.

    Raises
    ------
    UsageError
        It cannot be read, lacks columns, or has no row with a time.
    """

    def __init__(self, file: Path, rules: Rules) -> None:
        self._name = file.name
        truth_for = rules.truth_for if rules.needs_truth else None
        is_checked = False
        if file.suffix == ".parquet":
            self._lazy, times_ms = _scan(file, rules.mapping, truth_for)
        else:
            rows = open_rows(file, rules.mapping)
            require_columns(rows, file.name, rules.mapping, truth_for=truth_for)
            times_ms = rows.times_ms()
            if isinstance(rows, FrameFile):
                self._lazy = rows.frame.lazy()
                rules = replace(rules, has_types=False)
            else:
                self._lazy = _parsed(rows, rules, len(times_ms)).lazy()
                is_checked = True
        self._rules = None if is_checked else rules
        self.times_ms = _without_gaps(file.name, times_ms)
        self.numbers: NDArray[np.int64] | None = None
        if len(self.times_ms) and (self.times_ms[1:] < self.times_ms[:-1]).any():
            self.numbers = np.argsort(self.times_ms, kind="stable")
            self.times_ms = self.times_ms[self.numbers]
            self._lazy = self._lazy.collect()[self.numbers].lazy()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.times_ms)

    def read(self, first: int, last: int) -> pl.DataFrame:
        """Read and check the rows ``[first, last)`` of the stream.

        Returns
        -------
        checked
            As `fraudstream.offline.contract.check_payments` gives it.

        Raises
        ------
        UsageError
            The file is damaged.
        """
        try:
            rows = self._lazy.slice(first, last - first).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise UsageError(f"{self._name}: rows {first} to {last} cannot be read") from error
        return rows if self._rules is None else check_payments(rows, self._rules)


def read_labels(file: Path, mapping: EventMapping | None) -> pl.DataFrame:
    """Read and check a file of findings, whole.

    Returns
    -------
    checked
        As `fraudstream.offline.contract.check_labels` gives it.

    Raises
    ------
    UsageError
        It cannot be read, or lacks columns.
    """
    rows = open_rows(file, mapping)
    if mapping is not None and source_of("transaction_id", mapping) not in rows.columns:
        # Findings may have our own names although the payments have foreign ones.
        rows, mapping = open_rows(file, None), None
    fields = mapping.fields if mapping is not None else {}
    missing = [
        name
        for name in _LABEL_FIELDS
        if not {name, source_of(name, mapping)} & set(rows.columns)
        and (name not in fields or fields[name].value is None)
    ]
    if missing:
        raise UsageError(
            f"{file.name} lacks {', '.join(missing)}: findings have "
            f"{', '.join(_LABEL_FIELDS)}; its columns are {', '.join(rows.columns) or 'none'}"
        )
    if isinstance(rows, FrameFile):
        return check_labels(rows.frame, mapping)
    return _parsed_labels(rows, mapping)


def _scan(
    file: Path, mapping: EventMapping | None, truth_for: str | None
) -> tuple[pl.LazyFrame, NDArray[np.int64]]:
    """Open a Parquet file, reading the times alone."""
    column = source_of("event_time", mapping)
    try:
        lazy = pl.scan_parquet(file)
        none = FrameFile(lazy.head(0).collect(), file.name, mapping)
        require_columns(none, file.name, mapping, truth_for=truth_for)
        column = column if column in none.columns else "event_time"
        times = FrameFile(lazy.select(column).collect(), file.name, mapping)
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{file}: cannot be read as parquet") from error
    return lazy, times.times_ms()


def _without_gaps(name: str, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give rows without a time that of the row before, or of the first row that has one."""
    is_known = (times_ms >= EVENT_TIME_MIN_MS) & (times_ms <= EVENT_TIME_MAX_MS)
    if is_known.all():
        return times_ms
    if not is_known.any():
        raise UsageError(
            f"{name}: no row has an event time that can be read; times are RFC 3339 with a zone, "
            "or epoch milliseconds; for others --mapping FILE gives a unit or a zone"
        )
    numbers = np.where(is_known, np.arange(len(times_ms)), int(is_known.argmax()))
    return times_ms[np.maximum.accumulate(numbers)]


def _parsed(rows: RowFile, rules: Rules, count: int) -> pl.DataFrame:
    """Read payments row by row, as a worker does."""
    apply = compile_mapping(rules.mapping) if rules.mapping is not None else dict
    reading = EventRules(currency=rules.currency, extra_fields=rules.extra_fields)
    texts = (*TEXT_FIELDS, *rules.extra_fields)
    types: dict[str, pl.DataType] = dict.fromkeys(texts, pl.String())
    types |= {
        "event_time_ms": pl.Int64(),
        "amount_base_minor": pl.Int64(),
        "is_fraud": pl.Boolean(),
        "fault": pl.String(),
    }
    found: dict[str, list[object]] = {name: [] for name in types}
    for row in rows.rows(np.arange(count)):
        event = apply(row) if isinstance(row, dict) else {}
        truth = read_truth(event.pop("is_fraud", None))
        value = encode_row(event) if isinstance(row, dict) else row
        values: list[object] = [None] * len(types)
        try:
            payment = parse_transaction(Record("file", 0, 0, _TIMESTAMP_MS, None, value), reading)
        except InvalidEventError as error:
            values[-1] = str(error)
        else:
            amount = payment.amount_base_minor
            fault = "is_fraud: wrong_type" if rules.needs_truth and truth is None else None
            values = [payment.text(name) for name in texts]
            values += [payment.event_time_ms, UNKNOWN_AMOUNT if amount is None else amount]
            values += [truth, fault]
        for column, item in zip(found.values(), values, strict=True):
            column.append(item)
    return pl.DataFrame(found, schema=types)


def _parsed_labels(rows: RowFile, mapping: EventMapping | None) -> pl.DataFrame:
    """Read findings row by row, as a worker does."""
    apply = compile_mapping(mapping) if mapping is not None else dict
    ids = ("transaction_id", "card_id", "terminal_id")
    types: dict[str, pl.DataType] = dict.fromkeys(ids, pl.String())
    types |= {"event_time_ms": pl.Int64(), "reported_at_ms": pl.Int64()}
    types |= {"is_fraud": pl.Boolean(), "fault": pl.String()}
    found: dict[str, list[object]] = {name: [] for name in types}
    for row in rows.rows(np.arange(len(rows.times_ms()))):
        value = encode_row({"source": "file"} | apply(row)) if isinstance(row, dict) else row
        values: list[object] = [None] * len(types)
        try:
            label = parse_label(Record("file", 0, 0, _TIMESTAMP_MS, None, value), EventRules())
        except InvalidEventError as error:
            values[-1] = str(error)
        else:
            values = [getattr(label, name) for name in types if name != "fault"] + [None]
        for column, item in zip(found.values(), values, strict=True):
            column.append(item)
    return pl.DataFrame(found, schema=types)
