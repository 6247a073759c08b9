"""What was evaluated: which model on which days of which data, and how final their labels are.

    │ training │ label delay │ measured by default ─────▶ │ end of the data
    │ ◀── history: frauds known by then, windows look back on it

A figure is worth what is known about these, so each evaluation says them, and what speaks against
its figures in so many words.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fraudstream.bundle import Bundle
from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """Which model was evaluated.

    Attributes
    ----------
    name, version, sha256
        As in the bundle, and so in every decision.
    engine
        What computes the scores.
    is_probability, calibration
        Whether its manifest says that a score is a probability, and by which method.
    learnt_from, learnt_until
        The days it learnt from, RFC 3339: ``[from, until)``.
    label_maturity
        How final the labels were that it learnt from, in its maker's words.
    """

    name: str
    version: str
    sha256: str
    engine: str
    is_probability: bool
    calibration: str | None
    learnt_from: str
    learnt_until: str
    label_maturity: str


@dataclass(frozen=True, slots=True)
class EvaluatedData:
    """What it was evaluated on.

    Attributes
    ----------
    file
        The file's name.
    begins, ends
        The days it covers, RFC 3339: ``[begins, ends)``.
    measured_from, measured_until
        The days that were measured, alike.
    invalid_rows
        How many rows were left out, because they break the event contract.
    payments, frauds
        How many were measured.
    known_card_payments
        How many payments of the measured days were left out, because their card was known to be
        compromised.
    currency
        Of the amounts.
    fraud_amount_minor
        The frauds' amount, in minor units of ``currency``.
    frauds_without_amount
        How many frauds have no amount in that currency.
    history_days, longest_window_days
        How far the data go back before the first measured day, and how far the model looks back.
    """

    file: str
    begins: str
    ends: str
    measured_from: str
    measured_until: str
    invalid_rows: int
    payments: int
    frauds: int
    known_card_payments: int
    currency: str
    fraud_amount_minor: int
    frauds_without_amount: int
    history_days: float
    longest_window_days: float


@dataclass(frozen=True, slots=True)
class EvaluatedLabels:
    """How final the labels are that it was evaluated by.

    Attributes
    ----------
    known_after_days
        How long after a fraud its label enters features, and its card is known.
    youngest_days
        How long before the data's end the last measured day ends: what was found out later than
        that about its payments is missing.
    maturity
        What the person who evaluated says about them; None if nothing.
    statement
        All that in a sentence.
    """

    known_after_days: float
    youngest_days: int
    maturity: str | None
    statement: str


@dataclass(frozen=True, slots=True)
class Span:
    """Which days are measured: ``[start, end)``, epoch milliseconds, whole days (UTC).

    ``is_in_sample`` says that the model may have learnt from them, ``warnings`` what else speaks
    against the figures.
    """

    start_ms: int
    end_ms: int
    is_in_sample: bool
    warnings: tuple[str, ...]


def choose_span(rows: LabelledVectors, bundle: Bundle, from_ms: int | None) -> Span:
    """Choose what is measured.

    Parameters
    ----------
    rows
        All of the data, up to the last day that is measured.
    bundle
        The model.
    from_ms
        The first day; None chooses the first one that the model cannot know, which is a label
        delay after its training, or the data's first if they do not reach so far.

    Raises
    ------
    UsageError
        There is nothing from that day on.
    """
    training = bundle.manifest.training
    learnt_ms = (_time_ms(training.train.start), _time_ms(training.train.end))
    unknown_ms = learnt_ms[1] + training.label_delay_days * DAY_MS
    if from_ms is None:
        from_ms = unknown_ms if unknown_ms < rows.end_ms else rows.start_ms
    start_ms = max(from_ms, rows.start_ms)
    if start_ms >= rows.end_ms:
        raise UsageError(
            f"nothing is left to measure from {_day(from_ms)} on: the data end on "
            f"{_day(rows.end_ms - DAY_MS)}; give an earlier day or later data"
        )
    is_in_sample = start_ms < learnt_ms[1] and learnt_ms[0] < rows.end_ms
    warnings = []
    if is_in_sample:
        warnings.append(_in_sample(rows, learnt_ms, training.data_sha256))
    elif rows.end_ms <= learnt_ms[0]:
        warnings.append(
            f"The model learnt from later days ({_days(learnt_ms)}): it may know what came after "
            "these payments."
        )
    return Span(start_ms, rows.end_ms, is_in_sample, (*warnings, *_short(rows, bundle, start_ms)))


def describe_model(bundle: Bundle) -> EvaluatedModel:
    """Say which model it is."""
    manifest = bundle.manifest
    calibration = manifest.calibration
    return EvaluatedModel(
        bundle.name,
        bundle.version,
        bundle.sha256,
        manifest.engine,
        calibration is not None,
        None if calibration is None else calibration.method,
        manifest.training.train.start,
        manifest.training.train.end,
        manifest.label_maturity.strip(),
    )


def describe_labels(
    known_after_ms: int, measured_end_ms: int, data_end_ms: int, maturity: str | None
) -> EvaluatedLabels:
    """Say how final the labels are.

    Parameters
    ----------
    known_after_ms
        How long after a fraud its label is known.
    measured_end_ms, data_end_ms
        Where the last measured day ends, and where the data do.
    maturity
        What else is known about it, in words.
    """
    known_after_days = known_after_ms / DAY_MS
    youngest_days = max(0, data_end_ms - measured_end_ms) // DAY_MS
    statement = (
        f"Labels are known after {_count(known_after_days)}; the last measured day ends "
        f"{_count(youngest_days)} before the data do: frauds reported later are missing."
    )
    if maturity is not None:
        words = maturity.strip().rstrip(".")
        statement += f" {words[:1].upper()}{words[1:]}."
    return EvaluatedLabels(known_after_days, youngest_days, maturity, statement)


def longest_window_ms(bundle: Bundle) -> int:
    """Say how far the model looks back."""
    return max((f.window.reach_ms for f in bundle.features if f.window is not None), default=0)


def _in_sample(rows: LabelledVectors, learnt_ms: tuple[int, int], sha256: str) -> str:
    period = _days(learnt_ms)
    if rows.between(*learnt_ms).sha256() == sha256:
        return (
            f"The model learnt from these payments ({period}): the figures are too good. Measure "
            "on later ones."
        )
    return (
        f"Measured days lie in the period that the model learnt from ({period}): if it learnt from "
        "these payments, the figures are too good. Measure on later ones."
    )


def _short(rows: LabelledVectors, bundle: Bundle, start_ms: int) -> list[str]:
    reach_ms = longest_window_ms(bundle)
    if start_ms - rows.start_ms >= reach_ms:
        return []
    return [
        f"The data begin {_count((start_ms - rows.start_ms) / DAY_MS)} before the first measured "
        f"day, and the model looks back {_count(reach_ms / DAY_MS)}: until then windows hold less "
        "than they would."
    ]


def _time_ms(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def _days(bounds_ms: tuple[int, int]) -> str:
    return f"{_day(bounds_ms[0])} to before {_day(bounds_ms[1])}"


def _day(time_ms: int) -> str:
    return format_time(time_ms)[:10]


def _count(days: float) -> str:
    """Write a number of days.

    Examples
    --------
    >>> _count(7.0), _count(1), _count(0.5)
    ('7 days', '1 day', '0.5 days')
    """
    return f"{days:g} day" if days == 1 else f"{days:g} days"
