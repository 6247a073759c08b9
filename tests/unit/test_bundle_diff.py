"""How two bundles differ: what would be filled anew, and what would be decided otherwise."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from optimized import Optimized, optimized
from typer.testing import CliRunner, Result

from fraudstream.bundle import Bundle
from fraudstream.bundle_diff import BundleDiff, diff_bundles
from fraudstream.bundle_writing import BundleDraft, write_bundle
from fraudstream.cli import app
from fraudstream.decision import Policy, decide
from fraudstream.feature_set import parse_feature_set

THRESHOLDS = (0.1, 0.6)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    return optimized(tmp_path_factory.getbasetemp())


def remade(
    bundle: Bundle,
    place: Path,
    *,
    names: list[str] | None = None,
    document: dict[str, Any] | None = None,
    **about: object,
) -> Bundle:
    """Write a bundle like another: of other features, another feature set, other words."""
    feature_set = parse_feature_set(document or dict(bundle.feature_set.document))
    features = feature_set.select(names or [feature.name for feature in bundle.features])
    fields = bundle.manifest.model_dump() | {
        "name": place.name,
        "feature_set": feature_set.document,
        "feature_set_sha256": feature_set.sha256,
        "features": [feature.definition() for feature in features],
        "reasons": {f.name: {"code": f.reason_code, "text": f.meaning} for f in features},
        "fallback_features": ["amount"],
        **about,
    }
    for found_out in ("layout", "files", "engine", "engine_version", "xgboost_version", "platform"):
        del fields[found_out]
    golden = np.random.default_rng(1).random((9, len(features)), dtype=np.float32)
    ubj, fallback = (model_of([f.name for f in features]), model_of(["amount"]))
    return write_bundle(place, BundleDraft(fields, ubj, fallback, golden, "# A model\n"))


def model_of(names: list[str]) -> bytes:
    rows = np.random.default_rng(2).random((300, len(names)), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0.5, feature_names=names, nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    return bytes(xgboost.train(parameters, matrix, 3).save_raw("ubj"))


def line(found: BundleDiff, what: str) -> tuple[str, str]:
    (only,) = [line for line in found.lines if line.what == what]
    return only.a, only.b


def test_a_bundle_does_not_differ_from_itself(made: Optimized) -> None:
    found = diff_bundles(made.teacher, made.teacher, THRESHOLDS)
    assert found.is_same
    assert found.are_profiles_shared
    assert all(line.is_equal and line.what.startswith("quality") for line in found.lines)
    assert len(found.lines) == 8
    assert (found.features.added, found.features.removed, found.features.redefined) == ((), (), ())
    assert found.scores is not None
    assert (found.scores.difference_max, found.scores.flips) == (0, 0)


def test_a_variant_differs_in_its_scores_by_what_both_give_the_golden_vectors(
    made: Optimized,
) -> None:
    a, b = made.teacher, made.variant("distilled")
    found = diff_bundles(a, b, THRESHOLDS)
    assert not found.is_same
    assert line(found, "variant") == ("none", f"distilled, of {a.sha256}")
    assert line(found, "name") == ("small", "small-distilled")
    certificate = b.certificate
    assert certificate is not None
    assert line(found, "certified average_precision") == (
        str(certificate.average_precision_before),
        str(certificate.average_precision),
    )
    vectors = np.concatenate((a.golden_vectors, b.golden_vectors))
    old, new = a.model.score(vectors), b.model.score(vectors)
    assert found.scores is not None
    assert found.scores.rows == len(vectors)
    assert found.scores.difference_max == np.abs(old.astype(float) - new).max() > 0
    policy = Policy(*THRESHOLDS, 0.5)
    flipped = [x is not y for x, y in zip(decide(old, policy), decide(new, policy), strict=True)]
    assert found.scores.flips == sum(flipped)


def test_a_converted_variant_differs_in_its_engine(made: Optimized) -> None:
    found = diff_bundles(made.teacher, made.variant("onnx"), THRESHOLDS)
    assert line(found, "engine") == ("xgboost", "onnx")
    assert line(found, "engine_version")[0] == "none"
    assert found.scores is not None
    assert found.scores.difference_max <= 1e-6


def test_other_columns_of_the_same_series_share_profiles(made: Optimized, tmp_path: Path) -> None:
    names = [feature.name for feature in made.teacher.features]
    fewer = remade(made.teacher, tmp_path / "fewer", names=[names[-1], *names[:-2]])
    found = diff_bundles(made.teacher, fewer, THRESHOLDS)
    assert found.features.removed == (names[-2],)
    assert found.features.added == ()
    assert found.features.is_reordered
    assert found.are_profiles_shared
    # The smaller one reads the other's vectors, not the other way round.
    assert found.scores is not None
    assert found.scores.rows == len(made.teacher.golden_vectors)
    back = diff_bundles(fewer, made.teacher, THRESHOLDS)
    assert back.features.added == (names[-2],)
    assert back.scores == found.scores


def test_a_window_that_is_longer_means_other_profiles(made: Optimized, tmp_path: Path) -> None:
    document = deepcopy(dict(made.teacher.feature_set.document))
    windows = next(f["windows"] for f in document["features"] if "30d" in f.get("windows", ()))
    windows[windows.index("30d")] = "45d"
    names = [feature.name for feature in made.teacher.features]
    known = {feature.name for feature in parse_feature_set(document).features}
    kept = [name for name in names if name in known]
    assert len(kept) < len(names)
    longer = remade(made.teacher, tmp_path / "longer", names=kept, document=document)
    found = diff_bundles(made.teacher, longer, THRESHOLDS)
    assert not found.are_profiles_shared
    assert set(found.features.removed) == set(names) - known
    assert line(found, "feature set")[0].endswith(made.teacher.feature_set.sha256)


def test_words_training_and_calibration_are_told(made: Optimized, tmp_path: Path) -> None:
    teacher = made.teacher
    training = teacher.manifest.training.model_dump()
    training |= {"rounds": 7, "parameters": training["parameters"] | {"max_depth": 9}}
    reasons = {name: {"code": code, "text": text} for name, (code, text) in teacher.reasons.items()}
    reasons["amount"] |= {"text": "other words"}
    other = remade(
        teacher, tmp_path / "other", training=training, reasons=reasons, calibration=None
    )
    found = diff_bundles(teacher, other, THRESHOLDS)
    assert found.reasons == ("amount",)
    assert line(found, "training rounds") == ("60", "7")
    assert line(found, "parameter max_depth") == ("4", "9")
    assert line(found, "calibration")[0].startswith("sigmoid, slope ")
    assert line(found, "calibration")[1] == "none"
    assert not [line for line in found.lines if line.what.startswith("trained")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["model", "diff", *map(str, arguments)])


def test_the_command_prints_it_and_tells_by_its_exit_code_only_when_asked(
    made: Optimized,
) -> None:
    a, b = made.teacher_path, made.path("pruned")
    done = run(a, b, "--config", made.config)
    assert done.exit_code == 0, done.output
    assert "profiles: the same series" in done.stdout
    assert "features added: none" in done.stdout
    assert "golden vectors they differ by up to" in done.stdout
    printed = json.loads(run(a, b, "--json").stdout)
    assert printed["scores"]["rows"] == 2 * len(made.teacher.golden_vectors)
    assert printed["is_same"] is False
    assert run(a, b, "--exit-code").exit_code == 1
    same = run(a, a, "--exit-code")
    assert same.exit_code == 0
    assert "the same bundle, byte for byte" in same.stdout


def test_bundles_that_neither_reads_are_not_compared_by_score(
    made: Optimized, tmp_path: Path
) -> None:
    one = remade(made.teacher, tmp_path / "one", names=["amount", "card_tx_count_1d"])
    two = remade(made.teacher, tmp_path / "two", names=["amount", "card_tx_count_7d"])
    assert diff_bundles(one, two, THRESHOLDS).scores is None
    assert "not comparable" in run(tmp_path / "one", tmp_path / "two").stdout
