"""What the client library's statistics say that nothing else does (librdkafka's STATISTICS.md)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """How far a partition can be read, and how far it was.

    Parameters
    ----------
    stable
        The last stable offset: what lies behind it is of open transactions and cannot be read yet.
    passed
        What the client has handed over or passed by: aborted records and the markers that end
        transactions take offsets too, and nobody is given them.
    """

    stable: int
    passed: int


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """One report of a client.

    Parameters
    ----------
    is_connected
        Whether any broker is up.
    ends
        By topic and partition.
    """

    is_connected: bool
    ends: Mapping[tuple[str, int], PartitionEnd]


@dataclass(slots=True)
class SourceHealth:
    """Whether Kafka answers, and what the client's statistics said last."""

    is_connected: bool = False
    away_at_s: float = -math.inf
    ends: dict[tuple[str, int], PartitionEnd] = field(default_factory=dict)

    def note_absence(self) -> None:
        """Note that Kafka is away."""
        self.is_connected = False
        self.away_at_s = time.monotonic()


def read_statistics(text: str) -> ClientStatistics:
    """Read a report of the client library."""
    report: dict[str, Any] = json.loads(text)
    brokers = report.get("brokers", {}).values()
    ends = {}
    for topic, details in report.get("topics", {}).items():
        for number, partition in details.get("partitions", {}).items():
            stable = partition.get("ls_offset", -1)
            if stable >= 0:
                passed = partition.get("app_offset", -1)
                ends[topic, int(number)] = PartitionEnd(stable, passed)
    return ClientStatistics(any(broker.get("state") == "UP" for broker in brokers), ends)
