"""Scores to probabilities: rising, better than raw scores, and the same wherever they are made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest
import xgboost
from feature_names import DEFAULT
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import rows_of
from numpy.typing import NDArray
from sklearn.metrics import log_loss  # type: ignore[import-untyped]
from tiny_bundle import GOLDEN, NAMES, booster_ubj, draft_of
from typer.testing import CliRunner

from fraudstream.bundle import load_bundle
from fraudstream.bundle_writing import write_bundle
from fraudstream.calibration import Calibration, Isotonic, Sigmoid, logit
from fraudstream.cli import app
from fraudstream.errors import UsageError
from fraudstream.manifest import CalibrationRecord, IsotonicCalibration, SigmoidCalibration
from fraudstream.profile import DAY_MS
from fraudstream.score import Model
from fraudstream.training.calibrating import fit_calibration
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.recipe import BoosterSettings, FoldSettings, Recipe
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.train import Trainer

Method: TypeAlias = Literal["sigmoid", "isotonic"]
METHODS: tuple[Method, ...] = ("sigmoid", "isotonic")
SOME = np.array([0, 1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 6e-8, 1], np.float32)


# ------------------------------------------------------------------ the functions

calibrations = st.one_of(
    st.builds(Sigmoid, st.floats(0.01, 50), st.floats(-30, 30)),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20).map(
        lambda points: Isotonic(
            tuple(sorted(x for x, _ in points)), tuple(sorted(y for _, y in points))
        )
    ),
)


@given(calibrations, st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_probabilities_rise_with_scores_and_stay_between_0_and_1(
    calibration: Calibration, scores: list[float]
) -> None:
    raw = np.array(sorted([*scores, *SOME]), np.float32)
    found = calibration(raw)
    assert found.dtype == np.float32
    assert found.shape == raw.shape
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(found) >= 0).all()


@given(calibrations, st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
@settings(deadline=None, derandomize=True)
def test_a_score_gets_the_same_probability_in_any_batch(
    calibration: Calibration, scores: list[float]
) -> None:
    raw = np.array(scores, np.float32)
    alone = [calibration(raw[i : i + 1]) for i in range(len(raw))]
    np.testing.assert_array_equal(np.concatenate(alone), calibration(raw))


def test_a_sigmoid_by_hand() -> None:
    """Odds of 1 to 3 squared are 1 to 9; times e they are e to 9."""
    assert Sigmoid(2.0, 0.0)(np.array([0.25], np.float32))[0] == np.float32(1 / 10)
    expected = np.e / 9 / (1 + np.e / 9)
    assert Sigmoid(2.0, 1.0)(np.array([0.25], np.float32))[0] == pytest.approx(expected, rel=1e-6)


def test_an_isotonic_by_hand() -> None:
    """Straight between its points, level before and behind them, a step where two share a score."""
    steps = Isotonic((0.2, 0.4, 0.4, 0.8), (0.1, 0.2, 0.6, 0.8))
    scores = np.array([0.0, 0.2, 0.3, 0.6, 0.8, 1.0], np.float32)
    np.testing.assert_allclose(steps(scores), [0.1, 0.1, 0.15, 0.7, 0.8, 0.8], rtol=1e-6)


def test_the_line_through_the_middle_changes_nothing() -> None:
    np.testing.assert_allclose(Sigmoid(1.0, 0.0)(SOME), SOME, atol=2e-9, rtol=1e-6)
    np.testing.assert_array_equal(Isotonic((0.0, 1.0), (0.0, 1.0))(SOME), SOME)


def test_the_log_odds_of_certain_scores_are_finite() -> None:
    found = logit(np.array([0, 0.5, 1], np.float32))
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(-found[2])
    assert found[1] == 0


# ------------------------------------------------------------------ fitting


def simulated_scores(seed: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make scores that rank well and say odds that are far off; their true odds are known."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-4.5, 2.0, rows)
    is_fraud = rng.random(rows) < 1 / (1 + np.exp(-log_odds))
    raw = 1 / (1 + np.exp(-(0.5 * log_odds + 1.5)))
    return raw.astype(np.float32), is_fraud


def fit(
    method: Method, scores: NDArray[np.float32], is_fraud: NDArray[np.bool_]
) -> CalibrationRecord:
    return fit_calibration(method, scores, is_fraud, "made up")


@pytest.mark.parametrize("method", METHODS)
def test_fitted_probabilities_are_better_on_scores_that_were_held_back(method: Method) -> None:
    scores, is_fraud = simulated_scores(1, 20_000)
    later, later_fraud = simulated_scores(2, 20_000)
    record = fit(method, scores, is_fraud)
    raw_loss = log_loss(later_fraud, later)
    loss = log_loss(later_fraud, record.function()(later))
    true_loss = log_loss(later_fraud, Sigmoid(2.0, -3.0)(later))
    assert true_loss < loss < true_loss * 1.02
    assert loss < 0.7 * raw_loss
    # Among payments that are said to be fraud with a probability, that share is.
    probabilities = record.function()(later)
    for low, high in ((0.005, 0.02), (0.02, 0.1), (0.1, 0.4), (0.4, 0.9)):
        inside = (probabilities >= low) & (probabilities < high)
        assert later_fraud[inside].mean() == pytest.approx(probabilities[inside].mean(), rel=0.25)


def test_a_sigmoid_finds_the_line_that_the_scores_were_made_by() -> None:
    record = fit("sigmoid", *simulated_scores(1, 50_000))
    assert isinstance(record, SigmoidCalibration)
    assert record.slope == pytest.approx(2.0, rel=0.05)
    assert record.intercept == pytest.approx(-3.0, rel=0.05)
    assert (record.method, record.fitted_on) == ("sigmoid", "made up")


@pytest.mark.parametrize("method", METHODS)
def test_the_same_scores_give_the_same_calibration(method: Method) -> None:
    scores, is_fraud = simulated_scores(1, 20_000)
    assert fit(method, scores, is_fraud) == fit(method, scores.copy(), is_fraud.copy())


@pytest.mark.parametrize("frauds", [0, 50, 199])
def test_too_few_frauds_for_a_step_function_are_refused(frauds: int) -> None:
    is_fraud = np.arange(10_000) < frauds
    scores = np.linspace(1, 0, 10_000, dtype=np.float32)
    with pytest.raises(UsageError) as caught:
        fit("isotonic", scores, is_fraud)
    assert f"needs 200 frauds in the folds' test periods, and there are {frauds}:" in str(
        caught.value
    )
    assert "use sigmoid, or more data" in str(caught.value)


def test_as_many_frauds_as_a_step_function_needs_are_enough() -> None:
    is_fraud = np.arange(10_000) < 200
    record = fit("isotonic", np.linspace(1, 0, 10_000, dtype=np.float32), is_fraud)
    assert isinstance(record, IsotonicCalibration)


def test_scores_that_rank_frauds_last_have_no_calibration() -> None:
    scores, is_fraud = simulated_scores(1, 20_000)
    with pytest.raises(UsageError, match="rank frauds no better than chance"):
        fit("sigmoid", 1 - scores, is_fraud)


def test_an_isotonic_of_scores_that_rank_frauds_last_is_level() -> None:
    """It may not fall: then every score gets the share of all."""
    scores, is_fraud = simulated_scores(1, 20_000)
    found = fit("isotonic", 1 - scores, is_fraud).function()(SOME)
    assert found.max() - found.min() < 0.2
    assert found[4] == pytest.approx(is_fraud.mean(), rel=0.1)


# ------------------------------------------------------------------ in a bundle

RECORDS: dict[str, CalibrationRecord] = {
    method: fit(method, *simulated_scores(1, 20_000)) for method in METHODS
}


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_gives_the_calibrated_scores_bit_for_bit(tmp_path: Path, method: Method) -> None:
    """Through JSON and back: not a digit of a parameter may be lost."""
    record = RECORDS[method]
    vectors = np.random.default_rng(4).random((500, 3)).astype(np.float32)
    raw = Model(booster_ubj(NAMES, 5), NAMES).score(vectors)
    expected = record.function()(raw)
    draft = draft_of("mine", vectors, calibration=record.model_dump())
    bundle = write_bundle(tmp_path / "mine", draft)
    assert bundle.manifest.calibration == record
    np.testing.assert_array_equal(bundle.model.score(vectors), expected)
    again = load_bundle(tmp_path / "mine")
    np.testing.assert_array_equal(again.model.score(vectors), expected)
    assert (expected != raw).any()
    golden = json.loads((tmp_path / "mine" / "golden.json").read_text())
    np.testing.assert_array_equal(np.array(golden["scores"], np.float32), expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_fallback_model_stays_as_it_is(tmp_path: Path, method: Method) -> None:
    """It is another model, and the calibration was not fitted on its scores."""
    plain = write_bundle(tmp_path / "plain", draft_of("mine"))
    record = RECORDS[method].model_dump()
    calibrated = write_bundle(tmp_path / "mine", draft_of("mine", calibration=record))
    rows = GOLDEN[:, [2, 0]]
    np.testing.assert_array_equal(calibrated.fallback.score(rows), plain.fallback.score(rows))
    assert calibrated.sha256 != plain.sha256


@pytest.mark.parametrize("is_approximate", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_contributions_of_a_calibrated_model_add_up_to_its_raw_margin(
    tmp_path: Path, method: Method, *, is_approximate: bool
) -> None:
    draft = draft_of("mine", calibration=RECORDS[method].model_dump())
    model = write_bundle(tmp_path / "mine", draft).model
    vectors = np.random.default_rng(4).random((200, 3)).astype(np.float32)
    booster = xgboost.Booster(model_file=tmp_path / "mine" / "model.ubj")
    margins = booster.inplace_predict(vectors, predict_type="margin", missing=np.nan)
    sums = model.contributions(vectors, is_approximate=is_approximate).sum(axis=1) + model.bias
    np.testing.assert_allclose(sums, margins, atol=1e-5)
    assert np.abs(sums - logit(model.score(vectors))).max() > 0.1


# ------------------------------------------------------------------ by a recipe

RECIPE = Recipe(
    folds=FoldSettings(count=2, train_days=28, test_days=14),
    booster=BoosterSettings(rounds_max=20, rounds_step=20, max_bin=64),
    fallback=BoosterSettings(rounds_max=5, rounds_step=5, max_bin=64),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LabelledVectors:
    """Make a world with enough frauds in four weeks for a step function."""
    made = simulate(SimulationSpec(cards=900, terminals=1_800, days=77, seed=3))
    return rows_of(made, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def world(whole: LabelledVectors) -> LabelledVectors:
    """All but the last two weeks."""
    return whole.between(whole.start_ms, whole.end_ms - 14 * DAY_MS)


@pytest.fixture(scope="module")
def train(world: LabelledVectors, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("models")

    def make(method: Method) -> Path:
        if not (folder / method).exists():
            recipe = Recipe.model_validate(RECIPE.model_dump() | {"calibration": method})
            write_bundle(folder / method, Trainer(recipe, DEFAULT).train(world, "mine"))
        return folder / method

    return make


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_that_asks_for_it_gets_a_calibrated_model(
    train: Callable[..., Path], world: LabelledVectors, method: Method
) -> None:
    plain, calibrated = load_bundle(train("none")), load_bundle(train(method))
    record = calibrated.manifest.calibration
    assert record is not None
    assert record.method == method
    folds = calibrated.manifest.training.folds
    judged = sum(fold.test.transactions for fold in folds)
    assert record.fitted_on.startswith(f"{judged} payments of 2 folds, scored by models made on")
    # The trees are the same ones, and so is how they rank.
    assert (train(method) / "model.ubj").read_bytes() == (train("none") / "model.ubj").read_bytes()
    assert calibrated.manifest.quality == plain.manifest.quality
    vectors = world.vectors[-5_000:]
    expected = record.function()(plain.model.score(vectors))
    np.testing.assert_array_equal(calibrated.model.score(vectors), expected)
    card = (train(method) / "MODEL_CARD.md").read_text()
    assert f"The score is a probability: calibrated ({method}) on {record.fitted_on}." in card
    assert "The score is not calibrated" in (train("none") / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrated_model_says_how_many_of_later_payments_are_frauds(
    train: Callable[..., Path], whole: LabelledVectors, method: Method
) -> None:
    """Of the two weeks after all that it was made from."""
    later = whole.between(whole.end_ms - 14 * DAY_MS, whole.end_ms)
    raw = load_bundle(train("none")).model.score(later.vectors)
    probabilities = load_bundle(train(method)).model.score(later.vectors)
    assert probabilities.sum() == pytest.approx(later.is_fraud.sum(), rel=0.25)
    assert raw.sum() > 3 * later.is_fraud.sum()
    assert log_loss(later.is_fraud, probabilities) < 0.6 * log_loss(later.is_fraud, raw)


def test_the_command_says_what_a_score_is(train: Callable[..., Path]) -> None:
    for method, words in (
        ("none", "no probability"),
        ("sigmoid", "sigmoid probability"),
        ("isotonic", "isotonic probability"),
    ):
        words_of = ["model", "check", str(train(method))]
        shown = CliRunner().invoke(app, words_of, catch_exceptions=False).stdout
        assert f"score      {words}\n" in shown


def test_a_recipe_whose_folds_have_too_few_frauds_for_a_step_function_is_refused(
    world: LabelledVectors,
) -> None:
    recipe = Recipe.model_validate(
        RECIPE.model_dump() | {"calibration": "isotonic", "folds": {"count": 1, "test_days": 2}}
    )
    with pytest.raises(UsageError, match="an isotonic calibration needs 200 frauds"):
        Trainer(recipe, DEFAULT).train(world, "mine")
