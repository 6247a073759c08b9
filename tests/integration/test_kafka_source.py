"""The consumer by itself: what it does while nothing can be published, or Kafka does not answer."""

from __future__ import annotations

import threading
import uuid
from unittest.mock import Mock

import pytest
from confluent_kafka import Producer
from harness import wait_for
from services import Services

from fraudstream.adapters.kafka import GroupMembership, KafkaAccess, producer_config
from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.errors import BrokerUnavailableError
from fraudstream.local.ready import HOST, find_free_port
from fraudstream.pipeline import InputTopics
from fraudstream.profile import TRANSACTIONS_TOPIC_NUMBER, InputPartition
from fraudstream.topics import TopicAdmin, plan_topics

P0 = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)


def make_source(access: KafkaAccess, topics: InputTopics) -> KafkaSource:
    return KafkaSource(access, GroupMembership(f"group-{uuid.uuid4().hex[:8]}", 0), topics)


@pytest.mark.services
def test_what_comes_while_nothing_can_be_published_is_reported_and_read_again(
    services: Services,
) -> None:
    access = KafkaAccess(services.bootstrap_servers)
    topics = InputTopics(*(f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("in", "labels")))
    TopicAdmin(access).create(
        plan_topics([topics.transactions, topics.labels], [], partitions=1, horizon_ms=1)
    )
    source = make_source(access, topics)
    wait_for(lambda: source.poll(10, 0.1).records == [] and source.positions == {}, "a first poll")
    assigned: list[InputPartition] = []

    def is_assigned() -> bool:
        source.serve()
        assigned.extend(source.take_assignment()[0] or ())
        return bool(assigned)

    wait_for(is_assigned, "an assignment")
    source.start_from(dict.fromkeys(assigned, 0))
    producer = Producer(producer_config(access))
    producer.produce(topics.transactions, b"one")
    producer.flush(10)

    rewinds = Mock(side_effect=source.rewind)
    source.rewind = rewinds  # type: ignore[method-assign]

    def was_let_go() -> bool:
        source.serve()
        return bool(rewinds.called)

    wait_for(was_let_go, "a record that came while nothing could be published")
    read: list[bytes | None] = []

    def is_read() -> bool:
        read.extend(record.value for record in source.poll(10, 0.1).records)
        return bool(read)

    wait_for(is_read, "the record")
    assert read == [b"one"]


def test_the_first_commit_is_bounded_where_kafka_does_not_answer() -> None:
    access = KafkaAccess(f"{HOST}:{find_free_port()}")
    source = make_source(access, InputTopics("in", "labels"))
    raised: list[BaseException] = []

    def commit() -> None:
        try:
            source.commit_start({P0: 0})
        except BrokerUnavailableError as error:
            raised.append(error)

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "does not return" in str(raised[0])
