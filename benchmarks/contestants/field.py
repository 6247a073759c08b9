"""The topics that contestants run on."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from benchmarks.contestants.programs import Run
from benchmarks.job.stream import StreamPlan, payments
from benchmarks.open_loop import PARTITIONS
from benchmarks.subjects import create_topics
from fraudstream.adapters.kafka import KafkaAccess, client_config, kafka_logger, producer_config
from fraudstream.local.stack import LocalStack

_TIMEOUT_S = 60.0
#: Some 25 KB. A batch that is larger than a consumer's limit for a partition comes alone, and on a
#: fast machine Quix, which has one of 64 KB, read nothing but such batches of its input for ever.
_FILLED = {"linger.ms": 20, "batch.num.messages": 500}


def fill(stack: LocalStack, topic: str, plan: StreamPlan, partitions: int = PARTITIONS) -> None:
    """Make an input topic with payments, and what our workers need beside it."""
    beside = [f"{topic}.alerts", f"{topic}.dead-letters"]
    create_topics(stack, [topic, f"{topic}.labels"], beside, partitions)
    access = KafkaAccess(stack.bootstrap_servers)
    producer = Producer(producer_config(access) | _FILLED | {"logger": kafka_logger()})
    for key, value in payments(plan):
        while True:
            try:
                producer.produce(topic, value, key)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    if producer.flush(_TIMEOUT_S):
        sys.exit("the broker does not take the payments")


def new_run(
    stack: LocalStack, name: str, topic: str, bundle: Path, partitions: int = PARTITIONS
) -> Run:
    """Make the output topic of a run."""
    run = Run(stack, name, topic, f"{name}.out", bundle)
    create_topics(stack, [], [run.output], partitions)
    return run


def clear(run: Run) -> None:
    """Delete a run's topics, its framework's own among them, and all profiles."""
    admin = AdminClient(
        client_config(KafkaAccess(run.stack.bootstrap_servers), "benchmark")
        | {"logger": kafka_logger()}
    )
    topics = admin.list_topics(timeout=_TIMEOUT_S).topics
    for future in admin.delete_topics([t for t in topics if run.name in t]).values():
        future.result(_TIMEOUT_S)
    with closing(redis.Redis.from_url(run.stack.valkey_url, protocol=2)) as client:
        client.flushall()
