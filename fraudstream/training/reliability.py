"""What scores say besides their order: how they are spread, and whether they are probabilities.

A score is a probability where, of the payments that got about 0.3, about 30 % are frauds. That is
looked at in bins of equal width. Nearly all payments lie in the lowest, so the counts beside the
bins matter, and so does the share of frauds there.

Sources: Naeini et al. 2015 (expected calibration error); Brier 1950; Wilson 1927 (interval).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CALIBRATION_BINS: Final = 10
_DISTRIBUTION_BINS: Final = 20
#: Of the normal distribution, for an interval that covers 95 %.
_Z: Final = 1.959964


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """How many payments got a score in ``[score_from, score_until)``; the last bin has its end."""

    score_from: float
    score_until: float
    frauds: int
    genuine: int


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """What became of payments whose scores lie together; None where there are none.

    ``fraud_share_low`` and ``fraud_share_high`` are a 95 % interval (Wilson's), which knows only
    how few payments there are, and takes them for independent.
    """

    score_from: float
    score_until: float
    payments: int
    frauds: int
    score_mean: float | None
    fraud_share: float | None
    fraud_share_low: float | None
    fraud_share_high: float | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether scores are probabilities.

    Attributes
    ----------
    bins
        Ten of equal width.
    expected_calibration_error
        The mean over all payments of the distance between their bin's mean score and its share of
        frauds.
    brier_score
        The mean of (score − truth)², truth being 0 or 1.
    brier_score_of_constant
        The same if every payment got the share of frauds among all as its score: below it, scores
        say more than that.
    """

    bins: tuple[CalibrationBin, ...]
    expected_calibration_error: float
    brier_score: float
    brier_score_of_constant: float


def spread_of(scores: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> tuple[ScoreBin, ...]:
    """Count frauds and genuine payments by score, in bins of equal width."""
    edges, place = _bins(scores, _DISTRIBUTION_BINS)
    frauds = np.bincount(place[is_fraud], minlength=_DISTRIBUTION_BINS)
    genuine = np.bincount(place[~is_fraud], minlength=_DISTRIBUTION_BINS)
    return tuple(
        ScoreBin(low, high, int(fraud_count), int(genuine_count))
        for low, high, fraud_count, genuine_count in zip(
            edges, edges[1:], frauds, genuine, strict=False
        )
    )


def reliability_of(scores: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> Reliability:
    """Compare scores with what became of the payments.

    Parameters
    ----------
    scores, is_fraud
        Shape (n,), n at least 1.
    """
    edges, place = _bins(scores, _CALIBRATION_BINS)
    exact = scores.astype(np.float64)
    payments = np.bincount(place, minlength=_CALIBRATION_BINS)
    frauds = np.bincount(place, is_fraud, minlength=_CALIBRATION_BINS)
    sums = np.bincount(place, exact, minlength=_CALIBRATION_BINS)
    bins = tuple(
        _calibration_bin((edges[number], edges[number + 1]), int(count), int(frauds[number]), total)
        for number, (count, total) in enumerate(zip(payments, sums.tolist(), strict=True))
    )
    share = float(is_fraud.mean())
    return Reliability(
        bins,
        float(np.abs(sums - frauds).sum() / len(scores)),
        float(np.mean((exact - is_fraud) ** 2)),
        share * (1 - share),
    )


def _calibration_bin(
    bounds: tuple[float, float], payments: int, frauds: int, score_sum: float
) -> CalibrationBin:
    if not payments:
        return CalibrationBin(*bounds, 0, 0, None, None, None, None)
    low, high = _wilson(frauds, payments)
    return CalibrationBin(
        *bounds, payments, frauds, score_sum / payments, frauds / payments, low, high
    )


def _wilson(hits: int, count: int) -> tuple[float, float]:
    """Give the bounds of a share's 95 % interval.

    Examples
    --------
    >>> [round(bound, 3) for bound in _wilson(1, 10)]
    [0.018, 0.404]
    """
    share, weight = hits / count, _Z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * np.sqrt(share * (1 - share) / count + weight / (4 * count))
    # At 0 and at 1 a bound is the share itself, which rounding could miss.
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def _bins(scores: NDArray[np.float32], count: int) -> tuple[list[float], NDArray[np.intp]]:
    """Give the edges of equal bins, and each score's bin; an edge belongs to the bin above it."""
    edges = [number / count for number in range(count + 1)]
    # As float32, which scores are: one that is written 0.7 belongs above the edge 0.7.
    inner = np.array(edges[1:-1], np.float32)
    return edges, np.searchsorted(inner, scores, side="right")
