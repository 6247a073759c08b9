"""The model bundle: a frozen model in a folder, checked at the door.

    models/default/
        manifest.sha256   hash of manifest.json; as `sha256sum --check` reads it
        manifest.json     what the model is, which features it needs, hashes of all other files
        model.ubj         the model                 (XGBoost's UBJSON, never a pickle)
        fallback.ubj      the model for when no profile can be read
        golden.json       vectors, and the scores that both models must give them
        MODEL_CARD.md     for people

`load_bundle` trusts nothing: hashes before a byte is parsed, then the manifest's layout and
feature definitions against this code, then XGBoost's version, then the golden vectors through
both models. Anything off is a `BundleError`, one sentence that says what to do. `write_bundle`
writes the same bytes for the same content: no clock, sorted keys.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from fraudstream.errors import BundleError, FeatureSetError
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.features import Feature
from fraudstream.manifest import LAYOUT_VERSION, Golden, Manifest, Platform
from fraudstream.score import XGBOOST_VERSION, Model

#: How far scores may differ on another system or processor, where sums may round differently.
SCORE_TOLERANCE: Final = 1e-6
#: A file above this is no bundle's: the largest model worth serving is a few MB.
FILE_BYTES_MAX: Final = 256 * 1024 * 1024

MANIFEST: Final = "manifest.json"
MANIFEST_HASH: Final = "manifest.sha256"
MODEL: Final = "model.ubj"
FALLBACK: Final = "fallback.ubj"
GOLDEN: Final = "golden.json"
CARD: Final = "MODEL_CARD.md"
#: The files whose hashes the manifest holds.
_HASHED_FILES: Final = frozenset({MODEL, FALLBACK, GOLDEN, CARD})


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
    """

    name: str
    version: str
    sha256: str
    manifest: Manifest
    feature_set: FeatureSet
    features: tuple[Feature, ...]
    model: Model
    fallback: Model


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """What `write_bundle` needs besides what it finds out by itself.

    Attributes
    ----------
    about
        The manifest's fields but for layout, files, XGBoost's version and the platform.
    model_ubj, fallback_ubj
        The models' bytes.
    golden_vectors
        Shape (n, features), float32: scored now, and at every load.
    card
        The text of the model card.
    """

    about: Mapping[str, Any]
    model_ubj: bytes
    fallback_ubj: bytes
    golden_vectors: NDArray[np.float32]
    card: str


def load_bundle(path: Path) -> Bundle:
    """Load a bundle, refusing whatever is not exactly as it was made.

    Raises
    ------
    BundleError
        The folder is missing, damaged, or made for other code; says what to do about it.
    """
    try:
        return _load(path)
    except BundleError as error:
        raise BundleError(f"model bundle {path}: {error}") from error


def write_bundle(path: Path, draft: BundleDraft) -> Bundle:
    """Write a bundle in place of whatever is at `path`, then load it as a worker would.

    Returns
    -------
    bundle
        As `load_bundle` gives it.

    Raises
    ------
    BundleError
        What was written would be refused, or `path` holds something that is no bundle; it is as
        it was before.
    """
    path = path.resolve()
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} holds no bundle that could be replaced: give another place")
    fresh = path.with_name(f".{path.name}.new")
    contents = _contents(draft)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name, content in contents.items():
            (fresh / name).write_bytes(content)
        load_bundle(fresh)
        if path.exists():
            shutil.rmtree(path)
        fresh.rename(path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror}): look at its rights"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return load_bundle(path)


def hash_line(manifest: bytes) -> bytes:
    """Write the one line of ``manifest.sha256``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _load(path: Path) -> Bundle:
    if path.is_file():
        raise BundleError(
            "this is a file, and a bundle is a folder: give the one that holds manifest.json"
        )
    if not path.is_dir():
        raise BundleError(
            "there is no such folder: give the one that holds manifest.json, or make one with "
            "`fraudstream train`"
        )
    manifest_bytes = _read(path, MANIFEST)
    if _read(path, MANIFEST_HASH) != hash_line(manifest_bytes):
        raise _changed(MANIFEST)
    manifest = _parse_manifest(manifest_bytes)
    contents = _read_hashed(path, manifest.files)
    feature_set = _check_feature_set(manifest)
    features = _check_features(manifest, feature_set)
    _check_xgboost(manifest.xgboost_version)
    bundle = Bundle(
        name=manifest.name,
        version=manifest.version,
        sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        manifest=manifest,
        feature_set=feature_set,
        features=features,
        model=_model(MODEL, contents[MODEL], [feature.name for feature in features]),
        fallback=_model(FALLBACK, contents[FALLBACK], manifest.fallback_features),
    )
    _check_golden(bundle, contents[GOLDEN])
    return bundle


def _read(path: Path, name: str) -> bytes:
    """Read one of the folder's own files: not one elsewhere that a link leads to."""
    file = path / name
    if file.is_symlink():
        raise BundleError(f"{name} is a symbolic link: put the file itself there")
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise BundleError(f"{name} is far too large for a model: copy the bundle again")
        return file.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{name} is missing: copy the whole bundle again") from None
    except OSError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror}): look at its rights") from None


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


def _read_hashed(path: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Read the files that the manifest lists, which must be the ones that a bundle has."""
    if odd := sorted(_HASHED_FILES.symmetric_difference(hashes)):
        raise BundleError(
            f"{MANIFEST} lists files other than a bundle's ({odd[0]!r}): train the bundle anew"
        )
    contents = {name: _read(path, name) for name in sorted(hashes)}
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


def _model(name: str, ubj: bytes, columns: Sequence[str]) -> Model:
    try:
        return Model(ubj, columns)
    except BundleError as error:
        raise BundleError(f"{name} {error}: train the bundle anew") from error


def _check_golden(bundle: Bundle, golden_bytes: bytes) -> None:
    try:
        golden = Golden.model_validate_json(golden_bytes)
    except ValidationError as error:
        raise BundleError(f"{_first_fault(GOLDEN, error)}: train the bundle anew") from None
    columns = len(bundle.features)
    expected = (golden.scores, golden.fallback_scores)
    if any(len(row) != columns for row in golden.vectors) or any(
        len(scores) != len(golden.vectors) for scores in expected
    ):
        raise BundleError(f"{GOLDEN} has rows of the wrong length: train the bundle anew")
    vectors = np.array(golden.vectors, dtype=np.float32)
    pairs = zip((MODEL, FALLBACK), _scores(bundle, vectors), expected, strict=True)
    for name, scores, promised in pairs:
        _compare(name, scores, np.array(promised, np.float32), _tolerance(bundle.manifest))


def _scores(bundle: Bundle, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    names = bundle.model.columns
    columns = [names.index(name) for name in bundle.fallback.columns]
    return bundle.model.score(vectors), bundle.fallback.score(vectors[:, columns])


def _tolerance(manifest: Manifest) -> float:
    is_same = manifest.platform == _platform() and manifest.xgboost_version == XGBOOST_VERSION
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


def _platform() -> Platform:
    return Platform(system=platform.system(), machine=platform.machine())


def _contents(draft: BundleDraft) -> dict[str, bytes]:
    """Make all of a bundle's files."""
    names = [definition["name"] for definition in draft.about["features"]]
    fallback_names = list(draft.about["fallback_features"])
    vectors = draft.golden_vectors
    fallback_columns = [names.index(name) for name in fallback_names]
    golden = {
        "vectors": [[None if np.isnan(x) else x for x in row] for row in vectors.tolist()],
        "scores": _model(MODEL, draft.model_ubj, names).score(vectors).tolist(),
        "fallback_scores": _model(FALLBACK, draft.fallback_ubj, fallback_names)
        .score(vectors[:, fallback_columns])
        .tolist(),
    }
    contents = {
        MODEL: draft.model_ubj,
        FALLBACK: draft.fallback_ubj,
        GOLDEN: _json(golden),
        CARD: draft.card.encode(),
    }
    manifest = _json(
        {
            **draft.about,
            "layout": LAYOUT_VERSION,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
            "xgboost_version": XGBOOST_VERSION,
            "platform": _platform().model_dump(),
        }
    )
    return {**contents, MANIFEST: manifest, MANIFEST_HASH: hash_line(manifest)}


def _json(value: object) -> bytes:
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options)
