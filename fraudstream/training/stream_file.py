"""Writing a simulated stream: Parquet, CSV or JSON lines, one payment a row.

The columns are our contract's (`fraudstream.event`), ``is_fraud`` and the kind of fraud.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from fraudstream.errors import UsageError
from fraudstream.training.simulate import Transactions

#: The suffix of a file's name says its format. Read is also .ndjson (`fraudstream.rows`).
SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S%.3fZ"


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
