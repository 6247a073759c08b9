"""Reads topics from their beginning to their end, as a ``read_committed`` reader sees them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from fraudstream.adapters.kafka import KafkaAccess, consumer_config, kafka_logger, to_record
from fraudstream.errors import ServiceAwayError
from fraudstream.event import Record

_BATCH_RECORDS_MAX = 1_000
_POLL_TIMEOUT_S = 0.5


def drain(
    access: KafkaAccess, topics: Sequence[str], partitions: int, timeout_s: float = 60.0
) -> dict[str, list[Record]]:
    """Read everything there is.

    Parameters
    ----------
    access
        Where.
    topics, partitions
        What: so many partitions of each.
    timeout_s
        How long it may take.

    Returns
    -------
    records
        By topic. What lies behind a transaction that is still open is not among them.

    Raises
    ------
    ServiceAwayError
        Kafka is away, or it took too long.
    """
    config = consumer_config(access, "fraudstream-demo-count")
    consumer = Consumer(config | {"enable.partition.eof": True, "logger": kafka_logger()})
    found: dict[str, list[Record]] = {topic: [] for topic in topics}
    unfinished = {(topic, number) for topic in topics for number in range(partitions)}
    deadline_s = time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(t, n, OFFSET_BEGINNING) for t, n in unfinished])
        while unfinished:
            if time.monotonic() > deadline_s:
                raise ServiceAwayError("Kafka did not hand out the topics in time to be counted")
            for message in consumer.consume(_BATCH_RECORDS_MAX, timeout=_POLL_TIMEOUT_S):
                error = message.error()
                if error is None:
                    record = to_record(message)
                    found[record.topic].append(record)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard((message.topic() or "", message.partition() or 0))
                else:
                    raise ServiceAwayError(f"the topics cannot be counted: {error.name()}")
    finally:
        consumer.close()
    return found
