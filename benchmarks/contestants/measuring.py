"""Counts what becomes readable while a contestant runs, and what of the processor that takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants.field import clear, fill, new_run
from benchmarks.contestants.programs import Contestant, Fraudstream, Run
from benchmarks.job.stream import StreamPlan
from benchmarks.machine import cpu_seconds
from benchmarks.open_loop import PARTITIONS
from benchmarks.readable import counting
from benchmarks.subjects import Processes
from fraudstream.local.stack import LocalStack

_START_TIMEOUT_S = 90.0
_WARM_UP = StreamPlan(2_000_000)
_WARM_UP_S = 40.0
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Clocking:
    """How a run is timed.

    Parameters
    ----------
    warm_up_s
        From the first readable record on, not counted.
    seconds
        Counted.
    events
        How many there are to read: whoever is through with them cannot be timed.
    partitions
        Of the output topic.
    """

    warm_up_s: float
    seconds: float
    events: int
    partitions: int = PARTITIONS


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one contestant.

    Attributes
    ----------
    events_per_s
        What became readable in the measured seconds.
    cpu_us
        Processor time an event: of the contestant's ``own`` processes, the ``broker`` and
        ``valkey``.
    """

    events_per_s: float
    cpu_us: dict[str, float]


def warm(stack: LocalStack, bundle: Path) -> None:
    """Let a broker that was just started compile its code, on the job, before anything counts."""
    fill(stack, "warm-up", _WARM_UP)
    run = new_run(stack, "warm-up.run", "warm-up", bundle)
    measure(Fraudstream(2), run, Clocking(0.0, _WARM_UP_S, _WARM_UP.events))
    clear(run)


def measure(
    contestant: Contestant,
    run: Run,
    clocking: Clocking,
    valkey_pids: Sequence[int] | None = None,
) -> Measured:
    """Start a contestant, let it warm up, and count for the measured seconds.

    ``valkey_pids`` are those of a Valkey that is not the stack's.
    """
    status = run.stack.status()
    assert status.kafka_pid is not None
    assert status.valkey_pid is not None
    servers = run.stack.bootstrap_servers
    with Processes() as processes, counting(servers, run.output, clocking.partitions) as count:
        contestant.start(run, processes)
        _await_first(count, processes)
        time.sleep(clocking.warm_up_s)
        pids = {
            "own": processes.pids,
            "broker": [status.kafka_pid],
            "valkey": valkey_pids or [status.valkey_pid],
        }
        before = {part: cpu_seconds(of) for part, of in pids.items()}
        started, started_s = count(), time.monotonic()
        while time.monotonic() - started_s < clocking.seconds:
            processes.check()
            time.sleep(_SAMPLE_S)
            if count() >= clocking.events:
                sys.exit(f"{contestant.name} was through too soon: give more events")
        events, seconds = count() - started, time.monotonic() - started_s
        used = {part: cpu_seconds(of) - before[part] for part, of in pids.items()}
    if not events:
        sys.exit(f"{contestant.name} published nothing in the measured {seconds:.0f} s")
    return Measured(events / seconds, {part: 1e6 * s / events for part, s in used.items()})


def _await_first(count: Callable[[], int], processes: Processes) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not count():
        processes.check()
        if time.monotonic() > deadline_s:
            sys.exit("nothing was published")
        time.sleep(_SAMPLE_S)
