"""Writing a model bundle: the same bytes for the same content, and nothing that would be refused.

No clock, sorted keys, no order that depends on chance: so a bundle's hash stands for what is in
it, and who trains the same again gets the same hash. (A certificate holds measured latencies: a
variant made again has another hash.)
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fraudstream.bundle import Bundle, hash_line, load_bundle, make_model, this_platform
from fraudstream.bundle_folder import (
    CARD,
    CERTIFICATE,
    FALLBACK,
    GOLDEN,
    MANIFEST,
    MANIFEST_HASH,
    MODEL,
    ONNX_MODEL,
    PACKED_MODEL,
)
from fraudstream.errors import BundleError
from fraudstream.manifest import LAYOUT_VERSION, CalibrationRecord, Certificate
from fraudstream.score import XGBOOST_VERSION


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """What `write_bundle` needs besides what it finds out by itself.

    Attributes
    ----------
    about
        The manifest's fields but for layout, files, engine, versions and the platform.
    model_ubj, fallback_ubj
        The models' bytes.
    golden_vectors
        Shape (n, features), float32: scored now, and at every load.
    card
        The text of the model card.
    onnx
        The same model for ONNX Runtime, which then computes the scores.
    is_packed
        Keep ``model_ubj`` packed, where size matters.
    certificate
        What a variant changed.
    """

    about: Mapping[str, Any]
    model_ubj: bytes
    fallback_ubj: bytes
    golden_vectors: NDArray[np.float32]
    card: str
    onnx: bytes | None = None
    is_packed: bool = False
    certificate: Certificate | None = None

    def model_files(self) -> dict[str, bytes]:
        """Give the files that the model is made of."""
        files = {MODEL: self.model_ubj}
        if self.is_packed:
            # Without a time in its header, so that equal models are equal bytes.
            files = {PACKED_MODEL: gzip.compress(self.model_ubj, compresslevel=9, mtime=0)}
        if self.onnx is not None:
            files[ONNX_MODEL] = self.onnx
        return files


def write_bundle(path: Path, draft: BundleDraft) -> Bundle:
    """Write a bundle in place of whatever is at `path`, then load it as a worker would.

    Returns
    -------
    bundle
        As `fraudstream.bundle.load_bundle` gives it.

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


def _contents(draft: BundleDraft) -> dict[str, bytes]:
    """Make all of a bundle's files."""
    names = [definition["name"] for definition in draft.about["features"]]
    fallback_names = list(draft.about["fallback_features"])
    vectors = draft.golden_vectors
    record = _CALIBRATION.validate_python(draft.about["calibration"])
    files = draft.model_files()
    model = make_model(files, names, None if record is None else record.function())
    fallback = make_model({MODEL: draft.fallback_ubj}, fallback_names)
    golden = {
        "vectors": [[None if np.isnan(x) else x for x in row] for row in vectors.tolist()],
        "scores": model.score(vectors).tolist(),
        "fallback_scores": fallback.score(
            vectors[:, [names.index(name) for name in fallback_names]]
        ).tolist(),
    }
    contents = files | {
        FALLBACK: draft.fallback_ubj,
        GOLDEN: _json(golden),
        CARD: draft.card.encode(),
    }
    if draft.certificate is not None:
        contents[CERTIFICATE] = _json(draft.certificate.model_dump())
    manifest = _json(
        {
            **draft.about,
            "layout": LAYOUT_VERSION,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
            "engine": "xgboost" if draft.onnx is None else "onnx",
            "engine_version": model.engine_version,
            "xgboost_version": XGBOOST_VERSION,
            "platform": this_platform().model_dump(),
        }
    )
    return {**contents, MANIFEST: manifest, MANIFEST_HASH: hash_line(manifest)}


_CALIBRATION: TypeAdapter[CalibrationRecord | None] = TypeAdapter(CalibrationRecord | None)


def _json(value: object) -> bytes:
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options)
