"""Fault 27: a random mixture of faults with quiet periods, for as long as somebody has time.

Worker 0 is never killed: its memory and descriptors must be at the end what they were at the
beginning, after all that was thrown at it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from faults_kafka import abort_a_third, by_reset, release_in_next
from harness import wait_for
from load import Mixture
from proxy import END_TXN
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage

MINUTES_VARIABLE = "FRAUDSTREAM_TEST_SOAK_MINUTES"
SLOTS = 3
#: A payment is half a minute of a card's life, over the whole soak some weeks.
MIXTURE = Mixture(step_ms=5_000, duplicates=0.01)
QUIET_S = (4.0, 10.0)
#: Last third of the time against the first.
GROWTH_MAX = 0.05
#: How long a worker is stopped: twice its session time-out, so that others take over.
PAUSE_S = 12.0
FAILPOINTS = ("FP1", "FP2", "FP3", "FP4", "FP5", "FP6", "FP7")
REPAIR_TIMEOUT_S = 180.0
#: What waits behind a broker that took its time is decided first.
RECOVERY_TIMEOUT_S = 240.0

Rng = np.random.Generator
Cause = Callable[[Stage, Rng], None]


class Sample(NamedTuple):
    """What worker 0 held at a quiet moment."""

    at_s: float
    memory_bytes: float
    descriptors: float


def _other(rng: Rng) -> int:
    """Choose a worker that may die."""
    return int(rng.integers(1, SLOTS))


def kill(stage: Stage, rng: Rng) -> None:
    """Kill a worker at any instant."""
    stage.crew.kill(_other(rng))


def kill_at_failpoint(stage: Stage, rng: Rng) -> None:
    """Kill a worker at one of the named places."""
    stage.crew.arm(_other(rng), str(rng.choice(FAILPOINTS)), "kill").wait()


def pause(stage: Stage, rng: Rng) -> None:
    """Stop a worker until others have taken its partitions, then let it go on."""
    slot = _other(rng)
    stage.crew.pause(slot)
    time.sleep(PAUSE_S)
    stage.crew.resume(slot)


def restart(stage: Stage, rng: Rng) -> None:
    """Restart a worker in order."""
    slot = _other(rng)
    stage.crew.stop_one(slot)
    stage.crew.start(slot)


def kill_broker(stage: Stage, rng: Rng) -> None:
    """Kill the broker; it is away for some seconds."""
    stage.stack.kill_kafka()
    time.sleep(rng.uniform(0.0, 5.0))
    stage.stack.start_kafka()


def restart_broker(stage: Stage, rng: Rng) -> None:
    """Restart the broker in order."""
    del rng
    stage.stack.stop_kafka()
    stage.stack.start_kafka()


def lose_valkey(stage: Stage, rng: Rng) -> None:
    """Kill Valkey; it comes back empty."""
    stage.stack.kill_valkey()
    time.sleep(rng.uniform(0.0, 5.0))
    stage.stack.start_valkey()
    _await_whole_profiles(stage)


def flush_valkey(stage: Stage, rng: Rng) -> None:
    """Empty Valkey, without a disconnect."""
    del rng
    with stage.deployment.valkey() as client:
        client.flushall()
    _await_whole_profiles(stage)


def pause_valkey(stage: Stage, rng: Rng) -> None:
    """Let Valkey hang."""
    stage.stack.pause_valkey()
    time.sleep(rng.uniform(0.5, 4.0))
    stage.stack.resume_valkey()
    _await_whole_profiles(stage)


def cut_valkey(stage: Stage, rng: Rng) -> None:
    """Lose answers of calls that Valkey carried out."""
    stage.valkey_proxy.cut_after_apply(int(rng.integers(1, 5)), containing="FCALL")
    time.sleep(2.0)


def black_hole(stage: Stage, rng: Rng) -> None:
    """Let nothing through between workers and Kafka."""
    stage.proxy.black_hole()
    time.sleep(rng.uniform(1.0, 8.0))
    stage.proxy.heal()


def reset(stage: Stage, rng: Rng) -> None:
    """Cut all connections between workers and Kafka, some times."""
    for _ in range(int(rng.integers(1, 4))):
        stage.proxy.reset_all()
        time.sleep(rng.uniform(0.2, 1.0))


def abort(stage: Stage, rng: Rng) -> None:
    """Abort a third of all transactions for a while."""
    del rng
    abort_a_third(stage, 4.0)


def delay_end(stage: Stage, rng: Rng) -> None:
    """Let the end of a transaction arrive in the next one."""
    release_in_next(stage, int(rng.integers(0, SLOTS)), END_TXN, by_reset)


CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        cause.__name__: cause
        for cause in (
            kill, kill_at_failpoint, pause, restart, kill_broker, restart_broker, lose_valkey,
            flush_valkey, pause_valkey, cut_valkey, black_hole, reset, abort, delay_end,
        )
    }
)  # fmt: skip


@fault(27, "soak: a random mixture with quiet periods", limit_s=3 * 3_600)
def soak(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """See that totals are right, and that memory and descriptors are flat."""
    minutes = float(os.environ.get(MINUTES_VARIABLE, "30")) if scale == "full" else 0.5
    rng = np.random.default_rng(seed)
    plan = Plan(
        slots=SLOTS,
        rate=200,
        mixture=MIXTURE,
        exit_codes=frozenset({-9, 0}),
    )
    with Stage(faults, folder, seed, plan) as stage:
        started_s = time.monotonic()
        pid = stage.crew.pid(0)
        samples = [_sample(stage, started_s)]
        while time.monotonic() - started_s < 60 * minutes:
            for name in rng.permutation(list(CAUSES)).tolist():
                _suffer(stage, name, rng)
                time.sleep(rng.uniform(*QUIET_S))
                samples.append(_sample(stage, started_s))
                if time.monotonic() - started_s >= 60 * minutes:
                    break
        is_same = stage.crew.pid(0) == pid
        stage.settle(timeout_s=300)
        outcome = stage.finish()
    (folder / "samples.json").write_text(json.dumps([s._asdict() for s in samples]), "utf-8")
    outcome.require(is_same, "worker 0 ended, though nobody killed it")
    _judge_growth(outcome, samples)
    return outcome


def _suffer(stage: Stage, name: str, rng: Rng) -> None:
    with stage.fault(name) as window:
        CAUSES[name](stage, rng)
    stage.await_recovery(window.end_ms, RECOVERY_TIMEOUT_S)


def _await_whole_profiles(stage: Stage) -> None:
    """Wait until the workers have noticed and repaired a loss; until then it lasts."""
    time.sleep(2.0)  # what they say of gaps is a second old at most
    wait_for(
        lambda: stage.crew.metric("fraudstream_profile_gap_records") == 0,
        "profiles to be whole again",
        REPAIR_TIMEOUT_S,
    )


def _sample(stage: Stage, started_s: float) -> Sample:
    worker = stage.crew.worker(0)
    return Sample(
        time.monotonic() - started_s,
        worker.metric("process_resident_memory_bytes"),
        worker.metric("process_open_fds"),
    )


def _judge_growth(outcome: Outcome, samples: list[Sample]) -> None:
    third = max(len(samples) // 3, 1)
    for name, unit in (("memory_bytes", 1e6), ("descriptors", 1.0)):
        values = np.array([getattr(sample, name) for sample in samples])
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        outcome.extra[f"{name.replace('bytes', 'mb')}_first_third"] = round(first / unit, 1)
        outcome.extra[f"{name.replace('bytes', 'mb')}_last_third"] = round(last / unit, 1)
        if len(samples) >= 30:  # a few faults say nothing of growth
            growth = last / first - 1
            outcome.require(growth <= GROWTH_MAX, f"{name} grew by {growth:.1%}")
