"""Feature sets and audits as tables for people, and as plain values for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

from fraudstream.profile import DAY_MS, Series, Window

if TYPE_CHECKING:
    from fraudstream.audit.report import Report
    from fraudstream.feature_set import FeatureSet
    from fraudstream.features import Feature

#: Wide enough for every column where nobody says how wide the paper is.
_WIDTH: Final = 180
_UNITS: Final = ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))
#: Event time, hash of the transaction id, source position.
_RECORD_BYTES: Final = 24
_NUMBER_BYTES: Final = 8

_FEATURE_HEADS: Final = (
    *("feature", "meaning", "reads", "window", "lag", "present"),
    *("empty", "unknown", "reason"),
)
_EPILOG: Final = """
A window reads (t - lag - length, t - lag], to the millisecond. "present" says whether the payment
itself counts. "empty" stands for a window that holds nothing to make a value of, "unknown" for one
that reaches back before what is known; nan is what a model takes for "missing".
  change it     copy configs/features/default.yaml, then: feature-set list --feature-set FILE
  train on it   fraudstream train DATA --config RECIPE --out DIR   (in RECIPE: feature_set: FILE)
  check it      fraudstream feature-set audit                         (decisions against the log)
"""


def show_feature_set(chosen: FeatureSet, file: TextIO) -> None:
    """Print entities and series, then every feature."""
    listed = as_plain_values(chosen)
    file.write(f"feature set {chosen.name}, sha256 {chosen.sha256}\n")
    _print(file, ("entity", "field"), [tuple(line.values()) for line in listed["entities"]])
    heads = ("series", "of", "records", "keeps of each", "bytes a record", "kept for")
    _print(file, heads, [tuple(line.values()) for line in listed["series"]])
    _print(file, _FEATURE_HEADS, [tuple(line.values()) for line in listed["features"]])
    file.write(_EPILOG)


def as_plain_values(chosen: FeatureSet) -> dict[str, Any]:
    """Say what a feature set holds, as JSON can."""
    entities = chosen.document["entities"]
    return {
        "name": chosen.name,
        "sha256": chosen.sha256,
        "entities": [{"name": name, "field": line["field"]} for name, line in entities.items()],
        "series": [_series(series) for series in chosen.series],
        "features": [_feature(feature) for feature in chosen.features],
    }


def show_report(report: Report, file: TextIO) -> None:
    """Print what an audit found: verdicts by feature, and the first differences."""
    verdicts = ("match", "mismatch", "missing", "uncertain")
    rows = [
        (name, *(f"{counts[verdict]:,}" for verdict in verdicts))
        for name, counts in report.as_json()["features"].items()
    ]
    totals = report.as_json()["totals"]
    rows.append(("all", *(f"{totals[verdict]:,}" for verdict in verdicts)))
    _print(file, ("feature", *verdicts), rows)
    if not report.seen:
        file.write("\nno decision of this model lies there: nothing was compared")
    file.write(f"\n{report.decisions:,} of {report.seen:,} decisions were recomputed")
    for why, count in report.left_out.items():
        file.write(f"; left out as {why.replace('_', ' ')}: {count:,}")
    file.write("\n")
    if report.examples:
        examples = [
            (e.decision_id, e.feature, f"{e.online:g}", f"{e.recomputed:g}")
            for e in report.examples
        ]
        _print(file, ("decision", "feature", "decided on", "the log gives"), examples)


def _series(series: Series) -> dict[str, object]:
    kept = [*series.measures, *series.attributes]
    numbers = len(kept) + series.is_versioned
    return {
        "name": series.name,
        "entity": series.entity,
        "records": series.kind,
        "keeps": ", ".join(kept) or "that it happened",
        "bytes_a_record": _RECORD_BYTES + _NUMBER_BYTES * numbers,
        "kept_for": _duration(series.horizon_ms),
    }


def _feature(feature: Feature) -> dict[str, object]:
    window = feature.window
    return {
        "name": feature.name,
        "meaning": feature.meaning,
        "series": " / ".join(reversed(feature.series)),
        "window": "" if window is None else _duration(window.length_ms),
        "lag": "" if window is None or not window.lag_ms else _duration(window.lag_ms),
        "counts_present": "" if window is None else _counts_present(feature, window),
        "when_empty": "" if window is None else _when_empty(feature),
        "when_unknown": _stand_in(feature.when_unknown),
        "reason_code": feature.reason_code,
    }


def _counts_present(feature: Feature, window: Window) -> str:
    is_counted = window.counts_present and not window.lag_ms
    return "yes" if is_counted and feature.aggregate != "seconds_since_last" else "no"


def _when_empty(feature: Feature) -> str:
    is_counting = feature.aggregate in ("count", "sum", "distinct_count")
    return "0" if is_counting else _stand_in(feature.when_empty)


def _stand_in(value: float | None) -> str:
    return f"{math.nan if value is None else value:g}"


def _duration(duration_ms: int) -> str:
    """Write a duration in its largest whole unit.

    Examples
    --------
    >>> _duration(7 * DAY_MS), _duration(90 * 60_000)
    ('7d', '90m')
    """
    for unit_ms, letter in _UNITS:
        if duration_ms % unit_ms == 0:
            return f"{duration_ms // unit_ms}{letter}"
    return f"{duration_ms}ms"


def _print(file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name in ("feature", "series", "decision"))
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if file.isatty() else _WIDTH
    Console(file=file, width=width, markup=False, highlight=False).print(table)
