"""The demo's count: what is lost, doubled or invented makes it fail, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import orjson
import pytest

from fraudstream.demo.bad_records import TEST_CARD_NUMBER, bad_records
from fraudstream.demo.count import Count, Position, count, source
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import EventRules, Record, parse_label, parse_transaction

OUTCOMES = ("APPROVE", "REVIEW", "DECLINE", "APPROVE", "REVIEW")
BAD_OFFSET = len(OUTCOMES)
NOW_MS = 1_790_000_000_000


def output(
    topic: str, offset: int, answered: Position, body: Mapping[str, object] | None = None
) -> Record:
    headers = (
        ("fs_source_topic", answered.topic.encode()),
        ("fs_source_partition", str(answered.partition).encode()),
        ("fs_source_offset", str(answered.offset).encode()),
    )
    return Record(topic, 0, offset, NOW_MS, b"key", orjson.dumps(body or {}), headers)


def decision(offset: int, outcome: str, flags: tuple[str, ...] = ()) -> Record:
    body = {"decision_id": f"d-{offset}", "outcome": outcome, "flags": flags}
    return output("decisions", offset, Position("transactions", 0, offset), body)


def alert(offset: int) -> Record:
    body: dict[str, object] = {"alert_id": f"a-{offset}", "decision_id": f"d-{offset}"}
    return output("alerts", offset, Position("transactions", 0, offset), body)


def dead_letter(offset: int, topic: str = "transactions") -> Record:
    return output("dead-letters", offset, Position(topic, 0, offset))


def inputs(topic: str, number: int) -> list[Record]:
    return [Record(topic, 0, offset, NOW_MS, b"key", b"{}") for offset in range(number)]


@dataclass(frozen=True)
class Topics:
    """Five payments decided, three of them alerted; a bad record and a bad label."""

    transactions: list[Record] = field(default_factory=lambda: inputs("transactions", 6))
    decisions: list[Record] = field(
        default_factory=lambda: [decision(o, outcome) for o, outcome in enumerate(OUTCOMES)]
    )
    alerts: list[Record] = field(default_factory=lambda: [alert(o) for o in (1, 2, 4)])
    dead_letters: list[Record] = field(
        default_factory=lambda: [dead_letter(BAD_OFFSET), dead_letter(1, "labels")]
    )
    labels: list[Record] = field(default_factory=lambda: inputs("labels", 3))

    def count(self) -> Count:
        return count(self.transactions, self.decisions, self.alerts, self.dead_letters, self.labels)


def test_the_count_comes_out() -> None:
    found = Topics().count()
    assert found.problems == []
    assert found.events == 7
    assert (found.decisions, found.dead_letters, found.bad_labels, found.alerts) == (5, 2, 1, 3)
    assert found.events == found.decisions + found.dead_letters


def test_a_label_is_no_event_unless_it_is_bad() -> None:
    topics = Topics()
    assert replace(topics, labels=inputs("labels", 99)).count().events == 7


TAMPERINGS: dict[str, tuple[Callable[[Topics], Topics], str]] = {
    "a decision removed": (
        lambda t: replace(t, decisions=t.decisions[1:]),
        "1 events were neither decided nor dead-lettered",
    ),
    "an alerted decision removed": (
        lambda t: replace(t, decisions=t.decisions[:-1]),
        "1 alerts belong to no decision that calls for one",
    ),
    "a decision doubled": (
        lambda t: replace(t, decisions=[*t.decisions, t.decisions[0]]),
        "1 answers came twice",
    ),
    "one doubled and another removed": (
        lambda t: replace(t, decisions=[t.decisions[0], *t.decisions[:3], t.decisions[4]]),
        "1 answers came twice",
    ),
    "a dead letter removed": (
        lambda t: replace(t, dead_letters=t.dead_letters[1:]),
        "1 events were neither decided nor dead-lettered",
    ),
    "a dead letter doubled": (
        lambda t: replace(t, dead_letters=[*t.dead_letters, t.dead_letters[0]]),
        "1 answers came twice",
    ),
    "a label's dead letter doubled": (
        lambda t: replace(t, dead_letters=[*t.dead_letters, t.dead_letters[1]]),
        "1 answers came twice",
    ),
    "decided and dead-lettered": (
        lambda t: replace(t, dead_letters=[*t.dead_letters, dead_letter(0)]),
        "1 answers came twice",
    ),
    "a decision without input": (
        lambda t: replace(t, decisions=[*t.decisions, decision(77, "APPROVE")]),
        "1 answers belong to no event",
    ),
    "a decision on a label": (
        lambda t: replace(
            t,
            decisions=[
                *t.decisions,
                output(
                    "decisions", 9, Position("labels", 0, 0), {"outcome": "APPROVE", "flags": []}
                ),
            ],
        ),
        "1 answers belong to no event",
    ),
    "a decision that says nothing of its source": (
        lambda t: replace(t, decisions=[*t.decisions, t.decisions[0]._replace(headers=())]),
        "1 answers belong to no event",
    ),
    "a dead letter without input": (
        lambda t: replace(t, dead_letters=[*t.dead_letters, dead_letter(77)]),
        "1 answers belong to no event",
    ),
    "an alert removed": (
        lambda t: replace(t, alerts=t.alerts[1:]),
        "1 alerts are missing",
    ),
    "an alert doubled": (
        lambda t: replace(t, alerts=[*t.alerts, t.alerts[0]]),
        "1 alerts came twice",
    ),
    "an alert on an approved payment": (
        lambda t: replace(t, alerts=[*t.alerts, alert(0)]),
        "1 alerts belong to no decision that calls for one",
    ),
    "an alert that names another decision": (
        lambda t: replace(
            t, alerts=[*t.alerts[1:], t.alerts[0]._replace(value=b'{"decision_id": "d-2"}')]
        ),
        "1 alerts are missing",
    ),
    "an alert for a duplicate": (
        lambda t: replace(
            t, decisions=[t.decisions[0], decision(1, "REVIEW", ("duplicate",)), *t.decisions[2:]]
        ),
        "1 alerts belong to no decision that calls for one",
    ),
    "a card number in a dead letter": (
        lambda t: replace(
            t,
            dead_letters=[
                t.dead_letters[0]._replace(value=TEST_CARD_NUMBER.encode()),
                t.dead_letters[1],
            ],
        ),
        "1 dead letters hold a card number",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_is_tampered_with_is_found(name: str) -> None:
    tamper, sentence = TAMPERINGS[name]
    assert sentence in tamper(Topics()).count().problems


def test_a_duplicate_needs_no_alert() -> None:
    topics = Topics()
    decisions = [topics.decisions[0], decision(1, "REVIEW", ("duplicate",)), *topics.decisions[2:]]
    assert not replace(topics, decisions=decisions, alerts=topics.alerts[1:]).count().problems


@pytest.mark.parametrize("number", [b"", b"-1", b"seven", None])
def test_an_output_with_odd_headers_answers_nothing(number: bytes | None) -> None:
    headers = (
        ("fs_source_topic", b"t"),
        ("fs_source_partition", b"0"),
        ("fs_source_offset", number),
    )
    assert source(Record("decisions", 0, 0, 0, None, b"{}", headers)).topic == ""


def test_every_bad_record_is_refused_and_together_they_show_nearly_every_reason() -> None:
    """Were one of them an event, the demo would not show what it says."""
    reasons = []
    for number, bad in enumerate(bad_records(NOW_MS)):
        record = Record(bad.topic, 0, number, NOW_MS, b"bad", bad.value)
        parse = parse_label if bad.topic.endswith("labels") else parse_transaction
        with pytest.raises(InvalidEventError) as raised:
            parse(record, EventRules())
        reasons.append(raised.value.reason)
    assert len(reasons) >= 12
    assert set(Reason) - set(reasons) == {Reason.BAD_FORMAT, Reason.OUTPUT_REFUSED}
