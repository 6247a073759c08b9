"""An evaluation's figures as pictures: SVG, drawn once, with no script and no address in it.

    rows ─ Altair ─▶ Vega-Lite ─ vl-convert ─▶ SVG ─ tidied ─▶ <svg role="img" …>

Colours are the page's own variables, so one picture serves light and dark. Each series differs in
dash and shape as well as in colour. Figures behind a picture stand in a table beside it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import altair as alt
import vl_convert

from fraudstream.training.evaluation import Evaluation

_VEGA_LITE: Final = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
_WIDTH: Final = 350
_HEIGHT: Final = 230
_SHARE: Final = ".0%"
_OPAQUE: Final = "currentColor"
_GRID: Final = "var(--grid)"
_ATTRIBUTES: Final = re.compile(r'\s(?:xmlns(?::xlink)?|version|class|role|aria-\w+)="[^"]*"')
_Plain: TypeAlias = dict[str, Any]
_Chart: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart


@dataclass(frozen=True, slots=True)
class _Series:
    """A line's name and its look: beside its colour, its dash and its shape."""

    name: str
    colour: str
    dash: tuple[int, int]
    shape: str


_FRAUDS: Final = _Series("frauds", "var(--fraud)", (1, 0), "circle")
_GENUINE: Final = _Series("genuine", "var(--genuine)", (5, 3), "square")
_RECALL: Final = _Series("recall", "var(--fraud)", (1, 0), "circle")
_VALUE: Final = _Series("value detected", "var(--genuine)", (5, 3), "square")
_FOUND: Final = _Series("card precision", "var(--third)", (2, 2), "triangle-up")


def precision_recall(evaluation: Evaluation) -> str:
    """Draw precision by recall, and where the policy's thresholds lie."""
    points = [
        {"recall": at.recall, "precision": at.precision} for at in evaluation.precision_recall
    ]
    marks = [
        {
            "recall": at.detection.recall,
            "precision": at.detection.precision,
            "policy": f"{at.policy} {at.score_threshold:g}",
        }
        for at in evaluation.by_threshold
        if at.policy and at.detection.precision is not None
    ]
    x = _axis("recall", "recall (alerts among frauds)", _SHARE, (0, 1))
    y = _axis("precision", "precision (frauds among alerts)", _SHARE, (0, 1))
    line = alt.Chart(_data(points)).mark_line(color="var(--fraud)", interpolate="linear")
    dots = alt.Chart(_data(marks)).mark_point(
        color=_OPAQUE, shape="diamond", size=90, strokeWidth=2, opacity=1
    )
    words = alt.Chart(_data(marks)).mark_text(color=_OPAQUE, align="right", dx=-8, dy=12)
    places: _Plain = {"x": alt.X(**x), "y": alt.Y(**y)}
    layers = (line.encode(**places), dots.encode(**places))
    labels = words.encode(**places, text="policy:N")
    return _draw(
        alt.layer(*layers, labels),
        "Precision against recall over all thresholds, with the policy's thresholds marked.",
    )


def distribution(evaluation: Evaluation) -> str:
    """Draw how many frauds and genuine payments got which score."""
    rows = [
        {"score": (at.score_from + at.score_until) / 2, "payments": count, "series": series.name}
        for at in evaluation.score_distribution
        for series, count in ((_FRAUDS, at.frauds), (_GENUINE, at.genuine))
        if count
    ]
    return _draw(
        _lines(
            rows,
            _axis("score", "score (middle of a bin of 0.05)", ".1f", (0, 1)),
            _axis("payments", "payments (logarithmic)", "~s", kind="log"),
            (_FRAUDS, _GENUINE),
        ),
        "How many frauds and how many genuine payments got which score, on a logarithmic scale.",
    )


def calibration(evaluation: Evaluation) -> str:
    """Draw the share of frauds by score, beside what a probability would give."""
    rows = [
        {
            "score": at.score_mean,
            "share": at.fraud_share,
            "low": at.fraud_share_low,
            "high": at.fraud_share_high,
        }
        for at in evaluation.calibration.bins
        if at.payments
    ]
    x = _axis("score", "mean score of a bin", ".1f", (0, 1))
    y = _axis("share", "share of frauds in it", _SHARE, (0, 1))
    ideal = alt.Chart(_data([{"score": 0, "share": 0}, {"score": 1, "share": 1}])).mark_line(
        color=_OPAQUE, strokeDash=[5, 3], opacity=0.6
    )
    bars = alt.Chart(_data(rows)).mark_rule(color="var(--fraud)", strokeWidth=2)
    dots = alt.Chart(_data(rows)).mark_point(
        color="var(--fraud)", fill="var(--fraud)", shape="circle", size=50, opacity=1
    )
    places: _Plain = {"x": alt.X(**x), "y": alt.Y(**y)}
    return _draw(
        alt.layer(
            ideal.encode(**places),
            bars.encode(x=alt.X(**x), y=alt.Y("low:Q"), y2=alt.Y2("high")),
            dots.encode(**places),
        ),
        "Share of frauds against mean score, with 95 % intervals; the dashed line is where the "
        "score is a probability.",
    )


def work(evaluation: Evaluation) -> str:
    """Draw what is detected by how many cards are looked at each day."""
    counts = [at.cards_per_day for at in evaluation.by_cards_per_day]
    rows = [
        {"cards": at.cards_per_day, "share": share, "series": series.name}
        for at in evaluation.by_cards_per_day
        for series, share in (
            (_RECALL, at.recall),
            (_VALUE, at.value_detected_share),
            (_FOUND, at.card_precision),
        )
        if share is not None
    ]
    x = _axis("cards", "cards looked at each day (logarithmic)", ",", kind="log")
    # Its own count of ticks, or a logarithmic scale's taste, would leave out some of them.
    x["axis"] = {"values": counts, "labelOverlap": False, "labelExpr": "format(datum.value, ',')"}
    x["scale"] |= {"domain": [counts[0], counts[-1]], "nice": False}
    return _draw(
        _lines(rows, x, _axis("share", "share", _SHARE, (0, 1)), (_RECALL, _VALUE, _FOUND)),
        "Recall, value detected and card precision against the number of cards looked at each day.",
    )


def importance(evaluation: Evaluation) -> str:
    """Draw how much each reason moves scores, in alerts and in all payments."""
    names = ("in alerts", "in all payments")
    rows = [
        {"reason": at.reason_code, "log_odds": size, "series": name}
        for at in evaluation.importance.by_reason
        for name, size in zip(
            names, (at.mean_abs_log_odds_alerts, at.mean_abs_log_odds_payments), strict=True
        )
        if size is not None
    ]
    x = _axis("log_odds", "mean contribution by size (log-odds)", "~g")
    bars = alt.Chart(_data(rows)).mark_bar(stroke="var(--fraud)", strokeWidth=1)
    encoded = bars.encode(
        x=alt.X(**x),
        y=alt.Y("reason:N", sort=None, title=None, axis=alt.Axis(labelLimit=150, grid=False)),
        yOffset=alt.YOffset("series:N", sort=list(names)),
        fill=alt.Fill(
            "series:N",
            title=None,
            scale=alt.Scale(domain=list(names), range=["var(--fraud)", "var(--paper)"]),
        ),
    )
    return _draw(
        encoded.properties(height=alt.Step(11)),
        "Mean size of each reason's contribution, in alerts and in all payments.",
    )


def _lines(rows: list[_Plain], x: _Plain, y: _Plain, series: Sequence[_Series]) -> _Chart:
    """Draw lines with marks; colour, dash and shape say which is which."""
    names = [one.name for one in series]
    colours, shapes = [one.colour for one in series], [one.shape for one in series]
    legend = alt.Legend(title=None, symbolStrokeWidth=2, symbolSize=70)
    places: _Plain = {"x": alt.X(**x), "y": alt.Y(**y)}
    lines = [
        alt.Chart(_data([row for row in rows if row["series"] == one.name]))
        .mark_line(color=one.colour, strokeDash=list(one.dash))
        .encode(**places)
        for one in series
    ]
    marks = (
        alt.Chart(_data(rows))
        .mark_point(size=40, strokeWidth=2, opacity=1)
        .encode(
            **places,
            color=alt.Color(
                "series:N", scale=alt.Scale(domain=names, range=colours), legend=legend
            ),
            shape=alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
        )
    )
    return alt.layer(*lines, marks)


def _axis(
    field: str,
    title: str,
    format_: str,
    domain: tuple[float, float] | None = None,
    kind: str = "linear",
) -> _Plain:
    scale: _Plain = {"type": kind}
    if domain is not None:
        scale["domain"] = list(domain)
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "axis": {"format": format_, "tickCount": 5},
        "scale": scale,
    }


def _data(rows: list[_Plain]) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _draw(chart: _Chart, words: str) -> str:
    """Make an SVG of a chart.

    Parameters
    ----------
    chart
        What is drawn.
    words
        What a person who cannot see it is told.
    """
    if "height" not in chart.to_dict(validate=False):
        chart = chart.properties(height=_HEIGHT)
    styled = (
        chart.properties(width=_WIDTH)
        .configure(background="transparent", font="system-ui, sans-serif", aria=False, padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_OPAQUE,
            titleColor=_OPAQUE,
            domainColor=_GRID,
            tickColor=_GRID,
            gridColor=_GRID,
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
            titlePadding=8,
            labelFlush=False,
        )
        .configure_legend(
            labelColor=_OPAQUE, labelFontSize=13, labelLimit=0, orient="top", columnPadding=22
        )
        .configure_text(fontSize=13)
    )
    svg = vl_convert.vegalite_to_svg(styled.to_json(), vl_version=_VEGA_LITE)
    return _tidy(str(svg), words)


def _tidy(svg: str, words: str) -> str:
    """Make a picture part of a page: as wide as it finds room, with a name, without addresses."""
    opening, _, rest = svg.partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    # What is cut to a frame has ids, which the converter counts on from picture to picture.
    assert "url(" not in rest
    rest = _ATTRIBUTES.sub("", rest)
    return f'<svg {view[0]} role="img" aria-label="{html.escape(words)}">{rest}'
