"""Bad records through the live worker: one dead letter each, and their neighbours untouched."""

from __future__ import annotations

import ctypes
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from harness import BEGIN_MS, DAY_MS, Deployment, Outgoing, Position, Row, payment
from services import Services

from fraudstream.errors import ExitCode, Reason

pytestmark = pytest.mark.services

NEIGHBOURS = 300
TEN_MB = 10 * 1024 * 1024
#: Passes Luhn; never given out.
CARD_NUMBER = "4539578763621486"
TEN_YEARS_MS = 3_653 * DAY_MS
#: Beyond any time the tests run at.
FUTURE_MS = BEGIN_MS + 3 * TEN_YEARS_MS
LABEL: dict[str, object] = {
    "transaction_id": "p1",
    "event_time": BEGIN_MS + 60_000,
    "card_id": "c1",
    "terminal_id": "t1",
    "is_fraud": True,
    "reported_at": BEGIN_MS + DAY_MS,
    "source": "test",
}


class Bad(NamedTuple):
    """A bad record, and what its dead letter says."""

    value: bytes | None
    reason: Reason
    field: str = ""
    kind: str = "transactions"
    is_kept: bool = True


def but(**fields: object) -> bytes:
    """Make a payment with something wrong in it."""
    return orjson.dumps(payment(7, transaction_id="bad") | fields)


def without(name: str) -> bytes:
    return orjson.dumps({n: v for n, v in payment(7).items() if n != name})


BAD = {
    "no JSON": Bad(b"amount=12.50", Reason.INVALID_JSON),
    "half of it": Bad(but()[:-20], Reason.INVALID_JSON),
    "not a number": Bad(but().replace(b"1259", b"NaN"), Reason.INVALID_JSON),
    "no UTF-8": Bad(b'{"card_id": "\xff\xfe"}', Reason.INVALID_UTF8),
    "a list": Bad(b"[1, 2]", Reason.NOT_AN_OBJECT),
    "deep": Bad(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, Reason.TOO_DEEP),
    "null": Bad(None, Reason.NULL_VALUE, is_kept=False),
    "empty": Bad(b"", Reason.EMPTY),
    "10 MB": Bad(but(note="x" * TEN_MB), Reason.TOO_LARGE, is_kept=False),
    "just too large": Bad(but(note="x" * 65_536), Reason.TOO_LARGE, is_kept=False),
    "a schema registry's": Bad(b"\0\0\0\0\7" + but(), Reason.FRAMING),
    "amount as text": Bad(but(amount_minor="12"), Reason.WRONG_TYPE, "amount_minor"),
    "amount with a fraction": Bad(but(amount_minor=12.5), Reason.WRONG_TYPE, "amount_minor"),
    "id as a number": Bad(but(card_id=17), Reason.WRONG_TYPE, "card_id"),
    "card is null": Bad(but(card_id=None), Reason.WRONG_TYPE, "card_id"),
    "id with a blank": Bad(but(terminal_id="a b"), Reason.BAD_FORMAT, "terminal_id"),
    "time without a zone": Bad(
        but(event_time="2024-01-01T00:00:00"), Reason.BAD_FORMAT, "event_time"
    ),
    "no card": Bad(without("card_id"), Reason.MISSING_FIELD, "card_id"),
    "no currency": Bad(without("currency"), Reason.MISSING_FIELD, "currency"),
    "negative amount": Bad(but(amount_minor=-1), Reason.OUT_OF_RANGE, "amount_minor"),
    "huge amount": Bad(but(amount_minor=10**12 + 1), Reason.OUT_OF_RANGE, "amount_minor"),
    "unknown currency": Bad(but(currency="ZZZ"), Reason.UNKNOWN_CURRENCY, "currency"),
    "1970": Bad(but(event_time=86_400), Reason.TIME_TOO_EARLY, "event_time"),
    "in ten years": Bad(but(event_time=FUTURE_MS), Reason.TIME_IN_FUTURE, "event_time"),
    "a card number": Bad(but(card_id=CARD_NUMBER), Reason.CARD_NUMBER, "card_id", is_kept=False),
    "one in a note": Bad(but(note=CARD_NUMBER), Reason.CARD_NUMBER, is_kept=False),
    "a label of no kind": Bad(b"{}", Reason.MISSING_FIELD, "transaction_id", "labels"),
    "a label's future": Bad(
        orjson.dumps(LABEL | {"reported_at": FUTURE_MS}),
        Reason.TIME_IN_FUTURE,
        "reported_at",
        "labels",
    ),
}


class Outcome(NamedTuple):
    """What a run came to."""

    letters: dict[str, Row]
    decisions: dict[str, dict[str, object]]
    alerts: list[str]


def _mixed() -> Iterator[tuple[str, Outgoing]]:
    """Put each bad record between good ones of the card that it claims to be of."""
    bad = list(BAD.items())
    for number in range(NEIGHBOURS):
        event = payment(number)
        yield "", ("transactions", str(event["card_id"]).encode(), event, ())
        if number % 10 == 7 and bad:
            name, record = bad.pop(0)
            yield name, (record.kind, b"c7", record.value, ())
    assert not bad


def _run(services: Services, folder: Path, records: list[tuple[str, Outgoing]]) -> Outcome:
    with Deployment(services, folder, partitions=1) as deployment:
        deployment.create_topics()
        # All of it before the start: bad and good records share batches.
        places = deployment.publish_records(outgoing for _, outgoing in records)
        names: dict[Position, str] = {
            place: name for place, (name, _) in zip(places, records, strict=True) if name
        }
        worker = deployment.start().await_ready()
        deployment.await_done()
        assert worker.stop() == ExitCode.OK
        letters = deployment.drain("dead_letters")
        assert Counter(row.source for row in letters) == Counter(list(names))
        decisions = [row.json() for row in deployment.drain("decisions")]
        by_id = {decision["transaction_id"]: decision for decision in decisions}
        assert len(by_id) == len(decisions)
        for decision in decisions:
            del decision["timings_ms"], decision["source"]
        alerts = [row.json()["alert_id"] for row in deployment.drain("alerts")]
        return Outcome({names[row.source]: row for row in letters}, by_id, alerts)


@pytest.fixture(scope="module")
def with_bad(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return _run(services, tmp_path_factory.mktemp("with"), list(_mixed()))


@pytest.mark.parametrize("name", BAD)
def test_each_has_one_dead_letter_that_says_why(with_bad: Outcome, name: str) -> None:
    bad, letter = BAD[name], with_bad.letters[name]
    assert letter.headers["fs_reason"] == bad.reason.value
    assert letter.headers["fs_field"] == bad.field
    assert letter.headers["fs_source_topic"].endswith(f".{bad.kind}")
    assert letter.headers["ce_type"] == "fraudstream.dead-letter.v1"
    assert letter.key == (None if bad.reason is Reason.CARD_NUMBER else b"c7")
    assert letter.value == (bad.value if bad.is_kept else None)
    assert letter.headers["fs_attempt_records"].isdecimal()


def test_their_neighbours_are_decided_as_if_they_were_not_there(
    services: Services, tmp_path: Path, with_bad: Outcome
) -> None:
    without_bad = _run(services, tmp_path, [entry for entry in _mixed() if not entry[0]])
    assert len(without_bad.decisions) == NEIGHBOURS
    assert without_bad.letters == {}
    assert with_bad.decisions == without_bad.decisions
    assert with_bad.alerts == without_bad.alerts


def _publish_with_header_name(
    bootstrap_servers: str, topic: str, value: bytes, name: bytes
) -> None:
    """Publish as a C program may: the Python client takes no header names that are not text."""
    found = importlib.util.find_spec("confluent_kafka")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    (library,) = [
        *package.parent.glob("confluent_kafka.libs/librdkafka-*"),
        *package.glob(".dylibs/librdkafka*"),
    ]
    rdkafka = ctypes.CDLL(str(library))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    rdkafka.rd_kafka_conf_new.restype = rdkafka.rd_kafka_new.restype = pointer
    conf = pointer(rdkafka.rd_kafka_conf_new())
    assert (
        rdkafka.rd_kafka_conf_set(
            conf,
            text(b"bootstrap.servers"),
            text(bootstrap_servers.encode()),
            None,
            ctypes.c_size_t(0),
        )
        == 0
    )
    producer = pointer(rdkafka.rd_kafka_new(number(0), conf, None, ctypes.c_size_t(0)))
    # Tags of rdkafka.h: 1 topic, 4 value and its size, 9 header name, value and its size, 0 end.
    assert rdkafka.rd_kafka_producev(
        producer, number(1), text(topic.encode()), number(4), text(value),
        ctypes.c_size_t(len(value)), number(9), text(name), text(b"x"), ctypes.c_ssize_t(1),
        number(0),
    ) == 0  # fmt: skip
    assert rdkafka.rd_kafka_flush(producer, number(10_000)) == 0
    rdkafka.rd_kafka_destroy(producer)


def test_headers_that_cannot_be_read_stop_nothing(services: Services, tmp_path: Path) -> None:
    with Deployment(services, tmp_path, partitions=1) as deployment:
        deployment.create_topics()
        for number, value in enumerate([orjson.dumps(payment(7)), b"no JSON"]):
            _publish_with_header_name(
                services.bootstrap_servers, deployment.topics["transactions"], value, b"\xff\xfe"
            )
            deployment.publish([payment(number)])
        worker = deployment.start().await_ready()
        deployment.await_done()
        assert worker.stop() == ExitCode.OK
        assert len(deployment.drain("decisions")) == 3
        assert len(deployment.drain("dead_letters")) == 1
