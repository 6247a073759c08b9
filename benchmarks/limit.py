"""What the parts cost by themselves, in processor time an event.

    echo        consume, produce and commit in transactions, without any work (`benchmarks.contest`)
    predict     XGBoost's inplace_predict on ready matrices
    Valkey      the profile functions on ready arguments, client and server

Added up, they are what no worker built of these parts can go below: the machine's cores divided by
the sum is the limit that throughput is held against.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import redis

from benchmarks.job.stream import StreamPlan, payments
from benchmarks.machine import cpu_seconds
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits
from fraudstream.adapters.valkey_wire import ServerWire
from fraudstream.bundle import load_bundle
from fraudstream.event import EventRules, Record, parse_transaction
from fraudstream.local.stack import LocalStack
from fraudstream.profile import (
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileBatch,
    Stretch,
)
from fraudstream.worker_parts import LoopLimits

_BATCH = LoopLimits().batch_records_max
_PARTITION = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
_PREDICT_BATCHES = 1_000
_PATIENT = ValkeyLimits(deadline_s=10.0)


def predict_us(bundle: Path) -> float:
    """Measure scoring alone: microseconds of processor time a row, in batches of the worker's."""
    loaded = load_bundle(str(bundle))
    rng = np.random.default_rng(1)
    matrix = rng.random((_BATCH, len(loaded.features)), dtype=np.float32) * 100
    loaded.model.score(matrix)
    started_s = time.process_time()
    for _ in range(_PREDICT_BATCHES):
        loaded.model.score(matrix)
    return (time.process_time() - started_s) / (_PREDICT_BATCHES * _BATCH) * 1e6


def valkey_us(stack: LocalStack, bundle: Path, plan: StreamPlan) -> dict[str, float]:
    """Measure the profile functions alone: microseconds of processor time an event.

    The stream is recorded once; then the same bytes go to an emptied server. The first half fills
    the windows and is not counted.

    Returns
    -------
    us
        Of the ``client``, which sends bytes and reads answers, and of the ``server``.
    """
    trips = _record(stack, bundle, plan)
    valkey_pid = stack.status().valkey_pid
    assert valkey_pid is not None
    client = redis.Redis.from_url(stack.valkey_url, protocol=2)
    client.flushall()
    connection = client.connection_pool.get_connection()
    pack: Any = connection.pack_commands
    packed = [(pack(trip), len(trip)) for trip in trips]
    half = len(packed) // 2
    _replay(connection, packed[:half])
    server_s, client_s = cpu_seconds([valkey_pid]), time.process_time()
    _replay(connection, packed[half:])
    client_s, server_s = time.process_time() - client_s, cpu_seconds([valkey_pid]) - server_s
    client.close()
    events = (len(packed) - half) * _BATCH
    return {"client": client_s / events * 1e6, "server": server_s / events * 1e6}


class _RecordingWire(ServerWire):
    """Keeps the commands of each round trip."""

    def __init__(self, url: str) -> None:
        super().__init__(url, _PATIENT)
        self.trips: list[list[tuple[Any, ...]]] = []

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Note and send."""
        self.trips.append(list(commands))
        return super().run(commands)


def _record(stack: LocalStack, bundle: Path, plan: StreamPlan) -> list[list[tuple[Any, ...]]]:
    definition = load_bundle(str(bundle)).feature_set.profile_definition("EUR")
    wire = _RecordingWire(stack.valkey_url)
    store = BucketedProfileStore(definition, ValkeyBackend(wire, definition, namespace="limit"))
    store.attach({_PARTITION: AttachPoint(0, 0)})
    for batch in _batches(plan):
        store.apply(batch)
    wire.close()
    return wire.trips


def _batches(plan: StreamPlan) -> Iterator[ProfileBatch]:
    rules, stream, offset = EventRules(), payments(plan), 0
    while values := list(islice(stream, _BATCH)):
        located = []
        for key, value in values:
            record = Record("limit", 0, offset, 2**45, key, value)
            located.append(Located(parse_transaction(record, rules), _PARTITION, offset))
            offset += 1
        stretch = {_PARTITION: Stretch(offset - len(values), offset)}
        yield ProfileBatch((), located, stretch)


def _replay(connection: Any, packed: Sequence[tuple[Any, int]]) -> None:  # noqa: ANN401 - untyped
    for sent, answers in packed:
        connection.send_packed_command(sent)
        for _ in range(answers):
            connection.read_response()
