"""Asks Kafka about the group and its topics, without being in the group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicPartition

from fraudstream.adapters.kafka import KafkaAccess, consumer_config, error_of, kafka_logger
from fraudstream.adapters.kafka_bounded import close_aside
from fraudstream.errors import BrokerUnavailableError, OffsetsHeldError
from fraudstream.pipeline import InputTopics
from fraudstream.profile import InputPartition

_REQUEST_TIMEOUT_S = 3.0
#: For finding out why there was no answer.
_HELD_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class PartitionStart:
    """What the log and the group say of a partition: both ends, and what the group committed."""

    log_start: int
    log_end: int
    committed: int | None


class KafkaInquirer:
    """Asks where partitions stand: a member that was fenced would get no answers.

    Parameters
    ----------
    access, group_id
        Where, and about which group.
    topics
        The input topics.
    """

    def __init__(self, access: KafkaAccess, group_id: str, topics: InputTopics) -> None:
        self._topics = topics
        self._config = consumer_config(access, group_id) | {"logger": kafka_logger()}
        self._client = Consumer(self._config)

    def serve(self) -> None:
        """Take what the client reports, for which nobody waits, or it would pile up."""
        self._client.poll(0)

    def inspect(self, partitions: Iterable[InputPartition]) -> dict[InputPartition, PartitionStart]:
        """Ask for the committed offsets and the ends of the log.

        Raises
        ------
        BrokerUnavailableError
            No answer in time; as `OffsetsHeldError`, because of an open transaction.
        """
        topic = self._topics.topic
        asked = [TopicPartition(topic(p), p.partition, OFFSET_INVALID) for p in partitions]
        try:
            return {
                self._topics.partition(found.topic, found.partition): self._start(found)
                for found in self._client.committed(asked, timeout=_REQUEST_TIMEOUT_S)
            }
        except KafkaException as exception:
            self._renew()
            self._refuse_held(asked)
            raise BrokerUnavailableError(
                f"Kafka did not say where to start: {error_of(exception).name()}"
            ) from exception

    def all_partitions(self) -> list[InputPartition]:
        """List every partition of the input topics.

        Raises
        ------
        BrokerUnavailableError
            No answer in time, or a topic does not exist.
        """
        found: list[InputPartition] = []
        for topic in (self._topics.transactions, self._topics.labels):
            try:
                metadata = self._client.list_topics(topic, timeout=_REQUEST_TIMEOUT_S)
            except KafkaException as exception:
                self._renew()
                raise BrokerUnavailableError(
                    f"Kafka did not list its topics: {error_of(exception).name()}"
                ) from exception
            partitions = metadata.topics[topic].partitions
            if not partitions:
                raise BrokerUnavailableError(
                    f"the topic {topic} does not exist; `fraudstream topics create` makes it"
                )
            found += [self._topics.partition(topic, number) for number in sorted(partitions)]
        return found

    def _start(self, found: TopicPartition) -> PartitionStart:
        if found.error is not None:
            raise BrokerUnavailableError(f"committed offsets: {found.error.name()}")
        low, high = self._client.get_watermark_offsets(found, timeout=_REQUEST_TIMEOUT_S)
        return PartitionStart(low, high, None if found.offset == OFFSET_INVALID else found.offset)

    def _renew(self) -> None:
        """Ask by a new client: one that was told of no broker may wait for ever (ADR 0014)."""
        close_aside(self._client)
        self._client = Consumer(self._config)

    def _refuse_held(self, asked: Sequence[TopicPartition]) -> None:
        """Tell offsets that are held back from a Kafka that does not answer: the client does not.

        Asked for offsets before any open transaction, Kafka answers at once (KIP-447).
        """
        client = Consumer(self._config | {"isolation.level": "read_uncommitted"})
        try:
            found = client.committed(list(asked), timeout=_HELD_TIMEOUT_S)
        except KafkaException:
            return
        finally:
            close_aside(client)
        if any(f.error is None and f.offset != OFFSET_INVALID for f in found):
            raise OffsetsHeldError("an open transaction holds the group's offsets back")
