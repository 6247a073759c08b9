"""Offsets that Kafka holds back for an open transaction: told from a Kafka that is away."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import wait_for
from services import Services

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    producer_config,
)
from fraudstream.adapters.kafka_inquirer import KafkaInquirer
from fraudstream.errors import BrokerUnavailableError, OffsetsHeldError
from fraudstream.local.ready import HOST, find_free_port
from fraudstream.pipeline import InputTopics
from fraudstream.profile import TRANSACTIONS_TOPIC_NUMBER, InputPartition
from fraudstream.topics import TopicAdmin, plan_topics

P0 = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
COMMITTED, PENDING = 5, 9


@dataclass(frozen=True)
class Group:
    """A group that has committed something, and a client for its metadata."""

    access: KafkaAccess
    group_id: str
    topics: InputTopics
    client: Consumer

    def ask(self) -> int | OffsetsHeldError | None:
        """Ask until Kafka answers, or says why not: a busy machine takes its time."""
        inquirer = KafkaInquirer(self.access, self.group_id, self.topics)
        found: list[int | OffsetsHeldError | None] = []

        def is_answered() -> bool:
            try:
                found.append(inquirer.inspect([P0])[P0].committed)
            except OffsetsHeldError as held:
                found.append(held)
            except BrokerUnavailableError:
                return False
            return True

        wait_for(is_answered, "an answer")
        return found[0]

    def offsets(self, offset: int) -> list[TopicPartition]:
        return [TopicPartition(self.topics.transactions, 0, offset)]


@pytest.fixture
def group(services: Services) -> Iterator[Group]:
    access = KafkaAccess(services.bootstrap_servers)
    topics = InputTopics(*(f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("in", "labels")))
    TopicAdmin(access).create(
        plan_topics([topics.transactions, topics.labels], [], partitions=1, horizon_ms=1)
    )
    group_id = f"group-{uuid.uuid4().hex[:8]}"
    with closing(Consumer(consumer_config(access, group_id))) as client:
        made = Group(access, group_id, topics, client)
        client.commit(offsets=made.offsets(COMMITTED), asynchronous=False)
        yield made


@pytest.mark.services
def test_offsets_that_an_open_transaction_holds_are_told_from_an_absence(group: Group) -> None:
    other = Producer(
        producer_config(group.access) | {"transactional.id": f"{group.group_id}-other"}
    )
    other.init_transactions(30)
    other.begin_transaction()
    other.send_offsets_to_transaction(
        group.offsets(PENDING), group.client.consumer_group_metadata(), 30
    )
    held = group.ask()
    assert isinstance(held, OffsetsHeldError)
    other.abort_transaction(30)
    assert group.ask() == COMMITTED


def test_a_kafka_that_is_away_holds_nothing_back() -> None:
    access = KafkaAccess(f"{HOST}:{find_free_port()}")
    with pytest.raises(BrokerUnavailableError) as absent:
        KafkaInquirer(access, "group", InputTopics("in", "labels")).inspect([P0])
    assert not isinstance(absent.value, OffsetsHeldError)
