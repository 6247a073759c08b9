"""Labelled streams on disk: Parquet, CSV or JSON lines, one payment a row.

The columns are our contract's (`fraudstream.event`) and ``is_fraud``. What is read goes through
the very validation that records from Kafka go through; a mapping does for foreign column names
what it does for a foreign topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from fraudstream.errors import InvalidEventError, UsageError
from fraudstream.event import EventRules, Record, Transaction, parse_transaction
from fraudstream.training.simulate import Transactions

#: The suffix of a file's name says its format.
SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
#: Read as text even where a file's values look like numbers: card "0017" is not card 17.
_TEXT_COLUMNS: Final = dict.fromkeys(
    ("transaction_id", "card_id", "terminal_id", "currency"), pl.String
)
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
        It is none that can be read and written here.
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
    file: Path,
    rules: EventRules,
    mapping: Callable[[Mapping[str, object]], dict[str, object]] | None = None,
) -> LabelledStream:
    """Read and validate a labelled file.

    Parameters
    ----------
    file
        Parquet, CSV or JSON lines.
    rules
        The profiles' currency, and what becomes of card numbers.
    mapping
        Foreign row → row with our names (`fraudstream.mapping.compile_mapping`).

    Raises
    ------
    UsageError
        The file cannot be read, holds nothing, or a row breaks the contract: named by its
        number, never by its content.
    """
    frame = _read_frame(file)
    transactions: list[Transaction] = []
    is_fraud: list[bool] = []
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        event = mapping(row) if mapping else row
        label = event.pop("is_fraud", None)
        if label not in (True, False):
            raise UsageError(f"{file.name}: row {number}: is_fraud must be true or false")
        try:
            transactions.append(_validate(event, rules))
        except InvalidEventError as error:
            raise UsageError(
                f"{file.name}: row {number}: {error}; foreign column names need --mapping"
            ) from error
        is_fraud.append(bool(label))
    times_ms = np.array([transaction.event_time_ms for transaction in transactions])
    order = np.argsort(times_ms, kind="stable")
    return LabelledStream([transactions[i] for i in order], np.array(is_fraud)[order])


def _read_frame(file: Path) -> pl.DataFrame:
    suffix = check_suffix(file)
    try:
        if suffix == ".parquet":
            frame = pl.read_parquet(file)
        elif suffix == ".csv":
            frame = pl.read_csv(file, schema_overrides=_TEXT_COLUMNS)
        else:
            frame = pl.read_ndjson(file, schema_overrides=_TEXT_COLUMNS)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{file}: cannot be read as {suffix[1:]}") from error
    if frame.is_empty():
        raise UsageError(f"{file}: holds no transactions")
    return frame


def _validate(event: dict[str, object], rules: EventRules) -> Transaction:
    # The past is long over: no time is too far in the future of a file.
    record = Record("file", 0, 0, _TIMESTAMP_MS, None, orjson.dumps(event))
    return parse_transaction(record, rules)
