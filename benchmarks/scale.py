"""Growth: workers, partitions, keys, records a key, nodes: ``python -m benchmarks.scale``.

One thing grows at a time; the rest stays as in `benchmarks.contest`. Each run has an emptied Valkey
and topics of its own, on one broker. What it says of memory is Valkey's own figure, over the
payments that lay in the profiles by then: a window's worth, or all there were. Three nodes are a
Valkey Cluster on the same cores: what it shows is what a cluster costs, not what it gains.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType

import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contestants.field import clear, fill, new_run
from benchmarks.contestants.measuring import Clocking, measure, warm
from benchmarks.contestants.programs import BUILD, Fraudstream
from benchmarks.job.model import make_bundle
from benchmarks.job.stream import DAY_MS, StreamPlan
from benchmarks.machine import describe_run
from benchmarks.subjects import benchmark_stack
from fraudstream.local.cluster import running_cluster
from fraudstream.local.stack import LocalStack

_WINDOW_MS = 30 * DAY_MS
_WINDOW_RECORDS = 200_000
_USUAL = StreamPlan(0)


@dataclass(frozen=True, slots=True)
class Case:
    """One size of the thing that grows."""

    grows: str
    size: int
    workers: int = 2
    partitions: int = 6
    plan: StreamPlan = _USUAL
    is_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Valkey:
    """Where the profiles of a case live: the stack's server, or a cluster's nodes.

    Parameters
    ----------
    clients
        One for each node.
    environ
        The settings that lead workers there.
    pids
        Of the nodes; None: the stack's.
    """

    clients: Sequence[redis.Redis]
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pids: Sequence[int] | None = None

    def holds(self) -> tuple[float, int]:
        """Give the memory in use, MB, and the number of keys, of all nodes together."""
        used = sum(float(client.info("memory")["used_memory"]) for client in self.clients)
        return used / 1e6, sum(int(client.dbsize()) for client in self.clients)

    def clear(self) -> None:
        """Forget everything."""
        for client in self.clients:
            client.flushall()


@contextmanager
def _valkey(stack: LocalStack, case: Case) -> Iterator[Valkey]:
    if not case.is_cluster:
        with closing(redis.Redis.from_url(stack.valkey_url, protocol=2)) as client:
            yield Valkey([client])
        return
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as cluster:
        environ = {"FRAUDSTREAM_VALKEY__URL": cluster.url, "FRAUDSTREAM_VALKEY__CLUSTER": "true"}
        yield Valkey([node.client for node in cluster.nodes], environ, cluster.pids)


@dataclass(frozen=True, slots=True)
class Grown:
    """What a case came to.

    Attributes
    ----------
    events_per_s
        Of each round.
    cpu_us
        Medians: the workers', the broker's and Valkey's processor time an event.
    valkey_mb, keys
        At the end of the last round.
    """

    grows: str
    size: int
    events_per_s: list[float]
    cpu_us: dict[str, float]
    valkey_mb: float
    keys: int


def main() -> None:
    """Run all cases, print a table, and write the figures."""
    arguments = _arguments()
    head = describe_run("benchmarks.scale")
    bundle = make_bundle(BUILD)
    cases = [c for c in _cases(arguments.events) if c.grows in arguments.what]
    found = []
    with benchmark_stack() as stack, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("warming the broker", total=len(cases))
        warm(stack, bundle)
        for number, case in enumerate(cases):
            progress.update(task, description=f"{case.grows}: {case.size:,}")
            found.append(_grow(stack, bundle, case, number, arguments))
            progress.advance(task)
    results = {**head, "cases": [asdict(grown) for grown in found]}
    arguments.out.write_text(json.dumps(results, indent=1), "utf-8")
    Console().print(_table(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    kinds = ["workers", "partitions", "cards", "records a key", "Valkey nodes"]
    parser.add_argument("--what", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=900_000)
    parser.add_argument("--warm-up-seconds", type=float, default=8.0)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--out", type=Path, default=BUILD / "scale.json")
    return parser.parse_args()


def _cases(events: int) -> list[Case]:
    usual = replace(_USUAL, events=events)
    cases = [Case("workers", size, workers=size, plan=usual) for size in (1, 2, 4)]
    cases += [Case("partitions", size, partitions=size, plan=usual) for size in (1, 2, 4, 8, 16)]
    cases += [
        Case("cards", size, plan=replace(usual, cards=size, terminals=2 * size))
        for size in (1_000, 10_000, 100_000, 1_000_000)
    ]
    step_ms = _WINDOW_MS // _WINDOW_RECORDS
    for size in (10, 100, 1_000, 10_000, 100_000):
        keys = _WINDOW_RECORDS // size
        plan = replace(usual, cards=keys, terminals=keys, step_ms=step_ms)
        cases.append(Case("records a key", size, plan=plan))
    cases.append(Case("Valkey nodes", 1, plan=usual))
    cases.append(Case("Valkey nodes", 3, plan=usual, is_cluster=True))
    return cases


def _grow(
    stack: LocalStack, bundle: Path, case: Case, number: int, arguments: argparse.Namespace
) -> Grown:
    topic = f"case{number}"
    fill(stack, topic, case.plan, case.partitions)
    clocking = Clocking(
        arguments.warm_up_seconds, arguments.seconds, case.plan.events, case.partitions
    )
    measured = []
    with _valkey(stack, case) as valkey:
        for round_ in range(arguments.rounds):
            run = new_run(stack, f"{topic}.round{round_}", topic, bundle, case.partitions)
            workers = Fraudstream(case.workers, valkey.environ)
            measured.append(measure(workers, run, clocking, valkey.pids))
            memory_mb, keys = valkey.holds()
            clear(run)
            valkey.clear()
    cpu_us = {part: median(m.cpu_us[part] for m in measured) for part in measured[0].cpu_us}
    rates = [m.events_per_s for m in measured]
    return Grown(case.grows, case.size, rates, cpu_us, memory_mb, keys)


def _table(found: Sequence[Grown]) -> Table:
    out = Table(title="Growth: medians (lowest to highest round)")
    for column in ("what", "size", "events/s", "CPU µs: own, broker, Valkey", "Valkey MB", "keys"):
        out.add_column(column, justify="right")
    for grown in found:
        low, high = min(grown.events_per_s), max(grown.events_per_s)
        rate = f"{median(grown.events_per_s):,.0f} ({low:,.0f} to {high:,.0f})"
        cpu = ", ".join(f"{us:.1f}" for us in grown.cpu_us.values())
        cells = (f"{grown.size:,}", rate, cpu, f"{grown.valkey_mb:.0f}", f"{grown.keys:,}")
        out.add_row(grown.grows, *cells)
    return out


if __name__ == "__main__":
    main()
