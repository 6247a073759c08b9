"""The offline evaluator against the published features of 2018-07-25 to 07-31, every row.

The published order of two payments of one card in one second is arbitrary; those rows are left
out, and nothing else is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fraudstream.cli.reading import read_yaml
from fraudstream.feature_files import default_feature_set
from fraudstream.mapping import EventMapping
from fraudstream.offline.columns import Payments
from fraudstream.offline.contract import Rules
from fraudstream.offline.evaluator import Evaluator, answers
from fraudstream.offline.labels import LabelsAfter
from fraudstream.offline.parity import compare
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Plan, payments_of
from fraudstream.offline.writing import write_features
from fraudstream.profile import DAY_MS

pytestmark = pytest.mark.reference_data

TRANSACTIONS = "transactions-2018-04-01_2018-07-31.parquet"
PUBLISHED = "features-2018-07-25_2018-07-31.parquet"
MAPPING = Path(__file__).resolve().parents[2] / "configs/mappings/handbook.yaml"
FROM_MS = 1_532_476_800_000  # 2018-07-25
UNTIL_MS = FROM_MS + 7 * DAY_MS
#: Published means are rolling sums of floats, and carry their noise.
MEAN_NOISE = 1e-9
WINDOWS_D = (1, 7, 30)


def open_source(reference_data: Path) -> PaymentSource:
    mapping = read_yaml(MAPPING, EventMapping)
    return PaymentSource(reference_data / TRANSACTIONS, Rules(mapping=mapping, needs_truth=True))


@pytest.fixture(scope="module")
def plan() -> Plan:
    evaluator = Evaluator(default_feature_set(), labels=LabelsAfter(7 * DAY_MS))
    return Plan(evaluator, from_ms=FROM_MS, until_ms=UNTIL_MS)


@pytest.fixture
def published(reference_data: Path) -> pl.DataFrame:
    return pl.read_parquet(reference_data / PUBLISHED)


def week(reference_data: Path, plan: Plan) -> tuple[Payments, int]:
    """Read the week and the 37 days before it; say where the week begins."""
    source = open_source(reference_data)
    before, first, last = np.searchsorted(
        source.times_ms, [FROM_MS - plan.evaluator.reach_ms, FROM_MS, UNTIL_MS]
    )
    return payments_of(source.read(int(before), int(last)), plan), int(first - before)


def card_ties(payments: Payments, first: int) -> NDArray[np.bool_]:
    """Find the payments that another one of the same card has the second of."""
    seconds = payments.texts.select("card_id", second=payments.event_time_ms // 1000)
    ties = seconds.select(pl.len().over("card_id", "second") > 1).to_series().to_numpy()
    return ties[first:]


def published_rows(published: pl.DataFrame, payments: Payments, first: int) -> pl.DataFrame:
    ids = payments.texts["transaction_id"][first:]
    rows = ids.to_frame().join(
        published.with_columns(pl.col("TRANSACTION_ID").cast(pl.String)),
        left_on="transaction_id",
        right_on="TRANSACTION_ID",
        how="left",
        maintain_order="left",
    )
    assert len(rows) == len(published) == 67_240
    assert rows.null_count().sum_horizontal().item() == 0
    return rows


def test_counts_and_rates_are_exact_and_means_within_their_noise(
    reference_data: Path, published: pl.DataFrame, plan: Plan
) -> None:
    payments, first = week(reference_data, plan)
    rows = published_rows(published, payments, first)
    is_tie = card_ties(payments, first)
    assert is_tie.sum() < 60
    found = answers(plan.evaluator.definition, payments, plan.evaluator.labels, first)
    cards, terminals, labels = (
        found.series[name] for name in ("card_tx", "terminal_tx", "terminal_label")
    )
    for index, days in enumerate(WINDOWS_D):
        count = rows[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"].to_numpy()
        differs = cards.counts[:, index] != count
        assert not (differs & ~is_tie).any()
        mean = cards.sums[:, index, 0] / cards.sums[:, index, 1] / 100
        distance = np.abs(mean - rows[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"].to_numpy())
        assert distance[~is_tie].max() <= MEAN_NOISE
        count = rows[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"].to_numpy()
        np.testing.assert_array_equal(terminals.counts[:, index], count)
        frauds, counts = labels.sums[:, index, 0], terminals.counts[:, index]
        rate = np.divide(frauds, counts, out=np.zeros(len(counts)), where=counts > 0)
        np.testing.assert_array_equal(rate, rows[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"].to_numpy())


def test_the_written_file_holds_the_published_week(
    reference_data: Path, published: pl.DataFrame, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "week.parquet"
    written = write_features(open_source(reference_data), TRANSACTIONS, out, plan, lambda _: None)
    assert (written.rows, written.faults) == (67_240, {})
    found = pl.read_parquet(out)
    payments, first = week(reference_data, plan)
    rows = published_rows(published, payments, first)
    assert (found["transaction_id"] == rows["transaction_id"]).all()
    names = {"is_weekend": "TX_DURING_WEEKEND", "is_night": "TX_DURING_NIGHT"}
    for days in WINDOWS_D:
        names[f"card_tx_count_{days}d"] = f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"
        names[f"card_amount_mean_{days}d"] = f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"
        names[f"terminal_tx_count_{days}d_lag7d"] = f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"
        names[f"terminal_fraud_rate_{days}d_lag7d"] = f"TERMINAL_ID_RISK_{days}DAY_WINDOW"
    kept = np.flatnonzero(~card_ties(payments, first))
    ours = found.select(*names)[kept].to_numpy()
    theirs = rows.select(names.values())[kept].to_numpy().astype(np.float32)
    # Published noise may move a mean over the edge between two float32.
    near = np.abs(ours - rows.select(names.values())[kept].to_numpy()) <= MEAN_NOISE
    is_next = np.nextafter(ours, theirs) == theirs
    is_mean = np.array(["mean" in name for name in names])
    theirs = np.where(is_mean & (near | is_next), ours, theirs)
    for feature in compare(np.ascontiguousarray(ours), theirs, list(names)):
        assert feature.is_whole, feature


def test_stretches_give_what_the_whole_file_gives(
    reference_data: Path, plan: Plan, tmp_path: Path
) -> None:
    """A stretch sees its look-back and no more, wherever the file is cut."""
    files = []
    for name, rows in (("short", 20_000), ("long", 10_000_000)):
        files.append(tmp_path / f"{name}.parquet")
        cut = Plan(plan.evaluator, from_ms=FROM_MS, until_ms=UNTIL_MS, stretch_rows=rows)
        write_features(open_source(reference_data), TRANSACTIONS, files[-1], cut, lambda _: None)
    short, long = (pl.read_parquet(file) for file in files)
    assert short.equals(long)
