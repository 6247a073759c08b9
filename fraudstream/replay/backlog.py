"""What a consumer group has not committed yet of what a replay sent.

    sent ─▶ delivered (Kafka gave it an offset) ─▶ committed (the group is done with it)

At full speed, partitions and labels drift days of event time apart, and a worker that reads the
one before the other decides with another past than it had. So a replay stays within a bound of
what the group has committed, and around a label it waits for everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from fraudstream.adapters.kafka import KafkaAccess, client_config, error_of, kafka_logger
from fraudstream.errors import BrokerUnavailableError, ServiceAwayError

Partition = tuple[str, int]

_REQUEST_TIMEOUT_S = 3.0
_MEMBER_CHECK_INTERVAL_S = 1.0


class Backlog:
    """The books: what was sent, and where in the log it ended up.

    Examples
    --------
    >>> backlog = Backlog()
    >>> for offset in (10, 11, 12):
    ...     backlog.note_sent()
    >>> backlog.note_delivered("transactions", 0, 10)
    >>> backlog.note_delivered("transactions", 0, 11)
    >>> backlog.note_committed({("transactions", 0): 11})
    >>> backlog.records  # one is committed, one is not, and of one Kafka said nothing yet
    2
    """

    def __init__(self) -> None:
        self._sent = 0
        self._delivered: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self.delivered = 0
        #: At most so many are not committed: what the group said last, and what was sent since.
        self.records = 0

    @property
    def partitions(self) -> list[Partition]:
        """Where anything was delivered."""
        return list(self._ends)

    @property
    def undelivered(self) -> int:
        """Records that Kafka has not taken yet."""
        return self._sent - self.delivered

    def note_sent(self) -> None:
        """Count a record that was handed to the producer."""
        self._sent += 1
        self.records += 1

    def note_delivered(self, topic: str, partition: int, offset: int) -> None:
        """Write down where a record ended up."""
        place = (topic, partition)
        self.delivered += 1
        self._delivered[place] = self._delivered.get(place, 0) + 1
        self._ends[place] = max(offset + 1, self._ends.get(place, 0))

    def note_committed(self, committed: Mapping[Partition, int]) -> None:
        """Write down the group's offsets.

        Parameters
        ----------
        committed
            By partition the offset behind the last record that is done with. What is missing was
            never committed.
        """
        # Others may write to the topics too: of what lies between, at most so many are ours.
        self.records = self.undelivered + sum(
            min(self._delivered[place], max(0, end - committed.get(place, 0)))
            for place, end in self._ends.items()
        )


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
        self._client = AdminClient(
            client_config(access, "fraudstream-replay") | {"logger": kafka_logger()}
        )

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Give the offsets that the group committed; a partition without one is left out.

        Raises
        ------
        BrokerUnavailableError
            No answer in time.
        """
        if not partitions:
            return {}
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        request = [ConsumerGroupTopicPartitions(self.group_id, asked)]
        try:
            futures = self._client.list_consumer_group_offsets(
                request, request_timeout=_REQUEST_TIMEOUT_S
            )
            found = futures[self.group_id].result(2 * _REQUEST_TIMEOUT_S).topic_partitions
        except (KafkaException, TimeoutError) as exception:
            raise _no_answer(exception) from exception
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def has_members(self) -> bool:
        """Tell whether anybody is in the group; a killed member counts until its time-out.

        Raises
        ------
        BrokerUnavailableError
            No answer in time.
        """
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

    def check(self) -> None:
        """Look, once a second, whether there is still something to wait for.

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
                f"{self._limit_s:.0f} s there was {who}: start `fraudstream run`, then replay "
                "the rest with --from"
            )


def _no_answer(exception: KafkaException | TimeoutError) -> BrokerUnavailableError:
    why = error_of(exception).name() if isinstance(exception, KafkaException) else "time-out"
    return BrokerUnavailableError(f"Kafka did not tell of the consumer group: {why}")
