"""Labelled streams on disk: Parquet, CSV or JSON lines, one payment a row.

The columns are our contract's (`fraudstream.event`) and ``is_fraud``. A file is read as a replay
reads it, and its rows go through the very validation that records from Kafka go through; a mapping
does for foreign column names what it does for a foreign topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import InvalidEventError, UsageError
from fraudstream.event import EventRules, Record, Transaction, parse_transaction
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.training.rows import Row, encode_row, open_rows, read_truth, require_columns
from fraudstream.training.simulate import Transactions

#: The suffix of a file's name says its format. Read is also .ndjson (`fraudstream.training.rows`).
SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S%.3fZ"
_TIMESTAMP_MS: Final = 2**53


@dataclass(frozen=True, slots=True, eq=False)
class LabelledStream:
    """Validated payments in event-time order, with the truth about them.

    Attributes
    ----------
    transactions
        The n payments. Equal times keep the file's order.
    is_fraud
        Shape (n,), bool.
    """

    transactions: list[Transaction]
    is_fraud: NDArray[np.bool_]


def check_suffix(file: Path) -> str:
    """Return the file's suffix.

    Raises
    ------
    UsageError
        It is none that is written here.
    """
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file.name}: the name must end in one of {', '.join(SUFFIXES)}")
    return file.suffix


def write_stream(stream: Transactions, file: Path) -> None:
    """Write a simulated stream; the suffix says in which format.

    Times are UTC with milliseconds: a datetime in Parquet, RFC 3339 text elsewhere.

    Raises
    ------
    UsageError
        An unknown suffix, or a place that cannot be written to.
    """
    suffix = check_suffix(file)
    event_time = pl.Series(stream.event_time_ms).cast(pl.Datetime("ms", "UTC"))
    frame = pl.DataFrame(
        {
            "transaction_id": stream.transaction_id,
            "event_time": event_time if suffix == ".parquet" else event_time.dt.strftime(_RFC_3339),
            "card_id": stream.card_id,
            "terminal_id": stream.terminal_id,
            "amount_minor": stream.amount_minor,
            "currency": stream.currency,
            "is_fraud": stream.is_fraud,
            "fraud_kind": stream.fraud_kind,
        }
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".parquet":
            frame.write_parquet(file)
        elif suffix == ".csv":
            frame.write_csv(file)
        else:
            frame.write_ndjson(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror})") from error


def read_stream(
    file: Path, rules: EventRules, mapping: EventMapping | None = None
) -> LabelledStream:
    """Read and validate a labelled file.

    Parameters
    ----------
    file
        Parquet, CSV or JSON lines.
    rules
        The profiles' currency, and what becomes of card numbers.
    mapping
        What the file's columns mean; None if they have our names.

    Raises
    ------
    UsageError
        The file cannot be read, holds nothing, or a row breaks the contract: named by its
        number, never by its content.
    """
    rows = open_rows(file, mapping)
    require_columns(rows, file.name, mapping, truth_for="for the truth to learn")
    count = len(rows.times_ms())  # says of a whole column that it holds no times, and what to do
    if not count:
        raise UsageError(f"{file.name}: holds no transactions")
    apply = compile_mapping(mapping) if mapping is not None else dict
    transactions: list[Transaction] = []
    is_fraud: list[bool] = []
    for number, row in enumerate(rows.rows(np.arange(count)), start=1):
        try:
            transaction, truth = _validate(row, apply, rules)
        except InvalidEventError as error:
            raise UsageError(f"{file.name}: row {number}: {error}") from error
        if truth is None:
            raise UsageError(f"{file.name}: row {number}: is_fraud must be true or false")
        transactions.append(transaction)
        is_fraud.append(truth)
    times_ms = np.array([transaction.event_time_ms for transaction in transactions])
    order = np.argsort(times_ms, kind="stable")
    return LabelledStream([transactions[i] for i in order], np.array(is_fraud)[order])


def _validate(
    row: Row, apply: Callable[[Mapping[str, object]], dict[str, object]], rules: EventRules
) -> tuple[Transaction, bool | None]:
    truth: bool | None = None
    if isinstance(row, bytes):
        value = row
    else:
        event = apply(row)
        truth = read_truth(event.pop("is_fraud", None))
        value = encode_row(event)
    # The past is long over: no time is too far in the future of a file.
    record = Record("file", 0, 0, _TIMESTAMP_MS, None, value)
    return parse_transaction(record, rules), truth
