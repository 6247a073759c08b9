"""Bounds a call of the client library that does not bound itself.

``send_offsets_to_transaction`` ignores its time-out when the group's coordinator goes away at the
wrong moment (librdkafka issues 5456 and 5511, both open) and then never returns. A synchronous
``commit`` has no time-out at all.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from queue import Empty, SimpleQueue

import structlog
from confluent_kafka import Consumer, KafkaException, Producer

_log = structlog.get_logger("kafka")


class BoundedCaller:
    """Makes calls in a thread of its own, and stops waiting for one that does not return.

    After a `TimeoutError` make another caller, and keep whatever the call holds until `is_idle`.
    The thread does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._is_idle = True
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
        self._is_idle = False
        self._calls.put(call)
        try:
            outcome = self._outcomes.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None
        if outcome is not None:
            raise outcome

    @property
    def is_idle(self) -> bool:
        """Whether the last call has returned, in time or not."""
        return self._is_idle

    def close(self) -> None:
        """End the thread, as soon as the call it makes returns."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            outcome = _outcome(call)
            del call  # or what it holds would stay until the next one
            self._is_idle = True
            self._outcomes.put(outcome)


def _outcome(call: Callable[[], object]) -> KafkaException | None:
    try:
        call()
    except KafkaException as exception:
        return exception
    return None


def close_aside(client: Producer | Consumer) -> None:
    """Close a client that is of no use any more, in a thread of its own.

    Closing may take its time, or never return (``docs/adr/0014``); nobody waits for it. What a
    producer still holds is purged first: it would come too late.
    """
    if isinstance(client, Producer):
        # The binding has this flag the wrong way round: False would wait for every broker's thread.
        client.purge(in_queue=True, in_flight=True, blocking=True)
    threading.Thread(target=_close, args=(client,), name="kafka-close", daemon=True).start()


def _close(client: Producer | Consumer) -> None:
    # It was given up because its transaction could not be ended; that it still cannot is no news.
    warnings.filterwarnings("ignore", "Producer abort_transaction failed", RuntimeWarning)
    try:
        client.close()
    except (KafkaException, RuntimeError) as error:
        _log.info("close_failed", error=str(error))
