"""What hostile records are made of: good events, and ways to write them wrongly."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fraudstream.errors import Reason

#: The Kafka timestamp of the records, and the time of the events in them.
RECORD_TIME_MS = 1_532_513_472_500
#: The number that payment networks give to testers; it passes Luhn and belongs to nobody.
CARD_NUMBER = "4111111111111111"
KIBIBYTE = 1024
YEAR_MS = 365 * 86_400_000

PAYMENT: dict[str, Any] = {
    "transaction_id": "tx1",
    "event_time": "2018-07-25T10:11:12.500Z",
    "card_id": "c1",
    "terminal_id": "t1",
    "amount_minor": 5716,
    "currency": "EUR",
}
LABEL: dict[str, Any] = {
    "transaction_id": "tx1",
    "event_time": RECORD_TIME_MS - 1_000,
    "card_id": "c1",
    "terminal_id": "t1",
    "is_fraud": True,
    "reported_at": RECORD_TIME_MS,
    "source": "chargeback",
}


class Hostile(NamedTuple):
    """A record's value that must be refused, and why."""

    name: str
    value: bytes | None
    reason: Reason
    field: str = ""


def payment(**changes: object) -> bytes:
    """Write the good payment with some fields changed."""
    return json.dumps(PAYMENT | changes).encode()


def label(**changes: object) -> bytes:
    """Write the good label with some fields changed."""
    return json.dumps(LABEL | changes).encode()


def without(event: dict[str, Any], field: str) -> bytes:
    """Write an event without one of its fields."""
    return json.dumps({name: value for name, value in event.items() if name != field}).encode()


def raw(field: str, text: str) -> bytes:
    """Write the good payment with one field spelt out, as no JSON writer would."""
    written = json.dumps({name: value for name, value in PAYMENT.items() if name != field})
    return f'{written[:-1]}, "{field}": {text}}}'.encode()


def extra(text: str) -> bytes:
    """Write the good payment with an unknown field spelt out."""
    return raw("note", text)


def note(text: bytes) -> bytes:
    """Write the good payment with bytes of any kind inside an unknown text."""
    return extra('"~"').replace(b"~", text)
