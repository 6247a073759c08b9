"""Hands outputs to a producer, and keeps account of what Kafka did not take."""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraudstream.adapters.kafka import error_of
from fraudstream.alert import Headers, OutputRecord
from fraudstream.errors import BrokerUnavailableError, OutputRefusedError

#: How long the producer's queue may stay full.
_QUEUE_TIMEOUT_S = 8.0
#: Not failures: an abort takes back what was not sent yet.
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
#: Asking again cannot help: it is the record that is at fault.
_REFUSED = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD}
)


class Deliveries:
    """The outputs of one attempt on their way, and the delivery reports that came back.

    Each attempt has its own: reports of an earlier one may still come.
    """

    def __init__(self) -> None:
        self._failed: list[KafkaError] = []

    def enqueue(self, producer: Producer, output: OutputRecord, attempt: Headers) -> None:
        """Give an output to the producer; wait for a while where its queue is full.

        Raises
        ------
        OutputRefusedError
            The client library already knows that it is too large.
        BrokerUnavailableError
            The queue stays full.
        KafkaException
            Anything else that the library refuses.
        """
        deadline_s = time.monotonic() + _QUEUE_TIMEOUT_S
        while True:
            try:
                producer.produce(
                    output.topic,
                    output.value,
                    output.key,
                    headers=output.headers + attempt,
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                if time.monotonic() > deadline_s:
                    raise BrokerUnavailableError("the producer's queue stays full") from None
                producer.poll(0.05)
            except KafkaException as exception:
                if error_of(exception).code() in _REFUSED:
                    raise OutputRefusedError from exception
                raise
            else:
                return

    def raise_refused(self) -> None:
        """Raise `OutputRefusedError` if a report says that Kafka will never take an output."""
        if any(error.code() in _REFUSED for error in self._failed):
            raise OutputRefusedError

    def raise_failed(self) -> None:
        """Raise if any output was not delivered.

        Raises
        ------
        OutputRefusedError
            Kafka will never take it.
        BrokerUnavailableError
            Kafka did not take it this time.
        """
        self.raise_refused()
        if self._failed:
            raise BrokerUnavailableError(f"not delivered: {self._failed[0].name()}")

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() not in _PURGED:
            self._failed.append(error)


def attempt_headers(attempt: str, records: int) -> Headers:
    """Name an attempt, and say how many records it has, on each of them.

    A reader can tell from them whether an attempt is there as a whole.
    """
    return [("fs_attempt", attempt.encode()), ("fs_attempt_records", b"%d" % records)]
