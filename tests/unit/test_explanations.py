"""What moved a score: against Shapley values by their definition, and on the shipped model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import xgboost
from labelled import read
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.app import build_pipeline
from fraudstream.bundle import Bundle, load_bundle
from fraudstream.decision import find_reasons
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch
from fraudstream.profile import InputPartition, Stretch
from fraudstream.score import Model
from fraudstream.settings import ModelSettings, PolicySettings, Settings
from fraudstream.training.dataset import Reading
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "default"
COLUMNS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Trees:
    """A small model, and its trees as XGBoost writes them for people."""

    model: Model
    dump: list[dict[str, Any]]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    made = rng.normal(size=(300, 4)).astype(np.float32)
    made[rng.random(made.shape) < 0.15] = np.nan
    return made


@pytest.fixture(scope="module")
def trees(vectors: NDArray[np.float32]) -> Trees:
    known = np.nan_to_num(vectors)
    is_fraud = known[:, 0] + known[:, 1] * known[:, 2] > 0.7
    matrix = xgboost.DMatrix(vectors, label=is_fraud, feature_names=list(COLUMNS), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "base_score": 0.5}
    booster = xgboost.train(parameters, matrix, 6)
    dump = [json.loads(t) for t in booster.get_dump(with_stats=True, dump_format="json")]
    return Trees(Model(bytes(booster.save_raw("ubj")), COLUMNS), dump)


def child_of(node: dict[str, Any], row: NDArray[np.float32]) -> dict[str, Any]:
    value = row[COLUMNS.index(node["split"])]
    if np.isnan(value):
        name = "missing"
    else:
        name = "yes" if value < np.float32(node["split_condition"]) else "no"
    found: dict[str, Any] = next(c for c in node["children"] if c["nodeid"] == node[name])
    return found


def expected(node: dict[str, Any], row: NDArray[np.float32], known: frozenset[str]) -> float:
    """Give a tree's average over those who are like the row in what is known of it."""
    if "leaf" in node:
        return float(node["leaf"])
    if node["split"] in known:
        return expected(child_of(node, row), row, known)
    covers = [child["cover"] for child in node["children"]]
    values = [expected(child, row, known) for child in node["children"]]
    return float(sum(c * v for c, v in zip(covers, values, strict=True)) / sum(covers))


def shapley(trees: Trees, row: NDArray[np.float32]) -> list[float]:
    """By the definition: what a feature adds, over all orders in which features become known."""
    found = []
    for column in COLUMNS:
        others = [other for other in COLUMNS if other != column]
        total = 0.0
        for size in range(len(others) + 1):
            weight = factorial(size) * factorial(len(others) - size) / factorial(len(COLUMNS))
            for some in combinations(others, size):
                for tree in trees.dump:
                    without = expected(tree, row, frozenset(some))
                    total += weight * (expected(tree, row, frozenset({*some, column})) - without)
        found.append(total)
    return found


def along_the_way(trees: Trees, row: NDArray[np.float32]) -> list[float]:
    """Saabas' method: what each split on the row's way changes in the average below it."""
    found = dict.fromkeys(COLUMNS, 0.0)
    for node in trees.dump:
        while "leaf" not in node:
            child = child_of(node, row)
            nothing: frozenset[str] = frozenset()
            found[node["split"]] += expected(child, row, nothing) - expected(node, row, nothing)
            node = child
    return list(found.values())


def test_contributions_are_shapley_values_by_their_definition(
    trees: Trees, vectors: NDArray[np.float32]
) -> None:
    some = vectors[:25]
    contributions = trees.model.contributions(some)
    np.testing.assert_allclose(contributions, [shapley(trees, row) for row in some], atol=2e-5)


def test_approximate_contributions_are_what_each_split_on_the_way_changes(
    trees: Trees, vectors: NDArray[np.float32]
) -> None:
    contributions = trees.model.contributions(vectors, is_approximate=True)
    by_hand = [along_the_way(trees, row) for row in vectors]
    np.testing.assert_allclose(contributions, by_hand, atol=2e-5)
    assert np.abs(contributions - trees.model.contributions(vectors)).max() > 0.1


def test_the_bias_is_what_trees_give_on_the_average(
    trees: Trees, vectors: NDArray[np.float32]
) -> None:
    average = sum(expected(tree, vectors[0], frozenset()) for tree in trees.dump)
    assert trees.model.bias == pytest.approx(average, abs=1e-5)


@pytest.mark.parametrize("is_approximate", [False, True])
def test_a_rows_contributions_do_not_depend_on_its_batch(
    trees: Trees, vectors: NDArray[np.float32], *, is_approximate: bool
) -> None:
    together = trees.model.contributions(vectors, is_approximate=is_approximate)
    for rows in (1, 7):
        pieces = [
            trees.model.contributions(vectors[i : i + rows], is_approximate=is_approximate)
            for i in range(0, len(vectors), rows)
        ]
        np.testing.assert_array_equal(np.concatenate(pieces), together)


# ------------------------------------------------------------------ the shipped model


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(SHIPPED)


@pytest.fixture(scope="module")
def real(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """Vectors of a simulated stream, some of them with windows missing, and the golden ones."""
    file = tmp_path_factory.mktemp("world") / "world.parquet"
    write_stream(simulate(SimulationSpec(cards=60, terminals=120, days=40, seed=8)), file)
    names = tuple(feature.name for feature in shipped.features)
    vectors = read(file, reading=Reading(shipped.feature_set, names)).vectors[-1_500:].copy()
    hidden = np.random.default_rng(1).random(vectors[::5].shape) < 0.3
    vectors[::5][hidden] = np.nan
    return np.concatenate((vectors, shipped.golden_vectors))


@pytest.mark.parametrize("is_approximate", [False, True])
@pytest.mark.parametrize("which", ["model", "fallback"])
def test_contributions_add_up_to_the_margin_on_the_shipped_model(
    shipped: Bundle, real: NDArray[np.float32], which: str, *, is_approximate: bool
) -> None:
    model: Model = getattr(shipped, which)
    rows = real[:, [shipped.model.columns.index(name) for name in model.columns]]
    booster = xgboost.Booster(model_file=SHIPPED / f"{which}.ubj")
    margins = booster.inplace_predict(rows, predict_type="margin", missing=np.nan)
    contributions = model.contributions(rows, is_approximate=is_approximate)
    sums = contributions.sum(axis=1, dtype=np.float64) + model.bias
    np.testing.assert_allclose(sums, margins, atol=5e-5)
    assert margins.max() - margins.min() > 3


@pytest.mark.parametrize("is_approximate", [False, True])
def test_reasons_of_the_shipped_model_are_sums_by_code(
    shipped: Bundle, real: NDArray[np.float32], *, is_approximate: bool
) -> None:
    """For the vectors that would be alerts: what is said is all that pushed, and nothing else."""
    rows = np.ascontiguousarray(real[np.argsort(-shipped.model.score(real))[:200]])
    contributions = shipped.model.contributions(rows, is_approximate=is_approximate)
    codes = [shipped.reasons[feature.name][0] for feature in shipped.features]
    assert len(set(codes)) < len(codes)
    for vector, parts in zip(rows, contributions, strict=True):
        sums = {
            code: np.sum([p for c, p in zip(codes, parts, strict=True) if c == code])
            for code in codes
        }
        pushed = sorted((total for total in sums.values() if total > 0), reverse=True)
        reasons = find_reasons(shipped.features, shipped.reasons, vector, parts)
        assert len(reasons) == min(4, len(pushed)) == len({r.code for r in reasons})
        for reason, total in zip(reasons, pushed, strict=False):
            assert reason.contribution == pytest.approx(total, rel=1e-5)
            assert reason.contribution == pytest.approx(sums[reason.code], rel=1e-5)
            own = [p for c, p in zip(codes, parts, strict=True) if c == reason.code]
            assert parts[shipped.model.columns.index(reason.feature)] == max(own)


def outputs_of(shipped: Bundle, explanations: str) -> dict[str, dict[str, Any]]:
    """Decide one payment as a worker with these settings does; give what is published, by topic."""
    settings = Settings(
        model=ModelSettings.model_validate({"explanations": explanations}),
        policy=PolicySettings(review_threshold=0.0),
    )
    definition = shipped.feature_set.profile_definition("EUR")
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({InputPartition(topic, 0): AttachPoint(0, 0) for topic in (1, 2)})
    payment = {
        "transaction_id": "tx1",
        "event_time": "2026-03-03T03:00:00Z",
        "card_id": "c1",
        "terminal_id": "t1",
        "amount_minor": 25_000,
        "currency": "EUR",
    }
    record = Record(settings.topics.transactions, 0, 0, 2**53, b"c1", orjson.dumps(payment))
    batch = InputBatch([record], {InputPartition(1, 0): Stretch(0, 1)})
    outputs = build_pipeline(settings, shipped, store).process(batch, is_degradable=False).outputs
    return {output.topic: orjson.loads(output.value or b"") for output in outputs}


@pytest.mark.parametrize("explanations", ["exact", "approximate"])
def test_a_setting_says_which_contributions_a_workers_reasons_come_from(
    shipped: Bundle, explanations: str
) -> None:
    topics = Settings().topics
    outputs = outputs_of(shipped, explanations)
    features = outputs[topics.decisions]["features"]
    values = [features[feature.name] for feature in shipped.features]
    vector = np.array([np.nan if value is None else value for value in values], np.float32)
    expected_of = {}
    for name in ("exact", "approximate"):
        parts = shipped.model.contributions(vector[None], is_approximate=name == "approximate")
        expected_of[name] = [
            (reason.code, reason.feature, reason.contribution)
            for reason in find_reasons(shipped.features, shipped.reasons, vector, parts[0])
        ]
    assert expected_of["exact"] != expected_of["approximate"]
    assert [
        (reason["code"], reason["feature"], np.float32(reason["contribution"]))
        for reason in outputs[topics.alerts]["reasons"]
    ] == expected_of[explanations]
