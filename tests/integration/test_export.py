"""Topics as files: what a `read_committed` reader finds, in columns, to the present end."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import typer
from confluent_kafka import Producer
from services import Services
from typer.testing import CliRunner

from fraudstream.adapters.kafka import KafkaAccess, producer_config
from fraudstream.alert import Encoder, ModelIdentity, OutputRecord, OutputTopics
from fraudstream.cli.streams import export
from fraudstream.decision import Decision, Flag, Outcome
from fraudstream.decision import Reason as DecisionReason
from fraudstream.errors import InvalidEventError, Reason, ServiceAwayError, UsageError
from fraudstream.event import Record, Transaction
from fraudstream.export import drain as drain_module
from fraudstream.export.columns import TopicKind
from fraudstream.export.drain import TopicDrain
from fraudstream.export.files import write_file
from fraudstream.local.ready import HOST, find_free_port
from fraudstream.replay.span import parse_span
from fraudstream.topics import TopicAdmin, plan_topics

pytestmark = pytest.mark.services

PARTITIONS = 3
TIMEOUT_S = 30.0
FEATURES = ("amount", "card_tx_count_1d", "terminal_fraud_rate_7d_lag7d")
#: One is not known in the first slice, or ever; the others have no short form as doubles.
VECTOR = np.array([57.16, np.nan, 1 / 3], dtype=np.float32)
TRANSACTION = Transaction("tx1", 1_530_403_200_250, "c1", "t1", 5_716, "EUR", 5_716)
MODEL = ModelIdentity("default", "1", "0" * 64)
TIMINGS_MS = {"parse": 0.051, "score": 0.7}

Headers = list[tuple[str, str | bytes | None]]


@pytest.fixture
def access(services: Services) -> KafkaAccess:
    return KafkaAccess(services.bootstrap_servers)


@pytest.fixture
def topic(access: KafkaAccess) -> str:
    name = f"export-{uuid.uuid4().hex[:8]}"
    (plan,) = plan_topics([], [name], partitions=PARTITIONS, horizon_ms=1)
    # Tests give the times of records.
    stamped = {**plan.config, "message.timestamp.type": "CreateTime"}
    TopicAdmin(access).create([replace(plan, config=stamped)])
    return name


@pytest.fixture
def transactions(access: KafkaAccess, topic: str) -> Iterator[Callable[..., Producer]]:
    """Give a function that publishes in one transaction, and leaves it in the state asked for."""
    producers: list[Producer] = []

    def publish(values: Sequence[bytes], end: str = "commit") -> Producer:
        producer = Producer(
            producer_config(access) | {"transactional.id": f"{topic}-{len(producers)}"}
        )
        producers.append(producer)
        producer.init_transactions(TIMEOUT_S)
        producer.begin_transaction()
        for number, value in enumerate(values):
            producer.produce(topic, value, b"k%d" % number, partition=number % PARTITIONS)
        producer.flush(TIMEOUT_S)
        if end == "commit":
            producer.commit_transaction(TIMEOUT_S)
        elif end == "abort":
            producer.abort_transaction(TIMEOUT_S)
        else:
            still_open.append(producer)
        return producer

    still_open: list[Producer] = []
    yield publish
    for producer in still_open:
        producer.abort_transaction(TIMEOUT_S)


def publish_outputs(access: KafkaAccess, topic: str, outputs: Sequence[OutputRecord]) -> None:
    producer = Producer(producer_config(access))
    for output in outputs:
        producer.produce(topic, output.value, output.key, headers=output.headers)
    assert producer.flush(TIMEOUT_S) == 0


def export_to(
    access: KafkaAccess, topic: str, file: Path, kind: TopicKind = TopicKind.OTHER
) -> pl.DataFrame:
    summary = write_file(TopicDrain(access, topic).slices(), topic, kind, file)
    found = pl.read_parquet(file)
    assert (summary.records, summary.columns) == found.shape
    return found.sort("partition", "offset")


def encoder(topic: str) -> Encoder:
    return Encoder(OutputTopics(topic, topic, topic), MODEL, "default@1", FEATURES)


def decision() -> Decision:
    reason = DecisionReason("AMOUNT", "Much.", "amount", VECTOR[0], np.float32(0.1))
    return Decision(
        TRANSACTION, np.float32(0.7), Outcome.REVIEW, (reason,), (Flag.REPLAYED,), ("x",)
    )


SOURCE = Record("in", 2, 41, 1_530_403_201_000, b"c1", b"{}")


# How far it reads


def test_it_reads_what_is_committed_and_ends_where_nothing_more_can_be_read(
    access: KafkaAccess,
    topic: str,
    transactions: Callable[..., Producer],
    tmp_path: Path,
) -> None:
    transactions([b'{"n": %d}' % n for n in range(9)])
    transactions([b'{"n": -1}'] * 6, "abort")
    transactions([b'{"n": %d}' % n for n in range(9, 12)])
    # Offsets end with the marker of an abort, and behind it lies what is not decided yet.
    transactions([b'{"n": -2}'] * 4, "abort")
    transactions([b'{"n": -3}'] * 2, "open")
    started_s = time.monotonic()
    found = export_to(access, topic, tmp_path / "out.parquet")
    assert sorted(found["n"].to_list()) == list(range(12))
    assert time.monotonic() - started_s < 10


def test_it_ends_although_others_go_on_writing(
    access: KafkaAccess, topic: str, tmp_path: Path
) -> None:
    stop = threading.Event()
    producer = Producer(producer_config(access))

    def write() -> None:
        while not stop.wait(0.001):
            producer.produce(topic, b'{"n": 1}')
            producer.poll(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        drained = TopicDrain(access, topic)
        deadline_s = time.monotonic() + TIMEOUT_S
        while not drained.offsets_total and time.monotonic() < deadline_s:
            drained = TopicDrain(access, topic)
        total = drained.offsets_total
        summary = write_file(drained.slices(), topic, TopicKind.OTHER, tmp_path / "out.parquet")
    finally:
        stop.set()
        writer.join()
        producer.flush(TIMEOUT_S)
    assert 0 < summary.records == total


def test_progress_goes_from_nothing_to_all(
    access: KafkaAccess, topic: str, transactions: Callable[..., Producer]
) -> None:
    transactions([b"{}"] * 30)
    drained = TopicDrain(access, topic)
    assert drained.offsets_total == 30 + PARTITIONS  # the markers take an offset each
    done: list[int] = []
    assert sum(len(part) for part in drained.slices(done.append)) == 30
    assert done == sorted(done)
    assert done[-1] == drained.offsets_total


def test_many_slices_make_one_file(
    access: KafkaAccess,
    topic: str,
    transactions: Callable[..., Producer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain_module, "_SLICE_RECORDS", 20)
    monkeypatch.setattr(drain_module, "_POLL_RECORDS", 20)
    first = [b'{"n": %d}' % n for n in range(60)]
    transactions([*first, *(b'{"n": %d, "late": %d, "m": 1.5}' % (n, n) for n in range(60, 90))])
    found = export_to(access, topic, tmp_path / "out.parquet")
    assert sorted(found["n"].to_list()) == list(range(90))
    # What the first slice did not show has no column, and is not lost.
    kept = [
        json.loads(row["other_fields"]).get("late", row.get("late"))
        if row["other_fields"]
        else row.get("late")
        for row in found.sort("n").to_dicts()
    ]
    assert kept == [None] * 60 + list(range(60, 90))


def test_a_span_is_of_kafka_timestamps(access: KafkaAccess, topic: str, tmp_path: Path) -> None:
    producer = Producer(producer_config(access))
    now_ms = int(time.time()) * 1_000
    for n in range(10):
        producer.produce(topic, b'{"n": %d}' % n, partition=n % 2, timestamp=now_ms + 1_000 * n)
    producer.flush(TIMEOUT_S)
    begin, end = (datetime.fromtimestamp(now_ms / 1_000 + n, UTC).isoformat() for n in (3, 7))
    drained = TopicDrain(access, topic, parse_span(begin, end, "-time"))
    assert drained.offsets_total == 3 + 4  # from 4 on, and from 3 on
    values = [record.value for part in drained.slices() for record in part]
    assert sorted(orjson.loads(value or b"")["n"] for value in values) == [3, 4, 5, 6]
    summary, _ = invoke(access, tmp_path, topic, "--from-time", begin, "--until-time", end)
    assert summary["records"] == 4


# What is in the file


def test_a_decision_has_its_features_as_columns_exactly(
    access: KafkaAccess, topic: str, tmp_path: Path
) -> None:
    outputs = encoder(topic).decisions([decision()], VECTOR[None], [SOURCE], [0], TIMINGS_MS)
    publish_outputs(access, topic, outputs)
    found = export_to(access, topic, tmp_path / "d.parquet", TopicKind.DECISIONS)
    columns = [f"feature.{name}" for name in FEATURES]
    assert [name for name in found.columns if name.startswith("feature.")] == columns
    assert [found.schema[name] for name in columns] == [pl.Float32] * 3
    vector = found.select(columns).to_numpy()[0]
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, VECTOR)
    (row,) = found.to_dicts()
    assert row["feature.card_tx_count_1d"] is None
    assert np.float32(row["score"]) == np.float32(0.7)
    assert found.schema["score"] == pl.Float32
    assert (row["timing_ms.parse"], row["timing_ms.score"]) == (0.051, 0.7)
    assert (row["key"], row["topic"], row["offset"]) == ("c1", topic, 0)
    assert row["timestamp"].timestamp() == pytest.approx(time.time(), abs=60)
    assert row["event_time"] == "2018-07-01T00:00:00.250Z"
    assert json.loads(row["flags"]) == ["replayed"]
    assert json.loads(row["missing_features"]) == ["x"]
    assert json.loads(row["reasons"])[0]["code"] == "AMOUNT"
    assert json.loads(row["source"]) == {"topic": "in", "partition": 2, "offset": 41}
    assert json.loads(row["headers"])["fs_source_offset"] == "41"
    assert row["other_fields"] is None
    assert "features" not in row
    assert "timings_ms" not in row


def test_a_dead_letter_has_its_payload_and_why(
    access: KafkaAccess, topic: str, tmp_path: Path
) -> None:
    bad = [
        SOURCE._replace(value=b'{"amount_minor": -1}'),
        SOURCE._replace(offset=42, value=b"\xff{", key=None),
        SOURCE._replace(offset=43, value=None),
    ]
    error = InvalidEventError(Reason.OUT_OF_RANGE, "amount_minor")
    publish_outputs(access, topic, [encoder(topic).dead_letter(error, r, 0) for r in bad])
    found = export_to(access, topic, tmp_path / "x.parquet", TopicKind.DEAD_LETTERS)
    found = found.sort("source_offset")
    assert found["payload"].to_list() == ['{"amount_minor": -1}', "\ufffd{", None]
    assert found["source_offset"].to_list() == [41, 42, 43]
    assert found["key"].to_list() == ["c1", None, "c1"]
    assert set(found["reason"]) == {"out_of_range"}
    assert set(found["field"]) == {"amount_minor"}
    assert set(found["source_topic"]) == {"in"}
    assert set(found["source_partition"]) == {2}


def test_an_alert_has_its_columns(access: KafkaAccess, topic: str, tmp_path: Path) -> None:
    publish_outputs(access, topic, [encoder(topic).alert(decision(), SOURCE, 0)])
    (row,) = export_to(access, topic, tmp_path / "a.parquet", TopicKind.ALERTS).to_dicts()
    assert (row["outcome"], row["amount"], row["amount_minor"]) == ("REVIEW", "57.16", 5_716)
    assert row["alert_id"].startswith("a-")
    assert row["other_fields"] is None


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (TopicKind.DECISIONS, {"decision_id", "score", "outcome", "flags"}),
        (TopicKind.ALERTS, {"alert_id", "score", "amount"}),
        (TopicKind.DEAD_LETTERS, {"reason", "field", "payload", "source_offset"}),
        (TopicKind.OTHER, {"topic", "partition", "offset", "timestamp", "key", "headers"}),
    ],
)
def test_an_empty_topic_makes_a_file_with_columns(
    access: KafkaAccess, topic: str, tmp_path: Path, kind: TopicKind, columns: set[str]
) -> None:
    found = export_to(access, topic, tmp_path / "e.parquet", kind)
    assert found.is_empty()
    assert columns <= set(found.columns)


def test_strange_values_are_kept_whole(
    access: KafkaAccess, topic: str, transactions: Callable[..., Producer], tmp_path: Path
) -> None:
    transactions(
        [
            b'{"id": "a", "n": 1, "f": 1, "on": true, "deep": {"x": [1]}, "key": "mine"}',
            b'{"id": "b", "n": 2, "f": 0.5, "on": false, "deep": [2]}',
            b'{"id": 3, "n": "two", "f": null, "on": 1, "none": null}',
            b"no json",
            b"[1]",
        ]
    )
    found = export_to(access, topic, tmp_path / "s.parquet")
    assert [found.schema[name] for name in ("id", "n", "f", "on", "deep", "value")] == [
        pl.String,
        pl.Int64,
        pl.Float64,
        pl.Boolean,
        pl.String,
        pl.String,
    ]
    rows = {row["id"] or row["value"] or "c": row for row in found.to_dicts()}
    assert (rows["a"]["n"], rows["a"]["f"], rows["a"]["on"]) == (1, 1.0, True)
    assert (rows["a"]["deep"], rows["b"]["deep"]) == ('{"x":[1]}', "[2]")
    assert rows["a"]["key"] == "k0"
    assert json.loads(rows["a"]["other_fields"]) == {"key": "mine"}
    assert json.loads(rows["c"]["other_fields"]) == {"id": 3, "n": "two", "on": 1}
    assert "no json" in rows
    assert "[1]" in rows


def test_csv_and_json_lines_hold_the_same(access: KafkaAccess, topic: str, tmp_path: Path) -> None:
    outputs = encoder(topic).decisions([decision()], VECTOR[None], [SOURCE], [0], TIMINGS_MS)
    publish_outputs(access, topic, outputs * 3)
    for suffix in (".parquet", ".csv", ".jsonl"):
        summary = write_file(
            TopicDrain(access, topic).slices(),
            topic,
            TopicKind.DECISIONS,
            tmp_path / f"d{suffix}",
        )
        assert summary.records == 3
    parquet = pl.read_parquet(tmp_path / "d.parquet")
    lines = [orjson.loads(line) for line in (tmp_path / "d.jsonl").read_bytes().splitlines()]
    csv = pl.read_csv(tmp_path / "d.csv", infer_schema=False)
    assert list(lines[0]) == csv.columns == parquet.columns
    for name in ("decision_id", "offset", "amount_minor", "reasons", "headers", "timing_ms.score"):
        values = parquet[name].to_list()
        assert [row[name] for row in lines] == values
        assert csv[name].to_list() == [str(value) for value in values]
    # The shortest digits that give the float32 back, and none of its double's.
    assert lines[0]["feature.amount"] == 57.16
    assert lines[0]["feature.card_tx_count_1d"] is None
    assert np.float32(csv["feature.terminal_fraud_rate_7d_lag7d"][0]) == VECTOR[2]
    assert lines[0]["timestamp"].endswith("Z")


# The command


def invoke(
    access: KafkaAccess, folder: Path, topic: str, *words: object, out: str = "out.parquet"
) -> tuple[dict[str, object], Path]:
    config = folder / "settings.yaml"
    config.write_text(
        f"kafka: {{bootstrap_servers: '{access.bootstrap_servers}'}}\n"
        f"topics: {{decisions: {topic}}}\n"
    )
    app = typer.Typer()
    app.command()(export)
    name = words[0] if words and not str(words[0]).startswith("-") else topic
    options = [word for word in words if word is not name]
    arguments = [name, "--out", folder / out, "-c", config, "--json", *options]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), folder / out


@pytest.mark.parametrize("by_kind", [True, False])
def test_a_topic_is_known_by_its_kind_and_by_its_name(
    access: KafkaAccess, topic: str, tmp_path: Path, by_kind: bool
) -> None:
    outputs = encoder(topic).decisions([decision()], VECTOR[None], [SOURCE], [0], TIMINGS_MS)
    publish_outputs(access, topic, outputs)
    summary, file = invoke(access, tmp_path, topic, "decisions" if by_kind else topic)
    assert summary["records"] == 1
    assert summary["topic"] == topic
    assert "feature.amount" in pl.read_parquet(file).columns


def test_what_cannot_be_is_refused_before_anything_is_read(
    access: KafkaAccess, topic: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"must end in \.parquet, \.csv, \.jsonl"):
        invoke(access, tmp_path, topic, out="out.xlsx")
    with pytest.raises(UsageError, match="there is no topic"):
        invoke(access, tmp_path, topic, f"{topic}-absent")
    with pytest.raises(UsageError, match="--from-time soon: write a date"):
        invoke(access, tmp_path, topic, "--from-time", "soon")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        invoke(access, tmp_path, topic, out="file/out.parquet")


def test_an_export_that_breaks_off_leaves_what_was_there(
    access: KafkaAccess, topic: str, transactions: Callable[..., Producer], tmp_path: Path
) -> None:
    file = tmp_path / "out.parquet"
    file.write_text("before")
    transactions([b"{}"] * 3)

    def broken() -> Iterator[Sequence[Record]]:
        yield from TopicDrain(access, topic).slices()
        raise ServiceAwayError("gone")

    with pytest.raises(ServiceAwayError):
        write_file(broken(), topic, TopicKind.OTHER, file)
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_an_absent_kafka_is_told_soon(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "_REQUEST_TIMEOUT_S", 1.0)
    started_s = time.monotonic()
    with pytest.raises(ServiceAwayError, match="Kafka cannot be reached"):
        invoke(KafkaAccess(f"{HOST}:{find_free_port()}"), tmp_path, topic)
    assert time.monotonic() - started_s < 10
