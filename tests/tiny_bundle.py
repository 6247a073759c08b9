"""Small bundles for tests: two models of a few trees, and a manifest that fits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from feature_names import DEFAULT
from numpy.typing import NDArray

from fraudstream.bundle_writing import BundleDraft
from fraudstream.manifest import Certificate

NAMES = ("amount", "card_tx_count_1d", "is_night")
FALLBACK_NAMES = ("is_night", "amount")
GOLDEN = np.array([[0.1, 0.2, 0.3], [np.nan, 1, 0], [np.nan] * 3], np.float32)
PERIOD = {"start": "2026-01-01", "end": "2026-01-08", "transactions": 300, "frauds": 3}
LATENCIES = {"rows_1": 20.0, "rows_16": 25.0, "rows_128": 90.0, "rows_1024": 600.0}
CERTIFICATE = Certificate.model_validate(
    {
        "evaluated_on": PERIOD,
        "is_of_training": False,
        "rows_on_splits": 10,
        "score_difference_max": 0.0,
        "score_difference_max_on_splits": 0.0,
        "thresholds": (0.3, 0.8),
        "flips": 0,
        "flips_beyond_difference": 0,
        "flipped_transactions": (),
        "average_precision": 0.7,
        "average_precision_before": 0.7,
        "card_precision_100": 0.2,
        "card_precision_100_before": 0.2,
        "model_bytes": 10,
        "model_bytes_before": 20,
        "latency_us": LATENCIES,
        "latency_us_before": LATENCIES,
        "machine": "made up",
    }
)
VARIANT = {"kind": "pruned", "of": "a" * 64, "parameters": {"rounds": 5}}


def booster_ubj(names: tuple[str, ...], rounds: int) -> bytes:
    rng = np.random.default_rng(5)
    rows = rng.random((300, len(names)), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows.sum(axis=1) > 1, feature_names=list(names), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "base_score": 0.5}
    return bytes(xgboost.train(parameters, matrix, rounds).save_raw("ubj"))


def about(name: str, **changes: object) -> dict[str, Any]:
    """Make a manifest's fields."""
    quality = {
        "auc": 0.9,
        "average_precision": 0.7,
        "card_precision_100": 0.2,
        "card_precision_100_best": 0.3,
    }
    fold = {"train": PERIOD, "test": PERIOD, "quality": quality, "fallback_quality": quality}
    features = DEFAULT.select(NAMES)
    return {
        "name": name,
        "version": "7",
        "feature_set": DEFAULT.document,
        "feature_set_sha256": DEFAULT.sha256,
        "features": [feature.definition() for feature in features],
        "fallback_features": list(FALLBACK_NAMES),
        "reasons": {f.name: {"code": f.reason_code, "text": f.meaning} for f in features},
        "training": {
            "data": "made up",
            "data_sha256": "0" * 64,
            "train": PERIOD,
            "folds": [fold],
            "label_delay_days": 7,
            "forgotten_share": 0.0,
            "seed": 1,
            "parameters": {"max_depth": 3},
            "rounds": 5,
            "fallback_rounds": 3,
            "candidates": 1,
        },
        "label_maturity": "complete",
        "quality": quality,
        "quality_deviation": dict.fromkeys(quality, 0.0),
        "fallback_quality": quality,
        "calibration": None,
        "variant": None,
    } | changes


def draft_of(
    name: str, golden_vectors: NDArray[np.float32] = GOLDEN, **changes: object
) -> BundleDraft:
    """Make what `write_bundle` needs."""
    return BundleDraft(
        about(name, **changes),
        booster_ubj(NAMES, 5),
        booster_ubj(FALLBACK_NAMES, 3),
        golden_vectors,
        "# A model\n",
    )
