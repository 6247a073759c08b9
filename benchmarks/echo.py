"""A bare transactional echo: what Kafka's transactions alone cost: ``python -m benchmarks.echo``.

Reads payments as a worker does (the same client settings, the same batches, one transaction a
batch, read at ``read_committed``) and publishes each one's value as it is. It parses nothing,
remembers nothing, scores nothing, and ends at the first error: what a worker takes longer than this
is the worker's own.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    kafka_logger,
    producer_config,
)
from fraudstream.worker_parts import LoopLimits

READY = "ready"
#: As the worker's own publisher has it.
_TRANSACTION_TIMEOUT_MS = 10_000
_CALL_TIMEOUT_S = 10.0


def main() -> None:
    """Echo until told to stop; print a line as soon as there are partitions to read."""
    arguments = _arguments()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    access = KafkaAccess(arguments.bootstrap)
    consumer = Consumer(
        consumer_config(access, arguments.group)
        | {"partition.assignment.strategy": "range", "logger": kafka_logger()}
    )
    producer = Producer(
        producer_config(access)
        | {
            "transactional.id": f"{arguments.group}-0-0",
            "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
            "delivery.report.only.error": True,
            # A fresh broker's coordinator is still loading at first, and the client says so.
            "log_level": 3,
            "logger": kafka_logger(),
        }
    )
    producer.init_transactions(_CALL_TIMEOUT_S)
    consumer.subscribe([arguments.input], on_assign=lambda *_: print(READY, flush=True))
    limits = LoopLimits()
    while not stopping.is_set():
        first = consumer.poll(limits.poll_timeout_s)
        if first is None:
            continue
        batch = [first, *consumer.consume(limits.batch_records_max - 1, timeout=0)]
        _publish(producer, consumer, batch, arguments.output)
    consumer.close()


def _publish(producer: Producer, consumer: Consumer, batch: Sequence[Message], topic: str) -> None:
    """Publish a batch in one transaction, with the offsets that it stands for."""
    ends: dict[tuple[str, int], int] = {}
    producer.begin_transaction()
    for message in batch:
        error = message.error()
        if error is not None:
            raise SystemExit(f"the echo read an error: {error}")
        source, partition, offset = message.topic(), message.partition(), message.offset()
        assert source is not None
        assert partition is not None
        assert offset is not None
        producer.produce(topic, message.value(), message.key())
        ends[source, partition] = offset + 1
    producer.poll(0)
    offsets = [TopicPartition(*place, end) for place, end in ends.items()]
    producer.send_offsets_to_transaction(
        offsets, consumer.consumer_group_metadata(), _CALL_TIMEOUT_S
    )
    producer.commit_transaction(_CALL_TIMEOUT_S)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--bootstrap", required=True, help="Kafka's address")
    parser.add_argument("--group", required=True, help="the consumer group")
    parser.add_argument("--input", required=True, help="the topic to read")
    parser.add_argument("--output", required=True, help="the topic to publish to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
