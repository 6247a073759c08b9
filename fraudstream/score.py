"""Feature vectors → scores, and what each feature contributed. Fourth stage of the data's way.

    float32[n, columns] ─┬─ Model.score ─────────▶ float32[n]            in [0, 1]
                         └─ Model.contributions ─▶ float32[n, columns]   log-odds, for reasons

The score is not the decision: `fraudstream.decision` makes one of it. Nor is it a probability,
unless the bundle brings a calibration (`fraudstream.calibration`).

Pure: a model comes in as bytes and scores with one thread, so that the same vector gets the same
score in any batch, bit for bit. XGBoost's library is called directly (`fraudstream.xgboost_c`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fraudstream import xgboost_c
from fraudstream.calibration import Calibration
from fraudstream.errors import BundleError, SettingsError
from fraudstream.ubj import UbjError, check_model

#: A model scores the same only in the version that it was made with.
XGBOOST_VERSION: str = xgboost_c.version()
#: Where trees are walked through, or grown.
Device = Literal["cpu", "cuda"]


def require_device(device: Device) -> None:
    """Refuse a GPU that this XGBoost cannot use: it would go on with the CPU and only log it.

    Raises
    ------
    SettingsError
        This build of XGBoost has no CUDA.
    """
    if device == "cuda" and not xgboost_c.has_cuda():
        raise SettingsError(
            "device: cuda needs the full xgboost, and this is the build for CPUs: pip uninstall "
            f"xgboost-cpu, pip install 'xgboost=={XGBOOST_VERSION}', or write device: cpu"
        )


class Model:
    """A frozen model: trees that turn a feature vector into a score.

    Parameters
    ----------
    ubj
        The bytes of a model file in XGBoost's UBJSON format.
    columns
        The features the model must have been trained on, in this order.
    calibration
        What makes a probability of a raw score; None leaves it as it is.
    device
        Where scores are computed; `require_device` says whether that can be.

    Raises
    ------
    BundleError
        The bytes are no whole model of ours, or one for other columns. The sentence begins with
        what is wrong, for the caller to put the file's name before.
    """

    #: The version of what computes the scores, where that is not XGBoost.
    engine_version: str | None = None

    def __init__(
        self,
        ubj: bytes,
        columns: Sequence[str],
        calibration: Calibration | None = None,
        device: Device = "cpu",
    ) -> None:
        try:
            trained_on = check_model(ubj)
        except UbjError as error:
            raise BundleError(f"is no whole model file: {error}") from error
        if trained_on != tuple(columns):
            raise BundleError("was trained on other features, or in another order")
        self.columns = trained_on
        self._calibration = calibration
        self.device = device
        # One thread: more are slower for small batches, and jump to 65-90 ms now and then.
        parameters = {"nthread": "1", "device": device}
        try:
            self._booster = xgboost_c.Booster(ubj, parameters)
        except xgboost_c.XGBoostError as error:
            raise BundleError("is refused by XGBoost") from error

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score feature vectors.

        Parameters
        ----------
        vectors
            Shape (n, columns), float32, in the order of `columns`. NaN is "not known".

        Returns
        -------
        scores
            Shape (n,), float32 in [0, 1]: higher is more like fraud. Not a probability unless
            the bundle's manifest says that it is calibrated.
        """
        rows = self._rows(vectors)
        if not len(rows):
            return np.empty(0, np.float32)
        scores = self._raw(rows)
        return scores if self._calibration is None else self._calibration(scores)

    def contributions(
        self, vectors: NDArray[np.float32], *, is_approximate: bool = False
    ) -> NDArray[np.float32]:
        """Say how much each feature moved the raw score.

        Exact Shapley values of the trees (Lundberg et al. 2020) cost about 1 ms a row: for alerts,
        not for every event. Approximate ones (Saabas 2014: what each split on a row's way changed)
        cost some hundredth of it; they add up just as well, and now and then rank otherwise.

        Parameters
        ----------
        vectors
            As for `score`.
        is_approximate
            Give approximate ones.

        Returns
        -------
        contributions
            Shape (n, columns), float32, in log-odds: a row's sum plus `bias` is the logit of its
            raw score, before any calibration.
        """
        rows = self._rows(vectors)
        if not len(rows):
            return np.empty_like(rows)
        return self._contributions_and_bias(rows, is_approximate=is_approximate)[:, :-1]

    @cached_property
    def bias(self) -> float:
        """The log-odds before any feature is looked at; the same for every row."""
        unknown = np.full((1, len(self.columns)), np.nan, np.float32)
        return float(self._contributions_and_bias(unknown, is_approximate=False)[0, -1])

    def _raw(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._booster.predict(rows)

    def _contributions_and_bias(
        self, rows: NDArray[np.float32], *, is_approximate: bool
    ) -> NDArray[np.float32]:
        return self._booster.contributions(rows, is_approximate=is_approximate)

    def _rows(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.dtype != np.float32 or vectors.shape[1:] != (len(self.columns),):
            msg = f"expected float32 of shape (n, {len(self.columns)})"
            raise ValueError(msg)
        rows = np.ascontiguousarray(vectors)
        return rows if rows.flags.aligned else rows.copy()
