"""Bundles that are as they should be. Those that are not: tests/badmodels."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xgboost
from tiny_bundle import CERTIFICATE, FALLBACK_NAMES, NAMES, draft_of

from fraudstream.bundle import Bundle, load_bundle
from fraudstream.bundle_writing import BundleDraft, write_bundle
from fraudstream.errors import BundleError, SettingsError
from fraudstream.score import Model

DEFAULT = Path(__file__).resolve().parents[2] / "models" / "default"
PLAIN_FILES = [
    "MODEL_CARD.md",
    "fallback.ubj",
    "golden.json",
    "manifest.json",
    "manifest.sha256",
    "model.ubj",
]


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(DEFAULT)


def test_the_shipped_bundle_loads_and_is_what_its_manifest_says(shipped: Bundle) -> None:
    manifest = shipped.manifest
    assert shipped.name == "default"
    assert shipped.features == shipped.feature_set.select(
        [str(definition["name"]) for definition in manifest.features]
    )
    names = tuple(feature.name for feature in shipped.features)
    assert shipped.model.columns == names
    stateless = tuple(feature.name for feature in shipped.features if feature.is_stateless)
    assert shipped.fallback.columns == manifest.fallback_features == stateless
    assert set(shipped.reasons) == set(names)
    assert shipped.golden_vectors.shape[1] == len(names)
    assert (shipped.certificate, manifest.variant, manifest.engine) == (None, None, "xgboost")
    assert manifest.quality.average_precision > 0.7
    assert manifest.quality.average_precision > manifest.fallback_quality.average_precision
    assert shipped.sha256 == hashlib.sha256((DEFAULT / "manifest.json").read_bytes()).hexdigest()


def test_the_shipped_bundle_is_small_and_says_that_its_data_are_simulated() -> None:
    assert sum(file.stat().st_size for file in DEFAULT.iterdir()) < 2_000_000
    assert "Simulated payments" in (DEFAULT / "MODEL_CARD.md").read_text()


def test_the_hash_of_the_manifest_is_one_that_sha256sum_reads(shipped: Bundle) -> None:
    line = (DEFAULT / "manifest.sha256").read_text()
    assert line == f"{shipped.sha256}  manifest.json\n"


@pytest.mark.skipif(
    bool(xgboost.build_info()["USE_CUDA"]), reason="this XGBoost could use a GPU, if there is one"
)
def test_a_gpu_that_xgboost_was_not_built_for_is_refused() -> None:
    """XGBoost itself would go on with the CPU, and log it where nobody looks."""
    with pytest.raises(SettingsError, match="device: cuda needs the full xgboost"):
        load_bundle(DEFAULT, "cuda")


def test_a_written_bundle_is_what_was_given(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "mine", draft_of("mine"))
    assert (bundle.name, bundle.version) == ("mine", "7")
    assert [feature.name for feature in bundle.features] == list(NAMES)
    assert bundle.fallback.columns == FALLBACK_NAMES
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == PLAIN_FILES
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_reasons_are_the_bundles_own_and_features_may_share_one(tmp_path: Path) -> None:
    words = {
        "amount": {"code": "HOW_MUCH", "text": "what was paid"},
        "card_tx_count_1d": {"code": "HOW_MUCH", "text": "how often"},
        "is_night": {"code": "WHEN", "text": "at night"},
    }
    bundle = write_bundle(tmp_path / "mine", draft_of("mine", reasons=words))
    assert bundle.reasons == {
        "amount": ("HOW_MUCH", "what was paid"),
        "card_tx_count_1d": ("HOW_MUCH", "how often"),
        "is_night": ("WHEN", "at night"),
    }


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "a", draft_of("same"))
    second = write_bundle(tmp_path / "b", draft_of("same"))
    assert first.sha256 == second.sha256
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_order_in_which_fields_were_given_changes_no_byte(tmp_path: Path) -> None:
    draft = draft_of("same")
    backwards = dict(reversed(list(draft.about.items())))
    backwards["reasons"] = dict(reversed(list(draft.about["reasons"].items())))
    second = write_bundle(tmp_path / "b", replace(draft, about=backwards))
    assert write_bundle(tmp_path / "a", draft).sha256 == second.sha256


def test_a_packed_model_is_the_same_model_in_less_space(tmp_path: Path) -> None:
    draft = draft_of("mine")
    plain = write_bundle(tmp_path / "plain", draft)
    packed = write_bundle(tmp_path / "packed", replace(draft, is_packed=True))
    again = write_bundle(tmp_path / "again", replace(draft, is_packed=True))
    assert packed.sha256 == again.sha256 != plain.sha256
    np.testing.assert_array_equal(
        packed.model.score(packed.golden_vectors), plain.model.score(plain.golden_vectors)
    )
    names = sorted(file.name for file in (tmp_path / "packed").iterdir())
    assert names == [*PLAIN_FILES[:-1], "model.ubj.gz"]
    ubj = gzip.decompress((tmp_path / "packed" / "model.ubj.gz").read_bytes())
    assert ubj == draft.model_ubj
    assert (tmp_path / "packed" / "model.ubj.gz").stat().st_size < len(ubj)


def test_a_variant_brings_its_certificate(tmp_path: Path) -> None:
    variant = {"kind": "pruned", "of": "a" * 64, "parameters": {"rounds": 5}}
    draft = replace(draft_of("mine", variant=variant), certificate=CERTIFICATE)
    bundle = write_bundle(tmp_path / "mine", draft)
    assert bundle.certificate == CERTIFICATE
    assert bundle.manifest.variant is not None
    assert bundle.manifest.variant.of == "a" * 64
    names = sorted(file.name for file in (tmp_path / "mine").iterdir())
    assert names == sorted([*PLAIN_FILES, "certificate.json"])


def test_a_bundle_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    write_bundle(tmp_path / "mine", draft_of("old"))
    assert write_bundle(tmp_path / "mine", draft_of("new")).name == "new"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("ten years of work")
    with pytest.raises(BundleError, match="holds no bundle that could be replaced"):
        write_bundle(tmp_path / "thesis", draft_of("mine"))
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_files_of_the_replaced_bundle_are_gone(tmp_path: Path) -> None:
    write_bundle(tmp_path / "mine", replace(draft_of("mine"), is_packed=True))
    write_bundle(tmp_path / "mine", draft_of("mine"))
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == PLAIN_FILES


def test_a_link_to_a_bundle_stays_a_link_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "v1", draft_of("old"))
    (tmp_path / "current").symlink_to("v1")
    write_bundle(tmp_path / "current", draft_of("new"))
    assert (tmp_path / "current").is_symlink()
    assert load_bundle(tmp_path / "v1").name == "new"
    monkeypatch.chdir(tmp_path / "v1")
    assert write_bundle(Path(), draft_of("here")).name == "here"


def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "mine", draft_of("mine"))


@pytest.mark.parametrize(
    "draft",
    [
        draft_of("no/name"),
        draft_of("new", reasons={}),
        draft_of("new", variant={"kind": "pruned", "of": "a" * 64, "parameters": {}}),
        replace(draft_of("new"), certificate=CERTIFICATE),
        replace(draft_of("new"), model_ubj=b"{}"),
        replace(draft_of("new"), golden_vectors=np.empty((0, 3), np.float32)),
    ],
    ids=["name", "reasons", "no certificate", "no variant", "no model", "nothing to check with"],
)
def test_what_would_be_refused_is_not_written(tmp_path: Path, draft: BundleDraft) -> None:
    write_bundle(tmp_path / "mine", draft_of("old"))
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "mine", draft)
    assert load_bundle(tmp_path / "mine").name == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_floats_of_golden_vectors_come_back_exactly(tmp_path: Path) -> None:
    """float32 → JSON → float32 must be the same bits, or no score could be compared."""
    rng = np.random.default_rng(8)
    vectors = rng.random((200, 3), dtype=np.float32) * np.float32(1e-3)
    draft = draft_of("mine", vectors)
    bundle = write_bundle(tmp_path / "mine", draft)
    golden = json.loads((tmp_path / "mine" / "golden.json").read_text())
    np.testing.assert_array_equal(np.array(golden["vectors"], np.float32), vectors)
    np.testing.assert_array_equal(bundle.golden_vectors, vectors)
    scores = Model(draft.model_ubj, NAMES).score(vectors)
    np.testing.assert_array_equal(np.array(golden["scores"], np.float32), scores)
