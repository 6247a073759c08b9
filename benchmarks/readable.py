"""Counts what can be read of a topic at ``read_committed``, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
from confluent_kafka import Consumer, TopicPartition

from fraudstream.adapters.kafka import KafkaAccess, consumer_config, kafka_logger

_RECORDS_MAX = 10_000


def _consumer(bootstrap_servers: str, topic: str, partitions: int) -> Consumer:
    access = KafkaAccess(bootstrap_servers)
    # Large answers: a reader that asks often takes the processor from those who are measured.
    eager = {"fetch.min.bytes": 200_000, "fetch.wait.max.ms": 100, "logger": kafka_logger()}
    consumer = Consumer(consumer_config(access, "benchmark-reader") | eager)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    return consumer


@contextmanager
def counting(bootstrap_servers: str, topic: str, partitions: int) -> Iterator[Callable[[], int]]:
    """Count the readable records of a topic for the length of a block.

    Yields
    ------
    count
        Says how many there were up to now.
    """
    counted = multiprocessing.Value("q", 0)
    process = multiprocessing.Process(
        target=_count, args=(bootstrap_servers, topic, partitions, counted), daemon=True
    )
    process.start()
    try:
        yield lambda: int(counted.value)
    finally:
        process.terminate()
        process.join()


def _count(bootstrap_servers: str, topic: str, partitions: int, counted: object) -> None:
    consumer = _consumer(bootstrap_servers, topic, partitions)
    while True:
        messages = consumer.consume(_RECORDS_MAX, 0.1)
        counted.value += sum(message.error() is None for message in messages)  # type: ignore[attr-defined]


def read_scores(
    bootstrap_servers: str, topic: str, partitions: int, silence_s: float = 5.0
) -> list[tuple[int, float]]:
    """Read transaction number and score of each record, until nothing comes any more."""
    consumer = _consumer(bootstrap_servers, topic, partitions)
    found: list[tuple[int, float]] = []
    while messages := consumer.consume(_RECORDS_MAX, silence_s):
        for message in messages:
            if message.error() is None:
                decision = orjson.loads(message.value() or b"{}")
                found.append((int(decision["transaction_id"]), float(decision["score"])))
    consumer.close()
    return found
