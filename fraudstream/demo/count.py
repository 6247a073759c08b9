"""The count: whether every event is answered exactly once, and every alert is there once.

Pure: it is given what a reader found in the topics and knows nothing of the run. Events, decisions
and dead letters are matched by the position of the input record, which every output names in its
headers; alerts also by the decision that they name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from fraudstream.card_number import bytes_hold_card_number
from fraudstream.event import Record

_NO_ALERT_OUTCOME: Final = "APPROVE"
_NO_ALERT_FLAG: Final = "duplicate"


class Position(NamedTuple):
    """Where an input record lies."""

    topic: str
    partition: int
    offset: int


#: Of an output that does not say what it answers.
NOWHERE: Final = Position("", -1, -1)


@dataclass(frozen=True, slots=True)
class Count:
    """What was found.

    Attributes
    ----------
    events
        Records of the transactions topic, and labels that were dead-lettered.
    decisions, dead_letters, alerts
        Records of the output topics.
    bad_labels
        How many of the dead letters answer a label.
    lost
        Events without any answer.
    doubled
        Answers beyond the first of an event.
    invented
        Answers to what was never asked.
    alerts_missing, alerts_doubled, alerts_unfounded
        Against the decisions that call for one: ``REVIEW`` or ``DECLINE``, and no duplicate.
    card_numbers
        Dead letters that hold what looks like a card number.
    """

    events: int
    decisions: int
    dead_letters: int
    alerts: int
    bad_labels: int
    lost: int
    doubled: int
    invented: int
    alerts_missing: int
    alerts_doubled: int
    alerts_unfounded: int
    card_numbers: int

    @property
    def problems(self) -> list[str]:
        """What is wrong, a sentence each; nothing if all is well."""
        found = {
            "events were neither decided nor dead-lettered": self.lost,
            "answers came twice": self.doubled,
            "answers belong to no event": self.invented,
            "alerts are missing": self.alerts_missing,
            "alerts came twice": self.alerts_doubled,
            "alerts belong to no decision that calls for one": self.alerts_unfounded,
            "dead letters hold a card number": self.card_numbers,
        }
        sentences = [f"{number:,} {words}" for words, number in found.items() if number]
        if not sentences and self.decisions + self.dead_letters != self.events:
            sentences.append("decisions and dead letters do not add up to the events")
        return sentences


def count(
    transactions: Sequence[Record],
    decisions: Sequence[Record],
    alerts: Sequence[Record],
    dead_letters: Sequence[Record],
    labels: Sequence[Record] = (),
) -> Count:
    """Match what went in with what came out.

    Parameters
    ----------
    transactions, decisions, alerts, dead_letters
        Everything in these topics, as a ``read_committed`` reader sees it.
    labels
        Likewise. A label is no event unless it was dead-lettered.
    """
    events = {Position(*record[:3]) for record in transactions}
    known_labels = {Position(*record[:3]) for record in labels}
    decided = Counter(source(record) for record in decisions)
    refused = Counter(source(record) for record in dead_letters)
    bad_labels = {position for position in refused if position in known_labels}
    answers = decided + refused
    invented = (set(decided) - events) | (set(refused) - events - known_labels)
    due = {_alert_key(record) for record in decisions if calls_for_alert(body(record))}
    alerted = Counter(_alert_key(record) for record in alerts)
    return Count(
        events=len(events) + len(bad_labels),
        decisions=len(decisions),
        dead_letters=len(dead_letters),
        alerts=len(alerts),
        bad_labels=len(bad_labels),
        lost=len(events - set(answers)),
        doubled=answers.total() - len(answers),
        invented=len(invented),
        alerts_missing=len(due - set(alerted)),
        alerts_doubled=alerted.total() - len(alerted),
        alerts_unfounded=len(set(alerted) - due),
        card_numbers=sum(_holds_card_number(record) for record in dead_letters),
    )


def source(record: Record) -> Position:
    """Say which input record an output answers; `NOWHERE` if it does not say so itself.

    Examples
    --------
    >>> headers = (("fs_source_topic", b"t"), ("fs_source_partition", b"3"),
    ...            ("fs_source_offset", b"42"))
    >>> source(Record("decisions", 0, 0, 0, None, b"{}", headers))
    Position(topic='t', partition=3, offset=42)
    """
    headers = dict(record.headers)
    topic = headers.get("fs_source_topic")
    numbers = [headers.get(f"fs_source_{name}") or b"" for name in ("partition", "offset")]
    if topic is None or not all(number.isdigit() for number in numbers):
        return NOWHERE
    return Position(topic.decode(), int(numbers[0]), int(numbers[1]))


def body(record: Record) -> dict[str, Any]:
    """Read a decision or an alert."""
    content: dict[str, Any] = orjson.loads(record.value or b"{}")
    return content


def calls_for_alert(decision: Mapping[str, Any]) -> bool:
    """Tell whether somebody has to hear of a decision.

    Examples
    --------
    >>> calls_for_alert({"outcome": "REVIEW", "flags": []})
    True
    >>> calls_for_alert({"outcome": "REVIEW", "flags": ["duplicate"]})
    False
    """
    return decision["outcome"] != _NO_ALERT_OUTCOME and _NO_ALERT_FLAG not in decision["flags"]


def _alert_key(record: Record) -> tuple[Position, object]:
    return source(record), body(record).get("decision_id")


def _holds_card_number(record: Record) -> bool:
    return any(bytes_hold_card_number(part) for part in (record.key, record.value) if part)
