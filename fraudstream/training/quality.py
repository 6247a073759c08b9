"""How good scores are, in the figures that fraud teams and the literature use.

Area under the ROC curve and average precision say how scores rank payments. Card precision at k
is closer to the work: each day investigators look at the k cards that score highest, and a
card found to be defrauded is not looked at again.

Source: Fraud-Detection-Handbook (Le Borgne et al. 2022), chapter 4, "Performance metrics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    roc_auc_score,
)

from fraudstream.manifest import Quality
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors, require_both_kinds

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
    require_both_kinds(rows, "what is measured")
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
    return CardDays(rows).look(scores, cards_per_day).precision


@dataclass(frozen=True, slots=True, eq=False)
class CardWork:
    """What comes of looking at so many cards each day.

    Attributes
    ----------
    precision
        The mean over the days of found cards by cards that could be looked at.
    looked_at, found
        Cards, over all days. They are fewer than could be where fewer paid.
    is_detected
        Shape (n,), bool: payments on a card that is looked at on their day, or that was found on an
        earlier one and so is blocked.
    """

    precision: float
    looked_at: int
    found: int
    is_detected: NDArray[np.bool_]


class CardDays:
    """Payments day by day (UTC), as a team sees them that looks at the cards that score highest.

    Parameters
    ----------
    rows
        The n payments, in event-time order.
    returns_ms
        Days, rising, at whose beginning all cards that were found are back, as new cards.
    """

    def __init__(self, rows: LabelledVectors, returns_ms: Sequence[int] = ()) -> None:
        days = rows.event_time_ms // DAY_MS
        firsts = np.flatnonzero(np.diff(days, prepend=-1))
        periods = np.searchsorted(np.array(returns_ms, np.int64) // DAY_MS, days, side="right")
        self._card = number_cards(rows.card_id)
        self._is_fraud = rows.is_fraud
        self._days = list(zip(firsts, [*firsts[1:], len(rows)], strict=True))
        self._is_fresh = np.diff(periods[firsts], prepend=-1) != 0

    def look(self, scores: NDArray[np.float32], cards_per_day: int) -> CardWork:
        """Look each day at so many cards; what is found leaves.

        Of cards with equal scores the first by name is looked at first.

        Parameters
        ----------
        scores
            Shape (n,).
        cards_per_day
            How many cards are looked at.
        """
        card, is_fraud = self._card, self._is_fraud
        is_found = np.zeros(int(card.max(initial=-1)) + 1, dtype=np.bool_)
        is_detected = np.zeros(len(card), dtype=np.bool_)
        looked_at, found = 0, []
        for (first, end), is_fresh in zip(self._days, self._is_fresh, strict=True):
            if is_fresh:
                is_found[:] = False
            of_day = card[first:end]
            is_detected[first:end] = is_found[of_day]
            today = first + np.flatnonzero(~is_found[of_day])
            cards, place = np.unique(card[today], return_inverse=True)
            chosen = _highest(scores[today], place, len(cards))[:cards_per_day]
            is_detected[today[np.isin(place, chosen)]] = True
            is_defrauded = np.bincount(place, is_fraud[today], len(cards)) > 0
            is_found[cards[chosen[is_defrauded[chosen]]]] = True
            looked_at += len(chosen)
            found.append(int(is_defrauded[chosen].sum()))
        precision = float(np.mean(found)) / cards_per_day if found else 0.0
        return CardWork(precision, looked_at, sum(found), is_detected)


def number_cards(card_id: NDArray[np.object_]) -> NDArray[np.int64]:
    """Give each row its card's number, from 0 on in the order of the cards' names; shape (n,).

    Examples
    --------
    >>> number_cards(np.array(["b", "a", "b"], dtype=object))
    array([1, 0, 1])
    """
    # Some times faster than numpy's unique on Python strings.
    ranks = pl.Series(card_id.tolist(), dtype=pl.String).rank("dense")
    return ranks.to_numpy().astype(np.int64) - 1


def _highest(scores: NDArray[np.float32], place: NDArray[np.intp], cards: int) -> NDArray[np.intp]:
    """Give the cards' places, those with the highest score first."""
    highest = np.full(cards, -np.inf)
    np.maximum.at(highest, place, scores)
    return np.argsort(-highest, kind="stable")


def summarise(folds: Sequence[Quality]) -> tuple[Quality, Quality]:
    """Give the mean over folds, and the sample standard deviation between them (0 for one)."""
    columns = {name: [getattr(fold, name) for fold in folds] for name in Quality.model_fields}
    ddof = min(1, len(folds) - 1)
    return (
        Quality(**{name: _rounded(np.mean(values)) for name, values in columns.items()}),
        Quality(**{name: _rounded(np.std(values, ddof=ddof)) for name, values in columns.items()}),
    )


def _rounded(figure: float | np.floating) -> float:
    return round(float(figure), _DIGITS)
