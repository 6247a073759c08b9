"""How good scores are, in the figures that fraud teams and the literature use.

Area under the ROC curve and average precision say how scores rank payments. Card precision at k
is closer to the work: each day investigators look at the k cards that score highest, and a
card found to be defrauded is not looked at again.

Source: Fraud-Detection-Handbook (Le Borgne et al. 2022), chapter 4, "Performance metrics".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    roc_auc_score,
)

from fraudstream.errors import UsageError
from fraudstream.manifest import Quality
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors

#: How many cards a team can look at in a day, by the literature's convention.
CARDS_PER_DAY: Final = 100
_DIGITS: Final = 4


def measure(scores: NDArray[np.float32], rows: LabelledVectors) -> Quality:
    """Measure scores against the truth.

    Parameters
    ----------
    scores
        Shape (n,).
    rows
        The n rows that were scored.

    Raises
    ------
    UsageError
        Only frauds, or none at all: there is nothing to tell apart.
    """
    if rows.is_fraud.all() or not rows.is_fraud.any():
        raise UsageError("the validation period needs both frauds and genuine payments")
    return Quality(
        auc=_rounded(roc_auc_score(rows.is_fraud, scores)),
        average_precision=_rounded(average_precision_score(rows.is_fraud, scores)),
        card_precision_100=_rounded(card_precision(scores, rows)),
        card_precision_100_best=_rounded(card_precision(rows.is_fraud.astype(np.float32), rows)),
    )


def card_precision(
    scores: NDArray[np.float32], rows: LabelledVectors, cards_per_day: int = CARDS_PER_DAY
) -> float:
    """Give the mean over the days of the share of frauds among the cards ranked highest.

    A card's rank on a day is that of its highest score. Cards found on earlier days have left.

    Parameters
    ----------
    scores
        Shape (n,).
    rows
        The n rows that were scored.
    cards_per_day
        How many cards are looked at each day (UTC).
    """
    cards, card = np.unique(rows.card_id, return_inverse=True)
    days = rows.event_time_ms // DAY_MS
    is_found = np.zeros(len(cards), dtype=np.bool_)
    shares = []
    for day in np.unique(days):
        is_today = (days == day) & ~is_found[card]
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, card[is_today], scores[is_today])
        is_defrauded = np.zeros(len(cards), dtype=np.bool_)
        is_defrauded[card[is_today & rows.is_fraud]] = True
        looked_at = np.argsort(-highest, kind="stable")[:cards_per_day]
        found = looked_at[is_defrauded[looked_at]]
        is_found[found] = True
        shares.append(len(found) / cards_per_day)
    return float(np.mean(shares))


def _rounded(figure: float) -> float:
    return round(float(figure), _DIGITS)
