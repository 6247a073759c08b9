"""The plain producer: outputs first, input offsets afterwards; a crash in between repeats outputs.

    enqueue all ─▶ wait until Kafka has them ─▶ commit our offsets
      any failure: the batch is read again and published again, with the same ids

Cheaper and sooner readable than a transaction, for readers who drop what they have seen:
``decision_id`` and ``alert_id`` derive from the payment, so a repeated output names itself. Nothing
is lost, and profiles still count every payment once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import KafkaException, Producer, TopicPartition

from fraudstream.adapters.kafka import (
    GroupMembership,
    KafkaAccess,
    error_of,
    kafka_logger,
    producer_config,
)
from fraudstream.adapters.kafka_bounded import close_aside
from fraudstream.adapters.kafka_deliveries import Deliveries, attempt_headers
from fraudstream.alert import OutputRecord
from fraudstream.errors import BrokerUnavailableError

_log = structlog.get_logger("publisher")

#: How long Kafka may take for one batch, tries and all; the batch is read again after it.
_DELIVERY_TIMEOUT_S = 8.0


class AtLeastOncePublisher:
    """Publishes batches without transactions.

    Parameters
    ----------
    access, membership
        Where, and as whom.
    commit
        Commits input offsets for the group (`KafkaSource.commit`).
    on_rebuild
        Called whenever a producer is made anew.
    """

    def __init__(
        self,
        access: KafkaAccess,
        membership: GroupMembership,
        commit: Callable[[Sequence[TopicPartition]], None],
        on_rebuild: Callable[[], None] = lambda: None,
    ) -> None:
        self._access = access
        self._membership = membership
        self._commit = commit
        self._on_rebuild = on_rebuild
        self._producer: Producer | None = None
        self._deliveries = Deliveries()
        self._run = secrets.token_hex(4)
        self._batches = 0

    def prepare(self) -> None:
        """Make the producer, if there is none."""
        if self._producer is None:
            self._producer = Producer(
                producer_config(self._access)
                | {
                    "delivery.report.only.error": True,
                    "message.timeout.ms": int(1000 * _DELIVERY_TIMEOUT_S),
                    "logger": kafka_logger(),
                }
            )

    def publish(
        self, outputs: Sequence[OutputRecord], offsets: Sequence[TopicPartition], group: object
    ) -> None:
        """Publish outputs, then commit the offsets they stand for.

        Raises
        ------
        BrokerUnavailableError
            Kafka took not all of it; some outputs may be readable.
        OutputRefusedError
            Kafka will never take one of the outputs; others may be readable.
        """
        del group  # the commit is the consumer's own
        self.prepare()
        self._deliveries = Deliveries()
        self._batches += 1
        try:
            self._deliver(outputs)
        except BrokerUnavailableError:
            self._discard()
            raise
        self._commit(offsets)

    def _deliver(self, outputs: Sequence[OutputRecord]) -> None:
        producer = self._producer
        assert producer is not None
        worker = f"{self._membership.instance_id}/{self._run}/{self._batches}"
        attempt = attempt_headers(worker, len(outputs))
        try:
            for output in outputs:
                self._deliveries.enqueue(producer, output, attempt)
        except KafkaException as exception:
            raise BrokerUnavailableError(
                f"the producer takes nothing: {error_of(exception).name()}"
            ) from exception
        if producer.flush(_DELIVERY_TIMEOUT_S):
            raise BrokerUnavailableError("Kafka did not take the outputs in time")
        self._deliveries.raise_failed()

    def _discard(self) -> None:
        """Give the producer up: what it still holds would come out of order."""
        if self._producer is not None:
            close_aside(self._producer)
            _log.warning("producer_discarded")
            self._on_rebuild()
        self._producer = None
