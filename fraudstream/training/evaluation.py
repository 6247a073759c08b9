"""How good a frozen model is on labelled payments, with all that the figures depend on.

    rows ─ folds ─▶ judged rows ─ model ─▶ scores ─┬─▶ figures a fold, mean and deviation
            (cards known by then left out)         └─▶ over all of them: by threshold, by work,
                                                       by segment, calibration, importance

Nothing is fitted here: the folds are consecutive periods of the same frozen model's life, and the
deviation between them says how much a figure owes to the week it was measured in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from fraudstream.bundle import Bundle
from fraudstream.decision import Policy
from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors, concatenate, require_both_kinds
from fraudstream.training.detection import (
    AtCardsPerDay,
    AtShare,
    AtThreshold,
    CurvePoint,
    by_cards_per_day,
    by_share,
    by_threshold,
    precision_recall_curve,
    reaches,
)
from fraudstream.training.figures import (
    Figures,
    Judged,
    Lines,
    SegmentFigures,
    by_segment,
    figures_of,
    has_both_kinds,
    summarise_figures,
)
from fraudstream.training.importance import Importance, importance_of
from fraudstream.training.protocol import Fold, judged_rows
from fraudstream.training.provenance import (
    EvaluatedData,
    EvaluatedLabels,
    EvaluatedModel,
    Span,
    choose_span,
    describe_labels,
    describe_model,
    longest_window_ms,
)
from fraudstream.training.quality import CARDS_PER_DAY
from fraudstream.training.reliability import Reliability, ScoreBin, reliability_of, spread_of

#: Version of the JSON document's fields.
LAYOUT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is measured, and how.

    Parameters
    ----------
    policy
        Whose thresholds make alerts.
    labels_after_ms
        How long after a fraud its label is known.
    data, data_end_ms
        The data's name, and where they end: labels were reported up to then.
    currency
        Of their amounts.
    from_ms
        The first day that is measured: see `fraudstream.training.provenance.choose_span`.
    fold_days
        How long a fold is.
    cards_per_day
        How many cards a team looks at each day.
    segment
        The field by which figures are split, as the rows were read with; None for none.
    maturity
        How final the labels are, in words.
    invalid_rows
        How many rows of the data were left out, because they break the event contract.
    """

    policy: Policy
    labels_after_ms: int
    data: str
    data_end_ms: int
    currency: str = "EUR"
    from_ms: int | None = None
    fold_days: int = 7
    cards_per_day: int = CARDS_PER_DAY
    segment: str | None = None
    maturity: str | None = None
    invalid_rows: int = 0

    @property
    def lines(self) -> Lines:
        """Where alerts begin, and how many cards are looked at."""
        return Lines(self.policy.review_threshold, self.cards_per_day)

    @property
    def label_delay_days(self) -> int:
        """How many whole days a fraud stays unknown."""
        return -(-self.labels_after_ms // DAY_MS)


@dataclass(frozen=True, slots=True)
class FoldFigures:
    """A fold's figures.

    Attributes
    ----------
    measured_from, measured_until
        Its days, RFC 3339: ``[from, until)``.
    known_card_payments
        How many payments were left out, because their card was known to be compromised.
    left_out_because
        Why it counts in neither mean nor deviation; None if it does.
    figures
        The rest.
    """

    measured_from: str
    measured_until: str
    known_card_payments: int
    left_out_because: str | None
    figures: Figures


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All figures of an evaluation.

    Attributes
    ----------
    model, data, labels, policy, cards_per_day
        What was evaluated: by which policy's thresholds, at how many cards a day.
    is_in_sample, warnings
        Whether the model may have learnt from what is measured, and what else to know.
    folds, mean, deviation
        The folds, the mean over those that count, by figure, and the sample standard deviation
        between them (None for one).
    together
        Over all folds.
    precision_recall, by_threshold, by_share_of_payments, by_cards_per_day
        What alerts catch, over all folds.
    score_distribution, calibration, importance
        What else is known about the scores, over all folds.
    segment_field, by_segment
        The figures by value of a field.
    """

    model: EvaluatedModel
    data: EvaluatedData
    labels: EvaluatedLabels
    policy: Policy
    cards_per_day: int
    is_in_sample: bool
    warnings: tuple[str, ...]
    folds: tuple[FoldFigures, ...]
    mean: dict[str, float | None]
    deviation: dict[str, float | None]
    together: Figures
    precision_recall: tuple[CurvePoint, ...]
    by_threshold: tuple[AtThreshold, ...]
    by_share_of_payments: tuple[AtShare, ...]
    by_cards_per_day: tuple[AtCardsPerDay, ...]
    score_distribution: tuple[ScoreBin, ...]
    calibration: Reliability
    importance: Importance
    segment_field: str | None
    by_segment: tuple[SegmentFigures, ...]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values; docs/model-quality.md explains the fields."""
        plain: dict[str, Any] = _flat({"layout": LAYOUT_VERSION} | asdict(self))
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A fold: its record, and the payments that are judged in it."""

    fold: Fold
    judged: Judged
    record: FoldFigures


def evaluate(bundle: Bundle, rows: LabelledVectors, plan: EvaluationPlan) -> Evaluation:
    """Measure a model.

    Parameters
    ----------
    bundle
        The model.
    rows
        Labelled vectors in event-time order, their columns the model's; all that there is, for
        what lies before the first measured day tells which cards are known to be compromised.
    plan
        What is measured.

    Raises
    ------
    UsageError
        There is nothing to measure: no such days, no fraud, nothing genuine, or a segment's field
        that no payment has.
    """
    if plan.segment is not None and not (rows.segment != "").any():
        raise UsageError(f"no payment has the field {plan.segment!r}: give another to --segment")
    span = choose_span(rows, bundle, plan.from_ms)
    parts = _count_folds([_judge(bundle, rows, fold, plan) for fold in cut_periods(span, plan)])
    records = tuple(part.record for part in parts)
    judged = Judged(
        concatenate([part.judged.rows for part in parts]),
        np.concatenate([part.judged.scores for part in parts]),
        tuple(part.fold.test_ms[0] for part in parts[1:]),
    )
    require_both_kinds(judged.rows, f"what is measured ({_days(span.start_ms, span.end_ms)})")
    scores, is_fraud = judged.scores, judged.rows.is_fraud
    mean, deviation = summarise_figures([r.figures for r in records if r.left_out_because is None])
    data = _describe_data(bundle, rows, span, judged.rows, plan)
    is_alert = reaches(scores, plan.policy.review_threshold)
    return Evaluation(
        model=describe_model(bundle),
        data=data,
        labels=describe_labels(plan.labels_after_ms, span.end_ms, plan.data_end_ms, plan.maturity),
        policy=plan.policy,
        cards_per_day=plan.cards_per_day,
        is_in_sample=span.is_in_sample,
        warnings=(*span.warnings, *_warnings(bundle, data, records, plan)),
        folds=records,
        mean=mean,
        deviation=deviation,
        together=figures_of(judged, plan.lines),
        precision_recall=precision_recall_curve(scores, is_fraud),
        by_threshold=by_threshold(scores, judged.rows, plan.policy),
        by_share_of_payments=by_share(scores, judged.rows),
        by_cards_per_day=by_cards_per_day(
            scores, judged.rows, plan.cards_per_day, judged.returns_ms
        ),
        score_distribution=spread_of(scores, is_fraud),
        calibration=reliability_of(scores, is_fraud),
        importance=importance_of(bundle, judged.rows.vectors, is_alert),
        segment_field=plan.segment,
        by_segment=tuple(by_segment(judged, plan.lines)) if plan.segment is not None else (),
    )


def cut_periods(span: Span, plan: EvaluationPlan) -> list[Fold]:
    """Cut what is measured into consecutive periods; the last may be shorter."""
    length_ms = plan.fold_days * DAY_MS
    return [
        Fold((start_ms, start_ms), (start_ms, min(start_ms + length_ms, span.end_ms)))
        for start_ms in range(span.start_ms, span.end_ms, length_ms)
    ]


def _judge(bundle: Bundle, rows: LabelledVectors, fold: Fold, plan: EvaluationPlan) -> _Part:
    test = judged_rows(rows, fold, plan.label_delay_days)
    judged = Judged(test, bundle.model.score(test.vectors))
    record = FoldFigures(
        format_time(fold.test_ms[0]),
        format_time(fold.test_ms[1]),
        len(rows.between(*fold.test_ms)) - len(test),
        _why_left_out(test),
        figures_of(judged, plan.lines),
    )
    return _Part(fold, judged, record)


def _why_left_out(test: LabelledVectors) -> str | None:
    if not len(test):
        return "no payments"
    if has_both_kinds(test):
        return None
    return "nothing genuine" if test.is_fraud.any() else "no fraud"


def _count_folds(parts: Sequence[_Part]) -> list[_Part]:
    """Let a last fold that is shorter than the others not count, if another one does."""
    *others, last = parts
    lengths_ms = [part.fold.test_ms[1] - part.fold.test_ms[0] for part in parts]
    is_needed = all(part.record.left_out_because is not None for part in others)
    if is_needed or last.record.left_out_because is not None or len(set(lengths_ms)) == 1:
        return [*parts]
    record = replace(last.record, left_out_because="shorter than the others")
    return [*others, replace(last, record=record)]


def _describe_data(
    bundle: Bundle,
    rows: LabelledVectors,
    span: Span,
    judged: LabelledVectors,
    plan: EvaluationPlan,
) -> EvaluatedData:
    amounts_minor = judged.amount_minor[judged.is_fraud]
    return EvaluatedData(
        file=plan.data,
        begins=format_time(rows.start_ms),
        ends=format_time(plan.data_end_ms),
        measured_from=format_time(span.start_ms),
        measured_until=format_time(span.end_ms),
        invalid_rows=plan.invalid_rows,
        payments=len(judged),
        frauds=len(amounts_minor),
        known_card_payments=len(rows.between(span.start_ms, span.end_ms)) - len(judged),
        currency=plan.currency,
        fraud_amount_minor=int(amounts_minor[amounts_minor >= 0].sum()),
        frauds_without_amount=int((amounts_minor < 0).sum()),
        history_days=(span.start_ms - rows.start_ms) / DAY_MS,
        longest_window_days=longest_window_ms(bundle) / DAY_MS,
    )


def _warnings(
    bundle: Bundle, data: EvaluatedData, folds: Sequence[FoldFigures], plan: EvaluationPlan
) -> Iterator[str]:
    trained_days = bundle.manifest.training.label_delay_days
    if plan.labels_after_ms != trained_days * DAY_MS:
        yield (
            f"The model learnt with labels known after {trained_days} days, and is measured with "
            f"{plan.labels_after_ms / DAY_MS:g}: its features are not what they were."
        )
    if data.invalid_rows:
        yield f"Rows left out because they break the event contract: {data.invalid_rows:,}."
    if data.frauds_without_amount:
        yield (
            f"{data.frauds_without_amount:,} of {data.frauds:,} frauds have no amount in "
            f"{data.currency}: they do not count in the value detected."
        )
    for fold in folds:
        if fold.left_out_because is not None:
            yield (
                f"The fold from {fold.measured_from[:10]} to before {fold.measured_until[:10]} "
                f"counts in no mean: {fold.left_out_because}. Its payments count in all else."
            )


def _days(start_ms: int, end_ms: int) -> str:
    return f"{format_time(start_ms)[:10]} to before {format_time(end_ms)[:10]}"


def _flat(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Put figures beside what they are the figures of."""
    if isinstance(value, dict):
        plain = {name: _flat(inner) for name, inner in value.items()}
        for name in ("figures", "detection"):
            plain |= plain.pop(name, {})
        return plain
    return [_flat(inner) for inner in value] if isinstance(value, (list, tuple)) else value
