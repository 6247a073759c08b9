"""What the table of figures takes for what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.check import _latency
from benchmarks.contest_report import share_of

HALF = "p99 at half of the highest throughput, ms"


def waits(*rates: float) -> dict[tuple[str, float], Mapping[str, float]]:
    """Let p99 be the rate, so that a figure tells where it comes from."""
    return {("exactly_once", rate): {"p99": rate} for rate in rates}


def test_half_is_the_rate_that_latency_tries_for_it_though_it_is_rounded_down() -> None:
    highest = 17_681.0
    half, four_fifths = share_of(highest, 0.5), share_of(highest, 0.8)
    assert half < highest / 2
    assert _latency(waits(5_000.0, half, four_fifths), highest)[HALF] == half


def test_less_than_half_is_not_taken_for_it() -> None:
    assert HALF not in _latency(waits(2_000.0, 5_000.0), 17_681.0)
    assert HALF not in _latency(waits(5_000.0), None)
