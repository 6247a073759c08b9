"""Faults of what comes in: bad records, nothing but bad records, odd times (20, 22, 23).

Outputs that are refused (21), clocks (24), offsets (25) and transactional input (26) have modules
of their own.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import faults_clock  # noqa: F401 - enters its fault into the table
import faults_offsets  # noqa: F401 - the same
import faults_outputs  # noqa: F401 - the same
import faults_transactional  # noqa: F401 - the same
import hostile
import numpy as np
from bad_records import Bad, bad_records, outgoing, require_letters
from harness import BEGIN_MS, DAY_MS, Outgoing, Position, wait_for
from load import Mixture, make_payments
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage, now_ms

from fraudstream.errors import ExitCode, Reason

_TICK_S = 0.1


# ------------------------------------------------------------------ 20, 22: bad records


@fault(20, "5 % hostile records, a 10 MB record, a null value, unknown schema", limit_s=300.0)
def hostile_records(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Mix the corpus into the load: one bad record in twenty."""
    rate, seconds = (300.0, 8.0) if scale == "short" else (300.0, 60.0)
    bad = bad_records(seed)[: int(rate * seconds / 19)]
    with Stage(stack, folder, seed, Plan(rate=rate)) as stage:
        with stage.fault("hostile records") as window:
            places = list(_spread(stage, bad, seconds))
        stage.await_recovery(window.start_ms)
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, bad, strict=True)}
    require_letters(outcome, letters, expected)
    outcome.require(outcome.figures.degraded == 0, "decisions were degraded by bad records")
    outcome.extra |= {
        "bad_records": len(bad),
        "reasons": len({b.reason for b in bad}),
        "percent": round(100 * len(bad) / outcome.figures.events, 1),
    }
    return outcome


def _spread(stage: Stage, bad: Sequence[Bad], seconds: float) -> Iterator[Position]:
    """Publish bad records over some time, to all partitions; give their places."""
    ticks = int(seconds / _TICK_S)
    started_s = time.monotonic()
    for tick in range(ticks):
        part = range(len(bad) * tick // ticks, len(bad) * (tick + 1) // ticks)
        yield from stage.deployment.publish_records(outgoing(bad[n], n) for n in part)
        time.sleep(max(started_s + (tick + 1) * _TICK_S - time.monotonic(), 0.0))


@fault(22, "100 % bad input for 30 s", limit_s=300.0)
def nothing_but_bad(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Publish nothing but bad records: a fault of the deployment, which a person has to judge."""
    limit, seconds = (200, 4.0) if scale == "short" else (1_000, 30.0)
    small = [b for b in bad_records(seed) if b.value is None or len(b.value) < 2_000]
    bad = [b for b, _ in zip(itertools.cycle(small), range(int(300 * seconds)), strict=False)]
    plan = Plan(
        settings={"DEAD_LETTERS__CONSECUTIVE_MAX": limit, "DEAD_LETTERS__RATIO_RECORDS": limit},
        exit_codes=frozenset({int(ExitCode.DEAD_LETTER_LIMIT)}),
    )
    with Stage(stack, folder, seed, plan) as stage:
        stage.load.pause()
        with stage.fault("nothing but bad records"):
            workers = [stage.crew.worker(slot) for slot in stage.crew.slots]
            places = list(_spread(stage, bad, seconds))
            wait_for(lambda: len(stage.crew.exits) == len(workers), "the workers to stop")
            stopped = _undecided(stage)
            said = [worker.text() for worker in workers]
        stage.load.resume()
        resumed_ms = now_ms()
        for slot in stage.crew.slots:  # a person looked, and takes it as it is
            stage.crew.start(
                slot,
                FRAUDSTREAM_DEAD_LETTERS__CONSECUTIVE_MAX=str(10**9),
                FRAUDSTREAM_DEAD_LETTERS__RATIO_MAX="1.0",
            )
        stage.await_recovery(resumed_ms)
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, bad, strict=True)}
    require_letters(outcome, letters, expected)
    for text in said:
        outcome.require("dead_letters.*" in text, "a worker did not say which limit it met")
    outcome.require(stopped > 0, "the limit stopped nothing: everything was decided before")
    outcome.extra |= {"bad_records": len(bad), "undecided_at_the_stop": stopped}
    return outcome


def _undecided(stage: Stage) -> int:
    committed = stage.deployment.committed()
    return sum(end - committed.get(place, 0) for place, end in stage.deployment.ends().items())


# ------------------------------------------------------------------ 23: duplicates, odd times


@fault(23, "duplicates, shuffles within 60 s; +1 day, 1970, 2^63", limit_s=300.0)
def odd_times(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Publish a stream out of order, one payment in ten twice, with times that cannot be."""
    count = 2_500 if scale == "short" else 20_000
    stream = _shuffled(seed, count)
    odd = [_odd_payment(number) for number in range(count // 100)]
    with Stage(stack, folder, seed, Plan(rate=0.0)) as stage:
        with stage.fault("odd times"):
            places = list(_publish_evenly(stage, stream, odd))
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, odd, strict=True)}
    require_letters(outcome, letters, expected)
    ids = Counter(event["transaction_id"] for kind, event in stream if kind == "transactions")
    copies = sum(ids.values()) - len(ids)
    figures = outcome.figures
    outcome.require(copies > count // 20, f"only {copies} copies were published")
    outcome.require(figures.duplicates == copies, f"{figures.duplicates} of {copies} are flagged")
    outcome.require(figures.late > 0, "nothing came late")
    outcome.require(figures.degraded == 0, "decisions were degraded")
    outcome.extra |= {"copies": copies, "late": figures.late, "odd": len(odd)}
    return outcome


def _shuffled(seed: int, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Make a stream in which a payment comes up to a minute after its time; with copies."""
    mixture = Mixture(cards=count // 12, terminals=count // 25, duplicates=0.1, step_ms=1_000)
    events = list(itertools.islice(make_payments(seed, mixture), count))
    delays_ms = np.random.default_rng(seed).uniform(0.0, 60_000.0, count).tolist()
    now = BEGIN_MS
    due: list[tuple[float, int]] = []
    for number, (kind, event) in enumerate(events):
        now = max(now, int(str(event["event_time" if kind == "transactions" else "reported_at"])))
        due.append((now + delays_ms[number], number))
    return [events[number] for _, number in sorted(due)]


def _odd_payment(number: int) -> Bad:
    """Make a payment of no time that it can be of."""
    times = (now_ms() + DAY_MS, "1970-01-01T00:00:00Z", 2**63, 0, "9999-12-31T23:59:59.999Z")
    time_ms = times[number % len(times)]
    is_early = number % len(times) in {1, 3}
    value = hostile.payment(transaction_id=f"odd{number}", event_time=time_ms)
    reason = Reason.TIME_TOO_EARLY if is_early else Reason.TIME_IN_FUTURE
    return Bad("transactions", value, reason, "event_time")


def _publish_evenly(
    stage: Stage, stream: Sequence[tuple[str, Mapping[str, Any]]], odd: Sequence[Bad]
) -> Iterator[Position]:
    """Publish a stream at 500 records a second, odd payments among it; give their places."""
    ticks = len(stream) // 50
    for tick in range(ticks):
        part = stream[len(stream) * tick // ticks : len(stream) * (tick + 1) // ticks]
        stage.deployment.publish_records(_keyed(kind, event) for kind, event in part)
        numbers = range(len(odd) * tick // ticks, len(odd) * (tick + 1) // ticks)
        yield from stage.deployment.publish_records(outgoing(odd[n], n) for n in numbers)
        time.sleep(_TICK_S)


def _keyed(kind: str, event: Mapping[str, Any]) -> Outgoing:
    name = "card_id" if kind == "transactions" else "terminal_id"
    return kind, str(event[name]).encode(), event, ()
