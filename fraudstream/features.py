"""Transaction + windows → the model's float32 vector. Third stage of the data's way.

    Transaction ────┐
                    ├─ build_vectors ─▶ float32 (n, features) ─▶ score
    ProfileAnswers ─┘

A feature's name says what it is: ``<entity>_<measure>_<aggregate>_<window>[_lag<d>]``. The order
of the columns belongs to the model's manifest, never to this file. Whatever the evaluator (Valkey,
memory), the numbers are made here, from integer counts and sums, in float64, and rounded to
float32 once.

What every default feature says of the edges: a window is ``(t − lag − w, t − lag]``; the
present transaction counts in windows without a lag; a value that cannot be known is NaN,
XGBoost's own mark for missing; a fraud rate over nothing is 0, as in the reference data.

Source: Fraud-Detection-Handbook (Le Borgne et al. 2022), chapter 3, baseline transformations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fraudstream.errors import BundleError
from fraudstream.event import Transaction
from fraudstream.profile import (
    DAY_MS,
    ProfileAnswers,
    ProfileDefinition,
    Series,
    SeriesAnswers,
    Window,
)

Aggregate = Literal["amount", "is_weekend", "is_night", "count", "mean", "rate"]

#: What is recorded, whichever windows are read. A series without windows is left out.
_RECORDED: dict[str, tuple[Literal["card_id", "terminal_id"], str, tuple[str, ...]]] = {
    "card_tx": ("card_id", "transactions", ("amount_minor", "amount_known")),
    "terminal_tx": ("terminal_id", "transactions", ()),
    "terminal_label": ("terminal_id", "labels", ("fraud",)),
}
_STATELESS: dict[str, tuple[Aggregate, str, str]] = {
    "amount": ("amount", "AMOUNT", "amount of this payment"),
    "is_weekend": ("is_weekend", "WEEKEND", "payment made on a Saturday or Sunday (UTC)"),
    "is_night": ("is_night", "NIGHT", "payment made between 00:00 and 06:59 (UTC)"),
}
#: Measure and aggregate in a name → aggregate, series that are read, reason code, words.
_WINDOWED: dict[str, tuple[Aggregate, tuple[str, ...], str, str]] = {
    "card_tx_count": ("count", ("card_tx",), "CARD_VELOCITY", "payments with this card"),
    "card_amount_mean": ("mean", ("card_tx",), "CARD_SPENDING", "mean amount of this card"),
    "terminal_tx_count": (
        "count",
        ("terminal_tx",),
        "TERMINAL_TRAFFIC",
        "payments at this terminal",
    ),
    "terminal_fraud_rate": (
        "rate",
        ("terminal_tx", "terminal_label"),
        "TERMINAL_FRAUD",
        "share of frauds at this terminal",
    ),
}
_NAME = re.compile(r"(?P<base>[a-z_]+)_(?P<days>[1-9][0-9]?)d(?:_lag(?P<lag>[1-9][0-9]?)d)?")
_WINDOW_DAYS_MAX = 90


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the vector.

    Parameters
    ----------
    name
        Its name in our grammar.
    aggregate
        What is done with the counts and sums.
    series
        Which series it reads; for a rate the counted one, then the labels.
    window
        Over which window; None for a feature of the payment alone.
    reason_code
        What an alert calls it: several features may share a reason.
    meaning
        In words, for alerts and for ``--help``.
    """

    name: str
    aggregate: Aggregate
    series: tuple[str, ...]
    window: Window | None
    reason_code: str
    meaning: str

    @property
    def is_stateless(self) -> bool:
        """Whether it can be known without any profile."""
        return self.window is None

    def definition(self) -> dict[str, object]:
        """Say all that fixes its value, for the model's manifest."""
        window = self.window
        return {
            "name": self.name,
            "aggregate": self.aggregate,
            "series": list(self.series),
            "window_ms": window.length_ms if window else None,
            "lag_ms": window.lag_ms if window else None,
            "counts_present": window is not None and window.lag_ms == 0,
            "when_empty": 0.0 if self.aggregate in {"rate", "count"} else None,
        }


def parse_feature(name: str) -> Feature:
    """Read a feature's name.

    Raises
    ------
    BundleError
        The code knows no such feature.

    Examples
    --------
    >>> feature = parse_feature("terminal_fraud_rate_7d_lag7d")
    >>> feature.aggregate, feature.window
    ('rate', Window(length_ms=604800000, lag_ms=604800000))
    >>> parse_feature("card_tx_count_1d").meaning
    'payments with this card within 1 day'
    """
    if name in _STATELESS:
        aggregate, reason_code, meaning = _STATELESS[name]
        return Feature(name, aggregate, (), None, reason_code, meaning)
    found = _NAME.fullmatch(name)
    if found is None or found["base"] not in _WINDOWED or int(found["days"]) > _WINDOW_DAYS_MAX:
        raise BundleError(
            f"unknown feature {name!r}: features are {', '.join(_STATELESS)} and "
            f"{', '.join(_WINDOWED)}, followed by a window like _7d and at will a lag like _lag7d"
        )
    aggregate, series, reason_code, meaning = _WINDOWED[found["base"]]
    days, lag_days = int(found["days"]), int(found["lag"] or 0)
    words = f"{meaning} within {days} day{'s' if days > 1 else ''}"
    if lag_days:
        words += f", up to {lag_days} day{'s' if lag_days > 1 else ''} ago"
    window = Window(days * DAY_MS, lag_days * DAY_MS)
    return Feature(name, aggregate, series, window, reason_code, words)


DEFAULT_FEATURES: tuple[Feature, ...] = tuple(
    parse_feature(name)
    for name in (
        "amount",
        "is_weekend",
        "is_night",
        "card_tx_count_1d",
        "card_tx_count_7d",
        "card_tx_count_30d",
        "card_amount_mean_1d",
        "card_amount_mean_7d",
        "card_amount_mean_30d",
        "terminal_tx_count_1d_lag7d",
        "terminal_tx_count_7d_lag7d",
        "terminal_tx_count_30d_lag7d",
        "terminal_fraud_rate_1d_lag7d",
        "terminal_fraud_rate_7d_lag7d",
        "terminal_fraud_rate_30d_lag7d",
    )
)

#: What can still be known when no profile can be read.
FALLBACK_FEATURES: tuple[Feature, ...] = tuple(f for f in DEFAULT_FEATURES if f.is_stateless)


def profile_definition(features: Sequence[Feature]) -> ProfileDefinition:
    """Find out which series, and which windows of them, the features need.

    Examples
    --------
    >>> [series.name for series in profile_definition(DEFAULT_FEATURES).series]
    ['card_tx', 'terminal_tx', 'terminal_label']
    >>> profile_definition(DEFAULT_FEATURES).horizon_ms // DAY_MS
    38
    """
    series = []
    for name, (entity, kind, measures) in _RECORDED.items():
        windows = {f.window for f in features if f.window is not None and name in f.series}
        if windows:
            is_labels = kind == "labels"
            series.append(
                Series(
                    name,
                    entity,
                    "labels" if is_labels else "transactions",
                    measures,
                    tuple(sorted(windows, key=lambda w: (w.lag_ms, w.length_ms))),
                )
            )
    return ProfileDefinition(tuple(series))


@dataclass(frozen=True, slots=True)
class VectorBuilder:
    """Builds the vectors of one model: which features, in which order.

    Parameters
    ----------
    features
        The model's columns.
    definition
        The series that the answers come from.
    minor_per_major
        Minor units in one major unit of the profiles' currency: 100 for cents.
    """

    features: tuple[Feature, ...]
    definition: ProfileDefinition
    minor_per_major: int = 100

    def build(
        self, transactions: Sequence[Transaction], answers: ProfileAnswers | None
    ) -> NDArray[np.float32]:
        """Build the vectors of n transactions.

        Parameters
        ----------
        transactions
            The n transactions.
        answers
            What the profile store said of them; None builds NaN for all that needs it.

        Returns
        -------
        vectors
            Shape (n, features), float32, C-contiguous; NaN where a value cannot be known.
        """
        columns = [self._column(feature, transactions, answers) for feature in self.features]
        vectors = np.empty((len(transactions), len(columns)), dtype=np.float32)
        for index, column in enumerate(columns):
            vectors[:, index] = column
        return vectors

    def _column(
        self,
        feature: Feature,
        transactions: Sequence[Transaction],
        answers: ProfileAnswers | None,
    ) -> NDArray[np.float64]:
        if feature.window is None:
            return _STATELESS_COLUMNS[feature.aggregate](transactions, self.minor_per_major)
        if answers is None:
            return np.full(len(transactions), np.nan)
        counts, sums = self._windows(feature, feature.series[0], answers)
        if feature.aggregate == "count":
            return np.where(counts < 0, np.nan, counts)
        if feature.aggregate == "mean":
            amount_minor, known = sums[:, 0], sums[:, 1]
            return _divide(amount_minor / self.minor_per_major, known, counts < 0, np.nan)
        label_counts, label_sums = self._windows(feature, feature.series[1], answers)
        unknown = (counts < 0) | (label_counts < 0)
        return _divide(label_sums[:, 0].astype(np.float64), counts, unknown, 0.0)

    def _windows(
        self, feature: Feature, series_name: str, answers: ProfileAnswers
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        series = next(s for s in self.definition.series if s.name == series_name)
        assert feature.window is not None
        index = series.windows.index(feature.window)
        answer: SeriesAnswers = answers.series[series_name]
        return answer.counts[:, index], answer.sums[:, index]


def _divide(
    dividend: NDArray[np.float64],
    divisor: NDArray[np.int64],
    unknown: NDArray[np.bool_],
    when_empty: float,
) -> NDArray[np.float64]:
    quotient = np.full(len(dividend), when_empty)
    np.divide(dividend, divisor, out=quotient, where=divisor > 0)
    quotient[unknown] = np.nan
    return quotient


def _amounts(transactions: Sequence[Transaction], minor_per_major: int) -> NDArray[np.float64]:
    """Give the amount in major units of the profiles' currency; NaN when that is not known."""
    minor = [np.nan if t.amount_base_minor is None else t.amount_base_minor for t in transactions]
    return np.array(minor, dtype=np.float64) / minor_per_major


def _weekends(transactions: Sequence[Transaction], _: int) -> NDArray[np.float64]:
    """Give 1 for Saturday and Sunday. 1970-01-01 was a Thursday, day 3 counted from Monday."""
    days = np.array([t.event_time_ms for t in transactions], dtype=np.int64) // DAY_MS
    return ((days + 3) % 7 >= 5).astype(np.float64)


def _nights(transactions: Sequence[Transaction], _: int) -> NDArray[np.float64]:
    """Give 1 from 00:00:00 to 06:59:59, as the reference data do."""
    times_ms = np.array([t.event_time_ms for t in transactions], dtype=np.int64)
    return (times_ms % DAY_MS // 3_600_000 <= 6).astype(np.float64)


_STATELESS_COLUMNS: dict[str, Callable[[Sequence[Transaction], int], NDArray[np.float64]]] = {
    "amount": _amounts,
    "is_weekend": _weekends,
    "is_night": _nights,
}
