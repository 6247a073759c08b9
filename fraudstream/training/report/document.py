"""The report of an evaluation: pictures, the tables behind them, and what to think of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fraudstream.errors import UsageError
from fraudstream.training.evaluation import Evaluation
from fraudstream.training.report import charts, tables
from fraudstream.training.report.page import (
    figure,
    folded,
    page,
    pair,
    paragraph,
    table,
    tiles,
    warning,
)
from fraudstream.training.report.tables import number, percent

_Section = tuple[str, str, str]

_LIMITS: Final = (
    "Where the data are simulated, the figures say that the parts work together and nothing about "
    "real fraud: the authors of the reference simulator report an average precision of 0.095 on "
    "their real data for the method that reaches 0.69 on their simulated ones.",
    "A fraud that nobody reported counts as genuine here, and a correct alert for it as a false "
    "one. Figures are worth what their labels are.",
    "Alerts would have changed what came after them: a declined payment is tried again, a blocked "
    "card is not used again. The data know nothing of that.",
    "A threshold that was chosen on these figures is judged too well by them. Choose on one "
    "period, measure on a later one.",
)


def write_report(evaluation: Evaluation, file: Path) -> None:
    """Write the report of an evaluation.

    Raises
    ------
    UsageError
        The place cannot be written to.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    content = render(evaluation)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(content, encoding="utf-8")
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be written ({error.strerror}): give another place to --report"
        ) from error


def render(evaluation: Evaluation) -> str:
    """Give the report's HTML."""
    model, data = evaluation.model, evaluation.data
    lead = [
        paragraph(
            f"Measured on {data.payments:,} payments, {data.frauds:,} of them frauds, from "
            f"{data.file}.",
            "soft",
        ),
        *(warning(text) for text in evaluation.warnings),
    ]
    title = f"Evaluation of model {model.name}, version {model.version}"
    return page(title, "\n".join(lead), _sections(evaluation))


def _sections(evaluation: Evaluation) -> Iterator[_Section]:
    yield "facts", "What was evaluated", table(tables.facts(evaluation), "facts")
    yield "summary", "Summary", _summary(evaluation)
    yield "folds", "Folds", table(tables.folds(evaluation))
    yield "curve", "Precision and recall", _curve(evaluation)
    yield "work", "Detection by work", _work(evaluation)
    yield "thresholds", "By threshold", table(tables.thresholds(evaluation))
    yield "scores", "Scores", _scores(evaluation)
    yield "calibration", "Calibration", _calibration(evaluation)
    if (by_segment := tables.segments(evaluation)) is not None:
        yield "segments", f"By {evaluation.segment_field}", table(by_segment)
    yield "importance", "Importance", _importance(evaluation)
    yield "limits", "Limits", "\n".join(paragraph(text) for text in _LIMITS)


def _summary(evaluation: Evaluation) -> str:
    mean, deviation = evaluation.mean, evaluation.deviation
    best = number(mean["card_precision_best"])
    review = f"at the review threshold {evaluation.policy.review_threshold:g}"
    shown = (
        ("Average precision", number, "average_precision", ""),
        ("AUC ROC", number, "auc_roc", ""),
        (
            f"Card precision@{evaluation.cards_per_day}",
            number,
            "card_precision",
            f", best possible {best}",
        ),
        ("Recall", percent, "recall", f", {review}"),
        ("Value detected", percent, "value_detected_share", f", {review}"),
        ("Alert rate", percent, "alert_rate", f", {review}"),
    )
    large = tiles(
        (
            name,
            write(mean[key]),
            ("mean" if deviation[key] is None else f"± {write(deviation[key])}") + note,
        )
        for name, write, key, note in shown
    )
    words = "The mean over the folds, ± the sample standard deviation between them."
    return "\n".join((paragraph(words), large, table(tables.summary(evaluation))))


def _curve(evaluation: Evaluation) -> str:
    picture = figure(
        charts.precision_recall(evaluation),
        "Each point of the line is a threshold. The policy's thresholds are marked.",
    )
    return pair(picture, folded("The curve as a table", table(tables.curve(evaluation))))


def _work(evaluation: Evaluation) -> str:
    words = paragraph(
        "A team can look at so many cards a day, whatever the scores are. Recall and value "
        "detected say what part of the frauds, and of their amount, it finds; card precision how "
        "many of the cards it looks at were defrauded."
    )
    picture = figure(
        charts.work(evaluation),
        "With few defrauded cards a day, card precision falls although nothing is missed.",
    )
    by_cards = pair(picture, table(tables.cards(evaluation)))
    return "\n".join((words, by_cards, table(tables.shares(evaluation))))


def _scores(evaluation: Evaluation) -> str:
    picture = figure(
        charts.distribution(evaluation),
        "Payments by score, in bins of 0.05; a bin without payments has no mark.",
    )
    return pair(picture, folded("The scores as a table", table(tables.distribution(evaluation))))


def _calibration(evaluation: Evaluation) -> str:
    meant = (
        "The bundle says that its score is a probability: marks should lie on the dashed line."
        if evaluation.model.is_probability
        else "The bundle says that its score is no probability: marks may lie beside the dashed "
        "line, and only the order of scores counts."
    )
    picture = figure(
        charts.calibration(evaluation),
        "Bins of 0.1, with 95 % intervals. Nearly all payments lie in the lowest bin.",
    )
    return paragraph(meant) + pair(picture, table(tables.calibration(evaluation)))


def _importance(evaluation: Evaluation) -> str:
    picture = figure(
        charts.importance(evaluation),
        "How far each reason moves the score, up or down: in alerts, and in all payments.",
    )
    by_feature = folded("By feature", table(tables.features(evaluation)))
    return pair(picture, table(tables.reasons(evaluation)) + by_feature)
