"""``fraudstream features``: a file of payments in, a Parquet file of their features out.

    stream    │ look-back │ stretch │            the past of a stretch is read again, not kept
              │           │ look-back │ stretch │
                               └──▶ written ──▶ written

Every window is bounded, so a stretch of the stream needs no more than so much before it: a file in
order of event time is read, evaluated and written a stretch at a time. One that is not is held in
memory, because what is written has the order of what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.offline.columns import Payments
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.labels import Findings
from fraudstream.offline.sources import PaymentSource

#: How many rows are evaluated at a time, at least; more where more lie in the look-back.
STRETCH_ROWS: Final = 400_000
_ID_FIELDS: Final = ("transaction_id", "card_id", "terminal_id")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is made of which rows.

    Parameters
    ----------
    evaluator
        The features.
    extra_fields
        Fields beyond the contract that they read.
    from_ms, until_ms
        Which rows are written, by their event time: ``[from, until)``; None leaves that end open.
        What lies before is past: its windows are whole as far as the file goes back.
    is_lenient
        Leave out rows that break the event contract, instead of refusing the file.
    stretch_rows
        How many rows are evaluated at a time, at least.
    """

    evaluator: Evaluator
    extra_fields: tuple[str, ...] = ()
    from_ms: int | None = None
    until_ms: int | None = None
    is_lenient: bool = False
    stretch_rows: int = STRETCH_ROWS


@dataclass(slots=True)
class Written:
    """What became of the rows: how many were written, and how many refused, by fault."""

    rows: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def write_features(
    source: PaymentSource, name: str, out: Path, plan: Plan, on_progress: Callable[[int], None]
) -> Written:
    """Evaluate a file's payments and write their features.

    Parameters
    ----------
    source, name
        The payments, and their file's name for messages.
    out
        A Parquet file; until it is whole it has another name.
    plan
        What is made.
    on_progress
        Told how many rows of the stream are done.

    Raises
    ------
    UsageError
        No row lies in the span, rows break the contract, or the file cannot be written.
    """
    first, last = _span(source, name, plan)
    written = Written()
    unfinished = out.with_name(f".{out.name}.unfinished")
    with _told(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            parts = _parts(source, name, plan, written, (first, last))
            if source.numbers is not None:
                parts = _in_order_of_file(parts, source.numbers)
            _write(parts, unfinished, plan.evaluator, on_progress)
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
    return written


def take_findings(checked: pl.DataFrame, name: str, *, is_lenient: bool) -> Findings:
    """Make findings of a checked file.

    Raises
    ------
    UsageError
        Rows break the contract, and are not to be left out.
    """
    faults = count_faults(checked)
    if faults and not is_lenient:
        raise _refusal(name, faults, _first_fault(checked) + 1, checked)
    good = checked.filter(pl.col("fault").is_null())
    return Findings(
        good["event_time_ms"].to_numpy(),
        good["reported_at_ms"].to_numpy(),
        good["is_fraud"].to_numpy(),
        good.select(_ID_FIELDS),
    )


def _span(source: PaymentSource, name: str, plan: Plan) -> tuple[int, int]:
    times_ms = source.times_ms
    if not len(times_ms):
        raise UsageError(f"{name} holds no rows")
    first = 0 if plan.from_ms is None else int(np.searchsorted(times_ms, plan.from_ms))
    last = len(times_ms)
    if plan.until_ms is not None:
        last = int(np.searchsorted(times_ms, plan.until_ms))
    if first >= last:
        raise UsageError(
            f"{name}: no row lies between --from and --until; its {len(times_ms)} rows go from "
            f"{format_time(int(times_ms[0]))} to {format_time(int(times_ms[-1]))}"
        )
    return first, last


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A stretch that was evaluated: rows of the stream, and what is written of them."""

    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    frame: pl.DataFrame
    done: int


def _parts(
    source: PaymentSource, name: str, plan: Plan, written: Written, span: tuple[int, int]
) -> Iterator[_Part]:
    """Evaluate the stream a stretch at a time."""
    times_ms, (first, end) = source.times_ms, span
    judged = None
    while first < end:
        reach_ms = int(times_ms[first]) - plan.evaluator.reach_ms
        before = int(np.searchsorted(times_ms, reach_ms))
        last = min(first + max(plan.stretch_rows, first - before), end)
        # Payments of one millisecond stay together: copies of each other may be among them.
        last = int(np.searchsorted(times_ms, times_ms[last - 1], side="right"))
        last = min(last, end)
        checked = source.read(before, last)
        judged = before if judged is None else judged
        if _judge(checked.slice(judged - before), written, plan):
            _refuse_all(source, name, judged, end)
        judged = last
        rows = np.flatnonzero(checked["fault"].is_null().to_numpy())
        payments = payments_of(checked[rows], plan)
        start = int(np.searchsorted(rows, first - before))
        frame = _frame(payments, start, plan.evaluator)
        written.rows += len(frame)
        yield _Part(rows[start:] + before, frame, last - first)
        first = last


def _judge(checked: pl.DataFrame, written: Written, plan: Plan) -> bool:
    """Count faults; say whether they are to be refused."""
    for fault, count in count_faults(checked).items():
        written.faults[fault] = written.faults.get(fault, 0) + count
    return bool(written.faults) and not plan.is_lenient


def _refuse_all(source: PaymentSource, name: str, first: int, end: int) -> None:
    """Count the faults of all that is left before the file is refused."""
    faults: dict[str, int] = {}
    number, example = 0, pl.DataFrame()
    for start in range(first, end, STRETCH_ROWS):
        checked = source.read(start, min(start + STRETCH_ROWS, end))
        found = count_faults(checked)
        if found and not faults:
            row = start + _first_fault(checked)
            number = 1 + (row if source.numbers is None else int(source.numbers[row]))
            example = checked
        for fault, count in found.items():
            faults[fault] = faults.get(fault, 0) + count
    raise _refusal(name, faults, number, example)


def _refusal(name: str, faults: dict[str, int], number: int, checked: pl.DataFrame) -> UsageError:
    first = checked["fault"].drop_nulls()[0]
    counted = ", ".join(f"{fault} ({count:,})" for fault, count in faults.items())
    return UsageError(
        f"{name}: row {number:,}: {first}. Rows that break the event contract: {counted}. "
        "--skip-invalid leaves them out"
    )


def count_faults(checked: pl.DataFrame) -> dict[str, int]:
    """Count rows by fault, the most frequent first."""
    counts = checked["fault"].drop_nulls().value_counts(sort=True)
    return dict(counts.rows())


def _first_fault(checked: pl.DataFrame) -> int:
    first = checked["fault"].is_not_null().arg_max()
    assert first is not None
    return first


def payments_of(checked: pl.DataFrame, plan: Plan) -> Payments:
    """Take the columns out of checked rows without faults."""
    return Payments(
        checked["event_time_ms"].to_numpy(),
        checked["amount_base_minor"].to_numpy(),
        checked.select(*_ID_FIELDS, "currency", *plan.extra_fields),
        checked["is_fraud"].fill_null(value=False).to_numpy(),
    )


def _frame(payments: Payments, start: int, evaluator: Evaluator) -> pl.DataFrame:
    vectors = evaluator.build(payments, start)
    texts = payments.texts[start:]
    times = pl.Series(payments.event_time_ms[start:]).cast(pl.Datetime("ms", "UTC"))
    columns = [texts["transaction_id"], times.alias("event_time")]
    columns += [texts["card_id"], texts["terminal_id"]]
    for index, name in enumerate(evaluator.names):
        columns.append(pl.Series(name, np.ascontiguousarray(vectors[:, index])))
    return pl.DataFrame(columns)


def _in_order_of_file(
    parts: Iterator[_Part], numbers: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Iterator[_Part]:
    """Collect all parts, and give them back in the order of the file."""
    collected = list(parts)
    rows = np.concatenate([numbers[part.rows] for part in collected])
    order = np.argsort(rows)
    frame = pl.concat([part.frame for part in collected])
    yield _Part(rows[order], frame[order], sum(part.done for part in collected))


def _write(
    parts: Iterator[_Part], file: Path, evaluator: Evaluator, on_progress: Callable[[int], None]
) -> None:
    writer: pq.ParquetWriter | None = None
    metadata = {
        "fraudstream.feature_set": f"{evaluator.feature_set.name} {evaluator.feature_set.sha256}",
        "fraudstream.labels": str(evaluator.labels or "none"),
    }
    try:
        for part in parts:
            table = part.frame.to_arrow()
            if writer is None:
                schema = table.schema.with_metadata(metadata)
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(metadata))
            on_progress(part.done)
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out {file}: cannot be written ({reason})") from error
