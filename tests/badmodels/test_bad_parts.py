"""What only some bundles have, or what only people read: wrong reasons, calibrations, variants.

Like everything that is wrong, each is refused with a sentence of its own.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import CERTIFICATE, LATENCIES, VARIANT

from badmodels.spoil import Reseal, flip, golden_scores, refusal
from fraudstream.bundle import hash_line, load_bundle
from fraudstream.bundle_folder import FILE_BYTES_MAX
from fraudstream.calibration import Sigmoid

Manifest = dict[str, Any]


# ------------------------------------------------------------------ reasons


@pytest.mark.parametrize(
    "change",
    [
        lambda reasons: reasons.pop("is_night"),
        lambda reasons: reasons.update(is_nights=reasons.pop("is_night")),
        lambda reasons: reasons.update(card_tx_count_2d={"code": "A", "text": "a"}),
        lambda reasons: reasons.clear(),
    ],
)
def test_reasons_that_are_not_those_of_the_features(
    folder: Path, reseal: Reseal, change: Callable[[Manifest], None]
) -> None:
    reseal(lambda manifest: change(manifest["reasons"]))
    assert refusal(folder).startswith("its reasons and its features do not belong together ('")


@pytest.mark.parametrize(
    ("reason", "place"),
    [
        ({"code": "low_case", "text": "x"}, "reasons.amount.code"),
        ({"code": "", "text": "x"}, "reasons.amount.code"),
        ({"code": "TWO WORDS", "text": "x"}, "reasons.amount.code"),
        ({"code": "A" * 65, "text": "x"}, "reasons.amount.code"),
        ({"code": "A", "text": 5}, "reasons.amount.text"),
        ({"code": "A", "text": ""}, "reasons.amount.text"),
        ({"code": "A"}, "reasons.amount.text"),
        ({"code": "A", "text": "x", "weight": 1}, "reasons.amount.weight"),
        ("AMOUNT", "reasons.amount"),
    ],
)
def test_a_reason_that_cannot_be_said(
    folder: Path, reseal: Reseal, reason: object, place: str
) -> None:
    reseal(lambda manifest: manifest["reasons"].update(amount=reason))
    assert refusal(folder).startswith(f"manifest.json is wrong at {place} (")


# ------------------------------------------------------------------ calibration

SIGMOID = {"method": "sigmoid", "fitted_on": "made up", "slope": 1.5, "intercept": -0.5}
ISOTONIC = {
    "method": "isotonic",
    "fitted_on": "made up",
    "scores": [0.1, 0.4, 0.9],
    "probabilities": [0.0, 0.2, 1.0],
}


def test_a_calibration_whose_scores_the_golden_ones_are_is_fine(
    folder: Path, reseal: Reseal
) -> None:
    """Otherwise every test below would pass for the wrong reason."""

    def change(golden: Manifest) -> None:
        raw = np.array(golden["scores"], np.float32)
        golden["scores"] = [float(score) for score in Sigmoid(1.5, -0.5)(raw)]

    golden_scores(folder, change)
    reseal(lambda manifest: manifest.update(calibration=SIGMOID))
    bundle = load_bundle(folder)
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.method == "sigmoid"


@pytest.mark.parametrize("calibration", [SIGMOID, ISOTONIC], ids=["sigmoid", "isotonic"])
def test_a_calibration_that_the_golden_scores_know_nothing_of(
    folder: Path, reseal: Reseal, calibration: Manifest
) -> None:
    reseal(lambda manifest: manifest.update(calibration=calibration))
    assert refusal(folder).startswith("model.ubj gives golden vector ")


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (SIGMOID | {"slope": -1.5}, "calibration.sigmoid.slope (Input should be greater than 0"),
        (SIGMOID | {"slope": 0}, "calibration.sigmoid.slope (Input should be greater than 0"),
        (SIGMOID | {"slope": "1"}, "calibration.sigmoid.slope (Input should be a valid number"),
        (SIGMOID | {"slope": None}, "calibration.sigmoid.slope (Input should be a valid number"),
        (SIGMOID | {"intercept": [0]}, "calibration.sigmoid.intercept (Input should be a valid"),
        (SIGMOID | {"bias": 1}, "calibration.sigmoid.bias (Extra inputs are not permitted"),
        (SIGMOID | {"method": "beta"}, "calibration (Input tag 'beta' found using 'method' does"),
        ({"method": "sigmoid"}, "calibration.sigmoid.fitted_on (Field required"),
        ({"slope": 1.0}, "calibration (Unable to extract tag"),
        ("sigmoid", "calibration ("),
        (ISOTONIC | {"scores": [0.4, 0.1, 0.9]}, "calibration.isotonic (Value error, scores and"),
        (
            ISOTONIC | {"probabilities": [0.0, 0.3, 0.2]},
            "calibration.isotonic (Value error, scores and probabilities must be as many, and rise",
        ),
        (
            ISOTONIC | {"scores": [0.1, 0.4]},
            "calibration.isotonic (Value error, scores and probabilities must be as many, and rise",
        ),
        (
            ISOTONIC | {"probabilities": [0.0, 0.1, 0.2, 0.3]},
            "calibration.isotonic (Value error, scores and probabilities must be as many, and rise",
        ),
        (ISOTONIC | {"scores": [0.1], "probabilities": [0.5]}, "calibration.isotonic.scores ("),
        (ISOTONIC | {"scores": [], "probabilities": []}, "calibration.isotonic.scores ("),
        (
            ISOTONIC | {"probabilities": [0.0, 0.2, 1.1]},
            "calibration.isotonic.probabilities.2 (Input should be less than or equal to 1",
        ),
        (
            ISOTONIC | {"scores": [-0.1, 0.4, 0.9]},
            "calibration.isotonic.scores.0 (Input should be greater than or equal to 0",
        ),
        (
            ISOTONIC | {"probabilities": [0.0, None, 1.0]},
            "calibration.isotonic.probabilities.1 (Input should be a valid number",
        ),
    ],
)
def test_a_calibration_that_is_none(
    folder: Path, reseal: Reseal, calibration: object, words: str
) -> None:
    reseal(lambda manifest: manifest.update(calibration=calibration))
    assert refusal(folder).startswith(f"manifest.json is wrong at {words}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["slope", "intercept"])
def test_a_calibration_with_a_number_that_is_none(folder: Path, number: str, place: str) -> None:
    """JSON knows no such numbers; whoever writes them all the same is not believed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    text = json.dumps(manifest | {"calibration": SIGMOID | {place: 12345}})
    content = text.replace("12345", number).encode()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.sha256").write_bytes(hash_line(content))
    sentence = refusal(folder)
    assert sentence.startswith(
        ("manifest.json is no JSON", f"manifest.json is wrong at calibration.sigmoid.{place} (")
    )


# ------------------------------------------------------------------ engines


def write_onnx(
    folder: Path,
    nodes: list[onnx.NodeProto] | None = None,
    *,
    columns: int | None = None,
    outputs: int = 1,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> None:
    """Write a model for ONNX Runtime that gives each row its mean."""
    columns = len(load_bundle(folder).features) if columns is None else columns
    taken = [helper.make_tensor_value_info(f"x{i}", kind, [None, columns]) for i in range(inputs)]
    given = [helper.make_tensor_value_info(f"y{i}", kind, [None, 1]) for i in range(outputs)]
    means = [helper.make_node("ReduceMean", ["x0"], [f"y{i}"], axes=[1]) for i in range(outputs)]
    graph = helper.make_graph(means if nodes is None else nodes, "mean", taken, given)
    opsets = [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    (folder / "model.onnx").write_bytes(content)


def as_onnx(manifest: Manifest) -> None:
    manifest.update(engine="onnx", engine_version="1.0")
    manifest["files"].setdefault("model.onnx", "0" * 64)


@pytest.fixture
def reseal_onnx(folder: Path, reseal: Reseal) -> Callable[[], None]:
    """Say that ONNX Runtime computes the scores, with the right hashes."""

    def apply() -> None:
        reseal(as_onnx)
        reseal()

    return apply


def test_engine_onnx_without_its_file_in_the_manifest(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest.update(engine="onnx", engine_version="1.0"))
    assert refusal(folder) == (
        "manifest.json does not list model.onnx, which such a bundle has: train the bundle anew"
    )


def test_engine_onnx_without_its_file_in_the_folder(folder: Path, reseal: Reseal) -> None:
    reseal(as_onnx)
    assert refusal(folder) == "model.onnx is missing: copy the whole bundle again"


def test_a_file_for_onnx_that_nothing_would_use(folder: Path, reseal: Reseal) -> None:
    write_onnx(folder)
    reseal(lambda manifest: manifest["files"].update({"model.onnx": "0" * 64}))
    reseal()
    assert refusal(folder).startswith("manifest.json lists files other than a bundle's ('model.o")


def test_one_flipped_bit_in_a_model_for_onnx(folder: Path, reseal_onnx: Callable[[], None]) -> None:
    write_onnx(folder)
    reseal_onnx()
    flip(folder / "model.onnx", 10)
    assert refusal(folder).startswith("model.onnx is not the file that the bundle was made with")


@pytest.mark.parametrize("engine", ["pickle", "treelite", "", None, ["onnx"]])
def test_an_engine_that_there_is_not(folder: Path, reseal: Reseal, engine: object) -> None:
    reseal(lambda manifest: manifest.update(engine=engine))
    assert refusal(folder).startswith("manifest.json is wrong at engine (Input should be 'xgboost'")


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04junk", bytes(1_000), b"\xff" * 100])
def test_bytes_that_are_no_model_for_onnx(
    folder: Path, reseal_onnx: Callable[[], None], content: bytes
) -> None:
    (folder / "model.onnx").write_bytes(content)
    reseal_onnx()
    assert refusal(folder) == "model.onnx is refused by ONNX Runtime: train the bundle anew"


def test_a_model_for_onnx_cut_short(folder: Path, reseal_onnx: Callable[[], None]) -> None:
    write_onnx(folder)
    content = (folder / "model.onnx").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (folder / "model.onnx").write_bytes(content[: int(len(content) * share)])
        reseal_onnx()
        assert refusal(folder).startswith("model.onnx ")


@pytest.mark.parametrize(
    "shape",
    [
        {"columns": 3},
        {"outputs": 2},
        {"kind": TensorProto.DOUBLE},
        {"inputs": 2},
        {"nodes": [helper.make_node("Identity", ["x0"], ["y0"])]},
        {"nodes": [helper.make_node("NoSuchThing", ["x0"], ["y0"])]},
    ],
    ids=["columns", "outputs", "doubles", "inputs", "a score a column", "unknown node"],
)
def test_a_model_for_onnx_that_gives_no_scores(
    folder: Path, reseal_onnx: Callable[[], None], shape: dict[str, Any]
) -> None:
    write_onnx(folder, **shape)
    reseal_onnx()
    assert refusal(folder).startswith(
        (
            "model.onnx does not take this model's vectors, or gives more than scores: train",
            "model.onnx is refused by ONNX Runtime: train",
        )
    )


def test_a_model_for_onnx_that_needs_no_vector(
    folder: Path, reseal_onnx: Callable[[], None]
) -> None:
    constant = helper.make_tensor("c", TensorProto.FLOAT, [1, 1], [0.5])
    write_onnx(folder, [helper.make_node("Constant", [], ["y0"], value=constant)], inputs=0)
    reseal_onnx()
    assert refusal(folder).startswith("model.onnx ")


def test_a_model_for_onnx_that_scores_otherwise(
    folder: Path, reseal_onnx: Callable[[], None]
) -> None:
    """Right in form, and the mean of the features instead of a score."""
    write_onnx(folder)
    reseal_onnx()
    assert refusal(folder).startswith("model.onnx does not score as the trees do")


def test_onnx_runtime_is_not_installed(folder: Path, reseal_onnx: Callable[[], None]) -> None:
    write_onnx(folder)
    reseal_onnx()
    program = (
        "import sys\nsys.modules['onnxruntime'] = None\n"
        "from fraudstream.bundle import load_bundle\nfrom fraudstream.errors import BundleError\n"
        "try:\n    load_bundle(sys.argv[1])\nexcept BundleError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "model.onnx needs ONNX Runtime: pip install" in done.stdout
    assert not done.stderr


# ------------------------------------------------------------------ packed models


@pytest.fixture
def packed(folder: Path, reseal: Reseal) -> Callable[[bytes], None]:
    """Put these bytes in the place of the model, as a packed one."""

    def apply(content: bytes) -> None:
        (folder / "model.ubj.gz").write_bytes(content)
        (folder / "model.ubj").unlink()

        def change(manifest: Manifest) -> None:
            manifest["files"]["model.ubj.gz"] = manifest["files"].pop("model.ubj")

        (folder / "manifest.json").write_text(
            json.dumps(_changed(json.loads((folder / "manifest.json").read_text()), change))
        )
        reseal()

    return apply


def _changed(manifest: Manifest, change: Callable[[Manifest], None]) -> Manifest:
    change(manifest)
    return manifest


def test_a_packed_model_that_is_as_it_should_be(
    folder: Path, packed: Callable[[bytes], None]
) -> None:
    packed(gzip.compress((folder / "model.ubj").read_bytes()))
    assert load_bundle(folder).name == "default"


@pytest.mark.parametrize("damage", ["not packed", "cut short", "damaged", "more behind it"])
def test_a_packed_model_that_cannot_be_unpacked(
    folder: Path, packed: Callable[[bytes], None], damage: str
) -> None:
    ubj = (folder / "model.ubj").read_bytes()
    good = gzip.compress(ubj)
    spoilt = {
        "not packed": ubj,
        "cut short": good[:-20],
        "damaged": good[:500] + b"\xff" * 20 + good[520:],
        "more behind it": good + b"junk",
    }
    packed(spoilt[damage])
    assert refusal(folder) == "model.ubj.gz cannot be unpacked: train the bundle anew"


def test_a_packed_model_that_is_large_beyond_measure_when_unpacked(
    folder: Path, packed: Callable[[bytes], None]
) -> None:
    packed(gzip.compress(bytes(FILE_BYTES_MAX + 1), compresslevel=1))
    assert (folder / "model.ubj.gz").stat().st_size < 2_000_000
    assert refusal(folder).startswith("model.ubj.gz is far too large for a model")


def test_a_packed_model_that_is_no_model_or_another(
    folder: Path, packed: Callable[[bytes], None]
) -> None:
    other = (folder / "fallback.ubj").read_bytes()
    packed(gzip.compress(b"{}"))
    assert refusal(folder).startswith("model.ubj.gz is no whole model file: ")
    (folder / "model.ubj").touch()
    packed_again = gzip.compress(other)
    (folder / "model.ubj.gz").write_bytes(packed_again)
    assert refusal(folder).startswith("model.ubj.gz is not the file that the bundle was made with")


def test_both_a_packed_model_and_another(folder: Path, reseal: Reseal) -> None:
    """It could not be said which of the two decides."""
    (folder / "model.ubj.gz").write_bytes(gzip.compress((folder / "model.ubj").read_bytes()))
    reseal(lambda manifest: manifest["files"].update({"model.ubj.gz": "0" * 64}))
    assert refusal(folder).startswith("manifest.json lists files other than a bundle's ('model.ubj")


# ------------------------------------------------------------------ variants


def with_certificate(folder: Path, reseal: Reseal, content: bytes) -> None:
    (folder / "certificate.json").write_bytes(content)

    def change(manifest: Manifest) -> None:
        manifest["variant"] = VARIANT
        manifest["files"]["certificate.json"] = "0" * 64

    reseal(change)
    reseal()


def test_a_variant_with_its_certificate_is_fine(folder: Path, reseal: Reseal) -> None:
    """Otherwise every test below would pass for the wrong reason."""
    with_certificate(folder, reseal, CERTIFICATE.model_dump_json().encode())
    assert load_bundle(folder).certificate == CERTIFICATE


def test_variant_without_certificate(folder: Path, reseal: Reseal) -> None:
    reseal(lambda manifest: manifest.update(variant=VARIANT))
    assert refusal(folder) == (
        "manifest.json does not list certificate.json, which such a bundle has: train the bundle "
        "anew"
    )


def test_certificate_without_variant(folder: Path, reseal: Reseal) -> None:
    with_certificate(folder, reseal, CERTIFICATE.model_dump_json().encode())
    reseal(lambda manifest: manifest.update(variant=None))
    assert refusal(folder).startswith("manifest.json lists files other than a bundle's ('certific")


def test_certificate_that_is_missing_or_changed(folder: Path, reseal: Reseal) -> None:
    """A figure in it that looked better is found like any other change."""
    with_certificate(folder, reseal, CERTIFICATE.model_dump_json().encode())
    content = (folder / "certificate.json").read_bytes()
    (folder / "certificate.json").write_bytes(content.replace(b"0.7", b"0.9"))
    assert refusal(folder).startswith("certificate.json is not the file that the bundle was made")
    (folder / "certificate.json").unlink()
    assert refusal(folder) == "certificate.json is missing: copy the whole bundle again"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{"])
def test_certificate_that_is_none(folder: Path, reseal: Reseal, content: bytes) -> None:
    with_certificate(folder, reseal, content)
    sentence = refusal(folder)
    assert sentence.startswith("certificate.json is wrong at its top (")
    assert sentence.endswith(": make the variant anew")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"score_difference_max": 1.5}, "score_difference_max"),
        ({"flips": -1}, "flips"),
        ({"average_precision": None}, "average_precision"),
        ({"latency_us": LATENCIES | {"rows_16": "fast"}}, "latency_us.rows_16"),
        ({"latency_us_before": {}}, "latency_us_before.rows_1"),
        ({"thresholds": [0.3, 7]}, "thresholds.1"),
        ({"praise": "very good"}, "praise"),
    ],
)
def test_certificate_with_a_figure_that_is_none(
    folder: Path, reseal: Reseal, change: Manifest, place: str
) -> None:
    fields = CERTIFICATE.model_dump(mode="json") | change
    with_certificate(folder, reseal, json.dumps(fields).encode())
    assert refusal(folder).startswith(f"certificate.json is wrong at {place} (")


@pytest.mark.parametrize(
    ("variant", "place"),
    [
        (VARIANT | {"kind": "improved"}, "variant.kind"),
        (VARIANT | {"of": "models/default"}, "variant.of"),
        (VARIANT | {"of": "A" * 64}, "variant.of"),
        (VARIANT | {"parameters": {"rounds": None}}, "variant.parameters.rounds"),
        ({"kind": "pruned"}, "variant.of"),
        ("pruned", "variant"),
    ],
)
def test_a_variant_that_is_none(folder: Path, reseal: Reseal, variant: object, place: str) -> None:
    reseal(lambda manifest: manifest.update(variant=variant))
    assert refusal(folder).startswith(f"manifest.json is wrong at {place}")


# ------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda manifest: manifest["training"].update(folds=[]), "training.folds"),
        (
            lambda manifest: manifest["training"]["folds"][0]["quality"].update(auc=1.1),
            "training.folds.0.quality.auc",
        ),
        (
            lambda manifest: manifest["training"]["folds"][0]["test"].update(frauds=-1),
            "training.folds.0.test.frauds",
        ),
        (lambda manifest: manifest["training"].update(data_sha256="x"), "training.data_sha256"),
        (lambda manifest: manifest["training"].update(candidates=1.5), "training.candidates"),
        (lambda manifest: manifest["training"].update(rounds="130"), "training.rounds"),
        (lambda manifest: manifest["quality"].pop("auc"), "quality.auc"),
        (lambda manifest: manifest.pop("quality_deviation"), "quality_deviation"),
        (lambda manifest: manifest.update(fallback_features=[]), "fallback_features"),
        (lambda manifest: manifest.update(name="two words"), "name"),
        (lambda manifest: manifest.update(version=7), "version"),
    ],
)
def test_figures_and_words_that_are_none(
    folder: Path, reseal: Reseal, change: Callable[[Manifest], None], place: str
) -> None:
    reseal(change)
    assert refusal(folder).startswith(f"manifest.json is wrong at {place} (")
