"""Decision → bytes of the output topics. Sixth and last stage of the data's way.

Every outcome of a record leaves the worker in one of three shapes: a decision (for every
transaction: the audit log and the training log), an alert (for ``REVIEW`` and ``DECLINE``: what
people and case systems read), or a dead letter. All carry CloudEvents 1.0 headers in binary mode,
the place of the record that they answer, and the trace context that came with it.

JSON is written with NaN as null, float32 numbers in their shortest form, and times in RFC 3339,
UTC, with milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from fraudstream.card_number import bytes_hold_card_number
from fraudstream.currency import format_major
from fraudstream.decision import Decision, Reason, identity
from fraudstream.errors import InvalidEventError
from fraudstream.errors import Reason as DeadLetterReason
from fraudstream.event import EVENT_BYTES_MAX, EVENT_TIME_MAX_MS, Record, format_time

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")
_TRACE = {"traceparent": _TRACEPARENT, "tracestate": _TRACESTATE}

#: As the Kafka client takes them.
Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """Where decisions, alerts and dead letters go."""

    decisions: str
    alerts: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made a decision."""

    name: str
    version: str
    sha256: str


class OutputRecord(NamedTuple):
    """A record to publish."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    #: The index, in its batch, of the input record that this answers.
    source_index: int
    is_dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Encoder:
    """Writes the outputs of one model under one policy.

    Parameters
    ----------
    topics
        Names of the output topics.
    model
        Goes into every decision and alert.
    policy_version
        Likewise.
    feature_names
        The k columns of the vectors.
    """

    topics: OutputTopics
    model: ModelIdentity
    policy_version: str
    feature_names: tuple[str, ...]

    def decision(
        self,
        decision: Decision,
        vector: NDArray[np.float32],
        record: Record,
        index: int,
        timings_ms: dict[str, float],
    ) -> OutputRecord:
        """Encode the decision, with its vector of shape (k,)."""
        identifier = identity(decision.transaction)
        body = {"decision_id": f"d-{identifier}"} | self._common(decision, record)
        body["features"] = dict(zip(self.feature_names, vector, strict=True))
        body["timings_ms"] = timings_ms
        headers = _headers("decision", body["decision_id"], record, body["event_time"])
        key = decision.transaction.card_id.encode()
        value = orjson.dumps(body, option=_NUMPY)
        return OutputRecord(self.topics.decisions, key, value, headers, index)

    def alert(self, decision: Decision, record: Record, index: int) -> OutputRecord:
        """Encode the alert: no vector, but the amount as people write it."""
        transaction = decision.transaction
        identifier = identity(transaction)
        body: dict[str, object] = {"alert_id": f"a-{identifier}", "decision_id": f"d-{identifier}"}
        body |= self._common(decision, record)
        body["amount"] = format_major(transaction.amount_minor, transaction.currency)
        headers = _headers(
            "alert", f"a-{identifier}", record, format_time(transaction.event_time_ms)
        )
        key = transaction.card_id.encode()
        return OutputRecord(
            self.topics.alerts, key, orjson.dumps(body, option=_NUMPY), headers, index
        )

    def dead_letter(self, error: InvalidEventError, record: Record, index: int) -> OutputRecord:
        """Encode a record that can never become an event, without anything like a card number."""
        headers = _headers(
            "dead-letter",
            f"{record.topic}-{record.partition}-{record.offset}",
            record,
            format_time(min(max(record.timestamp_ms, 0), EVENT_TIME_MAX_MS)),
        )
        headers += [
            ("fs_reason", error.reason.value.encode()),
            ("fs_field", error.field.encode()),
        ]
        key, value = record.key, record.value
        if error.reason is DeadLetterReason.CARD_NUMBER:
            key = value = None
        if key is not None and (len(key) > EVENT_BYTES_MAX or bytes_hold_card_number(key)):
            key = None
        if value is not None and (len(value) > EVENT_BYTES_MAX or bytes_hold_card_number(value)):
            value = None
        return OutputRecord(
            self.topics.dead_letters, key, value, headers, index, is_dead_letter=True
        )

    def _common(self, decision: Decision, record: Record) -> dict[str, object]:
        transaction = decision.transaction
        model = self.model
        return {
            "transaction_id": transaction.transaction_id,
            "event_time": format_time(transaction.event_time_ms),
            "card_id": transaction.card_id,
            "terminal_id": transaction.terminal_id,
            "amount_minor": transaction.amount_minor,
            "currency": transaction.currency,
            "score": decision.score,
            "outcome": decision.outcome.value,
            "reasons": [_reason(reason) for reason in decision.reasons],
            "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
            "policy": self.policy_version,
            "flags": [flag.value for flag in decision.flags],
            "missing_features": decision.missing_features,
            "source": {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
            },
        }


def _reason(reason: Reason) -> dict[str, object]:
    return {
        "code": reason.code,
        "text": reason.text,
        "feature": reason.feature,
        "value": reason.value,
        "contribution": reason.contribution,
    }


def _headers(kind: str, identifier: object, record: Record, time: object) -> Headers:
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", f"fraudstream.{kind}.v1".encode()),
        ("ce_source", f"/fraudstream/{record.topic}/{record.partition}".encode()),
        ("ce_id", str(identifier).encode()),
        ("ce_time", str(time).encode()),
        ("content-type", b"application/json"),
        ("fs_source_topic", record.topic.encode()),
        ("fs_source_partition", b"%d" % record.partition),
        ("fs_source_offset", b"%d" % record.offset),
    ]
    return headers + _trace(record) if record.headers else headers


def _trace(record: Record) -> Headers:
    """Pass the W3C trace context through, if it is one: headers are a publisher's free text."""
    kept: dict[str, bytes] = {}
    for name, value in record.headers:
        pattern = _TRACE.get(name)
        # One of each: what many copies add up to, no output could carry, nor its dead letter.
        if pattern is None or name in kept or value is None or pattern.fullmatch(value) is None:
            continue
        if not bytes_hold_card_number(value):
            kept[name] = value
    return list(kept.items())
