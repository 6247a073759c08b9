"""What a producer's log says of requests that may still be on their way.

Lines as librdkafka 2.16.0 writes them; that it does write them is shown with a proxy, in
tests/faults.
"""

from __future__ import annotations

import json
import logging

import pytest
from confluent_kafka import Producer

from fraudstream.adapters.kafka_signs import DelaySigns, is_sign

COORDINATOR = "[fraudstream#producer-3] [thrd:TxnCoordinator]: TxnCoordinator"
RESET = f"FAIL {COORDINATOR}: Disconnected: connection reset by peer (after 773ms in state UP)"
TIMED_OUT = f"REQTMOUT {COORDINATOR}/1: Timed out EndTxnRequest in flight (after 3003ms)"
REFUSED = f"FAIL {COORDINATOR}: Connect to broker failed: refused (after 0ms in state CONNECT)"
BOOTSTRAP = "FAIL [x] [thrd:127.0.0.1:9092/bootstrap]: Disconnected (after 9ms in state UP)"


@pytest.fixture
def producer() -> Producer:
    return Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})


def _line(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, text, None, None)


@pytest.mark.parametrize(
    ("line", "is_one"),
    [(RESET, True), (TIMED_OUT, True), (REFUSED, False), (BOOTSTRAP, False), ("GETPID x", False)],
)
def test_lines(line: str, is_one: bool, producer: Producer) -> None:
    assert is_sign(line) is is_one
    signs = DelaySigns()
    signs.handle(_line(line))
    assert signs.take(producer) is is_one
    assert not signs.take(producer)


def _report(**brokers: int) -> str:
    return json.dumps(
        {"brokers": {name: {"req_timeouts": 0, "disconnects": n} for name, n in brokers.items()}}
    )


def test_counters_that_move_after_the_first_report_are_a_sign(producer: Producer) -> None:
    signs = DelaySigns()
    on_statistics = signs.config()["stats_cb"]
    on_statistics(_report(TxnCoordinator=2))
    on_statistics(_report(TxnCoordinator=2))
    assert not signs.take(producer)
    on_statistics(_report(TxnCoordinator=3))
    assert signs.take(producer)
    on_statistics(_report(TxnCoordinator=3).replace('"TxnCoordinator"', '"x/bootstrap"'))
    assert not signs.take(producer)
