"""Figures by hand, and against a slow count of the same words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import made_rows

from fraudstream.errors import UsageError
from fraudstream.manifest import Quality
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.quality import card_precision, measure, summarise


def rows_of(is_fraud: list[bool], time_ms: list[int], cards: list[str]) -> LabelledVectors:
    return made_rows(
        np.zeros((len(is_fraud), 1), np.float32),
        np.array(is_fraud, dtype=np.bool_),
        np.array(time_ms, dtype=np.int64),
        cards,
    )


def test_card_precision_by_hand() -> None:
    """Two cards a day are looked at. b and c are found on the first day and leave."""
    rows = rows_of(
        [False, True, True, False, True, True, False],
        [0, 1, 2, 3, DAY_MS, DAY_MS + 1, DAY_MS + 2],
        ["a", "b", "c", "b", "b", "d", "a"],
    )
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.9, 0.5, 0.1], np.float32)
    assert card_precision(scores, rows, cards_per_day=2) == (2 / 2 + 1 / 2) / 2


def test_a_ranking_without_a_mistake_is_the_best_possible() -> None:
    is_fraud = [number % 2 == 0 for number in range(40)]
    rows = rows_of(is_fraud, list(range(40)), [f"c{number}" for number in range(40)])
    quality = measure(rows.is_fraud.astype(np.float32), rows)
    assert quality.auc == quality.average_precision == 1
    assert quality.card_precision_100 == quality.card_precision_100_best == 0.2


def test_figures_by_hand() -> None:
    """Ranked: fraud, genuine, fraud, genuine. Three of the four pairs are in the right order."""
    rows = rows_of([False, True, False, True], [0, 1, 2, 3], ["a", "b", "c", "d"])
    quality = measure(np.array([0.7, 0.9, 0.1, 0.5], np.float32), rows)
    assert quality.auc == 3 / 4
    assert quality.average_precision == round((1 + 2 / 3) / 2, 4)
    assert quality.card_precision_100 == quality.card_precision_100_best == 0.02


@pytest.mark.parametrize(("truth", "words"), [(False, "no fraud"), (True, "no genuine payment")])
def test_where_there_is_nothing_to_tell_apart_there_is_no_figure(
    *, truth: bool, words: str
) -> None:
    rows = rows_of([truth] * 3, [0, 1, 2], ["a", "b", "c"])
    with pytest.raises(UsageError, match=f"there is {words} in what is measured"):
        measure(np.array([0.1, 0.2, 0.3], np.float32), rows)


def slow_card_precision(
    scores: list[float], is_fraud: list[bool], days: list[int], cards: list[str], k: int
) -> float:
    found: set[str] = set()
    shares = []
    for day in sorted(set(days)):
        best: dict[str, float] = {}
        defrauded = set()
        for score, truth, its_day, card in zip(scores, is_fraud, days, cards, strict=True):
            if its_day == day and card not in found:
                best[card] = max(score, best.get(card, score))
                defrauded |= {card} if truth else set()
        looked_at = sorted(best, key=lambda card: (-best[card], card))[:k]
        newly = defrauded & set(looked_at)
        found |= newly
        shares.append(len(newly) / k)
    return sum(shares) / len(shares)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from("abcdefg"), st.integers(0, 8), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 5),
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_card_precision_is_that_of_a_slow_count(
    payments: list[tuple[int, str, int, bool]], k: int
) -> None:
    """Few scores and few cards: ties, days without frauds, and cards that have left are met."""
    payments = sorted(payments, key=lambda payment: payment[0])
    days = [day for day, *_ in payments]
    cards = [card for _, card, _, _ in payments]
    scores = [score / 8 for *_, score, _ in payments]
    is_fraud = [truth for *_, truth in payments]
    rows = rows_of(is_fraud, [day * DAY_MS + 5 for day in days], cards)
    expected = slow_card_precision(scores, is_fraud, days, cards, k)
    assert card_precision(np.array(scores, np.float32), rows, k) == pytest.approx(expected)


def test_folds_are_summarised_by_mean_and_sample_deviation() -> None:
    folds = [
        Quality(
            auc=0.5 + figure,
            average_precision=figure,
            card_precision_100=0.2,
            card_precision_100_best=0.5,
        )
        for figure in (0.1, 0.2, 0.4)
    ]
    mean, deviation = summarise(folds)
    assert (mean.auc, mean.average_precision) == (0.7333, 0.2333)
    assert (deviation.auc, deviation.average_precision) == (0.1528, 0.1528)
    assert (mean.card_precision_100, deviation.card_precision_100) == (0.2, 0.0)
    alone, nothing = summarise(folds[:1])
    assert alone == folds[0]
    assert set(nothing.model_dump().values()) == {0.0}
