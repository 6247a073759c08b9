"""Notices that a request of a producer may still be on its way although its answer was given up.

A request that the network holds back, and that arrives in the next transaction, ends that one too
early: its records become readable while it is open. Brokers can tell (KIP-890), but librdkafka
does not speak that part of the protocol yet (its issue 5423). So after any sign of a delayed
request the next transaction must be begun by a producer of a new epoch.

The signs, in the order in which they show:

* a line of the client library's log, written before it sends the request again: a connection in
  use broke, or a request timed out. Where the connection was reset, the second try succeeds within
  some 10 ms, so that nothing else tells (``docs/adr/0020-signs-of-a-delayed-request.md``);
* the statistics' counters, up to a second later.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from confluent_kafka import KafkaException, Producer

from fraudstream.adapters.kafka import kafka_logger

_STATISTICS_INTERVAL_MS = 1_000
#: syslog's "informational": the level of the lines that tell.
_LOG_LEVEL = 6
#: Not ``txretries``: it counts what was tried again because of an *answer* too, and a coordinator
#: that still writes the markers of the transaction before answers so (CONCURRENT_TRANSACTIONS).
_COUNTERS = ("req_timeouts", "disconnects")
#: The connection that a client begins with carries no transaction.
_BOOTSTRAP = "/bootstrap"


class DelaySigns(logging.Logger):
    """Reads a producer's log and statistics for signs of a delayed request.

    It is the producer's logger; warnings and worse go on to ours.
    """

    def __init__(self) -> None:
        super().__init__("fraudstream.kafka.producer", logging.INFO)
        self._is_seen = False
        self._counted: int | None = None

    def config(self) -> dict[str, Any]:
        """Give what the producer must be configured with."""
        return {
            "logger": self,
            "log_level": _LOG_LEVEL,
            # Whoever turned that off for other clients' sake would blind this one.
            "log.connection.close": True,
            "statistics.interval.ms": _STATISTICS_INTERVAL_MS,
            "stats_cb": self._on_statistics,
        }

    def take(self, producer: Producer) -> bool:
        """Let the producer report all it has to say; tell whether there was a sign in it."""
        has_failed = not drain(producer)
        is_seen, self._is_seen = self._is_seen or has_failed, False
        return is_seen

    def handle(self, record: logging.LogRecord) -> None:
        """Take in a line of the client library."""
        if is_sign(record.getMessage()):
            self._is_seen = True
        if record.levelno >= logging.WARNING:
            kafka_logger().handle(record)

    def _on_statistics(self, text: str) -> None:
        brokers = json.loads(text)["brokers"]
        counted = sum(
            broker.get(counter, 0)
            for name, broker in brokers.items()
            if not name.endswith(_BOOTSTRAP)
            for counter in _COUNTERS
        )
        # What was counted before the first report was while the producer came up.
        if self._counted is not None and counted > self._counted:
            self._is_seen = True
        self._counted = counted


def drain(producer: Producer) -> bool:
    """Take all that a producer has to report; False if it failed for good."""
    try:
        while producer.poll(0):
            pass
    except KafkaException:
        return False
    return True


def is_sign(line: str) -> bool:
    """Say whether a line of the client library tells of a request that may arrive late.

    Examples
    --------
    >>> is_sign("FAIL [x] [thrd:TxnCoordinator]: Disconnected (after 9ms in state UP)")
    True
    >>> is_sign("FAIL [x] [thrd:TxnCoordinator]: Connect failed (after 0ms in state CONNECT)")
    False
    """
    if f"{_BOOTSTRAP}]" in line:
        return False
    kind = line.partition(" ")[0]
    is_in_use = "in state UP" in line or "in state REAUTH" in line
    return kind == "REQTMOUT" or (kind == "FAIL" and is_in_use)
