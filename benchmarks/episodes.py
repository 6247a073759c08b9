"""Two minutes that are no steady state: a worker starts cold, and a worker joins and leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from benchmarks.histograms import figures_of
from benchmarks.latency_report import ColdStart, Conditions, Rebalance
from benchmarks.open_loop import Observed, Schedule, open_loop
from benchmarks.subjects import Subject, WorkerOptions, Workers, make_topics
from fraudstream.local.stack import LocalStack

#: How long after everybody was told to begin the first payment is due.
LEAD_S = 0.5
_SETTLED_MS = 200


def cold_start(
    stack: LocalStack, delivery: str, schedule: Schedule, number: int, options: WorkerOptions
) -> ColdStart:
    """Start workers when the first payment is due, without any profiles."""
    name = f"cold-{delivery}-{number}"
    channel = make_topics(stack, name)
    workers = Workers(stack, name, delivery, options)
    with (
        workers.processes as processes,
        open_loop(channel, schedule, processes.check) as loop,
    ):
        loop.send_history()
        at_s = time.monotonic() + LEAD_S
        loop.start(at_s)
        loop.wait_until(at_s)
        for slot in range(options.workers):
            workers.start(slot)
        observed = loop.finish()
        conditions = conditions_of(observed, workers)
    topic = channel.outputs[0]
    latencies_s = observed.latencies_s(topic)
    late = np.flatnonzero(latencies_s * 1e3 > _SETTLED_MS)
    settled = int(late[-1]) + 1 if len(late) else 0
    return ColdStart(
        rate_per_s=schedule.rate_per_s,
        subject=delivery,
        number=number,
        start_s=float(observed.read_at_s[topic].min() - at_s),
        settled_s=settled / schedule.rate_per_s,
        decisions=figures_of(latencies_s),
        conditions=conditions,
    )


def rebalance(
    stack: LocalStack, delivery: str, schedule: Schedule, number: int, options: WorkerOptions
) -> Rebalance:
    """Let one more worker join after a quarter of the time, and leave after half of it."""
    name = f"rebalance-{delivery}-{number}"
    channel = make_topics(stack, name)
    workers = Workers(stack, name, delivery, options)
    with (
        workers.processes as processes,
        open_loop(channel, schedule, processes.check) as loop,
    ):
        workers.begin()
        loop.send_history()
        at_s = time.monotonic() + LEAD_S
        loop.start(at_s)
        loop.wait_until(at_s + schedule.seconds / 4)
        joins_at_s = time.monotonic()
        workers.start(options.workers)
        workers.await_ready(options.workers)
        joined_at_s = time.monotonic()
        loop.wait_until(at_s + schedule.seconds / 2)
        leaves_at_s = time.monotonic()
        workers.stop(options.workers)
        observed = loop.finish()
        conditions = conditions_of(observed, workers)
    latencies_s = observed.latencies_s(channel.outputs[0])
    # What is due shortly before the end waits for the worker that leaves.
    is_joining = (observed.due_s >= joins_at_s) & (observed.due_s < (joined_at_s + leaves_at_s) / 2)
    is_leaving = observed.due_s >= leaves_at_s
    return Rebalance(
        rate_per_s=schedule.rate_per_s,
        subject=delivery,
        number=number,
        join_s=joined_at_s - joins_at_s,
        join_wait_ms=1e3 * float(latencies_s[is_joining].max()),
        leave_wait_ms=1e3 * float(latencies_s[is_leaving].max()),
        decisions=figures_of(latencies_s),
        conditions=conditions,
    )


def conditions_of(
    observed: Observed, subject: Subject, before: Mapping[str, float] | None = None
) -> Conditions:
    """Write down what a pass says of itself; ``before``: what the subject had counted before."""
    before = before or {}
    return Conditions(
        send_lag_ms_p99=observed.send_lag_ms_p99,
        drained_s=observed.drained_s,
        copies=observed.copies,
        memory=subject.processes.memory(),
        counters={name: n - before.get(name, 0) for name, n in subject.counters().items()},
    )
