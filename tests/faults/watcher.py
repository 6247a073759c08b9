"""A live reader of decisions at `read_committed`: when each of them could be seen."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from typing import Any, Self

from confluent_kafka import Consumer, Message, TopicPartition
from harness import Deployment, Partition, Position, wait_for

#: A client that was told of no broker stays blind when there is one again: after so long a silence
#: a new one reads on.
_BLIND_S = 5.0
_POLL_S = 0.02


class Watcher:
    """Notes when decisions become readable.

    Parameters
    ----------
    deployment, bootstrap_servers
        Whose decisions; the servers without a proxy.
    """

    def __init__(self, deployment: Deployment, bootstrap_servers: str) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._seen_at_ms: dict[Position, int] = {}
        self._newest: dict[Partition, int] = {}
        self._times_ms: dict[Partition, list[int]] = defaultdict(list)
        self._thread = threading.Thread(target=self._run, name="watcher")
        self._config = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{deployment.name}-watcher",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "topic.metadata.refresh.interval.ms": 5_000,
            "fetch.wait.max.ms": 10,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
        topic = deployment.topics["decisions"]
        self._next = {(topic, n): 0 for n in range(deployment.partitions)}
        self._consumer = self._make_consumer()

    def _make_consumer(self) -> Consumer:
        consumer = Consumer(self._config)
        consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])
        return consumer

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop()

    def stop(self) -> None:
        """End; nothing happens the second time."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join()
            self._consumer.close()

    @property
    def count(self) -> int:
        """How many decisions were seen."""
        return len(self._seen_at_ms)

    def seen_at_ms(self) -> dict[Position, int]:
        """Give the time at which each decision was first seen, by the place of its input record."""
        with self._lock:
            return dict(self._seen_at_ms)

    def newest(self, partition: Partition) -> int:
        """Give the highest input offset that was seen decided; -1 if none was."""
        return self._newest.get(partition, -1)

    def await_seen(self, position: Position, timeout_s: float) -> int:
        """Wait until a record's decision is seen; give the time, in ms."""
        wait_for(lambda: position in self._seen_at_ms, f"a decision of {position}", timeout_s)
        return self._seen_at_ms[position]

    def stalls_ms(self, since_ms: int = 0) -> dict[Partition, int]:
        """Give the longest time between two decisions, for each input partition."""
        with self._lock:
            times_ms = {p: [t for t in ts if t >= since_ms] for p, ts in self._times_ms.items()}
        return {
            partition: max((b - a for a, b in itertools.pairwise(own)), default=0)
            for partition, own in times_ms.items()
        }

    def _run(self) -> None:
        heard_at_s = time.monotonic()
        while not self._stopping.is_set():
            first = self._consumer.poll(_POLL_S)
            now_ms = time.time_ns() // 1_000_000
            if first is None:
                if time.monotonic() - heard_at_s > _BLIND_S:
                    self._consumer.close()
                    self._consumer = self._make_consumer()
                    heard_at_s = time.monotonic()
                continue
            heard_at_s = time.monotonic()
            for message in [first, *self._consumer.consume(500, 0)]:
                if message.error() is None:
                    place = (message.topic() or "", message.partition() or 0)
                    self._next[place] = (message.offset() or 0) + 1
                    self._note(_source(message), now_ms)

    def _note(self, source: Position, now_ms: int) -> None:
        with self._lock:
            if source in self._seen_at_ms:
                return
            self._seen_at_ms[source] = now_ms
            partition = source[:2]
            self._newest[partition] = max(self._newest.get(partition, -1), source[2])
            times_ms = self._times_ms[partition]
            if not times_ms or times_ms[-1] != now_ms:
                times_ms.append(now_ms)


def _source(message: Message) -> Position:
    raw: Any = message.headers()
    headers = dict(raw)
    return (
        headers["fs_source_topic"].decode(),
        int(headers["fs_source_partition"]),
        int(headers["fs_source_offset"]),
    )
