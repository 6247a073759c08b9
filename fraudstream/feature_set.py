"""The definition of features: what is remembered of whom, and what is made of it.

    YAML document ─▶ FeatureSetDocument (validated) ─▶ FeatureSet ─▶ series for the profile store
                                                           └───────▶ features for the vectors

One definition serves the stream, the files and the edge: it is hashed and travels inside the model
bundle, so that a model is never fed by other features than the ones it learnt from. A mistake in a
document is told as a sentence that says what to write instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import ValidationError

from fraudstream.errors import FeatureSetError
from fraudstream.event import CONTRACT_FIELDS, LABEL_ENTITY_FIELDS, TEXT_FIELDS
from fraudstream.feature_document import (
    WINDOW_MIN_MS,
    FeatureDocument,
    FeatureSetDocument,
    SeriesDocument,
    checked_duration,
    duration_words,
    refuse,
)
from fraudstream.features import STATELESS_AGGREGATES, Aggregate, Feature
from fraudstream.profile import MEASURES, ProfileDefinition, Scan, Series, Window

#: More would make every record large and every call slow.
FEATURES_MAX: Final = 500
_KEPT_MEASURES: Final = {
    "amount": ("amount_minor", "amount_known"),
    "amount_squares": ("amount_square_0", "amount_square_1", "amount_square_2"),
}
#: What a series must keep for an aggregate.
_NEEDS: Final = {
    "sum": "amount",
    "mean": "amount",
    "std": "amount_squares",
    "ratio_to_mean": "amount",
    "quantile": "amount",
}


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A checked feature set.

    Attributes
    ----------
    name
        What it is called.
    document
        What it was made from, with every default written out: plain JSON values.
    features
        All features, in the document's order.
    series
        What is recorded, by name, with everything that the features read.
    extra_fields
        Event fields beyond the contract that are read.
    """

    name: str
    document: Mapping[str, Any]
    features: tuple[Feature, ...]
    series: tuple[Series, ...]
    extra_fields: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash of the document: two sets with the same hash give the same numbers."""
        canonical = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def reads_labels(self) -> bool:
        """Whether any feature depends on what became of earlier payments."""
        return any(s.kind == "labels" and (s.windows or s.scans) for s in self.series)

    def profile_definition(self, currency: str) -> ProfileDefinition:
        """Say what a profile store must keep, with amounts in this currency."""
        return ProfileDefinition(self.series, currency)

    def select(self, names: Sequence[str]) -> tuple[Feature, ...]:
        """Pick features by name.

        Raises
        ------
        FeatureSetError
            There is none of that name.
        """
        by_name = {feature.name: feature for feature in self.features}
        if odd := [name for name in names if name not in by_name]:
            raise FeatureSetError(
                f"feature set {self.name!r} has no feature {odd[0]!r}; it has {', '.join(by_name)}"
            )
        return tuple(by_name[name] for name in names)


def parse_feature_set(document: object) -> FeatureSet:
    """Check a feature set, as YAML or JSON gave it.

    Raises
    ------
    FeatureSetError
        It is wrong; says where, and what to write instead.

    Examples
    --------
    >>> feature_set = parse_feature_set({
    ...     "version": 1, "name": "small",
    ...     "entities": {"card": {"field": "card_id"}},
    ...     "series": {"card_tx": {"entity": "card", "records": "transactions"}},
    ...     "features": [{"aggregate": "count", "series": "card_tx", "windows": ["5m", "1d"]}]})
    >>> [feature.name for feature in feature_set.features]
    ['card_tx_count_5m', 'card_tx_count_1d']
    """
    try:
        written = FeatureSetDocument.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the document"
        raise FeatureSetError(f"{place}: {_sentence(fault)}") from None
    return _Compiler(written).compile()


class _Compiler:
    """Turns one document into a `FeatureSet`, refusing what does not fit together."""

    def __init__(self, written: FeatureSetDocument) -> None:
        self._written = written
        self._fields = self._entity_fields()
        self._names: dict[str, str] = {}

    def compile(self) -> FeatureSet:
        self._check_series()
        features = [
            feature
            for number, line in enumerate(self._written.features)
            for feature in self._features(f"features.{number}", line)
        ]
        if len(features) > FEATURES_MAX:
            raise FeatureSetError(f"{len(features)} features are too many: {FEATURES_MAX} at most")
        extra = {*self._fields.values(), *(f.field for f in features if f.field)}
        extra |= {kept for s in self._written.series.values() for kept in s.keeps}
        known = {*CONTRACT_FIELDS, *_KEPT_MEASURES}
        return FeatureSet(
            self._written.name,
            self._written.model_dump(mode="json", exclude_none=True),
            tuple(features),
            tuple(self._series(name, features) for name in sorted(self._written.series)),
            tuple(sorted(extra - known)),
        )

    def _entity_fields(self) -> dict[str, str]:
        for name, entity in self._written.entities.items():
            is_text = entity.field in TEXT_FIELDS and entity.field != "transaction_id"
            if entity.field in CONTRACT_FIELDS and not is_text:
                refuse(
                    f"entities.{name}", f"{entity.field} names nobody: use an id such as card_id"
                )
            if entity.field not in CONTRACT_FIELDS and not entity.optional:
                refuse(
                    f"entities.{name}",
                    f"{entity.field} is not in the event contract, so events may lack it: add "
                    "`optional: true`",
                )
        return {name: entity.field for name, entity in self._written.entities.items()}

    def _check_series(self) -> None:
        for name, series in self._written.series.items():
            place = f"series.{name}"
            if series.entity not in self._fields:
                known = ", ".join(self._fields)
                refuse(place, f"there is no entity {series.entity!r}; the entities are {known}")
            if not name.startswith(f"{series.entity}_"):
                refuse(place, f"its name must begin with its entity's: {series.entity}_…")
            checked_duration(f"{place}.allowed_lateness", series.allowed_lateness, 0)
            if series.records == "labels":
                self._check_labels(place, series)
            _check_keeps(place, series.keeps)
        if not any(
            series.records == "transactions" and self._fields[series.entity] == "card_id"
            for series in self._written.series.values()
        ):
            raise FeatureSetError(
                "series: none records the transactions of a card, and without one a payment that "
                "comes twice is not noticed: add `card_tx: {entity: card, records: transactions}`"
            )

    def _check_labels(self, place: str, series: SeriesDocument) -> None:
        if self._fields[series.entity] not in LABEL_ENTITY_FIELDS:
            refuse(
                place,
                f"labels do not carry {self._fields[series.entity]}; they can be recorded of "
                f"{' and '.join(LABEL_ENTITY_FIELDS)} only",
            )
        if series.keeps:
            refuse(place, "keeps: of a label nothing else is kept; leave it out")

    def _features(self, place: str, line: FeatureDocument) -> list[Feature]:
        if line.aggregate in STATELESS_AGGREGATES:
            return [self._stateless(place, line)]
        self._check_windowed(place, line)
        if line.name is not None and len(line.windows) > 1:
            refuse(place, "a name of your own goes with a single window")
        return [self._windowed(place, line, window) for window in line.windows]

    def _stateless(self, place: str, line: FeatureDocument) -> Feature:
        given = {"series": line.series, "against": line.against, "quantile": line.quantile}
        odd = [word for word, value in given.items() if value is not None]
        odd += ["windows"] * bool(line.windows) + ["lag"] * (line.lag != "0d")
        if odd:
            refuse(place, f"{line.aggregate} is of the payment alone: leave out `{odd[0]}`")
        needs_field = line.aggregate in ("hash", "frequency")
        if needs_field != (line.field is not None):
            words = "needs a `field`" if needs_field else "takes no `field`"
            refuse(place, f"{line.aggregate} {words}")
        if (line.aggregate == "hash") != (line.buckets is not None):
            refuse(place, "`buckets` belongs to hash, which needs it: into how many numbers")
        if (line.aggregate == "frequency") != (line.shares is not None):
            refuse(place, "`shares` belongs to frequency, which needs it: {EUR: 0.9, USD: 0.1}")
        base = line.aggregate if line.field is None else f"{_measure(line.field)}_{line.aggregate}"
        return Feature(
            name=self._claim(place, line.name or base),
            aggregate=line.aggregate,
            series=(),
            window=None,
            reason_code=line.reason or base.upper(),
            meaning=line.meaning or base.replace("_", " "),
            when_empty=line.when_empty,
            when_unknown=line.when_unknown,
            field=line.field or "",
            buckets=line.buckets or 0,
            shares=tuple(sorted((line.shares or {}).items())),
        )

    def _check_windowed(self, place: str, line: FeatureDocument) -> None:
        series = self._find_series(place, line.series, "series")
        if not line.windows:
            refuse(place, f"{line.aggregate} needs `windows`, such as [1d, 7d]")
        if line.buckets is not None or line.shares is not None:
            refuse(place, "`buckets` and `shares` belong to hash and frequency")
        if (line.aggregate == "rate") != (line.against is not None):
            refuse(place, "`against` belongs to rate, which needs it: the series that is counted")
        if line.aggregate == "rate":
            self._check_rate(place, line, series)
        elif series.records == "labels" and line.aggregate not in ("count", "sum"):
            refuse(place, f"{line.aggregate} cannot be made of labels; use rate, count or sum")
        self._check_kept(place, line, series)
        if (line.aggregate == "quantile") != (line.quantile is not None):
            refuse(place, "`quantile` belongs to quantile, which needs it: 0.5 is the median")
        if checked_duration(place, line.lag, 0) and not self._has_labels(series.entity):
            refuse(
                place,
                f"a lag waits for what becomes known of payments, and no labels of a "
                f"{series.entity} are recorded: add a series with `records: labels`, or leave out "
                "`lag`",
            )

    def _check_rate(self, place: str, line: FeatureDocument, series: SeriesDocument) -> None:
        counted = self._find_series(place, line.against, "against")
        if series.records != "labels" or counted.records != "transactions":
            refuse(place, "a rate is of a series of labels `against` one of transactions")
        if series.entity != counted.entity:
            refuse(place, "a rate's two series must be of the same entity")

    def _check_kept(self, place: str, line: FeatureDocument, series: SeriesDocument) -> None:
        if line.aggregate == "distinct_count":
            if line.field is None:
                refuse(place, "distinct_count needs a `field`: what of which is counted")
            needed: str | None = line.field
        elif line.field is not None:
            refuse(place, f"{line.aggregate} takes no `field`")
        else:
            needed = _NEEDS.get(line.aggregate)
        if series.records == "transactions" and needed and needed not in series.keeps:
            refuse(
                place,
                f"{line.aggregate} needs {needed} of every record: write `keeps: "
                f"[{', '.join((*series.keeps, needed))}]` at series {line.series}",
            )

    def _find_series(self, place: str, name: str | None, key: str) -> SeriesDocument:
        known = self._written.series
        if name is None or name not in known:
            refuse(place, f"`{key}` must name a series: {', '.join(known)}")
        return known[name]

    def _has_labels(self, entity: str) -> bool:
        return any(
            s.records == "labels" and s.entity == entity for s in self._written.series.values()
        )

    def _windowed(self, place: str, line: FeatureDocument, length: str) -> Feature:
        assert line.series is not None
        lag_ms = checked_duration(place, line.lag, 0)
        length_ms = checked_duration(place, length, WINDOW_MIN_MS)
        if lag_ms and line.counts_present:
            refuse(place, "the present payment cannot count in a window that ends before it")
        window = Window(
            length_ms, lag_ms, counts_present=lag_ms > 0 or line.counts_present is not False
        )
        base = self._base(line)
        name = line.name or f"{base}_{length}" + (f"_lag{line.lag}" if lag_ms else "")
        words = f"{line.meaning or base.replace('_', ' ')} within {duration_words(length)}"
        if lag_ms:
            words += f", up to {duration_words(line.lag)} ago"
        return Feature(
            name=self._claim(place, name),
            aggregate=line.aggregate,
            series=(line.series,) if line.against is None else (line.against, line.series),
            window=window,
            reason_code=line.reason or base.upper(),
            meaning=words,
            when_empty=line.when_empty,
            when_unknown=line.when_unknown,
            field=line.field or "",
            per_mille=round((line.quantile or 0) * 1000),
        )

    def _base(self, line: FeatureDocument) -> str:
        """Say entity, measure and aggregate in our grammar."""
        assert line.series is not None
        series = self._written.series[line.series]
        kept = line.series.removeprefix(f"{series.entity}_")
        measure, aggregate = kept, str(line.aggregate)
        if line.aggregate in _NEEDS:
            measure = "fraud" if series.records == "labels" else "amount"
        if line.aggregate == "rate":
            measure = "fraud"
        if line.aggregate == "distinct_count":
            measure = _measure(line.field or "")
        if line.aggregate == "quantile":
            per_mille = round((line.quantile or 0) * 1000)
            aggregate = "median" if per_mille == 500 else f"q{per_mille / 10:g}".replace(".", "_")
        return f"{series.entity}_{measure}_{aggregate}"

    def _claim(self, place: str, name: str) -> str:
        if name in self._names:
            refuse(
                place,
                f"there are two features {name} (the other at {self._names[name]}): leave one out, "
                "or give one a `name` of its own",
            )
        self._names[name] = place
        return name

    def _series(self, name: str, features: Sequence[Feature]) -> Series:
        written = self._written.series[name]
        kind = written.records
        measures = MEASURES["labels"] if kind == "labels" else ()
        for kept in written.keeps:
            measures += _KEPT_MEASURES.get(kept, ())
        windows: set[Window] = set()
        scans: set[Scan] = set()
        for feature in features:
            if name in feature.series and feature.window is not None:
                if feature.scan is not None:
                    scans.add(feature.scan)
                else:
                    windows.add(feature.window)
        return Series(
            name,
            self._fields[written.entity],
            kind,
            measures,
            tuple(sorted(windows, key=lambda w: (w.lag_ms, w.length_ms, w.counts_present))),
            checked_duration(name, written.allowed_lateness, 0),
            tuple(kept for kept in written.keeps if kept not in _KEPT_MEASURES),
            tuple(sorted(scans)),
        )


def _check_keeps(place: str, keeps: Sequence[str]) -> None:
    for kept in keeps:
        if kept in CONTRACT_FIELDS and kept not in TEXT_FIELDS:
            refuse(place, f"keeps: {kept} is no text; write amount for amounts")
    if len(set(keeps)) < len(keeps):
        refuse(place, "keeps: something is named twice")
    if "amount_squares" in keeps and "amount" not in keeps:
        refuse(place, "keeps: amount_squares need amount beside them")


def _measure(field: str) -> str:
    return field.removesuffix("_id")


def _sentence(fault: Any) -> str:  # noqa: ANN401 - pydantic's own dictionary
    if fault["type"] == "extra_forbidden":
        return "there is no such word here; see docs/features.md"
    if fault["type"] == "literal_error" and "aggregate" in fault["loc"]:
        return f"there is no such aggregate; there are {', '.join(get_args(Aggregate))}"
    return str(fault["msg"]).removeprefix("Value error, ")
