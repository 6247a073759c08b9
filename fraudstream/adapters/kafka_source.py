"""The consumer of the input topics, and the books of what this worker has read.

Offsets are ours: for each assigned partition the next one to process, taken from the group's
committed offsets at the start and moved only when a batch was committed. ``consumer.position()``
is never asked: errors and ends of partitions have been seen to move it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from fraudstream.adapters.kafka import (
    Fences,
    GroupMembership,
    KafkaAccess,
    Throttle,
    consumer_config,
    error_of,
    kafka_logger,
    to_record,
)
from fraudstream.adapters.kafka_bounded import BoundedCaller, close_aside
from fraudstream.adapters.kafka_inquirer import KafkaInquirer, PartitionStart
from fraudstream.adapters.kafka_statistics import SourceHealth, read_statistics
from fraudstream.errors import BrokerUnavailableError, SlotTakenError
from fraudstream.event import Record
from fraudstream.pipeline import InputBatch, InputTopics
from fraudstream.profile import InputPartition, Stretch

_log = structlog.get_logger("source")

_REQUEST_TIMEOUT_S = 3.0
_STATISTICS_INTERVAL_MS = 1_000
#: For so long after an outage a member may be fenced by what it asked for before.
_OUTAGE_S = 30.0
#: How long the loop may be away before the group gives its partitions to others. Every blocking
#: call in the loop is bounded well below it.
_MAX_POLL_INTERVAL_MS = 120_000


class KafkaSource:
    """Reads micro-batches from the input topics as a static member of the group.

    Parameters
    ----------
    access, membership
        Where, and as whom.
    topics
        The input topics.
    """

    def __init__(
        self, access: KafkaAccess, membership: GroupMembership, topics: InputTopics
    ) -> None:
        self._topics = topics
        self._membership = membership
        self._positions: dict[InputPartition, int] = {}
        self._assigned: list[InputPartition] | None = None
        self._revoked: set[InputPartition] = set()
        self._fatal: KafkaError | None = None
        self._is_subscribed = False
        self.health = SourceHealth()
        self._access = access
        self._fenced = Fences()
        self._errors = Throttle()
        self._bounded = BoundedCaller()
        #: Counts the consumers made: what an earlier one still reports is let go.
        self._generation = self._taken_generation = 0
        self._consumer = self._make_consumer()
        self._inquirer = KafkaInquirer(access, membership.group_id, topics)

    @property
    def positions(self) -> Mapping[InputPartition, int]:
        """By partition that was taken over: the next offset to process."""
        return self._positions

    def partition_of(self, record: Record) -> InputPartition:
        """Give the number under which a record's partition is known."""
        return self._topics.partition(record.topic, record.partition)

    def poll(self, records_max: int, timeout_s: float) -> InputBatch:
        """Wait for a record, then take what else is there, at once.

        Raises
        ------
        SlotTakenError
            Another live worker is this member of the group.
        """
        if not self._is_subscribed:
            self._subscribe()
        self._inquirer.serve()
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first]
        if first is not None and records_max > 1:
            messages += self._consumer.consume(records_max - 1, timeout=0)
        if self._fatal is not None:
            self._replace_consumer(self._fatal)
        return self._batch(messages)

    def serve(self) -> None:
        """Take in what the client reports while nothing can be published, or it would pile up.

        A record that comes with it is read again.
        """
        self._inquirer.serve()
        message = self._consumer.poll(0) if self._is_subscribed else None
        if message is None:
            return
        error = message.error()
        if error is None:
            self.rewind()
        else:
            # A fatal one comes once, in this form too: let go, the consumer would stay dead.
            self._on_error(self._generation, error)

    def _make_consumer(self) -> Consumer:
        membership = self._membership
        generation = self._generation
        return Consumer(
            consumer_config(self._access, membership.group_id)
            | {
                "group.instance.id": membership.instance_id,
                "session.timeout.ms": membership.session_timeout_ms,
                "heartbeat.interval.ms": min(3_000, membership.session_timeout_ms // 3),
                "max.poll.interval.ms": _MAX_POLL_INTERVAL_MS,
                # The state is in Valkey: stopping everybody for a moment loses nothing, and was
                # measured to abort no transaction and to stall for the shortest time.
                "partition.assignment.strategy": "range",
                "statistics.interval.ms": _STATISTICS_INTERVAL_MS,
                "stats_cb": partial(self._on_statistics, generation),
                "error_cb": partial(self._on_error, generation),
                "logger": kafka_logger(),
            }
        )

    def _replace_consumer(self, error: KafkaError) -> None:
        """Join the group anew after a fatal error.

        A broker that was away fences a static member by the member's own lost request; only when it
        happens again and again, and Kafka was there, is it another worker of the same name.
        """
        _log.warning("consumer_replaced", code=error.name(), text=error.str())
        was_away = time.monotonic() - self.health.away_at_s < _OUTAGE_S
        if not was_away and self._fenced.are_too_many():
            raise self._slot_taken(error)
        self._renew_consumer()

    def _renew_consumer(self) -> None:
        left = self._consumer
        self._generation += 1
        self._revoked |= set(self._positions)
        self._positions, self._assigned, self._fatal = {}, None, None
        self._consumer, self._is_subscribed = self._make_consumer(), False
        close_aside(left)

    def _subscribe(self) -> None:
        """Join the group, not before somebody polls: its answers are served inside poll()."""
        self._consumer.subscribe(
            [self._topics.transactions, self._topics.labels],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        self._is_subscribed = True

    def take_assignment(self) -> tuple[list[InputPartition] | None, set[InputPartition]]:
        """Give what the group assigned since the last call (None: nothing new), and took away."""
        assigned, self._assigned = self._assigned, None
        self._taken_generation = self._generation
        revoked, self._revoked = self._revoked, set()
        return assigned, revoked

    def postpone(self, assigned: Sequence[InputPartition]) -> None:
        """Put an assignment back that could not be taken over yet, unless it is out of date."""
        if self._assigned is None and self._taken_generation == self._generation:
            self._assigned = list(assigned)

    def inspect(self, partitions: Iterable[InputPartition]) -> dict[InputPartition, PartitionStart]:
        """Ask for the committed offsets and the ends of the log (see `KafkaInquirer`)."""
        return self._inquirer.inspect(partitions)

    def all_partitions(self) -> list[InputPartition]:
        """List every partition of the input topics (see `KafkaInquirer`)."""
        return self._inquirer.all_partitions()

    def start_from(self, positions: Mapping[InputPartition, int]) -> None:
        """Begin to read the assigned partitions, each at its offset."""
        self._positions = dict(positions)
        self.health.ends.clear()  # they speak of what was read before
        self._consumer.assign([self._topic_partition(p, o) for p, o in positions.items()])

    def commit_start(self, positions: Mapping[InputPartition, int]) -> None:
        """Commit where the group begins to read partitions that it never read.

        From then on a partition without a committed offset means that the offsets were lost.

        Raises
        ------
        BrokerUnavailableError
            The group did not take them.
        """
        self.commit([self._topic_partition(p, o) for p, o in positions.items()])

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit offsets outside of any transaction.

        Raises
        ------
        BrokerUnavailableError
            The group did not take them, or not in time.
        """
        committed: list[TopicPartition] = []
        consumer = self._consumer

        def commit() -> None:
            committed.extend(consumer.commit(offsets=list(offsets), asynchronous=False) or ())

        try:
            self._bounded(commit, _REQUEST_TIMEOUT_S)
        except TimeoutError:
            self._bounded.close()
            self._bounded = BoundedCaller()
            self._renew_consumer()  # whatever it was asked next would wait for that commit
            raise BrokerUnavailableError("a commit of offsets does not return") from None
        except KafkaException as exception:
            raise BrokerUnavailableError(
                f"a commit of offsets failed: {error_of(exception).name()}"
            ) from exception
        for found in committed:
            if found.error is not None:
                raise BrokerUnavailableError(f"a commit of offsets failed: {found.error.name()}")

    def advance(self, stretches: Mapping[InputPartition, Stretch]) -> None:
        """Move on after a commit."""
        for partition, stretch in stretches.items():
            if partition in self._positions:
                self._positions[partition] = stretch.end

    def rewind(self) -> None:
        """Read again from our own positions: an abort does not move the consumer back."""
        if self._positions and self._assigned is None:
            self.start_from(self._positions)

    def offsets(self, stretches: Mapping[InputPartition, Stretch]) -> list[TopicPartition]:
        """Give the offsets that committing a batch stands for: last + 1 of each partition."""
        return [self._topic_partition(p, stretch.end) for p, stretch in stretches.items()]

    def group_metadata(self) -> object:
        """Give the membership that a transaction must be of; fetched fresh for each."""
        return self._consumer.consumer_group_metadata()

    def lag_records(self) -> dict[InputPartition, int]:
        """Count what is readable and not yet processed, for each partition.

        To be asked between two batches: what the client handed over has been processed then.
        """
        lag = {}
        for partition, position in self._positions.items():
            end = self.health.ends.get((self._topics.topic(partition), partition.partition))
            if end is not None:
                lag[partition] = max(end.stable - max(position, end.passed), 0)
        return lag

    def _batch(self, messages: Sequence[Message]) -> InputBatch:
        records: list[Record] = []
        stretches: dict[InputPartition, Stretch] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(self._generation, error)
                continue
            record = to_record(message)
            partition = self.partition_of(record)
            position = self._positions.get(partition)
            # Left over from before a rebalance or a rewind: not ours, or processed already.
            if position is None or record.offset < position:
                continue
            records.append(record)
            stretches[partition] = Stretch(position, record.offset + 1)
        return InputBatch(records, stretches)

    def _topic_partition(self, partition: InputPartition, offset: int) -> TopicPartition:
        return TopicPartition(self._topics.topic(partition), partition.partition, offset)

    # Callbacks run inside poll(). They only write down what happened: an exception would be lost.
    # What a consumer says that was given up is let go.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        # Nothing is fetched until the loop knows where each partition starts.
        consumer.assign([])
        self._positions = {}
        self._assigned = [self._topics.partition(p.topic, p.partition) for p in partitions]

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        consumer.unassign()
        self._revoked |= {self._topics.partition(p.topic, p.partition) for p in partitions}
        self._positions = {}
        self._assigned = None

    def _on_error(self, generation: int, error: KafkaError) -> None:
        if generation != self._generation:
            return
        if self._errors.may_log(error.name()):
            _log.warning("kafka_error", code=error.name(), text=error.str())
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.health.note_absence()
        # An error that comes as a record is not marked as fatal, though its code says so.
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal = error

    def _on_statistics(self, generation: int, text: str) -> None:
        if generation != self._generation:
            return
        statistics = read_statistics(text)
        self.health.is_connected = statistics.is_connected
        self.health.ends.update(statistics.ends)

    def _slot_taken(self, error: KafkaError) -> SlotTakenError:
        return SlotTakenError(
            f"another live worker is {self._membership.instance_id} ({error.name()}): give each "
            "worker a slot of its own"
        )
