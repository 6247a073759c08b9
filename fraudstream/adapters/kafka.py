"""Kafka clients with our settings: what every one of them shares.

The pitfalls behind these values (back-off of 100 ms between transaction calls, positions moved by
error records, small batches of older clients) are told in
``docs/adr/0003-exactly-once-by-transactions.md``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException

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
    """Tells being fenced by mishap from being fenced by another live worker of the same name."""

    _MAX = 3
    _WINDOW_S = 60.0

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=self._MAX)

    def are_too_many(self) -> bool:
        """Note one more; say whether it is the third within a minute."""
        now_s = time.monotonic()
        self._times_s.append(now_s)
        return len(self._times_s) == self._MAX and now_s - self._times_s[0] < self._WINDOW_S


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
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 10,
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
    """Give the logger for the client library's own lines, which it would otherwise print."""
    return logging.getLogger("fraudstream.kafka")
