"""Kafka clients with our settings: what every one of them shares.

The pitfalls behind these values (back-off of 100 ms between transaction calls, positions moved by
error records, small batches of older clients) are told in
``docs/adr/0003-exactly-once-by-transactions.md``.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from fraudstream.event import Record

#: The Java clients' default, so that every producer puts a card on the same partition.
PARTITIONER = "murmur2_random"


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """How to reach Kafka.

    Parameters
    ----------
    bootstrap_servers
        Where to begin.
    properties
        Passed to every client as they are: security and all.
    """

    bootstrap_servers: str
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class GroupMembership:
    """Who a worker is in its consumer group.

    ``slot`` is stable over restarts: it makes the static member's name and the transactional id,
    so a successor takes over its predecessor's place and ends its open transaction at once.
    """

    group_id: str
    slot: int
    session_timeout_ms: int = 10_000

    @property
    def instance_id(self) -> str:
        """The static member's name (KIP-345)."""
        return f"{self.group_id}-{self.slot}"

    @property
    def transactional_id(self) -> str:
        """The producer's stable name: ``<group>-<slot>-<i>`` with one producer a worker."""
        return f"{self.group_id}-{self.slot}-0"


class Fences:
    """Tells being fenced by mishap from being fenced by another live worker of the same name.

    Two workers of one name fence each other in turn. The one that came last is to give way, so it
    bears less.

    Parameters
    ----------
    clock
        Seconds, from any start.
    """

    _WINDOW_S = 60.0
    _MAX_OF_NEWCOMER = 3
    _MAX = 5

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at_s = clock()
        self._times_s: deque[float] = deque(maxlen=self._MAX)

    def are_too_many(self) -> bool:
        """Note one more; say whether it is the fifth in a minute (the third, in its first one)."""
        now_s = self._clock()
        self._times_s.append(now_s)
        is_newcomer = now_s - self._began_at_s < self._WINDOW_S
        recent = sum(now_s - time_s < self._WINDOW_S for time_s in self._times_s)
        return recent >= (self._MAX_OF_NEWCOMER if is_newcomer else self._MAX)


class Throttle:
    """Lets one of many like log lines through: the first at once, then one in ten seconds.

    Parameters
    ----------
    clock
        Seconds, from any start.
    """

    _INTERVAL_S = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at_s: dict[str, float] = {}

    def may_log(self, kind: str) -> bool:
        """Say whether a line of this kind is due, and count it as logged if it is."""
        now_s = self._clock()
        is_due = now_s - self._logged_at_s.get(kind, -math.inf) >= self._INTERVAL_S
        if is_due:
            self._logged_at_s[kind] = now_s
        return is_due


def client_config(access: KafkaAccess, client_id: str) -> dict[str, Any]:
    """Give what every client is configured with."""
    return {
        "bootstrap.servers": access.bootstrap_servers,
        "client.id": client_id,
        "socket.timeout.ms": 3_000,
        "socket.connection.setup.timeout.ms": 3_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "retry.backoff.ms": 5,
        "retry.backoff.max.ms": 20,
        # A broker that ends in order says of its partitions that nobody leads them; a client that
        # took that over asks again at this interval only (by default five minutes).
        "topic.metadata.refresh.interval.ms": 5_000,
        "allow.auto.create.topics": False,
        "log_level": 4,
        **access.properties,
    }


def consumer_config(access: KafkaAccess, group_id: str) -> dict[str, Any]:
    """Give what every consumer is configured with: nothing is committed or stored by itself."""
    return client_config(access, "fraudstream") | {
        "group.id": group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # Answered for each record that comes, a consumer asks again for each, and on a busy machine
        # that costs more than these milliseconds (docs/adr/0025).
        "fetch.min.bytes": 65_536,
        "fetch.wait.max.ms": 5,
    }


def producer_config(access: KafkaAccess) -> dict[str, Any]:
    """Give what every producer is configured with."""
    return client_config(access, "fraudstream") | {
        "partitioner": PARTITIONER,
        "linger.ms": 0,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
    }


def error_of(exception: KafkaException) -> KafkaError:
    """Take the error out of an exception of the client library."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error


def kafka_logger() -> logging.Logger:
    """Give the logger for the client library's own lines, which it would otherwise print.

    When a broker goes, each connection of each client says so many times over; a line of each
    kind is enough.
    """
    logger = logging.getLogger("fraudstream.kafka")
    if not any(isinstance(known, _OneOfAKind) for known in logger.filters):
        logger.addFilter(_OneOfAKind())
    return logger


class _OneOfAKind(logging.Filter):
    """Throttles the client library's lines by the word that they begin with, as `FAIL`."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        kind, _, _ = record.getMessage().partition(" ")
        return self._throttle.may_log(kind)


def to_record(message: Message) -> Record:
    """Take over a message of the client library."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers = _headers(message)
    _, timestamp_ms = message.timestamp()
    return Record(
        topic,
        partition,
        offset,
        timestamp_ms,
        message.key(),
        message.value(),
        headers,
    )


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """Read a record's headers, or none of them: the client cannot read names that are no UTF-8.

    They never decide what becomes of a record, so the record itself is read all the same.
    """
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError):
        return ()
    return tuple(headers) if headers else ()  # type: ignore[arg-type]
