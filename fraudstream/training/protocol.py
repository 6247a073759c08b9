"""Prequential folds: always learnt on the past, judged on what came after the labels' delay.

    ── training ──────────┃─ label delay ─┃─ test ─┃
            ── training ──────────┃─ label delay ─┃─ test ─┃
                    ── training ──────────┃─ label delay ─┃─ test ─┃ end of the data

On a test day all payments of cards are left out on which a fraud is known by then: they would be
blocked, and finding them again is no merit. Known is a fraud that is a day older than the label
delay, and not older than the week before that delay began.

Source: Fraud-Detection-Handbook (Le Borgne et al. 2022), chapter 5, "Validation strategies", and
the `get_train_test_set` of its shared functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.errors import UsageError
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.quality import number_cards

#: How far before the label delay frauds make a card known on the first test day.
_KNOWN_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """How a stream is cut.

    Parameters
    ----------
    count
        How many folds, their test periods one after the other up to the end of the data.
    train_days
        How long a model learns.
    label_delay_days
        Between training and test: what happened there is not known yet when the model is made.
    test_days
        How long it is judged.
    """

    count: int = 4
    train_days: int = 56
    label_delay_days: int = 7
    test_days: int = 7


@dataclass(frozen=True, slots=True)
class Fold:
    """Where to learn and where to measure, epoch milliseconds, each ``[start, end)``."""

    train_ms: tuple[int, int]
    test_ms: tuple[int, int]


def cut_folds(start_ms: int, end_ms: int, plan: FoldPlan) -> tuple[Fold, ...]:
    """Cut a stream by time, in whole days (UTC), the latest fold last.

    A training period begins at the data's first day where there is not as much before it.

    Raises
    ------
    UsageError
        The stream is too short for it.

    Examples
    --------
    >>> folds = cut_folds(0, 40 * DAY_MS, FoldPlan(count=2, train_days=14))
    >>> [[day // DAY_MS for day in fold.train_ms + fold.test_ms] for fold in folds]
    [[5, 19, 26, 33], [12, 26, 33, 40]]
    """
    folds = []
    for number in reversed(range(plan.count)):
        test_end_ms = end_ms - number * plan.test_days * DAY_MS
        test_start_ms = test_end_ms - plan.test_days * DAY_MS
        train_end_ms = test_start_ms - plan.label_delay_days * DAY_MS
        train_start_ms = max(start_ms, train_end_ms - plan.train_days * DAY_MS)
        if train_start_ms >= train_end_ms:
            needed = plan.count * plan.test_days + plan.label_delay_days + 1
            raise UsageError(
                f"the stream covers {(end_ms - start_ms) // DAY_MS} days and at least {needed} "
                f"are needed ({plan.count} test periods of {plan.test_days} days, "
                f"{plan.label_delay_days} days of label delay, and something to learn from); the "
                "recipe's `folds` says how many"
            )
        folds.append(Fold((train_start_ms, train_end_ms), (test_start_ms, test_end_ms)))
    return tuple(folds)


def cut_training(start_ms: int, end_ms: int, plan: FoldPlan) -> tuple[int, int]:
    """Say what the model itself learns from: as long as a fold's, up to the end."""
    return max(start_ms, end_ms - plan.train_days * DAY_MS), end_ms


def judged_rows(rows: LabelledVectors, fold: Fold, label_delay_days: int) -> LabelledVectors:
    """Give a fold's test rows without the cards that are known to be compromised.

    Parameters
    ----------
    rows
        The whole stream: known frauds lie before the test period.
    fold
        Which period.
    label_delay_days
        How long a fraud stays unknown.
    """
    return rows.take(_judged(rows, fold.test_ms, label_delay_days))


def _judged(
    rows: LabelledVectors, test_ms: tuple[int, int], label_delay_days: int
) -> NDArray[np.int64]:
    days = rows.event_time_ms // DAY_MS
    first_day, end_day = (time_ms // DAY_MS for time_ms in test_ms)
    known_from = first_day - label_delay_days - _KNOWN_DAYS
    first, end = np.searchsorted(days, [known_from, end_day])
    cards = number_cards(rows.card_id[first:end])
    known_since = _first_fraud_days(days[first:end], cards, rows.is_fraud[first:end])
    days = days[first:end]
    is_judged = (days >= first_day) & (known_since[cards] > days - label_delay_days - 1)
    judged: NDArray[np.int64] = np.flatnonzero(is_judged) + first
    return judged


def _first_fraud_days(
    days: NDArray[np.int64], cards: NDArray[np.int64], is_fraud: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Give each card the day of its first fraud; the end of time where it has none."""
    never = np.iinfo(np.int64).max
    found = np.full(int(cards.max(initial=-1)) + 1, never, dtype=np.int64)
    np.minimum.at(found, cards[is_fraud], days[is_fraud])
    return found


def each_fold(
    rows: LabelledVectors, folds: tuple[Fold, ...], label_delay_days: int
) -> Iterator[tuple[LabelledVectors, LabelledVectors]]:
    """Give each fold's training rows and its test rows."""
    for fold in folds:
        yield rows.between(*fold.train_ms), judged_rows(rows, fold, label_delay_days)
