"""Scores and outcomes of a whole file: the live pipeline's, in the file's order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from twin_vectors import OUTPUTS, as_records, decide
from typer.testing import CliRunner, Result

from fraudstream.bundle import Bundle, load_bundle
from fraudstream.cli import app
from fraudstream.decision import Outcome, Policy
from fraudstream.errors import UsageError
from fraudstream.export.columns import TopicKind
from fraudstream.export.files import write_file
from fraudstream.offline.contract import Rules
from fraudstream.offline.labels import LabelsAfter
from fraudstream.offline.scoring import Scorer, write_scores
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Plan
from fraudstream.profile import DAY_MS
from fraudstream.replay.stream import stream_of_columns
from fraudstream.training.simulate import SimulationSpec, Transactions, simulate
from fraudstream.training.stream_file import write_stream

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "default"
#: Low enough that the small stream has all outcomes.
POLICY = Policy(0.02, 0.5, 0.3, "low")
CONFIG = "policy: {name: low, review_threshold: 0.02, decline_threshold: 0.5}\n"
OUTCOMES = [outcome.value for outcome in Outcome]


@pytest.fixture(scope="module")
def world() -> Transactions:
    return simulate(SimulationSpec(cards=40, terminals=80, days=40, seed=3))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def folder(world: Transactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streams")
    write_stream(world, made / "stream.parquet")
    (made / "low.yaml").write_text(CONFIG)
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["score-batch", *map(str, arguments)])


def score(folder: Path, name: str, out: Path, *more: object) -> tuple[pl.DataFrame, str]:
    """Score a file of the folder under the low policy."""
    told = () if "--labels" in more else ("--labels-after", "7d")
    place = ("--bundle", BUNDLE, "--out", out, "--config", folder / "low.yaml")
    done = run(folder / name, *place, *told, *more)
    assert done.exit_code == 0, done.output or done.exception
    return pl.read_parquet(out), done.stderr


def test_scores_and_outcomes_are_the_pipelines(
    world: Transactions, bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    found, told = score(folder, "stream.parquet", tmp_path / "scores.parquet")
    outputs, _ = decide(bundle, POLICY, stream_of_columns(world, 7 * DAY_MS))
    live_file = tmp_path / "live.parquet"
    records = as_records(outputs, OUTPUTS.decisions)
    write_file(iter([records]), OUTPUTS.decisions, TopicKind.DECISIONS, live_file)
    live = pl.read_parquet(live_file)

    assert found.schema == {
        "transaction_id": pl.String,
        "score": pl.Float32,
        "outcome": pl.String,
    }
    assert found["transaction_id"].to_list() == live["transaction_id"].to_list()
    assert found["transaction_id"].to_list() == world.transaction_id.tolist()
    ours, theirs = found["score"].to_numpy(), live["score"].to_numpy()
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))
    assert found["outcome"].to_list() == live["outcome"].to_list()
    counts = dict(found["outcome"].value_counts().rows())
    assert set(counts) == set(OUTCOMES)
    for outcome, count in counts.items():
        assert f"{outcome} {count:,}" in told
    assert f"{len(world):,} payments" in told
    assert f"model {bundle.name} {bundle.version} {bundle.sha256[:12]}" in told


def test_the_file_says_what_it_was_made_with(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    score(folder, "stream.parquet", out, "--until", "2026-01-10")
    metadata = pq.read_schema(out).metadata
    said = {name.decode(): value.decode() for name, value in metadata.items()}
    assert said["fraudstream.model"] == f"{bundle.name} {bundle.version} {bundle.sha256}"
    assert said["fraudstream.policy"] == POLICY.version
    feature_set = bundle.feature_set
    assert said["fraudstream.feature_set"] == f"{feature_set.name} {feature_set.sha256}"
    assert said["fraudstream.labels"] == str(LabelsAfter(7 * DAY_MS))


def test_the_order_is_the_files_and_where_it_is_cut_changes_nothing(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    in_order, _ = score(folder, "stream.parquet", tmp_path / "in-order.parquet")
    payments = pl.read_parquet(folder / "stream.parquet")
    shuffled = np.random.default_rng(1).permutation(len(payments))
    payments[shuffled].write_parquet(folder / "shuffled.parquet")
    found, _ = score(folder, "shuffled.parquet", tmp_path / "shuffled.parquet")
    assert found.equals(in_order[shuffled])

    scorer = Scorer(bundle, POLICY, "EUR", LabelsAfter(7 * DAY_MS))
    source = PaymentSource(folder / "stream.parquet", Rules(needs_truth=True))
    plan = Plan(scorer.evaluator, stretch_rows=500)
    out, done = tmp_path / "cut.parquet", list[int]()
    write_scores(source, "stream.parquet", out, plan, scorer, done.append)
    assert len(done) > 1
    assert pl.read_parquet(out).equals(in_order)
    assert sum(scorer.counts.values()) == len(payments) == sum(done)


def test_a_payment_that_is_there_twice_is_scored_twice_alike(folder: Path, tmp_path: Path) -> None:
    once, _ = score(folder, "stream.parquet", tmp_path / "once.parquet")
    payments = pl.read_parquet(folder / "stream.parquet")
    pl.concat([payments, payments[::3]]).write_parquet(folder / "twice.parquet")
    found, _ = score(folder, "twice.parquet", tmp_path / "twice.parquet")
    assert found.equals(pl.concat([once, once[::3]]))


def test_what_lies_before_from_is_past_and_not_written(folder: Path, tmp_path: Path) -> None:
    whole, _ = score(folder, "stream.parquet", tmp_path / "whole.parquet")
    times = pl.read_parquet(folder / "stream.parquet")["event_time"]
    is_inside = (times.dt.to_string("%F") >= "2026-02-01") & (
        times.dt.to_string("%F") < "2026-02-03"
    )
    span = ("--from", "2026-02-01", "--until", "2026-02-03")
    found, _ = score(folder, "stream.parquet", tmp_path / "span.parquet", *span)
    assert 0 < len(found) < len(whole)
    assert found.equals(whole.filter(is_inside))


def test_findings_count_from_their_reported_at_on(folder: Path, tmp_path: Path) -> None:
    expected, _ = score(folder, "stream.parquet", tmp_path / "after.parquet")
    frauds = pl.read_parquet(folder / "stream.parquet").filter("is_fraud")
    findings = frauds.with_columns(
        reported_at=pl.col("event_time") + pl.duration(days=7), source=pl.lit("test")
    )
    findings.write_parquet(tmp_path / "findings.parquet")
    told = ("--labels", tmp_path / "findings.parquet")
    found, _ = score(folder, "stream.parquet", tmp_path / "told.parquet", *told)
    assert found.equals(expected)
    findings[:0].write_parquet(tmp_path / "none.parquet")
    told = ("--labels", tmp_path / "none.parquet")
    found, _ = score(folder, "stream.parquet", tmp_path / "untold.parquet", *told)
    assert not found.equals(expected)


def test_a_bundle_may_lie_at_an_address(folder: Path, tmp_path: Path) -> None:
    expected, _ = score(folder, "stream.parquet", tmp_path / "near.parquet")
    place = ("--bundle", BUNDLE.as_uri(), "--out", tmp_path / "far.parquet")
    done = run(folder / "stream.parquet", *place, "--labels-after", "7d")
    assert done.exit_code == 0, done.output
    far = pl.read_parquet(tmp_path / "far.parquet")
    assert far["score"].equals(expected["score"])


def test_features_of_a_bundle_are_what_its_model_scores(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    scores, _ = score(folder, "stream.parquet", tmp_path / "scores.parquet")
    out = tmp_path / "features.parquet"
    told = ["features", str(folder / "stream.parquet"), "--labels-after", "7d", "--out", str(out)]
    done = CliRunner().invoke(app, [*told, "--bundle", str(BUNDLE)])
    assert done.exit_code == 0, done.exception
    names = [feature.name for feature in bundle.features]
    made = pl.read_parquet(out)
    assert made.columns == ["transaction_id", "event_time", "card_id", "terminal_id", *names]
    vectors = np.ascontiguousarray(made.select(names).to_numpy())
    np.testing.assert_array_equal(bundle.model.score(vectors), scores["score"].to_numpy())
    both = ("--bundle", str(BUNDLE), "--feature-set", "set.yaml", "--replace")
    done = CliRunner().invoke(app, [*told, *both])
    assert isinstance(done.exception, UsageError)
    assert "give one of them" in str(done.exception)


def test_rows_that_break_the_contract_are_refused_or_left_out(folder: Path, tmp_path: Path) -> None:
    payments = pl.read_parquet(folder / "stream.parquet")
    canary = "4111111111111111"
    bad = payments[:3].with_columns(card_id=pl.lit(canary))
    pl.concat([bad, payments]).write_parquet(folder / "bad.parquet")
    out = tmp_path / "scores.parquet"
    told = ("--bundle", BUNDLE, "--labels-after", "7d", "--out", out)
    refused = run(folder / "bad.parquet", *told)
    assert isinstance(refused.exception, UsageError)
    assert "card_id: card_number (3)" in str(refused.exception)
    assert canary not in str(refused.exception)
    assert not out.exists()
    found, said = score(folder, "bad.parquet", out, "--skip-invalid")
    assert "bad.parquet: left out 3 rows: card_id: card_number (3)" in said
    assert canary not in said
    assert len(found) == len(payments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--labels-after 7d"),
        (("--labels-after", "7d", "--labels", "findings.parquet"), "give one of them"),
        (("--labels-after", "soon"), "write a whole number and a unit"),
        (("--labels-after", "7d", "--from", "2027-01-01"), "no row lies between"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    arguments: tuple[str, ...], words: str, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    done = run(folder / "stream.parquet", "--bundle", BUNDLE, "--out", out, *arguments)
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_no_file_is_lost_to_the_command(folder: Path, tmp_path: Path) -> None:
    stream, out = folder / "stream.parquet", tmp_path / "scores.parquet"
    out.write_bytes(b"precious")
    told = ("--bundle", BUNDLE, "--labels-after", "7d")
    for place, words in ((out, "--replace"), (tmp_path / "scores.csv", ".parquet")):
        done = run(stream, *told, "--out", place)
        assert isinstance(done.exception, UsageError)
        assert words in str(done.exception)
    done = run(stream, *told, "--out", stream, "--replace")
    assert isinstance(done.exception, UsageError)
    assert "files that are read" in str(done.exception)
    assert out.read_bytes() == b"precious"
    score(folder, "stream.parquet", out, "--replace")
