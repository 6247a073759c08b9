"""Learning from logged decisions: the vectors that were decided on, and what became of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from twin_vectors import INPUTS, OUTPUTS, as_records, decide
from typer.testing import CliRunner

from fraudstream.bundle import Bundle, load_bundle
from fraudstream.cli import app
from fraudstream.decision import Policy
from fraudstream.errors import UsageError
from fraudstream.event import Record, format_time
from fraudstream.export.columns import TopicKind
from fraudstream.export.files import write_file
from fraudstream.profile import DAY_MS
from fraudstream.replay.stream import stream_of_columns
from fraudstream.training.dataset import LabelledVectors, Reading, open_labelled, read_labelled
from fraudstream.training.logged import Logged, read_logged
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "default"
BEGIN_MS = 1_767_225_600_000  # 2026-01-01
MATURITY_MS = 8 * DAY_MS
MODEL = {"name": "mine", "version": "3", "sha256": "ab" * 32}
NAMES = ("amount", "card_tx_count_1d")
CANARY = "4111111111111111"


# ------------------------------------------------------------------ a whole replay


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def replayed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a stream, decide on it as a worker would, and export decisions and labels."""
    folder = tmp_path_factory.mktemp("replayed")
    world = simulate(SimulationSpec(cards=50, terminals=100, days=45, seed=5))
    write_stream(world, folder / "stream.parquet")
    policy = Policy(0.3, 0.8, 0.3)
    outputs, labels = decide(bundle, policy, stream_of_columns(world, 7 * DAY_MS))
    decisions = as_records(outputs, OUTPUTS.decisions)
    assert len(decisions) == len(world)
    exports = (
        (decisions, TopicKind.DECISIONS, OUTPUTS.decisions),
        (labels, TopicKind.LABELS, INPUTS.labels),
    )
    for records, kind, topic in exports:
        write_file(iter([records[:1000], records[1000:]]), topic, kind, folder / f"{kind}.parquet")
    return folder


def offline_rows(folder: Path, bundle: Bundle) -> LabelledVectors:
    """Make the same rows of the file, as far as their labels are mature."""
    names = tuple(feature.name for feature in bundle.features)
    reading = Reading(bundle.feature_set, names)
    source = open_labelled(folder / "stream.parquet", reading)
    rows = read_labelled(source, "stream.parquet", reading)
    return rows.between(0, int(rows.event_time_ms[-1]) - MATURITY_MS + 1)


def logged_in(folder: Path, names: tuple[str, ...], maturity_ms: int = MATURITY_MS) -> Logged:
    return Logged(folder / "decisions.parquet", folder / "labels.parquet", names, maturity_ms)


def test_logged_rows_are_those_of_the_file_bit_for_bit(bundle: Bundle, replayed: Path) -> None:
    expected = offline_rows(replayed, bundle)
    found = read_logged(logged_in(replayed, tuple(f.name for f in bundle.features))).rows
    assert found.vectors.dtype == np.float32
    assert found.vectors.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(found.vectors.view(np.int32), expected.vectors.view(np.int32))
    for name in ("is_fraud", "event_time_ms", "amount_minor", "transaction_id", "card_id"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert found.sha256() == expected.sha256()
    assert 10 < found.is_fraud.sum() < len(found) / 10


def test_a_maturity_shorter_than_the_delay_of_labels_takes_frauds_for_genuine(
    bundle: Bundle, replayed: Path
) -> None:
    """What the maturity is for; and the comparison above can fail."""
    names = tuple(feature.name for feature in bundle.features)
    young = read_logged(logged_in(replayed, names, maturity_ms=0)).rows
    reading = Reading(bundle.feature_set, names)
    source = open_labelled(replayed / "stream.parquet", reading)
    truth = read_labelled(source, "stream.parquet", reading)
    assert len(young) == len(truth)
    assert young.is_fraud.sum() < truth.is_fraud.sum()


def test_the_same_bundle_is_trained_of_decisions_and_of_the_file(
    bundle: Bundle, replayed: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    features = [feature.name for feature in bundle.features]
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(bundle.feature_set.document))
    settings = {
        "feature_set": "set.yaml",
        "features": features,
        "label_delay_days": 7,
        "folds": {"count": 1, "train_days": 21, "test_days": 7},
        "booster": {"rounds_max": 5, "rounds_step": 5, "max_bin": 64},
        "fallback": {"rounds_max": 5, "rounds_step": 5},
    }
    recipe.write_text(yaml.safe_dump(settings))
    # Decisions until the 13th, eight days older than that: payments until the 5th.
    decisions, labels = replayed / "decisions.parquet", replayed / "labels.parquet"
    ways = {
        "of-file": (replayed / "stream.parquet", "--until", "2026-02-05"),
        "of-decisions": (
            *("--from-decisions", decisions, "--labels", labels, "--maturity", "8d"),
            *("--until", "2026-02-13"),
        ),
    }
    made = []
    for name, arguments in ways.items():
        place = ("--recipe", recipe, "--out", tmp_path / name)
        done = CliRunner().invoke(app, ["train", *map(str, (*arguments, *place))])
        assert done.exit_code == 0, done.exception
        made.append(load_bundle(tmp_path / name))
    assert "decisions are learnt from" in done.stderr
    of_file, of_decisions = (one.manifest.training for one in made)
    assert of_file.train.frauds > 5
    assert of_file == of_decisions
    hashes = [one.manifest.files["model.ubj"] for one in made]
    assert hashes[0] == hashes[1]


# ------------------------------------------------------------------ single cases


def decision(number: int, day: float, *flags: str, **fields: object) -> Record:
    """Make what is logged of a payment on a day."""
    body = {
        "transaction_id": f"t{number}",
        "event_time": format_time(BEGIN_MS + int(day * DAY_MS)),
        "card_id": f"c{number}",
        "amount_minor": 100 * number,
        "currency": "EUR",
        "flags": list(flags),
        "model": MODEL,
        "features": {"amount": float(number), "card_tx_count_1d": 1.0},
    } | fields
    return Record("decisions", 0, number, 0, None, orjson.dumps(body))


def finding(number: int, day: float, reported: float, *, is_fraud: bool = True) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "event_time": BEGIN_MS + int(day * DAY_MS),
        "card_id": f"c{number}",
        "terminal_id": "m1",
        "is_fraud": is_fraud,
        "reported_at": BEGIN_MS + int(reported * DAY_MS),
        "source": "test",
    }


def read(
    folder: Path,
    decisions: list[Record],
    findings: list[dict[str, Any]],
    **more: Any,  # noqa: ANN401 - fields of a Logged
) -> tuple[LabelledVectors, str]:
    """Write both files, with a decision on a late day to end the data, and read them."""
    records = [*decisions, decision(99, 40)]
    write_file(iter([records]), "d", TopicKind.DECISIONS, folder / "decisions.parquet")
    (folder / "labels.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in findings))
    told = Logged(folder / "decisions.parquet", folder / "labels.jsonl", NAMES, 10 * DAY_MS)
    found = read_logged(replace(told, **more))
    return found.rows, found.summary


ANY = finding(1, 0, 5)


def test_the_newest_finding_stands_and_genuine_at_equal_times(tmp_path: Path) -> None:
    findings = [
        finding(1, 1, 5),
        finding(2, 1, 7, is_fraud=False),
        finding(2, 1, 5),
        finding(3, 1, 5, is_fraud=False),
        finding(3, 1, 6),
        finding(4, 1, 5),
        finding(4, 1, 5, is_fraud=False),
        finding(5, 1.5, 5),  # of a payment of that id at another time
        finding(6, 1, 400),  # long after the end of the data
        finding(7, 1, 5),
    ]
    rows, summary = read(tmp_path, [decision(n, 1) for n in range(1, 7)], findings)
    assert rows.transaction_id.tolist() == ["t1", "t2", "t3", "t4", "t5", "t6"]
    assert rows.is_fraud.tolist() == [True, False, True, False, False, True]
    assert "2 findings are on payments without a decision" in summary
    assert "3 of them frauds" in summary


def test_what_no_model_should_learn_from_is_left_out_and_counted(tmp_path: Path) -> None:
    decisions = [
        decision(1, 1),
        decision(2, 1, "duplicate"),
        decision(3, 1, "degraded"),
        decision(4, 1, "too_late"),
        decision(5, 1, "late", "incomplete"),
        decision(6, 1, "replayed"),
        decision(7, 1, "duplicate", "replayed"),
        decision(8, 1, "degraded", "duplicate"),
        decision(1, 1, features={"amount": 7.0, "card_tx_count_1d": 7.0}),
        decision(1, 2),  # the same id at another time is another payment
        decision(9, 1, "degraded"),
        decision(9, 1),  # decided once more, with profiles
        decision(10, 1, transaction_id=None),
        decision(11, 1, event_time="yesterday"),
    ]
    rows, summary = read(tmp_path, decisions, [ANY])
    assert rows.transaction_id.tolist() == ["t1", "t5", "t6", "t9", "t1"]
    assert rows.vectors[:, 0].tolist() == [1, 5, 6, 9, 1]
    assert "5 of 15 decisions are learnt from, by 1 model, 0 of them frauds and 1 repl" in summary
    for counted in ("3 duplicate", "2 degraded", "1 too_late", "1 copied", "2 unreadable"):
        assert counted in summary
    assert "1 too young to be judged" in summary


def test_a_decision_counts_from_its_maturity_on(tmp_path: Path) -> None:
    """The data end on day 40: with ten days of maturity, day 30 is in to the millisecond."""
    millisecond = 1 / DAY_MS
    decisions = [decision(1, 30), decision(2, 30 + 1.5 * millisecond), decision(3, 20)]
    rows, _ = read(tmp_path, decisions, [ANY])
    assert rows.transaction_id.tolist() == ["t3", "t1"]
    assert rows.event_time_ms.tolist() == [BEGIN_MS + 20 * DAY_MS, BEGIN_MS + 30 * DAY_MS]
    # Until day 35 means that the data end there.
    rows, summary = read(tmp_path, decisions, [ANY], until_ms=BEGIN_MS + 35 * DAY_MS)
    assert rows.transaction_id.tolist() == ["t3"]
    assert "1 of 3 decisions" in summary
    # A time beyond the data makes nothing older.
    rows, _ = read(tmp_path, decisions, [ANY], until_ms=BEGIN_MS + 400 * DAY_MS)
    assert rows.transaction_id.tolist() == ["t3", "t1"]


def test_rows_go_by_event_time_and_equal_times_as_the_file_has_them(tmp_path: Path) -> None:
    decisions = [decision(n, day) for n, day in ((5, 2), (4, 1), (3, 2), (2, 1))]
    rows, _ = read(tmp_path, decisions, [ANY])
    assert rows.transaction_id.tolist() == ["t4", "t2", "t5", "t3"]


def test_what_was_not_known_is_nan_and_numbers_are_what_they_were(tmp_path: Path) -> None:
    odd = float(np.float32(0.1))
    features = [
        {"amount": None, "card_tx_count_1d": 2.0},
        {"amount": odd, "card_tx_count_1d": None},
    ]
    decisions = [decision(n, 1, features=made) for n, made in enumerate(features)]
    rows, _ = read(tmp_path, decisions, [ANY])
    expected = np.array([[np.nan, 2], [0.1, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(rows.vectors.view(np.int32), expected.view(np.int32))


def test_amounts_in_another_currency_are_not_known(tmp_path: Path) -> None:
    decisions = [decision(1, 1), decision(2, 1, currency="JPY"), decision(3, 1, currency=None)]
    for currency, amounts in (("EUR", [100, -1, -1]), ("JPY", [-1, 200, -1])):
        rows, _ = read(tmp_path, decisions, [ANY], currency=currency)
        assert rows.amount_minor.tolist() == amounts


def test_several_models_are_counted(tmp_path: Path) -> None:
    other = decision(2, 1, model=MODEL | {"version": "4"})
    _, summary = read(tmp_path, [decision(1, 1), other], [ANY])
    assert "by 2 models" in summary


def test_a_feature_that_one_of_the_models_did_not_make_is_refused(tmp_path: Path) -> None:
    other = MODEL | {"name": "poor", "version": "4"}
    poor = decision(2, 1, model=other, features={"amount": 1.0})
    with pytest.raises(UsageError, match=r"model poor 4 \(abab.* has card_tx_count_1d, and those"):
        read(tmp_path, [decision(1, 1), poor], [ANY])
    # Of one whose windows all reach back too far that cannot be said.
    flagged = decision(2, 1, "incomplete", model=other, features={"amount": 1.0})
    rows, _ = read(tmp_path, [decision(1, 1), flagged], [ANY])
    assert np.isnan(rows.vectors[1, 1])


def test_a_feature_that_was_not_logged_is_named_with_who_decided(tmp_path: Path) -> None:
    words = r"lacks card_tx_count_9d: its decisions were made by the model mine 3 \(abababababab\)"
    with pytest.raises(UsageError, match=words):
        read(tmp_path, [decision(1, 1)], [ANY], names=("amount", "card_tx_count_9d", "more"))


def test_findings_that_break_the_contract_are_refused_or_counted(tmp_path: Path) -> None:
    bad = finding(1, 1, 5) | {"card_id": CANARY}
    with pytest.raises(UsageError, match="card_id: card_number") as refused:
        read(tmp_path, [decision(1, 1)], [finding(1, 1, 5), bad])
    assert CANARY not in str(refused.value)
    findings = [finding(1, 1, 5), bad]
    rows, summary = read(tmp_path, [decision(1, 1)], findings, is_lenient=True)
    assert rows.is_fraud.tolist() == [True]
    assert "1 were left out as invalid" in summary


def test_nothing_to_learn_from_is_told_with_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 degraded, 1 too young to be judged"):
        read(tmp_path, [decision(1, 1, "degraded")], [ANY])
    with pytest.raises(UsageError, match="it holds none"):
        read(tmp_path, [], [ANY], until_ms=BEGIN_MS)


@pytest.mark.parametrize("kind", ["other", "csv", "damaged", "missing"])
def test_a_file_of_something_else_is_refused(kind: str, tmp_path: Path) -> None:
    write_file(iter([[decision(1, 1)]]), "d", TopicKind.DECISIONS, tmp_path / "good.parquet")
    good = pl.read_parquet(tmp_path / "good.parquet")
    file = tmp_path / ("d.csv" if kind == "csv" else "d.parquet")
    words = {
        "other": "its column feature.amount is not one",
        "csv": "Parquet alone",
        "damaged": "cannot be read as parquet",
        "missing": "no such file",
    }
    if kind == "other":
        good.with_columns(pl.col("feature.amount").cast(pl.Float64)).write_parquet(file)
    elif kind != "missing":
        file.write_text("card_id\n" + CANARY)
    (tmp_path / "labels.jsonl").write_bytes(orjson.dumps(ANY))
    with pytest.raises(UsageError, match=words[kind]) as refused:
        read_logged(Logged(file, tmp_path / "labels.jsonl", NAMES, DAY_MS))
    assert CANARY not in str(refused.value)


def test_decisions_need_labels(tmp_path: Path) -> None:
    arguments = ["train", "--from-decisions", "d.parquet", "--out", str(tmp_path / "made")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UsageError)
    assert "--labels FILE" in str(done.exception)
