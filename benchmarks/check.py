"""Holds figures against their bounds: ``python -m benchmarks.check`` after the benchmarks.

Reads what `benchmarks.contest` and `benchmarks.latency` wrote, and fails if a ratio is worse than
in ``benchmarks/bounds.toml``. A ratio that was not measured is said so, and does not fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contest_report import ratios
from benchmarks.contestants.programs import BUILD

_BOUNDS = Path(__file__).parent / "bounds.toml"
_RATE_PER_S = 1_000


def main() -> None:
    """Print every bound with what was measured; end with 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--contest", type=Path, default=BUILD / "contest.json")
    parser.add_argument("--latency", type=Path, default=BUILD / "latency.json")
    arguments = parser.parse_args()
    found = _throughput(_read(arguments.contest)) | _latency(_read(arguments.latency))
    bounds = tomllib.loads(_BOUNDS.read_text("utf-8"))
    table = Table("ratio", "measured", "bound", "design", "")
    missed = 0
    for name, bound in bounds.items():
        ratio = found.get(name)
        verdict = (
            "not measured" if ratio is None else "kept" if _is_kept(ratio, bound) else "MISSED"
        )
        missed += verdict == "MISSED"
        shown = "" if ratio is None else f"{ratio:.2f}"
        table.add_row(name, shown, str(bound["bound"]), str(bound["reach"]), verdict)
    Console().print(table)
    if missed:
        sys.exit(f"{missed} of {len(bounds)} bounds are missed")


def _is_kept(ratio: float, bound: Mapping[str, Any]) -> bool:
    limit: float = bound["bound"]
    return ratio <= limit if bound.get("highest") else ratio >= limit


def _throughput(results: Mapping[str, Any]) -> dict[str, float]:
    if not results:
        return {}
    return {f"throughput over {name}": median(of) for name, of in ratios(results).items()}


def _latency(results: Mapping[str, Any]) -> dict[str, float]:
    """Compare the p99 of decisions, exactly once, with the echo's of the same rounds."""
    p99_ms = {
        subject: median(p99s)
        for subject in ("exactly_once", "echo")
        if (
            p99s := [
                round_["outputs"]["decisions"]["ms"]["p99"]
                for round_ in results.get("rounds", ())
                if (round_["subject"], round_["rate_per_s"]) == (subject, _RATE_PER_S)
            ]
        )
    }
    if len(p99_ms) < 2:
        return {}
    ratio = p99_ms["exactly_once"] / p99_ms["echo"]
    return {f"p99 over the bare echo's at {_RATE_PER_S}/s": ratio}


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    results: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return results


if __name__ == "__main__":
    main()
