"""The live consumer against the published features of 2018-07-25 to 07-31, and against the file.

The payments from 2018-06-18 on (30 days before the week for a card, 37 for a terminal) are replayed
through Kafka, a worker and Valkey. Every feature of the week's decisions must be the published one
in float32, and the one that the file evaluator gives, to the last bit.

``make parity`` does it with all 420,000 payments; the plain test command with those of some cards
and some terminals: what is known of a card needs only its own payments, and so for a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from harness import Deployment
from reference import (
    MEAN_NOISE,
    PUBLISHED,
    PUBLISHED_NAMES,
    TRANSACTIONS,
    fraudstream,
)
from services import Services

pytestmark = [pytest.mark.services, pytest.mark.reference_data]

IS_FULL = os.environ.get("FRAUDSTREAM_TEST_PARITY") == "full"
#: One card in so many, and one terminal; in the full run all of them.
SHARE = 1 if IS_FULL else 100
TIMEOUT_S = 1_200 if IS_FULL else 240
SINCE = datetime(2018, 6, 18)  # noqa: DTZ001 - the file's times carry no zone
#: Before the seven days' lag is over, so that no rate looks at a payment that is not judged yet.
LABELS_AFTER = "3d"


@pytest.fixture
def deployment(services: Services, tmp_path: Path) -> Iterator[Deployment]:
    settings = {"VALKEY__ON_DEADLINE": "wait", "VALKEY__DEADLINE_MS": 2_000}
    with Deployment(services, tmp_path, partitions=2, settings=settings) as made:
        yield made.create_topics()


def is_of_card() -> pl.Expr:
    return pl.col("CUSTOMER_ID").cast(pl.Int64) % SHARE == 0


def is_of_terminal() -> pl.Expr:
    return pl.col("TERMINAL_ID").cast(pl.Int64) % SHARE == 0


def sample(reference_data: Path) -> pl.DataFrame:
    """Take the payments of the chosen cards and terminals, and mark the ties of a card."""
    rows = pl.read_parquet(reference_data / TRANSACTIONS).filter(pl.col("TX_DATETIME") >= SINCE)
    rows = rows.with_columns(
        is_tie=pl.len().over("CUSTOMER_ID", pl.col("TX_DATETIME").dt.truncate("1s")) > 1
    )
    return rows.filter(is_of_card() | is_of_terminal())


@pytest.mark.timeout(TIMEOUT_S + 300)
def test_a_replayed_week_has_the_published_features_and_those_of_the_file(
    deployment: Deployment, reference_data: Path, tmp_path: Path
) -> None:
    rows = sample(reference_data)
    stream, exported = tmp_path / "stream.parquet", tmp_path / "decisions.parquet"
    rows.drop("is_tie").write_parquet(stream)
    mapping = ("--mapping", "configs/mappings/handbook.yaml")
    worker = deployment.start().await_ready()
    told = ("--labels-after", LABELS_AFTER)
    environ = deployment.environ()
    fraudstream(environ, "replay", str(stream), *mapping, *told, "--speed", "max")
    deployment.await_done(TIMEOUT_S)
    assert worker.stop() == 0
    fraudstream(environ, "export", deployment.topics["decisions"], "--out", str(exported))
    offline = tmp_path / "features.parquet"
    fraudstream(environ, "features", str(stream), *mapping, *told, "--out", str(offline))

    live = pl.read_parquet(exported)
    assert len(live) == len(rows)
    live = live.rename({c: c.removeprefix("feature.") for c in live.columns})
    same_as_the_file(live, pl.read_parquet(offline))
    same_as_published(live, rows, pl.read_parquet(reference_data / PUBLISHED))


def same_as_the_file(live: pl.DataFrame, offline: pl.DataFrame) -> None:
    """Every feature of every payment, the weeks before included, bit for bit."""
    both = offline.join(live, on="transaction_id", suffix="_live", validate="1:1")
    assert len(both) == len(live) == len(offline)
    names = ["amount", *PUBLISHED_NAMES]
    for name in names:
        ours, theirs = both[f"{name}_live"].to_numpy(), both[name].to_numpy()
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32), err_msg=name)


def same_as_published(live: pl.DataFrame, rows: pl.DataFrame, published: pl.DataFrame) -> None:
    week = (
        published.join(rows, on="TRANSACTION_ID", validate="1:1")
        .filter(~pl.col("is_tie"))
        .with_columns(transaction_id=pl.col("TRANSACTION_ID").cast(pl.String))
        .join(live, on="transaction_id", validate="1:1")
    )
    of_cards, of_terminals = week.filter(is_of_card()), week.filter(is_of_terminal())
    if IS_FULL:
        assert len(week) > 67_240 - 60
    assert min(len(of_cards), len(of_terminals)) > 400
    for name, theirs_name in PUBLISHED_NAMES.items():
        chosen = of_terminals if name.startswith("terminal") else of_cards
        ours, theirs = chosen[name].to_numpy(), chosen[theirs_name].to_numpy()
        differs = ours != theirs.astype(np.float32)
        if "mean" in name:
            # Published means carry the noise of rolling sums: 1e-9 may cross a rounding edge.
            lower, upper = (theirs + noise for noise in (-MEAN_NOISE, MEAN_NOISE))
            is_edge = (lower.astype(np.float32) <= ours) & (ours <= upper.astype(np.float32))
            differs &= ~is_edge
        assert not differs.any(), (name, int(differs.sum()))
    rates = of_terminals.select(pl.col("^terminal_fraud_rate_.*$") > 0).sum()
    assert min(rates.row(0)) > 0
