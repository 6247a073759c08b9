"""Certificates: every split is stood on, no flip is missed, and the figures are true."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from optimized import KINDS, THRESHOLDS, Optimized, optimized
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from fraudstream.decision import Policy, decide
from fraudstream.manifest import Certificate
from fraudstream.profile import DAY_MS
from fraudstream.score import Model
from fraudstream.training.certify import (
    CALL_ROWS,
    describe_machine,
    find_flips,
    greatest_difference,
    measure_latencies,
    rows_on_splits,
    time_in_turns,
)
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.optimize.forest import LEAF, Forest, Tree
from fraudstream.training.quality import card_precision

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    return optimized(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    drawn = rng.normal(size=(2_000, 3)).round(1).astype(np.float32)
    drawn[rng.random(drawn.shape) < 0.1] = np.nan
    return drawn


@pytest.fixture(scope="module")
def forest(vectors: NDArray[np.float32]) -> Forest:
    known = np.nan_to_num(vectors)
    is_fraud = known[:, 0] * known[:, 1] > known[:, 2]
    matrix = xgboost.DMatrix(vectors, label=is_fraud, feature_names=list(NAMES), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 5, "nthread": 1, "base_score": 0.5}
    return Forest.read(bytes(xgboost.train(parameters, matrix, 12).save_raw("ubj")))


def walk(tree: Tree, row: NDArray[np.float32]) -> Iterator[tuple[int, str]]:
    """Give the splits that a row comes by, and the side it leaves each on."""
    node = 0
    while tree.left[node] != LEAF:
        value = row[tree.feature[node]]
        goes_left = tree.goes_left[node] if np.isnan(value) else value < tree.value[node]
        yield node, "left" if goes_left else "right"
        node = int(tree.left[node] if goes_left else tree.right[node])


def test_every_split_has_a_row_on_it_one_below_and_one_that_lacks_the_feature(
    forest: Forest, vectors: NDArray[np.float32]
) -> None:
    """And each comes by its split: what it shows is what this split does."""
    rows = rows_on_splits([forest], vectors, seed=1)
    assert len(rows) > 2.5 * forest.splits
    for tree in forest.trees:
        seen = set()
        for row in rows:
            for node, side in walk(tree, row):
                value, threshold = row[tree.feature[node]], tree.value[node]
                if value == threshold:
                    seen.add((node, "on it", side))
                elif value == np.nextafter(threshold, np.float32(-np.inf)):
                    seen.add((node, "below", side))
                elif np.isnan(value):
                    seen.add((node, "missing", side))
        for node in map(int, tree.splits):
            threshold, above = tree.value[node], _asked_above(tree, node)
            below = np.nextafter(threshold, np.float32(-np.inf))
            assert not _can_come_by(above, threshold) or (node, "on it", "right") in seen
            assert not _can_come_by(above, below) or (node, "below", "left") in seen
            # Where the same feature was asked for above, a row that lacks it went by a rule.
            missing = (node, "missing", "left" if tree.goes_left[node] else "right")
            assert above or missing in seen


def _asked_above(tree: Tree, node: int) -> list[tuple[np.float32, bool]]:
    """List what the splits above asked of the same feature: a threshold, whether to be below."""
    feature, asked = tree.feature[node], []
    while node:
        above = int(np.flatnonzero((tree.left == node) | (tree.right == node))[0])
        if tree.feature[above] == feature:
            asked.append((tree.value[above], bool(tree.left[above] == node)))
        node = above
    return asked


def _can_come_by(above: list[tuple[np.float32, bool]], value: np.float32) -> bool:
    """Say whether a value comes by: none does where a split only tells the missing ones apart."""
    return all(bool(value < threshold) == is_below for threshold, is_below in above)


def test_rows_on_splits_are_the_same_again_and_payments_but_for_what_is_asked(
    forest: Forest, vectors: NDArray[np.float32]
) -> None:
    rows = rows_on_splits([forest], vectors, seed=1)
    np.testing.assert_array_equal(
        rows_on_splits([forest, forest], vectors, seed=1)[: len(rows)], rows
    )
    assert rows.dtype == np.float32
    assert rows.shape[1] == len(NAMES)
    assert len(rows_on_splits([forest.with_trees([])], vectors, seed=1)) == 0


def test_a_model_that_takes_the_other_side_on_a_split_is_found_out(
    forest: Forest, vectors: NDArray[np.float32]
) -> None:
    """The classic mistake of converters: not below a threshold, but up to it."""
    up_to = forest.with_trees(
        [
            replace(tree, value=np.where(tree.left == LEAF, tree.value, _next(tree.value)))
            for tree in forest.trees
        ]
    )
    right, wrong = (Model(each.write(), NAMES) for each in (forest, up_to))
    rows = rows_on_splits([forest], vectors, seed=1)
    assert greatest_difference(right.score(rows), wrong.score(rows)) > 0.1
    elsewhere = np.random.default_rng(1).normal(size=(2_000, 3)).astype(np.float32)
    assert greatest_difference(right.score(elsewhere), wrong.score(elsewhere)) == 0


def _next(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nextafter(values, np.float32(np.inf))


scores = hnp.arrays(np.float32, 40, elements=st.floats(0, 1, width=32))


@given(scores, scores, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_flips_are_what_the_policy_decides_otherwise_and_none_lies_beyond_the_difference(
    before: NDArray[np.float32], after: NDArray[np.float32], thresholds: tuple[float, float]
) -> None:
    low, high = sorted(thresholds)
    policy = Policy(low, high, 0.5)
    decided = zip(decide(before, policy), decide(after, policy), strict=True)
    expected = [row for row, (old, new) in enumerate(decided) if old is not new]
    flips = find_flips(before, after, (low, high))
    assert flips.rows.tolist() == expected
    assert flips.beyond_difference == 0


def test_a_score_on_the_threshold_flips_when_it_falls_by_a_float32() -> None:
    on = np.array([0.7, 0.7], np.float32)
    below = np.nextafter(on, np.float32(0))
    assert find_flips(on, below, (0.7,)).rows.tolist() == [0, 1]
    assert find_flips(below, below, (0.7,)).rows.tolist() == []


def test_the_greatest_difference() -> None:
    one, other = np.array([[0.5, 0.25], [0.5, 0.5]], np.float32)
    assert greatest_difference(one, other) == 0.25
    assert greatest_difference(one[:0], other[:0]) == 0


def judged_by_hand(rows: LabelledVectors, from_ms: int) -> NDArray[np.int64]:
    """Rows from a day on but for cards with a fraud more than 7 days before, at most 14."""
    day = rows.event_time_ms // DAY_MS
    first_day = from_ms // DAY_MS
    judged = []
    for row in np.flatnonzero(day >= first_day):
        known = (
            (rows.card_id == rows.card_id[row])
            & rows.is_fraud
            & (day >= first_day - 14)
            & (day < day[row] - 7)
        )
        if not known.any():
            judged.append(row)
    return np.array(judged)


@pytest.fixture(scope="module")
def judged(made: Optimized) -> LabelledVectors:
    train_end = datetime.fromisoformat(made.teacher.manifest.training.train.end)
    return made.rows.take(judged_by_hand(made.rows, int(train_end.timestamp()) * 1000 + 7 * DAY_MS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_says_what_is_so(made: Optimized, judged: LabelledVectors, kind: str) -> None:
    variant = made.variant(kind)
    certificate = variant.certificate
    assert certificate is not None
    old = made.teacher.model.score(judged.vectors)
    new = variant.model.score(judged.vectors)
    assert certificate.evaluated_on.transactions == len(judged)
    assert certificate.evaluated_on.frauds == judged.is_fraud.sum()
    assert certificate.evaluated_on.start == "2026-02-12T00:00:00.000Z"
    assert not certificate.is_of_training
    assert certificate.score_difference_max == np.abs(old.astype(float) - new).max()
    policy = Policy(*THRESHOLDS, 0.5)
    decided = zip(judged.transaction_id, decide(old, policy), decide(new, policy), strict=True)
    flipped = [number for number, before, after in decided if before is not after]
    assert certificate.thresholds == THRESHOLDS
    assert list(certificate.flipped_transactions) == flipped
    assert certificate.flips == len(flipped)
    assert certificate.flips_beyond_difference == 0
    for scores, precision, card_precision_100 in (
        (new, certificate.average_precision, certificate.card_precision_100),
        (old, certificate.average_precision_before, certificate.card_precision_100_before),
    ):
        assert precision == round(average_precision_score(judged.is_fraud, scores), 4)
        assert card_precision_100 == round(card_precision(scores, judged), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_knows_the_sizes_and_the_splits_of_both(made: Optimized, kind: str) -> None:
    certificate = _certificate(made, kind)
    files = [file for file in made.path(kind).iterdir() if file.name.startswith("model.")]
    assert certificate.model_bytes == sum(file.stat().st_size for file in files)
    assert certificate.model_bytes_before == (made.teacher_path / "model.ubj").stat().st_size
    splits = Forest.read((made.teacher_path / "model.ubj").read_bytes()).splits
    assert certificate.rows_on_splits > 2 * splits
    assert certificate.score_difference_max_on_splits >= 0


def _certificate(made: Optimized, kind: str) -> Certificate:
    certificate = made.variant(kind).certificate
    assert certificate is not None
    return certificate


def test_all_latencies_are_of_one_run(made: Optimized) -> None:
    certificates = [_certificate(made, kind) for kind in KINDS]
    assert len({certificate.latency_us_before for certificate in certificates}) == 1
    for certificate in certificates:
        assert all(us > 0 for _, us in certificate.latency_us)
        assert certificate.machine == describe_machine()


def test_calls_take_turns_and_the_first_turn_is_not_counted(vectors: NDArray[np.float32]) -> None:
    calls: list[tuple[str, int]] = []

    def recorder(name: str) -> Callable[[NDArray[np.float32]], object]:
        return lambda batch: calls.append((name, len(batch)))

    taken_us = time_in_turns([recorder("x"), recorder("y")], vectors, rows=16, calls=25)
    assert taken_us.shape == (2, 25)
    assert (taken_us > 0).all()
    assert calls[:20] == [("x", 16)] * 10 + [("y", 16)] * 10
    assert calls.count(("x", 16)) == calls.count(("y", 16)) >= 35


def test_latency_is_measured_for_every_size_of_a_call(made: Optimized) -> None:
    few = made.rows.vectors[:50]  # fewer rows than the largest call: they come again
    (found,) = measure_latencies([made.teacher.model], few, calls=3)
    assert {name for name, _ in found} == {f"rows_{rows}" for rows in CALL_ROWS}


def test_the_machine_has_no_name() -> None:
    assert platform.machine() in describe_machine()
    assert "cores" in describe_machine()
    assert platform.node() not in describe_machine()
