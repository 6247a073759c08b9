"""Variants: smaller or faster, the same where they must be, and honest about the rest."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from optimized import KINDS, Optimized, optimize, optimized
from typer.testing import CliRunner

from fraudstream.bundle import Bundle
from fraudstream.cli import app
from fraudstream.converted import OnnxModel
from fraudstream.errors import BundleError, UsageError
from fraudstream.manifest import Latencies
from fraudstream.profile import DAY_MS
from fraudstream.score import Model
from fraudstream.training.boosting import Examples
from fraudstream.training.certify import greatest_difference, rows_on_splits
from fraudstream.training.optimize import distil, prune
from fraudstream.training.optimize.comparison import Comparison, Figures
from fraudstream.training.optimize.days import divide
from fraudstream.training.optimize.forest import LEAF, Forest, Tree
from fraudstream.training.optimize.loss import Allowance, expected_average_precision
from fraudstream.training.optimize.onnx_graph import to_onnx
from fraudstream.training.optimize.quantise import LEAF_STEP, THRESHOLDS_MAX, quantise
from fraudstream.training.optimize.variants import Limits, Teacher, Workshop

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    return optimized(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def variants(made: Optimized) -> dict[str, Bundle]:
    return {kind: made.variant(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    drawn = rng.normal(size=(3_000, 3)).astype(np.float32)
    drawn[rng.random(drawn.shape) < 0.1] = np.nan
    return drawn


def fitted(
    vectors: NDArray[np.float32],
    rounds: int = 30,
    depth: int = 4,
    base_score: float = 0.5,
    is_fraud: NDArray[np.bool_] | None = None,
) -> bytes:
    if is_fraud is None:
        known = np.nan_to_num(vectors)
        is_fraud = known[:, 0] * known[:, 1] > known[:, 2]
    matrix = xgboost.DMatrix(vectors, label=is_fraud, feature_names=list(NAMES), nthread=1)
    parameters = {"objective": "binary:logistic", "nthread": 1, "max_bin": 4096}
    booster = xgboost.train(
        parameters | {"max_depth": depth, "base_score": base_score}, matrix, rounds
    )
    return bytes(booster.save_raw("ubj"))


@pytest.fixture(scope="module")
def forest(vectors: NDArray[np.float32]) -> Forest:
    return Forest.read(fitted(vectors))


def score(forest: Forest, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return Model(forest.write(), forest.columns).score(vectors)


# Bundles


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_stands_in_for_its_teacher(
    made: Optimized, variants: dict[str, Bundle], kind: str
) -> None:
    teacher, variant = made.teacher, variants[kind]
    assert variant.name == f"small-{kind}"
    assert variant.manifest.variant is not None
    assert variant.manifest.variant.kind == kind
    assert variant.manifest.variant.of == teacher.sha256
    assert variant.features == teacher.features
    assert variant.feature_set.sha256 == teacher.feature_set.sha256
    assert variant.reasons == teacher.reasons
    assert variant.manifest.calibration == teacher.manifest.calibration is not None
    assert variant.manifest.training == teacher.manifest.training
    np.testing.assert_array_equal(variant.golden_vectors, teacher.golden_vectors)
    fallback = "fallback.ubj"
    assert (made.path(kind) / fallback).read_bytes() == (made.teacher_path / fallback).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_approximate", [False, True])
def test_contributions_add_up_to_the_margin_of_the_variants_own_trees(
    made: Optimized, variants: dict[str, Bundle], kind: str, is_approximate: bool
) -> None:
    rows = np.concatenate((made.rows.vectors[-300:], made.teacher.golden_vectors))
    model = variants[kind].model
    trees = xgboost.Booster()
    trees.load_model(bytearray(gzip.decompress((made.path(kind) / "model.ubj.gz").read_bytes())))
    margin = trees.inplace_predict(rows, predict_type="margin", missing=np.nan)
    contributions = model.contributions(rows, is_approximate=is_approximate)
    assert np.isfinite(contributions).all()
    np.testing.assert_allclose(contributions.sum(axis=1) + model.bias, margin, atol=1e-4)


def test_what_is_smaller_is_smaller(made: Optimized, variants: dict[str, Bundle]) -> None:
    sizes = {line["name"]: line["model_bytes"] for line in made.printed["bundles"]}
    whole = sizes.pop("small")
    assert isinstance(whole, int)
    for kind in ("pruned", "distilled", "quantised"):
        size = sizes[f"small-{kind}"]
        assert isinstance(size, int)
        assert size <= whole / 4
    for kind in ("pruned", "distilled"):
        variant = variants[kind].manifest.variant
        assert variant is not None
        assert int(variant.parameters["nodes"]) < int(variant.parameters["nodes_before"]) / 2


def test_the_printed_sizes_are_those_on_disk(made: Optimized) -> None:
    for line in made.printed["bundles"]:
        folder = made.folder / str(line["name"])
        assert line["bundle_bytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_the_card_says_what_changed_and_keeps_the_models_own(made: Optimized) -> None:
    card = (made.path("pruned") / "MODEL_CARD.md").read_text()
    assert card.startswith("# Model card: small-pruned, version 1\n")
    assert made.teacher.sha256 in card
    assert "`trees`" in card
    assert "\n## Model card: small, version 1\n" in card
    assert "\n### Intended use" in card


# Trees


def test_a_forest_is_written_as_it_was_read(vectors: NDArray[np.float32], forest: Forest) -> None:
    assert Forest.read(fitted(vectors)).write() == fitted(vectors)
    first = forest.with_trees(forest.trees[:7])
    booster = xgboost.Booster()
    booster.load_model(bytearray(fitted(vectors)))
    expected = booster.inplace_predict(vectors, iteration_range=(0, 7), missing=np.nan)
    np.testing.assert_array_equal(score(first, vectors), expected)


def leaf_value(tree: Tree, row: NDArray[np.float32]) -> np.float32:
    node = 0
    while tree.left[node] != LEAF:
        value = row[tree.feature[node]]
        goes_left = tree.goes_left[node] if np.isnan(value) else value < tree.value[node]
        node = int(tree.left[node] if goes_left else tree.right[node])
    found: np.float32 = tree.value[node]
    return found


def test_a_cut_tree_says_the_cuts_value_below_the_cut_and_is_else_the_same(
    vectors: NDArray[np.float32], forest: Forest
) -> None:
    tree = forest.trees[0]
    left = int(tree.left[0])
    cut = tree.cut({left: 0.125, int(tree.left[left]): 9.0})  # the second hangs below the first
    assert len(cut) < len(tree)
    for row in vectors[:200]:
        value = row[tree.feature[0]]
        goes_left = tree.goes_left[0] if np.isnan(value) else value < tree.value[0]
        assert leaf_value(cut, row) == (0.125 if goes_left else leaf_value(tree, row))
    assert len(tree.cut({0: 1.0})) == 1


def test_the_weakest_splits_go_first_and_a_leaf_says_the_mean(forest: Forest) -> None:
    cuts = prune.weakest_first(forest)
    assert len(cuts) == forest.splits
    stumps = prune.apply(forest, cuts)
    assert stumps.nodes == len(forest.trees)
    for before, after in zip(forest.trees, stumps.trees, strict=True):
        leaves = before.leaves
        mean = np.average(before.value[leaves], weights=before.cover[leaves])
        assert after.value[0] == pytest.approx(mean, abs=1e-6)
    seen: set[tuple[int, int]] = set()
    for cut in cuts:  # children before their parents
        tree = forest.trees[cut.tree]
        for child in (int(tree.left[cut.node]), int(tree.right[cut.node])):
            assert tree.left[child] == LEAF or (cut.tree, child) in seen
        seen.add((cut.tree, cut.node))
    assert prune.apply(forest, []).write() == forest.write()


def test_the_expected_average_precision_is_largest_for_the_teachers_own_ranking() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(500).astype(np.float32) ** 4
    own = expected_average_precision(probability, probability)
    for _ in range(5):
        other = rng.permutation(probability)
        assert expected_average_precision(other, probability) < own


def test_pruning_loses_no_more_than_it_may_and_more_the_more_it_may(
    vectors: NDArray[np.float32], forest: Forest
) -> None:
    probability = score(forest, vectors)
    sizes = []
    for loss_max in (0.0, 0.001, 0.02, 0.2):
        allowance = Allowance(vectors, probability, loss_max)
        pruned = prune.prune(forest, allowance, lambda: None)
        assert allowance.loss(pruned) <= loss_max + 1e-12
        sizes.append(len(pruned.write()))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_a_student_that_may_lose_nothing_is_the_one_that_loses_least(
    vectors: NDArray[np.float32], forest: Forest
) -> None:
    probability = score(forest, vectors)
    allowance = Allowance(vectors, probability, 0.0)
    steps: list[None] = []
    student = distil.distil(
        Examples(vectors, probability), NAMES, allowance, lambda: steps.append(None)
    )
    assert len(steps) == distil.STEPS
    assert student.depth == max(distil.DEPTHS)
    assert 0 < allowance.loss(student.forest) < 0.05


def test_quantising_keeps_the_splits_and_coarsens_the_numbers(
    vectors: NDArray[np.float32],
) -> None:
    by_chance = np.random.default_rng(2).random(len(vectors)) < 0.5  # asks for many splits
    forest = Forest.read(fitted(vectors, rounds=60, depth=6, is_fraud=by_chance))
    coarse = quantise(forest)
    for feature in range(3):
        kept = {
            float(tree.value[node])
            for tree in coarse.trees
            for node in tree.splits
            if tree.feature[node] == feature
        }
        known = {
            float(tree.value[node])
            for tree in forest.trees
            for node in tree.splits
            if tree.feature[node] == feature
        }
        assert len(kept) <= THRESHOLDS_MAX < len(known)
        assert kept <= known
    for before, after in zip(forest.trees, coarse.trees, strict=True):
        np.testing.assert_array_equal(after.left, before.left)
        np.testing.assert_array_equal(after.feature, before.feature)
        np.testing.assert_array_equal(after.goes_left, before.goes_left)
        np.testing.assert_array_equal(after.value[after.leaves] % LEAF_STEP, 0)
        np.testing.assert_allclose(
            after.value[after.leaves], before.value[before.leaves], atol=LEAF_STEP / 2
        )
        assert (after.cover > 0).all()
        splits = after.splits
        np.testing.assert_array_equal(
            after.cover[splits], after.cover[after.left[splits]] + after.cover[after.right[splits]]
        )
    packed, packed_before = (len(gzip.compress(each.write())) for each in (coarse, forest))
    assert packed < 0.7 * packed_before


# ONNX


@pytest.mark.parametrize("base_score", [0.5, 0.03])
def test_a_converted_model_agrees_on_every_split_and_where_features_are_missing(
    vectors: NDArray[np.float32], base_score: float
) -> None:
    ubj = fitted(vectors, rounds=60, depth=5, base_score=base_score)
    forest = Forest.read(ubj)
    trees, converted = Model(ubj, NAMES), OnnxModel(to_onnx(forest), ubj, NAMES)
    on_splits = rows_on_splits([forest], vectors, seed=1)
    for rows in (vectors, on_splits, vectors[:1], vectors[:0]):
        scores = converted.score(rows)
        assert scores.dtype == np.float32
        assert scores.shape == (len(rows),)
        assert greatest_difference(trees.score(rows), scores) <= 1e-6
    np.testing.assert_array_equal(
        converted.contributions(vectors[:50]), trees.contributions(vectors[:50])
    )


def test_trees_of_one_leaf_and_repeated_vectors_are_converted(
    vectors: NDArray[np.float32], forest: Forest
) -> None:
    mixed = forest.with_trees([forest.trees[0].cut({0: 0.75}), *forest.trees[1:4]])
    converted = OnnxModel(to_onnx(mixed), mixed.write(), NAMES)
    assert greatest_difference(score(mixed, vectors), converted.score(vectors)) <= 1e-6
    assert to_onnx(mixed) == to_onnx(mixed)


def test_a_vector_scores_the_same_in_any_batch(
    made: Optimized, variants: dict[str, Bundle]
) -> None:
    """Not promised by ONNX Runtime, but it is what replays rely on."""
    rows = made.rows.vectors[-700:]
    model = variants["onnx"].model
    together = model.score(rows)
    for size in (1, 7, 64):
        pieces = [model.score(rows[i : i + size]) for i in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(pieces), together)


def test_a_wrong_conversion_is_not_written(made: Optimized) -> None:
    """Trees that go left up to an amount, and not below it: only rows on splits tell."""
    teacher = Teacher.load(str(made.teacher_path))
    amount = teacher.forest.columns.index("amount")
    up_to = teacher.forest.with_trees(
        [
            replace(
                tree,
                value=np.where(
                    (tree.left == LEAF) | (tree.feature != amount),
                    tree.value,
                    np.nextafter(tree.value, np.float32(np.inf)),
                ),
            )
            for tree in teacher.forest.trees
        ]
    )
    days = divide(made.rows, teacher.bundle.manifest.training)
    wrong = Workshop(replace(teacher, forest=up_to), days, Limits(), lambda: None)
    with pytest.raises(BundleError, match=r"differs from its trees by .* it is not written"):
        wrong.make("onnx")
    assert Workshop(teacher, days, Limits(), lambda: None).make("onnx").onnx is not None


# Days


def test_days_are_divided_by_the_teachers_training(made: Optimized) -> None:
    training = made.teacher.manifest.training
    days = divide(made.rows, training)
    day = made.rows.start_ms // DAY_MS
    assert (days.learnt.start_ms // DAY_MS - day, days.learnt.end_ms // DAY_MS - day) == (7, 35)
    assert days.chosen_on.start_ms // DAY_MS - day == 28
    assert tuple(bound // DAY_MS - day for bound in days.judged_ms) == (42, 56)
    assert not days.is_of_training


@pytest.mark.parametrize("last_day", [20, 35, 42])
def test_data_that_end_too_soon_are_judged_by_their_last_week_which_nobody_then_learns(
    made: Optimized, last_day: int
) -> None:
    start_ms = made.rows.start_ms
    rows = made.rows.between(start_ms, start_ms + last_day * DAY_MS)
    days = divide(rows, made.teacher.manifest.training)
    assert days.is_of_training
    assert days.judged_ms == (rows.end_ms - 7 * DAY_MS, rows.end_ms)
    assert days.learnt.end_ms <= days.judged_ms[0]


def test_data_without_the_training_are_refused(made: Optimized) -> None:
    rows = made.rows.between(made.rows.start_ms + 40 * DAY_MS, made.rows.end_ms)
    with pytest.raises(UsageError, match="hold nothing of the days that the model learnt from"):
        divide(rows, made.teacher.manifest.training)


# The command


def test_purposes_are_chosen_by_the_figures_and_not_by_the_name() -> None:
    def figures(name: str, size: int, one_us: float, large_us: float) -> Figures:
        latency_us = Latencies(rows_1=one_us, rows_16=1, rows_128=large_us / 8, rows_1024=large_us)
        return Figures(name, size, size, 0.7, 0.3, latency_us)

    whole = figures("whole", 100, 50, 500)
    chosen = Comparison(
        (whole, figures("slow", 10, 60, 900), figures("quick", 90, 5, 800), whole), 0.005
    ).purposes()
    assert {each.purpose: each.name for each in chosen} == {
        "edge": "quick",
        "HTTP": "quick",
        "stream": "whole",
    }


def test_a_variant_that_lost_too_much_serves_nothing_and_is_named(
    made: Optimized, tmp_path: Path
) -> None:
    """A wish that cannot be granted is said, not hidden: judged days are other days."""
    done = optimize(
        made.teacher_path, made.file, "--out", tmp_path, "--only", "quantised", "--ap-loss-max", 0
    )
    assert done.exit_code == 0, done.output
    certificate = json.loads((tmp_path / "small-quantised" / "certificate.json").read_text())
    loss = certificate["average_precision_before"] - certificate["average_precision"]
    assert ("more than 0:" in done.stderr) == (loss > 0)


def test_the_table_and_the_check_show_the_certificate(made: Optimized, tmp_path: Path) -> None:
    done = optimize(made.teacher_path, made.file, "--out", tmp_path, "--only", "onnx")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["small-onnx"]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(" small")]
    assert [line[0] for line in lines] == ["small", "small-onnx"]
    checked = CliRunner().invoke(app, ["model", "check", str(tmp_path / "small-onnx")])
    assert f"stands in for {made.teacher.sha256}" in checked.stdout
    assert "decisions flipped" in checked.stdout
    as_json = CliRunner().invoke(app, ["model", "check", str(made.path("onnx")), "--json"])
    assert json.loads(as_json.stdout)["certificate"]["rows_on_splits"] > 0


def test_data_that_end_too_soon_are_used_with_a_warning(made: Optimized, tmp_path: Path) -> None:
    done = optimize(
        *(made.teacher_path, made.file, "--out", tmp_path),
        *("--only", "onnx", "--until", "2026-02-06"),
    )
    assert done.exit_code == 0, done.output
    assert "their last week is judged, which flatters all" in done.stderr
    certificate = json.loads((tmp_path / "small-onnx" / "certificate.json").read_text())
    assert certificate["is_of_training"]
    assert certificate["evaluated_on"]["end"] == "2026-02-07T00:00:00.000Z"


def test_mistakes_are_said_before_the_work(made: Optimized, tmp_path: Path) -> None:
    teacher, file = made.teacher_path, made.file
    for arguments, words in (
        ((teacher, file, "--out", made.folder), "is there already"),
        ((teacher, file, "--out", tmp_path, "--only", "onnx,magic"), "there is no 'magic'"),
        ((teacher, file, "--out", tmp_path, "--labels-after", "week"), "whole number and a unit"),
        ((made.path("onnx"), file, "--out", tmp_path), "is a variant itself (onnx)"),
        ((tmp_path, file, "--out", tmp_path), "manifest.json is missing"),
    ):
        done = optimize(*arguments)
        assert done.exit_code != 0
        assert words in str(done.exception)


def test_a_variant_is_replaced_when_asked(made: Optimized, tmp_path: Path) -> None:
    shutil.copytree(made.path("quantised"), tmp_path / "small-onnx")
    done = optimize(made.teacher_path, made.file, "--out", tmp_path, "--only", "onnx", "--replace")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "small-onnx" / "model.onnx").is_file()
