"""Reads a topic from its beginning to the end that it has now.

The end is where each partition's readable records end: control records take offsets too, and what
an open transaction wrote cannot be read yet, so that an offset may never be reached. Kafka says
"end of partition" where there is nothing more to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    error_of,
    kafka_logger,
    to_record,
)
from fraudstream.errors import ServiceAwayError, UsageError
from fraudstream.event import Record
from fraudstream.replay.span import TimeSpan

#: Named in the broker's logs only: nothing is committed.
_GROUP_ID = "fraudstream-export"
_REQUEST_TIMEOUT_S = 10.0
_POLL_TIMEOUT_S = 0.5
_RETRY_INTERVAL_S = 0.1
_SILENCE_MAX_S = 30.0
#: A leader has moved, or a partition is so new that it has none yet.
_PASSING = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
_SLICE_RECORDS = 20_000
_POLL_RECORDS = 2_000


@dataclass(slots=True)
class _Partition:
    """How far a partition is to be read, and how far it is."""

    start: int
    end: int
    position: int = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.start


class TopicDrain:
    """One reading of a topic.

    Parameters
    ----------
    access
        Where.
    topic
        Its name.
    span
        Which records are taken, by their Kafka timestamp; all of them by default.

    Raises
    ------
    ServiceAwayError
        Kafka does not answer.
    UsageError
        There is no such topic.
    """

    def __init__(self, access: KafkaAccess, topic: str, span: TimeSpan | None = None) -> None:
        self._topic = topic
        self._span = span or TimeSpan()
        self._consumer = Consumer(
            consumer_config(access, _GROUP_ID)
            | {"enable.partition.eof": True, "logger": kafka_logger()}
        )
        self._lows: dict[int, int] = {}
        try:
            self._partitions = self._survey()
        except KafkaException as exception:
            self._consumer.close()
            raise _away(error_of(exception)) from exception
        except UsageError:
            self._consumer.close()
            raise

    @property
    def offsets_total(self) -> int:
        """How many offsets lie between beginning and end, those without a record too."""
        return sum(p.end - p.start for p in self._partitions.values())

    @property
    def cut_partitions(self) -> frozenset[int]:
        """The partitions that are read from where Kafka has deleted what came before."""
        places = self._partitions.items()
        return frozenset(n for n, p in places if p.start == self._lows[n] > 0)

    def slices(
        self, on_progress: Callable[[int], None] = lambda _: None
    ) -> Iterator[Sequence[Record]]:
        """Read the records, some thousands at a time; in order within each partition.

        Parameters
        ----------
        on_progress
            Called with the number of offsets that are behind.

        Raises
        ------
        ServiceAwayError
            Kafka fell silent before the end.
        """
        unread = {number for number, p in self._partitions.items() if p.position < p.end}
        self._consumer.assign(
            [TopicPartition(self._topic, n, self._partitions[n].start) for n in sorted(unread)]
        )
        records: list[Record] = []
        heard_s = time.monotonic()
        try:
            while unread:
                messages = self._poll()
                are_progress = [self._take(message, records, unread) for message in messages]
                if any(are_progress):
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > _SILENCE_MAX_S:
                    raise ServiceAwayError(
                        f"Kafka gave nothing of {self._topic} for {_SILENCE_MAX_S:.0f} s"
                    )
                on_progress(sum(p.position - p.start for p in self._partitions.values()))
                if len(records) >= _SLICE_RECORDS:
                    yield records
                    records = []
                    heard_s = time.monotonic()  # writing took its time
        finally:
            self._consumer.close()
        if records:
            yield records

    def _poll(self) -> list[Message]:
        """Wait for one message, and take what else is there without waiting for more."""
        first = self._consumer.poll(_POLL_TIMEOUT_S)
        if first is None:
            return []
        return [first, *self._consumer.consume(_POLL_RECORDS, timeout=0)]

    def _take(self, message: Message, records: list[Record], unread: set[int]) -> bool:
        """Take a message over; tell whether it was a sign of progress."""
        error, number = message.error(), message.partition()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and number is not None:
                self._finish(number, unread)
                return True
            if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise _away(error)
            return False  # the client connects again by itself
        record = to_record(message)
        partition = self._partitions[record.partition]
        if record.offset < partition.end and record.timestamp_ms in self._span:
            records.append(record)
        partition.position = min(record.offset + 1, partition.end)
        if partition.position >= partition.end:
            self._finish(record.partition, unread)
        return True

    def _finish(self, number: int, unread: set[int]) -> None:
        if number in unread:
            unread.discard(number)
            self._partitions[number].position = self._partitions[number].end
            # What is written from now on is not asked for.
            self._consumer.pause([TopicPartition(self._topic, number)])

    def _survey(self) -> dict[int, _Partition]:
        """Find out where each partition begins and ends."""
        deadline_s = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            try:
                return self._find_partitions()
            except KafkaException as exception:
                if error_of(exception).code() not in _PASSING or time.monotonic() > deadline_s:
                    raise
            time.sleep(_RETRY_INTERVAL_S)

    def _find_partitions(self) -> dict[int, _Partition]:
        topics = self._consumer.list_topics(timeout=_REQUEST_TIMEOUT_S).topics
        if self._topic not in topics:
            raise UsageError(
                f"there is no topic {self._topic}; `fraudstream topics create` makes ours"
            )
        found = {}
        for number in topics[self._topic].partitions:
            place = TopicPartition(self._topic, number)
            low, high = self._consumer.get_watermark_offsets(place, timeout=_REQUEST_TIMEOUT_S)
            found[number] = _Partition(low, high)
            self._lows[number] = low
        if self._span.from_ms is not None:
            asked = [TopicPartition(self._topic, n, self._span.from_ms) for n in found]
            for place in self._consumer.offsets_for_times(asked, timeout=_REQUEST_TIMEOUT_S):
                end = found[place.partition].end
                start = place.offset if place.offset >= 0 else end  # none is that young
                found[place.partition] = _Partition(start, end)
        return found


def _away(error: KafkaError) -> ServiceAwayError:
    return ServiceAwayError(
        f"Kafka cannot be reached or refuses ({error.name()}): check kafka.bootstrap_servers, or "
        "start a local one with `fraudstream local up`"
    )
