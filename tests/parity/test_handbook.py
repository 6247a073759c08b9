"""Half a month of the reference transactions through the live worker, every feature compared.

The reference is written with pandas alone, as the handbook writes it, and shares no code with the
package: rolling windows over a card's or a terminal's rows, and a terminal's window that ends seven
days ago as the difference of two. Sums are of integer cents, so that they are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from harness import BUNDLE, Deployment
from reference import TRANSACTIONS, WINDOWS_D, fraudstream
from services import Services

from fraudstream.bundle import load_bundle

pytestmark = [pytest.mark.services, pytest.mark.reference_data]

UNTIL = "2018-04-16"
#: Before the seven days' lag is over, so that no rate looks at a payment that is not judged yet.
LABELS_AFTER = "3d"
LAG_D = 7
TIMEOUT_S = 240


@pytest.fixture
def deployment(services: Services, tmp_path: Path) -> Iterator[Deployment]:
    settings = {"VALKEY__ON_DEADLINE": "wait", "VALKEY__DEADLINE_MS": 2_000}
    with Deployment(services, tmp_path, partitions=2, settings=settings) as made:
        yield made.create_topics()


def rolling(rows: pd.DataFrame, entity: str, column: str, days: int) -> pd.Series:
    """Sum a column over ``(t − days, t]`` of the same entity, up to the row itself."""
    windows = rows.set_index("TX_DATETIME").groupby(entity)[column].rolling(f"{days}D")
    # Groups come out one after the other, each in the file's order; `place` leads back to it.
    place = np.concatenate(list(rows.groupby(entity).indices.values()))
    return pd.Series(windows.sum().to_numpy(), index=rows.index[place]).sort_index()


def reference(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute the fifteen features of every row, in float32."""
    rows = rows.assign(cents=(rows.TX_AMOUNT * 100).round(), one=1.0)
    times = rows.TX_DATETIME.dt
    found = pd.DataFrame(index=rows.index)
    found["amount"] = rows.cents / 100
    found["is_weekend"] = (times.day_of_week >= 5).astype(float)
    found["is_night"] = (times.hour <= 6).astype(float)
    lagged = {c: rolling(rows, "TERMINAL_ID", c, LAG_D) for c in ("one", "TX_FRAUD")}
    for days in WINDOWS_D:
        count = rolling(rows, "CUSTOMER_ID", "one", days)
        found[f"card_tx_count_{days}d"] = count
        mean = rolling(rows, "CUSTOMER_ID", "cents", days) / 100 / count
        found[f"card_amount_mean_{days}d"] = mean
        whole = {c: rolling(rows, "TERMINAL_ID", c, LAG_D + days) for c in lagged}
        count, frauds = whole["one"] - lagged["one"], whole["TX_FRAUD"] - lagged["TX_FRAUD"]
        found[f"terminal_tx_count_{days}d_lag7d"] = count
        rate = (frauds / count).where(count > 0, 0.0)
        found[f"terminal_fraud_rate_{days}d_lag7d"] = rate
    return found.astype(np.float32)


@pytest.mark.timeout(400)
def test_every_feature_of_half_a_month_is_the_references(
    deployment: Deployment, reference_data: Path, tmp_path: Path
) -> None:
    worker = deployment.start().await_ready()
    environ = deployment.environ()
    fraudstream(
        environ,
        *(
            "replay",
            str(reference_data / TRANSACTIONS),
            "--mapping",
            "configs/mappings/handbook.yaml",
        ),
        *("--until", UNTIL, "--labels-after", LABELS_AFTER, "--speed", "max"),
    )
    deployment.await_done(TIMEOUT_S)
    assert worker.stop() == 0
    exported = tmp_path / "decisions.parquet"
    fraudstream(environ, "export", deployment.topics["decisions"], "--out", str(exported))

    rows = pd.read_parquet(reference_data / TRANSACTIONS)
    rows = rows[rows.TX_DATETIME < UNTIL].reset_index(drop=True)
    expected = reference(rows).set_index(rows.TRANSACTION_ID.astype(str))
    decisions = pd.read_parquet(exported).set_index("transaction_id")
    assert decisions.index.is_unique
    assert set(decisions.index) == set(expected.index)

    found = decisions.filter(like="feature.").rename(columns=lambda n: n.removeprefix("feature."))
    # The shipped model reads the fifteen, and some more that the handbook does not have.
    assert set(found.columns) == {feature.name for feature in load_bundle(BUNDLE).features}
    assert len(expected.columns) == 15
    assert (found.dtypes == np.float32).all()
    found = found.loc[expected.index, expected.columns]
    differs = found.ne(expected)
    assert not differs.to_numpy().any(), differs.sum()[differs.any()].to_dict()
    assert (expected.filter(like="fraud_rate") > 0).sum().min() > 0

    outcomes = decisions.outcome.value_counts(normalize=True)
    assert 0.9 < outcomes["APPROVE"] < 1.0
    assert outcomes.get("REVIEW", 0.0) + outcomes.get("DECLINE", 0.0) > 0.001
    frauds = expected.index[rows.TX_FRAUD == 1]
    alerted = decisions.outcome != "APPROVE"
    assert alerted[frauds].mean() > 10 * alerted.drop(frauds).mean()
