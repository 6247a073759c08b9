"""The reference data's files and names, and how a test runs a command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from harness import ROOT

TRANSACTIONS = "transactions-2018-04-01_2018-07-31.parquet"
PUBLISHED = "features-2018-07-25_2018-07-31.parquet"
#: Published means are rolling sums of floats, and carry their noise.
MEAN_NOISE = 1e-9
WINDOWS_D = (1, 7, 30)
#: Our name → the published one.
PUBLISHED_NAMES = {"is_weekend": "TX_DURING_WEEKEND", "is_night": "TX_DURING_NIGHT"} | {
    ours.format(days): theirs.format(days)
    for days in WINDOWS_D
    for ours, theirs in (
        ("card_tx_count_{}d", "CUSTOMER_ID_NB_TX_{}DAY_WINDOW"),
        ("card_amount_mean_{}d", "CUSTOMER_ID_AVG_AMOUNT_{}DAY_WINDOW"),
        ("terminal_tx_count_{}d_lag7d", "TERMINAL_ID_NB_TX_{}DAY_WINDOW"),
        ("terminal_fraud_rate_{}d_lag7d", "TERMINAL_ID_RISK_{}DAY_WINDOW"),
    )
}
_TIMEOUT_S = 1_200


def fraudstream(environ: Mapping[str, str], *arguments: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "fraudstream", *arguments],
        env=dict(environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
