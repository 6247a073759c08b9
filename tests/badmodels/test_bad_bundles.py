"""Every way a bundle can be wrong, each refused with a sentence of its own: files and models.

What only a part of all bundles has is in test_bad_parts.py.

A worker that starts with the wrong model decides wrongly and looks healthy. So nothing here may
load, nothing may end in a traceback, and no damaged file may crash the process.
"""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from typer.testing import CliRunner

from badmodels.spoil import Reseal, flip, golden_scores, refusal
from fraudstream.bundle import hash_line, load_bundle
from fraudstream.cli import app
from fraudstream.errors import BundleError

THIS_PLATFORM = {"system": platform.system(), "machine": platform.machine()}


def test_the_copy_itself_is_good(folder: Path, reseal: Reseal) -> None:
    """Otherwise every test below would pass for the wrong reason."""
    assert load_bundle(folder).name == "default"
    reseal()
    assert load_bundle(folder).name == "default"


def test_missing_folder(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    assert "this is a file, and a bundle is a folder" in refusal(folder / "model.ubj")


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "manifest.sha256",
        "model.ubj",
        "fallback.ubj",
        "golden.json",
        "MODEL_CARD.md",
    ],
)
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{name} is missing: copy the whole bundle again"


@pytest.mark.parametrize("name", ["model.ubj", "fallback.ubj", "golden.json", "MODEL_CARD.md"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_flipped_bit_in_a_file(folder: Path, name: str, place: int) -> None:
    flip(folder / name, place)
    assert refusal(folder).startswith(f"{name} is not the file that the bundle was made with")


def test_one_flipped_bit_anywhere_in_the_manifest(folder: Path) -> None:
    """Also where it would still be valid JSON with valid fields: in a name, in a figure."""
    manifest = folder / "manifest.json"
    for place in range(0, manifest.stat().st_size, 97):
        flip(manifest, place)
        assert refusal(folder).startswith("manifest.json is not the file that the bundle was made")
        flip(manifest, place)
    assert load_bundle(folder).name == "default"


def test_the_manifests_hash_is_damaged(folder: Path) -> None:
    flip(folder / "manifest.sha256", 3)
    assert refusal(folder).startswith("manifest.json is not the file that the bundle was made with")


def test_file_that_may_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        (folder / "model.ubj").unlink()
        (folder / "model.ubj").mkdir()
    else:
        (folder / "model.ubj").chmod(0)
    assert refusal(folder).startswith("model.ubj cannot be read (")


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "model.ubj"])
def test_symbolic_link(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert refusal(folder).startswith(f"{name} is a symbolic link")


def test_file_far_too_large(folder: Path) -> None:
    with (folder / "model.ubj").open("r+b") as file:
        file.truncate(300 * 1024 * 1024)  # sparse: takes no space
    assert refusal(folder).startswith("model.ubj is far too large")


@pytest.mark.parametrize("name", ["../model.ubj", "sub/model.ubj", "/etc/passwd", "model.pkl"])
def test_manifest_that_lists_other_files(folder: Path, reseal: Reseal, name: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("model.ubj")

    reseal(change)
    assert refusal(folder).startswith("manifest.json lists files other than a bundle's")


def test_newer_layout(folder: Path, reseal: Reseal) -> None:
    """A newer manifest may have fields that this code does not know; its sentence comes first."""
    reseal(lambda manifest: manifest.update(layout=4, something_new={"a": 1}))
    sentence = refusal(folder)
    assert "layout is version 4, and this fraudstream reads version 3" in sentence
    assert "install a newer fraudstream" in sentence


@pytest.mark.parametrize("layout", [0, -1])
def test_layout_that_never_was(folder: Path, reseal: Reseal, layout: int) -> None:
    reseal(lambda manifest: manifest.update(layout=layout))
    assert f"there is no layout version {layout}" in refusal(folder)


@pytest.mark.parametrize("layout", [True, "1", 1.5, None])
def test_layout_that_is_no_number(folder: Path, reseal: Reseal, layout: object) -> None:
    reseal(lambda manifest: manifest.update(layout=layout))
    assert refusal(folder).startswith("manifest.json is wrong at layout")


def test_manifest_without_a_field(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest["training"].pop("seed"))
    assert refusal(folder).startswith("manifest.json is wrong at training.seed (Field required)")


def test_manifest_with_an_unknown_field(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest.update(thresholds={}))
    assert refusal(folder).startswith("manifest.json is wrong at thresholds")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{", b"[" * 100_000])
def test_manifest_that_is_no_object(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.sha256").write_bytes(hash_line(content))
    assert refusal(folder).startswith("manifest.json is ")


def test_columns_in_another_order(folder: Path, reseal: Reseal) -> None:
    def change(manifest: dict[str, Any]) -> None:
        features = manifest["features"]
        features[3], features[4] = features[4], features[3]

    reseal(change)
    sentence = refusal(folder)
    assert sentence.startswith("model.ubj was trained on other features, or in another order")


def test_fallback_columns_in_another_order(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest["fallback_features"].reverse())
    assert refusal(folder).startswith("fallback.ubj was trained on other features, or in another")


def test_one_column_less(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest["reasons"].pop(manifest["features"].pop()["name"]))
    assert refusal(folder).startswith("model.ubj was trained on other features")


def test_the_same_column_twice(folder: Path, reseal: Reseal) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["reasons"].pop(manifest["features"][4]["name"])
        manifest["features"][4] = manifest["features"][3]

    reseal(change)
    assert refusal(folder).startswith("model.ubj was trained on other features")


@pytest.mark.parametrize("name", ["amount_in_roubles", "card_tx_count_0d", "", None])
def test_feature_that_the_code_does_not_know(
    folder: Path, reseal: Reseal, name: str | None
) -> None:
    named = load_bundle(folder).feature_set.name
    reseal(lambda manifest: manifest["features"][0].update(name=name))
    assert refusal(folder).startswith(f"feature set {named!r} has no feature {str(name)!r}; it has")


@pytest.mark.parametrize("layout", [1, 2])
def test_layout_of_an_earlier_release(folder: Path, reseal: Reseal, layout: int) -> None:
    reseal(lambda manifest: [manifest.update(layout=layout), manifest.pop("feature_set")])
    assert refusal(folder).startswith(f"its layout is version {layout}, of an earlier fraudstream")


def test_feature_set_that_is_changed_or_wrong(folder: Path, reseal: Reseal) -> None:
    """A window in the definition that no column reads still changes what is remembered."""
    reseal(lambda manifest: manifest["feature_set"]["features"][3]["windows"].append("2d"))
    assert refusal(folder).startswith("its feature set is not the one of its hash")
    reseal(lambda manifest: manifest["feature_set"]["series"].clear())
    assert refusal(folder).startswith("its feature set is wrong (series: ")


def test_feature_that_means_something_else_here(folder: Path, reseal: Reseal) -> None:
    """The name is the same, the window is not: silently wrong scores if it were let through."""
    reseal(lambda manifest: manifest["features"][3].update(window_ms=3_600_000))
    sentence = refusal(folder)
    assert sentence.startswith("feature 'card_tx_count_1d' means something else")


def test_fallback_model_that_needs_profiles(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest["fallback_features"].append("card_tx_count_1d"))
    assert refusal(folder).startswith("the fallback model uses 'card_tx_count_1d'")


@pytest.mark.parametrize("version", ["3.0.4", "2.1.0", "4.0.0"])
def test_other_xgboost_version(folder: Path, reseal: Reseal, version: str) -> None:
    reseal(lambda manifest: manifest.update(xgboost_version=version))
    sentence = refusal(folder)
    assert sentence.startswith(f"it was made with xgboost {version} and this is xgboost 3.")
    assert f"install xgboost {version.rpartition('.')[0]}.*" in sentence


@pytest.mark.parametrize("scores", ["scores", "fallback_scores"])
def test_golden_score_that_is_not_reached(folder: Path, reseal: Reseal, scores: str) -> None:
    def change(golden: dict[str, Any]) -> None:
        golden[scores][3] += 1e-5

    golden_scores(folder, change)
    reseal()
    name = "model.ubj" if scores == "scores" else "fallback.ubj"
    assert refusal(folder).startswith(f"{name} gives golden vector 3 the score ")


def test_one_ulp_off_on_the_machine_it_was_made_on(folder: Path, reseal: Reseal) -> None:
    def change(golden: dict[str, Any]) -> None:
        golden["scores"][40] = float(np.nextafter(np.float32(golden["scores"][40]), np.float32(1)))

    golden_scores(folder, change)
    reseal(lambda manifest: manifest.update(platform=THIS_PLATFORM))
    assert refusal(folder).startswith("model.ubj gives golden vector 40")


@pytest.mark.parametrize(("difference", "is_refused"), [(5e-7, False), (5e-6, True)])
def test_a_little_off_on_another_machine(
    folder: Path, reseal: Reseal, difference: float, is_refused: bool
) -> None:
    def change(golden: dict[str, Any]) -> None:
        golden["scores"][40] += difference

    golden_scores(folder, change)
    reseal(lambda manifest: manifest["platform"].update(machine=f"not {platform.machine()}"))
    if is_refused:
        assert refusal(folder).startswith("model.ubj gives golden vector 40")
    else:
        assert load_bundle(folder).name == "default"


@pytest.mark.parametrize(
    "change",
    [
        lambda golden: golden["scores"].pop(),
        lambda golden: golden["vectors"][5].pop(),
        lambda golden: golden.update(vectors=[], scores=[], fallback_scores=[]),
        lambda golden: golden.pop("fallback_scores"),
        lambda golden: golden["scores"].__setitem__(0, "0.5"),
        lambda golden: golden["scores"].__setitem__(0, float("nan")),
    ],
)
def test_golden_file_that_is_no_golden_file(
    folder: Path, reseal: Reseal, change: Callable[[dict[str, Any]], None]
) -> None:
    golden_scores(folder, change)
    reseal()
    assert refusal(folder).startswith(("golden.json ", "model.ubj gives golden vector 0"))


class Explosion:
    """An object whose pickle runs code when it is read."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._proof,)


@pytest.mark.parametrize("name", ["model.ubj", "fallback.ubj", "golden.json"])
def test_pickle_in_disguise(folder: Path, reseal: Reseal, tmp_path: Path, name: str) -> None:
    proof = tmp_path / "ran"
    pickled = pickle.dumps(Explosion(proof))
    (folder / name).write_bytes(pickled)
    assert refusal(folder).startswith(f"{name} is not the file that the bundle was made with")
    reseal()
    assert refusal(folder).startswith(f"{name} is ")
    assert not proof.exists()
    pickle.loads(pickled)  # noqa: S301 - our own, a line ago: the test could have failed
    assert proof.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_model_with_its_hash_made_right(
    folder: Path, reseal: Reseal, share: float
) -> None:
    ubj = (folder / "model.ubj").read_bytes()
    (folder / "model.ubj").write_bytes(ubj[: int(len(ubj) * share)])
    reseal()
    assert refusal(folder).startswith("model.ubj is no whole model file: it ends too early")


def test_model_with_something_behind_it(folder: Path, reseal: Reseal) -> None:
    ubj = (folder / "model.ubj").read_bytes()
    (folder / "model.ubj").write_bytes(ubj + b"{}")
    reseal()
    assert refusal(folder).startswith("model.ubj is no whole model file: it goes on after its end")


def test_model_of_another_kind(folder: Path, reseal: Reseal) -> None:
    """It would load and score: with numbers that are no scores between 0 and 1."""
    names = load_bundle(folder).model.columns
    rows = np.random.default_rng(1).random((100, len(names)), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] * 10, feature_names=list(names), nthread=1)
    booster = xgboost.train({"objective": "reg:squarederror", "nthread": 1}, matrix, 3)
    (folder / "model.ubj").write_bytes(bytes(booster.save_raw("ubj")))
    reseal()
    assert "is not a gbtree model with the objective binary:logistic" in refusal(folder)


def test_json_model_under_the_name_of_a_ubj_one(folder: Path, reseal: Reseal) -> None:
    booster = xgboost.Booster(model_file=folder / "fallback.ubj")
    (folder / "fallback.ubj").write_bytes(bytes(booster.save_raw("json")))
    reseal()
    assert refusal(folder).startswith("fallback.ubj is no whole model file: it is not in XGBoost's")


def test_the_two_models_exchanged(folder: Path, reseal: Reseal) -> None:
    (folder / "model.ubj").rename(folder / "x")
    (folder / "fallback.ubj").rename(folder / "model.ubj")
    (folder / "x").rename(folder / "fallback.ubj")
    reseal()
    assert refusal(folder).startswith("model.ubj was trained on other features")


def test_the_command_says_it_in_one_sentence_and_exit_code_11(folder: Path) -> None:
    flip(folder / "model.ubj", 1000)
    runner = CliRunner()
    result = runner.invoke(app, ["model", "check", str(folder)])
    assert isinstance(result.exception, BundleError)
    assert result.exception.exit_code == 11
    assert result.output == ""
