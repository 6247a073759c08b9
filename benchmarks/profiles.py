"""Profiles in Valkey: speed, growth, memory, a hot key: ``python -m benchmarks.profiles``.

Starts a Valkey of its own on a free port. Throughput goes the whole way of a worker's
micro-batch: entries cut and packed in Python, one round trip, answers unpacked. Growth, memory and
layouts (``benchmarks.profile_layouts``) are compared within one run, for absolute figures depend on
what else the machine does.

    throughput   card, terminal and label series of the default features; 1 % labels
    call         42 payments, that is 126 series entries: one call, as the caller sees it
    growth       one record and its windows in a series of 30 and of 100,000 records
    memory       MEMORY USAGE of series of 1 to 400 records
    hot key      1,000,000 records in the windows of one terminal: the longest call of each kind
    merge        sorted runs of 30 records, as a rebuild merges them
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.profile_layouts import compare_layouts
from benchmarks.profile_stream import (
    BATCH,
    CALL,
    CARD_RECORDS,
    CARD_TX,
    DEFINITION,
    PAYMENTS,
    START_MS,
    STEP_MS,
    TERMINAL_TX,
    Stream,
)
from fraudstream.adapters.profile_backend import BucketRequest, Entry, SeriesRun, pack_position
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits, connect
from fraudstream.local.ready import find_free_port, wait_until
from fraudstream.local.valkey import ValkeyNode
from fraudstream.profile import DAY_MS, id_hash

PATIENT = ValkeyLimits(deadline_s=20, connect_timeout_s=5)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    is_at_least: bool = False
    spread: str = ""

    def line(self) -> str:
        """Write the line."""
        verdict = ""
        if self.limit is not None:
            is_met = self.value >= self.limit if self.is_at_least else self.value <= self.limit
            sign = "≥" if self.is_at_least else "≤"
            verdict = f"{sign} {self.limit:,g} | {'met' if is_met else 'MISSED'}"
        return (
            f"| {self.name} | {self.value:,.4g} {self.unit} | {self.spread} | {verdict or ' | '} |"
        )


def measure_throughput(url: str, rounds: int) -> list[Figure]:
    """Measure events a second, and how long one call takes."""
    backend = ValkeyBackend(url, DEFINITION, namespace="speed", limits=PATIENT)
    stream = Stream(BucketedProfileStore(DEFINITION, backend))
    stream.apply(stream.batches(37 * DAY_MS // STEP_MS, BATCH))
    rates = []
    for _ in range(rounds):
        batches = stream.batches(10_080, BATCH)
        start = time.perf_counter()
        stream.apply(batches)
        rates.append(10_080 / (time.perf_counter() - start))
    calls = 1e3 * np.concatenate(
        [stream.apply(stream.batches(200 * CALL, CALL)) for _ in range(rounds)]
    )
    backend.close()
    return [
        Figure(
            "events, three series each",
            float(np.median(rates)),
            "/s",
            20_000,
            is_at_least=True,
            spread=_spread(rates),
        ),
        Figure(
            f"one call of {3 * CALL} entries, p99",
            float(np.percentile(calls, 99)),
            "ms",
            10,
            spread=f"p50 {np.percentile(calls, 50):.2f}, longest {calls.max():.2f}",
        ),
    ]


def measure_growth(url: str, rounds: int) -> list[Figure]:
    """Measure a record in order, with its windows, in short and in long series."""
    backend = ValkeyBackend(url, DEFINITION, namespace="growth", limits=PATIENT)
    figures = []
    for series, name in ((CARD_TX, "card"), (TERMINAL_TX, "terminal")):
        by_size = {
            size: [_record_us(backend, series, size, number) for number in range(rounds)]
            for size in (30, 100_000)
        }
        short, long = (float(np.median(found)) for found in by_size.values())
        figures.append(
            Figure(
                f"{name} record in a series of 100,000 against one of 30",
                long / short,
                "times",
                4,
                spread=f"{short:.1f} and {long:.1f} µs",
            )
        )
    backend.close()
    return figures


def _record_us(backend: ValkeyBackend, series: int, size: int, number: int) -> float:
    """Give microseconds a record: calls of eight records, each of another series of this size."""
    step_ms = 29 * DAY_MS // size
    names = [f"g{size}-{number}-{i}" for i in range(8)]
    backend.merge([_run(series, name, np.arange(size), step_ms) for name in names])
    trips = [
        [
            BucketRequest(
                0,
                {},
                [
                    _entry(series, name, f"{name}-{place}", START_MS + place * step_ms)
                    for name in names
                ],
            )
            for place in range(size + 16 * trip, size + 16 * trip + 16)
        ]
        for trip in range(5)
    ]
    taken = []
    for requests in trips:
        start = time.perf_counter()
        backend.apply(requests)
        taken.append(time.perf_counter() - start)
    return 1e6 * float(np.median(taken)) / (16 * len(names))


def measure_memory(url: str) -> list[Figure]:
    """Measure what a record takes, by Valkey's own accounting."""
    backend = ValkeyBackend(url, DEFINITION, namespace="memory", limits=PATIENT)
    client = connect(url, PATIENT)
    figures = []
    sizes = range(1, 401, 3)
    for number, series in enumerate(DEFINITION.series):
        for size in sizes:
            # One after the other, as events come: what is reserved for growth counts too.
            for start in range(0, size, 100):
                part = _entries(number, f"m{size}", start, min(start + 100, size))
                backend.apply([BucketRequest(0, {}, part, is_record_only=True)])
        keys = list(client.scan_iter(f"fs:memory:*:{series.name}:*", count=1_000))
        taken = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
        figures.append(
            Figure(
                f"memory of a {series.name} record, {len(sizes)} series of 1 to 400",
                (taken - 120 * len(sizes)) / sum(sizes),
                "B beside 120 B a key",
                50,
            )
        )
    client.close()
    backend.close()
    return figures


def measure_hot_key(url: str, records: int) -> list[Figure]:
    """Measure the longest call on a series with very many records in its windows."""
    backend = ValkeyBackend(url, DEFINITION, namespace="hot", limits=PATIENT)
    figures = []
    for series, name in ((CARD_TX, "card"), (TERMINAL_TX, "terminal")):
        step_ms = 30 * DAY_MS // records
        start = time.perf_counter()
        backend.merge([_run(series, "hot", np.arange(records), step_ms)])
        built_s = time.perf_counter() - start
        kinds = _hot_calls(series, records, step_ms)
        for kind, entries in kinds.items():
            taken = np.array([_call_ms(backend, [entry]) for entry in entries])
            figures.append(
                Figure(
                    f"hot {name} key of {records:,}: {kind}, longest of {len(taken)} calls",
                    float(taken.max()),
                    "ms",
                    5,
                    spread=f"median {np.median(taken):.3f}, built in {built_s:.1f} s",
                )
            )
    backend.close()
    return figures


def _hot_calls(series: int, records: int, step_ms: int) -> Mapping[str, list[Entry]]:
    """Give what is done to a hot key: records in order, reads, late records, and trimming."""

    def entry(place: float, name: str) -> Entry:
        time_ms = START_MS + int(place * step_ms)
        return _entry(series, "hot", name, time_ms)

    late = [entry(records - 10_000 - 37 * i + 0.5, f"late{i}") for i in range(200)]
    deep = [entry(records // 2 - 37 * i + 0.5, f"deep{i}") for i in range(200)]
    # A hundredth of the series a step, until all of it has been trimmed.
    later = [entry(records * (1.3 + i / 100), f"later{i}") for i in range(200)]
    return {
        "in order": [entry(records + i, f"next{i}") for i in range(2_000)],
        "read": [entry(records + i, f"next{i}")._replace(is_recorded=False) for i in range(500)],
        "10,000 deep": late,
        f"{records // 2:,} deep": deep,
        "trimming": later,
    }


def measure_merge(url: str, rounds: int) -> list[Figure]:
    """Measure how fast sorted runs are merged into series that are not there."""
    rates = []
    for number in range(rounds):
        backend = ValkeyBackend(url, DEFINITION, namespace=f"merge{number}", limits=PATIENT)
        places = np.arange(CARD_RECORDS)
        runs = [_run(CARD_TX, f"c{i}", places, DAY_MS) for i in range(3_000)]
        start = time.perf_counter()
        backend.merge(runs)
        rates.append(len(runs) * CARD_RECORDS / (time.perf_counter() - start))
        backend.close()
    return [
        Figure(
            f"records merged, runs of {CARD_RECORDS}",
            float(np.median(rates)),
            "/s",
            150_000,
            is_at_least=True,
            spread=_spread(rates),
        )
    ]


def _run(
    series: int, entity: str, places: NDArray[np.int64], step_ms: int, name: str = ""
) -> SeriesRun:
    n = len(places)
    measures = len(DEFINITION.series[series].measures)
    seed = int.from_bytes(id_hash(name + entity))
    return SeriesRun(
        series,
        entity,
        START_MS + places * step_ms,
        (places.astype(np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15),
        (1 << 56) + 1 + places.astype(np.uint64),
        np.zeros(n, dtype=np.int64),
        np.ones((n, measures), dtype=np.int64) * np.array([1_234, 1][:measures], dtype=np.int64),
        np.zeros((n, 0), dtype=np.uint64),
    )


def _entry(series: int, entity: str, name: str, time_ms: int, offset: int = 0) -> Entry:
    values = (1_234, 1)[: len(DEFINITION.series[series].measures)]
    position = pack_position(PAYMENTS, offset)
    return Entry(series, entity, True, time_ms, id_hash(name), position, 0, values)


def _entries(series: int, entity: str, first: int, last: int) -> list[Entry]:
    return [
        _entry(series, entity, f"{entity}-{i}", START_MS + i * 60_000, i)
        for i in range(first, last)
    ]


def _call_ms(backend: ValkeyBackend, entries: Sequence[Entry]) -> float:
    start = time.perf_counter()
    backend.apply([BucketRequest(0, {}, entries)])
    return 1e3 * (time.perf_counter() - start)


def _spread(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f} to {max(rates):,.0f} in {len(rates)} rounds"


@contextmanager
def own_valkey() -> Iterator[str]:
    """Start a Valkey for the time of a block; give its address."""
    with tempfile.TemporaryDirectory() as folder:
        node = ValkeyNode(Path(folder), Path(folder) / "log", find_free_port())
        with (
            node.log_path.open("wb") as log,
            subprocess.Popen(node.server_command(), stdout=log, stderr=log) as server,
        ):
            try:
                if not wait_until(lambda: node.is_answering(server.pid), timeout_s=20):
                    sys.exit("Valkey did not start")
                yield node.url
            finally:
                server.kill()


def conditions() -> dict[str, Any]:
    """Say where and how this ran."""
    return {
        "command": "python -m benchmarks.profiles " + " ".join(sys.argv[1:]),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Measure everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hot-records", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    figures = []
    with own_valkey() as url:
        client = connect(url, PATIENT)
        server = str(client.info()["valkey_version"])
        for measure in (measure_throughput, measure_growth, measure_merge):
            figures += measure(url, arguments.rounds)
            client.flushall()
        figures += measure_memory(url)
        client.flushall()
        figures += measure_hot_key(url, arguments.hot_records)
        client.flushall()
        figures += [
            Figure(found.name, found.value, found.unit, spread=found.spread)
            for found in compare_layouts(url, DEFINITION, arguments.rounds)
        ]
        client.close()
    ran = conditions() | {"valkey": server}
    print(" · ".join(f"{name} {value}" for name, value in ran.items()) + "\n")
    print("| what | figure | spread | limit | |\n| --- | --- | --- | --- | --- |")
    for figure in figures:
        print(figure.line())
    if arguments.json:
        found = [{"name": f.name, "value": f.value, "unit": f.unit} for f in figures]
        arguments.json.write_text(json.dumps(ran | {"figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
