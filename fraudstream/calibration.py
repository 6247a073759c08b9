"""Score → probability, where the bundle's manifest says so. Part of the fourth stage.

    raw score ─┬─ (no calibration) ─────────────▶ score: it ranks, and is no probability
               └─ Sigmoid or Isotonic ──────────▶ score: the share of frauds among such payments

A model that learnt from one fraud in a hundred payments gives scores that rank well and mean little
by themselves. A calibration is a rising function that is fitted on scores of payments that the
model has not seen. It changes what a score means, so a bundle records it, and thresholds that were
chosen without it mean something else with it.

Sources: Platt 1999 (sigmoid); Zadrozny and Elkan 2002 (isotonic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
#: Keeps the logit of a score of 0 or 1 finite; no float32 score lies nearer to an end.
_EDGE: Final = 1e-9
#: What lies beyond gives a float32 of 0 or 1 long before, and exp of more than 709 is no float64.
_LOG_ODDS_MAX: Final = 500.0


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """A straight line through the scores' log-odds.

    Parameters
    ----------
    slope, intercept
        The probability's log-odds are ``slope · logit(score) + intercept``; the slope is above 0,
        so that equal ranks stay equal and no pair changes places.
    """

    slope: float
    intercept: float

    def __call__(self, scores: Scores) -> Scores:
        """Turn raw scores, shape (n,), into probabilities.

        Examples
        --------
        >>> Sigmoid(1.0, 0.0)(np.array([0.25, 0.5], np.float32))
        array([0.25, 0.5 ], dtype=float32)
        """
        log_odds = self.slope * logit(scores) + self.intercept
        known = np.clip(log_odds, -_LOG_ODDS_MAX, _LOG_ODDS_MAX)
        return (1 / (1 + np.exp(-known))).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between points of a rising step function.

    Parameters
    ----------
    scores, probabilities
        k points, both rising. Below the first and above the last the ends' values stand.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Scores) -> Scores:
        """Turn raw scores, shape (n,), into probabilities.

        Examples
        --------
        >>> Isotonic((0.25, 0.75), (0.0, 0.5))(np.array([0.0, 0.5, 0.9], np.float32))
        array([0.  , 0.25, 0.5 ], dtype=float32)
        """
        found = np.interp(scores.astype(np.float64), self.scores, self.probabilities)
        return found.astype(np.float32)


Calibration: TypeAlias = Sigmoid | Isotonic


def logit(scores: Scores) -> NDArray[np.float64]:
    """Give the log-odds of scores, shape (n,), in float64.

    Examples
    --------
    >>> logit(np.array([0.5], np.float32))
    array([0.])
    """
    known = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.log(known / (1 - known))
