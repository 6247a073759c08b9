"""What was made of a file's payments → a Parquet file, a stretch at a time.

What is written has the order of what was read: a file in order of event time is never held as a
whole, one that is not is put back into its order at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.labels import Findings
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import (
    ID_FIELDS,
    Evaluated,
    Plan,
    Tally,
    count_faults,
    evaluate_stretches,
    first_fault,
    refusal,
)


@dataclass(frozen=True, slots=True)
class Output:
    """What is written where.

    Parameters
    ----------
    file
        A Parquet file; until it is whole it has another name.
    make
        Makes a row of each payment of a stretch.
    metadata
        Said in the file: what it was made with.
    """

    file: Path
    make: Callable[[Evaluated], pl.DataFrame]
    metadata: Mapping[str, str]


def write_features(
    source: PaymentSource, name: str, out: Path, plan: Plan, on_progress: Callable[[int], None]
) -> Tally:
    """Evaluate a file's payments and write their features.

    Parameters
    ----------
    source, name
        The payments, and their file's name for messages.
    out
        A Parquet file.
    plan
        What is made.
    on_progress
        Told how many rows of the stream are done.

    Raises
    ------
    UsageError
        As for `write_evaluated`.
    """
    names = plan.evaluator.names
    output = Output(out, lambda part: _feature_frame(part, names), describe(plan.evaluator))
    return write_evaluated(source, name, plan, output, on_progress)


def write_evaluated(
    source: PaymentSource,
    name: str,
    plan: Plan,
    output: Output,
    on_progress: Callable[[int], None],
) -> Tally:
    """Evaluate a file's payments and write what is made of them.

    Raises
    ------
    UsageError
        No row lies in the span, rows break the contract, or the file cannot be written.
    """
    tally = Tally()
    stretches = evaluate_stretches(source, name, plan, tally)
    frames: Iterator[_Part] = ((part.rows, output.make(part), part.done) for part in stretches)
    if source.numbers is not None:
        frames = _in_order_of_file(frames, source.numbers)
    unfinished = output.file.with_name(f".{output.file.name}.unfinished")
    with _told(output.file):
        output.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(frames, unfinished, output.metadata, on_progress)
            unfinished.replace(output.file)
        finally:
            unfinished.unlink(missing_ok=True)
    return tally


def describe(evaluator: Evaluator) -> dict[str, str]:
    """Say which features a file was made with, and when they knew of frauds."""
    return {
        "fraudstream.feature_set": f"{evaluator.feature_set.name} {evaluator.feature_set.sha256}",
        "fraudstream.labels": str(evaluator.labels or "none"),
    }


def take_findings(checked: pl.DataFrame, name: str, *, is_lenient: bool) -> Findings:
    """Make findings of a checked file.

    Raises
    ------
    UsageError
        Rows break the contract, and are not to be left out.
    """
    faults = count_faults(checked)
    if faults and not is_lenient:
        raise refusal(name, faults, first_fault(checked) + 1, checked)
    good = checked.filter(pl.col("fault").is_null())
    return Findings(
        good["event_time_ms"].to_numpy(),
        good["reported_at_ms"].to_numpy(),
        good["is_fraud"].to_numpy(),
        good.select(ID_FIELDS),
    )


def _feature_frame(part: Evaluated, names: list[str]) -> pl.DataFrame:
    texts = part.payments.texts[part.first :]
    times = pl.Series(part.payments.event_time_ms[part.first :]).cast(pl.Datetime("ms", "UTC"))
    columns = [texts["transaction_id"], times.alias("event_time")]
    columns += [texts["card_id"], texts["terminal_id"]]
    for index, name in enumerate(names):
        columns.append(pl.Series(name, np.ascontiguousarray(part.vectors[:, index])))
    return pl.DataFrame(columns)


#: Rows of the stream, what is written of them, and how many rows of the stream are done.
_Part = tuple[NDArray[np.int64], pl.DataFrame, int]


def _in_order_of_file(parts: Iterable[_Part], numbers: NDArray[np.int64]) -> Iterator[_Part]:
    """Collect all parts, and give them back in the order of the file."""
    collected = list(parts)
    rows = np.concatenate([numbers[rows] for rows, _, _ in collected])
    order = np.argsort(rows)
    frame = pl.concat([frame for _, frame, _ in collected])
    yield rows[order], frame[order], sum(done for _, _, done in collected)


def _write(
    parts: Iterable[_Part],
    file: Path,
    metadata: Mapping[str, str],
    on_progress: Callable[[int], None],
) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for _, frame, done in parts:
            table = frame.to_arrow().replace_schema_metadata(dict(metadata))
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            on_progress(done)
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
