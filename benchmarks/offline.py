"""Features of a whole file, against pandas: ``python -m benchmarks.offline``.

    reference file ─┬─ fraudstream features ─▶ Parquet    each in a process of its own, timed from
                    └─ pandas rolling ───────▶ Parquet    its start to its end, memory as it peaked

Growth: the first 100,000 to 1,000,000 rows, and the whole file four times one after the other in
time. Needs the reference transactions (FRAUDSTREAM_REFERENCE_DATA names their folder). Medians of
``--runs``, in brackets fastest and slowest.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

_ROOT = Path(__file__).resolve().parents[1]
_FILE = "transactions-2018-04-01_2018-07-31.parquet"
_LAG_D = 7
_WINDOWS_D = (1, 7, 30)
_GROWTH_ROWS = (100_000, 200_000, 400_000, 1_000_000)
_REPEATS = 4
_PERIOD = timedelta(days=122)
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Timing:
    """One command, several times."""

    seconds: list[float]
    peak_mb: float

    def __str__(self) -> str:
        """Say median, spread and memory."""
        median = statistics.median(self.seconds)
        low, high = min(self.seconds), max(self.seconds)
        return f"{median:6.2f} s ({low:.2f} to {high:.2f}), peak {self.peak_mb:,.0f} MB"


def measure(command: Sequence[str], runs: int) -> Timing:
    """Run a command to its end, several times."""
    seconds, peak_kb = [], 0
    for _ in range(runs):
        started_s = time.monotonic()
        process = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak_kb = max(peak_kb, peak_memory_kb(process.pid))
            time.sleep(_POLL_S)
        seconds.append(time.monotonic() - started_s)
        if process.returncode:
            raise SystemExit(f"failed: {' '.join(command)}")
    return Timing(seconds, peak_kb / 1024)


def peak_memory_kb(pid: int) -> int:
    """Read a living process's peak; what wait4 tells would include this one's before the exec."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) if found else 0


def features(file: Path, out: Path) -> list[str]:
    """Give the command that is measured."""
    words = ["-m", "fraudstream", "features", str(file), "--out", str(out), "--replace"]
    return [
        sys.executable,
        *words,
        "--mapping",
        "configs/mappings/handbook.yaml",
        "--labels-after",
        f"{_LAG_D}d",
    ]


def rolling(rows: pd.DataFrame, entity: str, column: str, days: int) -> pd.Series:
    """Sum a column over ``(t − days, t]`` of the same entity, as one writes it with pandas."""
    windows = rows.set_index("TX_DATETIME").groupby(entity)[column].rolling(f"{days}D")
    place = np.concatenate(list(rows.groupby(entity).indices.values()))
    return pd.Series(windows.sum().to_numpy(), index=rows.index[place]).sort_index()


def with_pandas(file: Path, out: Path) -> None:
    """Make the fifteen features with pandas alone."""
    rows = pd.read_parquet(file)
    rows = rows.assign(cents=(rows.TX_AMOUNT * 100).round(), one=1.0)
    times = rows.TX_DATETIME.dt
    found = pd.DataFrame(index=rows.index)
    found["amount"] = rows.cents / 100
    found["is_weekend"] = (times.day_of_week >= 5).astype(float)
    found["is_night"] = (times.hour <= 6).astype(float)
    lagged = {c: rolling(rows, "TERMINAL_ID", c, _LAG_D) for c in ("one", "TX_FRAUD")}
    for days in _WINDOWS_D:
        count = rolling(rows, "CUSTOMER_ID", "one", days)
        found[f"card_tx_count_{days}d"] = count
        mean = rolling(rows, "CUSTOMER_ID", "cents", days) / 100 / count
        found[f"card_amount_mean_{days}d"] = mean
        whole = {c: rolling(rows, "TERMINAL_ID", c, _LAG_D + days) for c in lagged}
        count, frauds = whole["one"] - lagged["one"], whole["TX_FRAUD"] - lagged["TX_FRAUD"]
        found[f"terminal_tx_count_{days}d_lag7d"] = count
        found[f"terminal_fraud_rate_{days}d_lag7d"] = (frauds / count).where(count > 0, 0.0)
    found.astype(np.float32).to_parquet(out)


def repeated(file: Path, times: int) -> pl.DataFrame:
    """Put a file after itself in time, several times."""
    rows = pl.read_parquet(file)
    shifted = [
        rows.with_columns(
            pl.col("TRANSACTION_ID").cast(pl.Int64) + number * len(rows),
            pl.col("TX_DATETIME") + number * _PERIOD,
        )
        for number in range(times)
    ]
    return pl.concat(shifted)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pandas", nargs=2, type=Path, metavar=("IN", "OUT"), help="(internal)")
    options = parser.parse_args()
    if options.pandas:
        with_pandas(*options.pandas)
        return
    default = _ROOT.parent / "shared" / "data" / "handbook"
    file = Path(os.environ.get("FRAUDSTREAM_REFERENCE_DATA", default)) / _FILE
    with tempfile.TemporaryDirectory() as folder:
        _report(file, Path(folder), options.runs)


def _report(file: Path, folder: Path, runs: int) -> None:
    ours, theirs = folder / "ours.parquet", folder / "pandas.parquet"
    rows = pl.read_parquet(file)
    print(f"{len(rows):,} rows, 15 features, Parquet to Parquet, median of {runs}")
    print(f"  fraudstream features  {measure(features(file, ours), runs)}")
    words = [sys.executable, "-m", "benchmarks.offline", "--pandas", str(file), str(theirs)]
    print(f"  pandas rolling        {measure(words, runs)}")
    expected = pl.read_parquet(theirs)
    found = pl.read_parquet(ours).select(expected.columns)
    differs = (found.to_numpy() != expected.to_numpy()).sum(axis=0)
    print(f"  numbers that differ   {int(differs.sum())} of {found.width * found.height:,}")
    print("growth")
    for count in _GROWTH_ROWS:
        part = folder / "part.parquet"
        rows.head(count).write_parquet(part)
        print(f"  {count:9,} rows  {measure(features(part, ours), runs)}")
    many = folder / "many.parquet"
    repeated(file, _REPEATS).write_parquet(many)
    print(f"  {_REPEATS * len(rows):9,} rows  {measure(features(many, ours), runs)}")


if __name__ == "__main__":
    main()
