"""Faults of a Valkey that is away, slow or full, and loses nothing else: 14, 17, 18, 19."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from harness import wait_for
from outage import (
    DEADLINE,
    Phase,
    await_degraded,
    await_whole,
    degraded,
    look,
    plan,
    require_degraded,
    require_prompt,
    snapshot_path,
    wait,
    widen_to_start,
)
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage, now_ms

#: What a worker may ask in one try: names, versions, fitness, functions, and the call itself.
COMMANDS_PER_TRY = 12
#: Pauses of the breaker that are shorter than its longest, which is a second.
SHORT_PAUSES = 6
#: Room that a Valkey has left when its memory becomes short: it ends in the middle of a batch.
ROOM_BYTES = 32_768
CUT_TIMEOUT_S = 20.0


@fault(14, "Valkey down 30 s", limit_s=300)
def valkey_down(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Decisions are flagged and prompt meanwhile; then the gap is closed."""
    before_s, away_s = (1.5, 4.0) if scale == "short" else (10.0, 30.0)
    with Stage(faults, folder, seed, plan(settings=DEADLINE)) as stage:
        quiet = wait("before", before_s)
        with stage.fault("Valkey down") as window:
            stage.stack.kill_valkey()
            down = wait("down", away_s)
            stage.stack.start_valkey()
        widen_to_start(stage)
        repair = await_whole(stage, window.start_ms, now_ms())
        stage.settle()
        found = look(stage)
        outcome = stage.finish()
    require_degraded(outcome, found, down)
    require_prompt(outcome, found, quiet, down, scale)
    repair.report(outcome)
    return outcome


@fault(17, "Valkey paused 3 s; 50 ms latency", limit_s=300)
def valkey_slow(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Keep the deadline, open the breaker, let nothing pile up."""
    times, slow_s = (1, 3.0) if scale == "short" else (5, 30.0)
    phases: list[tuple[Phase, Reached]] = []
    with Stage(faults, folder, seed, plan(settings=DEADLINE)) as stage:
        quiet = wait("before", 1.5 if scale == "short" else 10.0)
        for _ in range(times):
            with stage.fault("Valkey paused") as window, _counted(stage) as reached:
                stage.stack.pause_valkey()
                phases.append((wait("paused", 3.0), reached))
                stage.stack.resume_valkey()
            await_whole(stage, window.start_ms, now_ms())
        with stage.fault("Valkey slow") as window, _counted(stage) as reached:
            stage.valkey_proxy.delay(0.05)
            phases.append((wait("slow", slow_s), reached))
            stage.valkey_proxy.heal()
        widen_to_start(stage)
        repair = await_whole(stage, window.start_ms, now_ms())
        connections = stage.valkey_proxy.connections()
        stage.settle()
        found = look(stage)
        outcome = stage.finish()
    for phase, reached in phases:
        require_degraded(outcome, found, phase)
        require_prompt(outcome, found, quiet, phase, scale)
        _require_few_calls(outcome, stage.plan.slots, phase, reached)
    outcome.extra["connections"] = connections
    outcome.require(connections <= 2 * stage.plan.slots, f"{connections} connections are open")
    repair.report(outcome)
    return outcome


@fault(18, "Valkey out of memory; its disk full", limit_s=300)
def valkey_full(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Nothing is half-applied; decisions go on without profiles."""
    times, full_s = (1, 1.5) if scale == "short" else (3, 10.0)
    phases: list[Phase] = []
    with Stage(faults, folder, seed, plan()) as stage, stage.deployment.valkey() as client:
        wait("before", 1.5)
        for _ in range(times):
            with stage.fault("Valkey out of memory") as window, _short_of_memory(stage, client):
                phases.append(wait("out_of_memory", full_s))
            await_whole(stage, window.start_ms, now_ms())
            with stage.fault("disk full") as window, _short_of_disk(client):
                phases.append(wait("disk_full", full_s))
            repair = await_whole(stage, window.start_ms, now_ms())
        stage.settle()
        found = look(stage)
        outcome = stage.finish()
    for phase in phases:
        require_degraded(outcome, found, phase)
    repair.report(outcome)
    return outcome


@fault(19, "Valkey's answer cut after it applied", limit_s=300)
def answer_cut(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Change nothing by trying a batch again, nor by repairing a stretch."""
    times = 8 if scale == "short" else 50
    # Every decision waits for its profiles here: what a retry is told is what is decided by.
    waiting = plan(slots=1, settings={"VALKEY__ON_DEADLINE": "wait"})
    outcome = _cut_answers(faults, folder / "wait", seed, waiting, times)
    outcome.require(outcome.figures.degraded == 0, "a decision did not wait for its profiles")
    if scale == "full":
        later = _cut_answers(faults, folder / "degrade", seed + 1, plan(), times)
        later.require(later.figures.degraded > 0, "no batch was decided without its answer")
        later.failures += outcome.problems
        later.extra |= {f"wait_{name}": value for name, value in outcome.extra.items()}
        return later
    return outcome


def _cut_answers(
    faults: FaultStack, folder: Path, seed: int, stage_plan: Plan, times: int
) -> Outcome:
    folder.mkdir()
    with Stage(faults, folder, seed, stage_plan) as stage:
        for _ in range(times):
            with stage.fault("answer cut"):
                cut = stage.valkey_proxy.cut_after_apply(1, containing="FCALL")
                assert cut.wait(CUT_TIMEOUT_S), "no call went to Valkey"
            time.sleep(0.25)
        stage.await_recovery(now_ms())
        stage.settle()
        outcome = stage.finish()
    duplicates = outcome.figures.duplicates
    outcome.require(duplicates == 0, f"{duplicates} retries were taken for duplicates")
    outcome.extra["answers_cut"] = times
    return outcome


# ------------------------------------------------------------------ what is done to Valkey


@contextmanager
def _short_of_memory(stage: Stage, client: redis.Redis) -> Iterator[None]:
    """Let Valkey run full in the middle of a batch, and then have no room at all."""
    used = _info(client, "memory")["used_memory"]
    before = degraded(stage)
    try:
        client.config_set("maxmemory", used + ROOM_BYTES)
        await_degraded(stage, before)
        client.config_set("maxmemory", used // 2)
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def _short_of_disk(client: redis.Redis) -> Iterator[None]:
    """Let a snapshot fail half-way: Valkey then takes nothing more, until one succeeds."""
    client.save()
    snapshot = snapshot_path(client)
    pid = int(_info(client, "server")["process_id"])
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        client.config_set("save", "3600 1000000000")  # without a policy it would not mind
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (snapshot.stat().st_size // 2, before[1]))
        _save(client, "err")
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        _save(client, "ok")
        client.config_set("save", "")


def _save(client: redis.Redis, status: str) -> None:
    client.bgsave()

    def has_ended() -> bool:
        info = _info(client, "persistence")
        is_over: bool = info["rdb_bgsave_in_progress"] == 0
        return is_over and info["rdb_last_bgsave_status"] == status

    wait_for(has_ended, f"a snapshot to end with: {status}")


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    info: dict[str, Any] = client.info(section)
    return info


# ------------------------------------------------------------------ what reaches it


@dataclass
class Reached:
    """What reached Valkey."""

    connections: int = 0
    commands: int = 0


@contextmanager
def _counted(stage: Stage) -> Iterator[Reached]:
    """Count what reaches Valkey meanwhile, our own questions included."""
    reached = Reached()
    with stage.deployment.valkey() as client:
        before = _info(client, "stats")
        yield reached
        after = _info(client, "stats")
    reached.connections, reached.commands = (
        int(after[name] - before[name])
        for name in ("total_connections_received", "total_commands_processed")
    )


def _require_few_calls(outcome: Outcome, slots: int, phase: Phase, reached: Reached) -> None:
    """Hold that the breaker kept calls away: one try a second and worker, after the first few."""
    name, tries = phase.name, slots * (phase.seconds + SHORT_PAUSES)
    outcome.extra[f"{name}_connections"] = reached.connections
    outcome.extra[f"{name}_commands"] = reached.commands
    outcome.require(reached.connections <= tries, f"{name}: {reached.connections} new connections")
    is_few = reached.commands <= COMMANDS_PER_TRY * tries
    outcome.require(is_few, f"{name}: {reached.commands} commands")
