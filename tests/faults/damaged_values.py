"""Damages to C7 and C8: to what a decision says of its payment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from damaging import Body, altered, answering, approved, pick
from good_run import REVIEW_THRESHOLD
from harness import Row
from history import History

_UP = np.float32(np.inf)


# ------------------------------------------------------------------ C7


def nudge_amount(history: History) -> History:
    """Log the amount one unit in the last place off."""
    return _with_feature(history, "amount", _next_up)


def nudge_card_mean(history: History) -> History:
    """Log a mean of the card one unit in the last place off."""
    return _with_feature(history, "card_amount_mean_30d", _next_up)


def nudge_card_ratio(history: History) -> History:
    """Log the ratio to the card's mean one unit in the last place off."""
    return _with_feature(history, "card_amount_ratio_to_mean_30d", _next_up)


def count_card_twice(history: History) -> History:
    """Log a count of the card as if a payment had been counted twice."""
    return _with_feature(history, "card_tx_count_30d", lambda value: value + 1)


def forget_card_maximum(history: History) -> History:
    """Log a lower maximum of the card than was paid."""
    return _with_feature(history, "card_amount_max_14d", lambda value: value - np.float32(0.01))


def count_terminal_twice(history: History) -> History:
    """Log a count of the terminal as if many payments had been counted twice."""
    return _with_feature(history, "terminal_tx_count_30d_lag7d", lambda value: value * 2 + 1)


def nudge_terminal_rate(history: History) -> History:
    """Log a rate of the terminal one unit in the last place off."""
    return _with_feature(history, "terminal_fraud_rate_30d_lag7d", _next_up)


def forget_feature(history: History) -> History:
    """Log nothing for a feature of the card, and do not say so."""
    return _with_feature(history, "card_tx_count_7d", lambda _: None)


def forget_terminal_feature(history: History) -> History:
    """Log nothing for a feature of the terminal, and do not say so."""
    return _with_feature(history, "terminal_tx_count_7d_lag7d", lambda _: None)


def excuse_wrongly(history: History) -> History:
    """Log nothing for a feature that must be known, and say that it is not."""
    changed = _with_feature(history, "card_tx_count_7d", lambda _: None)
    return _flagged_like(history, changed, "incomplete")


def claim_incomplete(history: History) -> History:
    """Say that something is missing where nothing is."""
    return altered(history, "decisions", pick(history, "decisions", approved), flags=["incomplete"])


def claim_late(history: History) -> History:
    """Say that a payment came late which did not."""
    return altered(history, "decisions", pick(history, "decisions", approved), flags=["late"])


def hide_lateness(history: History) -> History:
    """Do not say that a payment came late."""
    row = pick(history, "decisions", lambda body: body["flags"] == ["late"])
    return altered(history, "decisions", row, flags=[])


def hide_too_late(history: History) -> History:
    """Do not say that a payment came too late to be recorded."""
    row = pick(history, "decisions", lambda body: "too_late" in body["flags"])
    return altered(history, "decisions", row, flags=["incomplete"])


def name_missing(history: History) -> History:
    """Name a feature as missing that is there."""
    row = pick(history, "decisions", approved)
    return altered(history, "decisions", row, missing_features=["card_tx_count_7d"])


def fill_in_degraded(history: History) -> History:
    """Log a feature of the profiles in a decision that was made without them."""
    row = pick(history, "decisions", _is_degraded)
    return altered(
        history, "decisions", row, features=row.json()["features"] | {"card_tx_count_7d": 1.0}
    )


def _is_degraded(body: Body) -> bool:
    return "degraded" in body["flags"]


def _next_up(value: np.float32) -> np.float32:
    return np.float32(np.nextafter(value, _UP))


def _with_feature(
    history: History, name: str, change: Callable[[np.float32], np.float32 | None]
) -> History:
    """Change a feature of an approved payment, and its score to what the model then says."""
    names = [feature.name for feature in history.bundle.features]
    rows = [
        row
        for row in history.outputs["decisions"]
        if approved(row.json()) and row.json()["features"][name]
    ]
    changed = [_changed(row, name, change) for row in rows]
    vectors = [[features[own] for own in names] for features in changed]
    scores = history.bundle.model.score(np.array(vectors, dtype=np.float32))
    # One that is approved all the same: the outcome is no other.
    number = int(np.flatnonzero(scores < np.float32(REVIEW_THRESHOLD))[-1])
    return altered(
        history, "decisions", rows[number], features=changed[number], score=float(scores[number])
    )


def _changed(
    row: Row, name: str, change: Callable[[np.float32], np.float32 | None]
) -> dict[str, float | None]:
    features: dict[str, float | None] = row.json()["features"]
    value = change(np.float32(features[name]))
    return features | {name: None if value is None else float(value)}


def _flagged_like(good: History, changed: History, flag: str) -> History:
    """Flag the one decision in which two histories differ."""
    pairs = zip(good.outputs["decisions"], changed.outputs["decisions"], strict=True)
    row = next(own for before, own in pairs if own is not before)
    return altered(changed, "decisions", row, flags=[flag])


# ------------------------------------------------------------------ C8


def nudge_score(history: History) -> History:
    """Log a score one unit in the last place off."""
    row = pick(history, "decisions", approved)
    return altered(history, "decisions", row, score=_nudged(row))


def nudge_degraded_score(history: History) -> History:
    """Log a score of the fallback model one unit in the last place off."""
    row = pick(
        history, "decisions", lambda body: _is_degraded(body) and body["outcome"] == "APPROVE"
    )
    return altered(history, "decisions", row, score=_nudged(row))


def decline_degraded(history: History) -> History:
    """Decline without profiles."""
    highest = max(
        (row for row in history.outputs["decisions"] if _is_degraded(row.json())),
        key=lambda row: float(row.json()["score"]),
    )
    return _with_outcome(history, highest, "DECLINE")


def decline_mildest(history: History) -> History:
    """Decline the lowest score of those that are to be looked at."""
    lowest = min(
        (
            row
            for row in history.outputs["decisions"]
            if row.json()["outcome"] == "REVIEW" and not row.json()["flags"]
        ),
        key=lambda row: float(row.json()["score"]),
    )
    return _with_outcome(history, lowest, "DECLINE")


def _nudged(row: Row) -> float:
    return float(np.nextafter(np.float32(row.json()["score"]), np.float32(0)))


def _with_outcome(history: History, row: Row, outcome: str) -> History:
    """Change an outcome, in the decision and in its alert."""
    alert = answering(history, "alerts", row.source)
    changed = altered(history, "decisions", row, outcome=outcome)
    return altered(changed, "alerts", alert, outcome=outcome)
