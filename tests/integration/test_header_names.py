"""Header names that the Python client cannot read, through the live worker: they stop nothing."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import orjson
import pytest
from harness import Deployment, payment
from services import Services

from fraudstream.errors import ExitCode

pytestmark = pytest.mark.services


def _publish_with_header_name(
    bootstrap_servers: str, topic: str, value: bytes, name: bytes
) -> None:
    """Publish as a C program may: the Python client takes no header names that are not text."""
    found = importlib.util.find_spec("confluent_kafka")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    (library,) = [
        *package.parent.glob("confluent_kafka.libs/librdkafka-*"),
        *package.glob(".dylibs/librdkafka*"),
    ]
    rdkafka = ctypes.CDLL(str(library))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    rdkafka.rd_kafka_conf_new.restype = rdkafka.rd_kafka_new.restype = pointer
    conf = pointer(rdkafka.rd_kafka_conf_new())
    assert (
        rdkafka.rd_kafka_conf_set(
            conf,
            text(b"bootstrap.servers"),
            text(bootstrap_servers.encode()),
            None,
            ctypes.c_size_t(0),
        )
        == 0
    )
    producer = pointer(rdkafka.rd_kafka_new(number(0), conf, None, ctypes.c_size_t(0)))
    # Tags of rdkafka.h: 1 topic, 4 value and its size, 9 header name, value and its size, 0 end.
    assert rdkafka.rd_kafka_producev(
        producer, number(1), text(topic.encode()), number(4), text(value),
        ctypes.c_size_t(len(value)), number(9), text(name), text(b"x"), ctypes.c_ssize_t(1),
        number(0),
    ) == 0  # fmt: skip
    assert rdkafka.rd_kafka_flush(producer, number(10_000)) == 0
    rdkafka.rd_kafka_destroy(producer)


def test_headers_that_cannot_be_read_stop_nothing(services: Services, tmp_path: Path) -> None:
    with Deployment(services, tmp_path, partitions=1) as deployment:
        deployment.create_topics()
        for number, value in enumerate([orjson.dumps(payment(7)), b"no JSON"]):
            _publish_with_header_name(
                services.bootstrap_servers, deployment.topics["transactions"], value, b"\xff\xfe"
            )
            deployment.publish([payment(number)])
        worker = deployment.start().await_ready()
        deployment.await_done()
        assert worker.stop() == ExitCode.OK
        assert len(deployment.drain("decisions")) == 3
        assert len(deployment.drain("dead_letters")) == 1
