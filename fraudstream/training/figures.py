"""The main figures of an evaluation: on a fold, on all of them, on a segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    roc_auc_score,
)

from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.detection import Scores, detect, reaches
from fraudstream.training.quality import CardDays

#: Values of a segment that are shown each by itself; the others are measured together.
SEGMENTS_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Lines:
    """Where lines are drawn: the policy's review threshold, and how many cards are looked at."""

    review_threshold: float
    cards_per_day: int


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Payments that are judged.

    Attributes
    ----------
    rows
        The n payments, in event-time order.
    scores
        Shape (n,).
    returns_ms
        When found cards are back: see `fraudstream.training.quality.CardDays`.
    """

    rows: LabelledVectors
    scores: Scores
    returns_ms: tuple[int, ...] = ()

    def take(self, is_taken: NDArray[np.bool_]) -> Judged:
        """Give some of them."""
        return Judged(self.rows.take(is_taken), self.scores[is_taken], self.returns_ms)


@dataclass(frozen=True, slots=True)
class Figures:
    """How good scores are on some payments. None: it cannot be said.

    Attributes
    ----------
    payments, frauds
        How many there are.
    auc_roc, average_precision
        How scores rank them, where there are both frauds and genuine payments.
    card_precision, card_precision_best
        At so many cards a day, and what a ranking without a mistake would reach; where there are
        both.
    alert_rate, precision, recall, value_detected_share, false_positive_rate
        At the policy's review threshold: see `fraudstream.training.detection.Detection`.
    """

    payments: int
    frauds: int
    auc_roc: float | None
    average_precision: float | None
    card_precision: float | None
    card_precision_best: float | None
    alert_rate: float | None
    precision: float | None
    recall: float | None
    value_detected_share: float | None
    false_positive_rate: float | None


@dataclass(frozen=True, slots=True)
class SegmentFigures:
    """The figures of one value of a field; ``is_rest`` marks all those that have no line."""

    value: str
    is_rest: bool
    figures: Figures


def figures_of(judged: Judged, lines: Lines) -> Figures:
    """Measure scores."""
    rows, scores = judged.rows, judged.scores
    auc = average_precision = card_precision = best = None
    if has_both_kinds(rows):
        auc = float(roc_auc_score(rows.is_fraud, scores))
        average_precision = float(average_precision_score(rows.is_fraud, scores))
        days = CardDays(rows, judged.returns_ms)
        card_precision = days.look(scores, lines.cards_per_day).precision
        best = days.look(rows.is_fraud.astype(np.float32), lines.cards_per_day).precision
    found = detect(reaches(scores, lines.review_threshold), rows)
    return Figures(
        payments=len(rows),
        frauds=int(rows.is_fraud.sum()),
        auc_roc=auc,
        average_precision=average_precision,
        card_precision=card_precision,
        card_precision_best=best,
        alert_rate=found.alert_rate,
        precision=found.precision,
        recall=found.recall,
        value_detected_share=found.value_detected_share,
        false_positive_rate=found.false_positive_rate,
    )


def has_both_kinds(rows: LabelledVectors) -> bool:
    """Tell whether there are frauds as well as genuine payments."""
    return bool(rows.is_fraud.any() and not rows.is_fraud.all())


def summarise_figures(
    folds: Sequence[Figures],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Give each figure's mean over folds, and the sample standard deviation between them.

    Returns
    -------
    mean, deviation
        By figure, the counts aside; None where a fold has none, and a deviation of one fold.
    """
    means: dict[str, float | None] = {}
    deviations: dict[str, float | None] = {}
    for name in (field.name for field in fields(Figures)[2:]):
        found = [getattr(fold, name) for fold in folds]
        is_known = len(found) > 0 and None not in found
        means[name] = float(np.mean(found)) if is_known else None
        is_spread = is_known and len(found) > 1
        deviations[name] = float(np.std(found, ddof=1)) if is_spread else None
    return means, deviations


def by_segment(judged: Judged, lines: Lines) -> Iterator[SegmentFigures]:
    """Measure each of the most frequent values of the segment by itself, the others together."""
    values, place, counts = np.unique(
        judged.rows.segment.astype(np.str_), return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    for number in order[:SEGMENTS_MAX]:
        figures = figures_of(judged.take(place == number), lines)
        yield SegmentFigures(str(values[number]), is_rest=False, figures=figures)
    rest = order[SEGMENTS_MAX:]
    if len(rest):
        figures = figures_of(judged.take(np.isin(place, rest)), lines)
        yield SegmentFigures(f"{len(rest)} other values", is_rest=True, figures=figures)
