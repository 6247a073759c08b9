"""Recipes: what may be said in them, and what is wrong with one in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import xgboost
from feature_names import DEFAULT
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from fraudstream.bundle import load_bundle
from fraudstream.cli import app
from fraudstream.cli.reading import read_yaml
from fraudstream.errors import FeatureSetError, SettingsError, UsageError
from fraudstream.feature_files import load_feature_set
from fraudstream.training.boosting import steps_of
from fraudstream.training.protocol import FoldPlan
from fraudstream.training.recipe import CANDIDATES_MAX, BoosterSettings, Recipe
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream
from fraudstream.training.train import Trainer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "training").glob("*.yaml"))


def written(folder: Path, text: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text, "utf-8")
    return read_yaml(file, Recipe)


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_shipped_recipes_can_be_trained_by(file: Path) -> None:
    recipe = read_yaml(file, Recipe)
    features = DEFAULT
    if recipe.feature_set is not None:
        features = load_feature_set(file.parent / recipe.feature_set)
    assert Trainer(recipe, features).candidates


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "booster: {}\n"])
def test_a_recipe_that_says_nothing_is_the_default_one(tmp_path: Path, text: str) -> None:
    assert written(tmp_path, text) == Recipe()


def test_what_is_said_is_read_and_the_rest_has_defaults(tmp_path: Path) -> None:
    recipe = written(
        tmp_path,
        "version: '2-rc.1'\nlabel_delay_days: 30\nfolds: {count: 2, train_days: 90}\n"
        "booster: {max_depth: 6, tree_method: exact}\nfeatures: [amount, is_night]\n"
        "reasons: {amount: {code: HIGH_AMOUNT, text: what was paid}}\n",
    )
    assert recipe.fold_plan == FoldPlan(2, 90, 30, 7)
    assert (recipe.version, recipe.features) == ("2-rc.1", ("amount", "is_night"))
    assert (recipe.booster.max_depth, recipe.booster.learning_rate) == (6, 0.1)
    assert recipe.reasons["amount"].code == "HIGH_AMOUNT"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: 10\n", "rounds: Extra inputs are not permitted"),
        ("booster: {depth: 3}\n", "booster.depth: Extra inputs are not permitted"),
        ("booster: {max_depth: 0}\n", "booster.max_depth: Input should be greater than or equal"),
        ("booster: {max_depth: 13}\n", "booster.max_depth: Input should be less than or equal"),
        ("booster: {learning_rate: 0}\n", "booster.learning_rate: Input should be greater than 0"),
        ("booster: {base_score: 1}\n", "booster.base_score: Input should be less than 1"),
        ("booster: {subsample: 1.5}\n", "booster.subsample: Input should be less than or equal"),
        ("booster: {device: tpu}\n", "booster.device: Input should be 'cpu' or 'cuda'"),
        ("booster: {tree_method: approx}\n", "booster.tree_method: Input should be 'hist' or"),
        ("booster: {rounds_max: many}\n", "booster.rounds_max: Input should be a valid integer"),
        ("booster: {reg_lambda: .nan}\n", "booster.reg_lambda: Input should be "),
        ("fallback: {max_bin: 1}\n", "fallback.max_bin: Input should be greater than or equal"),
        ("folds: {count: 0}\n", "folds.count: Input should be greater than or equal to 1"),
        ("folds: {train_days: 0}\n", "folds.train_days: Input should be greater than or equal"),
        ("label_delay_days: -1\n", "label_delay_days: Input should be greater than or equal"),
        ("forgotten_share: 1.1\n", "forgotten_share: Input should be less than or equal to 1"),
        ("seed: -1\n", "seed: Input should be greater than or equal to 0"),
        ("version: two words\n", "version: String should match pattern"),
        ("currency: EURO\n", "currency: Value error, write an ISO 4217 code, as EUR"),
        ("calibration: platt\n", "calibration: Input should be 'none', 'sigmoid' or 'isotonic'"),
        ("features: amount\n", "features: Input should be a valid tuple"),
        ("features: [amount, amount]\n", "features: Value error, name each feature once"),
        ("search: {max_depth: 3}\n", "search.max_depth: Input should be a valid tuple"),
        ("reasons: {amount: AMOUNT}\n", "reasons.amount: Input should be a valid dictionary"),
        ("reasons: {amount: {code: low, text: x}}\n", "reasons.amount.code: String should match"),
        ("- a list\n", "its top: Input should be a valid dictionary"),
        ("version: [\n", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_a_sentence_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        written(tmp_path, text)
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.startswith(str(tmp_path / "recipe.yaml"))
    assert "\n" not in sentence


def test_a_recipe_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.yaml: cannot be read as YAML"):
        read_yaml(tmp_path / "no.yaml", Recipe)


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().version = "2"


# ------------------------------------------------------------------ what XGBoost is told


def test_parameters_leave_nothing_to_the_machine_or_to_xgboosts_defaults() -> None:
    parameters = Recipe().booster.parameters(seed=5)
    assert parameters["nthread"] == 1
    assert parameters["seed"] == 5
    assert (parameters["base_score"], parameters["max_bin"]) == (0.5, 4096)
    assert parameters["objective"] == "binary:logistic"
    assert not {"rounds_max", "rounds_step"} & set(parameters)


def test_a_base_score_that_is_not_given_is_xgboosts_to_fit(tmp_path: Path) -> None:
    recipe = written(tmp_path, "booster: {base_score: null}\n")
    assert "base_score" not in recipe.booster.parameters(seed=1)


@pytest.mark.skipif(
    bool(xgboost.build_info()["USE_CUDA"]), reason="this XGBoost could use a GPU, if there is one"
)
@pytest.mark.parametrize(
    "text",
    ["booster: {device: cuda}\n", "fallback: {device: cuda}\n", "search: {device: [cpu, cuda]}\n"],
)
def test_a_gpu_that_xgboost_was_not_built_for_is_refused_with_what_to_install(
    tmp_path: Path, text: str
) -> None:
    recipe = written(tmp_path, text)
    with pytest.raises(SettingsError, match=r"device: cuda needs the full xgboost.*device: cpu"):
        Trainer(recipe, DEFAULT)


def test_exact_splits_have_no_bins() -> None:
    assert "max_bin" not in BoosterSettings(tree_method="exact").parameters(seed=1)


@given(st.integers(1, 500), st.integers(1, 500))
@settings(derandomize=True, deadline=None)
def test_steps_are_multiples_and_the_last_of_all(most: int, step: int) -> None:
    steps = steps_of(BoosterSettings(rounds_max=most, rounds_step=step))
    assert steps == sorted({*range(step, most + 1, step), most})


# ------------------------------------------------------------------ what is searched


def test_without_a_search_there_is_one_candidate() -> None:
    recipe = Recipe(booster=BoosterSettings(max_depth=7))
    assert recipe.candidates() == (recipe.booster,)


def test_all_combinations_are_candidates_and_the_rest_is_the_recipes_own() -> None:
    recipe = Recipe(
        booster=BoosterSettings(subsample=0.5, max_depth=9),
        search={"max_depth": (3, 5), "learning_rate": (0.1, 0.05, 0.02)},
    )
    found = [(b.max_depth, b.learning_rate, b.subsample) for b in recipe.candidates()]
    assert found == [(d, rate, 0.5) for d in (3, 5) for rate in (0.1, 0.05, 0.02)]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"depth": (3,)}, "the recipe's `search`: depth: Extra inputs are not permitted"),
        ({"seed": (1, 2)}, "the recipe's `search`: seed: Extra inputs are not permitted"),
        ({"max_depth": (3, 0)}, "the recipe's `search`: max_depth: Input should be greater"),
        ({"max_depth": (3, "deep")}, "the recipe's `search`: max_depth: Input should be a valid"),
        ({"max_depth": ()}, "has 0 combinations: 1 to 64"),
        ({"max_depth": (1, 2, 3, 4, 5), "max_bin": tuple(range(2, 15))}, "has 65 combinations"),
        (
            {name: tuple(range(1_000)) for name in BoosterSettings.model_fields},
            f"has {1_000 ** len(BoosterSettings.model_fields):,} combinations: 1 to 64",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_at_once(
    search: dict[str, tuple[object, ...]], words: str
) -> None:
    """The last one has more combinations than could ever be counted one by one."""
    recipe = Recipe(search=search)
    with pytest.raises(UsageError) as caught:
        recipe.candidates()
    assert words in str(caught.value)
    with pytest.raises(UsageError):
        Trainer(recipe, DEFAULT)


def test_as_many_combinations_as_may_be_are_searched() -> None:
    bins = tuple(range(2, 2 + CANDIDATES_MAX))
    assert len(Recipe(search={"max_bin": bins}).candidates()) == CANDIDATES_MAX


# ------------------------------------------------------------------ features and reasons


def test_reasons_that_name_no_feature_are_refused() -> None:
    words = {"code": "X", "text": "x"}
    recipe = Recipe.model_validate({"reasons": {"amount": words, "amuont": words}})
    with pytest.raises(UsageError, match="`reasons` name 'amuont', which is no feature of its"):
        Trainer(recipe, DEFAULT)
    # A feature of the set that is no column of the model has no reason either.
    recipe = Recipe.model_validate({"features": ["amount"], "reasons": {"is_night": words}})
    with pytest.raises(UsageError, match="`reasons` name 'is_night'"):
        Trainer(recipe, DEFAULT)


FAST = "booster: {rounds_max: 2, rounds_step: 2, max_bin: 16}\nfolds: {count: 1}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "stream.parquet"
    write_stream(simulate(SimulationSpec(cards=60, terminals=120, days=24, seed=2)), file)
    return file


def train(data: Path, recipe: Path, out: Path) -> None:
    words = ["train", str(data), "--recipe", str(recipe), "--out", str(out)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr


def test_a_feature_set_is_looked_for_in_the_recipes_own_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the command is run: a recipe and its features can be moved together."""
    (tmp_path / "mine" / "recipes").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    text = (ROOT / "configs/features/default.yaml").read_text("utf-8")
    (tmp_path / "mine" / "few.yaml").write_text(text.replace("name: default", "name: few"), "utf-8")
    recipe = tmp_path / "mine" / "recipes" / "recipe.yaml"
    recipe.write_text(f"feature_set: ../few.yaml\nfeatures: [amount]\n{FAST}", "utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(data, recipe, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.feature_set == load_feature_set(tmp_path / "mine" / "few.yaml")
    assert bundle.feature_set.name == "few"
    assert bundle.model.columns == ("amount",)
    monkeypatch.chdir(tmp_path / "mine")
    train(data, Path("recipes/recipe.yaml"), tmp_path / "again" / "bundle")
    assert load_bundle(tmp_path / "again" / "bundle").sha256 == bundle.sha256


def test_an_absolute_place_of_a_feature_set_is_taken_as_it_is(data: Path, tmp_path: Path) -> None:
    place = ROOT / "configs/features/default.yaml"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"feature_set: {place}\nfeatures: [amount]\n{FAST}", "utf-8")
    train(data, recipe, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").feature_set == DEFAULT


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("feature_set: no.yaml\n", FeatureSetError, "cannot be read"),
        ("features: [amuont]\n", FeatureSetError, "has no feature 'amuont'"),
        ("features: [card_tx_count_1d]\n", UsageError, "add `amount`"),
        ("search: {depth: [3]}\n", UsageError, "depth: Extra inputs"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_data_are_read(
    tmp_path: Path, text: str, error: type[Exception], words: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, "utf-8")
    with pytest.raises(error, match=words):
        train(tmp_path / "not there.parquet", recipe, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
