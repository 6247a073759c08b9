"""The producer of a replay: what it hands to Kafka, and what Kafka says of it."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraudstream.adapters.kafka import KafkaAccess, error_of, kafka_logger, producer_config
from fraudstream.errors import ServiceAwayError, SettingsError, UsageError
from fraudstream.pipeline import InputTopics
from fraudstream.replay.backlog import Backlog
from fraudstream.replay.stream import ReplayEvent

RUN_HEADER = "fs_replay_run"

_METADATA_TIMEOUT_S = 10.0
#: How long Kafka may be away before a record counts as lost, and the replay ends.
_DELIVERY_TIMEOUT_MS = 30_000
#: A topic that was created a moment ago is not known to every broker yet.
_NEW_TOPIC_TIMEOUT_S = 2.0
_WAIT_S = 0.05


class Sender:
    """Publishes events, and keeps the books of them.

    Parameters
    ----------
    access
        Where.
    topics
        The topics of transactions and labels.
    run_id
        Goes into every record, as the header ``fs_replay_run``.
    backlog
        The books that it keeps: what was sent, and what became of it.
    linger_ms
        How long a record may wait for others to be sent with it. `deliver` does not wait for that.
    """

    def __init__(
        self,
        access: KafkaAccess,
        topics: InputTopics,
        run_id: str,
        backlog: Backlog,
        *,
        linger_ms: float = 0.0,
    ) -> None:
        self.backlog = backlog
        self._topics = topics
        self._headers: list[tuple[str, str | bytes | None]] = [(RUN_HEADER, run_id.encode())]
        self._failure: KafkaError | None = None
        config: dict[str, Any] = producer_config(access)
        config |= {
            "message.timeout.ms": _DELIVERY_TIMEOUT_MS,
            "linger.ms": linger_ms,
            "logger": kafka_logger(),
        }
        # A report of its own for each record takes a quarter of the highest rate.
        self._producer = Producer(config | {"on_delivery": partial(self._on_delivery, 0)})

    def require_topics(self) -> None:
        """Refuse to begin where there is nothing to publish to.

        Raises
        ------
        ServiceAwayError
            Kafka does not answer.
        SettingsError
            A topic does not exist.
        """
        deadline_s = time.monotonic() + _NEW_TOPIC_TIMEOUT_S
        while missing := self._missing_topics():
            if time.monotonic() > deadline_s:
                raise SettingsError(
                    f"the topic {missing[0]} does not exist: `fraudstream topics create` makes it"
                )
            time.sleep(_WAIT_S)

    def send(self, event: ReplayEvent, stop: threading.Event) -> bool:
        """Hand an event to Kafka; while the queue is full, wait.

        Returns
        -------
        is_sent
            False if it was stopped before there was room.

        Raises
        ------
        ServiceAwayError, UsageError
            Kafka did not take an earlier record, or refuses this one.
        """
        topic = self._topics.labels if event.is_label else self._topics.transactions
        report = partial(self._on_delivery, event.time_ms) if self.backlog.is_watched else None
        while True:
            self._raise_failure()
            try:
                self._producer.produce(
                    topic, event.value, event.key, headers=self._headers, on_delivery=report
                )
            except BufferError:
                self._producer.poll(_WAIT_S)
                if stop.is_set():
                    return False
            except KafkaException as exception:
                raise _refusal(error_of(exception)) from exception
            else:
                self.backlog.note_sent(event.time_ms)
                return True

    def take_reports(self) -> None:
        """Hear what Kafka said since the last time; does not wait."""
        self._producer.poll(0)

    def deliver(self, timeout_s: float) -> None:
        """Wait until Kafka has taken everything, at most for a while.

        Raises
        ------
        ServiceAwayError, UsageError
            It did not take a record, or refuses it.
        """
        if self.backlog.undelivered:
            self._producer.flush(timeout_s)
        self._raise_failure()

    def close(self) -> None:
        """Forget what is not delivered, or the client would go on trying when it is let go of."""
        self._producer.purge(blocking=False)

    def _missing_topics(self) -> list[str]:
        try:
            found = self._producer.list_topics(timeout=_METADATA_TIMEOUT_S).topics
        except KafkaException as exception:
            raise _refusal(error_of(exception)) from exception
        return [t for t in (self._topics.transactions, self._topics.labels) if t not in found]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise _refusal(self._failure)

    def _on_delivery(self, time_ms: int, error: KafkaError | None, message: Message) -> None:
        # Runs inside poll() and flush(). It only writes down what happened.
        if error is not None:
            self._failure = error
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is not None and partition is not None and offset is not None:
            self.backlog.note_delivered(topic, partition, offset, time_ms)


def _refusal(error: KafkaError) -> UsageError | ServiceAwayError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return UsageError("a row is larger than Kafka takes; nothing after it was sent")
    return ServiceAwayError(
        f"Kafka cannot be reached or refuses ({error.name()}): check kafka.bootstrap_servers, or "
        "start a local one with `fraudstream local up`"
    )
