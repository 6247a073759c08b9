"""The live consumer against the published features of 2018-07-25 to 07-31, and against the file.

The payments from 2018-06-18 on (30 days before the week for a card, 37 for a terminal) are replayed
through Kafka, a worker and Valkey. Every feature of the week's decisions must be the published one
in float32. Every feature of every decision must be the one that the file evaluator gives, and every
score the one that the file is scored with, to the last bit; so the average precision is the same
number. What is learnt from the exported decisions must be what is learnt from the file.

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
from harness import BUNDLE, ROOT, Deployment
from reference import (
    MEAN_NOISE,
    PUBLISHED,
    PUBLISHED_NAMES,
    TRANSACTIONS,
    fraudstream,
)
from services import Services
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from fraudstream.bundle import load_bundle
from fraudstream.cli.reading import read_mapping
from fraudstream.replay.span import parse_duration
from fraudstream.training.dataset import Reading, open_labelled, read_labelled
from fraudstream.training.logged import Logged, read_logged

pytestmark = [pytest.mark.services, pytest.mark.reference_data]

IS_FULL = os.environ.get("FRAUDSTREAM_TEST_PARITY") == "full"
#: One card in so many, and one terminal; in the full run all of them.
SHARE = 1 if IS_FULL else 100
TIMEOUT_S = 1_200 if IS_FULL else 240
MAPPING = ROOT / "configs/mappings/handbook.yaml"
SINCE = datetime(2018, 6, 18)  # noqa: DTZ001 - the file's times carry no zone
#: Before the seven days' lag is over, so that no rate looks at a payment that is not judged yet.
LABELS_AFTER = "3d"
#: Chance would reach the share of frauds, 0.01.
AVERAGE_PRECISION_MIN = 0.2


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
    stream = tmp_path / "stream.parquet"
    decided, known = tmp_path / "decisions.parquet", tmp_path / "labels.parquet"
    rows.drop("is_tie").write_parquet(stream)
    mapping = ("--mapping", str(MAPPING))
    worker = deployment.start().await_ready()
    told = ("--labels-after", LABELS_AFTER)
    environ = deployment.environ()
    fraudstream(environ, "replay", str(stream), *mapping, *told, "--speed", "max")
    deployment.await_done(TIMEOUT_S)
    assert worker.stop() == 0
    for kind, file in (("decisions", decided), ("labels", known)):
        fraudstream(environ, "export", deployment.topics[kind], "--out", str(file))
    offline, scored = tmp_path / "features.parquet", tmp_path / "scores.parquet"
    for command, out in (("features", offline), ("score-batch", scored)):
        bundle = ("--bundle", str(BUNDLE), "--out", str(out))
        fraudstream(environ, command, str(stream), *mapping, *told, *bundle)

    live = pl.read_parquet(decided)
    assert len(live) == len(rows)
    live = live.rename({c: c.removeprefix("feature.") for c in live.columns})
    same_features(live, pl.read_parquet(offline))
    same_scores(live, pl.read_parquet(scored), rows)
    same_as_published(live, rows, pl.read_parquet(reference_data / PUBLISHED))
    same_to_learn_from(decided, known, stream)


def join_live(offline: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
    """Put what was made of the file beside what was decided, every payment of the stream."""
    both = offline.join(live, on="transaction_id", suffix="_live", validate="1:1")
    assert len(both) == len(live) == len(offline)
    return both


def same_bits(both: pl.DataFrame, name: str) -> None:
    # A decision says null for what is not known, a file of features NaN.
    ours, theirs = (
        both[column].fill_null(float("nan")).to_numpy() for column in (f"{name}_live", name)
    )
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32), err_msg=name)


def same_features(live: pl.DataFrame, offline: pl.DataFrame) -> None:
    """Every feature of the model, of every payment, the weeks before included, bit for bit."""
    names = [feature.name for feature in load_bundle(BUNDLE).features]
    assert {"amount", *PUBLISHED_NAMES} <= set(names)
    assert offline.columns[4:] == names
    both = join_live(offline, live)
    for name in names:
        same_bits(both, name)


def same_scores(live: pl.DataFrame, scored: pl.DataFrame, rows: pl.DataFrame) -> None:
    """Scores bit for bit, outcomes, and so the average precision."""
    both = join_live(scored, live)
    same_bits(both, "score")
    assert both["outcome"].equals(both["outcome_live"])
    truth = rows.select(pl.col("TRANSACTION_ID").cast(pl.String), is_fraud=pl.col("TX_FRAUD") == 1)
    figures = [
        average_precision_score(known["is_fraud"].to_numpy(), known["score"].to_numpy())
        for known in (
            # Each in its own order: that of the file, and that of the topic's partitions.
            scores.join(
                truth,
                left_on="transaction_id",
                right_on="TRANSACTION_ID",
                validate="1:1",
                maintain_order="left",
            )
            for scores in (live, scored)
        )
    ]
    assert figures[0] == figures[1]
    assert figures[0] > AVERAGE_PRECISION_MIN


def same_to_learn_from(decided: Path, known: Path, stream: Path) -> None:
    """Vectors and truths of exported decisions and labels, as of the file itself."""
    bundle = load_bundle(BUNDLE)
    names = tuple(feature.name for feature in bundle.features)
    delay_ms = parse_duration(LABELS_AFTER, "--labels-after")
    logged = read_logged(Logged(decided, known, names, maturity_ms=delay_ms)).rows
    reading = Reading(
        bundle.feature_set, names, labels_after_ms=delay_ms, mapping=read_mapping(MAPPING)
    )
    rows = read_labelled(open_labelled(stream, reading), stream.name, reading)
    # What is found out of the last days is not sent any more.
    rows = rows.between(0, int(rows.event_time_ms[-1]) - delay_ms + 1)
    # Payments of one second lie in the topic's partitions in another order than in the file.
    ours, theirs = (found.take(np.argsort(found.transaction_id)) for found in (logged, rows))
    for name in ("transaction_id", "event_time_ms", "card_id", "amount_minor", "is_fraud"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.sha256() == theirs.sha256()
    assert ours.is_fraud.sum() > 50


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
