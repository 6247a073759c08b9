"""Reads a piece of an input partition again, beside the group: the source of every repair."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    error_of,
    kafka_logger,
    to_record,
)
from fraudstream.adapters.kafka_bounded import close_aside
from fraudstream.errors import BrokerUnavailableError
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch, InputTopics
from fraudstream.profile import InputPartition, Stretch

_POLL_TIMEOUT_S = 0.05
#: So many polls in a row that brought not even the end of a partition: five seconds.
_SILENCES_MAX = 100


#: The client's own read-ahead (64 MB) would stay with the worker as memory, and brings nothing:
#: it reads faster than a repair takes. What is read is taken by the slice, and asked for again
#: that soon (by default after a second).
_READ_AHEAD = {
    "queued.max.messages.kbytes": 4_096,
    "queued.min.messages": 5_000,
    "fetch.queue.backoff.ms": 10,
}


class KafkaLog:
    """A consumer without a group that reads any stretch of the input topics.

    Parameters
    ----------
    access
        Where.
    group_id
        Named in the broker's logs only: nothing is committed.
    topics
        The input topics.
    """

    def __init__(self, access: KafkaAccess, group_id: str, topics: InputTopics) -> None:
        self._topics = topics
        self._config = consumer_config(access, f"{group_id}-repair") | {
            "enable.partition.eof": True,
            **_READ_AHEAD,
            "logger": kafka_logger(),
        }
        self._consumer: Consumer | None = None
        self._silences = 0
        self._next: tuple[InputPartition, int] | None = None

    def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
        """Read the beginning of a stretch.

        Returns
        -------
        batch
            Up to ``records_max`` records. Its stretch begins where asked for and ends behind its
            last record, or at the end asked for when there is nothing more before that.

        Raises
        ------
        BrokerUnavailableError
            Kafka does not answer.
        """
        consumer = self._positioned(partition, stretch.start)
        self._next = None  # until this slice is whole: a failure must not continue behind it
        records: list[Record] = []
        end = stretch.start
        first = consumer.poll(_POLL_TIMEOUT_S)
        if self._is_blind(consumer, is_silent=first is None):
            return InputBatch([], {partition: Stretch(stretch.start, stretch.start)})
        # Asked for many, consume() would wait its whole time-out for the last of them.
        messages = [] if first is None else [first, *consumer.consume(records_max - 1, timeout=0)]
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise BrokerUnavailableError(f"reading the log again: {error.name()}")
                # Not the end asked for, if a new leader lags: then the rest is read again.
                end = max(end, min(message.offset() or 0, stretch.end))
                continue
            record = to_record(message)
            if record.offset >= stretch.end:
                end = stretch.end
                break
            records.append(record)
            end = record.offset + 1
        if end >= stretch.end:
            consumer.unassign()  # or it would go on fetching the live stream
        else:
            self._next = (partition, end)
        return InputBatch(records, {partition: Stretch(stretch.start, end)})

    def _is_blind(self, consumer: Consumer, *, is_silent: bool) -> bool:
        """Give a client up after some silence: one that was told of no broker stays blind."""
        self._silences = self._silences + 1 if is_silent else 0
        if self._silences < _SILENCES_MAX:
            return False
        close_aside(consumer)
        self._consumer, self._silences = None, 0
        return True

    def close(self) -> None:
        """Let go of the consumer."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _positioned(self, partition: InputPartition, start: int) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        if self._next != (partition, start):
            topic = self._topics.topic(partition)
            try:
                self._consumer.assign([TopicPartition(topic, partition.partition, start)])
            except KafkaException as exception:
                raise BrokerUnavailableError(
                    f"reading the log again: {error_of(exception).name()}"
                ) from exception
        return self._consumer
