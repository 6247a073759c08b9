"""Replays into a real Kafka: what is published, how fast, and how far ahead of its readers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
import typer
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from services import Services
from typer.testing import CliRunner

from fraudstream.adapters.kafka import KafkaAccess, consumer_config
from fraudstream.cli.streams import replay
from fraudstream.errors import ServiceAwayError, SettingsError, UsageError
from fraudstream.event import format_time
from fraudstream.local.ready import HOST, find_free_port, wait_until
from fraudstream.pipeline import InputTopics
from fraudstream.replay import backlog, sending
from fraudstream.replay import replayer as replayer_module
from fraudstream.replay.replayer import HoldBack, Progress, Replayer, Surroundings
from fraudstream.replay.speed import parse_speed
from fraudstream.replay.stream import ReplayEvent
from fraudstream.topics import TopicAdmin, plan_topics

pytestmark = pytest.mark.services

PARTITIONS = 3
TIMEOUT_S = 30.0
T0_MS = 1_530_403_200_000  # 2018-07-01T00:00:00Z
MAX = parse_speed("max")

Place = tuple[str, int]


@pytest.fixture
def access(services: Services) -> KafkaAccess:
    return KafkaAccess(services.bootstrap_servers)


@pytest.fixture
def topics(access: KafkaAccess) -> InputTopics:
    name = f"replay-{uuid.uuid4().hex[:8]}"
    made = InputTopics(f"{name}.transactions", f"{name}.labels")
    plans = plan_topics(
        [made.transactions, made.labels], [], partitions=PARTITIONS, horizon_ms=86_400_000
    )
    TopicAdmin(access).create(plans)
    assert wait_until(lambda: has_leaders(access, made), TIMEOUT_S)
    return made


def has_leaders(access: KafkaAccess, topics: InputTopics) -> bool:
    consumer = Consumer(consumer_config(access, "replay-test-reader"))
    try:
        for topic in (topics.transactions, topics.labels):
            for number in range(PARTITIONS):
                consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
    except KafkaException:
        return False
    else:
        return True
    finally:
        consumer.close()


@pytest.fixture
def group_id() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


def transactions(count: int, step_ms: int = 1_000) -> list[ReplayEvent]:
    return [
        ReplayEvent(T0_MS + step_ms * n, False, b"c%d" % (n % 17), b'{"n": %d}' % n)
        for n in range(count)
    ]


def label(time_ms: int) -> ReplayEvent:
    return ReplayEvent(time_ms, True, b"t1", b'{"label": %d}' % time_ms)


def everything(access: KafkaAccess, topic: str) -> list[Message]:
    """Read a topic whole, without a group's help."""
    consumer = Consumer(consumer_config(access, "replay-test-reader"))
    places = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1] for place in places]
    consumer.assign(places)
    messages: list[Message] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(messages) < sum(ends) and time.monotonic() < deadline_s:
        messages += [m for m in consumer.consume(1_000, timeout=0.2) if m.error() is None]
    consumer.close()
    return messages


class Worker:
    """A consumer that commits what it has read, as slowly as the test says.

    Parameters
    ----------
    before_commit
        Called with each batch, before it is committed.
    """

    def __init__(
        self,
        access: KafkaAccess,
        group_id: str,
        topics: InputTopics,
        before_commit: Callable[[Worker, Sequence[Message]], None] = lambda *_: None,
    ) -> None:
        self.records: list[Message] = []
        self.committed: dict[Place, int] = {}
        self.wants_death = threading.Event()
        self._topics = topics
        self._before_commit = before_commit
        self._ended = threading.Event()
        self._failure: AssertionError | None = None
        self._consumer = Consumer(
            consumer_config(access, group_id)
            | {"partition.assignment.strategy": "range", "session.timeout.ms": 6_000}
        )
        self._consumer.subscribe([topics.transactions, topics.labels])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def written(self) -> int:
        """Count what lies in the topics, as the broker says at this moment."""
        return sum(
            self._consumer.get_watermark_offsets(TopicPartition(t, n), timeout=TIMEOUT_S)[1]
            for t in (self._topics.transactions, self._topics.labels)
            for n in range(PARTITIONS)
        )

    def _run(self) -> None:
        while not self._ended.is_set():
            first = self._consumer.poll(0.05)
            if first is None or first.error() is not None:
                continue
            batch = [first, *self._consumer.consume(99, timeout=0)]
            try:
                self._before_commit(self, batch)
            except AssertionError as failure:
                self._failure = failure
            if self.wants_death.is_set():
                break  # with a batch in hand that is not committed
            self._commit(batch)
        self._consumer.close()

    def _commit(self, batch: Sequence[Message]) -> None:
        ends = {(str(m.topic()), m.partition() or 0): (m.offset() or 0) + 1 for m in batch}
        offsets = [TopicPartition(topic, number, end) for (topic, number), end in ends.items()]
        self._consumer.commit(offsets=offsets, asynchronous=False)
        self.records += batch
        self.committed |= ends


# What is published


def test_records_are_as_the_contract_of_topics_wants_them(
    access: KafkaAccess, topics: InputTopics
) -> None:
    before_ms = time.time() * 1_000
    events = [*transactions(60), label(T0_MS + 60_000)]
    summary = Replayer(access, topics, run_id="run-7").run(events, MAX)
    assert (summary.transactions, summary.labels, summary.undelivered) == (60, 1, 0)
    assert (summary.first_time_ms, summary.last_time_ms) == (T0_MS, T0_MS + 60_000)
    assert summary.is_complete
    found = everything(access, topics.transactions)
    assert {m.value() for m in found} == {event.value for event in events if not event.is_label}
    (found_label,) = everything(access, topics.labels)
    assert (found_label.key(), found_label.value()) == (b"t1", events[-1].value)
    for message in [*found, found_label]:
        assert message.headers() == [("fs_replay_run", b"run-7")]
        # Not the event's time: retention would delete the record at once.
        assert before_ms - 1_000 < message.timestamp()[1] < time.time() * 1_000 + 1_000
    # As Java's default partitioner does it: murmur2 of the key.
    assert {(m.key(), m.partition()) for m in found} == {
        (event.key, murmur2_partition(event.key or b"")) for event in events if not event.is_label
    }
    by_partition: dict[int, list[int]] = {}
    for message in found:
        number = json.loads(message.value() or b"")["n"]
        by_partition.setdefault(message.partition() or 0, []).append(number)
    assert all(numbers == sorted(numbers) for numbers in by_partition.values())


def murmur2_partition(key: bytes) -> int:
    """Compute Kafka's default partition, from org.apache.kafka.common.utils.Utils.murmur2."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % PARTITIONS


def test_a_steady_rate_is_kept_by_the_clock(access: KafkaAccess, topics: InputTopics) -> None:
    seen: list[Progress] = []
    replayed = Replayer(
        access, topics, run_id="r", surroundings=Surroundings(on_progress=seen.append)
    ).run(transactions(400), parse_speed("400/s"))
    assert 0.99 <= replayed.seconds < 2.0
    assert 5 <= len(seen) <= 25
    assert seen[-1].transactions == 400
    assert [p.transactions for p in seen] == sorted(p.transactions for p in seen)


def test_event_time_sets_the_pace(access: KafkaAccess, topics: InputTopics) -> None:
    events = [*transactions(3, step_ms=30_000), label(T0_MS + 61_000)]
    summary = Replayer(access, topics, run_id="r").run(events, parse_speed("60x"))
    assert 1.01 <= summary.seconds < 2.0


def test_a_stopped_replay_ends_cleanly(access: KafkaAccess, topics: InputTopics) -> None:
    stop = threading.Event()

    def stop_at_once(progress: Progress) -> None:
        stop.set()

    surroundings = Surroundings(stop, stop_at_once)
    summary = Replayer(access, topics, run_id="r", surroundings=surroundings).run(
        transactions(10, step_ms=3_600_000), parse_speed("1x")
    )
    assert not summary.is_complete
    assert summary.seconds < 5
    assert len(everything(access, topics.transactions)) == summary.transactions == 1


# Ahead of the readers


def test_it_stays_within_the_bound_of_a_slow_group(
    access: KafkaAccess, topics: InputTopics, group_id: str
) -> None:
    ahead: list[int] = []

    def look(worker: Worker, _: Sequence[Message]) -> None:
        time.sleep(0.01)
        ahead.append(worker.written() - sum(worker.committed.values()))

    with Worker(access, group_id, topics, look) as worker:
        held: list[Progress] = []
        summary = Replayer(
            access,
            topics,
            run_id="r",
            hold_back=HoldBack(group_id, 150),
            surroundings=Surroundings(on_progress=held.append),
        ).run(transactions(2_000), MAX)
        assert summary.transactions == 2_000
        assert wait_until(lambda: len(worker.records) == 2_000, TIMEOUT_S)
    # Up to the bound, which also shows that it is not merely slow, and never above it.
    assert 100 < max(ahead) <= 150
    assert any(progress.is_held for progress in held)


@pytest.mark.parametrize(("ahead_hours", "in_flight"), [(24, 25), (6, 7), (0, 200)])
def test_event_time_in_flight_is_bounded(
    access: KafkaAccess, topics: InputTopics, group_id: str, ahead_hours: int, in_flight: int
) -> None:
    """One payment an hour: the file is small enough to be sent at once, and covers eight days."""
    ahead: list[int] = []

    def look(worker: Worker, _: Sequence[Message]) -> None:
        time.sleep(0.05)  # time for more to be written, if more may
        ahead.append(worker.written() - sum(worker.committed.values()))

    hold_back = HoldBack(group_id, ahead_time_max_ms=ahead_hours * 3_600_000)
    with Worker(access, group_id, topics, look) as worker:
        summary = Replayer(access, topics, run_id="r", hold_back=hold_back).run(
            transactions(200, step_ms=3_600_000), MAX
        )
        assert summary.transactions == 200
        assert wait_until(lambda: len(worker.records) == 200, TIMEOUT_S)
    assert max(ahead) == in_flight


def test_a_slow_partition_holds_back_the_quick_ones(
    access: KafkaAccess, topics: InputTopics, group_id: str
) -> None:
    """What profiles see: no event is decided more than the bound after an older one is due."""
    hours: list[int] = []

    def look(_: Worker, batch: Sequence[Message]) -> None:
        hours.extend(json.loads(m.value() or b"")["n"] for m in batch)

    hold_back = HoldBack(group_id, ahead_time_max_ms=24 * 3_600_000)
    with Worker(access, group_id, topics, look) as worker:
        Replayer(access, topics, run_id="r", hold_back=hold_back).run(
            transactions(500, step_ms=3_600_000), MAX
        )
        assert wait_until(lambda: len(worker.records) == 500, TIMEOUT_S)
    newest = itertools.accumulate(hours, max)
    assert max(before - hour for before, hour in zip(newest, hours, strict=True)) <= 24


def test_around_a_label_everything_is_committed(
    access: KafkaAccess, topics: InputTopics, group_id: str
) -> None:
    events: list[ReplayEvent] = []
    for number, event in enumerate(transactions(120)):
        if number % 20 == 19:
            events.append(label(event.time_ms))
        if number == 59:
            events.append(label(event.time_ms))  # two of one moment
        events.append(event)
    before_labels = [number for number, event in enumerate(events) if event.is_label]
    at_labels: list[tuple[int, int, int]] = []

    def look(worker: Worker, batch: Sequence[Message]) -> None:
        if any(message.topic() == topics.labels for message in batch):
            time.sleep(0.05)  # time to overtake, if it were to
            committed = sum(worker.committed.values())
            at_labels.append((len(batch), committed, worker.written()))

    with Worker(access, group_id, topics, look) as worker:
        Replayer(access, topics, run_id="r", hold_back=HoldBack(group_id)).run(events, MAX)
        assert wait_until(lambda: len(worker.records) == len(events), TIMEOUT_S)
    # The label alone is in hand; all before it is committed; nothing after it is written.
    assert at_labels == [(1, number, number + 1) for number in before_labels]


def test_waiting_for_a_quick_group_takes_milliseconds(
    access: KafkaAccess, topics: InputTopics, group_id: str
) -> None:
    events = [event for payment in transactions(100) for event in (label(payment.time_ms), payment)]
    with Worker(access, group_id, topics) as worker:
        replay_events = [*transactions(5), *events]
        summary = Replayer(access, topics, run_id="r", hold_back=HoldBack(group_id)).run(
            replay_events, MAX
        )
        assert wait_until(lambda: len(worker.records) == len(replay_events), TIMEOUT_S)
    # 200 waits, of which one alone takes about 4 ms on a quiet machine; joining takes the rest.
    assert summary.seconds < 200 * 0.05 + 5


def test_a_worker_that_dies_is_waited_for(
    access: KafkaAccess, topics: InputTopics, group_id: str
) -> None:
    labels_seen: list[Message] = []

    def die(worker: Worker, batch: Sequence[Message]) -> None:
        """Die with the second batch, and once with the label in hand."""
        labels = [message for message in batch if message.topic() == topics.labels]
        if worker.records or (labels and not labels_seen):
            worker.wants_death.set()
        labels_seen.extend(labels)

    events = [*transactions(50), label(T0_MS + 50_000), *transactions(100)[50:]]
    stop, done = threading.Event(), threading.Event()
    replayer = Replayer(
        *(access, topics),
        run_id="r",
        hold_back=HoldBack(group_id, 10),
        surroundings=Surroundings(stop),
    )

    def run() -> None:
        replayer.run(events, MAX)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    deaths = 0
    try:
        while not done.is_set():
            with Worker(access, group_id, topics, die) as worker:
                assert wait_until(lambda: worker.wants_death.is_set() or done.is_set(), TIMEOUT_S)
                deaths += worker.wants_death.is_set()
    finally:
        stop.set()
        thread.join()
    assert deaths > 2
    assert len(labels_seen) == 2
    found = everything(access, topics.transactions)
    assert sorted(json.loads(m.value() or b"")["n"] for m in found) == list(range(100))
    assert len(everything(access, topics.labels)) == 1


def test_without_a_group_it_says_what_to_do(
    access: KafkaAccess, topics: InputTopics, group_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replayer_module, "_FIRST_MEMBER_TIMEOUT_S", 0.2)
    with pytest.raises(ServiceAwayError, match=r"start `fraudstream run` first, or .* 0"):
        Replayer(access, topics, run_id="r", hold_back=HoldBack(group_id)).run(transactions(5), MAX)
    assert not everything(access, topics.transactions)


def test_a_group_that_stays_away_ends_it(
    access: KafkaAccess, topics: InputTopics, group_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatience(backlog.Patience):
        def __init__(self, watch: backlog.GroupWatch) -> None:
            super().__init__(watch, limit_s=2.0)

    monkeypatch.setattr(replayer_module, "Patience", Impatience)

    def die(worker: Worker, _: Sequence[Message]) -> None:
        worker.wants_death.set()

    with (
        Worker(access, group_id, topics, die),
        pytest.raises(
            ServiceAwayError, match=r"no live member.*same command with --from 2018-07-01T"
        ),
    ):
        Replayer(access, topics, run_id="r", hold_back=HoldBack(group_id, 10)).run(
            transactions(500), MAX
        )


def test_an_absent_topic_is_named(access: KafkaAccess, topics: InputTopics) -> None:
    absent = InputTopics(topics.transactions, f"{topics.labels}-absent")
    with pytest.raises(SettingsError, match="-absent does not exist: `fraudstream topics create`"):
        Replayer(access, absent, run_id="r").run(transactions(1), MAX)


def test_an_absent_kafka_is_told_soon(topics: InputTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_METADATA_TIMEOUT_S", 1.0)
    nowhere = KafkaAccess(f"{HOST}:{find_free_port()}")
    started_s = time.monotonic()
    with pytest.raises(ServiceAwayError, match="Kafka cannot be reached"):
        Replayer(nowhere, topics, run_id="r").run(transactions(1), MAX)
    assert time.monotonic() - started_s < 10


def test_a_row_that_kafka_refuses_ends_it(access: KafkaAccess, topics: InputTopics) -> None:
    huge = ReplayEvent(T0_MS, False, b"c", b"x" * 2_000_000)
    with pytest.raises(UsageError, match="larger than Kafka takes"):
        Replayer(access, topics, run_id="r").run([huge], MAX)


# The command


@pytest.fixture
def deployment(services: Services, topics: InputTopics, tmp_path: Path) -> tuple[Path, Path]:
    """Write a settings file, and a stream of which every tenth payment is a fraud."""
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"kafka: {{bootstrap_servers: '{services.bootstrap_servers}'}}\n"
        f"topics: {{transactions: {topics.transactions}, labels: {topics.labels}}}\n"
    )
    stream = tmp_path / "stream.parquet"
    pl.DataFrame(
        {
            "transaction_id": [f"tx{n}" for n in range(100)],
            "event_time": [format_time(T0_MS + 3_600_000 * n) for n in range(100)],
            "card_id": [f"c{n % 9}" for n in range(100)],
            "terminal_id": [f"t{n % 5}" for n in range(100)],
            "amount_minor": list(range(100)),
            "currency": "EUR",
            "is_fraud": [n % 10 == 0 for n in range(100)],
        }
    ).write_parquet(stream)
    return config, stream


def invoke(*words: object) -> str:
    app = typer.Typer()
    app.command()(replay)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_replays_a_span_with_labels(
    access: KafkaAccess, topics: InputTopics, deployment: tuple[Path, Path]
) -> None:
    config, stream = deployment
    output = invoke(
        *(stream, "--config", config, "--max-ahead", 0, "--labels-after", "1d", "--json"),
        *("--from", "2018-07-02", "--until", "2018-07-04", "--run-id", "july"),
    )
    summary = json.loads(output)
    assert summary["run_id"] == "july"
    assert summary["is_complete"] is True
    # 24 to 71 hours after the beginning; frauds at 30, 40, 50, 60 and 70, of which the first two
    # are reported before the end; and those at 0, 10 and 20, before the beginning, after it.
    assert (summary["transactions"], summary["labels"], summary["labels_unsent"]) == (48, 5, 3)
    assert summary["first_event_time"] == "2018-07-02T00:00:00.000Z"
    assert summary["last_event_time"] == "2018-07-03T23:00:00.000Z"
    found = [json.loads(m.value() or b"") for m in everything(access, topics.transactions)]
    assert {row["transaction_id"] for row in found} == {f"tx{n}" for n in range(24, 72)}
    assert not any("is_fraud" in row for row in found)
    labels = [json.loads(m.value() or b"") for m in everything(access, topics.labels)]
    assert {row["transaction_id"]: row["reported_at"] for row in labels} == {
        "tx0": "2018-07-02T00:00:00.000Z",
        "tx10": "2018-07-02T10:00:00.000Z",
        "tx20": "2018-07-02T20:00:00.000Z",
        "tx30": "2018-07-03T06:00:00.000Z",
        "tx40": "2018-07-03T16:00:00.000Z",
    }


def test_the_command_tells_in_a_sentence(deployment: tuple[Path, Path]) -> None:
    config, stream = deployment
    output = invoke(
        stream, "-c", config, "--max-ahead", 0, "--labels-after", "7d", "--speed", "max"
    )
    assert "100 transactions and 0 labels in" in output
    assert "10 labels were not sent" in output


def test_the_command_checks_its_words_before_it_connects(deployment: tuple[Path, Path]) -> None:
    config, stream = deployment
    for words in (
        *(["--speed", "fast"], ["--labels-after", "week"], ["--run-id", "a\nb"]),
        ["--max-ahead-time", "24"],
    ):
        with pytest.raises(UsageError, match=words[0]):
            invoke(stream, "-c", config, *words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_its_summary(
    access: KafkaAccess,
    topics: InputTopics,
    deployment: tuple[Path, Path],
    number: signal.Signals,
) -> None:
    config, stream = deployment
    script = "import typer; from fraudstream.cli.streams import replay; typer.run(replay)"
    words = [stream, "-c", config, "--max-ahead", "0", "--speed", "20/s", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert wait_until(lambda: len(everything(access, topics.transactions)) > 0, TIMEOUT_S)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    summary = json.loads(output)
    assert summary["is_complete"] is False
    assert summary["undelivered"] == 0
    assert 0 < summary["transactions"] < 100
    assert len(everything(access, topics.transactions)) == summary["transactions"]
