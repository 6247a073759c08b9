"""A deployment of its own for a test: unused names, real workers as processes, and what came out.

Many tests share one Kafka and one Valkey. So every deployment has topics, a consumer group and a
namespace that nobody else uses; its workers are processes of their own, whose logs go to files.
Nothing here sleeps for a fixed time: everything waits for a condition, within a bound.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
import redis
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)
from feature_names import DEFAULT_DEFINITION
from services import Services

from fraudstream.local.ready import HOST, find_free_port, is_listening

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "models" / "default"
DAY_MS = 86_400_000
#: 2024-01-01, a Monday: the time of a test's first payment.
BEGIN_MS = 1_704_067_200_000
#: A machine that is busy with other things takes its time; a test that passes never waits as long.
PATIENCE_S = 90.0
_KINDS = ("transactions", "labels", "decisions", "alerts", "dead_letters")
_WINDOWS_D = (1, 7, 30)
_REQUEST_TIMEOUT_S = 15.0
_INTERVAL_S = 0.02

#: Errors of a broker that is starting.
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}

_AnswerT = TypeVar("_AnswerT")
Position = tuple[str, int, int]
Partition = tuple[str, int]
Headers = Sequence[tuple[str, str | bytes | None]]
#: Kind of topic, key, value, headers.
Outgoing = tuple[str, bytes | None, Mapping[str, object] | bytes | None, Headers]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Ask again and again until the answer is yes; fail when the time is up."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:.0f} s for: {what}"
        time.sleep(_INTERVAL_S)


class Row(NamedTuple):
    """A record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]

    @property
    def source(self) -> Position:
        """The place of the input record that it answers."""
        headers = self.headers
        return (
            headers["fs_source_topic"],
            int(headers["fs_source_partition"]),
            int(headers["fs_source_offset"]),
        )

    @property
    def place(self) -> Position:
        """Its own place."""
        return (self.topic, self.partition, self.offset)

    def json(self) -> dict[str, Any]:
        """Decode its value."""
        assert self.value is not None
        decoded: dict[str, Any] = orjson.loads(self.value)
        return decoded


def payment(number: int, **fields: object) -> dict[str, object]:
    """Make a valid transaction: one of ten cards, a minute after the one before."""
    return {
        "transaction_id": f"p{number}",
        "event_time": BEGIN_MS + number * 60_000,
        "card_id": f"c{number % 10}",
        "terminal_id": f"t{number % 7}",
        "amount_minor": 1_000 + 37 * number,
        "currency": "EUR",
    } | fields


class WorkerProcess:
    """A started ``fraudstream run``.

    Parameters
    ----------
    arguments
        After ``run``.
    environ
        Its environment.
    log_path
        Where stdout and stderr go.
    port
        Where it serves metrics and health.
    """

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], log_path: Path, port: int
    ) -> None:
        self.log_path = log_path
        self.port = port
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fraudstream", "run", *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; give the exit code."""
        return self._process.wait(timeout_s)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; give the exit code."""
        self._process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def clean_up(self) -> None:
        """End it and its children, if any of them is left."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def text(self) -> str:
        """Give everything that it wrote."""
        return self.log_path.read_text("utf-8")

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Give its log lines, or those of one kind. A line that is not JSON fails."""
        complete = self.text().rpartition("\n")[0]
        lines = [json.loads(line) for line in complete.splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def has_logged(self, event: str) -> bool:
        """Say whether a line of this kind was written."""
        return bool(self.log(event))

    def get(self, path: str, slot: int = 0) -> tuple[int, str]:
        """Ask its HTTP server; status 0 while there is none."""
        try:
            url = f"http://{HOST}:{self.port + slot}{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self, slots: Iterable[int] = (0,)) -> bool:
        """Say whether it, or each of its slots, is deciding; fail if it ended."""
        code = self.exit_code
        assert code is None, f"the worker ended with {code}"
        return all(self.get("/readyz", slot)[0] == 200 for slot in slots)

    def await_ready(self, slots: Sequence[int] = (0,)) -> WorkerProcess:
        """Wait until it is deciding."""
        try:
            wait_for(lambda: self.is_ready(slots), "the worker to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-5_000:]}") from error
        return self

    def metric(self, name: str, labels: str = "", slot: int = 0) -> float:
        """Read one sample, e.g. ``metric("fraudstream_flags_total", 'flag="degraded"')``."""
        wanted = f"{name}{{{labels}}} " if labels else f"{name} "
        for line in self.get("/metrics", slot)[1].splitlines():
            if line.startswith(wanted):
                return float(line.rpartition(" ")[2])
        return 0.0


class Deployment:
    """Topics, group and namespace of one test, with the workers that it starts.

    Parameters
    ----------
    services
        Kafka and Valkey.
    folder
        For the workers' logs.
    partitions
        Of each topic.
    settings
        Environment variables without our prefix, e.g. ``VALKEY__ON_DEADLINE``.
    """

    def __init__(
        self,
        services: Services,
        folder: Path,
        partitions: int = 2,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._services = services
        self._folder = folder
        self.partitions = partitions
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.topics = {kind: f"{self.name}.{kind.replace('_', '-')}" for kind in _KINDS}
        self.settings: dict[str, object] = {
            "KAFKA__BOOTSTRAP_SERVERS": services.bootstrap_servers,
            "KAFKA__GROUP_ID": self.name,
            "KAFKA__SESSION_TIMEOUT_MS": 6_000,
            "VALKEY__URL": services.valkey_url,
            # Far above the default: a busy machine must not look like a Valkey that is away.
            "VALKEY__DEADLINE_MS": 1_000,
            "PROFILES__NAMESPACE": self.name,
            "MODEL__BUNDLE": BUNDLE,
            "METRICS__PORT": _free_ports(4),
            "METRICS__HOST": HOST,
            "TOPICS__PARTITIONS": partitions,
        }
        self.settings |= {f"TOPICS__{kind.upper()}": name for kind, name in self.topics.items()}
        self.settings |= settings or {}
        self.workers: list[WorkerProcess] = []
        self._producer: Producer | None = None
        self._committed: Consumer | None = None

    def __enter__(self) -> Deployment:
        """Nothing is made before it is asked for."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of the workers, and make room for the next test's topics."""
        for worker in self.workers:
            worker.clean_up()
        if self._committed is not None:
            self._committed.close()
        is_on_stack = self._services.stack is not None
        if not is_on_stack or is_listening(_port(self._services.bootstrap_servers)):
            self.admin.delete_topics(list(self.topics.values()), request_timeout=5.0)

    # ------------------------------------------------------------------ Kafka and Valkey

    @cached_property
    def admin(self) -> AdminClient:
        """Kafka's admin client. Kept: its answers would be lost with it."""
        return self.fresh_admin()

    def fresh_admin(self) -> AdminClient:
        """Make an admin client that knows nothing from before; keep it while it is asked."""
        return AdminClient({"bootstrap.servers": self._services.bootstrap_servers, "log_level": 0})

    def create_topics(self, retention_ms: int = -1) -> Deployment:
        """Make the five topics."""
        stamped = {"message.timestamp.type": "LogAppendTime"}
        kept = stamped | {"retention.ms": str(retention_ms)}
        new = [
            NewTopic(name, self.partitions, 1, config=kept if kind in _KINDS[:2] else stamped)
            for kind, name in self.topics.items()
        ]
        admin = self.admin
        for future in admin.create_topics(new).values():
            future.result(_REQUEST_TIMEOUT_S)
        wait_for(
            lambda: set(self.topics.values()) <= set(admin.list_topics(timeout=5).topics), "topics"
        )
        return self

    def set_retention(self, kind: str, retention_ms: int) -> None:
        """Change how long a topic keeps its records."""
        resource = ConfigResource(
            ConfigResource.Type.TOPIC,
            self.topics[kind],
            set_config={"retention.ms": str(retention_ms)},
        )
        for future in self.admin.alter_configs([resource]).values():
            future.result(_REQUEST_TIMEOUT_S)

    def publish(
        self, events: Iterable[Mapping[str, object] | bytes | None], kind: str = "transactions"
    ) -> list[Position]:
        """Produce events (or raw values) in order, keyed as publishers do; give their places."""
        return self.publish_records([(kind, _key(event), event, ()) for event in events])

    def publish_records(self, records: Iterable[Outgoing]) -> list[Position]:
        """Produce records in order; give their places."""
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._services.bootstrap_servers,
                    "partitioner": "murmur2_random",
                    "linger.ms": 5,
                    "message.max.bytes": 12_000_000,
                    "enable.idempotence": True,
                    "queue.buffering.max.messages": 500_000,
                    "log_level": 0,
                }
            )
        places: dict[int, Position] = {}

        def note(number: int) -> Callable[[KafkaError | None, Message], None]:
            def on_delivery(error: KafkaError | None, message: Message) -> None:
                assert error is None, error
                places[number] = _place(message)

            return on_delivery

        count = 0
        for kind, key, value, headers in records:
            payload = orjson.dumps(value) if isinstance(value, Mapping) else value
            self._producer.produce(
                self.topics[kind],
                payload,
                key,
                headers=list(headers),
                on_delivery=note(count),
            )
            count += 1
            if count % 500 == 0:
                self._producer.poll(0)
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records were not delivered"
        assert len(places) == count
        return [places[number] for number in range(count)]

    def committed(self) -> dict[Partition, int]:
        """Give the offsets that the group committed, by input partition."""
        asked = [TopicPartition(topic, number) for topic, number in self.input_partitions()]

        def question() -> list[TopicPartition]:
            if self._committed is None:
                self._committed = Consumer(
                    {
                        "bootstrap.servers": self._services.bootstrap_servers,
                        "group.id": self.name,
                        "enable.auto.commit": False,
                        "log_level": 0,
                    }
                )
            try:
                return self._committed.committed(asked, timeout=_REQUEST_TIMEOUT_S)
            except KafkaException:
                self._committed = None  # it may go on asking a coordinator that is none any more
                raise

        return {(p.topic, p.partition): p.offset for p in _ask(question) if p.offset >= 0}

    def ends(self) -> dict[Partition, int]:
        """Give the end of each input partition."""
        with self._reader("read_uncommitted") as consumer:
            return {
                place: _end(consumer, TopicPartition(*place)) for place in self.input_partitions()
            }

    def lag(self) -> int:
        """Count the input records that the group has not committed."""
        committed = self.committed()
        return sum(end - committed.get(place, 0) for place, end in self.ends().items())

    def input_partitions(self) -> list[Partition]:
        """List the partitions of transactions and labels."""
        kinds = ("transactions", "labels")
        return [(self.topics[kind], n) for kind in kinds for n in range(self.partitions)]

    def set_offsets(self, offsets: Mapping[Partition, int]) -> None:
        """Set some of the group's offsets, once nobody is in it."""
        expected = self.committed() | dict(offsets)
        places = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        request = [ConsumerGroupTopicPartitions(self.name, places)]

        def is_set() -> bool:
            (future,) = self.admin.alter_consumer_group_offsets(request).values()
            future.exception(15)
            return self.committed() == expected

        wait_for(is_set, "the offsets to be set")

    def await_done(
        self, timeout_s: float = PATIENCE_S, ends: Mapping[Partition, int] | None = None
    ) -> None:
        """Wait until the group has committed everything that is in the input topics.

        Parameters
        ----------
        timeout_s
            For all of it.
        ends
            Up to where it must come, for each partition; by default to the end of the log.
        """
        ends = self.ends() if ends is None else ends
        alive = [worker for worker in self.workers if worker.exit_code is None]

        def is_done() -> bool:
            assert all(worker.exit_code is None for worker in alive), "a worker ended"
            committed.update(self.committed())
            return all(committed.get(place, 0) >= end for place, end in ends.items())

        committed: dict[Partition, int] = {}
        try:
            wait_for(is_done, "the group to commit everything", timeout_s)
        except AssertionError as error:
            logs = "\n".join(worker.text()[-3_000:] for worker in alive)
            raise AssertionError(f"{error}: {committed} of {ends}\n{logs}") from error

    def drain(self, kind: str, isolation: str = "read_committed") -> list[Row]:
        """Read a topic to its very end, in order for each partition.

        At ``read_committed`` it waits until no transaction is open there; one that hangs fails.
        """
        topic = self.topics[kind]
        places = [TopicPartition(topic, number, 0) for number in range(self.partitions)]
        with self._reader("read_uncommitted") as consumer:
            ends = {place.partition: _end(consumer, place) for place in places}
        rows: list[Row] = []
        with self._reader(isolation) as consumer:
            consumer.assign(places)
            open_: set[int] = {number for number, end in ends.items() if end > 0}
            deadline_s = time.monotonic() + PATIENCE_S
            while open_:
                assert time.monotonic() < deadline_s, f"{topic}: a transaction hangs"
                for message in consumer.consume(10_000, 0.2 if not rows else 0.05):
                    error = message.error()
                    if error is None:
                        rows.append(_row(message))
                    elif error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    elif (message.offset() or 0) >= ends[message.partition() or 0]:
                        open_.discard(message.partition() or 0)
        return sorted(rows, key=lambda row: (row.partition, row.offset))

    @contextmanager
    def _reader(self, isolation: str) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                "bootstrap.servers": self._services.bootstrap_servers,
                "group.id": f"{self.name}-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    @contextmanager
    def valkey(self) -> Iterator[redis.Redis]:
        """Connect to Valkey."""
        client = redis.Redis.from_url(self._services.valkey_url, protocol=2, socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def watermarks(self) -> dict[Partition, int]:
        """Read from Valkey up to where each input partition was applied."""
        digest = DEFAULT_DEFINITION.digest
        with self.valkey() as client:
            fields: Any = client.hgetall(f"fs:{self.name}:{digest}:{{0}}:watermarks")
        marks: dict[Partition, int] = {}
        for name, value in fields.items():
            number, colon, partition = name.decode().partition(":")
            if colon:
                kind = "transactions" if number == "1" else "labels"
                marks[self.topics[kind], int(partition)] = int(value)
        return marks

    # ------------------------------------------------------------------ workers

    @property
    def port(self) -> int:
        """Where slot 0 serves metrics and health."""
        return int(str(self.settings["METRICS__PORT"]))

    def environ(self, **settings: object) -> dict[str, str]:
        """Give the environment of a process of this deployment."""
        plain = {n: v for n, v in os.environ.items() if not n.startswith("FRAUDSTREAM_")}
        ours = {f"FRAUDSTREAM_{n}": str(v) for n, v in (self.settings | settings).items()}
        return plain | ours

    def start(self, *arguments: str, **settings: object) -> WorkerProcess:
        """Start ``fraudstream run`` with arguments, and settings beside the deployment's."""
        number = len(self.workers)
        slot = int(arguments[arguments.index("--slot") + 1]) if "--slot" in arguments else 0
        worker = WorkerProcess(
            arguments,
            self.environ(**settings),
            self._folder / f"{self.name}-{number}.log",
            int(str(settings.get("METRICS__PORT", self.port))) + slot,
        )
        self.workers.append(worker)
        return worker


def card_features(payments: Sequence[Row]) -> dict[Position, dict[str, np.float32]]:
    """Fold over the log, in offset order, card by card; windows are counted out one by one."""
    past: dict[str, list[tuple[int, int]]] = defaultdict(list)
    features = {}
    for row in payments:
        event = row.json()
        now = event["event_time"]
        own = past[event["card_id"]]
        own.append((now, event["amount_minor"]))
        found = {"amount": np.float32(event["amount_minor"] / 100)}
        for days in _WINDOWS_D:
            amounts = [amount for time, amount in own if now - days * DAY_MS < time <= now]
            found[f"card_tx_count_{days}d"] = np.float32(len(amounts))
            found[f"card_amount_mean_{days}d"] = np.float32(sum(amounts) / 100 / len(amounts))
        features[row.place] = found
    return features


def _key(event: Mapping[str, object] | bytes | None) -> bytes | None:
    """Give the key that publishers use: the terminal for a label, the card for a payment."""
    if not isinstance(event, Mapping):
        return b"c0"
    name = "terminal_id" if "is_fraud" in event else "card_id"
    return str(event.get(name, "c0")).encode()


def _place(message: Message) -> Position:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _row(message: Message) -> Row:
    topic, partition, offset = _place(message)
    raw: Any = message.headers() or []
    headers = {name: value.decode() for name, value in raw if value is not None}
    timestamp_ms = message.timestamp()[1]
    return Row(topic, partition, offset, timestamp_ms, message.key(), message.value(), headers)


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """Give a partition's end."""
    return _ask(lambda: consumer.get_watermark_offsets(place, timeout=_REQUEST_TIMEOUT_S)[1])


def _ask(question: Callable[[], _AnswerT]) -> _AnswerT:
    """Ask Kafka; again while the broker is still starting."""
    answers: list[_AnswerT] = []

    def is_answered() -> bool:
        try:
            answers.append(question())
        except KafkaException as exception:
            if exception.args[0].code() not in _PASSING:
                raise
        return bool(answers)

    wait_for(is_answered, "an answer from Kafka")
    return answers[0]


def _port(bootstrap_servers: str) -> int:
    return int(bootstrap_servers.partition(",")[0].rpartition(":")[2])


def _free_ports(count: int) -> int:
    """Find a port that nobody listens on, nor on those behind it."""
    while True:
        first = find_free_port()
        if not any(is_listening(first + n, 0.2) for n in range(1, count)):
            return first
