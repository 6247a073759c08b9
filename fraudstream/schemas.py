"""The contract for other people's programs: JSON Schemas and one AsyncAPI 3 document.

``make schemas`` (``python -m fraudstream.schemas [FOLDER]``) writes them; a test compares what is
committed with what the code says, and checks every example against them.

Events are described by the classes that validate them. Outputs are described here, field by field,
because they are written by hand for speed.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from fraudstream import __version__
from fraudstream.decision import REASONS_MAX, Flag, Outcome
from fraudstream.errors import Reason
from fraudstream.event import LabelEvent, TransactionEvent

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_JsonObject = dict[str, Any]

_ID = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}
_TIME = {"type": "string", "format": "date-time"}
_NUMBER_OR_UNKNOWN = {"type": ["number", "null"]}
_REASON = {
    "type": "object",
    "required": ["code", "text", "feature", "value", "contribution"],
    "properties": {
        "code": {"type": "string", "description": "Several features may share a reason."},
        "text": {"type": "string", "description": "A sentence for people."},
        "feature": {"type": "string"},
        "value": _NUMBER_OR_UNKNOWN,
        "contribution": {"type": "number", "description": "In log-odds; positive: towards fraud."},
    },
}
_SOURCE = {
    "type": "object",
    "required": ["topic", "partition", "offset"],
    "properties": {
        "topic": {"type": "string"},
        "partition": {"type": "integer", "minimum": 0},
        "offset": {"type": "integer", "minimum": 0},
    },
}
_MODEL = {
    "type": "object",
    "required": ["name", "version", "sha256"],
    "properties": {name: {"type": "string"} for name in ("name", "version", "sha256")},
}
_COMMON: _JsonObject = {
    "decision_id": {"type": "string", "pattern": "^d-[0-9a-f]{32}$"},
    "transaction_id": _ID,
    "event_time": _TIME,
    "card_id": _ID,
    "terminal_id": _ID,
    "amount_minor": {"type": "integer", "minimum": 0},
    "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
    "score": {"type": "number", "minimum": 0, "maximum": 1},
    "outcome": {"enum": [outcome.value for outcome in Outcome]},
    "reasons": {"type": "array", "items": _REASON, "maxItems": REASONS_MAX},
    "model": _MODEL,
    "policy": {"type": "string", "description": "Name and hash of the thresholds."},
    "flags": {"type": "array", "items": {"enum": [flag.value for flag in Flag]}},
    "missing_features": {"type": "array", "items": {"type": "string"}},
    "source": _SOURCE,
}
_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_FEATURES = {"type": "object", "additionalProperties": _NUMBER_OR_UNKNOWN}
_HEADERS: dict[str, str] = {
    "ce_specversion": "CloudEvents version, 1.0",
    "ce_type": "fraudstream.decision.v1, fraudstream.alert.v1 or fraudstream.dead-letter.v1",
    "ce_source": "/fraudstream/<topic>/<partition> of the input record",
    "ce_id": "the decision's, alert's or dead letter's id",
    "ce_time": "the event's time",
    "content-type": "application/json",
    "fs_source_topic": "topic of the input record",
    "fs_source_partition": "its partition",
    "fs_source_offset": "its offset",
    "fs_attempt": "worker, run and transaction that published this record",
    "fs_attempt_records": "how many records that transaction holds",
}


def event_schema(kind: type[msgspec.Struct], title: str) -> _JsonObject:
    """Give the JSON Schema of an input event, from the class that validates it."""
    (schema,), definitions = msgspec.json.schema_components([kind])
    name = schema["$ref"].rsplit("/", 1)[-1]
    body: _JsonObject = json.loads(json.dumps(definitions[name]).replace("(?!\\\\n)", ""))
    head = {"$schema": _DRAFT, "$id": f"fraudstream/v1/{title}.schema.json"}
    return head | body | {"title": title, "description": inspect.getdoc(kind)}


def output_schema(title: str, properties: _JsonObject) -> _JsonObject:
    """Give the JSON Schema of an output; all of its fields are always there."""
    return {
        "$schema": _DRAFT,
        "$id": f"fraudstream/v1/{title}.schema.json",
        "title": title,
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def all_schemas() -> dict[str, _JsonObject]:
    """Give every schema by its title."""
    alert_id = {"alert_id": {"type": "string", "pattern": "^a-[0-9a-f]{32}$"}}
    amount = {"amount": {"type": "string", "description": "In major units, exact."}}
    return {
        "transaction": event_schema(TransactionEvent, "transaction"),
        "label": event_schema(LabelEvent, "label"),
        "decision": output_schema(
            "decision", _COMMON | {"features": _FEATURES, "timings_ms": _NUMBERS}
        ),
        "alert": output_schema("alert", alert_id | _COMMON | amount),
    }


def asyncapi() -> _JsonObject:
    """Give the AsyncAPI 3 document: channels, operations, messages, keys and headers."""
    channels: _JsonObject = {}
    operations: _JsonObject = {}
    for name, (topic, verb, key) in _CHANNELS.items():
        channels[name] = {
            "address": topic,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "description": f"Key: {key}.",
        }
        operations[f"{verb}_{name}"] = {
            "action": verb,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": _SUMMARIES[name],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "fraudstream",
            "version": __version__,
            "description": "Decides card payments: transactions and labels in, decisions, alerts "
            "and dead letters out. Outputs are written in Kafka transactions: read them with "
            "isolation.level=read_committed.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages()},
    }


def _messages() -> _JsonObject:
    messages: _JsonObject = {}
    for title, schema in all_schemas().items():
        payload = {name: value for name, value in schema.items() if name not in ("$schema", "$id")}
        messages[title] = {"name": title, "payload": payload}
    messages["dead_letter"] = {"name": "dead_letter", "payload": {}}
    for title in ("decision", "alert", "dead_letter"):
        messages[title]["headers"] = _headers(is_dead_letter=title == "dead_letter")
    return messages


def _headers(*, is_dead_letter: bool) -> _JsonObject:
    properties: _JsonObject = {
        name: {"type": "string", "description": text} for name, text in _HEADERS.items()
    }
    if is_dead_letter:
        properties["fs_reason"] = {"enum": [reason.value for reason in Reason]}
        properties["fs_field"] = {"type": "string", "description": "the field at fault, or empty"}
    return {"type": "object", "required": list(properties), "properties": properties}


_CHANNELS = {
    "transaction": ("fraudstream.transactions", "receive", "card_id"),
    "label": ("fraudstream.labels", "receive", "terminal_id"),
    "decision": ("fraudstream.decisions", "send", "card_id"),
    "alert": ("fraudstream.alerts", "send", "card_id"),
    "dead_letter": ("fraudstream.dead-letters", "send", "the original key, unless unsafe"),
}
_SUMMARIES = {
    "transaction": "A card payment to decide.",
    "label": "What became known of a payment later.",
    "decision": "One for every transaction: score, outcome, reasons and the whole vector.",
    "alert": "One for every REVIEW or DECLINE that is no duplicate.",
    "dead_letter": "A record that can never become an event, with the reason in its headers.",
}


def render() -> dict[str, str]:
    """Give every document as text, by file name."""
    documents = {f"{title}.schema.json": schema for title, schema in all_schemas().items()}
    documents["asyncapi.json"] = asyncapi()
    return {name: json.dumps(body, indent=2) + "\n" for name, body in documents.items()}


def main(folder: str) -> None:
    """Write every document into a folder."""
    for name, text in render().items():
        Path(folder, name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas/v1")
