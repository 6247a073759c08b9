"""Faults of Kafka and of the network before it: 5 to 10."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from proxy import END_TXN, PRODUCE, TXN_OFFSET_COMMIT, Held
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage

#: A worker's transaction is held open for so long while an old request arrives in it.
OPEN_S = 0.8
#: Before the old request arrives there must be something for it to commit.
OUTPUTS_ARRIVE_S = 0.2
#: `socket.timeout.ms` is 3 s; the client gives the request up then and asks again.
GIVEN_UP_S = 20.0
#: A client that has nobody to talk to must not keep a core busy.
CPU_MAX = 0.5
CPU_METRIC = "process_cpu_seconds_total"
RETURN_MAX_S = 10.0

GiveUp = Callable[[Held], None]


def by_timeout(held: Held) -> None:
    """Leave the client waiting until it gives the request up by itself."""
    del held


def by_reset(held: Held) -> None:
    """Cut the connection, so that the client asks again at once."""
    held.reset_client()


def release_in_next(stage: Stage, slot: int, api_key: int, give_up: GiveUp) -> None:
    """Hold a worker's request, and let the broker have it while its next transaction is open."""
    held = stage.proxy.hold(api_key, containing=f"{stage.deployment.name}-{slot}-0")
    if not held.wait(GIVEN_UP_S):
        message = f"worker {slot} sent no request of kind {api_key}"
        raise AssertionError(message)
    give_up(held)
    # Its present attempt is past this place, unless it is aborted and made again.
    opened = stage.crew.arm(slot, "FP3", "sleep", seconds=OPEN_S)
    opened.wait(GIVEN_UP_S)
    # It aborts then: had the old request ended it, its records would stay visible all the same.
    aborted = stage.crew.arm(slot, "FP4", "abort")
    time.sleep(OUTPUTS_ARRIVE_S)
    held.release()
    aborted.wait(GIVEN_UP_S)


def _delayed(stage: Stage, api_keys: tuple[int, ...], times: int) -> Outcome:
    for number in range(times):
        for api_key in api_keys:
            for name, give_up in (("time-out", by_timeout), ("reset", by_reset)):
                with stage.fault(f"request {api_key} held, {name}") as window:
                    release_in_next(stage, number % stage.plan.slots, api_key, give_up)
                stage.await_recovery(window.end_ms)
    rebuilds = stage.crew.metric("fraudstream_producer_rebuilds_total")
    stage.settle()
    outcome = stage.finish()
    outcome.extra["producers_remade"] = rebuilds
    wanted = 2 * times * len(api_keys)
    outcome.require(rebuilds >= wanted, f"{rebuilds:.0f} producers re-made, not {wanted}")
    return outcome


@fault(5, "EndTxn held and released in the next transaction", limit_s=600)
def end_txn_held(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """By a time-out and by a reset: no aborted reads; the producer is re-made."""
    with Stage(faults, folder, seed, Plan(slots=2, rate=200)) as stage:
        return _delayed(stage, (END_TXN,), 1 if scale == "short" else 10)


@fault(6, "Produce or TxnOffsetCommit held and released in the next transaction", limit_s=600)
def outputs_or_offsets_held(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Hold a request that carries outputs, or offsets: the same must hold."""
    with Stage(faults, folder, seed, Plan(slots=2, rate=200)) as stage:
        return _delayed(stage, (PRODUCE, TXN_OFFSET_COMMIT), 1 if scale == "short" else 6)


@fault(7, "broker killed in mid-transaction, away for 10 s", limit_s=600)
def broker_killed(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """No worker exits; decisions are back within 10 s of the broker's return."""
    times, away_s = (1, 3.0) if scale == "short" else (5, 10.0)
    with Stage(faults, folder, seed, Plan(slots=2, rate=200, exit_codes=frozenset())) as stage:
        for number in range(times):
            opened = stage.crew.arm(number % 2, "FP3", "sleep", seconds=OPEN_S)
            opened.wait(GIVEN_UP_S)
            with stage.fault("broker killed") as window:
                stage.stack.kill_kafka()
                time.sleep(away_s)
                stage.stack.start_kafka()
            stage.await_recovery(window.end_ms)
        stage.settle()
        outcome = stage.finish()
    _require_return(outcome)
    return outcome


@fault(8, "broker restarted in order, three times", limit_s=600)
def broker_restarted(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """No worker exits either."""
    times = 1 if scale == "short" else 3
    with Stage(faults, folder, seed, Plan(slots=2, rate=200, exit_codes=frozenset())) as stage:
        for _ in range(times):
            with stage.fault("broker restarted") as window:
                stage.stack.stop_kafka()
                stage.stack.start_kafka()
            stage.await_recovery(window.end_ms)
            time.sleep(3.0)  # a quiet period, as between two brokers of an update
        stage.settle()
        outcome = stage.finish()
    _require_return(outcome)
    return outcome


@fault(9, "network: black hole, resets, latency", limit_s=600)
def network(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """See that there is no hot loop and no worker exits: black hole, resets, 200 ms of latency."""
    length_s = 5.0 if scale == "short" else 15.0
    with Stage(faults, folder, seed, Plan(slots=2, rate=100, exit_codes=frozenset())) as stage:
        shares = []
        with stage.fault("black hole") as window:
            stage.proxy.black_hole()
            shares.append(_cpu_share(stage, length_s))
            stage.proxy.heal()
        stage.await_recovery(window.end_ms)
        with stage.fault("resets") as window:
            for _ in range(int(length_s)):
                stage.proxy.reset_all()
                time.sleep(1.0)
        stage.await_recovery(window.end_ms)
        with stage.fault("latency") as window:
            stage.proxy.delay(0.1)
            shares.append(_cpu_share(stage, length_s))
            stage.proxy.heal()
        stage.await_recovery(window.end_ms)
        stage.settle()
        outcome = stage.finish()
    outcome.extra["cpu_share_max"] = max(shares)
    outcome.require(max(shares) < CPU_MAX, f"a worker used {max(shares):.0%} of a core")
    return outcome


@fault(10, "a third of all transactions aborted on purpose", limit_s=600)
def aborted_on_purpose(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Read again until it is committed; nothing of an aborted attempt is ever visible."""
    length_s = 8.0 if scale == "short" else 60.0
    with Stage(faults, folder, seed, Plan(slots=2, rate=300)) as stage:
        with stage.fault("aborts"):
            abort_a_third(stage, length_s)
        stage.settle()
        outcome = stage.finish()
    aborted = outcome.figures.aborted
    outcome.require(aborted >= length_s, f"only {aborted} transactions were aborted")
    return outcome


def abort_a_third(stage: Stage, length_s: float) -> None:
    """Abort a third of all workers' transactions for a while."""
    for slot in range(stage.plan.slots):
        entry = {"failpoint": "FP4", "action": "abort", "probability": 1 / 3}
        stage.crew.plan(slot, [entry])
    time.sleep(length_s)
    stage.crew.disarm()


def _require_return(outcome: Outcome) -> None:
    slowest_s = max(outcome.recoveries_s)
    outcome.require(
        slowest_s <= RETURN_MAX_S, f"{slowest_s:.1f} s from the broker's return to decisions"
    )


def _cpu_share(stage: Stage, length_s: float) -> float:
    """Watch the workers for a while; give the greatest share of a core that one of them used."""
    workers = [stage.crew.worker(slot) for slot in range(stage.plan.slots)]
    before = [worker.metric(CPU_METRIC) for worker in workers]
    time.sleep(length_s)
    spent = [w.metric(CPU_METRIC) - b for w, b in zip(workers, before, strict=True)]
    return max(spent) / length_s
