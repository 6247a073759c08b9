"""Variants of a model that are damaged or lie: each refused with a sentence of its own.

A variant has more files than a model as it was trained, and another program to compute its scores.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import xgboost
from optimized import KINDS, Optimized, optimized

from fraudstream.bundle import load_bundle
from fraudstream.errors import BundleError
from fraudstream.training.optimize.forest import Forest
from fraudstream.training.optimize.onnx_graph import to_onnx

Reseal = Callable[..., None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    return optimized(tmp_path_factory.getbasetemp())


@pytest.fixture
def kind() -> str:
    """Which variant is spoilt, where a test does not say."""
    return "onnx"


@pytest.fixture
def folder(made: Optimized, tmp_path: Path, kind: str) -> Path:
    """Copy a variant."""
    return Path(shutil.copytree(made.path(kind), tmp_path / "bundle"))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix(f"model bundle {folder}: ")


def forest_of(folder: Path) -> Forest:
    return Forest.read(gzip.decompress((folder / "model.ubj.gz").read_bytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_copies_themselves_are_good(folder: Path, reseal: Reseal) -> None:
    """Otherwise every test below would pass for the wrong reason."""
    load_bundle(folder)
    reseal()
    load_bundle(folder)


# The packed model


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_packed_model_cut_short(folder: Path, reseal: Reseal, share: float) -> None:
    packed = (folder / "model.ubj.gz").read_bytes()
    (folder / "model.ubj.gz").write_bytes(packed[: int(len(packed) * share)])
    reseal()
    sentence = refusal(folder)
    assert sentence.startswith(
        "model.ubj.gz cannot be unpacked" if share else "model.ubj.gz is no whole model file"
    )


@pytest.mark.parametrize("place", [0, 2, 40, -8, -3])
def test_packed_model_with_a_wrong_byte(folder: Path, reseal: Reseal, place: int) -> None:
    """In its header, in what is packed, in its checksum, in its length."""
    packed = bytearray((folder / "model.ubj.gz").read_bytes())
    packed[place] ^= 0xFF
    (folder / "model.ubj.gz").write_bytes(packed)
    reseal()
    assert refusal(folder).startswith("model.ubj.gz cannot be unpacked")


def test_a_little_file_that_unpacks_to_very_much(
    folder: Path, reseal: Reseal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is smaller here, so that the test needs no 256 MB itself."""
    monkeypatch.setattr("fraudstream.bundle.FILE_BYTES_MAX", 1_000_000)
    (folder / "model.ubj.gz").write_bytes(gzip.compress(bytes(1_000_001)))
    reseal()
    assert refusal(folder).startswith("model.ubj.gz is far too large for a model")
    (folder / "model.ubj.gz").write_bytes(gzip.compress(bytes(1_000_000)))
    reseal()
    assert refusal(folder).startswith("model.ubj.gz is no whole model file")


def test_packed_model_that_holds_no_model(folder: Path, reseal: Reseal) -> None:
    (folder / "model.ubj.gz").write_bytes(gzip.compress(b"{}"))
    reseal()
    assert refusal(folder).startswith("model.ubj.gz is no whole model file: it lacks 'learner'")


# The converted model


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_converted_model_cut_short(folder: Path, reseal: Reseal, share: float) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: int(len(content) * share)])
    reseal()
    assert refusal(folder).startswith("model.onnx is refused by ONNX Runtime")


@pytest.mark.parametrize("content", [b"not a model", b"\x80\x04K\x01.", bytes(1_000)])
def test_converted_model_that_is_none(folder: Path, reseal: Reseal, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    reseal()
    assert refusal(folder).startswith("model.onnx is refused by ONNX Runtime")


def test_converted_model_of_another_width(folder: Path, reseal: Reseal) -> None:
    rows = np.random.default_rng(2).random((300, 3), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0.5, feature_names=["a", "b", "c"])
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, matrix, 3)
    narrow = to_onnx(Forest.read(bytes(booster.save_raw("ubj"))))
    (folder / "model.onnx").write_bytes(narrow)
    reseal()
    assert refusal(folder).startswith("model.onnx does not take this model's vectors, or gives")


def changed(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load_model_from_string((folder / "model.onnx").read_bytes())
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_converted_model_with_a_second_output(folder: Path, reseal: Reseal) -> None:
    changed(
        folder,
        lambda model: model.graph.output.append(
            onnx.helper.make_tensor_value_info("margin", onnx.TensorProto.FLOAT, [None, 1])
        ),
    )
    reseal()
    assert refusal(folder).startswith("model.onnx does not take this model's vectors, or gives")


def test_converted_model_that_takes_wider_numbers(folder: Path, reseal: Reseal) -> None:
    def double(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        cast = onnx.helper.make_node("Cast", ["vectors"], ["narrow"], to=onnx.TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
        model.graph.node[1].input[0] = "narrow"

    changed(folder, double)
    reseal()
    assert refusal(folder).startswith("model.onnx does not take this model's vectors, or gives")


@pytest.mark.parametrize("base", [np.nan, np.inf, 0.5])
def test_converted_model_that_scores_otherwise(folder: Path, reseal: Reseal, base: float) -> None:
    """NaN is never within a difference, so a check must not be written the other way round."""

    def rebase(model: onnx.ModelProto) -> None:
        (place,) = [i for i, x in enumerate(model.graph.initializer) if x.name == "base"]
        wrong = onnx.numpy_helper.from_array(np.array([base], np.float32), "base")
        model.graph.initializer[place].CopyFrom(wrong)

    changed(folder, rebase)
    reseal()
    assert refusal(folder).startswith("model.onnx does not score as the trees do that lie beside")


def test_converted_model_of_other_trees(folder: Path, reseal: Reseal) -> None:
    """It would load, decide by one model and explain by another."""
    whole = forest_of(folder)
    (folder / "model.onnx").write_bytes(to_onnx(whole.with_trees(whole.trees[:-1])))
    reseal()
    assert refusal(folder).startswith(
        ("model.onnx does not score as the trees", "model.onnx gives golden vector")
    )


def test_trees_of_another_model_beside_the_converted_one(folder: Path, reseal: Reseal) -> None:
    whole = forest_of(folder)
    other = whole.with_trees(whole.trees[:-3]).write()
    (folder / "model.ubj.gz").write_bytes(gzip.compress(other))
    reseal()
    assert refusal(folder).startswith("model.onnx does not score as the trees do that lie beside")


FLIPS = """
import pathlib, resource, sys
from fraudstream.converted import OnnxModel
from fraudstream.errors import BundleError
import numpy as np

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
onnx, ubj = (pathlib.Path(name).read_bytes() for name in sys.argv[1:])
rows = np.random.default_rng(2).random((20, 3), dtype=np.float32)
loaded = refused = 0
for place in range(len(onnx)):
    damaged = bytearray(onnx)
    damaged[place] ^= 1 << place % 8
    try:
        model = OnnxModel(bytes(damaged), ubj, ("a", "b", "c"))
    except BundleError:
        refused += 1
        continue
    model.score(rows)
    loaded += 1
print(loaded, refused)
"""


def test_no_flipped_bit_of_a_converted_model_crashes_the_process(tmp_path: Path) -> None:
    """Every byte of the file, one after the other."""
    rows = np.random.default_rng(2).random((300, 3), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > rows[:, 1], feature_names=["a", "b", "c"])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 2}, matrix, 2)
    ubj = bytes(booster.save_raw("ubj"))
    (tmp_path / "model.ubj").write_bytes(ubj)
    converted = to_onnx(Forest.read(ubj))
    (tmp_path / "model.onnx").write_bytes(converted)
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(tmp_path / "model.onnx"), str(tmp_path / "model.ubj")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    loaded, refused = map(int, done.stdout.split())
    assert loaded + refused == len(converted)
    assert refused > loaded > 0


# What belongs together


@pytest.mark.parametrize("kind", KINDS)
def test_missing_certificate(folder: Path) -> None:
    (folder / "certificate.json").unlink()
    assert refusal(folder) == "certificate.json is missing: copy the whole bundle again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest["files"].pop("certificate.json"), "does not list certificate."),
        (lambda manifest: manifest["files"].pop("model.onnx"), "does not list model.onnx"),
        (lambda manifest: manifest.update(variant=None), "lists files other than a bundle's ('ce"),
        (lambda manifest: manifest.update(engine="xgboost"), "lists files other than a bundle's"),
    ],
)
def test_files_that_do_not_belong_to_what_the_manifest_says(
    folder: Path, reseal: Reseal, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    reseal(change)
    assert refusal(folder).startswith(f"manifest.json {words}")


def test_both_a_packed_and_an_unpacked_model(folder: Path, reseal: Reseal) -> None:
    (folder / "model.ubj").write_bytes(forest_of(folder).write())
    reseal(
        lambda manifest: manifest["files"].update({"model.ubj": manifest["files"]["model.onnx"]})
    )
    assert refusal(folder).startswith("manifest.json lists files other than a bundle's")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda certificate: certificate.update(approved_by="me"), "approved_by"),
        (lambda certificate: certificate.pop("flips"), "flips"),
        (lambda certificate: certificate.update(average_precision=1.5), "average_precision"),
        (lambda certificate: certificate["latency_us"].pop("rows_16"), "latency_us.rows_16"),
        (lambda certificate: certificate.update(flips="none"), "flips"),
        (lambda certificate: certificate["evaluated_on"].pop("frauds"), "evaluated_on.frauds"),
    ],
)
def test_certificate_with_a_wrong_field(
    folder: Path, reseal: Reseal, change: Callable[[dict[str, Any]], None], place: str
) -> None:
    certificate = json.loads((folder / "certificate.json").read_text())
    change(certificate)
    (folder / "certificate.json").write_text(json.dumps(certificate))
    reseal()
    sentence = refusal(folder)
    assert sentence.startswith(f"certificate.json is wrong at {place} (")
    assert sentence.endswith("make the variant anew")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{"])
def test_certificate_that_is_no_object(folder: Path, reseal: Reseal, content: bytes) -> None:
    (folder / "certificate.json").write_bytes(content)
    reseal()
    assert refusal(folder).startswith("certificate.json is wrong at its top (")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda variant: variant.update(kind="magic"), "variant.kind"),
        (lambda variant: variant.update(of="the other one"), "variant.of"),
        (lambda variant: variant.update(made_by="me"), "variant.made_by"),
    ],
)
def test_variant_of_a_kind_that_there_is_not(
    folder: Path, reseal: Reseal, change: Callable[[dict[str, Any]], None], place: str
) -> None:
    reseal(lambda manifest: change(manifest["variant"]))
    assert refusal(folder).startswith(f"manifest.json is wrong at {place} (")


def test_made_with_another_onnx_runtime_a_little_off_is_let_through_and_more_is_not(
    folder: Path, reseal: Reseal
) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["scores"][3] += 5e-7
    (folder / "golden.json").write_text(json.dumps(golden))
    reseal()
    assert refusal(folder).startswith("model.onnx gives golden vector 3 the score ")
    reseal(lambda manifest: manifest.update(engine_version="1.0.0"))
    load_bundle(folder)
