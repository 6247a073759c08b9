"""Records → columns: the record's place, its key, and the fields of its JSON.

What is nested is JSON text; a decision's features and timings are columns of their own. A file
has one list of columns: for our own outputs it is known, for other topics it is what the first
slice shows. Whatever does not fit into it is kept, as JSON text in ``other_fields``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import orjson
import pyarrow as pa

from fraudstream.event import Record

_TEXT, _FLAG, _INT32, _INT64 = pa.string(), pa.bool_(), pa.int32(), pa.int64()
_FLOAT32, _FLOAT64 = pa.float32(), pa.float64()

Types = dict[str, pa.DataType]
Fields = dict[str, object]
Columns = dict[str, list[object]]

_PLACE: Final[Types] = {
    "topic": _TEXT,
    "partition": _INT32,
    "offset": _INT64,
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "key": _TEXT,
}
_END: Final[Types] = {"other_fields": _TEXT, "headers": _TEXT}
_ANSWER: Final[Types] = {
    "transaction_id": _TEXT,
    "event_time": _TEXT,
    "card_id": _TEXT,
    "terminal_id": _TEXT,
    "amount_minor": _INT64,
    "currency": _TEXT,
    "score": _FLOAT32,
    "outcome": _TEXT,
    "reasons": _TEXT,
    "model": _TEXT,
    "policy": _TEXT,
    "flags": _TEXT,
    "missing_features": _TEXT,
    "source": _TEXT,
}
_DECISION: Final[Types] = {"decision_id": _TEXT, **_ANSWER}
_ALERT: Final[Types] = {"alert_id": _TEXT, "decision_id": _TEXT, **_ANSWER, "amount": _TEXT}
_DEAD_LETTER: Final[Types] = {
    "reason": _TEXT,
    "field": _TEXT,
    "source_topic": _TEXT,
    "source_partition": _INT32,
    "source_offset": _INT64,
    "payload": _TEXT,
}
#: Fields of a decision that become columns each: what these are called, and what they hold.
_SPREAD: Final = {"features": ("feature.", _FLOAT32), "timings_ms": ("timing_ms.", _FLOAT64)}
_INT64_MAX: Final = 2**63 - 1


class TopicKind(StrEnum):
    """What is in a topic, under the name that commands know it by."""

    TRANSACTIONS = "transactions"
    LABELS = "labels"
    DECISIONS = "decisions"
    ALERTS = "alerts"
    DEAD_LETTERS = "dead-letters"
    OTHER = "other"


#: The columns that are known before any record is.
_KNOWN: Final[Mapping[TopicKind, Types]] = {
    TopicKind.DECISIONS: _DECISION,
    TopicKind.ALERTS: _ALERT,
    TopicKind.DEAD_LETTERS: _DEAD_LETTER,
}


class Table:
    """The columns of one file.

    Parameters
    ----------
    kind
        Of the topic.
    first
        The first records. For our own outputs they only add the columns that depend on the model
        and on the worker's version.

    Attributes
    ----------
    schema
        Names and types.
    """

    def __init__(self, kind: TopicKind, first: Sequence[Record]) -> None:
        self._kind = kind
        self._own = dict(_KNOWN.get(kind, {}))
        for name, types in _types_seen(first, kind).items():
            spread = _spread_type(name)
            if spread is not None and kind is TopicKind.DECISIONS:
                self._own[name] = spread
            elif kind not in _KNOWN and types and name not in _PLACE | _END:
                self._own[name] = _common_type(types)
        self.schema = pa.schema(list((_PLACE | self._own | _END).items()))

    def columns(self, records: Sequence[Record]) -> Columns:
        """Put records into columns, in the order of the schema."""
        columns: Columns = {name: [] for name in self.schema.names}
        own = [(name, _TAKES[kind], columns[name]) for name, kind in self._own.items()]
        for record in records:
            fields = _fields(record, self._kind)
            columns["topic"].append(record.topic)
            columns["partition"].append(record.partition)
            columns["offset"].append(record.offset)
            columns["timestamp"].append(record.timestamp_ms if record.timestamp_ms >= 0 else None)
            columns["key"].append(_text(record.key))
            for name, take, column in own:
                value = take(fields.get(name))
                column.append(value)
                if value is not None:
                    del fields[name]
            others = {name: value for name, value in fields.items() if value is not None}
            columns["other_fields"].append(_json_text(others) if others else None)
            columns["headers"].append(_json_text(_headers(record)))
        return columns


def _types_seen(records: Sequence[Record], kind: TopicKind) -> dict[str, Counter[pa.DataType]]:
    seen: dict[str, Counter[pa.DataType]] = {}
    for record in records:
        for name, value in _fields(record, kind).items():
            types = seen.setdefault(name, Counter())
            if value is not None:
                types[_type_of(value)] += 1
    return seen


def _spread_type(name: str) -> pa.DataType | None:
    return next((kind for prefix, kind in _SPREAD.values() if name.startswith(prefix)), None)


def _common_type(types: Counter[pa.DataType]) -> pa.DataType:
    if set(types) == {_INT64, _FLOAT64}:
        return _FLOAT64
    return types.most_common(1)[0][0]


def _type_of(value: object) -> pa.DataType:
    if type(value) is bool:
        return _FLAG
    if _take_int(value) is not None:
        return _INT64
    return _FLOAT64 if _take_float(value) is not None else _TEXT


def _take_text(value: object) -> object:
    return value if type(value) is str else None


def _take_flag(value: object) -> object:
    return value if type(value) is bool else None


def _take_int(value: object) -> object:
    return value if type(value) is int and abs(value) <= _INT64_MAX else None


def _take_float(value: object) -> object:
    # Arrow takes no whole numbers for floats where these cannot hold all of them.
    return value if type(value) is float else float(value) if type(value) is int else None


#: By type of a column: its form of a value, or None if the value is not for it.
_TAKES: Final[Mapping[pa.DataType, Callable[[object], object]]] = {
    _TEXT: _take_text,
    _FLAG: _take_flag,
    _INT32: _take_int,
    _INT64: _take_int,
    _FLOAT32: _take_float,
    _FLOAT64: _take_float,
}


def _fields(record: Record, kind: TopicKind) -> Fields:
    """Take a record's content apart; what is no JSON object is the one field ``value``."""
    if kind is TopicKind.DEAD_LETTERS:
        return _dead_letter(record)
    if record.value is None:
        return {}
    try:
        content = orjson.loads(record.value)
    except orjson.JSONDecodeError:
        content = _text(record.value)
    if not isinstance(content, dict):
        content = {"value": content}
    fields: Fields = {}
    for name, value in content.items():
        if kind is TopicKind.DECISIONS and name in _SPREAD and isinstance(value, dict):
            prefix, _ = _SPREAD[name]
            fields |= {f"{prefix}{inner}": number for inner, number in value.items()}
        elif isinstance(value, dict | list):
            fields[name] = _json_text(value)
        else:
            fields[name] = value
    return fields


def _dead_letter(record: Record) -> Fields:
    headers = {name: _text(value) for name, value in record.headers}
    return {
        "reason": headers.get("fs_reason"),
        "field": headers.get("fs_field"),
        "source_topic": headers.get("fs_source_topic"),
        "source_partition": _number(headers.get("fs_source_partition"), digits_max=9),
        "source_offset": _number(headers.get("fs_source_offset"), digits_max=18),
        "payload": _text(record.value),
    }


def _number(text: str | None, *, digits_max: int) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) <= digits_max else None


def _headers(record: Record) -> Fields:
    """Give headers by name; one that is repeated as a list."""
    headers: Fields = {}
    for name, value in record.headers:
        if name in headers:
            before = headers[name]
            earlier = before if isinstance(before, list) else [before]
            headers[name] = [*earlier, _text(value)]
        else:
            headers[name] = _text(value)
    return headers


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _json_text(value: object) -> str:
    return orjson.dumps(value).decode()
