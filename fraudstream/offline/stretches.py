"""A file of payments, evaluated a stretch of its stream at a time.

    stream    │ look-back │ stretch │            the past of a stretch is read again, not kept
              │           │ look-back │ stretch │
                               └──▶ vectors ──▶ vectors

Every window is bounded, so a stretch of the stream needs no more than so much before it: a file in
order of event time is read and evaluated a stretch at a time. One that is not is held in memory by
its `PaymentSource`. Rows that break the event contract refuse the file, or are counted and left
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.offline.columns import Payments
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.sources import PaymentSource

#: How many rows are evaluated at a time, at least; more where more lie in the look-back.
STRETCH_ROWS: Final = 400_000
ID_FIELDS: Final = ("transaction_id", "card_id", "terminal_id")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which features are made of which rows.

    Parameters
    ----------
    evaluator
        The features.
    extra_fields
        Fields beyond the contract that they read.
    from_ms, until_ms
        Which rows are evaluated, by their event time: ``[from, until)``; None leaves that end open.
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
class Tally:
    """What became of the rows: how many were evaluated, and how many left out, by fault."""

    rows: int = 0
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """A stretch that was evaluated.

    Attributes
    ----------
    rows
        Shape (n,): the rows' numbers in the stream.
    payments, first
        The stretch with its look-back; from this row on it is the stretch itself.
    vectors
        Shape (n, features), float32.
    done
        How many rows of the stream this is, those that were left out included.
    """

    rows: NDArray[np.int64]
    payments: Payments
    first: int
    vectors: NDArray[np.float32]
    done: int


def evaluate_stretches(
    source: PaymentSource, name: str, plan: Plan, tally: Tally
) -> Iterator[Evaluated]:
    """Evaluate the stream a stretch at a time.

    Parameters
    ----------
    source, name
        The payments, and their file's name for messages.
    plan
        What is made.
    tally
        Where rows are counted.

    Raises
    ------
    UsageError
        No row lies in the span, or rows break the contract and are not to be left out.
    """
    times_ms = source.times_ms
    first, end = _span(source, name, plan)
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
        if _judge(checked.slice(judged - before), tally, plan):
            _refuse_all(source, name, judged, end)
        judged = last
        rows = np.flatnonzero(checked["fault"].is_null().to_numpy())
        payments = payments_of(checked[rows], plan)
        start = int(np.searchsorted(rows, first - before))
        vectors = plan.evaluator.build(payments, start)
        tally.rows += len(vectors)
        yield Evaluated(rows[start:] + before, payments, start, vectors, last - first)
        first = last


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


def _judge(checked: pl.DataFrame, tally: Tally, plan: Plan) -> bool:
    """Count faults; say whether they are to be refused."""
    for fault, count in count_faults(checked).items():
        tally.faults[fault] = tally.faults.get(fault, 0) + count
    return bool(tally.faults) and not plan.is_lenient


def _refuse_all(source: PaymentSource, name: str, first: int, end: int) -> None:
    """Count the faults of all that is left before the file is refused."""
    faults: dict[str, int] = {}
    number, example = 0, pl.DataFrame()
    for start in range(first, end, STRETCH_ROWS):
        checked = source.read(start, min(start + STRETCH_ROWS, end))
        found = count_faults(checked)
        if found and not faults:
            row = start + first_fault(checked)
            number = 1 + (row if source.numbers is None else int(source.numbers[row]))
            example = checked
        for fault, count in found.items():
            faults[fault] = faults.get(fault, 0) + count
    raise refusal(name, faults, number, example)


def refusal(name: str, faults: dict[str, int], number: int, checked: pl.DataFrame) -> UsageError:
    """Say which row of a file is the first that breaks the contract, and how many do by fault."""
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


def first_fault(checked: pl.DataFrame) -> int:
    """Find the first row with a fault; there must be one."""
    first = checked["fault"].is_not_null().arg_max()
    assert first is not None
    return first


def payments_of(checked: pl.DataFrame, plan: Plan) -> Payments:
    """Take the columns out of checked rows without faults."""
    return Payments(
        checked["event_time_ms"].to_numpy(),
        checked["amount_base_minor"].to_numpy(),
        checked.select(*ID_FIELDS, "currency", *plan.extra_fields),
        checked["is_fraud"].fill_null(value=False).to_numpy(),
    )
