"""Bounds a call of the client library that does not bound itself.

``send_offsets_to_transaction`` ignores its time-out when the group's coordinator goes away at the
wrong moment (librdkafka issues 5456 and 5511, both open) and then never returns. A synchronous
``commit`` has no time-out at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from confluent_kafka import KafkaException


class BoundedCaller:
    """Makes calls in a thread of its own, and stops waiting for one that does not return.

    After a `TimeoutError` the thread, and whatever the call holds, must be given up for good: make
    another caller. The thread does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[KafkaException | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="kafka-call", daemon=True).start()

    def __call__(self, call: Callable[[], object], timeout_s: float) -> None:
        """Make a call.

        Raises
        ------
        KafkaException
            What the call raised.
        TimeoutError
            It did not return in time.
        """
        self._calls.put(call)
        try:
            outcome = self._outcomes.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None
        if outcome is not None:
            raise outcome

    def close(self) -> None:
        """End the thread, as soon as the call it makes returns."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except KafkaException as exception:
                self._outcomes.put(exception)
            else:
                self._outcomes.put(None)
