"""An evaluation's figures as tables: the same for a terminal and for the report's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.training.evaluation import Evaluation
from fraudstream.training.figures import Figures

Row: TypeAlias = tuple[str, ...]
#: A figure's field, what it is called, and how it is written.
_Name: TypeAlias = tuple[str, str, Callable[[float | None], str]]
_BRIEF: Final = (
    *("auc_roc", "average_precision", "card_precision", "recall"),
    "value_detected_share",
)
UNKNOWN: Final = "n/a"
#: Below it a share with two decimals says nothing.
_SMALL_SHARE: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    title
        What it shows.
    columns, rows
        The heads, and as many cells a row.
    text_columns
        How many columns, from the left, hold text; the others hold numbers.
    note
        What to know of it.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    text_columns: int = 1
    note: str = ""


def number(value: float | None) -> str:
    """Write a figure between 0 and 1.

    Examples
    --------
    >>> number(0.69432), number(None)
    ('0.694', 'n/a')
    """
    return UNKNOWN if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Write a share.

    Examples
    --------
    >>> percent(0.6943), percent(0.0021), percent(0.00003), percent(0.0), percent(None)
    ('69.4%', '0.21%', '0.003%', '0%', 'n/a')
    """
    if value is None:
        return UNKNOWN
    if value in (0, 1):
        return f"{value:.0%}"
    if value < _SMALL_SHARE:
        return f"{value:.3%}"
    return f"{value:.1%}" if value >= 0.1 else f"{value:.2%}"


def facts(evaluation: Evaluation) -> Table:
    """Say what was evaluated."""
    model, data, labels = evaluation.model, evaluation.data, evaluation.labels
    policy = evaluation.policy
    decimals = MINOR_UNIT_DECIMALS[data.currency]
    amount = f"{data.fraud_amount_minor / 10**decimals:,.{decimals}f} {data.currency}"
    score = "no probability (not calibrated)"
    if model.is_probability:
        score = f"a probability, says the bundle ({model.calibration} calibration)"
    return Table(
        "Model, data, labels, policy",
        ("", ""),
        (
            ("model", f"{model.name}, version {model.version}"),
            ("sha256", model.sha256),
            ("learnt from", _period(model.learnt_from, model.learnt_until)),
            ("its labels", model.label_maturity),
            ("its score", score),
            ("data", f"{data.file}, {_period(data.begins, data.ends)}"),
            ("measured", _period(data.measured_from, data.measured_until)),
            ("in sample", "yes: see the warning" if evaluation.is_in_sample else "no"),
            ("payments", f"{data.payments:,}, of which {data.frauds:,} frauds of {amount}"),
            (
                "left out",
                f"{data.known_card_payments:,} payments of cards on which a fraud was known",
            ),
            ("labels", labels.statement),
            (
                "policy",
                f"{policy.name}: review from {policy.review_threshold:g}, decline from "
                f"{policy.decline_threshold:g}",
            ),
        ),
        text_columns=2,
    )


def summary(evaluation: Evaluation) -> Table:
    """Give mean and deviation of the main figures."""
    names = _names(evaluation)
    mean, deviation, together = evaluation.mean, evaluation.deviation, evaluation.together
    counted = sum(fold.left_out_because is None for fold in evaluation.folds)
    return Table(
        "Main figures",
        ("figure", "mean", "deviation", "all days"),
        tuple(
            (
                words,
                *(write(values[name]) for values in (mean, deviation)),
                write(getattr(together, name)),
            )
            for name, words, write in names
        ),
        note=f"Mean and sample standard deviation of {counted} "
        f'fold{"s" if counted != 1 else ""}; "all days" takes the payments of all folds '
        'together. From "alert rate" on at the policy\'s review threshold.',
    )


def folds(evaluation: Evaluation, *, is_brief: bool = False) -> Table:
    """Give the figures of each fold; a terminal has room for some of them."""
    names = _names(evaluation, is_brief=is_brief)
    rows = [
        (
            _days(fold.measured_from, fold.measured_until)
            + ("" if fold.left_out_because is None else " *"),
            *_cells(names, fold.figures),
        )
        for fold in evaluation.folds
    ]
    rows += [
        (label, "", "", *(write(values[name]) for name, _, write in names))
        for label, values in (("mean", evaluation.mean), ("deviation", evaluation.deviation))
    ]
    note = "Left out are the payments of cards on which a fraud was known by then."
    if any(fold.left_out_because is not None for fold in evaluation.folds):
        note += " * counts in no mean; the warnings say why."
    return Table("Figures of each fold", ("days", *_heads(names)), tuple(rows), note=note)


def thresholds(evaluation: Evaluation) -> Table:
    """Give what is caught at each threshold."""
    return Table(
        "What each threshold catches",
        (
            *("score from", "policy", "alerts a day", "alert rate", "precision", "recall"),
            *("value detected", "genuine stopped"),
        ),
        tuple(
            (
                f"{at.score_threshold:g}",
                at.policy,
                f"{at.detection.alerts_per_day or 0:,.1f}",
                percent(at.detection.alert_rate),
                percent(at.detection.precision),
                percent(at.detection.recall),
                percent(at.detection.value_detected_share),
                percent(at.detection.false_positive_rate),
            )
            for at in evaluation.by_threshold
        ),
        text_columns=2,
        note="A payment whose score reaches the threshold is an alert.",
    )


def shares(evaluation: Evaluation) -> Table:
    """Give what is caught by shares of all payments."""
    return Table(
        "What a share of all payments catches",
        (
            *("share of payments", "score from", "alerts a day", "precision", "recall"),
            *("value detected", "genuine stopped"),
        ),
        tuple(
            (
                f"{100 * at.share_of_payments:g}%",
                UNKNOWN if at.score_threshold is None else f"{at.score_threshold:.4f}",
                f"{at.detection.alerts_per_day or 0:,.1f}",
                percent(at.detection.precision),
                percent(at.detection.recall),
                percent(at.detection.value_detected_share),
                percent(at.detection.false_positive_rate),
            )
            for at in evaluation.by_share_of_payments
        ),
        text_columns=0,
        note="The payments that score highest over all days.",
    )


def cards(evaluation: Evaluation) -> Table:
    """Give what is caught by cards a day."""
    return Table(
        "What so many cards a day catch",
        (
            "cards a day",
            "card precision",
            "best possible",
            "cards found",
            "recall",
            "value detected",
        ),
        tuple(
            (
                f"{at.cards_per_day:,}",
                number(at.card_precision),
                number(at.card_precision_best),
                f"{at.cards_found:,} of {at.cards_looked_at:,}",
                percent(at.recall),
                percent(at.value_detected_share),
            )
            for at in evaluation.by_cards_per_day
        ),
        text_columns=0,
        note="Each day the cards that score highest are looked at. A card that is found is blocked "
        "until its fold ends, and its later frauds count as detected.",
    )


def calibration(evaluation: Evaluation) -> Table:
    """Compare scores with the share of frauds."""
    found = evaluation.calibration
    return Table(
        "Scores and what became of the payments",
        ("scores", "payments", "frauds", "mean score", "share of frauds", "95% interval"),
        tuple(
            (
                f"{at.score_from:g} to {at.score_until:g}",
                f"{at.payments:,}",
                f"{at.frauds:,}",
                number(at.score_mean),
                number(at.fraud_share),
                UNKNOWN
                if at.fraud_share_low is None
                else f"{number(at.fraud_share_low)} to {number(at.fraud_share_high)}",
            )
            for at in found.bins
        ),
        note=f"Expected calibration error {found.expected_calibration_error:.5f}; Brier score "
        f"{found.brier_score:.5f}, where a constant score reaches "
        f"{found.brier_score_of_constant:.5f}. The bundle says that its scores are "
        f"{'probabilities' if evaluation.model.is_probability else 'no probabilities'}.",
    )


def segments(evaluation: Evaluation, *, is_brief: bool = False) -> Table | None:
    """Give the figures of each value of a field; None where none was named."""
    if evaluation.segment_field is None:
        return None
    names = _names(evaluation, is_brief=is_brief)
    return Table(
        f"Figures by {evaluation.segment_field}",
        (evaluation.segment_field, *_heads(names)),
        tuple((at.value or "(none)", *_cells(names, at.figures)) for at in evaluation.by_segment),
        note=f"{UNKNOWN}: there are no frauds among them, or nothing genuine. Each value is ranked "
        f"by itself, with {evaluation.cards_per_day:,} cards a day of its own.",
    )


def reasons(evaluation: Evaluation) -> Table:
    """Give the reasons that move scores."""
    found = evaluation.importance
    return Table(
        "What moves scores, by reason",
        ("reason", "features", "in alerts", "in all payments", "first reason of alerts"),
        tuple(
            (
                at.reason_code,
                str(len(at.features)),
                _log_odds(at.mean_abs_log_odds_alerts),
                _log_odds(at.mean_abs_log_odds_payments),
                percent(at.leading_share_alerts),
            )
            for at in found.by_reason
        ),
        note="Mean size of the contribution to the score, in log-odds, over "
        f"{found.alerts_sampled:,} alerts and {found.payments_sampled:,} payments drawn by chance.",
    )


def features(evaluation: Evaluation) -> Table:
    """Give the features that move scores."""
    return Table(
        "What moves scores, by feature",
        ("feature", "reason", "in alerts", "in all payments"),
        tuple(
            (
                at.feature,
                at.reason_code,
                _log_odds(at.mean_abs_log_odds_alerts),
                _log_odds(at.mean_abs_log_odds_payments),
            )
            for at in evaluation.importance.by_feature
        ),
        text_columns=2,
        note="As by reason.",
    )


def curve(evaluation: Evaluation) -> Table:
    """Give the precision-recall curve."""
    return Table(
        "Precision at each recall",
        ("recall", "precision", "score from"),
        tuple(
            (percent(at.recall), percent(at.precision), f"{at.score_threshold:.4f}")
            for at in evaluation.precision_recall
        ),
        text_columns=0,
    )


def distribution(evaluation: Evaluation) -> Table:
    """Count payments by score."""
    return Table(
        "Payments by score",
        ("scores", "frauds", "genuine"),
        tuple(
            (f"{at.score_from:g} to {at.score_until:g}", f"{at.frauds:,}", f"{at.genuine:,}")
            for at in evaluation.score_distribution
        ),
    )


def for_terminal(evaluation: Evaluation) -> Iterator[Table]:
    """Give the tables that a terminal shows, in order."""
    yield facts(evaluation)
    yield summary(evaluation)
    yield folds(evaluation, is_brief=True)
    yield thresholds(evaluation)
    yield shares(evaluation)
    yield cards(evaluation)
    yield calibration(evaluation)
    if (by_segment := segments(evaluation, is_brief=True)) is not None:
        yield by_segment
    yield reasons(evaluation)


def _names(evaluation: Evaluation, *, is_brief: bool = False) -> tuple[_Name, ...]:
    at = f"card precision @{evaluation.cards_per_day}"
    names: tuple[_Name, ...] = (
        ("auc_roc", "AUC ROC", number),
        ("average_precision", "average precision", number),
        ("card_precision", at, number),
        ("card_precision_best", "best possible", number),
        ("alert_rate", "alert rate", percent),
        ("precision", "precision", percent),
        ("recall", "recall", percent),
        ("value_detected_share", "value detected", percent),
        ("false_positive_rate", "genuine stopped", percent),
    )
    return tuple(name for name in names if not is_brief or name[0] in _BRIEF)


def _heads(names: tuple[_Name, ...]) -> Row:
    return ("payments", "frauds", *(words for _, words, _ in names))


def _cells(names: tuple[_Name, ...], figures: Figures) -> Row:
    return (
        f"{figures.payments:,}",
        f"{figures.frauds:,}",
        *(write(getattr(figures, name)) for name, _, write in names),
    )


def _log_odds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _period(start: str, end: str) -> str:
    return f"{start[:10]} to before {end[:10]}"


def _days(start: str, end: str) -> str:
    last = datetime.fromisoformat(end) - timedelta(days=1)
    return f"{start[5:10]} to {last:%m-%d}"
