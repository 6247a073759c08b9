"""Latency from produce to readable, open loop: ``python -m benchmarks.latency --rate 500``.

Arrivals follow a fixed schedule; latency counts from the moment an event was *due*, so a stall is
charged to everything that was due meanwhile. The reader is a process of its own, reads at
``read_committed``, and waits for single records (a reader that asks for a batch with a time-out
measures its own waiting). Everything, broker and Valkey included, shares this machine.

Events are uniform over cards and terminals and the review threshold is lowered until about one in
twenty is an alert, so that the alerts' percentiles rest on enough of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    kafka_logger,
    producer_config,
)
from fraudstream.feature_files import default_feature_set
from fraudstream.local.stack import local_stack
from fraudstream.topics import TopicAdmin, plan_topics

_INPUTS = ["fraudstream.transactions", "fraudstream.labels"]
_OUTPUTS = ["fraudstream.decisions", "fraudstream.alerts", "fraudstream.dead-letters"]
_PARTITIONS = 6
_METRICS_PORT = 19_464
_PERCENTILES = (50.0, 99.0, 99.9)
_BUNDLE = Path(__file__).parent.parent / "models" / "default"


def main() -> None:
    """Measure, and print one line of JSON for each kind of output."""
    arguments = _arguments()
    rounds = [_round(arguments, seed) for seed in range(arguments.rounds)]
    for kind in ("alerts", "decisions"):
        figures = [_summary(latencies[kind]) for latencies in rounds]
        print(json.dumps({"output": kind} | _over_rounds(figures) | _conditions(arguments)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured, after the warm-up")
    parser.add_argument("--warm-up-seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--review-threshold", type=float, default=0.05)
    return parser.parse_args()


def _round(arguments: argparse.Namespace, seed: int) -> dict[str, NDArray[np.float64]]:
    with local_stack() as stack:
        access = KafkaAccess(stack.bootstrap_servers)
        horizon_ms = default_feature_set().profile_definition("EUR").horizon_ms
        TopicAdmin(access).create(
            plan_topics(
                _INPUTS,
                _OUTPUTS,
                partitions=_PARTITIONS,
                horizon_ms=horizon_ms,
                is_unlimited=True,
            )
        )
        environ = {
            "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": stack.bootstrap_servers,
            "FRAUDSTREAM_VALKEY__URL": stack.valkey_url,
            "FRAUDSTREAM_MODEL__BUNDLE": str(_BUNDLE),
            "FRAUDSTREAM_METRICS__PORT": str(_METRICS_PORT),
            "FRAUDSTREAM_POLICY__REVIEW_THRESHOLD": str(arguments.review_threshold),
        }
        with _workers(environ, arguments.workers), _reader(access) as results:
            due_s = _send(access, arguments, seed)
            results.send(len(due_s))
            read = results.recv()
    skipped = int(arguments.warm_up_seconds * arguments.rate)
    return {
        kind: np.array([at_s - due_s[i] for i, at_s in times if i >= skipped])
        for kind, times in read.items()
    }


@contextmanager
def _workers(environ: Mapping[str, str], count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "fraudstream", "run", "--log-level", "ERROR"]
    command += ["--workers", str(count)] if count > 1 else []
    process = subprocess.Popen(command, env={**os.environ, **environ})
    try:
        for slot in range(count):
            _await_ready(_METRICS_PORT + slot)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(port: int) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("the worker did not become ready")


def _send(access: KafkaAccess, arguments: argparse.Namespace, seed: int) -> NDArray[np.float64]:
    """Produce by schedule; return when each event was due, in epoch seconds."""
    rng = np.random.default_rng(seed)
    events = int((arguments.warm_up_seconds + arguments.seconds) * arguments.rate)
    producer = Producer(producer_config(access) | {"logger": kafka_logger()})
    start_s = time.time() + 0.5
    due_s: NDArray[np.float64] = start_s + np.arange(events) / float(arguments.rate)
    event_time_ms = int(time.time() * 1000) - 30 * 86_400_000
    for i in range(events):
        event_time_ms += int(rng.integers(0, 2_000))
        card = f"c{rng.integers(0, 2_000)}"
        event = {
            "transaction_id": str(i),
            "event_time": event_time_ms,
            "card_id": card,
            "terminal_id": f"t{rng.integers(0, 4_000)}",
            "amount_minor": int(rng.gamma(2.0, 4_000.0)) + 1,
            "currency": "EUR",
        }
        wait_s = due_s[i] - time.time()
        if wait_s > 0:
            time.sleep(wait_s)
        producer.produce(_INPUTS[0], orjson.dumps(event), card)
        producer.poll(0)
    producer.flush(30)
    return due_s


@contextmanager
def _reader(access: KafkaAccess) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_read, args=(access, theirs))
    process.start()
    ours.recv()  # it reads
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _read(access: KafkaAccess, results: Connection) -> None:
    """Note when each decision and alert could be read, until as many decisions as events are."""
    consumer = Consumer(
        consumer_config(access, "latency-benchmark")
        | {"fetch.wait.max.ms": 5, "logger": kafka_logger()}
    )
    topics = _OUTPUTS[:2]
    consumer.assign([TopicPartition(t, p, 0) for t in topics for p in range(_PARTITIONS)])
    consumer.poll(0.5)
    results.send("reading")
    times: dict[str, list[tuple[int, float]]] = {"decisions": [], "alerts": []}
    expected: int | None = None
    while expected is None or len(times["decisions"]) < expected:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            now_s = time.time()
            value = message.value()
            event = int(orjson.loads(value or b"{}")["transaction_id"])
            kind = "alerts" if message.topic() == topics[1] else "decisions"
            times[kind].append((event, now_s))
        elif expected is None and results.poll():
            expected = results.recv()
    # The alerts of the last transaction are readable with its decisions, in other partitions.
    while (message := consumer.poll(0.5)) is not None:
        if message.error() is None and message.topic() == topics[1]:
            event = int(orjson.loads(message.value() or b"{}")["transaction_id"])
            times["alerts"].append((event, time.time()))
    results.send(times)


def _summary(latencies_s: NDArray[np.float64]) -> dict[str, float]:
    figures = {
        f"p{percentile:g}_ms": round(float(np.percentile(latencies_s, percentile)) * 1000, 1)
        for percentile in _PERCENTILES
    }
    return figures | {"samples": len(latencies_s)}


def _over_rounds(figures: list[dict[str, float]]) -> dict[str, object]:
    return {
        name: {
            "median": float(np.median([round_[name] for round_ in figures])),
            "worst": max(round_[name] for round_ in figures),
        }
        for name in figures[0]
        if name != "samples"
    } | {"samples": int(sum(round_["samples"] for round_ in figures))}


def _conditions(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "rate_per_s": arguments.rate,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "workers": arguments.workers,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
