"""Latency from due to readable, open loop: ``python -m benchmarks.latency --rate 500``.

For each rate a fresh Kafka and Valkey are started, and the broker is kept busy until its code is
compiled. On them are measured, in turns and in several rounds: fraudstream with each delivery
guarantee, and a bare transactional echo of the same payments. Each gets a history first, which
fills the windows, then payments by a fixed schedule; those of the warm-up are not counted.

Apart from that, in some more rounds: the first minute of a worker from the start of its process,
and a minute in which one more worker joins and leaves.

Everything, broker and Valkey included, shares this machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.contest_report import highest_of, share_of
from benchmarks.episodes import LEAD_S, cold_start, conditions_of, rebalance
from benchmarks.histograms import figures_of
from benchmarks.job.model import make_bundle
from benchmarks.latency_report import Report, Round
from benchmarks.open_loop import Channel, Observed, Schedule, open_loop
from benchmarks.subjects import (
    DELIVERIES,
    ECHO,
    Echo,
    Subject,
    WorkerOptions,
    Workers,
    benchmark_stack,
    make_topics,
)
from fraudstream.local.stack import LocalStack

_RATES = (200.0, 1_000.0, 2_000.0, 5_000.0)
_SHARES = (0.5, 0.8)
_BUILD = Path("build/bench")
#: How the broker is kept busy before anybody is measured: it makes its internal topics, too.
_WARM_UP_RATE_PER_S = 1_000.0
_WARM_UP_HISTORY = 20_000

_Step = Callable[[str], None]


def main() -> None:
    """Measure, print tables, and write the results to files."""
    arguments = _arguments()
    bundle = arguments.bundle or make_bundle(_BUILD)
    if not (bundle / "manifest.json").exists():
        sys.exit(f"there is no bundle in {bundle}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    command = shlex.join(["python", "-m", "benchmarks.latency", *sys.argv[1:]])
    report = Report(
        command, datetime.now(UTC).isoformat(timespec="seconds"), _plain(vars(arguments))
    )
    options = WorkerOptions(
        bundle.resolve(),
        arguments.workers,
        arguments.review_threshold,
        dict(arguments.env),
    )
    subjects = [*arguments.delivery, ECHO]
    rounds = len(arguments.rate) * arguments.rounds * len(subjects)
    with _progress(rounds + 2 * arguments.episodes * len(arguments.delivery)) as step:
        for rate in arguments.rate if arguments.rounds else ():
            _run_rate(rate, arguments, options, report, step)
        if arguments.episodes:
            _run_episodes(arguments, options, report, step)
    if report.rounds:
        report.draw(arguments.plot)
    report.show(Console())


@dataclass(frozen=True, slots=True)
class _RoundPlan:
    """What is the same for all subjects of a round."""

    schedule: Schedule
    warm_up_s: float
    number: int
    options: WorkerOptions


def _run_rate(
    rate: float,
    arguments: argparse.Namespace,
    options: WorkerOptions,
    report: Report,
    step: _Step,
) -> None:
    subjects = [*arguments.delivery, ECHO]
    warm_up_s, seconds = arguments.warm_up_seconds, arguments.seconds
    with _warm_stack(arguments.broker_warm_up_seconds) as stack:
        for number in range(arguments.rounds):
            schedule = Schedule(rate, warm_up_s + seconds, arguments.history, seed=number + 1)
            plan = _RoundPlan(schedule, warm_up_s, number + 1, options)
            turn = number % len(subjects)
            _run_round(stack, plan, [*subjects[turn:], *subjects[:turn]], report, step)
            report.save(arguments.out)  # an interrupted run keeps what it has


def _run_round(
    stack: LocalStack, plan: _RoundPlan, subjects: list[str], report: Report, step: _Step
) -> None:
    rate = plan.schedule.rate_per_s
    for kind in subjects:
        step(f"{rate:,g}/s, round {plan.number}, {kind}")
        name = f"{kind}-{plan.number}"
        channel = make_topics(stack, name)
        subject: Subject = (
            Echo(channel) if kind == ECHO else Workers(stack, name, kind, plan.options)
        )
        with subject.processes:
            subject.begin()
            observed, before = _pass(subject, channel, plan.schedule)
            conditions = conditions_of(observed, subject, before)
        first = round(plan.warm_up_s * rate)
        outputs = {
            topic.rpartition(".")[2]: figures_of(latencies_s)
            for topic in channel.outputs
            if len(latencies_s := observed.latencies_s(topic, first))
        }
        report.rounds.append(Round(rate, kind, plan.number, outputs, conditions))


def _run_episodes(
    arguments: argparse.Namespace, options: WorkerOptions, report: Report, step: _Step
) -> None:
    rate, seconds = arguments.episode_rate, arguments.episode_seconds
    with _warm_stack(arguments.broker_warm_up_seconds) as stack:
        for number in range(1, arguments.episodes + 1):
            for delivery in arguments.delivery:
                step(f"cold start {number}, {delivery}")
                schedule = Schedule(rate, seconds, seed=number)
                report.cold_starts.append(cold_start(stack, delivery, schedule, number, options))
                step(f"rebalance {number}, {delivery}")
                schedule = Schedule(rate, seconds, arguments.history, seed=number)
                report.rebalances.append(rebalance(stack, delivery, schedule, number, options))
                report.save(arguments.out)


def _pass(
    subject: Subject, channel: Channel, schedule: Schedule
) -> tuple[Observed, dict[str, float]]:
    """Send and read a whole schedule; give what the subject had counted before it, too."""
    with open_loop(channel, schedule, subject.processes.check) as loop:
        loop.send_history()
        before = subject.counters()
        loop.start(time.monotonic() + LEAD_S)
        return loop.finish(), before


@contextmanager
def _warm_stack(seconds: float) -> Iterator[LocalStack]:
    """Start a broker and let it compile its code, as one that has run for a while."""
    with benchmark_stack() as stack:
        channel = make_topics(stack, "warm-up")
        echo = Echo(channel)
        with echo.processes:
            echo.begin()
            _pass(echo, channel, Schedule(_WARM_UP_RATE_PER_S, seconds, _WARM_UP_HISTORY))
        yield stack


@contextmanager
def _progress(steps: int) -> Iterator[_Step]:
    """Show what is being measured, and how long it will take; drawn seldom, for it costs time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(
        *columns, *times, console=console, refresh_per_second=1, speed_estimate_period=3_600
    )
    bar.disable = not console.is_terminal
    with bar:
        task = bar.add_task("starting", total=steps, completed=-1)
        yield lambda words: bar.update(task, description=words, advance=1)


def _plain(options: dict[str, object]) -> dict[str, object]:
    return {n: str(v) if isinstance(v, Path) else v for n, v in options.items()}


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    return name, value


def _shares(arguments: argparse.Namespace) -> list[float]:
    """Give half and four fifths of what as many workers reached in `benchmarks.contest`."""
    if not arguments.contest.exists():
        return []
    highest = highest_of(json.loads(arguments.contest.read_text("utf-8")), arguments.workers)
    return [share_of(highest, share) for share in _SHARES] if highest else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    add = parser.add_argument
    rates = ", ".join(f"{rate:g}" for rate in _RATES)
    shares = ", and half and four fifths of what --contest says"
    add(
        "--rate",
        type=float,
        action="append",
        help=f"may be repeated; default: {rates} a second{shares}",
    )
    add("--seconds", type=float, default=20.0, help="measured, after the warm-up")
    add("--warm-up-seconds", type=float, default=5.0, help="sent before, and not counted")
    add("--broker-warm-up-seconds", type=float, default=60.0, help="before each rate")
    add("--rounds", type=int, default=5, help="at each rate; 0: only the episodes")
    add("--history", type=int, default=150_000, help="payments before the schedule: 30 days")
    add("--delivery", action="append", choices=DELIVERIES, help="may be repeated; default: both")
    add("--workers", type=int, default=1, help="how many processes decide")
    add("--bundle", type=Path, help="a model's folder; default: the benchmarks' own")
    add("--review-threshold", type=float, default=0.3, help="from which score on to alert")
    env_help = "a setting of the workers to try; may be repeated"
    add("--env", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help=env_help)
    add("--episodes", type=int, default=3, help="cold starts and rebalances; 0: none")
    add("--episode-rate", type=float, default=1_000.0, help="events a second in each")
    add("--episode-seconds", type=float, default=60.0, help="how long each is")
    add("--contest", type=Path, default=_BUILD / "contest.json", help="results of that benchmark")
    add("--out", type=Path, default=_BUILD / "latency.json", help="results as JSON")
    picture = _BUILD / "latency.svg"
    add("--plot", type=Path, default=picture, help="the percentile curves, SVG or PNG")
    arguments = parser.parse_args()
    arguments.rate = arguments.rate or [*_RATES, *_shares(arguments)]
    arguments.delivery = arguments.delivery or list(DELIVERIES)
    return arguments


if __name__ == "__main__":
    main()
