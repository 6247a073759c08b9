"""The model bundle: a frozen model in a folder, checked at the door.

    models/default/
        manifest.sha256   hash of manifest.json; as `sha256sum --check` reads it
        manifest.json     what the model is, which features it needs, hashes of all other files
        model.ubj         the model                 (XGBoost's UBJSON, never a pickle)
        fallback.ubj      the model for when no profile can be read
        golden.json       vectors, and the scores that both models must give them
        MODEL_CARD.md     for people

    and in a variant that was made smaller or faster (`fraudstream model optimize`)
        certificate.json  what that changed, measured
        model.onnx        the same trees for ONNX Runtime; model.ubj then serves for the reasons
        model.ubj.gz      in the place of model.ubj, where size matters

`load_bundle` trusts nothing: hashes before a byte is parsed, then the manifest's layout and
feature definitions against this code, then XGBoost's version, then the golden vectors through
both models. Anything off is a `BundleError`, one sentence that says what to do. A bundle is written
by `fraudstream.bundle_writing`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from fraudstream.bundle_folder import (
    CARD,
    CERTIFICATE,
    FALLBACK,
    FILE_BYTES_MAX,
    GOLDEN,
    MANIFEST,
    MANIFEST_HASH,
    MODEL,
    ONNX_MODEL,
    PACKED_MODEL,
    BundleFolder,
    open_folder,
)
from fraudstream.calibration import Calibration
from fraudstream.decision import ReasonMap
from fraudstream.errors import BundleError, FeatureSetError
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.features import Feature
from fraudstream.manifest import LAYOUT_VERSION, Certificate, Golden, Manifest, Platform
from fraudstream.score import XGBOOST_VERSION, Device, Model, require_device
from fraudstream.valkey_url import hide_password

#: How far scores may differ on another system or processor, where sums may round differently.
SCORE_TOLERANCE: Final = 1e-6

ModelT = TypeVar("ModelT", bound=Model)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check.

    Attributes
    ----------
    name, version, sha256
        Which model it is: ``sha256`` is the hash of the manifest and so of everything in it.
    manifest
        What is known of it.
    feature_set
        What is remembered of whom, and all features that can be made of it.
    features
        The columns of ``model``; those of ``fallback`` are among them.
    model, fallback
        The model, and the one for when no profile can be read.
    reasons
        What an alert calls each feature.
    golden_vectors
        Shape (n, features), float32: what it was checked with.
    certificate
        What a variant changed; None for a model as it was trained.
    """

    name: str
    version: str
    sha256: str
    manifest: Manifest
    feature_set: FeatureSet
    features: tuple[Feature, ...]
    model: Model
    fallback: Model
    reasons: ReasonMap
    golden_vectors: NDArray[np.float32]
    certificate: Certificate | None


def load_bundle(location: Path | str, device: Device = "cpu") -> Bundle:
    """Load a bundle, refusing whatever is not exactly as it was made.

    Parameters
    ----------
    location
        A folder, or an address such as ``s3://bucket/models/mine``.
    device
        Where XGBoost computes scores.

    Raises
    ------
    BundleError
        The folder is missing, damaged, or made for other code; says what to do about it.
    SettingsError
        There is no such device for this build of XGBoost.
    """
    require_device(device)
    try:
        return _load(open_folder(location), device)
    except BundleError as error:
        raise BundleError(f"model bundle {hide_password(str(location))}: {error}") from error


def hash_line(manifest: bytes) -> bytes:
    """Write the one line of ``manifest.sha256``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def make_model(
    contents: Mapping[str, bytes],
    columns: Sequence[str],
    calibration: Calibration | None = None,
    device: Device = "cpu",
) -> Model:
    """Make the model of a bundle's files; the engine is the one that there is a file for.

    Raises
    ------
    BundleError
        A file is no whole model of ours, or one for other columns.
    """
    name = PACKED_MODEL if PACKED_MODEL in contents else MODEL
    ubj = contents[name]
    if name == PACKED_MODEL:
        ubj = _unpack(ubj)
    if ONNX_MODEL not in contents:
        return _named(name, lambda: Model(ubj, columns, calibration, device))
    try:
        from fraudstream.converted import OnnxModel  # an extra: most bundles do without
    except ModuleNotFoundError:
        raise BundleError(
            f"{ONNX_MODEL} needs ONNX Runtime: pip install onnxruntime, or use the bundle that it "
            "was made from"
        ) from None
    _named(name, lambda: Model(ubj, columns))
    return _named(ONNX_MODEL, lambda: OnnxModel(contents[ONNX_MODEL], ubj, columns, calibration))


def this_platform() -> Platform:
    """Say on what kind of machine this runs."""
    return Platform(system=platform.system(), machine=platform.machine())


def _load(folder: BundleFolder, device: Device) -> Bundle:
    manifest_bytes = folder.read(MANIFEST)
    if folder.read(MANIFEST_HASH) != hash_line(manifest_bytes):
        raise _changed(MANIFEST)
    manifest = _parse_manifest(manifest_bytes)
    contents = _read_hashed(folder, manifest)
    feature_set = _check_feature_set(manifest)
    features = _check_features(manifest, feature_set)
    _check_xgboost(manifest.xgboost_version)
    record = manifest.calibration
    model = make_model(
        contents,
        [feature.name for feature in features],
        None if record is None else record.function(),
        device,
    )
    fallback = _named(FALLBACK, lambda: Model(contents[FALLBACK], manifest.fallback_features))
    golden = _parse_golden(contents[GOLDEN], len(features))
    bundle = Bundle(
        name=manifest.name,
        version=manifest.version,
        sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        manifest=manifest,
        feature_set=feature_set,
        features=features,
        model=model,
        fallback=fallback,
        reasons={name: (reason.code, reason.text) for name, reason in manifest.reasons.items()},
        golden_vectors=np.array(golden.vectors, dtype=np.float32),
        certificate=_parse_certificate(contents),
    )
    _check_golden(bundle, golden)
    return bundle


def _changed(name: str) -> BundleError:
    return BundleError(
        f"{name} is not the file that the bundle was made with (its hash is another): copy the "
        "bundle again, or train it anew"
    )


def _parse_manifest(manifest_bytes: bytes) -> Manifest:
    try:
        fields = orjson.loads(manifest_bytes)
    except orjson.JSONDecodeError:
        raise BundleError(f"{MANIFEST} is no JSON: train the bundle anew") from None
    layout = fields.get("layout") if isinstance(fields, dict) else None
    if type(layout) is int and layout > LAYOUT_VERSION:
        raise BundleError(
            f"its layout is version {layout}, and this fraudstream reads version "
            f"{LAYOUT_VERSION}: install a newer fraudstream, or train the bundle anew"
        )
    if type(layout) is int and 0 < layout < LAYOUT_VERSION:
        raise BundleError(
            f"its layout is version {layout}, of an earlier fraudstream, and this one reads "
            f"version {LAYOUT_VERSION}: train the bundle anew"
        )
    try:
        manifest = Manifest.model_validate_json(manifest_bytes)
    except ValidationError as error:
        raise BundleError(f"{_first_fault(MANIFEST, error)}: train the bundle anew") from None
    if manifest.layout != LAYOUT_VERSION:
        raise BundleError(f"there is no layout version {layout}: train the bundle anew")
    return manifest


def _first_fault(name: str, error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "its top"
    return f"{name} is wrong at {place} ({fault['msg']})"


def _read_hashed(folder: BundleFolder, manifest: Manifest) -> dict[str, bytes]:
    """Read the files that the manifest lists, which must be the ones that such a bundle has."""
    hashes = manifest.files
    needed = {FALLBACK, GOLDEN, CARD, PACKED_MODEL if PACKED_MODEL in hashes else MODEL}
    needed |= {ONNX_MODEL} if manifest.engine == "onnx" else set()
    needed |= {CERTIFICATE} if manifest.variant is not None else set()
    if odd := sorted(set(hashes) - needed):
        raise BundleError(
            f"{MANIFEST} lists files other than a bundle's ({odd[0]!r}): train the bundle anew"
        )
    if lacking := sorted(needed - set(hashes)):
        raise BundleError(
            f"{MANIFEST} does not list {lacking[0]}, which such a bundle has: train the bundle anew"
        )
    contents = {name: folder.read(name) for name in sorted(hashes)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != hashes[name]:
            raise _changed(name)
    return contents


def _check_feature_set(manifest: Manifest) -> FeatureSet:
    try:
        feature_set = parse_feature_set(manifest.feature_set)
    except FeatureSetError as error:
        raise BundleError(f"its feature set is wrong ({error}): train the bundle anew") from None
    if feature_set.sha256 != manifest.feature_set_sha256:
        raise BundleError("its feature set is not the one of its hash: train the bundle anew")
    return feature_set


def _check_features(manifest: Manifest, feature_set: FeatureSet) -> tuple[Feature, ...]:
    """Compare what the model was trained on with what this code would compute."""
    try:
        features = feature_set.select([str(d.get("name")) for d in manifest.features])
    except FeatureSetError as error:
        raise BundleError(f"{error}: train the bundle anew") from None
    for feature, definition in zip(features, manifest.features, strict=True):
        if feature.definition() != definition:
            raise BundleError(
                f"feature {feature.name!r} means something else in this fraudstream: train the "
                "bundle anew, or install the version that it was trained with"
            )
    stateless = {feature.name for feature in features if feature.is_stateless}
    if odd := [name for name in manifest.fallback_features if name not in stateless]:
        raise BundleError(
            f"the fallback model uses {odd[0]!r}, which is none of the model's features that need "
            "no profile: train the bundle anew"
        )
    if odd := sorted({f.name for f in features}.symmetric_difference(manifest.reasons)):
        raise BundleError(
            f"its reasons and its features do not belong together ({odd[0]!r}): train the bundle "
            "anew"
        )
    return features


def _check_xgboost(version: str) -> None:
    # A model may load silently in another version and score otherwise, so ask before loading it.
    if _minor(version) != _minor(XGBOOST_VERSION):
        raise BundleError(
            f"it was made with xgboost {version} and this is xgboost {XGBOOST_VERSION}: install "
            f"xgboost {_minor(version)}.*, or train the bundle anew"
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _unpack(packed: bytes) -> bytes:
    """Unpack a model within the bound of a file; what is packed may be anything."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            ubj = stream.read(FILE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error):
        raise BundleError(f"{PACKED_MODEL} cannot be unpacked: train the bundle anew") from None
    if len(ubj) > FILE_BYTES_MAX:
        raise BundleError(f"{PACKED_MODEL} is far too large for a model: copy the bundle again")
    return ubj


def _named(name: str, make: Callable[[], ModelT]) -> ModelT:
    try:
        return make()
    except BundleError as error:
        raise BundleError(f"{name} {error}: train the bundle anew") from error


def _parse_golden(golden_bytes: bytes, columns: int) -> Golden:
    try:
        golden = Golden.model_validate_json(golden_bytes)
    except ValidationError as error:
        raise BundleError(f"{_first_fault(GOLDEN, error)}: train the bundle anew") from None
    if any(len(row) != columns for row in golden.vectors) or any(
        len(scores) != len(golden.vectors) for scores in (golden.scores, golden.fallback_scores)
    ):
        raise BundleError(f"{GOLDEN} has rows of the wrong length: train the bundle anew")
    return golden


def _parse_certificate(contents: Mapping[str, bytes]) -> Certificate | None:
    if CERTIFICATE not in contents:
        return None
    try:
        return Certificate.model_validate_json(contents[CERTIFICATE])
    except ValidationError as error:
        raise BundleError(f"{_first_fault(CERTIFICATE, error)}: make the variant anew") from None


def _check_golden(bundle: Bundle, golden: Golden) -> None:
    manifest, tolerance = bundle.manifest, _tolerance(bundle)
    vectors = bundle.golden_vectors
    columns = [bundle.model.columns.index(name) for name in bundle.fallback.columns]
    for name, scores, promised in (
        (_scoring_file(manifest), bundle.model.score(vectors), golden.scores),
        (FALLBACK, bundle.fallback.score(vectors[:, columns]), golden.fallback_scores),
    ):
        _compare(name, scores, np.array(promised, np.float32), tolerance)


def _scoring_file(manifest: Manifest) -> str:
    return next(name for name in (ONNX_MODEL, PACKED_MODEL, MODEL) if name in manifest.files)


def _tolerance(bundle: Bundle) -> float:
    manifest = bundle.manifest
    is_same = (
        manifest.platform == this_platform()
        and manifest.xgboost_version == XGBOOST_VERSION
        and manifest.engine_version == bundle.model.engine_version
        and bundle.model.device == "cpu"
    )
    return 0.0 if is_same else SCORE_TOLERANCE


def _compare(
    name: str, scores: NDArray[np.float32], promised: NDArray[np.float32], tolerance: float
) -> None:
    apart = np.abs(scores.astype(np.float64) - promised)
    # Written so that a NaN, which is never within a tolerance, is found too.
    if (wrong := np.flatnonzero(~(apart <= tolerance))).size:
        row = int(wrong[0])
        raise BundleError(
            f"{name} gives golden vector {row} the score {scores[row]} instead of {promised[row]}:"
            " do not use it here; train the bundle anew on this kind of machine"
        )
