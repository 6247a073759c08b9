"""Bad records through the live worker: one dead letter each, and their neighbours untouched.

The whole of the corpus goes through one worker at once, payments and labels, each between good
ones; so does every kind of header junk, beside good payments and bad ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import PATIENCE_S, Deployment, Position, Row, payment
from hostile import CARD_NUMBER, RECORD_TIME_MS, Hostile
from hostile_headers import CANARY, JUNK, HeaderJunk, Headers
from services import Services

from fraudstream.errors import ExitCode
from fraudstream.event import EVENT_BYTES_MAX

pytestmark = pytest.mark.services

#: Good payments before each bad one, so that a bad quarter of all is not a bad deployment.
NEIGHBOURS = 3
OUTPUTS = ("decisions", "alerts", "dead_letters")
FRAME = b"\0\0\0\0\x01"


class Sent(NamedTuple):
    """A record as it is published. A bad one has a name."""

    kind: str
    value: bytes | None
    timestamp_ms: int
    #: That of the card which a bad one claims to be of.
    key: bytes = b"c7"
    junk: HeaderJunk | None = None
    name: str = ""


class Expected(NamedTuple):
    """What a bad record's dead letter says."""

    reason: str
    field: str
    kind: str
    key: bytes | None
    value: bytes | None


class Published(NamedTuple):
    """An output as the client reads it: headers with their order and their copies."""

    kind: str
    source: Position
    headers: Headers
    everything: bytes


class Outcome(NamedTuple):
    """What a run came to."""

    #: By name of the bad record.
    letters: dict[str, Row]
    #: By id of the payment.
    decisions: dict[str, dict[str, Any]]
    alerts: list[str]
    outputs: list[Published]
    junk: dict[Position, HeaderJunk]
    labels_applied: float
    log: str


# ------------------------------------------------------------------ what is published


def _cases() -> dict[str, tuple[str, Hostile]]:
    """Name every case of the corpus."""
    kinds = {"transactions": hostile.PAYMENTS, "labels": hostile.LABELS}
    return {f"{k}: {case.name}": (k, case) for k, cases in kinds.items() for case in cases}


CASES = _cases()


def _good_payment(number: int) -> Sent:
    event = payment(number)
    time_ms = event["event_time"]
    assert isinstance(time_ms, int)
    return Sent("transactions", orjson.dumps(event), time_ms, str(event["card_id"]).encode())


def _good_label(number: int) -> Sent:
    """Make a label of a terminal that no payment names, so that decisions do not wait for it."""
    value = hostile.label(transaction_id=f"l{number}", terminal_id="another")
    return Sent("labels", value, RECORD_TIME_MS)


def _corpus() -> Iterator[Sent]:
    """Put each bad record behind good ones, and header junk beside both kinds."""
    number, junk = 0, iter(JUNK)
    more_junk = cycle(JUNK)
    for name, (kind, case) in CASES.items():
        good = [_good_label(number)]
        if kind == "transactions":
            good = [_good_payment(number + n) for n in range(NEIGHBOURS)]
        good[0] = good[0]._replace(junk=next(junk, None))
        yield from good
        number += len(good)
        # Of the bad ones only every tenth: some of the junk is half a megabyte.
        beside = next(more_junk) if number % 10 == 0 else None
        yield Sent(kind, case.value, RECORD_TIME_MS, junk=beside, name=name)
    assert next(junk, None) is None


def _publish(
    services: Services, topics: Mapping[str, str], records: Sequence[Sent]
) -> list[Position]:
    """Publish records with their own timestamps; give their places."""
    producer = Producer(
        {
            "bootstrap.servers": services.bootstrap_servers,
            "message.max.bytes": 12_000_000,
            "linger.ms": 5,
            "log_level": 0,
        }
    )
    places: dict[int, Position] = {}
    for number, sent in enumerate(records):

        def note(error: KafkaError | None, message: Message, number: int = number) -> None:
            assert error is None, error
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            places[number] = (topic, partition, offset)

        producer.produce(
            topics[sent.kind],
            sent.value,
            sent.key,
            timestamp=sent.timestamp_ms,
            headers=list(sent.junk.headers) if sent.junk else [],
            on_delivery=note,
        )
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0
    return [places[number] for number in range(len(records))]


def _stamp_by_publishers(deployment: Deployment) -> None:
    """Have the input topics keep the publishers' timestamps: the corpus is of 2018."""
    entry = ConfigEntry(
        "message.timestamp.type", "CreateTime", incremental_operation=AlterConfigOpType.SET
    )
    resources = [
        ConfigResource(ResourceType.TOPIC, deployment.topics[kind], incremental_configs=[entry])
        for kind in ("transactions", "labels")
    ]
    for future in deployment.admin.incremental_alter_configs(resources).values():
        future.result(PATIENCE_S)


# ------------------------------------------------------------------ runs


def _run(
    services: Services, folder: Path, records: Sequence[Sent], settings: Mapping[str, object]
) -> Outcome:
    with Deployment(services, folder, partitions=1, settings=settings) as deployment:
        deployment.create_topics()
        _stamp_by_publishers(deployment)
        # All of it before the start: bad and good records share batches.
        places = _publish(services, deployment.topics, records)
        worker = deployment.start().await_ready()
        deployment.await_done()
        labels = worker.metric("fraudstream_records_total", 'result="applied",topic_kind="labels"')
        assert worker.stop() == ExitCode.OK
        return _outcome(services, deployment, dict(zip(places, records, strict=True)), labels)


def _outcome(
    services: Services,
    deployment: Deployment,
    sent: Mapping[Position, Sent],
    labels_applied: float,
) -> Outcome:
    letters = deployment.drain("dead_letters")
    names = {place: record.name for place, record in sent.items() if record.name}
    assert Counter(row.source for row in letters) == Counter(list(names))
    decisions = [row.json() for row in deployment.drain("decisions")]
    by_id = {str(decision["transaction_id"]): decision for decision in decisions}
    assert len(by_id) == len(decisions)
    for decision in decisions:
        del decision["timings_ms"], decision["source"]
    return Outcome(
        {names[row.source]: row for row in letters},
        by_id,
        [row.json()["alert_id"] for row in deployment.drain("alerts")],
        list(_read_outputs(services, deployment)),
        {place: record.junk for place, record in sent.items() if record.junk},
        labels_applied,
        deployment.workers[0].text(),
    )


def _read_outputs(services: Services, deployment: Deployment) -> Iterator[Published]:
    """Read the outputs once more, with every copy of a header."""
    kinds = {deployment.topics[kind]: kind for kind in OUTPUTS}
    consumer = Consumer(
        {
            "bootstrap.servers": services.bootstrap_servers,
            "group.id": f"{deployment.name}-headers",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0) for topic in kinds])
        left = len(kinds)
        while left:
            (message,) = consumer.consume(1, PATIENCE_S)
            error = message.error()
            if error is None:
                yield _published(message, kinds)
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                left -= 1
    finally:
        consumer.close()


def _published(message: Message, kinds: Mapping[str, str]) -> Published:
    headers: Any = message.headers()
    found = dict(headers)
    source = (
        found["fs_source_topic"].decode(),
        int(found["fs_source_partition"]),
        int(found["fs_source_offset"]),
    )
    parts = [message.key(), message.value(), *(part for header in headers for part in header)]
    everything = b"\n".join(p.encode() if isinstance(p, str) else p or b"" for p in parts)
    return Published(kinds[str(message.topic())], source, headers, everything)


@pytest.fixture(scope="module")
def with_bad(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return _run(services, tmp_path_factory.mktemp("with"), list(_corpus()), {})


# ------------------------------------------------------------------ what must come out


def _expected(kind: str, case: Hostile) -> Expected:
    """Say what the dead letter keeps: nothing large, and nothing like a card number."""
    value = case.value
    holds = case.reason == "card_number" or CARD_NUMBER.encode() in (value or b"")
    is_kept = value is not None and len(value) <= EVENT_BYTES_MAX and not holds
    key = None if case.reason == "card_number" else b"c7"
    return Expected(case.reason.value, case.field, kind, key, value if is_kept else None)


def _found(letter: Row) -> Expected:
    headers = letter.headers
    kind = headers["fs_source_topic"].rpartition(".")[2]
    return Expected(headers["fs_reason"], headers["fs_field"], kind, letter.key, letter.value)


def test_each_has_one_dead_letter_that_says_why(with_bad: Outcome) -> None:
    found = {name: _found(letter) for name, letter in with_bad.letters.items()}
    expected = {name: _expected(kind, case) for name, (kind, case) in CASES.items()}
    assert {n: found[n] for n in CASES if found[n] != expected[n]} == {}
    assert len(found) == len(CASES) > 700
    for letter in with_bad.letters.values():
        assert letter.headers["ce_type"] == "fraudstream.dead-letter.v1"
        assert letter.headers["fs_attempt_records"].isdecimal()


def test_their_neighbours_are_decided_as_if_they_were_not_there(
    services: Services, tmp_path: Path, with_bad: Outcome
) -> None:
    good = [sent._replace(junk=None) for sent in _corpus() if not sent.name]
    without_bad = _run(services, tmp_path, good, {})
    assert len(without_bad.decisions) == NEIGHBOURS * len(hostile.PAYMENTS)
    assert without_bad.letters == {}
    assert with_bad.labels_applied == without_bad.labels_applied == len(hostile.LABELS)
    replayed = sum(junk.is_replayed for junk in JUNK)
    flags = Counter(flag for d in with_bad.decisions.values() for flag in d["flags"])
    assert flags == {"replayed": replayed}
    for decision in with_bad.decisions.values():
        decision["flags"] = []
    assert with_bad.decisions == without_bad.decisions
    assert with_bad.alerts == without_bad.alerts


def test_of_headers_a_trace_goes_on_and_nothing_else(with_bad: Outcome) -> None:
    seen = set()
    for output in with_bad.outputs:
        junk = with_bad.junk.get(output.source)
        passed_on = [(n, v) for n, v in output.headers if n in {"traceparent", "tracestate"}]
        assert passed_on == list(junk.passed_on if junk else ()), output.source
        names = [name for name, _ in output.headers]
        assert len(set(names)) == len(names), output.source
        assert output.headers[-2][0] == "fs_attempt"
        seen.add((output.kind, junk.name if junk else ""))
    for kind in ("decisions", "dead_letters"):
        assert {name for k, name in seen if k == kind} == {"", *(junk.name for junk in JUNK)}


def test_nothing_of_headers_and_no_card_number_is_told(with_bad: Outcome) -> None:
    for output in with_bad.outputs:
        assert CANARY not in output.everything, output.source
        digits = output.everything.replace(b" ", b"").replace(b"-", b"")
        assert CARD_NUMBER.encode() not in digits, output.source
    assert CANARY.decode() not in with_bad.log
    assert CARD_NUMBER not in with_bad.log


def test_where_a_frame_is_required_one_without_it_is_bad(
    services: Services, tmp_path: Path
) -> None:
    good = [_good_payment(number) for number in range(10 * len(hostile.FRAMED))]
    records = [sent._replace(value=FRAME + (sent.value or b"")) for sent in good]
    for number, case in enumerate(hostile.FRAMED):
        bad = Sent("transactions", case.value, RECORD_TIME_MS, name=case.name)
        records.insert(11 * number + 5, bad)
    outcome = _run(services, tmp_path, records, {"EVENTS__FRAMING": "confluent"})
    expected = {case.name: _expected("transactions", case) for case in hostile.FRAMED}
    assert {name: _found(letter) for name, letter in outcome.letters.items()} == expected
    assert len(outcome.decisions) == len(good)
    assert not any(decision["flags"] for decision in outcome.decisions.values())
