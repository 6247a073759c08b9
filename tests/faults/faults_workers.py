"""Faults of workers: killed, frozen, asleep, stopped and started (1–4, 11–13)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from crew import Armed
from harness import PATIENCE_S, wait_for
from history import Attempt, read_journals
from proxy import END_TXN, Caught
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage, now_ms

FAILPOINTS = ("FP1", "FP2", "FP3", "FP4", "FP5", "FP6", "FP7")
SESSION_TIMEOUT_S = 6.0
#: A worker that died is back, and its partitions are decided again, within this. When all die at
#: once, on a machine that is busy with other tests, it says little.
RECOVERY_S = {"short": 60.0, "full": SESSION_TIMEOUT_S + 2.0}
#: A zombie's clients find out that they were left behind before it goes on.
LINGER_S = 1.0


# ------------------------------------------------------------------ 1, 2: killed


@fault(1, "kill −9 at FP1…FP7", limit_s=1_800.0)
def kill_at_failpoints(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Kill workers at each place in turn: one after the other, or, to be short, all at once."""
    slots = 3
    repeats, at_once = (3, slots) if scale == "short" else (20, 1)
    rng = np.random.default_rng(seed)
    kills = [(place, n) for n in range(repeats) for place in FAILPOINTS]
    rate = 150.0 if scale == "short" else 300.0
    with Stage(stack, folder, seed, Plan(slots=slots, rate=rate)) as stage:
        for first in range(0, len(kills), at_once):
            victims = [
                (n % slots, *kills[n]) for n in range(first, min(first + at_once, len(kills)))
            ]
            with stage.fault("kill at " + " ".join(place for _, place, _ in victims)):
                times_ms = _kill_at(stage, victims, rng)
            for at_ms in times_ms:
                stage.await_recovery(at_ms)
            # Or the next one would die while this one is still starting, and nobody would be left.
            stage.crew.await_ready()
        stage.settle()
        outcome = stage.finish()
    longest_s, limit_s = max(outcome.recoveries_s), RECOVERY_S[scale]
    outcome.require(longest_s <= limit_s, f"recovery took {longest_s:.1f} s, not {limit_s:.0f} s")
    outcome.extra |= {
        "kills": len(kills),
        "unfinished": outcome.figures.unfinished,
        "longest_recovery_s": longest_s,
    }
    return outcome


def _kill_at(
    stage: Stage, victims: Sequence[tuple[int, str, int]], rng: np.random.Generator
) -> list[int]:
    """Kill each slot's worker at its place; give the times. Every second FP5 is the proxy's."""
    armed: list[Armed] = []
    lost: list[tuple[int, Caught]] = []
    for slot, place, number in victims:
        if place == "FP5" and number % 2:
            name = f"{stage.deployment.name}-{slot}-0"
            lost.append((slot, stage.proxy.drop_response(END_TXN, containing=name)))
        else:
            after = 1 if place == "FP7" else int(rng.integers(1, 6))
            armed.append(stage.crew.arm(slot, place, "kill", after=after))
    times_ms = []
    for slot, caught in lost:
        assert caught.wait(PATIENCE_S)
        times_ms.append(stage.crew.kill(slot))  # committed, and it was not told
    return times_ms + [one.wait() for one in armed]


@fault(2, "kill −9 of a random worker every 2–5 s", limit_s=600.0)
def kill_at_random(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Kill whoever it hits, also one that is still starting."""
    lasts_s = 20.0 if scale == "short" else 300.0
    rng = np.random.default_rng(seed)
    kills = 0
    with Stage(stack, folder, seed, Plan(slots=3)) as stage:
        until_s = time.monotonic() + lasts_s
        while time.monotonic() < until_s:
            time.sleep(rng.uniform(2.0, 5.0))
            slot = int(rng.integers(0, 3))
            if stage.crew.pid(slot) is not None:
                with stage.fault(f"kill {slot}"):
                    last_ms = stage.crew.kill(slot)
                kills += 1
        stage.crew.await_ready()
        stage.await_recovery(last_ms)
        stage.settle()
        outcome = stage.finish()
    outcome.extra |= {"kills": kills, "longest_stall_ms": outcome.figures.longest_stall_ms}
    return outcome


# ------------------------------------------------------------------ 3: frozen


@fault(3, "SIGSTOP at FP2, FP3, FP6 for twice the session time-out", limit_s=900.0)
def freeze(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Freeze workers until others have their partitions, and let them go on."""
    both = [("FP2", 0.0), ("FP3", 0.0)], [("FP2", LINGER_S), ("FP3", LINGER_S)]
    rounds = (
        [both[seed % 2]] if scale == "short" else [*both, [("FP6", 0.0), ("FP6", LINGER_S)]] * 3
    )
    zombies: list[tuple[int, int]] = []
    with Stage(stack, folder, seed, Plan(slots=3)) as stage:
        for places in rounds:
            with stage.fault("freeze " + " ".join(place for place, _ in places)):
                zombies += _freeze(stage, places)
            stage.await_recovery(now_ms())
        stage.settle()
        outcome = stage.finish()
        attempts = read_journals(stage.crew.journals)
    for slot, at_ms in zombies:
        _require_refused(outcome, attempts, slot, at_ms)
    outcome.extra["zombies"] = len(zombies)
    return outcome


def _freeze(stage: Stage, places: Sequence[tuple[str, float]]) -> list[tuple[int, int]]:
    """Freeze a worker at each place; give slot and time of those that had a batch in hand."""
    armed = [
        stage.crew.arm(slot, place, "stop", seconds=linger_s)
        for slot, (place, linger_s) in enumerate(places)
    ]
    times_ms = [one.wait() for one in armed]
    # Everything is decided by who is left, while they are still frozen.
    stage.await_recovery(max(times_ms), timeout_s=60)
    left_s = max(times_ms) / 1000 + 2 * SESSION_TIMEOUT_S - time.time()
    time.sleep(max(left_s, 0.0))
    for slot in range(len(places)):
        stage.crew.resume(slot)
    resumed_ms = now_ms()
    for slot in range(len(places)):
        _await_commit(stage, slot, resumed_ms)
    return [
        (slot, at_ms)
        for slot, ((place, _), at_ms) in enumerate(zip(places, times_ms, strict=True))
        if place != "FP6"  # it had committed: the next batch is a new one
    ]


def _await_commit(stage: Stage, slot: int, since_ms: int) -> None:
    """Wait until a worker has partitions again, and decides."""

    def has_committed() -> bool:
        attempts = read_journals(stage.crew.journals)
        return any(
            a.slot == slot and a.is_committed and a.begun_at_ms >= since_ms for a in attempts
        )

    wait_for(has_committed, f"worker {slot} to decide again")


def not_ended(attempts: Sequence[Attempt], slot: int, at_ms: int) -> list[Attempt]:
    """Give a worker's transactions that ended after it went to sleep, or never.

    One that ended in that very millisecond is the one before: who sleeps does so for seconds.
    """
    return [a for a in attempts if a.slot == slot and (a.ended_at_ms or at_ms + 1) > at_ms]


def _require_refused(outcome: Outcome, attempts: Sequence[Attempt], slot: int, at_ms: int) -> None:
    """Require that what a worker had in hand at a time was not committed by it."""
    own = not_ended(attempts, slot, at_ms)
    outcome.require(bool(own), f"worker {slot} had no transaction after it went on")
    outcome.require(
        not own or own[0].is_committed is False,
        f"the transaction of worker {slot} that others had taken over is {own[:1]}",
    )


# ------------------------------------------------------------------ 4, 12: stopped and started


@fault(4, "rolling SIGTERM of three workers under load", limit_s=300.0)
def rolling_restart(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Stop one after the other; each is back before the next one goes."""
    lasts_s, rate = (1.0, 300.0) if scale == "short" else (60.0, 500.0)
    restarts = 0
    with Stage(stack, folder, seed, Plan(slots=3, rate=rate)) as stage:
        until_s = time.monotonic() + lasts_s
        while restarts < 3 or time.monotonic() < until_s:
            slot, restarts = restarts % 3, restarts + 1
            stage.crew.stop_one(slot)
            stage.crew.start(slot)
            stage.crew.await_ready()
            time.sleep(2.0)
        stage.settle()
        outcome = stage.finish()
        slow = [e for e in _errors(stage) if "TIMED_OUT" in e]
    outcome.require(not slow, f"{len(slow)} time-outs, e.g. {slow[:1]}")
    outcome.require(not outcome.figures.degraded, f"{outcome.figures.degraded} degraded decisions")
    outcome.extra |= {
        "restarts": restarts,
        "aborted": outcome.figures.aborted,
        "p99_ms": outcome.figures.latency_ms_p99,
        "longest_stall_ms": outcome.figures.longest_stall_ms,
    }
    return outcome


@fault(12, "workers join and leave every 1–2 s", limit_s=300.0)
def churn(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Stop or start one of three, with a session so short that who is stopped is soon missed."""
    lasts_s = 15.0 if scale == "short" else 60.0
    rng = np.random.default_rng(seed)
    plan = Plan(slots=4, settings={"KAFKA__SESSION_TIMEOUT_MS": 2_000})
    changes, absent = 0, set[int]()
    with Stage(stack, folder, seed, plan) as stage:
        until_s = time.monotonic() + lasts_s
        with stage.fault("churn"):
            while time.monotonic() < until_s:
                slot = int(rng.integers(1, 4))
                if slot in absent:
                    stage.crew.start(slot)
                elif stage.crew.is_ready(slot):
                    stage.crew.stop_one(slot)
                else:
                    time.sleep(0.1)  # it is still joining
                    continue
                absent ^= {slot}
                changes += 1
                time.sleep(rng.uniform(1.0, 2.0))
        for slot in absent:
            stage.crew.start(slot)
        stage.crew.await_ready()
        stage.await_recovery(now_ms())
        stage.settle()
        outcome = stage.finish()
    outcome.extra |= {
        "changes": changes,
        "aborted": outcome.figures.aborted,
        "longest_stall_ms": outcome.figures.longest_stall_ms,
    }
    return outcome


def _errors(stage: Stage) -> list[str]:
    return [str(line.get("error")) for line in stage.crew.log("batch_read_again")]


# ------------------------------------------------------------------ 11, 13: asleep


@fault(11, "a worker sleeps beyond the transaction time-out", limit_s=300.0)
def outsleep_transaction(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Sleep with a transaction open until the coordinator has aborted it."""
    timeout_s, repeats = (3.0, 1) if scale == "short" else (10.0, 5)
    constant = "fraudstream.adapters.kafka_publisher._TRANSACTION_TIMEOUT_MS"
    plan = Plan(variables=_constants({constant: int(1_000 * timeout_s)}))
    slept: list[tuple[int, int]] = []
    with Stage(stack, folder, seed, plan) as stage:
        pids = [stage.crew.pid(slot) for slot in range(2)]
        for n in range(repeats):
            # The coordinator looks once a second, and the other's partitions go on meanwhile.
            place, sleep_s = ("FP3", "FP4")[n % 2], timeout_s + 2.5
            with stage.fault(f"sleep at {place}"):
                at_ms = stage.crew.arm(n % 2, place, "sleep", seconds=sleep_s).wait()
                time.sleep(sleep_s)
            slept.append((n % 2, at_ms))
            _await_commit(stage, n % 2, now_ms())
        stage.settle()
        same = [stage.crew.pid(slot) for slot in range(2)] == pids
        made_anew = len(stage.crew.log("producer_discarded"))
        outcome = stage.finish()
        attempts = read_journals(stage.crew.journals)
    outcome.require(same, "a worker ended")
    outcome.require(made_anew >= repeats, f"only {made_anew} producers were made anew")
    for slot, at_ms in slept:
        _require_refused(outcome, attempts, slot, at_ms)
    outcome.extra |= {"producers_made_anew": made_anew}
    return outcome


@fault(13, "max.poll.interval exceeded", limit_s=300.0)
def outsleep_group(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Sleep with records in hand until the group has given the partitions to another."""
    poll_interval_s, session_s = 4.0, 3.0
    sleep_s = poll_interval_s + session_s + 3.0
    constant = "fraudstream.adapters.kafka_source._MAX_POLL_INTERVAL_MS"
    plan = Plan(
        settings={"KAFKA__SESSION_TIMEOUT_MS": int(1_000 * session_s)},
        variables=_constants({constant: int(1_000 * poll_interval_s)}),
    )
    slept: list[tuple[int, int]] = []
    with Stage(stack, folder, seed, plan) as stage:
        for n in range(1 if scale == "short" else 5):
            place = ("FP1", "FP2")[n % 2]
            with stage.fault(f"sleep at {place}"):
                at_ms = stage.crew.arm(n % 2, place, "sleep", seconds=sleep_s).wait()
                stage.await_recovery(at_ms, timeout_s=60)
                time.sleep(max(at_ms / 1000 + sleep_s - time.time(), 0.0))
            assert stage.recoveries_s[-1] < sleep_s, "the others came too late to show anything"
            slept.append((n % 2, at_ms))
            _await_commit(stage, n % 2, now_ms())
        stage.settle()
        outcome = stage.finish()
        attempts = read_journals(stage.crew.journals)
    for slot, at_ms in slept:
        _require_refused(outcome, attempts, slot, at_ms)
    return outcome


def _constants(changes: dict[str, int]) -> dict[str, str]:
    return {"FRAUDSTREAM_TEST_CONSTANTS": json.dumps(changes)}
