"""Scores and contributions: exact, the same in any batch, and with few modules in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from fraudstream.calibration import Sigmoid
from fraudstream.errors import BundleError
from fraudstream.score import Model

COLUMNS = ("amount", "count", "rate")
MODEL = Path(__file__).resolve().parents[2] / "models" / "default" / "model.ubj"


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(11)
    made = rng.normal(size=(400, 3)).astype(np.float32)
    made[rng.random(made.shape) < 0.1] = np.nan
    return made


def ubj_of(vectors: NDArray[np.float32]) -> bytes:
    known = np.nan_to_num(vectors)
    is_fraud = known[:, 0] + known[:, 1] * known[:, 2] > 1
    matrix = xgboost.DMatrix(vectors, label=is_fraud, feature_names=list(COLUMNS), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
    booster = xgboost.train(parameters, matrix, 20)
    return bytes(booster.save_raw("ubj"))


@pytest.fixture(scope="module")
def model(vectors: NDArray[np.float32]) -> Model:
    return Model(ubj_of(vectors), COLUMNS)


def test_scores_are_float32_between_0_and_1(model: Model, vectors: NDArray[np.float32]) -> None:
    scores = model.score(vectors)
    assert scores.shape == (len(vectors),)
    assert scores.dtype == np.float32
    assert 0 < scores.min() < 0.2
    assert 0.8 < scores.max() < 1


def test_a_vector_scores_the_same_in_any_batch(model: Model, vectors: NDArray[np.float32]) -> None:
    together = model.score(vectors)
    for rows in (1, 7, 64):
        pieces = [model.score(vectors[i : i + rows]) for i in range(0, len(vectors), rows)]
        np.testing.assert_array_equal(np.concatenate(pieces), together)


def test_the_layout_in_memory_does_not_matter(model: Model, vectors: NDArray[np.float32]) -> None:
    expected = model.score(vectors)
    np.testing.assert_array_equal(model.score(np.asfortranarray(vectors)), expected)
    wide = np.zeros((len(vectors), 6), np.float32)
    wide[:, ::2] = vectors
    np.testing.assert_array_equal(model.score(wide[:, ::2]), expected)
    np.testing.assert_array_equal(model.score(vectors[::-1])[::-1], expected)


@pytest.mark.parametrize("is_approximate", [False, True])
def test_contributions_and_bias_add_up_to_the_margin(
    model: Model, vectors: NDArray[np.float32], *, is_approximate: bool
) -> None:
    contributions = model.contributions(vectors, is_approximate=is_approximate)
    assert contributions.shape == vectors.shape
    assert contributions.dtype == np.float32
    scores = model.score(vectors).astype(np.float64)
    margins = np.log(scores / (1 - scores))
    np.testing.assert_allclose(contributions.sum(axis=1) + model.bias, margins, atol=1e-4)


@pytest.mark.parametrize("is_approximate", [False, True])
def test_contributions_are_signed(
    model: Model, vectors: NDArray[np.float32], *, is_approximate: bool
) -> None:
    """What pulls the score down is below 0: only what pushes it up can be a reason."""
    contributions = model.contributions(vectors, is_approximate=is_approximate)
    assert contributions.min() < -0.5
    assert contributions.max() > 0.5
    low, high = np.argsort(model.score(vectors))[[0, -1]]
    assert contributions[low].sum() < 0 < contributions[high].sum()


def test_a_calibration_changes_scores_and_not_contributions(
    model: Model, vectors: NDArray[np.float32]
) -> None:
    calibration = Sigmoid(0.5, -2.0)
    ubj = ubj_of(vectors)
    calibrated = Model(ubj, COLUMNS, calibration)
    np.testing.assert_array_equal(calibrated.score(vectors), calibration(model.score(vectors)))
    np.testing.assert_array_equal(calibrated.contributions(vectors), model.contributions(vectors))
    assert calibrated.bias == model.bias


def test_no_rows_are_no_scores(model: Model) -> None:
    nothing = np.empty((0, 3), np.float32)
    assert model.score(nothing).shape == (0,)
    for is_approximate in (False, True):
        found = model.contributions(nothing, is_approximate=is_approximate)
        assert found.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 4), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros(3, np.float32),
    ],
)
def test_other_shapes_and_types_are_a_bug_of_the_caller(
    model: Model, wrong: NDArray[np.float32]
) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        model.score(wrong)
    with pytest.raises(ValueError, match="expected float32"):
        model.contributions(wrong)


def test_a_model_for_other_columns_is_refused(model: Model) -> None:
    ubj = MODEL.read_bytes()
    with pytest.raises(BundleError, match="other features, or in another order"):
        Model(ubj, model.columns)


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_scoring_loads_neither_xgboosts_package_nor_what_that_needs() -> None:
    """They are installed here; a worker must not pay 28 MB for them, or 160 with pandas."""
    _run(
        "import sys, numpy as np, pathlib\n"
        "from fraudstream.score import Model\n"
        "from fraudstream.ubj import check_model\n"
        f"ubj = pathlib.Path({str(MODEL)!r}).read_bytes()\n"
        "model = Model(ubj, check_model(ubj))\n"
        "rows = np.zeros((2, len(model.columns)), np.float32)\n"
        "model.score(rows), model.contributions(rows), model.bias\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'xgboost', 'scipy', 'pandas', 'sklearn'}, loaded\n"
        "assert not loaded & {'polars', 'pyarrow', 'onnxruntime'}, loaded\n"
    )


def test_a_worker_and_the_demo_need_none_of_the_extras_that_read_files() -> None:
    program = (
        "import sys\n"
        "extras = ['polars', 'pyarrow', 'pandas', 'scipy', 'sklearn', 'altair']\n"
        "extras += ['onnx', 'onnxruntime', 'onnxmltools', 'skl2onnx', 'treelite', 'fsspec']\n"
        "sys.modules.update(dict.fromkeys(extras))\n"
        "import fraudstream.app, fraudstream.supervisor, fraudstream.demo.run\n"
        "import fraudstream.audit.watch, fraudstream.cli.run, fraudstream.cli.demo\n"
        "from fraudstream.bundle import load_bundle\n"
        f"assert load_bundle({str(MODEL.parent)!r}).name == 'default'\n"
    )
    _run(program)
