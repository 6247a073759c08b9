"""Open loop: payments sent by a fixed schedule, and when the outputs of each could be read.

    sender ───▶ input topic ───▶ whoever is measured ───▶ output topics ───▶ reader
    (a process)                                               (a process, read_committed)

Nothing waits for anything: latency counts from when a payment was *due*, so a stall is charged to
all that were due meanwhile. A sender that comes late is part of the latency too, so its lag is
noted. Both processes go by ``time.monotonic()``, one clock for the whole machine.

The reader waits for a single record and then takes what else is there at once. One that asked for a
batch with a time-out would measure its own waiting.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import re
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from numpy.typing import NDArray

from benchmarks.job.stream import StreamPlan, payments
from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    kafka_logger,
    producer_config,
)

PARTITIONS = 6
#: A sender that is later than this has to be named: latencies are partly its own.
SEND_LAG_MAX_MS = 5.0
#: Where for so long nothing more can be read, what is still missing never will be.
_SILENCE_MAX_S = 60.0
#: What is asked of the client at a time. It hands over what it has, and does not wait.
_READ_RECORDS_MAX = 1_000
#: Faster than parsing outputs, and whatever their fields and spaces are, the number is found.
_NUMBER = re.compile(rb'"transaction_id"\s*:\s*"(\d+)"')

_Watch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is sent, and when.

    Parameters
    ----------
    rate_per_s
        Payments a second, evenly spaced.
    seconds
        For how long.
    history
        How many payments of the same stream are sent before, as fast as they can be: they fill
        the windows.
    seed
        Of the stream.
    """

    rate_per_s: float
    seconds: float
    history: int = 0
    seed: int = 1

    @property
    def events(self) -> int:
        """How many payments are due by the schedule."""
        return round(self.rate_per_s * self.seconds)

    @property
    def total(self) -> int:
        """How many payments there are, with the history."""
        return self.history + self.events


@dataclass(frozen=True, slots=True)
class Channel:
    """Where payments go in and outputs come out.

    Parameters
    ----------
    bootstrap_servers
        Kafka.
    input
        The topic of the payments.
    outputs
        The first has one output of every payment; others, where there are any, of some.
    """

    bootstrap_servers: str
    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen; index i is the i-th payment of the schedule. All times are seconds.

    Parameters
    ----------
    due_s
        When each payment was due.
    read_at_s
        By output topic: when each payment's first output could be read; NaN: there is none.
    send_lag_s
        How late each one was sent.
    copies
        How many outputs of the first topic came again.
    """

    due_s: NDArray[np.float64]
    read_at_s: dict[str, NDArray[np.float64]]
    send_lag_s: NDArray[np.float64]
    copies: int

    def latencies_s(self, topic: str, first: int = 0) -> NDArray[np.float64]:
        """Give the latency of each payment from a number on, where it has such an output."""
        latencies = self.read_at_s[topic][first:] - self.due_s[first:]
        known: NDArray[np.float64] = latencies[~np.isnan(latencies)]
        return known

    @property
    def send_lag_ms_p99(self) -> float:
        """How late the sender was itself."""
        return 1e3 * float(np.percentile(self.send_lag_s, 99)) if len(self.send_lag_s) else 0.0

    @property
    def drained_s(self) -> float:
        """How long after the last payment was due the last output could be read.

        Near the latency while whoever is measured keeps up; far above it where it does not.
        """
        if not len(self.due_s):
            return 0.0
        first_topic = next(iter(self.read_at_s.values()))
        return float(np.nanmax(first_topic) - self.due_s[-1])


class OpenLoop:
    """One pass of a schedule.

    Parameters
    ----------
    channel, schedule
        See their classes.
    sender, reader
        The ends of the two processes' pipes.
    watch
        Called while something is waited for; raises where waiting has become useless.
    """

    def __init__(
        self,
        channel: Channel,
        schedule: Schedule,
        sender: Connection,
        reader: Connection,
        watch: _Watch,
    ) -> None:
        self._channel = channel
        self._schedule = schedule
        self._sender = sender
        self._reader = reader
        self._watch = watch
        self._start_s = 0.0

    def send_history(self) -> None:
        """Send the history, and wait until all of its outputs were read."""
        self._sender.send("history")
        self._wait(self._sender)
        if self._schedule.history:
            self._wait(self._reader)

    def start(self, at_s: float) -> None:
        """Let the schedule begin at a time of the monotonic clock."""
        self._start_s = at_s
        self._sender.send(at_s)

    def wait_until(self, at_s: float) -> None:
        """Do nothing until a time of the monotonic clock."""
        while (left_s := at_s - time.monotonic()) > 0:
            self._watch()
            time.sleep(min(left_s, 0.2))

    def finish(self) -> Observed:
        """Wait until everything was sent and read.

        Raises
        ------
        SystemExit
            Some outputs never came.
        """
        lags = np.asarray(self._wait(self._sender))
        answer = self._wait(self._reader)
        assert isinstance(answer, tuple)
        times, copies = answer
        schedule = self._schedule
        missing = sum(math.isnan(at_s) for at_s in times[self._channel.outputs[0]])
        if missing:
            sys.exit(f"{missing} of {schedule.total} payments have no output that can be read")
        due_s = self._start_s + np.arange(schedule.events) / schedule.rate_per_s
        read_at_s = {name: np.asarray(found)[schedule.history :] for name, found in times.items()}
        return Observed(due_s, read_at_s, lags, copies)

    def _wait(self, connection: Connection) -> object:
        return _answer(connection, self._watch)


@contextmanager
def open_loop(channel: Channel, schedule: Schedule, watch: _Watch) -> Iterator[OpenLoop]:
    """Have a sender and a reader ready; they end with the block.

    Parameters
    ----------
    channel, schedule
        See their classes.
    watch
        Called while something is waited for; raises where waiting has become useless.
    """
    with (
        _child(_read, channel, schedule) as reader,
        _child(_send, channel, schedule) as sender,
    ):
        for connection in (reader, sender):
            _answer(connection, watch)
        yield OpenLoop(channel, schedule, sender, reader, watch)


@contextmanager
def _child(
    target: Callable[[Channel, Schedule, Connection], None], channel: Channel, schedule: Schedule
) -> Iterator[Connection]:
    """Run a function in a process of its own: not a fork, which would share client threads."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(channel, schedule, theirs), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()


def _answer(connection: Connection, watch: _Watch) -> object:
    while not connection.poll(0.2):
        watch()
    try:
        return connection.recv()
    except EOFError:
        sys.exit("the sender or the reader ended early; it said why above")


# ---------------------------------------------------------------------------- sender


def _send(channel: Channel, schedule: Schedule, orders: Connection) -> None:
    """Send the history when told to, then the rest, each payment when it is due."""
    records = list(payments(StreamPlan(schedule.total, seed=schedule.seed)))
    producer = Producer(
        producer_config(KafkaAccess(channel.bootstrap_servers))
        | {"logger": kafka_logger(), "queue.buffering.max.messages": 1_000_000}
    )
    producer.list_topics(channel.input, timeout=10)  # connected before anything is due
    # Collecting garbage among a million small objects would make the sender late.
    gc.freeze()
    gc.disable()
    orders.send("ready")
    orders.recv()
    _send_at_once(producer, channel.input, records[: schedule.history])
    orders.send("history is sent")
    start_s = orders.recv()
    lags_s = array("d")
    for number, (key, value) in enumerate(records[schedule.history :]):
        due_s = start_s + number / schedule.rate_per_s
        while (wait_s := due_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        lags_s.append(time.monotonic() - due_s)
        producer.produce(channel.input, value, key)
        producer.poll(0)
    producer.flush(_SILENCE_MAX_S)
    orders.send(lags_s)


def _send_at_once(producer: Producer, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    for number, (key, value) in enumerate(records):
        producer.produce(topic, value, key)
        if number % 1_000 == 0:
            producer.poll(0)
    producer.flush(_SILENCE_MAX_S)


# ---------------------------------------------------------------------------- reader


def _read(channel: Channel, schedule: Schedule, results: Connection) -> None:
    """Note when the first output of each payment could be read, in each topic."""
    consumer = Consumer(
        consumer_config(KafkaAccess(channel.bootstrap_servers), "benchmark-reader")
        | {"fetch.min.bytes": 1, "logger": kafka_logger()}
    )
    consumer.assign([TopicPartition(t, p, 0) for t in channel.outputs for p in range(PARTITIONS)])
    consumer.poll(0.5)
    gc.freeze()
    gc.disable()
    results.send("reading")
    times = {name: array("d", [math.nan]) * schedule.total for name in channel.outputs}
    main_topic = channel.outputs[0]
    seen = copies = 0
    is_history_told = schedule.history == 0
    heard_at_s = time.monotonic()
    while seen < schedule.total and time.monotonic() - heard_at_s < _SILENCE_MAX_S:
        for at_s, message in _take(consumer, 0.2):
            heard_at_s = at_s
            is_first = _note(times, at_s, message)
            if message.topic() == main_topic:
                seen += is_first
                copies += not is_first
        if not is_history_told and seen == schedule.history:
            is_history_told = True
            results.send("history is read")
    # The last alerts are readable with the last decisions, but in other partitions.
    while found := list(_take(consumer, 0.5)):
        for at_s, message in found:
            is_first = _note(times, at_s, message)
            copies += message.topic() == main_topic and not is_first
    results.send((times, copies))


def _take(consumer: Consumer, timeout_s: float) -> Iterator[tuple[float, Message]]:
    """Yield what can be read, and since when at the latest."""
    first = consumer.poll(timeout_s)
    if first is None:
        return
    at_s = time.monotonic()
    messages = [first, *consumer.consume(_READ_RECORDS_MAX, timeout=0)]
    rest_at_s = time.monotonic()
    for message in messages:
        if message.error() is None:
            yield (at_s if message is first else rest_at_s), message


def _note(times: dict[str, array[float]], at_s: float, message: Message) -> bool:
    """Write down when an output could be read; say whether it is its payment's first."""
    topic, value = message.topic(), message.value()
    assert topic is not None
    assert value is not None
    found = _NUMBER.search(value)
    assert found is not None
    number = int(found[1])
    if not math.isnan(times[topic][number]):
        return False
    times[topic][number] = at_s
    return True
