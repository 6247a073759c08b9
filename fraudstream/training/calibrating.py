"""Fitting a calibration on scores of payments that the model has not seen.

Sources: Platt 1999 (sigmoid); Zadrozny and Elkan 2002 (isotonic).
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from fraudstream.calibration import logit
from fraudstream.errors import UsageError
from fraudstream.manifest import CalibrationRecord, IsotonicCalibration, SigmoidCalibration

#: Below it a step function follows single frauds.
_ISOTONIC_FRAUDS_MIN: Final = 200


def fit_calibration(
    method: Literal["sigmoid", "isotonic"],
    scores: NDArray[np.float32],
    is_fraud: NDArray[np.bool_],
    fitted_on: str,
) -> CalibrationRecord:
    """Fit a rising function from raw scores to the share of frauds.

    Parameters
    ----------
    method
        ``sigmoid`` has two numbers and needs few frauds; ``isotonic`` takes any rising form.
    scores, is_fraud
        Shape (n,): raw scores, of payments that the model did not learn from, and the truth.
    fitted_on
        Where they come from, in words for the manifest.

    Raises
    ------
    UsageError
        There are too few frauds for a step function, or scores that do not rank at all.
    """
    if method == "isotonic":
        if is_fraud.sum() < _ISOTONIC_FRAUDS_MIN:
            raise UsageError(
                f"an isotonic calibration needs {_ISOTONIC_FRAUDS_MIN} frauds in the folds' test "
                f"periods, and there are {is_fraud.sum()}: use sigmoid, or more data"
            )
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, is_fraud)
        return IsotonicCalibration(
            method="isotonic",
            fitted_on=fitted_on,
            scores=tuple(float(x) for x in fitted.X_thresholds_),
            probabilities=tuple(float(y) for y in fitted.y_thresholds_),
        )
    # Without a penalty, which would pull towards a score that means nothing.
    line = LogisticRegression(C=np.inf).fit(logit(scores)[:, None], is_fraud)
    slope = float(line.coef_[0, 0])
    if slope <= 0:
        raise UsageError("the scores rank frauds no better than chance: there is no calibration")
    return SigmoidCalibration(
        method="sigmoid",
        fitted_on=fitted_on,
        slope=slope,
        intercept=float(line.intercept_[0]),
    )
