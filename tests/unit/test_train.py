"""From labelled vectors to a bundle: chosen and measured on folds, nothing left to chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from feature_names import DEFAULT, DEFAULT_FEATURES, definition_of, feature_named
from labelled import read, rows_of
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]
from typer.testing import CliRunner

from fraudstream.bundle import Bundle, load_bundle
from fraudstream.bundle_writing import write_bundle
from fraudstream.cli import app
from fraudstream.cli.reading import read_yaml
from fraudstream.errors import FeatureSetError, RetentionError, UsageError
from fraudstream.feature_files import load_feature_set
from fraudstream.features import Feature
from fraudstream.manifest import Quality
from fraudstream.profile import DAY_MS
from fraudstream.score import Model
from fraudstream.topics import plan_topics, require_retention
from fraudstream.training.boosting import Examples, Fitter, steps_of
from fraudstream.training.dataset import LabelledVectors, Reading
from fraudstream.training.protocol import cut_folds, judged_rows
from fraudstream.training.quality import measure
from fraudstream.training.recipe import BoosterSettings, FoldSettings, Recipe
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream
from fraudstream.training.train import Trainer, with_forgotten_windows

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "default"
SHIPPED_RECIPE = ROOT / "configs" / "training" / "reference.yaml"
SHIPPED_DATA = ROOT / "configs" / "training" / "shipped.txt"
SMALL = Recipe(
    data="made up",
    label_maturity="complete",
    folds=FoldSettings(count=2, train_days=14, test_days=6),
    booster=BoosterSettings(rounds_max=30, rounds_step=10, max_bin=64, max_depth=3),
    fallback=BoosterSettings(rounds_max=10, rounds_step=5, max_bin=64, max_depth=2),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> LabelledVectors:
    world = simulate(SimulationSpec(cards=80, terminals=160, days=35, seed=2))
    return rows_of(world, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(rows: LabelledVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_bundle(folder, Trainer(SMALL, DEFAULT).train(rows, "small"))
    return folder


def small(**changes: object) -> Recipe:
    return Recipe.model_validate(SMALL.model_dump() | changes)


def test_a_stream_too_short_is_refused_with_the_days_it_needs(rows: LabelledVectors) -> None:
    longer = small(folds={"count": 4, "test_days": 7})
    with pytest.raises(UsageError, match="covers 35 days and at least 36 are needed"):
        Trainer(longer, DEFAULT).train(rows, "x")


# ------------------------------------------------------------------ the same again


def test_the_same_rows_and_recipe_give_the_same_bundle(
    rows: LabelledVectors, trained: Path, tmp_path: Path
) -> None:
    again = write_bundle(tmp_path / "elsewhere", Trainer(SMALL, DEFAULT).train(rows, "small"))
    assert again.sha256 == load_bundle(trained).sha256


def test_another_seed_or_depth_gives_another_bundle(
    rows: LabelledVectors, trained: Path, tmp_path: Path
) -> None:
    deeper = SMALL.booster.model_dump() | {"max_depth": 2}
    for recipe in (small(seed=2), small(booster=deeper)):
        other = write_bundle(tmp_path / "other", Trainer(recipe, DEFAULT).train(rows, "small"))
        assert other.sha256 != load_bundle(trained).sha256


def test_a_payment_more_or_another_truth_gives_another_bundle(
    rows: LabelledVectors, trained: Path, tmp_path: Path
) -> None:
    flipped = rows.is_fraud.copy()
    flipped[-1] = ~flipped[-1]
    for other in (rows.take(slice(0, len(rows) - 1)), replace(rows, is_fraud=flipped)):
        made = write_bundle(tmp_path / "other", Trainer(SMALL, DEFAULT).train(other, "small"))
        assert made.sha256 != load_bundle(trained).sha256


# ------------------------------------------------------------------ what the bundle says


def test_the_bundle_says_what_it_was_made_from(rows: LabelledVectors, trained: Path) -> None:
    manifest = load_bundle(trained).manifest
    training = manifest.training
    # Up to the end of the data: nothing is held back from the model itself.
    assert (training.train.start, training.train.end) == (
        "2026-01-22T00:00:00.000Z",
        "2026-02-05T00:00:00.000Z",
    )
    learnt = rows.between(rows.end_ms - 14 * DAY_MS, rows.end_ms)
    assert training.train.transactions == len(learnt) > 1_000
    assert training.train.frauds == learnt.is_fraud.sum()
    assert training.data_sha256 == learnt.sha256()
    assert [(fold.train.start[:10], fold.train.end[:10]) for fold in training.folds] == [
        ("2026-01-03", "2026-01-17"),
        ("2026-01-09", "2026-01-23"),
    ]
    assert [(fold.test.start[:10], fold.test.end[:10]) for fold in training.folds] == [
        ("2026-01-24", "2026-01-30"),
        ("2026-01-30", "2026-02-05"),
    ]
    assert (training.data, manifest.label_maturity) == ("made up", "complete")
    assert training.parameters == SMALL.booster.parameters(SMALL.seed)
    assert training.parameters["nthread"] == 1
    assert training.rounds in (10, 20, 30)
    assert training.fallback_rounds in (5, 10)
    assert training.candidates == 3
    assert manifest.calibration is None
    assert manifest.variant is None
    card = (trained / "MODEL_CARD.md").read_text()
    assert f"{manifest.quality.average_precision:.3f}" in card
    assert f"{training.folds[0].quality.average_precision:.3f}" in card
    assert "The best of 3 settings and lengths" in card
    assert "says that the parts work together and nothing about real" in card


def by_hand(
    rows: LabelledVectors,
    bundle: Bundle,
    columns: list[int],
    settings: BoosterSettings,
    rounds: int,
) -> list[Quality]:
    """Make models as the final one is made, on each fold, and measure what comes after."""
    names = tuple(bundle.features[column].name for column in columns)
    found = []
    for fold in cut_folds(rows.start_ms, rows.end_ms, SMALL.fold_plan):
        learnt = rows.between(*fold.train_ms)
        shown = Examples(learnt.columns(columns), learnt.is_fraud)
        if len(columns) == len(bundle.features):
            shown = with_forgotten_windows(
                shown, bundle.features, SMALL.forgotten_share, SMALL.seed
            )
        model = Model(Fitter(names, SMALL.seed).fit(shown, settings, rounds), names)
        test = judged_rows(rows, fold, 7)
        found.append(measure(model.score(test.columns(columns)), test))
    return found


def test_quality_is_that_of_models_made_alike_on_each_fold(
    rows: LabelledVectors, trained: Path
) -> None:
    bundle = load_bundle(trained)
    manifest, training = bundle.manifest, bundle.manifest.training
    main = by_hand(rows, bundle, list(range(15)), SMALL.booster, training.rounds)
    spare = by_hand(rows, bundle, [0, 1, 2], SMALL.fallback, training.fallback_rounds)
    assert [fold.quality for fold in training.folds] == main
    assert [fold.fallback_quality for fold in training.folds] == spare
    for name in Quality.model_fields:
        values = [getattr(quality, name) for quality in main]
        assert getattr(manifest.quality, name) == pytest.approx(np.mean(values), abs=6e-5)
        deviation = getattr(manifest.quality_deviation, name)
        assert deviation == pytest.approx(np.std(values, ddof=1), abs=6e-5)
        mean = np.mean([getattr(quality, name) for quality in spare])
        assert getattr(manifest.fallback_quality, name) == pytest.approx(mean, abs=6e-5)
    assert manifest.quality.average_precision > manifest.fallback_quality.average_precision


def test_the_number_of_rounds_is_the_one_that_is_best_on_the_folds(
    rows: LabelledVectors, trained: Path
) -> None:
    bundle = load_bundle(trained)
    steps = steps_of(SMALL.booster)
    means = {}
    for rounds in steps:
        found = by_hand(rows, bundle, list(range(15)), SMALL.booster, rounds)
        means[rounds] = np.mean([quality.average_precision for quality in found])
    assert len(set(means.values())) == len(steps)
    assert max(means, key=lambda rounds: float(means[rounds])) == bundle.manifest.training.rounds


def test_the_model_itself_learns_from_the_last_days(rows: LabelledVectors, trained: Path) -> None:
    bundle = load_bundle(trained)
    learnt = rows.between(rows.end_ms - 14 * DAY_MS, rows.end_ms)
    shown = with_forgotten_windows(
        Examples(learnt.vectors, learnt.is_fraud), DEFAULT_FEATURES, 0.1, SMALL.seed
    )
    names = bundle.model.columns
    ubj = Fitter(names, SMALL.seed).fit(shown, SMALL.booster, bundle.manifest.training.rounds)
    assert (trained / "model.ubj").read_bytes() == ubj


def test_golden_vectors_hold_known_and_missing_values(trained: Path) -> None:
    golden = json.loads((trained / "golden.json").read_text())
    vectors = np.array(golden["vectors"], np.float64)
    assert len(vectors) > 60
    assert np.isnan(vectors).all(axis=1).any()
    assert (~np.isnan(vectors)).all(axis=1).sum() > 40
    assert np.isnan(vectors).any(axis=0).all()


def test_features_and_words_come_from_the_recipe(rows: LabelledVectors) -> None:
    features = ("card_tx_count_7d", "amount")
    own = {"amount": {"code": "HIGH_AMOUNT", "text": "what was paid"}}
    recipe = small(features=features, version="2-rc1", reasons=own)
    columns = [[f.name for f in DEFAULT_FEATURES].index(name) for name in features]
    draft = Trainer(recipe, DEFAULT).train(replace(rows, vectors=rows.columns(columns)), "mine")
    assert [definition["name"] for definition in draft.about["features"]] == list(features)
    assert draft.about["fallback_features"] == ["amount"]
    assert draft.about["version"] == "2-rc1"
    assert draft.about["name"] == "mine"
    assert draft.about["reasons"]["amount"] == own["amount"]
    assert draft.about["reasons"]["card_tx_count_7d"]["code"] == "CARD_VELOCITY"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        (("amount", "card_colour"), FeatureSetError, "has no feature 'card_colour'"),
        (("card_tx_count_1d",), UsageError, "add `amount`"),
        ((), UsageError, "add `amount`"),
    ],
)
def test_recipes_that_make_no_model_are_refused_before_the_work(
    features: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Trainer(small(features=features), DEFAULT)


@pytest.mark.parametrize(("truth", "words"), [(False, "no fraud"), (True, "no genuine payment")])
def test_nothing_to_learn_from_is_refused(
    rows: LabelledVectors, *, truth: bool, words: str
) -> None:
    alike = replace(rows, is_fraud=np.full(len(rows), truth))
    with pytest.raises(UsageError, match=f"there is {words} in the training period"):
        Trainer(SMALL, DEFAULT).train(alike, "x")


@pytest.mark.parametrize(
    ("from_day", "until_day", "words"),
    [(0, 16, "a fold's training period"), (29, 35, "a fold's test period")],
)
def test_a_fold_that_says_nothing_is_refused(
    rows: LabelledVectors, from_day: int, until_day: int, words: str
) -> None:
    day = (rows.event_time_ms - rows.start_ms) // DAY_MS
    is_fraud = rows.is_fraud & ~((day >= from_day) & (day < until_day))
    with pytest.raises(UsageError, match=f"there is no fraud in {words}: take more or other days"):
        Trainer(SMALL, DEFAULT).train(replace(rows, is_fraud=is_fraud), "x")


def test_a_model_without_profiles_is_trained_checked_and_needs_no_past(
    rows: LabelledVectors, tmp_path: Path
) -> None:
    recipe = small(features=("amount", "is_night"))
    stateless = replace(rows, vectors=rows.columns([0, 2]))
    write_bundle(tmp_path / "simple", Trainer(recipe, DEFAULT).train(stateless, "simple"))
    bundle = load_bundle(tmp_path / "simple")
    # Payments are remembered all the same, so that one that comes twice is noticed.
    assert bundle.feature_set == DEFAULT
    assert bundle.model.columns == ("amount", "is_night")


def test_a_feature_set_that_looks_back_on_nothing_needs_a_log_for_the_days_of_a_repair() -> None:
    horizon_ms = definition_of([feature_named("amount")]).horizon_ms
    assert horizon_ms == DAY_MS
    plans = plan_topics(["t"], [], partitions=1, horizon_ms=horizon_ms)
    require_retention({"t": int(plans[0].config["retention.ms"])}, horizon_ms)
    with pytest.raises(RetentionError):
        require_retention({"t": DAY_MS}, horizon_ms)


def test_every_round_is_told_and_there_are_no_more_than_were_said(rows: LabelledVectors) -> None:
    told: list[None] = []
    trainer = Trainer(SMALL, DEFAULT, lambda: told.append(None))
    draft = trainer.train(rows, "x")
    chosen = draft.about["training"]
    # Two folds are searched, two more models are made on them, and then the model itself.
    made = 2 * (30 + 10) + 3 * (chosen["rounds"] + chosen["fallback_rounds"])
    assert len(told) == made <= trainer.rounds == 2 * (30 + 10) + 3 * (30 + 10)


# ------------------------------------------------------------------ forgotten windows


def ones(rows: int, features: int) -> Examples:
    return Examples(np.ones((rows, features), np.float32), np.arange(rows) % 2 == 0)


def test_what_is_forgotten_is_always_the_longer_windows() -> None:
    shown = ones(2_000, 15)
    more = with_forgotten_windows(shown, DEFAULT_FEATURES, share=0.5, seed=1)
    np.testing.assert_array_equal(more.vectors[:2_000], shown.vectors)
    np.testing.assert_array_equal(more.target[:2_000], shown.target)
    copies = more.vectors[2_000:]
    assert 900 < len(copies) < 1_100
    assert 0.4 < more.target[2_000:].mean() < 0.6
    reaches = [f.window.reach_ms if f.window else 0 for f in DEFAULT_FEATURES]
    by_reach = np.isnan(copies)[:, np.argsort(reaches, kind="stable")]
    assert (np.diff(by_reach.astype(np.int8), axis=1) >= 0).all()
    assert not by_reach[:, :3].any()
    assert by_reach[:, -1].all()
    assert len(np.unique(by_reach.sum(axis=1))) == 6


def test_nothing_is_forgotten_at_share_0_or_without_windows() -> None:
    shown = ones(50, 1)
    features: list[Feature] = [feature_named("amount")]
    assert with_forgotten_windows(shown, DEFAULT_FEATURES[:1], share=1, seed=1) is shown
    assert with_forgotten_windows(shown, features, share=0, seed=1) is shown


def test_a_copy_keeps_the_truth_of_its_row() -> None:
    """Each row's own number is in the column that is never forgotten."""
    numbers = np.repeat(np.arange(400, dtype=np.float32)[:, None], 15, axis=1)
    shown = Examples(numbers, np.arange(400) % 3 == 0)
    more = with_forgotten_windows(shown, DEFAULT_FEATURES, share=0.3, seed=5)
    np.testing.assert_array_equal(more.target, more.vectors[:, 0] % 3 == 0)


# ------------------------------------------------------------------ the shipped model


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(SHIPPED)


@pytest.fixture(scope="module")
def unseen(
    shipped: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], LabelledVectors]:
    """Small worlds that the shipped model has never seen: 30 days from empty profiles."""
    folder = tmp_path_factory.mktemp("unseen")
    names = tuple(feature.name for feature in shipped.features)
    delay_ms = shipped.manifest.training.label_delay_days * DAY_MS

    def make(seed: int) -> LabelledVectors:
        world = simulate(SimulationSpec(cards=300, terminals=600, days=30, seed=seed))
        file = folder / f"{seed}.parquet"
        write_stream(world, file)
        return read(file, delay_ms=delay_ms, reading=Reading(shipped.feature_set, names))

    return make


def test_the_shipped_model_is_good_on_a_small_world_it_has_never_seen(
    shipped: Bundle, unseen: Callable[[int], LabelledVectors]
) -> None:
    """A new deployment. Half of the frauds need labels to be seen."""
    rows = unseen(900)
    scores = shipped.model.score(rows.vectors)
    assert average_precision_score(rows.is_fraud, scores) > 0.45
    second_half = rows.event_time_ms >= rows.event_time_ms[0] + 15 * DAY_MS
    assert average_precision_score(rows.is_fraud[second_half], scores[second_half]) > 0.55
    assert rows.is_fraud[scores >= 0.8].mean() > 0.85


def test_the_shipped_model_does_not_flood_when_windows_are_missing(
    shipped: Bundle, unseen: Callable[[int], LabelledVectors]
) -> None:
    """Vectors with missing windows: still few alerts, not one in eight payments."""
    rows = unseen(901)
    for days_known in (0, 1, 7, 14, 30):
        forgotten: NDArray[np.float32] = rows.vectors.copy()
        for column, feature in enumerate(shipped.features):
            if feature.window and feature.window.reach_ms > days_known * DAY_MS:
                forgotten[:, column] = np.nan
        assert (shipped.model.score(forgotten) >= 0.5).mean() < 0.015


def test_the_shipped_model_was_made_by_the_shipped_recipe(shipped: Bundle) -> None:
    recipe = read_yaml(SHIPPED_RECIPE, Recipe)
    manifest, training = shipped.manifest, shipped.manifest.training
    (settings,) = (
        booster
        for booster in recipe.candidates()
        if booster.parameters(recipe.seed) == training.parameters
    )
    assert training.rounds in steps_of(settings)
    assert training.fallback_rounds in steps_of(recipe.fallback)
    assert training.candidates == sum(len(steps_of(each)) for each in recipe.candidates())
    # The recipe is for streams of a kind; which one it was is said at the command.
    assert training.data == SHIPPED_DATA.read_text("utf-8").strip()
    assert manifest.version == recipe.version
    assert (training.seed, training.forgotten_share) == (recipe.seed, recipe.forgotten_share)
    assert training.label_delay_days == recipe.label_delay_days
    assert manifest.label_maturity == recipe.label_maturity
    assert len(training.folds) == recipe.folds.count
    method = manifest.calibration.method if manifest.calibration else "none"
    assert method == recipe.calibration
    assert recipe.feature_set is not None
    feature_set = load_feature_set(SHIPPED_RECIPE.parent / recipe.feature_set)
    assert shipped.feature_set == feature_set
    names = recipe.features or tuple(feature.name for feature in feature_set.features)
    assert shipped.model.columns == names
    for name, reason in recipe.reasons.items():
        assert manifest.reasons[name] == reason


# ------------------------------------------------------------------ the commands


def test_the_commands_work_together(tmp_path: Path) -> None:
    runner = CliRunner()

    def run(*words: object) -> str:
        arguments = [str(word) for word in words]
        result = runner.invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    data, out, recipe = tmp_path / "s.parquet", tmp_path / "mine", tmp_path / "fast.yaml"
    recipe.write_text(
        "booster: {rounds_max: 10, rounds_step: 10, max_bin: 64}\n"
        "folds: {count: 1}\ndata: made up\n"
    )
    run("simulate", "--out", data, "--cards", 60, "--days", 30)
    shown = run("train", data, "--out", out, "--recipe", recipe)
    assert run("model", "check", out) == shown
    assert "made up" in shown
    manifest = json.loads(run("model", "check", out, "--json"))
    assert manifest["sha256"] == load_bundle(out).sha256
    with pytest.raises(UsageError, match="is there already; --replace"):
        run("train", data, "--out", out)
    with pytest.raises(UsageError, match="name has 1 to 64 of"):
        run("train", data, "--out", tmp_path / "no name")
    recipe.write_text("rounds_maximum: 10\n")
    with pytest.raises(UsageError, match="rounds_maximum: Extra inputs"):
        run("train", data, "--out", out, "--recipe", recipe, "--replace")
    with pytest.raises(UsageError, match="write a date as 2026-01-31"):
        run("simulate", "--out", data, "--start", "soon")
    for words in ((), (data, "--out", out, "--from-decisions", data, "--replace")):
        with pytest.raises(UsageError, match=r"--out DIR is missing|both say what to learn from"):
            run("train", *words)
    with pytest.raises(UsageError, match="DATA is missing"):
        run("train", "--out", tmp_path / "new")
    assert load_bundle(out).sha256 == manifest["sha256"]


def test_the_last_day_that_may_be_used_is_the_last_that_is_learnt_from(tmp_path: Path) -> None:
    world = simulate(SimulationSpec(cards=60, terminals=120, days=30, seed=2))
    write_stream(world, tmp_path / "s.parquet")
    recipe = tmp_path / "fast.yaml"
    recipe.write_text(
        "booster: {rounds_max: 10, rounds_step: 10, max_bin: 64}\nfolds: {count: 1}\n"
    )
    words = ["train", str(tmp_path / "s.parquet"), "--recipe", str(recipe)]
    words += ["--out", str(tmp_path / "mine"), "--until"]
    CliRunner().invoke(app, [*words, "2026-01-25"], catch_exceptions=False)
    training = load_bundle(tmp_path / "mine").manifest.training
    assert training.train.end == training.folds[-1].test.end == "2026-01-26T00:00:00.000Z"
    with pytest.raises(UsageError, match="write the last day that counts, as 2018-07-31"):
        CliRunner().invoke(
            app, [*words, "2026-01-25T10:00:00Z", "--replace"], catch_exceptions=False
        )
