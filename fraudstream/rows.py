"""Rows of a file: Parquet and CSV as columns, JSON lines as they are.

A first pass reads the event times alone, so that a file of some million rows can be put in order,
cut to a span and counted without becoming Python objects; the rows themselves are then made a
slice at a time.

Nothing is validated: a row that breaks the contract is given out as it is. A replay publishes it,
to become a dead letter like any other publisher's; training refuses it. Both read files here, so
that a model learns from what a worker would have seen. So each value keeps the type that the file
gives it; CSV has none, and its columns are numbers where all of their cells are.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.event import TransactionEvent
from fraudstream.mapping import EventMapping, FieldMapping, compile_mapping

#: A row without a time that can be read.
NO_TIME_MS: Final = np.iinfo(np.int64).min
_INT64_MAX: Final = np.iinfo(np.int64).max
_SLICE_ROWS: Final = 8_192
_SAMPLE_LINES: Final = 100
_TEXT_FIELDS: Final = ("transaction_id", "card_id", "terminal_id", "currency")
_NUMBER_FIELDS: Final = ("event_time", "amount_minor", "amount_base_minor")
_TRUE_WORDS: Final = (True, "1", "true", "True", "TRUE")
_FALSE_WORDS: Final = (False, "0", "false", "False", "FALSE")
_MS_PER_UNIT: Final = {"s": 1_000.0, "ms": 1.0, "us": 0.001}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

#: A JSON object under its own names, or a line that is none.
Row = dict[str, object] | bytes


class RowFile(Protocol):
    """A file of rows."""

    @property
    def columns(self) -> Sequence[str]:
        """The names that its rows have."""

    def times_ms(self) -> NDArray[np.int64]:
        """Read all event times, in the file's order; `NO_TIME_MS` where there is none."""

    def rows(self, order: NDArray[np.int64]) -> Iterator[Row]:
        """Read rows by their numbers, in the order of these."""


def open_rows(file: Path, mapping: EventMapping | None) -> RowFile:
    """Open a file; its suffix says of what kind it is.

    Raises
    ------
    UsageError
        It cannot be read, or is none of the kinds.
    """
    try:
        if file.suffix == ".parquet":
            return FrameFile(pl.read_parquet(file), file.name, mapping)
        if file.suffix == ".csv":
            text = pl.read_csv(file, infer_schema=False, truncate_ragged_lines=True)
            return FrameFile(_with_numbers(text, mapping), file.name, mapping, has_types=False)
        if file.suffix in (".jsonl", ".ndjson"):
            return LineFile(file, mapping)
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        # Without the library's own words: they may quote a row.
        raise UsageError(f"{file}: cannot be read as {file.suffix[1:]}") from error
    raise UsageError(f"{file.name}: the name must end in .parquet, .csv or .jsonl (JSON lines)")


def source_of(field: str, mapping: EventMapping | None) -> str:
    """Name the column that one of our fields comes from."""
    found = mapping.fields.get(field) if mapping is not None else None
    return found.source if found is not None and found.source is not None else field


def require_columns(
    file: RowFile, name: str, mapping: EventMapping | None, *, truth_for: str | None
) -> None:
    """Refuse a file all of whose rows would break the contract.

    Parameters
    ----------
    file, name, mapping
        The file, its name for messages, and what its columns mean.
    truth_for
        What ``is_fraud`` is needed for, in words; None if it is not.

    Raises
    ------
    UsageError
        It lacks columns.
    """
    needed = [field.name for field in msgspec.structs.fields(TransactionEvent) if field.required]
    needed += ["is_fraud"] if truth_for is not None else []
    fields = mapping.fields if mapping is not None else {}
    missing = [
        field
        for field in needed
        if not {field, source_of(field, mapping)} & set(file.columns)
        and (field not in fields or fields[field].value is None)
    ]
    if not missing:
        return
    why = f" ({truth_for})" if "is_fraud" in missing else ""
    found = ", ".join(file.columns) or "none"
    advice = (
        "if they have other names there, --mapping FILE says which, as "
        "configs/mappings/handbook.yaml does for the handbook's transactions"
        if mapping is None
        else "the mapping does not say where they come from, or names columns that are not there"
    )
    raise UsageError(f"{name} lacks {', '.join(missing)}{why}; its columns are {found}: {advice}")


def read_truth(value: object) -> bool | None:
    """Read ``is_fraud``; None for what says neither.

    Examples
    --------
    >>> read_truth(1), read_truth("false"), read_truth("maybe")
    (True, False, None)
    """
    if value in _TRUE_WORDS:
        return True
    return False if value in _FALSE_WORDS else None


def encode_row(row: Mapping[str, object]) -> bytes:
    """Write a row as the JSON that a publisher would send; what JSON has no type for is text."""
    try:
        return orjson.dumps(row, default=str)
    except TypeError:  # a number beyond 64 bits, half a character: refused where it is read
        return json.dumps(row, default=str).encode()


class FrameFile:
    """A file that is held as columns.

    Parameters
    ----------
    frame, name, mapping
        Its content, its name for messages, and what its columns mean.
    has_types
        False for CSV, where a cell of a column of numbers may be text.
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        name: str,
        mapping: EventMapping | None,
        *,
        has_types: bool = True,
    ) -> None:
        decimals = [n for n, kind in frame.schema.items() if isinstance(kind, pl.Decimal)]
        self._frame = frame.with_columns(pl.col(decimals).cast(pl.Float64))
        self._name = name
        self._mapping = mapping
        named = mapping.fields.get("event_time") if mapping is not None else None
        self._field = named or FieldMapping.model_validate({"from": "event_time"})
        self._mixed = [
            column
            for column in (source_of(field, mapping) for field in _NUMBER_FIELDS)
            if not has_types and frame.schema.get(column) == pl.String
        ]

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        return self._frame.columns

    @property
    def frame(self) -> pl.DataFrame:
        """The columns themselves."""
        return self._frame

    def times_ms(self) -> NDArray[np.int64]:
        """Read all event times.

        Raises
        ------
        UsageError
            The column has times without a zone, or no times at all.
        """
        column = source_of("event_time", self._mapping)
        series = self._frame[column]
        dtype = series.dtype
        if isinstance(dtype, pl.Datetime):
            return _filled(self._with_zone(series, dtype).dt.epoch("ms"))
        if dtype.is_integer() and self._field.unit in (None, "ms"):
            return _filled(series)
        if dtype.is_numeric():
            numbers = series.cast(pl.Float64) * _MS_PER_UNIT.get(self._field.unit or "ms", 1.0)
            return _filled(numbers.floor())
        if dtype == pl.String:
            read = time_reader(self._mapping)
            values = series.to_list()
            if column in self._mixed:
                values = [_number(value) for value in values]
            return np.array([read(value) for value in values], dtype=np.int64)
        raise UsageError(f"{self._name}: {column} holds {dtype}, which are no times")

    def _with_zone(self, series: pl.Series, dtype: pl.Datetime) -> pl.Series:
        if dtype.time_zone is not None:
            return series
        if self._field.zone is None:
            raise UsageError(
                f"{self._name}: the times in {series.name} have no zone; a mapping says which: "
                f"--mapping FILE with `event_time: {{from: {series.name}, zone: UTC}}`"
            )
        return series.dt.replace_time_zone(
            self._field.zone, ambiguous="earliest", non_existent="null"
        )

    def rows(self, order: NDArray[np.int64]) -> Iterator[Row]:
        """Read rows by their numbers."""
        is_stretch = len(order) > 0 and bool((np.diff(order) == 1).all())
        for start in range(0, len(order), _SLICE_ROWS):
            numbers = order[start : start + _SLICE_ROWS]
            if is_stretch:
                part = self._frame.slice(int(numbers[0]), len(numbers))
            else:
                part = self._frame[numbers]
            for row in part.iter_rows(named=True):
                for column in self._mixed:
                    row[column] = _number(row[column])
                yield row


class LineFile:
    """JSON lines: kept as bytes on the disk, found again by where each line begins."""

    def __init__(self, file: Path, mapping: EventMapping | None) -> None:
        self._file = file
        self._read_time = time_reader(mapping)
        self._time_column = source_of("event_time", mapping)
        self._starts = array("q")
        self._ends = array("q")
        self._times_ms = array("q")
        names: dict[str, None] = {}
        with file.open("rb") as lines:
            position = 0
            for line in lines:
                start, position = position, position + len(line)
                if line.isspace():
                    continue
                row = _decode(line)
                if isinstance(row, dict) and len(self._starts) < _SAMPLE_LINES:
                    names |= dict.fromkeys(row)
                self._starts.append(start)
                self._ends.append(position)
                self._times_ms.append(self._time_of(row))
        self._columns = list(names)

    @property
    def columns(self) -> Sequence[str]:
        """The names in the first lines."""
        return self._columns

    def times_ms(self) -> NDArray[np.int64]:
        """Give all event times."""
        return np.array(self._times_ms, dtype=np.int64)

    def rows(self, order: NDArray[np.int64]) -> Iterator[Row]:
        """Read lines by their numbers."""
        if not len(order):
            return
        with (
            self._file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            for start in range(0, len(order), _SLICE_ROWS):
                for number in order[start : start + _SLICE_ROWS].tolist():
                    yield _decode(content[self._starts[number] : self._ends[number]])

    def _time_of(self, row: Row) -> int:
        return self._read_time(row.get(self._time_column)) if isinstance(row, dict) else NO_TIME_MS


def time_reader(mapping: EventMapping | None) -> Callable[[object], int]:
    """Make a function that reads an event time as the worker will, for the order of the rows.

    Examples
    --------
    >>> read = time_reader(None)
    >>> read("2018-07-25T10:11:12.5Z"), read(1532513472500), read("yesterday") == NO_TIME_MS
    (1532513472500, 1532513472500, True)
    """
    field = mapping.fields.get("event_time") if mapping is not None else None
    column = source_of("event_time", mapping)
    apply = compile_mapping(EventMapping(fields={"event_time": field} if field else {}))

    def read(value: object) -> int:
        time = apply({column: value}).get("event_time")
        if isinstance(time, str):
            try:
                time = datetime.fromisoformat(time)
            except ValueError:
                return NO_TIME_MS
        if isinstance(time, datetime):
            return NO_TIME_MS if time.tzinfo is None else (time - _EPOCH) // _MILLISECOND
        if type(time) is int and abs(time) <= _INT64_MAX:
            return time
        return NO_TIME_MS

    return read


def _filled(series: pl.Series) -> NDArray[np.int64]:
    times_ms: NDArray[np.int64] = (
        series.cast(pl.Int64, strict=False).fill_null(NO_TIME_MS).to_numpy()
    )
    return times_ms


def _with_numbers(frame: pl.DataFrame, mapping: EventMapping | None) -> pl.DataFrame:
    """Turn columns of text into numbers where every cell is one; ids stay as they are written."""
    ids = {source_of(field, mapping) for field in _TEXT_FIELDS}
    found: list[pl.Series] = []
    for name in frame.columns:
        if name in ids:
            continue
        text = frame[name]
        for kind in (pl.Int64, pl.Float64):
            numbers = text.cast(kind, strict=False)
            if numbers.null_count() == text.null_count():
                found.append(numbers)
                break
    return frame.with_columns(found)


def _number(text: object) -> object:
    """Read a cell that should be a number; what is none stays text."""
    if not isinstance(text, str):
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _decode(line: bytes) -> Row:
    """Read a line; one that is no JSON object is given back as it is."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.rstrip(b"\r\n")
    return row if isinstance(row, dict) else line.rstrip(b"\r\n")
