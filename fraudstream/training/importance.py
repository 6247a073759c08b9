"""Which features and reasons move scores, on a sample of payments.

A contribution is how much a feature moved one payment's raw score, in log-odds (exact Shapley
values of the trees: see `fraudstream.score`). Its mean size over alerts says what alerts are made
of; over all payments, what tells the mass of payments apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.bundle import Bundle

#: Of alerts and of all payments each: a contribution costs about a millisecond a row.
SAMPLE_ROWS: Final = 1_000
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class FeatureWeight:
    """How much one feature moves scores: mean contributions by size; None without alerts."""

    feature: str
    reason_code: str
    meaning: str
    mean_abs_log_odds_alerts: float | None
    mean_abs_log_odds_payments: float


@dataclass(frozen=True, slots=True)
class ReasonWeight:
    """How much the features of one reason move scores together.

    ``leading_share_alerts`` is the share of alerts of which it is the first reason.
    """

    reason_code: str
    features: tuple[str, ...]
    mean_abs_log_odds_alerts: float | None
    mean_abs_log_odds_payments: float
    leading_share_alerts: float | None


@dataclass(frozen=True, slots=True)
class Importance:
    """What moves scores, the strongest in alerts first.

    ``alerts_sampled`` and ``payments_sampled`` say of how many that is the mean; both were drawn
    by chance, always the same.
    """

    alerts_sampled: int
    payments_sampled: int
    by_reason: tuple[ReasonWeight, ...]
    by_feature: tuple[FeatureWeight, ...]


def importance_of(
    bundle: Bundle,
    vectors: NDArray[np.float32],
    is_alert: NDArray[np.bool_],
    sample_rows: int = SAMPLE_ROWS,
) -> Importance:
    """Look at what moved the scores of some payments.

    Parameters
    ----------
    bundle
        Whose model scores them.
    vectors, is_alert
        Shapes (n, features) and (n,): the payments, and which of them are alerts.
    sample_rows
        How many alerts, and how many of all payments, are looked at.
    """
    rng = np.random.default_rng(_SEED)
    alerts = _draw(np.flatnonzero(is_alert), sample_rows, rng)
    payments = _draw(np.arange(len(vectors)), sample_rows, rng)
    of_alerts = bundle.model.contributions(vectors[alerts])
    of_payments = bundle.model.contributions(vectors[payments])
    names = [feature.name for feature in bundle.features]
    codes = [bundle.reasons[name][0] for name in names]
    order = dict.fromkeys(codes)
    belongs = np.array([[code == of_column for code in order] for of_column in codes], np.float32)
    alert_totals, payment_totals = of_alerts @ belongs, of_payments @ belongs
    # As in a decision: what pushed a score up the most, if anything pushed it up.
    strongest = alert_totals.argmax(axis=1)[(alert_totals > 0).any(axis=1)]
    leading = np.bincount(strongest, minlength=len(order))
    by_reason = [
        ReasonWeight(
            code,
            tuple(name for name, of_column in zip(names, codes, strict=True) if of_column == code),
            _mean_size(alert_totals[:, number]),
            float(np.abs(payment_totals[:, number]).mean()),
            int(leading[number]) / len(alerts) if len(alerts) else None,
        )
        for number, code in enumerate(order)
    ]
    by_feature = [
        FeatureWeight(
            name,
            *bundle.reasons[name],
            _mean_size(of_alerts[:, column]),
            float(np.abs(of_payments[:, column]).mean()),
        )
        for column, name in enumerate(names)
    ]
    return Importance(
        len(alerts),
        len(payments),
        tuple(sorted(by_reason, key=_strength)),
        tuple(sorted(by_feature, key=_strength)),
    )


def _draw(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.choice(rows, count, replace=False)) if len(rows) > count else rows


def _mean_size(contributions: NDArray[np.float32]) -> float | None:
    return float(np.abs(contributions).mean()) if len(contributions) else None


def _strength(weight: FeatureWeight | ReasonWeight) -> float:
    in_alerts = weight.mean_abs_log_odds_alerts
    return -(weight.mean_abs_log_odds_payments if in_alerts is None else in_alerts)
