"""What a consumer group has not committed yet of what a replay sent.

    sent ─▶ delivered (Kafka gave it an offset) ─▶ committed (the group is done with it)

At full speed, partitions and labels drift days of event time apart, and a worker that reads the
one before the other decides with another past than it had. So a replay stays within bounds of
what the group has committed, in records and in event time, and around a label it waits for
everything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from fraudstream.adapters.kafka import (
    KafkaAccess,
    client_config,
    consumer_config,
    error_of,
    kafka_logger,
)
from fraudstream.errors import BrokerUnavailableError, ServiceAwayError
from fraudstream.event import format_time

Partition = tuple[str, int]

_REQUEST_TIMEOUT_S = 3.0
_RETRY_INTERVAL_S = 0.05
_MEMBER_CHECK_INTERVAL_S = 1.0
#: Any place will do to see whether the group's coordinator answers.
_NOWHERE: Partition = ("fraudstream.nowhere", 0)


class Backlog:
    """The books: what was sent, and where in the log it ended up.

    Parameters
    ----------
    is_watched
        False where nobody will ever say what is committed: then it only counts.

    Examples
    --------
    >>> backlog = Backlog()
    >>> for offset in (10, 11, 12):
    ...     backlog.note_sent(offset * 1_000)
    >>> backlog.note_delivered("transactions", 0, 10, 10_000)
    >>> backlog.note_delivered("transactions", 0, 11, 11_000)
    >>> backlog.note_committed({("transactions", 0): 11})
    >>> backlog.records  # one is committed, one is not, and of one Kafka said nothing yet
    2
    >>> backlog.span_ms(13_000)  # nobody knows yet which one Kafka said nothing of
    3000
    >>> backlog.note_delivered("transactions", 0, 12, 12_000)
    >>> backlog.note_committed({("transactions", 0): 12})
    >>> backlog.span_ms(13_000)
    1000
    """

    def __init__(self, *, is_watched: bool = True) -> None:
        self.is_watched = is_watched
        self._sent = 0
        #: By partition offset and event time of what is not committed, in the order of both.
        self._places: dict[Partition, deque[tuple[int, int]]] = {}
        self._oldest_ms: int | None = None
        self.delivered = 0
        #: At most so many are not committed: what the group said last, and what was sent since.
        self.records = 0

    @property
    def partitions(self) -> list[Partition]:
        """Where anything was delivered."""
        return list(self._places)

    @property
    def undelivered(self) -> int:
        """Records that Kafka has not taken yet."""
        return self._sent - self.delivered

    def span_ms(self, time_ms: int) -> int:
        """Say how far an event would be from the oldest one in flight; at most, as `records`."""
        return 0 if self._oldest_ms is None else time_ms - self._oldest_ms

    def note_sent(self, time_ms: int) -> None:
        """Count a record that was handed to the producer; its event time is no earlier one's."""
        self._sent += 1
        self.records += 1
        if self._oldest_ms is None:
            self._oldest_ms = time_ms

    def note_delivered(self, topic: str, partition: int, offset: int, time_ms: int) -> None:
        """Write down where a record ended up."""
        self.delivered += 1
        if self.is_watched:
            self._places.setdefault((topic, partition), deque()).append((offset, time_ms))

    def note_committed(self, committed: Mapping[Partition, int]) -> None:
        """Write down the group's offsets.

        Parameters
        ----------
        committed
            By partition the offset behind the last record that is done with. What is missing was
            never committed.
        """
        for place, waiting in self._places.items():
            end = committed.get(place, 0)
            while waiting and waiting[0][0] < end:
                waiting.popleft()
        self.records = self.undelivered + sum(map(len, self._places.values()))
        # Which records Kafka has not taken is not in the books: with any, the oldest stays.
        if not self.undelivered:
            heads = (waiting[0][1] for waiting in self._places.values() if waiting)
            self._oldest_ms = min(heads, default=None)


class GroupWatch:
    """Asks Kafka about a consumer group.

    Parameters
    ----------
    access
        Where.
    group_id
        Which group.
    """

    def __init__(self, access: KafkaAccess, group_id: str) -> None:
        self.group_id = group_id
        self._access = access
        # Asks many times a second, without being in the group. An admin client's requests to a
        # coordinator that goes away have been seen to end the process (librdkafka issue 4605).
        self._inquirer = Consumer(consumer_config(access, group_id) | {"logger": kafka_logger()})
        self._client: AdminClient | None = None

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Give the offsets that the group committed; a partition without one is left out.

        Raises
        ------
        BrokerUnavailableError
            No answer in time.
        """
        if not partitions:
            return {}
        self._inquirer.poll(0)  # lets it drop what it would log
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        deadline_s = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            try:
                found = self._inquirer.committed(asked, timeout=_REQUEST_TIMEOUT_S)
            except KafkaException as exception:
                # A coordinator that is just taking over answers the next time.
                if time.monotonic() > deadline_s:
                    raise _no_answer(exception) from exception
                time.sleep(_RETRY_INTERVAL_S)
            else:
                return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def has_members(self) -> bool:
        """Tell whether anybody is in the group; a killed member counts until its time-out.

        Raises
        ------
        BrokerUnavailableError
            No answer in time.
        """
        # Nothing is asked of a coordinator that has not just answered: see above.
        self.committed([_NOWHERE])
        if self._client is None:
            self._client = AdminClient(
                client_config(self._access, "fraudstream-replay") | {"logger": kafka_logger()}
            )
        try:
            futures = self._client.describe_consumer_groups(
                [self.group_id], request_timeout=_REQUEST_TIMEOUT_S
            )
            return bool(futures[self.group_id].result(2 * _REQUEST_TIMEOUT_S).members)
        except KafkaException as exception:
            # A group that never was: brokers differ in whether that is an error.
            if error_of(exception).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return False
            raise _no_answer(exception) from exception
        except TimeoutError as exception:
            raise _no_answer(exception) from exception


class Patience:
    """How long a wait for the group goes on while the group, or Kafka, is not there.

    A worker that dies is back in a moment, and the wait just goes on; a group that stays empty
    never commits anything.

    Parameters
    ----------
    watch
        The group.
    limit_s
        How long nobody may be there.
    clock
        Seconds from an arbitrary start.
    """

    def __init__(
        self,
        watch: GroupWatch,
        limit_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._limit_s = limit_s
        self._clock = clock
        self._seen_s = self._checked_s = clock()

    def check(self, next_ms: int) -> None:
        """Look, once a second, whether there is still something to wait for.

        Parameters
        ----------
        next_ms
            Event time of what would be sent next: from there a later replay goes on.

        Raises
        ------
        ServiceAwayError
            There has been no member, or no Kafka, for too long.
        """
        now_s = self._clock()
        if now_s - self._checked_s < _MEMBER_CHECK_INTERVAL_S:
            return
        self._checked_s = now_s
        try:
            is_there, who = self._watch.has_members(), "no live member"
        except BrokerUnavailableError:
            is_there, who = False, "no answer from Kafka about it"
        if is_there:
            self._seen_s = now_s
        elif now_s - self._seen_s >= self._limit_s:
            raise ServiceAwayError(
                f"the consumer group {self._watch.group_id} has not committed everything, and for "
                f"{self._limit_s:.0f} s there was {who}: start `fraudstream run`, then give the "
                f"same command with --from {format_time(next_ms)}"
            )


def _no_answer(exception: KafkaException | TimeoutError) -> BrokerUnavailableError:
    why = error_of(exception).name() if isinstance(exception, KafkaException) else "time-out"
    return BrokerUnavailableError(f"Kafka did not tell of the consumer group: {why}")
