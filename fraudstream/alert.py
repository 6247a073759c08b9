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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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


class Encoder:
    """Writes the outputs of one model under one policy.

    Decisions are written for every payment, so their JSON is put together from text: ids, currency
    and topic names hold nothing that JSON would escape (the contract says so), numbers come from
    orjson, a batch at a time, and what is the same for all of them was written once.

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

    def __init__(
        self,
        topics: OutputTopics,
        model: ModelIdentity,
        policy_version: str,
        feature_names: Sequence[str],
    ) -> None:
        self.topics = topics
        about = {"name": model.name, "version": model.version, "sha256": model.sha256}
        self._made_by = f'"model":{_json(about)},"policy":{_json(policy_version)}'
        self._columns = len(feature_names)
        names = (_json(name).replace("%", "%%") for name in feature_names)
        self._features = "{" + ",".join(f"{name}:%s" for name in names) + "}"

    def decisions(
        self,
        decisions: Sequence[Decision],
        vectors: NDArray[np.float32],
        records: Sequence[Record],
        indices: Sequence[int],
        timings_ms: Mapping[str, float],
    ) -> list[OutputRecord]:
        """Encode n decisions.

        Parameters
        ----------
        decisions, records, indices
            The decisions, the records that they answer, and the places of these in their batch.
        vectors
            Shape (n, k), float32, C-contiguous: what they were made from.
        timings_ms
            What each stage of the batch took.

        Raises
        ------
        ValueError
            The vectors are of another shape.
        """
        if vectors.shape != (len(decisions), self._columns):
            raise ValueError(f"vectors of shape {vectors.shape}")
        rows, timings = _rows_of_numbers(vectors), _json(timings_ms)
        encoded = []
        for decision, row, record, index in zip(decisions, rows, records, indices, strict=True):
            identifier, common, headers = self._common("decision", decision, record)
            value = (
                f'{{"decision_id":"{identifier}",{common},"features":{self._features % row},'
                f'"timings_ms":{timings}}}'
            )
            key = decision.transaction.card_id.encode()
            encoded.append(OutputRecord(self.topics.decisions, key, value.encode(), headers, index))
        return encoded

    def alert(self, decision: Decision, record: Record, index: int) -> OutputRecord:
        """Encode the alert: no vector, but the amount as people write it."""
        transaction = decision.transaction
        identifier, common, headers = self._common("alert", decision, record)
        amount = format_major(transaction.amount_minor, transaction.currency)
        value = (
            f'{{"alert_id":"{identifier}","decision_id":"d{identifier[1:]}",{common},'
            f'"amount":"{amount}"}}'
        )
        key = transaction.card_id.encode()
        return OutputRecord(self.topics.alerts, key, value.encode(), headers, index)

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

    def _common(self, kind: str, decision: Decision, record: Record) -> tuple[str, str, Headers]:
        """Write what decisions and alerts share: their id, JSON fields and headers."""
        transaction, flags, reasons = decision.transaction, decision.flags, decision.reasons
        missing = decision.missing_features
        identifier = f"{kind[0]}-{identity(transaction)}"
        time = format_time(transaction.event_time_ms)
        fields = (
            f'"transaction_id":"{transaction.transaction_id}","event_time":"{time}",'
            f'"card_id":"{transaction.card_id}","terminal_id":"{transaction.terminal_id}",'
            f'"amount_minor":{transaction.amount_minor},"currency":"{transaction.currency}",'
            f'"score":{_json(decision.score)},"outcome":"{decision.outcome}",'
            f'"reasons":{_json([_reason(r) for r in reasons]) if reasons else "[]"},'
            f"{self._made_by},"
            f'"flags":{_json([flag.value for flag in flags]) if flags else "[]"},'
            f'"missing_features":{_json(missing) if missing else "[]"},'
            f'"source":{{"topic":"{record.topic}","partition":{record.partition},'
            f'"offset":{record.offset}}}'
        )
        return identifier, fields, _headers(kind, identifier, record, time)


def _json(value: object) -> str:
    return orjson.dumps(value, option=_NUMPY).decode()


def _rows_of_numbers(vectors: NDArray[np.float32]) -> list[tuple[str, ...]]:
    """Write each number as JSON, all at once: one by one orjson takes far longer."""
    if not len(vectors):
        return []
    return [tuple(row.split(",")) for row in _json(vectors)[2:-2].split("],[")]


def _reason(reason: Reason) -> dict[str, object]:
    return {
        "code": reason.code,
        "text": reason.text,
        "feature": reason.feature,
        "value": reason.value,
        "contribution": reason.contribution,
    }


def _headers(kind: str, identifier: str, record: Record, time: str) -> Headers:
    before, after = _place_headers(kind, record.topic, record.partition)
    headers: Headers = [
        *before,
        ("ce_id", identifier.encode()),
        ("ce_time", time.encode()),
        *after,
        ("fs_source_offset", b"%d" % record.offset),
    ]
    return headers + _trace(record) if record.headers else headers


@lru_cache(maxsize=4096)
def _place_headers(kind: str, topic: str, partition: int) -> tuple[Headers, Headers]:
    """Give the headers that are the same for all records of a partition."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_type", f"fraudstream.{kind}.v1".encode()),
        ("ce_source", f"/fraudstream/{topic}/{partition}".encode()),
    ], [
        ("content-type", b"application/json"),
        ("fs_source_topic", topic.encode()),
        ("fs_source_partition", b"%d" % partition),
    ]


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
