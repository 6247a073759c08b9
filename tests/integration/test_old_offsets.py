"""A broker that was killed and came back never tells a group older offsets than it had.

Kafka does, for as long as it loads them, where the load that it began before it was fenced ends in
the middle of the next one (``docs/adr/0024``): with some hundred thousand records to load and the
usual buffer this test sees offsets that are minutes old. The local stack's broker is set otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from harness import wait_for
from services import BROKER_PROPERTIES

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    kafka_logger,
    producer_config,
)
from fraudstream.local.stack import LocalStack, local_stack
from fraudstream.topics import TopicAdmin, plan_topics

pytestmark = pytest.mark.services

PARTITIONS = 120
TRANSACTIONS = 1_500
TIMEOUT_S = 60.0


@pytest.fixture(name="own_stack")
def own_stack_fixture() -> Iterator[LocalStack]:
    """Give a stack of its own: every later load of this one takes seconds."""
    with local_stack(kafka_properties=BROKER_PROPERTIES) as stack:
        access = KafkaAccess(stack.bootstrap_servers)
        TopicAdmin(access).create(plan_topics(["in"], [], partitions=PARTITIONS, horizon_ms=1))
        yield stack


def _offsets(offset: int) -> list[TopicPartition]:
    return [TopicPartition("in", number, offset) for number in range(PARTITIONS)]


def _commit_often(access: KafkaAccess, client: Consumer) -> None:
    """Commit by transactions: each record waits for its marker when they are loaded, too."""
    own = {"transactional.id": "old-offsets", "logger": kafka_logger()}
    producer = Producer(producer_config(access) | own)

    def is_ready() -> bool:
        try:
            producer.init_transactions(5.0)
        except KafkaException:  # the coordinator is still loading
            return False
        return True

    wait_for(is_ready, "the producer")
    for number in range(1, TRANSACTIONS + 1):
        producer.begin_transaction()
        producer.send_offsets_to_transaction(
            _offsets(number), client.consumer_group_metadata(), TIMEOUT_S
        )
        producer.commit_transaction(TIMEOUT_S)


def test_offsets_are_not_older_than_before_a_kill(own_stack: LocalStack) -> None:
    access = KafkaAccess(own_stack.bootstrap_servers)
    with closing(Consumer(consumer_config(access, "group") | {"logger": kafka_logger()})) as client:
        _commit_often(access, client)
        own_stack.kill_kafka()
        own_stack.start_kafka()
        answers: list[int] = []
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(answers) < 50 and time.monotonic() < deadline_s:
            with suppress(KafkaException):  # still loading
                found = client.committed(_offsets(0), timeout=1.0)
                answers += [min(place.offset for place in found)]
                time.sleep(0.02)
    assert answers
    assert set(answers) == {TRANSACTIONS}
