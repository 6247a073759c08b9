"""How much of a teacher's ranking another model loses, without a look at what was a fraud.

A payment counts as a fraud to the share that the teacher's score says. The average precision of a
ranking, in that expectation, is largest for the teacher's own; what is missing to it is the loss.
That takes no labels, so it can be measured on payments that the teacher learnt from without
flattering it, and it is steadier than the same figure from a few hundred frauds: on the reference
data it comes out alike, or up to a half larger, in days that were learnt from and in later ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import xgboost
from numpy.typing import NDArray

from fraudstream.training.optimize.forest import Forest

#: Of the loss that is allowed, as much may be spent where variants are chosen. The rest is for the
#: days that they are then judged on, which are other days.
_SPENT: Final = 1 / 2


class Allowance:
    """How much loss is allowed, and against what.

    Parameters
    ----------
    vectors
        Shape (n, columns), float32: the payments to rank.
    probability
        Shape (n,), float32: the teacher's scores of them.
    loss_max
        How much average precision a variant may lose.
    """

    def __init__(
        self, vectors: NDArray[np.float32], probability: NDArray[np.float32], loss_max: float
    ) -> None:
        self._vectors, self._probability = vectors, probability
        self._best = expected_average_precision(probability, probability)
        self._loss_max = _SPENT * loss_max

    def loss(self, forest: Forest) -> float:
        """Give the expected loss of a model."""
        # Straight into XGBoost: hundreds are tried, and all come from a model that was checked.
        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(forest.write()))
        scores = booster.inplace_predict(self._vectors, missing=np.nan)
        return self._best - expected_average_precision(scores, self._probability)

    def permits(self, forest: Forest) -> bool:
        """Say whether a model loses so little that it may be chosen."""
        return self.loss(forest) <= self._loss_max


def expected_average_precision(
    scores: NDArray[np.float32], probability: NDArray[np.float32]
) -> float:
    """Give the average precision of a ranking if each row is a fraud to some share.

    Parameters
    ----------
    scores
        Shape (n,): ranked by these.
    probability
        Shape (n,), in [0, 1]: the shares. With zeros and ones it is the usual average precision,
        but for ties, which keep their order.

    Examples
    --------
    >>> expected_average_precision(np.float32([0.9, 0.5, 0.1]), np.float32([1, 0, 1]))
    0.8333333333333333
    """
    shares = probability[np.argsort(-scores, kind="stable")].astype(np.float64)
    found = np.cumsum(shares)
    return float((shares * found / np.arange(1, len(shares) + 1)).sum() / found[-1])
