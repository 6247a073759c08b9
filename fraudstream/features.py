"""Transaction + windows → the model's float32 vector. Third stage of the data's way.

    EventColumns ───┐
                    ├─ VectorBuilder ─▶ float32 (n, features) ─▶ score
    ProfileAnswers ─┘

A feature's name says what it is: ``<entity>_<measure>_<aggregate>_<window>[_lag<d>]``. Which ones
there are says a feature set (`fraudstream.feature_set`); the order of the columns belongs to the
model's manifest, never to this file. Whatever the evaluator (Valkey, memory, Polars), the numbers
are made here, from integer counts and sums, in float64 by `fraudstream.aggregates`, and rounded
to float32 once.

A window is ``(t − lag − w, t − lag]``. Each feature says whether the present payment counts in it,
what stands for an empty window, and what for one that cannot be known: NaN, XGBoost's own mark for
missing, or a number.

Source: Fraud-Detection-Handbook (Le Borgne et al. 2022), chapter 3, baseline transformations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fraudstream import aggregates
from fraudstream.event import Transaction
from fraudstream.profile import (
    SCAN_UNKNOWN,
    ProfileAnswers,
    ProfileDefinition,
    Scan,
    Series,
    SeriesAnswers,
    Window,
)

Aggregate = Literal[
    "amount",
    "is_weekend",
    "is_night",
    "hour",
    "hash",
    "frequency",
    "count",
    "sum",
    "mean",
    "std",
    "rate",
    "seconds_since_last",
    "ratio_to_mean",
    "distinct_count",
    "quantile",
]
#: Known from the payment alone.
STATELESS_AGGREGATES: Final = ("amount", "is_weekend", "is_night", "hour", "hash", "frequency")
#: The function behind each aggregate: its docstring explains it with an example.
FUNCTIONS: Final[Mapping[Aggregate, Callable[..., NDArray[np.float64]]]] = {
    "amount": aggregates.amount,
    "is_weekend": aggregates.is_weekend,
    "is_night": aggregates.is_night,
    "hour": aggregates.hour,
    "hash": aggregates.hashed,
    "frequency": aggregates.frequency,
    "count": aggregates.count,
    "sum": aggregates.total,
    "mean": aggregates.mean,
    "std": aggregates.deviation,
    "rate": aggregates.rate,
    "seconds_since_last": aggregates.seconds_since_last,
    "ratio_to_mean": aggregates.ratio_to_mean,
    "distinct_count": aggregates.distinct_count,
    "quantile": aggregates.quantile,
}
_SCAN_KINDS: Final[Mapping[str, Literal["distinct", "quantile", "last"]]] = {
    "distinct_count": "distinct",
    "quantile": "quantile",
    "seconds_since_last": "last",
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the vector.

    Parameters
    ----------
    name
        Its name in our grammar.
    aggregate
        What is made of the counts and sums: a key of `FUNCTIONS`.
    series
        Which series it reads; for a rate the counted one, then the labels.
    window
        Over which window, and whether the present payment counts in it; None for a feature of the
        payment alone.
    reason_code
        What an alert calls it: several features may share a reason.
    meaning
        In words, for alerts and for people.
    when_empty
        What stands for a window that holds nothing to make a value of; None is NaN.
    when_unknown
        What stands for a value that cannot be known; None is NaN.
    field
        The event field that a categorical feature or a distinct count is about.
    per_mille
        Which quantile.
    buckets
        Into how many a text is hashed.
    shares
        How frequent each text is.
    """

    name: str
    aggregate: Aggregate
    series: tuple[str, ...]
    window: Window | None
    reason_code: str
    meaning: str
    when_empty: float | None = None
    when_unknown: float | None = None
    field: str = ""
    per_mille: int = 0
    buckets: int = 0
    shares: tuple[tuple[str, float], ...] = ()

    @property
    def is_stateless(self) -> bool:
        """Whether it can be known without any profile."""
        return self.window is None

    @property
    def scan(self) -> Scan | None:
        """What it needs looked up record by record; None if counts and sums are enough."""
        kind = _SCAN_KINDS.get(self.aggregate)
        if kind is None or self.window is None:
            return None
        return Scan(kind, self.window, self.field, self.per_mille)

    def definition(self) -> dict[str, object]:
        """Say all that fixes its value, for the model's manifest."""
        window = self.window
        return {
            "name": self.name,
            "aggregate": self.aggregate,
            "series": list(self.series),
            "window_ms": window.length_ms if window else None,
            "lag_ms": window.lag_ms if window else None,
            "counts_present": window is not None and window.lag_ms == 0 and window.counts_present,
            "when_empty": self.when_empty,
            "when_unknown": self.when_unknown,
            "field": self.field,
            "per_mille": self.per_mille,
            "buckets": self.buckets,
            "shares": [list(share) for share in self.shares],
        }


@dataclass(frozen=True, slots=True, eq=False)
class EventColumns:
    """What features need of n payments themselves, as columns.

    Attributes
    ----------
    event_time_ms
        Shape (n,), int64, epoch milliseconds.
    amount_base_minor
        Shape (n,), int64: minor units of the profiles' currency, −1 where that is not known.
    texts
        By field name, n texts or None: the fields of categorical features.
    """

    event_time_ms: NDArray[np.int64]
    amount_base_minor: NDArray[np.int64]
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of payments."""
        return len(self.event_time_ms)

    @classmethod
    def of(cls, transactions: Sequence[Transaction], fields: Sequence[str] = ()) -> EventColumns:
        """Take the columns out of transactions."""
        amounts = [-1 if (a := t.amount_base_minor) is None else a for t in transactions]
        return cls(
            np.array([t.event_time_ms for t in transactions], dtype=np.int64),
            np.array(amounts, dtype=np.int64),
            {name: [t.text(name) for t in transactions] for name in fields},
        )


#: Values, and where a value cannot be known.
_Column: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.bool_]]"


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

    def __init__(
        self,
        features: Sequence[Feature],
        definition: ProfileDefinition,
        minor_per_major: int = 100,
    ) -> None:
        self.features = tuple(features)
        #: Event fields that categorical features read.
        self.text_fields = tuple(sorted({f.field for f in features if f.is_stateless and f.field}))
        self._series = {series.name: series for series in definition.series}
        self._minor_per_major = minor_per_major

    def build(self, events: EventColumns, answers: ProfileAnswers | None) -> NDArray[np.float32]:
        """Build the vectors of n payments.

        Parameters
        ----------
        events
            The n payments.
        answers
            What the profile store said of them; None builds NaN for all that needs it.

        Returns
        -------
        vectors
            Shape (n, features), float32, C-contiguous.
        """
        vectors = np.empty((len(events), len(self.features)), dtype=np.float32)
        for index, feature in enumerate(self.features):
            if feature.is_stateless:
                column = self._stateless(feature, events)
            elif answers is None:
                vectors[:, index] = np.nan
                continue
            else:
                column = self._windowed(feature, events, answers)
            vectors[:, index] = _filled(feature, *column)
        return vectors

    def _stateless(self, feature: Feature, events: EventColumns) -> _Column:
        if feature.aggregate == "amount":
            values = aggregates.amount(events.amount_base_minor, self._minor_per_major)
            return values, events.amount_base_minor < 0
        if feature.field:
            texts = events.texts[feature.field]
            missing = np.array([text is None for text in texts], dtype=bool)
            if feature.aggregate == "hash":
                return aggregates.hashed(texts, feature.buckets), missing
            return aggregates.frequency(texts, dict(feature.shares)), missing
        never = np.zeros(len(events), dtype=bool)
        return FUNCTIONS[feature.aggregate](events.event_time_ms), never

    def _windowed(self, feature: Feature, events: EventColumns, answers: ProfileAnswers) -> _Column:
        assert feature.window is not None
        name = feature.series[0]
        found, series = answers.series[name], self._series[name]
        if feature.scan is not None:
            return self._scanned(feature, found.scans[:, series.scans.index(feature.scan)])
        index = series.windows.index(feature.window)
        read = _Read(found.counts[:, index], _sums(series, found, index), events)
        unknown = read.counts < 0
        if feature.aggregate == "rate":
            labels = self._series[feature.series[1]]
            label_index = labels.windows.index(feature.window)
            label_answers = answers.series[labels.name]
            unknown |= label_answers.counts[:, label_index] < 0
            frauds = _sums(labels, label_answers, label_index)["fraud"]
            return aggregates.rate(frauds, read.counts), unknown
        if feature.aggregate == "ratio_to_mean":
            unknown |= events.amount_base_minor < 0
        return _WINDOWED[feature.aggregate](read, self._minor_per_major), unknown

    def _scanned(self, feature: Feature, column: NDArray[np.int64]) -> _Column:
        unknown = column == SCAN_UNKNOWN
        if feature.aggregate == "quantile":
            return aggregates.quantile(column, self._minor_per_major), unknown
        return FUNCTIONS[feature.aggregate](column), unknown


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """One window of one series, and the payments that it was read for."""

    counts: NDArray[np.int64]
    sums: Mapping[str, NDArray[np.int64]]
    events: EventColumns


def _sums(series: Series, found: SeriesAnswers, window: int) -> dict[str, NDArray[np.int64]]:
    return {name: found.sums[:, window, c] for c, name in enumerate(series.measures)}


def _total(read: _Read, minor_per_major: int) -> NDArray[np.float64]:
    if "fraud" in read.sums:
        return aggregates.total(read.sums["fraud"], 1)
    return aggregates.total(read.sums["amount_minor"], minor_per_major)


def _deviation(read: _Read, minor_per_major: int) -> NDArray[np.float64]:
    squares = [read.sums[f"amount_square_{limb}"] for limb in range(3)]
    amount, known = read.sums["amount_minor"], read.sums["amount_known"]
    return aggregates.deviation(amount, squares, known, minor_per_major)


#: How each aggregate of one window takes its numbers from what was read.
_WINDOWED: Final[Mapping[str, Callable[[_Read, int], NDArray[np.float64]]]] = {
    "count": lambda read, _: aggregates.count(read.counts),
    "sum": _total,
    "mean": lambda read, scale: aggregates.mean(
        read.sums["amount_minor"], read.sums["amount_known"], scale
    ),
    "std": _deviation,
    "ratio_to_mean": lambda read, _: aggregates.ratio_to_mean(
        read.events.amount_base_minor, read.sums["amount_minor"], read.sums["amount_known"]
    ),
}


def _filled(
    feature: Feature, values: NDArray[np.float64], unknown: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Put the feature's own numbers where there is nothing, and where nothing can be known."""
    if feature.when_empty is not None:
        values = np.where(np.isnan(values), feature.when_empty, values)
    when_unknown = np.nan if feature.when_unknown is None else feature.when_unknown
    return np.where(unknown, when_unknown, values)
