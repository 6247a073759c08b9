"""Bundles that are as they should be. Those that are not: tests/badmodels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from feature_names import DEFAULT as FEATURE_SET
from feature_names import DEFAULT_FEATURES, FALLBACK_FEATURES

from fraudstream.bundle import BundleDraft, load_bundle, write_bundle
from fraudstream.errors import BundleError
from fraudstream.score import Model

DEFAULT = Path(__file__).resolve().parents[2] / "models" / "default"
NAMES = ("amount", "card_tx_count_1d", "is_night")
FALLBACK_NAMES = ("is_night", "amount")


def _booster(names: tuple[str, ...], rounds: int) -> bytes:
    rng = np.random.default_rng(5)
    rows = rng.random((300, len(names)), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows.sum(axis=1) > 1, feature_names=list(names), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "base_score": 0.5}
    return bytes(xgboost.train(parameters, matrix, rounds).save_raw("ubj"))


def _about(name: str) -> dict[str, Any]:
    period = {"start": "2026-01-01", "end": "2026-01-08", "transactions": 300, "frauds": 3}
    quality = {
        "auc": 0.9,
        "average_precision": 0.7,
        "card_precision_100": 0.2,
        "card_precision_100_best": 0.3,
    }
    return {
        "name": name,
        "version": "7",
        "feature_set": FEATURE_SET.document,
        "feature_set_sha256": FEATURE_SET.sha256,
        "features": [feature.definition() for feature in FEATURE_SET.select(NAMES)],
        "fallback_features": list(FALLBACK_NAMES),
        "training": {
            "data": "made up",
            "data_sha256": "0" * 64,
            "train": period,
            "validation": period,
            "label_delay_days": 7,
            "forgotten_share": 0.0,
            "seed": 1,
            "parameters": {"max_depth": 3},
            "rounds": 5,
            "fallback_rounds": 3,
        },
        "label_maturity": "complete",
        "quality": quality,
        "fallback_quality": quality,
        "calibration": None,
    }


@pytest.fixture
def make_draft() -> Callable[[str], BundleDraft]:
    golden = np.array([[0.1, 0.2, 0.3], [np.nan, 1, 0], [np.nan] * 3], np.float32)

    def make(name: str) -> BundleDraft:
        return BundleDraft(
            _about(name), _booster(NAMES, 5), _booster(FALLBACK_NAMES, 3), golden, "# A model\n"
        )

    return make


def test_the_shipped_bundle_loads_and_is_the_default_features() -> None:
    bundle = load_bundle(DEFAULT)
    assert bundle.name == "default"
    assert bundle.features == DEFAULT_FEATURES
    assert bundle.model.columns == tuple(feature.name for feature in DEFAULT_FEATURES)
    assert bundle.fallback.columns == tuple(feature.name for feature in FALLBACK_FEATURES)
    assert bundle.manifest.quality.average_precision > 0.7
    assert bundle.sha256 == hashlib.sha256((DEFAULT / "manifest.json").read_bytes()).hexdigest()


def test_the_shipped_bundle_is_small_and_says_that_its_data_are_simulated() -> None:
    assert sum(file.stat().st_size for file in DEFAULT.iterdir()) < 2_000_000
    assert "Simulated payments" in (DEFAULT / "MODEL_CARD.md").read_text()


def test_the_hash_of_the_manifest_is_one_that_sha256sum_reads() -> None:
    line = (DEFAULT / "manifest.sha256").read_text()
    assert line == f"{load_bundle(DEFAULT).sha256}  manifest.json\n"


def test_a_written_bundle_is_what_was_given(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    bundle = write_bundle(tmp_path / "mine", make_draft("mine"))
    assert (bundle.name, bundle.version) == ("mine", "7")
    assert [feature.name for feature in bundle.features] == list(NAMES)
    assert bundle.fallback.columns == FALLBACK_NAMES
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == [
        "MODEL_CARD.md",
        "fallback.ubj",
        "golden.json",
        "manifest.json",
        "manifest.sha256",
        "model.ubj",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_the_same_content_gives_the_same_bytes(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    first = write_bundle(tmp_path / "a", make_draft("same"))
    second = write_bundle(tmp_path / "b", make_draft("same"))
    assert first.sha256 == second.sha256
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_bundle_is_replaced_and_anything_else_is_not(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    write_bundle(tmp_path / "mine", make_draft("old"))
    assert write_bundle(tmp_path / "mine", make_draft("new")).name == "new"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("ten years of work")
    with pytest.raises(BundleError, match="holds no bundle that could be replaced"):
        write_bundle(tmp_path / "thesis", make_draft("mine"))
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_a_link_to_a_bundle_stays_a_link_when_it_is_replaced(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "v1", make_draft("old"))
    (tmp_path / "current").symlink_to("v1")
    write_bundle(tmp_path / "current", make_draft("new"))
    assert (tmp_path / "current").is_symlink()
    assert load_bundle(tmp_path / "v1").name == "new"
    monkeypatch.chdir(tmp_path / "v1")
    assert write_bundle(Path(), make_draft("here")).name == "here"


def test_a_place_that_cannot_be_written_to_is_a_sentence(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "mine", make_draft("mine"))


def test_what_would_be_refused_is_not_written(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    write_bundle(tmp_path / "mine", make_draft("old"))
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "mine", make_draft("no/name"))
    assert load_bundle(tmp_path / "mine").name == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_floats_of_golden_vectors_come_back_exactly(
    tmp_path: Path, make_draft: Callable[[str], BundleDraft]
) -> None:
    """float32 → JSON → float32 must be the same bits, or no score could be compared."""
    draft = make_draft("mine")
    rng = np.random.default_rng(8)
    vectors = rng.random((200, 3), dtype=np.float32) * np.float32(1e-3)
    write_bundle(
        tmp_path / "mine",
        BundleDraft(draft.about, draft.model_ubj, draft.fallback_ubj, vectors, draft.card),
    )
    golden = json.loads((tmp_path / "mine" / "golden.json").read_text())
    np.testing.assert_array_equal(np.array(golden["vectors"], np.float32), vectors)
    scores = Model(draft.model_ubj, NAMES).score(vectors)
    np.testing.assert_array_equal(np.array(golden["scores"], np.float32), scores)
