"""Reads whole topics in bulk, from where they begin to the end that they have now.

The source of a rebuild. It belongs to no group and commits nothing. The end of a partition is
where its readable records end: control records take offsets too, and what an open transaction
wrote cannot be read yet, so Kafka's "end of partition" counts, too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from fraudstream.adapters.kafka import KafkaAccess, consumer_config, error_of, kafka_logger
from fraudstream.errors import ServiceAwayError
from fraudstream.event import Record

_REQUEST_TIMEOUT_S = 10.0
_POLL_TIMEOUT_S = 0.5
_POLL_RECORDS = 5_000
_SILENCE_MAX_S = 30.0
_RETRY_INTERVAL_S = 0.1

#: A topic's name and the number of a partition.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PlaceRange:
    """The offsets [start, end) that a partition has, and what the group committed of it."""

    start: int
    end: int
    committed: int | None = None


@dataclass(frozen=True, slots=True)
class BulkSlice:
    """Some records of one partition, in order, without keys and headers.

    ``end`` is the offset up to which the partition is read with them.
    """

    place: Place
    records: Sequence[Record]
    end: int


class KafkaBulk:
    """A consumer that reads topics from beginning to end.

    Parameters
    ----------
    access
        Where.
    group_id
        Whose committed offsets are asked for; nothing is committed.
    """

    def __init__(self, access: KafkaAccess, group_id: str) -> None:
        self._consumer = Consumer(
            consumer_config(access, group_id)
            | {"enable.partition.eof": True, "fetch.wait.max.ms": 50, "logger": kafka_logger()}
        )

    def survey(
        self, topics: Sequence[str], *, with_committed: bool = False
    ) -> dict[Place, PlaceRange]:
        """Find out where each partition begins and ends; a topic that does not exist has none.

        Raises
        ------
        ServiceAwayError
            Kafka does not answer.
        """
        deadline_s = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            try:
                return self._find(topics, with_committed=with_committed)
            except KafkaException as exception:
                # A new leader or coordinator: the group may never have been asked for before.
                if time.monotonic() > deadline_s:
                    raise _away(error_of(exception)) from exception
            time.sleep(_RETRY_INTERVAL_S)

    def _find(self, topics: Sequence[str], *, with_committed: bool) -> dict[Place, PlaceRange]:
        listed = self._consumer.list_topics(timeout=_REQUEST_TIMEOUT_S).topics
        places = [
            TopicPartition(topic, number)
            for topic in topics
            if topic in listed
            for number in sorted(listed[topic].partitions)
        ]
        if with_committed and places:
            places = self._consumer.committed(places, timeout=_REQUEST_TIMEOUT_S)
            faults = [place.error for place in places if place.error is not None]
            if faults:
                raise KafkaException(faults[0])
        return {(place.topic, place.partition): self._range(place) for place in places}

    def _range(self, place: TopicPartition) -> PlaceRange:
        low, high = self._consumer.get_watermark_offsets(place, timeout=_REQUEST_TIMEOUT_S)
        return PlaceRange(low, high, None if place.offset == OFFSET_INVALID else place.offset)

    def read(self, ranges: Mapping[Place, PlaceRange]) -> Iterator[BulkSlice]:
        """Read partitions from start to end, some thousand records at a time.

        Every partition's last slice says by its ``end`` how far it could be read.

        Raises
        ------
        ServiceAwayError
            Kafka fell silent before the end, or refuses.
        """
        unread = {place for place, range_ in ranges.items() if range_.start < range_.end}
        self._consumer.assign([TopicPartition(*p, ranges[p].start) for p in sorted(unread)])
        heard_s = time.monotonic()
        while unread:
            slices = list(self._poll(ranges, unread))
            if slices:
                heard_s = time.monotonic()
                yield from slices
            elif time.monotonic() - heard_s > _SILENCE_MAX_S:
                raise ServiceAwayError(f"Kafka gave nothing to read for {_SILENCE_MAX_S:.0f} s")
        self._consumer.unassign()

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()

    def _poll(self, ranges: Mapping[Place, PlaceRange], unread: set[Place]) -> Iterator[BulkSlice]:
        # Asked for many, consume() would wait its whole time-out for the last of them.
        first = self._consumer.poll(_POLL_TIMEOUT_S)
        messages = [] if first is None else [first, *self._consumer.consume(_POLL_RECORDS, 0)]
        records: dict[Place, list[Record]] = defaultdict(list)
        ends: dict[Place, int] = {}
        for message in messages:
            place = (message.topic() or "", message.partition() or 0)
            if place in unread and _is_answer(message):
                ends[place] = _take(message, ranges[place].end, records[place])
                if message.error() is not None or ends[place] == ranges[place].end:
                    unread.discard(place)
        finished = [TopicPartition(*place) for place in ends if place not in unread]
        if finished:
            self._consumer.pause(finished)  # what is written from now on is not asked for
        for place, end in ends.items():
            yield BulkSlice(place, records.get(place, ()), end)


def _is_answer(message: Message) -> bool:
    """Tell records and ends of partitions from errors, which the client mends by itself."""
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise _away(error)
    return False


def _take(message: Message, end: int, records: list[Record]) -> int:
    """Take a message's record, if it has one before the end; give the offset that is reached."""
    offset = message.offset() or 0
    if message.error() is not None:
        return min(offset, end)
    if offset < end:
        _, timestamp_ms = message.timestamp()
        place = (message.topic() or "", message.partition() or 0)
        records.append(Record(*place, offset, timestamp_ms, None, message.value()))
    return min(offset + 1, end)


def _away(error: KafkaError) -> ServiceAwayError:
    return ServiceAwayError(
        f"Kafka cannot be reached or refuses ({error.name()}): check kafka.bootstrap_servers, or "
        "start a local one with `fraudstream local up`"
    )
