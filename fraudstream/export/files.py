"""Columns → a file, slice after slice: Parquet, CSV or JSON lines, as its suffix says."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from fraudstream.errors import UsageError
from fraudstream.event import EVENT_TIME_MAX_MS, Record, format_time
from fraudstream.export.columns import Columns, Table, TopicKind


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written."""

    topic: str
    file: Path
    records: int
    columns: int
    seconds: float


class _Writer(Protocol):
    def write(self, columns: Columns) -> None:
        """Write the next rows."""

    def close(self) -> None:
        """Finish the file."""


def require_suffix(file: Path) -> None:
    """Refuse a file that nothing here can write.

    Raises
    ------
    UsageError
        An unknown suffix, or the name of a folder.
    """
    if file.suffix not in _WRITERS:
        raise UsageError(f"--out {file}: the name must end in {', '.join(_WRITERS)}")
    if file.is_dir():
        raise UsageError(f"--out {file} is a folder: give the name of a file, perhaps one in it")


def write_file(
    slices: Iterator[Sequence[Record]], topic: str, kind: TopicKind, file: Path
) -> ExportSummary:
    """Write records to a file.

    Until it is whole it has another name: an export that breaks off, by SIGTERM too, leaves what
    was there and nothing else.

    Parameters
    ----------
    slices
        The records, some thousands at a time.
    topic, kind
        Where they are from, and what they are.
    file
        Where to.

    Raises
    ------
    UsageError
        An unknown suffix, a place that cannot be written to, or a full disk.
    """
    require_suffix(file)
    started_s = time.monotonic()
    unfinished = file.with_name(f".{file.name}.unfinished")
    with _told(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    with _ended_by_exception():
        try:
            records, columns = _write(slices, kind, file, unfinished)
            with _told(file):
                unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return ExportSummary(topic, file, records, columns, time.monotonic() - started_s)


def _write(
    slices: Iterator[Sequence[Record]], kind: TopicKind, file: Path, unfinished: Path
) -> tuple[int, int]:
    """Write all slices; give the number of rows and of columns."""
    part: Sequence[Record] | None = next(slices, [])
    table = Table(kind, part or [])
    records = 0
    with _told(file):
        writer = _WRITERS[file.suffix](unfinished, table.schema)
        try:
            while part is not None:
                writer.write(table.columns(part))
                records += len(part)
                part = next(slices, None)
        finally:
            writer.close()
    return records, len(table.schema)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what the file system refuses, at whatever moment, into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out {file}: cannot be written ({reason})") from error


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Let SIGTERM raise instead of ending the process at once: something is to be removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what becomes of a signal
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _arrow(columns: Columns, schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


class _Parquet:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def write(self, columns: Columns) -> None:
        self._writer.write_table(_arrow(columns, self._schema))

    def close(self) -> None:
        self._writer.close()


class _Csv:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pa_csv.CSVWriter(file, schema)

    def write(self, columns: Columns) -> None:
        self._writer.write(_arrow(columns, self._schema))

    def close(self) -> None:
        self._writer.close()


class _JsonLines:
    # Not by way of Arrow: a float32 would be written with the digits of its double.
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._names = schema.names
        self._file = file.open("wb")

    def write(self, columns: Columns) -> None:
        columns["timestamp"] = [_shown(time_ms) for time_ms in columns["timestamp"]]
        for values in zip(*(columns[name] for name in self._names), strict=True):
            row = dict(zip(self._names, values, strict=True))
            self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


def _shown(time_ms: object) -> str | None:
    is_time = isinstance(time_ms, int) and time_ms <= EVENT_TIME_MAX_MS
    return format_time(int(str(time_ms))) if is_time else None


_WRITERS: dict[str, Callable[[Path, pa.Schema], _Writer]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _JsonLines,
}
