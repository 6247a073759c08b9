"""A GPU that is asked for and not there is refused: XGBoost itself would only log it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xgboost

from fraudstream.bundle import load_bundle
from fraudstream.errors import SettingsError
from fraudstream.feature_files import default_feature_set
from fraudstream.score import require_device
from fraudstream.settings import Settings
from fraudstream.training.recipe import Recipe
from fraudstream.training.train import Trainer

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "default"
HAS_CUDA = bool(xgboost.build_info().get("USE_CUDA"))


def test_a_processor_is_always_there() -> None:
    require_device("cpu")
    assert load_bundle(BUNDLE, "cpu").model.device == "cpu"
    assert Settings().model.device == "cpu"


@pytest.mark.skipif(HAS_CUDA, reason="this XGBoost has CUDA")
def test_a_gpu_is_refused_where_xgboost_has_none() -> None:
    with pytest.raises(SettingsError, match=r"device: cuda needs the full xgboost.*pip install"):
        load_bundle(BUNDLE, "cuda")
    with pytest.raises(SettingsError, match="device: cuda needs the full xgboost"):
        Trainer(Recipe.model_validate({"booster": {"device": "cuda"}}), default_feature_set())


def test_the_device_reaches_xgboosts_parameters() -> None:
    booster = Recipe.model_validate({"booster": {"device": "cuda"}}).booster
    assert booster.parameters(1)["device"] == "cuda"
    assert Settings.model_validate({"model": {"device": "cuda"}}).model.device == "cuda"
