"""What the rounds of `benchmarks.contest` come to: medians, ratios, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import altair as alt
import polars as pl
from rich.table import Table

ECHO = "bare transactional echo"
_OURS = "fraudstream"


def rates(results: Mapping[str, Any]) -> dict[str, list[float]]:
    """Give the events a second of each contestant, round by round."""
    return {name: [m["events_per_s"] for m in rounds] for name, rounds in results["rounds"].items()}


def highest_of(results: Mapping[str, Any], workers: int) -> float | None:
    """Give the events a second of so many workers under a backlog; None if they did not compete."""
    found = rates(results).get(f"{_OURS}, {workers} worker{'s' if workers > 1 else ''}")
    return median(found) if found else None


def share_of(highest: float, share: float) -> float:
    """Give the rate at which a share of the highest throughput is tried: a round one."""
    return round(highest * share, -2)


def best_of_ours(results: Mapping[str, Any]) -> str:
    """Name the number of workers with the highest median."""
    found = rates(results)
    return max((name for name in found if name.startswith(_OURS)), key=lambda n: median(found[n]))


def limit_us(results: Mapping[str, Any]) -> dict[str, float]:
    """Give the medians of what the parts cost alone, in processor microseconds an event."""
    parts = results["limits_us"]
    alone = {name: median(part[name] for part in parts) for name in parts[0]}
    echo = [sum(m["cpu_us"][p] for p in ("own", "broker")) for m in results["rounds"][ECHO]]
    return {
        "consume and produce in transactions": median(echo),
        "predict": alone["predict"],
        "Valkey's client": alone["client"],
        "Valkey's server": alone["server"],
    }


def limit_per_s(results: Mapping[str, Any]) -> float:
    """Give the events a second at which the parts alone fill all cores."""
    cores: int = results["machine"]["cores"]
    return cores * 1e6 / sum(limit_us(results).values())


def ratios(results: Mapping[str, Any]) -> dict[str, list[float]]:
    """Give our throughput over each peer's, round by round, and over the limit."""
    found = rates(results)
    ours = found[best_of_ours(results)]
    peers = [name for name in found if not name.startswith(_OURS) and name != ECHO]
    over = {name: [us / them for us, them in zip(ours, found[name], strict=True)] for name in peers}
    return over | {"the limit": [us / limit_per_s(results) for us in ours]}


def table(results: Mapping[str, Any]) -> Table:
    """Lay the figures out."""
    out = Table(title="One job, exactly once, one machine: medians (lowest to highest round)")
    for column in ("who", "events/s", "ratio of ours", "CPU µs an event: own, broker, Valkey"):
        out.add_column(column)
    over = ratios(results)
    for name, found in rates(results).items():
        cpu = results["rounds"][name]
        parts = [median(m["cpu_us"][part] for m in cpu) for part in ("own", "broker", "valkey")]
        times = _spread(over[name], "{:.2f} ×") if name in over else ""
        out.add_row(name, _spread(found, "{:,.0f}"), times, ", ".join(f"{p:.1f}" for p in parts))
    parts_us = limit_us(results)
    detail = ", ".join(f"{name} {us:.1f}" for name, us in parts_us.items())
    share = _spread(over["the limit"], "{:.0%}")
    out.add_row("the limit", f"{limit_per_s(results):,.0f}", share, detail)
    return out


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw every round of every contestant."""
    rows = [
        {"who": name, "events a second": rate}
        for name, found in rates(results).items()
        if name != ECHO
        for rate in found
    ]
    chart = alt.Chart(pl.DataFrame(rows), width=520, height=220).encode(
        x=alt.X("events a second:Q"), y=alt.Y("who:N", title=None, sort="-x")
    )
    ticks = chart.mark_tick(thickness=2)
    limit = pl.DataFrame([{"events a second": limit_per_s(results)}])
    rule = alt.Chart(limit).mark_rule(strokeDash=[4, 4]).encode(x="events a second:Q")
    (chart.mark_bar(opacity=0.3).encode(x="median(events a second):Q") + ticks + rule).save(file)


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(v) for v in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high})"
