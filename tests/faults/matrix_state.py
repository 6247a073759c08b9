"""What the matrix keeps of each fault, as JSON: enough to write the report, and to go on later."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeAlias

import confluent_kafka
import redis
from checker import CHECKS
from figures import Figures
from harness import ROOT
from stage import FaultStack, Outcome

from fraudstream.local.jars import KAFKA_VERSION

#: What is kept of a fault, or of the whole matrix.
Entry: TypeAlias = "dict[str, Any]"

_SENTENCES_MAX = 5
_SENTENCE_CHARACTERS_MAX = 400
_GIB = 2**30


class State:
    """The state file: entries of faults by number, and those of the detection matrix.

    Parameters
    ----------
    path
        Need not exist yet. Written as a whole after each fault.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known: Entry = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.runs: dict[int, Entry] = {int(n): run for n, run in known.get("runs", {}).items()}
        self.detection: Entry = known.get("detection", {})

    def save(self) -> None:
        """Write it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        runs = {str(number): run for number, run in sorted(self.runs.items())}
        text = json.dumps({"runs": runs, "detection": self.detection}, indent=1)
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(text, "utf-8")
        unfinished.replace(self._path)


def summary(outcome: Outcome, folder: Path) -> Entry:
    """Take over what is worth keeping of an outcome."""
    verdict = outcome.verdict
    recoveries_s = outcome.recoveries_s
    return {
        "figures": figures_entry(outcome.figures),
        "counts": verdict.counts(),
        "anomalies": anomaly_counts(verdict.anomalies),
        "examples": {
            name: [scrub(text, folder) for text in found[:_SENTENCES_MAX]]
            for name, found in verdict.anomalies.items()
            if found
        },
        "recovery_s_max": max(recoveries_s, default=None),
        "recovery_s_median": statistics.median(recoveries_s) if recoveries_s else None,
        "extra": {name: _number(value) for name, value in outcome.extra.items()},
        "failures": [scrub(text, folder) for text in outcome.failures],
    }


def anomaly_counts(anomalies: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count what each check found, of all checks."""
    return {name: len(anomalies.get(name, ())) for name in CHECKS}


def figures_entry(figures: Figures) -> Entry:
    """Give the checker's figures; what there is none of is None, for JSON knows no NaN."""
    entry = {f.name: _number(getattr(figures, f.name)) for f in fields(figures) if _is_plain(f)}
    return entry | {
        "transactions": figures.transactions,
        "longest_stall_ms": figures.longest_stall_ms,
    }


def _is_plain(field: Field[Any]) -> bool:
    return field.name != "stalls_ms"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def scrub(text: str, folder: Path) -> str:
    """Give the first line of a sentence, without this machine's paths."""
    line = text.strip().partition("\n")[0]
    for path in (str(folder), str(ROOT)):
        line = line.replace(path, "…")
    return line[:_SENTENCE_CHARACTERS_MAX]


# ------------------------------------------------------------------ where and what


def describe_run(faults: FaultStack) -> Entry:
    """Say on which machine, with which versions, of which commit."""
    with redis.Redis.from_url(faults.services.valkey_url) as client:
        server: Any = client.info("server")
    return {
        "machine": machine(),
        "versions": {
            "Kafka": KAFKA_VERSION,
            "Valkey": server.get("valkey_version") or server["redis_version"],
            "Python": platform.python_version(),
            "librdkafka": confluent_kafka.libversion()[0],
        },
        "commit": commit(),
    }


def machine() -> str:
    """Describe this machine, without a name."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    cores = os.cpu_count() or 1
    return f"{cores} {platform.machine()} cores, {memory_gib:.0f} GiB, {platform.system()}"


def commit() -> str:
    """Name the commit; ``+`` when the tree has changes that are not in it."""

    def ask(*arguments: str) -> str:
        answer = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return answer.stdout.strip()

    is_changed = bool(ask("status", "--porcelain", "--", "fraudstream", "tests", "models"))
    return (ask("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if is_changed else "")


def is_miss(run: Entry) -> bool:
    """Say whether something was not as it must be."""
    return bool(run["failures"]) or any(run["anomalies"].values())


def problems(run: Entry) -> list[str]:
    """Give a run's misses as sentences."""
    found = list(run["failures"])
    for name, examples in run["examples"].items():
        left = run["anomalies"][name] - len(examples)
        found += [f"{name} {text}" for text in examples]
        if left > 0:
            found.append(f"{name}, {left} more")
    return found


def raised(sentence: str) -> Entry:
    """Give the entry of a fault that came to no outcome."""
    return {
        "figures": None,
        "counts": {},
        "anomalies": anomaly_counts({}),
        "examples": {},
        "recovery_s_max": None,
        "recovery_s_median": None,
        "extra": {},
        "failures": [sentence],
    }
