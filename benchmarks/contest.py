"""Throughput on one job, against peers and against the limit: ``python -m benchmarks.contest``.

Every contestant reads the same payments from the same broker, computes the same features, scores
with the same model file and publishes a record for each payment, exactly once
(``benchmarks/contestants``). Nobody is timed whose scores on 10,000 vectors differ from ours by
more than 1e-6, or who loses or doubles a payment of a short stream. Rounds alternate, each with a
warm-up of its own; throughput is what became readable at ``read_committed`` in the measured
seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.contest_report import plot, table
from benchmarks.contestants.field import clear, fill, new_run
from benchmarks.contestants.measuring import Clocking, measure
from benchmarks.contestants.programs import (
    BUILD,
    Contestant,
    Echo,
    Fraudstream,
    KafkaStreams,
    Quix,
)
from benchmarks.contestants.trial import Trials, require_same_scores
from benchmarks.job.model import make_bundle
from benchmarks.job.stream import StreamPlan
from benchmarks.limit import predict_us, valkey_us
from benchmarks.machine import describe_run
from benchmarks.subjects import benchmark_stack
from fraudstream.local.stack import LocalStack

_INPUT = "contest"
_LIMIT_EVENTS = 100_000
_PEERS: Mapping[str, Sequence[Contestant]] = {
    "kafka-streams": (KafkaStreams(), KafkaStreams(rows=64)),
    "quix": (Quix(),),
}


def main() -> None:
    """Check everybody, run the rounds, print a table and write the figures."""
    arguments = _arguments()
    console = Console(stderr=True)
    bundle = make_bundle(BUILD)
    contestants = _contestants(arguments)
    for contestant in contestants:
        console.print(f"preparing {contestant.name}")
        contestant.prepare()
        require_same_scores(contestant, bundle)
    results = describe_run("benchmarks.contest")
    with benchmark_stack() as stack, Progress(console=console) as progress:
        trials = Trials(stack, bundle)
        results["trials"] = {
            contestant.name: trials.hold(contestant, number)
            for number, contestant in enumerate(contestants)
            if not isinstance(contestant, Echo)
        }
        fill(stack, _INPUT, StreamPlan(arguments.events))
        results |= _rounds(stack, bundle, contestants, arguments, progress)
    arguments.out.write_text(json.dumps(results, indent=1), "utf-8")
    Console().print(table(results))
    plot(results, arguments.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=5_000_000, help="payments in the input topic")
    parser.add_argument("--warm-up-seconds", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, after the warm-up")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 3], help="ours, each in turn"
    )
    parser.add_argument("--without", choices=sorted(_PEERS), action="append", default=[])
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE for our workers")
    parser.add_argument("--out", type=Path, default=BUILD / "contest.json")
    picture = BUILD / "throughput.svg"
    parser.add_argument("--plot", type=Path, default=picture, help="an SVG of all rounds")
    return parser.parse_args()


def _contestants(arguments: argparse.Namespace) -> list[Contestant]:
    environ = dict(setting.split("=", 1) for setting in arguments.env)
    ours: list[Contestant] = [Fraudstream(workers, environ) for workers in arguments.workers]
    peers = [peer for name, of in _PEERS.items() if name not in arguments.without for peer in of]
    return [*ours, *peers, Echo()]


def _rounds(
    stack: LocalStack,
    bundle: Path,
    contestants: list[Contestant],
    arguments: argparse.Namespace,
    progress: Progress,
) -> dict[str, object]:
    """Let the contestants take turns, each round in another order."""
    clocking = Clocking(arguments.warm_up_seconds, arguments.seconds, arguments.events)
    rounds: dict[str, list[dict[str, object]]] = {c.name: [] for c in contestants}
    limits: list[dict[str, float]] = []
    task = progress.add_task("rounds", total=arguments.rounds * (len(contestants) + 1))
    for number in range(arguments.rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            progress.update(task, description=f"round {number + 1}: {contestant.name}")
            run = new_run(stack, f"run{number}.{contestants.index(contestant)}", _INPUT, bundle)
            rounds[contestant.name].append(asdict(measure(contestant, run, clocking)))
            clear(run)
            progress.advance(task)
        progress.update(task, description=f"round {number + 1}: the parts alone")
        plan = StreamPlan(_LIMIT_EVENTS, seed=number)
        limits.append({"predict": predict_us(bundle), **valkey_us(stack, bundle, plan)})
        progress.advance(task)
    return {"rounds": rounds, "limits_us": limits}


if __name__ == "__main__":
    main()
