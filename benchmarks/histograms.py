"""Latencies as HDR histograms: the figures of a round, of several rounds, and their curves.

A histogram counts whole microseconds to three significant digits (0.1 %), from 1 µs to 10 minutes,
so rounds can be added up afterwards. Percentiles are its own; the longest latency and the shares
above a limit are exact. A percentile with fewer than ten samples beyond it says little: the number
of samples stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import altair as alt
import numpy as np
import vl_convert
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import NDArray

PERCENTILES: Final = (50.0, 99.0, 99.9)
LIMITS_MS: Final = (50, 100, 200)
_LONGEST_US: Final = 600_000_000
_DIGITS: Final = 3
#: At which shares the curves are labelled.
_MARKS: Final = {2: "50 %", 10: "90 %", 100: "99 %", 1_000: "99.9 %", 10_000: "99.99 %"}
_VEGA_LITE: Final = ".".join(alt.SCHEMA_VERSION.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of some latencies.

    Parameters
    ----------
    samples
        How many latencies.
    ms
        By name (``p50``, ``p99``, ``p99.9``, ``max``): milliseconds.
    share_over
        By limit in milliseconds: which share is longer.
    histogram
        HdrHistogram V2, compressed and in base64, of microseconds: what its other tools read.
    """

    samples: int
    ms: Mapping[str, float]
    share_over: Mapping[str, float]
    histogram: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several rounds; the worst is the largest."""

    median: float
    worst: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of several rounds."""

    samples: int
    ms: Mapping[str, Spread]
    share_over: Mapping[str, Spread]


def figures_of(latencies_s: NDArray[np.float64]) -> Figures:
    """Give the figures of at least one latency.

    Examples
    --------
    >>> found = figures_of(np.array([0.010] * 99 + [0.120]))
    >>> found.samples, round(found.ms["p50"], 1), found.ms["max"], found.share_over["100"]
    (100, 10.0, 120.0, 0.01)
    """
    latencies_ms = latencies_s * 1e3
    histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
    values_us, counts = np.unique(np.rint(latencies_s * 1e6).astype(np.int64), return_counts=True)
    for value_us, count in zip(values_us.tolist(), counts.tolist(), strict=True):
        if not histogram.record_value(max(value_us, 1), count):
            raise ValueError(f"a latency of {value_us} µs is out of range")
    # A histogram names the upper edge of a bucket, which may lie beyond the longest latency.
    max_ms = round(float(latencies_ms.max()), 3)
    percentiles_ms = _percentiles_ms(histogram, PERCENTILES)
    ms = {f"p{name:g}": min(value_ms, max_ms) for name, value_ms in percentiles_ms.items()}
    return Figures(
        samples=len(latencies_s),
        ms=ms | {"max": max_ms},
        share_over={str(limit): float((latencies_ms > limit).mean()) for limit in LIMITS_MS},
        histogram=histogram.encode().decode(),
    )


def summary_of(rounds: Sequence[Figures]) -> Summary:
    """Put rounds together: of each figure the median and the worst."""
    return Summary(
        sum(figures.samples for figures in rounds),
        {name: spread_of([f.ms[name] for f in rounds]) for name in rounds[0].ms},
        {limit: spread_of([f.share_over[limit] for f in rounds]) for limit in rounds[0].share_over},
    )


def spread_of(values: Sequence[float]) -> Spread:
    """Give the median and the worst of a figure."""
    return Spread(float(np.median(values)), max(values))


def curve_of(rounds: Iterable[Figures]) -> list[tuple[float, float]]:
    """Give points of all rounds together: 1 / (share of longer ones), and milliseconds."""
    histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
    for figures in rounds:
        histogram.decode_and_add(figures.histogram)
    # Where ten samples are left, the curve would begin to follow single ones.
    last = max(histogram.get_total_count() / 10, 2)
    places = np.geomspace(1, last, 80)
    found = _percentiles_ms(histogram, [100 * (1 - 1 / place) for place in places])
    return [(100 / (100 - percentile), ms) for percentile, ms in found.items()]


def _percentiles_ms(histogram: HdrHistogram, percentiles: Sequence[float]) -> dict[float, float]:
    found = histogram.get_percentile_to_value_dict(list(percentiles))
    return {percentile: found[percentile] / 1e3 for percentile in percentiles}


def draw_curves(rows: Sequence[Mapping[str, str | float]], file: Path) -> None:
    """Draw latency by percentile, a picture for each rate, to an SVG or PNG file.

    Parameters
    ----------
    rows
        Points with the fields ``rate``, ``subject``, ``place`` and ``ms``.
    file
        Its ending says which kind.
    """
    marks = f"{ {str(place): mark for place, mark in _MARKS.items()} }[datum.value]"
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))
    lines = base.mark_line(strokeWidth=2).encode(
        x=alt.X(
            "place:Q",
            title="percentile",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=list(_MARKS), labelExpr=marks),
        ),
        y=alt.Y("ms:Q", title="latency, ms", scale=alt.Scale(type="log")),
        color=alt.Color("subject:N", title=None),
        strokeDash=alt.StrokeDash("subject:N", title=None),
    )
    chart = (
        lines.properties(width=300, height=200)
        .facet(
            facet=alt.Facet("rate:Q", title=None, header=alt.Header(labelExpr=_RATE_LABEL)),
            columns=2,
        )
        .configure(background="white", font="system-ui, sans-serif")
        .configure_legend(orient="top", labelLimit=0)
    )
    draw = vl_convert.vegalite_to_svg if file.suffix == ".svg" else vl_convert.vegalite_to_png
    drawn = draw(chart.to_json(), vl_version=_VEGA_LITE)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)


_RATE_LABEL: Final = "format(datum.value, ',') + ' events/s'"
