"""Reads the topics while the demo runs, as any subscriber would: ``read_committed``, on its own."""

from __future__ import annotations

import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from fraudstream.adapters.kafka import KafkaAccess, consumer_config, kafka_logger, to_record
from fraudstream.demo.live import Live
from fraudstream.demo.plan import INPUTS, OUTPUTS, PARTITIONS

_POLL_TIMEOUT_S = 0.05
_BATCH_RECORDS_MAX = 1_000
_STOP_TIMEOUT_S = 10.0
_TOPICS = (INPUTS.transactions, OUTPUTS.decisions, OUTPUTS.alerts, OUTPUTS.dead_letters)


class Observer:
    """A thread that reads, and writes down what it read and when.

    Parameters
    ----------
    access
        Where.
    live
        The books.
    """

    def __init__(self, access: KafkaAccess, live: Live) -> None:
        self._live = live
        self._stop = threading.Event()
        config = consumer_config(access, "fraudstream-demo-observer")
        self._consumer = Consumer(config | {"logger": kafka_logger()})
        self._thread = threading.Thread(target=self._read, name="observer", daemon=True)

    def start(self) -> None:
        """Begin to read, from the beginning."""
        self._consumer.assign(
            [TopicPartition(t, n, OFFSET_BEGINNING) for t in _TOPICS for n in range(PARTITIONS)]
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                self._take()
        finally:
            self._consumer.close()

    def _take(self) -> None:
        try:
            first = self._consumer.poll(_POLL_TIMEOUT_S)
            if first is None:
                return
            # Asked for many, consume() would wait its whole time-out for the last of them.
            messages = [first, *self._consumer.consume(_BATCH_RECORDS_MAX, timeout=0)]
        except KafkaException:
            return  # away for now: the count at the end needs no observer
        arrived_at_s = time.time()
        self._live.note([to_record(m) for m in messages if m.error() is None], arrived_at_s)
