"""The report on the fault matrix: Markdown, from the state file alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checker import CHECKS
from matrix_state import Entry, State, is_miss, problems

_WHAT_CHECKS_SAY = {
    "C1": "each payment has one decision or dead letter",
    "C2": "no output without its input",
    "C3": "nothing of an aborted attempt is visible",
    "C4": "attempts are whole, and their offsets committed",
    "C5": "in order",
    "C6": "alerts exactly where decisions call for them",
    "C7": "features bit-equal to a plain-Python oracle",
    "C8": "scores bit-equal to an offline prediction",
    "C9": "profiles hold what the whole log makes them hold",
    "C10": "no hanging transaction",
    "C11": "`degraded` only within a fault and its recovery",
}
_CONFIDENCE_EVENTS = 3
_NONE = "–"


@dataclass(frozen=True)
class Explained:
    """What people wrote about misses, and about what is not run.

    Attributes
    ----------
    misses, not_run
        A sentence by the fault's number.
    """

    misses: Mapping[int, str] = field(default_factory=dict)
    not_run: Mapping[int, str] = field(default_factory=dict)


def report(state: State, names: Mapping[int, str], explained: Explained, command: str) -> str:
    """Write the report.

    Parameters
    ----------
    state
        What was run.
    names
        All faults that there are.
    explained
        What is to be said of misses.
    command
        What made it.
    """
    lines = [*_head(state, command), *_totals(state.runs), *_table(state.runs)]
    lines += [*_details(state.runs), *_misses(state.runs, explained.misses)]
    lines += [*_detection(state.detection), *_not_run(state, names, explained.not_run)]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ head, totals


def _head(state: State, command: str) -> Iterator[str]:
    yield "# Reliability: results"
    yield ""
    yield f"Written by `{command}`, not by hand. Real Kafka, real Valkey, real worker processes, a"
    yield "proxy before each server, all on one machine. After each fault the checker reads all"
    yield "topics at both isolation levels, the group's offsets, the profiles and the workers' own"
    yield "journals (`tests/faults/checker.py`):"
    yield ""
    for name, words in _WHAT_CHECKS_SAY.items():
        yield f"* {name}: {words}"
    yield ""
    for title, key in (("Machine", "machine"), ("Versions", "versions"), ("Commit", "commit")):
        found = dict.fromkeys(_words(run[key]) for run in _entries(state) if key in run)
        if found:
            yield f"* {title}: {'; '.join(found)}"
    seeds = sorted({run["seed"] for run in _entries(state) if "seed" in run})
    yield f"* Seeds: {', '.join(map(str, seeds)) or _NONE}"
    yield ""
    yield "A `+` behind a commit: the tree had changes that it does not hold."
    yield ""


def _entries(state: State) -> Iterator[Entry]:
    yield from state.runs.values()
    if state.detection:
        yield state.detection


def _words(value: Any) -> str:  # noqa: ANN401 - a text, or versions by name
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)


def _totals(runs: Mapping[int, Entry]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for run in runs.values():
        for kind, count in run["counts"].items():
            counts[kind] += count
        for name in ("events", "transactions", "committed", "aborted", "unknown", "faults"):
            sums[name] += (run["figures"] or {}).get(name, 0)
    if not counts:
        return
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    died = sums["transactions"] - sums["committed"] - sums["aborted"]
    yield "## All faults together"
    yield ""
    yield f"**{found}** over {sums['events']:,} events, {sums['transactions']:,} transactions"
    yield f"({sums['committed']:,} committed, {sums['aborted']:,} aborted, in {died:,} the worker"
    yield f"died; of {sums['unknown']:,} the outcome was unknown at first),"
    yield f"{sums['faults']:,} faults."
    if not sum(counts.values()) and sums["faults"] > _CONFIDENCE_EVENTS:
        bound = _CONFIDENCE_EVENTS / sums["faults"]
        yield f"0 in {sums['faults']:,} faults bounds the chance per fault below {bound:.2%}"
        yield "(95 %)."
    yield ""


# ------------------------------------------------------------------ faults


def _table(runs: Mapping[int, Entry]) -> Iterator[str]:
    if not runs:
        return
    yield "## Fault by fault"
    yield ""
    yield "Times are in seconds for recovery and stalls, in milliseconds for latencies: from the"
    yield "append of an event to when a live `read_committed` reader saw its decision. Recovery:"
    yield "until all partitions decided something that came after the fault; longest (and median)."
    yield ""
    columns = (
        "#", "fault", "faults", "events", "transactions", "aborted, unknown", "anomalies",
        "recovery", "longest stall", "p99 in the fault", "p99 outside", "degraded", "result",
    )  # fmt: skip
    yield from _rows(columns, (_row(number, run) for number, run in sorted(runs.items())))
    yield ""


def _row(number: int, run: Entry) -> Sequence[str]:
    result = "**miss**" if is_miss(run) else "ok"
    scale = "" if run["scale"] == "full" else f" ({run['scale']})"
    figures = run["figures"]
    if figures is None:
        return [str(number), run["name"] + scale, *([_NONE] * 10), result]
    return [
        str(number),
        run["name"] + scale,
        f"{figures['faults']:,}",
        f"{figures['events']:,}",
        f"{figures['transactions']:,}",
        f"{figures['aborted']:,}, {figures['unknown']:,}",
        _anomalies(run["anomalies"]),
        _recovery(run),
        f"{figures['longest_stall_ms'] / 1000:.1f}",
        _ms(figures["fault_latency_ms_p99"]),
        _ms(figures["latency_ms_p99"]),
        f"{figures['degraded']:,}",
        result,
    ]


def _anomalies(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count) or "0"


def _recovery(run: Entry) -> str:
    if run["recovery_s_max"] is None:
        return _NONE
    return f"{run['recovery_s_max']:.1f} ({run['recovery_s_median']:.1f})"


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _details(runs: Mapping[int, Entry]) -> Iterator[str]:
    if not runs:
        return
    yield "What was checked besides, and the figures that go with it:"
    yield ""
    for number, run in sorted(runs.items()):
        figures = [f"{name.replace('_', ' ')} {_figure(v)}" for name, v in run["extra"].items()]
        figures.append(f"seed {run['seed']}, {run['seconds']:.0f} s")
        yield f"* {number}: {run['also']} ({'; '.join(figures)})"
    yield ""


def _figure(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def _misses(runs: Mapping[int, Entry], explained: Mapping[int, str]) -> Iterator[str]:
    missed = {number: run for number, run in sorted(runs.items()) if is_miss(run)}
    yield "## Misses"
    yield ""
    if not missed:
        yield "None." if runs else "Nothing was run."
    for number, run in missed.items():
        yield f"* {number}, {run['name']}: {explained.get(number, 'not explained yet.')}"
        yield from (f"  * `{text.replace('`', chr(39))}`" for text in problems(run))
    yield ""


# ------------------------------------------------------------------ detection


def _detection(detection: Entry) -> Iterator[str]:
    if not detection:
        return
    rows = detection.get("rows", [])
    wrong = [row for row in rows if not row["is_right"]]
    damaged, broken = (
        sum(row["group"] == group for row in rows) for group in ("damaged history", "broken worker")
    )
    yield "## Does the checker notice?"
    yield ""
    for sentence in detection.get("failures", ()):
        yield f"It could not be shown everything: `{sentence}`"
        return
    yield f"It was shown {damaged} histories, each damaged in one way, and {broken} workers, each"
    yield "broken in one way and put through the fault in brackets. The numbers say how much each"
    yield "check found; bold is the check that had to. What is sound has rows, too: there nothing"
    yield "may be found."
    yield ""
    names = ", ".join(row["name"] for row in wrong)
    yield f"Not as it must be: {names}." if wrong else "All as it must be."
    yield ""
    columns = ("what", "name", *CHECKS)
    yield from _rows(columns, (_detection_row(row) for row in rows))
    yield ""


def _detection_row(row: Entry) -> Sequence[str]:
    cells = [row["group"], row["name"]]
    for name in CHECKS:
        count, is_expected = row["counts"][name], name in row["expected"]
        text = f"{count:,}" if count or is_expected else ""
        cells.append(f"**{text}**" if is_expected else text)
    return cells


# ------------------------------------------------------------------ what is missing


def _not_run(state: State, names: Mapping[int, str], explained: Mapping[int, str]) -> Iterator[str]:
    yield "## What was not run"
    yield ""
    missing = {number: name for number, name in names.items() if number not in state.runs}
    short = [str(number) for number, run in state.runs.items() if run["scale"] != "full"]
    for number, name in missing.items():
        yield f"* {number}, {name}" + (f": {explained[number]}" if number in explained else "")
    for number, sentence in explained.items():
        if number not in missing:
            yield f"* Of {number}: {sentence}"
    if short:
        yield f"* Only at the short scale of `make test`: {', '.join(short)}"
    if not state.detection:
        yield "* The detection matrix"
    if not (missing or short or explained) and state.detection:
        yield "Nothing: all of the table was run."


def _rows(columns: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
