"""A stream of payments at a steady rate, whatever becomes of them; and labels of some of them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import orjson
from confluent_kafka import KafkaError, Message, Producer
from harness import BEGIN_MS, PATIENCE_S, Deployment, Partition

_TICK_S = 0.01
_CHUNK = 1_000


@dataclass(frozen=True)
class Mixture:
    """What the stream is made of.

    Attributes
    ----------
    cards, terminals
        How many different ones.
    duplicates
        The part of payments that is sent a second time, some payments later.
    frauds
        The part of payments that is labelled as fraud, ``label_delay_ms`` of event time later.
    step_ms
        Event time between two payments: more than real time, so that windows fill and end.
    """

    cards: int = 2_000
    terminals: int = 1_000
    duplicates: float = 0.0
    frauds: float = 0.02
    label_delay_ms: int = 6 * 3_600_000
    step_ms: int = 30_000


@dataclass
class Appended:
    """What Kafka confirmed of one partition, in the order of offsets."""

    offsets: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)

    def first_after(self, time_ms: int) -> tuple[int, int] | None:
        """Give offset and time of the first at or after a time; None if there is none."""
        index = bisect_left(self.times_ms, time_ms)
        return None if index == len(self.offsets) else (self.offsets[index], self.times_ms[index])


def make_payments(seed: int, mixture: Mixture) -> Iterator[tuple[str, dict[str, object]]]:
    """Make payments without end, and labels as they become known: kind and event."""
    rng = np.random.default_rng(seed)
    number = 0
    labels: deque[tuple[int, dict[str, object]]] = deque()
    copies: deque[tuple[int, dict[str, object]]] = deque()
    while True:
        draws = _draw(rng, mixture)
        for card, terminal, amount, chance in zip(*draws, strict=True):
            now_ms = BEGIN_MS + number * mixture.step_ms
            while labels and labels[0][0] <= now_ms:
                yield "labels", labels.popleft()[1]
            while copies and copies[0][0] <= number:
                yield "transactions", copies.popleft()[1]
            names: dict[str, object] = {
                "transaction_id": f"s{seed}-{number}",
                "event_time": now_ms,
                "card_id": f"c{card}",
                "terminal_id": f"t{terminal}",
            }
            payment = names | {"amount_minor": amount, "currency": "EUR"}
            yield "transactions", payment
            if chance < mixture.frauds:
                at_ms = now_ms + mixture.label_delay_ms
                finding = {"is_fraud": True, "reported_at": at_ms, "source": "test"}
                labels.append((at_ms, names | finding))
            elif chance > 1 - mixture.duplicates:
                copies.append((number + 1 + amount % 500, payment))
            number += 1


def _draw(rng: np.random.Generator, mixture: Mixture) -> tuple[list[Any], ...]:
    """Draw cards, terminals, amounts and chances of some payments at once."""
    amounts = np.minimum(rng.lognormal(8.3, 1.0, _CHUNK), 1e7).astype(np.int64)
    return (
        rng.integers(0, mixture.cards, _CHUNK).tolist(),
        rng.integers(0, mixture.terminals, _CHUNK).tolist(),
        amounts.tolist(),
        rng.random(_CHUNK).tolist(),
    )


class Load:
    """Publishes payments at a rate that does not ask whether anybody keeps up.

    What cannot be delivered while the broker is away is delivered afterwards, once.

    Parameters
    ----------
    deployment, bootstrap_servers
        Where to; the servers without a proxy.
    rate
        Payments a second.
    seed, mixture
        What they are.
    """

    def __init__(
        self,
        deployment: Deployment,
        bootstrap_servers: str,
        *,
        rate: float,
        seed: int,
        mixture: Mixture | None = None,
    ) -> None:
        self._topics = deployment.topics
        self._rate = rate
        self._events = make_payments(seed, mixture or Mixture())
        self._stopping = threading.Event()
        self._is_paused = threading.Event()
        self._lock = threading.Lock()
        self._appended: dict[Partition, Appended] = defaultdict(Appended)
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="load")
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "enable.idempotence": True,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 1_000,
                "queue.buffering.max.messages": 500_000,
                "topic.metadata.refresh.interval.ms": 5_000,
                "log_level": 0,
            }
        )
        #: Payments given to the producer.
        self.sent = 0

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        """Begin."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End, without waiting for what is not delivered yet."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def pause(self) -> None:
        """Send nothing until `resume`."""
        self._is_paused.set()

    def resume(self) -> None:
        """Go on."""
        self._is_paused.clear()

    def stop(self) -> None:
        """End, and wait until everything is delivered."""
        self._stopping.set()
        self._thread.join()
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records were not delivered"
        assert not self._problems, self._problems[:3]

    def first_after(self, time_ms: int) -> dict[Partition, tuple[int, int] | None]:
        """Give each partition's first transaction that was appended at or after a time.

        Returns
        -------
        firsts
            Offset and time; None where there is none yet. Partitions that never had one are not
            there.
        """
        with self._lock:
            return {
                partition: known.first_after(time_ms) for partition, known in self._appended.items()
            }

    def _run(self) -> None:
        due = 0.0
        before_s = time.monotonic()
        while not self._stopping.wait(_TICK_S):
            now_s = time.monotonic()
            if not self._is_paused.is_set():
                due += (now_s - before_s) * self._rate
            before_s = now_s
            while due >= 1.0:
                kind, event = next(self._events)
                self._send(kind, event)
                due -= kind == "transactions"
            self._producer.poll(0)

    def _send(self, kind: str, event: dict[str, object]) -> None:
        is_payment = kind == "transactions"
        key = str(event["card_id" if is_payment else "terminal_id"]).encode()
        self._producer.produce(
            self._topics[kind], orjson.dumps(event), key, on_delivery=self._on_delivery
        )
        self.sent += is_payment

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._problems.append(error.str())
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic != self._topics["transactions"] or partition is None or offset is None:
            return
        with self._lock:
            known = self._appended[topic, partition]
            known.offsets.append(offset)
            known.times_ms.append(message.timestamp()[1])
