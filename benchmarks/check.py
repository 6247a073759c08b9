"""The figures that were asked for, and those measured: ``python -m benchmarks.check``.

Reads what `benchmarks.contest` and `benchmarks.latency` wrote. Fails if a ratio is worse than its
bound in ``benchmarks/bounds.toml``; what was not measured is said so, and does not fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contest_report import highest_of, ratios, share_of
from benchmarks.contestants.programs import BUILD

_BOUNDS = Path(__file__).parent / "bounds.toml"
_LATENCY = BUILD / "latency.json"
_RATE_PER_S = 1_000
_WIDTH = 140
_OURS, _RELAXED, _ECHO = "exactly_once", "at_least_once", "echo"


def main() -> None:
    """Print every figure beside what was asked for; end with 1 if a bound is missed."""
    arguments = _arguments()
    contest = _read(arguments.contest)
    runs = [run for file in arguments.latency or [_LATENCY] if (run := _read(file))]
    highest = highest_of(contest, 1) if contest else None  # latency is measured with one worker
    found = _throughput(contest) | _latency(_waits(runs), highest) | _worker(runs)
    figures = tomllib.loads(_BOUNDS.read_text("utf-8"))
    table = Table("figure", "reach", "stretch", "measured", "reached", "bound", "kept")
    missed = 0
    for name, figure in figures.items():
        measured = found.get(name)
        kept = measured is None or "bound" not in figure or _holds(figure, "bound", measured)
        missed += not kept
        table.add_row(
            name,
            f"{figure['reach']:g}",
            f"{figure['stretch']:g}",
            "not measured" if measured is None else f"{measured:.3g}",
            "" if measured is None else _level(figure, measured),
            f"{figure['bound']:g}" if "bound" in figure else "",
            "" if measured is None or "bound" not in figure else "yes" if kept else "NO",
        )
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    if missed:
        sys.exit(f"{missed} bounds are missed")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--contest", type=Path, default=BUILD / "contest.json")
    parser.add_argument(
        "--latency", type=Path, action="append", help=f"may be repeated; default: {_LATENCY}"
    )
    return parser.parse_args()


def _holds(figure: Mapping[str, Any], level: str, measured: float) -> bool:
    limit: float = figure[level]
    return measured <= limit if figure.get("highest") else measured >= limit


def _level(figure: Mapping[str, Any], measured: float) -> str:
    if _holds(figure, "stretch", measured):
        return "stretch"
    return "yes" if _holds(figure, "reach", measured) else "no"


def _throughput(contest: Mapping[str, Any]) -> dict[str, float]:
    if not contest:
        return {}
    return {f"throughput over {name}": median(of) for name, of in ratios(contest).items()}


_Waits = dict[tuple[str, float], Mapping[str, float]]


def _waits(runs: Iterable[Mapping[str, Any]]) -> _Waits:
    """Give medians over rounds of what decisions waited, by subject and rate, with one worker."""
    return {
        (each["subject"], each["rate_per_s"]): {n: s["median"] for n, s in each["ms"].items()}
        for run in runs
        if run["options"]["workers"] == 1
        for each in run["summary"]
        if each["output"] == "decisions"
    }


def _latency(ms: _Waits, highest: float | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if ours := ms.get((_OURS, _RATE_PER_S)):
        found |= {f"{name} at 1,000/s, ms": ours[name] for name in ("p50", "p99", "p99.9")}
        if echo := ms.get((_ECHO, _RATE_PER_S)):
            found["p99 at 1,000/s over the bare echo's"] = ours["p99"] / echo["p99"]
    if relaxed := ms.get((_RELAXED, _RATE_PER_S)):
        found["p99 at 1,000/s, at least once, ms"] = relaxed["p99"]
    tried = [rate for name, rate in ms if name == _OURS]
    half = [rate for rate in tried if highest and rate >= share_of(highest, 0.5)]
    if half:
        found["p99 at half of the highest throughput, ms"] = ms[_OURS, min(half)]["p99"]
    return found


def _worker(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Give the most memory of a worker at the end of any round, and the median of cold starts."""
    found = {}
    rounds = [each for run in runs for each in run["rounds"] if each["subject"] == _OURS]
    memory = [worker["resident_mb"] for each in rounds for worker in each["conditions"]["memory"]]
    if memory:
        found["resident memory of a worker, MB"] = max(memory)
    starts = [s["start_s"] for run in runs for s in run["cold_starts"] if s["subject"] == _OURS]
    if starts:
        found["from start to first decision, s"] = median(starts)
    return found


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    results: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return results


if __name__ == "__main__":
    main()
