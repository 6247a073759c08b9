"""Bytes from a topic → a validated event. First stage of the data's way.

    Record ──parse_transaction──▶ Transaction ──▶ profile → features → score → decision → alert
           └─parse_label────────▶ Label ────────▶ profile

An event is validated here, once and strictly: size before parsing, then JSON, types, ranges and
patterns, time, currency, and nothing that looks like a card number. What comes out needs no
further check; what does not raises `InvalidEventError` with a reason code and the first field
at fault, never its value.

The contract itself is the two classes `TransactionEvent` and `LabelEvent`: the JSON Schemas that
publishers get are generated from them (``fraudstream.schemas``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import orjson
from msgspec import Meta

from fraudstream.card_number import holds_card_number, tokenize, value_holds_card_number
from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.errors import InvalidEventError, Reason

#: A record above this is refused before it is parsed: 10 MB of JSON array take 0.1 s to read.
EVENT_BYTES_MAX = 64 * 1024
#: 2000-01-01T00:00:00Z. Anything before is a unit mistake (seconds for milliseconds).
EVENT_TIME_MIN_MS = 946_684_800_000
#: 9999-12-31T23:59:59.999Z, the last time that can be written down.
EVENT_TIME_MAX_MS = 253_402_300_799_999
AMOUNT_MINOR_MAX = 10**12

# `(?!\n)` because Python's `$` also matches before a final line feed.
_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}(?!\n)$"
Id = Annotated[str, Meta(pattern=_ID_PATTERN, description="1 to 64 of A-Z a-z 0-9 . _ : -")]
Time = Annotated[datetime, Meta(tz=True)] | int
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MINOR_MAX)]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}(?!\n)$", description="ISO 4217")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SCHEMA_REGISTRY_MAGIC = 0
_SCHEMA_REGISTRY_HEADER_BYTES = 5


class TransactionEvent(msgspec.Struct, frozen=True):
    """A card payment, as a checkout system publishes it. Unknown fields are ignored.

    Times are RFC 3339 with a zone, or integer epoch milliseconds. Money is in integer minor
    units (ISO 4217). ``amount_base_minor`` is the amount in the profiles' currency, for payments
    made in another.
    """

    transaction_id: Id
    event_time: Time
    card_id: Id
    terminal_id: Id
    amount_minor: Amount
    currency: CurrencyCode
    amount_base_minor: Amount | None = None


class LabelEvent(msgspec.Struct, frozen=True):
    """What became known of a payment later: a chargeback, or an analyst's finding.

    ``event_time`` is the payment's, ``reported_at`` when the finding was made. For one payment the
    newer ``reported_at`` wins; at equal times genuine wins.
    """

    transaction_id: Id
    event_time: Time
    card_id: Id
    terminal_id: Id
    is_fraud: bool
    reported_at: Time
    source: Id


class Record(NamedTuple):
    """A record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A validated card payment.

    ``amount_base_minor`` is the amount in the profiles' currency, None when it is not known.
    ``unknown_fields`` is how many fields neither the contract nor the feature set names.
    ``extra`` holds the fields beyond the contract that the feature set names, in its order; None
    where the event has none.
    """

    transaction_id: str
    event_time_ms: int
    card_id: str
    terminal_id: str
    amount_minor: int
    currency: str
    amount_base_minor: int | None
    unknown_fields: int = 0
    extra: tuple[tuple[str, str | None], ...] = ()

    def text(self, field: str) -> str | None:
        """Give a text field by its name, of the contract or beyond; None where there is none.

        Examples
        --------
        >>> payment = Transaction("t1", 0, "c1", "shop1", 100, "EUR", 100, extra=(("mcc", "5411"),))
        >>> payment.text("terminal_id"), payment.text("mcc"), payment.text("device_id")
        ('shop1', '5411', None)
        """
        if field in TEXT_FIELDS:
            value: str = getattr(self, field)
            return value
        return dict(self.extra).get(field)


#: The text fields that every transaction has.
TEXT_FIELDS = ("transaction_id", "card_id", "terminal_id", "currency")
#: All fields that the contract names.
CONTRACT_FIELDS = frozenset(TransactionEvent.__struct_fields__)
#: Whom a label is about.
LABEL_ENTITY_FIELDS = ("card_id", "terminal_id")


class Label(msgspec.Struct, frozen=True, gc=False):
    """A validated finding about a payment."""

    transaction_id: str
    event_time_ms: int
    card_id: str
    terminal_id: str
    is_fraud: bool
    reported_at_ms: int
    source: str
    unknown_fields: int = 0


@dataclass(frozen=True, slots=True)
class EventRules:
    """How records are read: what differs between deployments.

    Parameters
    ----------
    currency
        The profiles' one currency; its amounts need no ``amount_base_minor``.
    framing
        ``confluent`` strips the schema registry's 5-byte prefix.
    max_future_skew_ms
        How far an event's time may be ahead of its record's Kafka timestamp: one wrong clock
        must not trim a profile.
    card_number
        What becomes of a card number: the record is refused, or the number replaced by a token.
    hmac_key
        The key of those tokens.
    mapping
        Foreign object → object with our field names (`fraudstream.mapping.compile_mapping`).
    extra_fields
        Fields beyond the contract that the feature set reads: ids like the contract's own, or
        missing.
    """

    currency: str = "EUR"
    framing: Literal["plain", "confluent"] = "plain"
    max_future_skew_ms: int = 300_000
    card_number: Literal["refuse", "hmac"] = "refuse"
    hmac_key: bytes = b""
    mapping: Callable[[Mapping[str, object]], dict[str, object]] | None = None
    extra_fields: tuple[str, ...] = ()


def parse_transaction(record: Record, rules: EventRules) -> Transaction:
    """Validate a record of the transactions topic.

    Raises
    ------
    InvalidEventError
        With the reason for the dead letter.

    Examples
    --------
    >>> value = (b'{"transaction_id": "tx1", "event_time": "2018-07-25T10:11:12.5Z",'
    ...          b' "card_id": "c1", "terminal_id": "t1", "amount_minor": 5716,'
    ...          b' "currency": "EUR"}')
    >>> record = Record("transactions", 0, 7, 1532513472500, b"c1", value)
    >>> parse_transaction(record, EventRules()).event_time_ms
    1532513472500
    """
    fields, unknown_fields = _read_object(record, rules, _TRANSACTION_FIELDS)
    event = _convert(fields, TransactionEvent)
    if event.currency not in MINOR_UNIT_DECIMALS:
        raise InvalidEventError(Reason.UNKNOWN_CURRENCY, "currency")
    amount_base_minor = event.amount_base_minor
    if event.currency == rules.currency:
        amount_base_minor = event.amount_minor
    return Transaction(
        event.transaction_id,
        _checked_time_ms("event_time", event.event_time, record, rules),
        event.card_id,
        event.terminal_id,
        event.amount_minor,
        event.currency,
        amount_base_minor,
        unknown_fields,
        _extra(fields, rules),
    )


def parse_label(record: Record, rules: EventRules) -> Label:
    """Validate a record of the labels topic.

    Raises
    ------
    InvalidEventError
        With the reason for the dead letter.
    """
    fields, unknown_fields = _read_object(record, rules, _LABEL_FIELDS)
    event = _convert(fields, LabelEvent)
    return Label(
        event.transaction_id,
        _checked_time_ms("event_time", event.event_time, record, rules),
        event.card_id,
        event.terminal_id,
        event.is_fraud,
        _checked_time_ms("reported_at", event.reported_at, record, rules),
        event.source,
        unknown_fields,
    )


def format_time(time_ms: int) -> str:
    """Write a time as RFC 3339, UTC, with milliseconds.

    Examples
    --------
    >>> format_time(1532513472005)
    '2018-07-25T10:11:12.005Z'
    """
    minutes, of_minute_ms = divmod(time_ms, 60_000)
    seconds, milliseconds = divmod(of_minute_ms, 1000)
    hour, minute = divmod(minutes, 60)
    return f"{_hour(hour)}{minute:02d}:{seconds:02d}.{milliseconds:03d}Z"


@lru_cache(maxsize=4096)
def _hour(hour: int) -> str:
    """Write an hour of the epoch: payments of one time are of few hours, replayed ones too."""
    return (_EPOCH + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:")


def _extra(fields: Mapping[str, object], rules: EventRules) -> tuple[tuple[str, str | None], ...]:
    """Take the fields beyond the contract; a wrong one makes the event as bad as any other."""
    if not rules.extra_fields:
        return ()
    found = []
    for name in rules.extra_fields:
        value = fields.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise InvalidEventError(Reason.WRONG_TYPE, name)
            if holds_card_number(value):  # here a token is wanted, whatever the rule
                value = tokenize(value, rules.hmac_key)
            if re.match(_ID_PATTERN, value) is None:
                raise InvalidEventError(Reason.BAD_FORMAT, name)
        found.append((name, value))
    return tuple(found)


_EventT = TypeVar("_EventT", TransactionEvent, LabelEvent)
_TRANSACTION_FIELDS = frozenset(TransactionEvent.__struct_fields__)
_LABEL_FIELDS = frozenset(LabelEvent.__struct_fields__)


def _read_object(
    record: Record, rules: EventRules, known: frozenset[str]
) -> tuple[dict[str, Any], int]:
    """Decode a record's JSON object under our field names, free of card numbers."""
    fields = _decode(_payload(record, rules))
    if rules.mapping is not None:
        fields = rules.mapping(fields)
    card_id = fields.get("card_id")
    if isinstance(card_id, str) and holds_card_number(card_id):
        if rules.card_number == "refuse":
            raise InvalidEventError(Reason.CARD_NUMBER, "card_id")
        fields["card_id"] = tokenize(card_id, rules.hmac_key)
    if fields.keys() <= known:
        return fields, 0
    unknown = {name: value for name, value in fields.items() if name not in known}
    # The name of the field is the publisher's text, and may itself hold the number.
    if rules.card_number == "refuse" and value_holds_card_number(unknown):
        raise InvalidEventError(Reason.CARD_NUMBER)
    return fields, sum(name not in rules.extra_fields for name in unknown)


def _payload(record: Record, rules: EventRules) -> bytes:
    value = record.value
    if value is None:
        raise InvalidEventError(Reason.NULL_VALUE)
    if not value:
        raise InvalidEventError(Reason.EMPTY)
    if len(value) > EVENT_BYTES_MAX:
        raise InvalidEventError(Reason.TOO_LARGE)
    is_framed = value[0] == _SCHEMA_REGISTRY_MAGIC
    if is_framed != (rules.framing == "confluent"):
        raise InvalidEventError(Reason.FRAMING)
    return value[_SCHEMA_REGISTRY_HEADER_BYTES:] if is_framed else value


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        decoded = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidEventError(_why_unreadable(payload, error)) from None
    if type(decoded) is not dict:
        raise InvalidEventError(Reason.NOT_AN_OBJECT)
    return decoded


def _why_unreadable(payload: bytes, error: orjson.JSONDecodeError) -> Reason:
    # "depth limit exceeded"; orjson before 3.13 said "Recursion limit reached".
    if "depth" in error.msg or "Recursion" in error.msg:
        return Reason.TOO_DEEP
    try:
        payload.decode()
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    return Reason.INVALID_JSON


def _convert(fields: dict[str, Any], kind: type[_EventT]) -> _EventT:
    for name in _TIME_FIELDS:
        value = fields.get(name)
        if isinstance(value, str):
            fields[name] = _FINER.sub(r"\1", value)  # msgspec would round it, even up to a second
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        # `from None`: the cause's text is msgspec's and is not promised to be free of values.
        raise _explain(str(error)) from None


_TIME_FIELDS = ("event_time", "reported_at")
#: Digits behind microseconds.
_FINER = re.compile(r"(\.[0-9]{6})[0-9]+")
_MISSING = re.compile(r"missing required field `([a-z_]+)`")
_AT = re.compile(r"at `\$\.([a-z_]+)")


def _explain(message: str) -> InvalidEventError:
    """Turn msgspec's sentence into a reason and one of our own field names."""
    if missing := _MISSING.search(message):
        return InvalidEventError(Reason.MISSING_FIELD, missing.group(1))
    found = _AT.search(message)
    field = found.group(1) if found else ""
    if ", got `" in message:
        return InvalidEventError(Reason.WRONG_TYPE, field)
    if ">=" in message or "<=" in message:
        return InvalidEventError(Reason.OUT_OF_RANGE, field)
    return InvalidEventError(Reason.BAD_FORMAT, field)


def _checked_time_ms(field: str, time: datetime | int, record: Record, rules: EventRules) -> int:
    time_ms = time if isinstance(time, int) else (time - _EPOCH) // _MILLISECOND
    if time_ms < EVENT_TIME_MIN_MS:
        raise InvalidEventError(Reason.TIME_TOO_EARLY, field)
    if time_ms > min(record.timestamp_ms + rules.max_future_skew_ms, EVENT_TIME_MAX_MS):
        raise InvalidEventError(Reason.TIME_IN_FUTURE, field)
    return time_ms
