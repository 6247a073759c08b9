"""What alerts catch: by threshold, and by how much work there can be.

A score ranks payments; what that is worth shows when a line is drawn. Three kinds of line:

    by threshold          payments whose score reaches it, as a policy decides
    by share of payments  the 0.1 %, 1 %, … of payments that score highest
    by cards a day        the k cards a day that score highest, as a team works

Value counts as well as number: a fraud of 5.00 and one of 500.00 are one fraud each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.decision import Policy
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.quality import CardDays

Scores = NDArray[np.float32]

#: Denser at the ends: scores that are no probabilities crowd there.
_THRESHOLDS: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.98, 0.99),
)
_SHARES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_CARDS_PER_DAY: Final = (10, 20, 50, 100, 200, 500)
#: At how many levels of recall the curve is given.
_CURVE_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Detection:
    """What some alerts catch. None: there is nothing to divide by.

    Attributes
    ----------
    alerts
        Payments that are alerts.
    alert_rate
        Of all payments.
    alerts_per_day
        Mean over the days (UTC) that have payments.
    frauds_detected
        Frauds among the alerts.
    precision
        Frauds among alerts.
    recall
        Alerts among frauds.
    value_detected_share
        Of the amount of all frauds, the part that lies in alerts; frauds whose amount is not known
        count in neither.
    false_positive_rate
        Alerts among genuine payments: good customers who are stopped.
    """

    alerts: int
    alert_rate: float | None
    alerts_per_day: float | None
    frauds_detected: int
    precision: float | None
    recall: float | None
    value_detected_share: float | None
    false_positive_rate: float | None


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What payments catch whose score reaches a threshold.

    ``policy`` is ``review`` or ``decline`` where the policy draws its line there (``review,
    decline`` for both), and empty elsewhere.
    """

    score_threshold: float
    policy: str
    detection: Detection


@dataclass(frozen=True, slots=True)
class AtShare:
    """What a share of all payments catches, those that score highest.

    ``score_threshold`` is the lowest score among them: a policy with it gives at least as many
    alerts. Of equal scores the earlier payment comes first.
    """

    share_of_payments: float
    score_threshold: float | None
    detection: Detection


@dataclass(frozen=True, slots=True)
class AtCardsPerDay:
    """What a team catches that looks at so many cards a day.

    Attributes
    ----------
    cards_per_day
        Those that score highest; a card found to be defrauded is blocked until its fold ends.
    card_precision, card_precision_best
        Mean over the days of found cards by ``cards_per_day``, and that of a ranking without a
        mistake.
    cards_looked_at, cards_found
        Over all days.
    recall, value_detected_share
        Frauds, and their amount, on cards on the day they are looked at or while they are blocked.
    """

    cards_per_day: int
    card_precision: float
    card_precision_best: float
    cards_looked_at: int
    cards_found: int
    recall: float | None
    value_detected_share: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The highest threshold that detects at least ``recall`` of the frauds, and its precision."""

    recall: float
    precision: float
    score_threshold: float


def detect(is_alert: NDArray[np.bool_], rows: LabelledVectors) -> Detection:
    """Say what alerts catch.

    Parameters
    ----------
    is_alert
        Shape (n,).
    rows
        The n payments.
    """
    alerts, frauds = int(is_alert.sum()), int(rows.is_fraud.sum())
    detected = int((is_alert & rows.is_fraud).sum())
    days = len(np.unique(rows.event_time_ms // DAY_MS))
    return Detection(
        alerts=alerts,
        alert_rate=_share(alerts, len(rows)),
        alerts_per_day=_share(alerts, days),
        frauds_detected=detected,
        precision=_share(detected, alerts),
        recall=_share(detected, frauds),
        value_detected_share=value_detected_share(is_alert, rows),
        false_positive_rate=_share(alerts - detected, len(rows) - frauds),
    )


def value_detected_share(is_alert: NDArray[np.bool_], rows: LabelledVectors) -> float | None:
    """Give the part of the frauds' amount that lies in alerts; None where there is no amount."""
    counts = rows.is_fraud & (rows.amount_minor >= 0)
    total_minor = int(rows.amount_minor[counts].sum())
    return _share(int(rows.amount_minor[counts & is_alert].sum()), total_minor)


def reaches(scores: Scores, threshold: float) -> NDArray[np.bool_]:
    """Tell which scores reach a threshold, as a worker does: equal counts, compared as float32."""
    found: NDArray[np.bool_] = scores >= np.float32(threshold)
    return found


def by_threshold(scores: Scores, rows: LabelledVectors, policy: Policy) -> tuple[AtThreshold, ...]:
    """Say what is caught at each of some thresholds, the policy's own among them."""
    lines: dict[float, list[str]] = {threshold: [] for threshold in _THRESHOLDS}
    lines.setdefault(policy.review_threshold, []).append("review")
    lines.setdefault(policy.decline_threshold, []).append("decline")
    return tuple(
        AtThreshold(
            threshold, ", ".join(lines[threshold]), detect(reaches(scores, threshold), rows)
        )
        for threshold in sorted(lines)
    )


def by_share(scores: Scores, rows: LabelledVectors) -> tuple[AtShare, ...]:
    """Say what is caught by the payments that score highest, at each of some shares of all."""
    order = np.argsort(-scores, kind="stable")
    found = []
    for share in _SHARES:
        chosen = order[: round(share * len(rows))]
        is_alert = np.zeros(len(rows), dtype=np.bool_)
        is_alert[chosen] = True
        threshold = float(scores[chosen[-1]]) if len(chosen) else None
        found.append(AtShare(share, threshold, detect(is_alert, rows)))
    return tuple(found)


def by_cards_per_day(
    scores: Scores, rows: LabelledVectors, cards_per_day: int, returns_ms: Sequence[int] = ()
) -> tuple[AtCardsPerDay, ...]:
    """Say what a team catches, at each of some amounts of work.

    Parameters
    ----------
    scores, rows
        The scores, shape (n,), and what they are about.
    cards_per_day
        An amount of work that is to be among them.
    returns_ms
        When found cards are back: see `fraudstream.training.quality.CardDays`.
    """
    truth = rows.is_fraud.astype(np.float32)
    frauds = int(rows.is_fraud.sum())
    days = CardDays(rows, returns_ms)
    found = []
    for count in sorted({*_CARDS_PER_DAY, cards_per_day}):
        work = days.look(scores, count)
        found.append(
            AtCardsPerDay(
                count,
                work.precision,
                days.look(truth, count).precision,
                work.looked_at,
                work.found,
                _share(int((work.is_detected & rows.is_fraud).sum()), frauds),
                value_detected_share(work.is_detected, rows),
            )
        )
    return tuple(found)


def precision_recall_curve(scores: Scores, is_fraud: NDArray[np.bool_]) -> tuple[CurvePoint, ...]:
    """Give the curve at each hundredth of recall that is a threshold of its own.

    Parameters
    ----------
    scores, is_fraud
        Shape (n,), at least one fraud among them.
    """
    order = np.argsort(-scores, kind="stable")
    detected = np.cumsum(is_fraud[order])
    # Equal scores are alerts together: only where a run of them ends can a line be drawn.
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    recall = detected[ends] / detected[-1]
    precision = detected[ends] / (ends + 1)
    levels = np.arange(1, _CURVE_STEPS + 1) / _CURVE_STEPS
    places = np.unique(np.searchsorted(recall, levels))
    return tuple(
        CurvePoint(float(recall[place]), float(precision[place]), float(scores[order[ends[place]]]))
        for place in places
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
