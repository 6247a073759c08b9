"""Foreign field names, units and ids → the names of our contract.

A mapping is a small YAML file that says, for each of our fields, where it comes from::

    fields:
      transaction_id: {from: TRANSACTION_ID, prefix: "tx"}
      event_time:     {from: TX_DATETIME, zone: UTC}
      card_id:        {from: CUSTOMER_ID, prefix: "c"}
      terminal_id:    {from: TERMINAL_ID, prefix: "t"}
      amount_minor:   {from: TX_AMOUNT, unit: major}
      currency:       {value: EUR}
      is_fraud:       {from: TX_FRAUD}

Fields beyond the contract that a feature set reads are mapped as ids are, once they are named::

    extra_fields: [device_id]
    fields:
      device_id: {from: DEVICE}

It is applied before validation, which stays exactly as strict: a value that does not become what
the contract asks for is refused there, by the contract's own reason code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fraudstream.card_number import holds_card_number
from fraudstream.currency import MINOR_UNIT_DECIMALS

_ID_FIELDS = frozenset({"transaction_id", "card_id", "terminal_id", "source"})
_TIME_FIELDS = frozenset({"event_time", "reported_at"})
_AMOUNT_FIELDS = frozenset({"amount_minor", "amount_base_minor"})
_OTHER_FIELDS = frozenset({"currency", "is_fraud"})
_KNOWN_FIELDS = _ID_FIELDS | _TIME_FIELDS | _AMOUNT_FIELDS | _OTHER_FIELDS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOISE_MINOR = Decimal("1e-6")
_MS_PER_UNIT = {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001")}


class FieldMapping(BaseModel):
    """Where one of our fields comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    source: str | None = Field(default=None, alias="from", min_length=1)
    #: A constant instead of a field, e.g. the currency of a shop that has only one.
    value: str | None = None
    #: Put before an id, so that card 17 and terminal 17 stay apart.
    prefix: str = ""
    #: ``major`` or ``minor`` for amounts; ``s``, ``ms`` or ``us`` for numeric times.
    unit: Literal["major", "minor", "s", "ms", "us"] | None = None
    #: The zone of times that carry none.
    zone: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> FieldMapping:
        if (self.source is None) == (self.value is None):
            msg = "give exactly one of `from` and `value`"
            raise ValueError(msg)
        return self

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError) as error:
                msg = "unknown time zone; use a name like UTC or Europe/Berlin"
                raise ValueError(msg) from error
        return zone


class EventMapping(BaseModel):
    """How foreign rows or messages become events of our contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: dict[str, FieldMapping]
    #: Fields beyond the contract, of the feature set's.
    extra_fields: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known_fields(self) -> EventMapping:
        unknown = sorted(self.fields.keys() - _KNOWN_FIELDS - set(self.extra_fields))
        if unknown:
            msg = (
                f"unknown field {unknown[0]!r}; ours are {', '.join(sorted(_KNOWN_FIELDS))}, and "
                "what a feature set names beyond them, if `extra_fields` lists it here"
            )
            raise ValueError(msg)
        return self


def compile_mapping(mapping: EventMapping) -> Callable[[Mapping[str, object]], dict[str, object]]:
    """Make a function that turns a foreign object into one with our field names.

    Fields that the mapping does not name are passed on as they are, so that unknown fields are
    still counted and still searched for card numbers.

    Examples
    --------
    >>> apply = compile_mapping(EventMapping.model_validate({"fields": {
    ...     "card_id": {"from": "CUSTOMER", "prefix": "c"},
    ...     "amount_minor": {"from": "AMOUNT", "unit": "major"},
    ...     "currency": {"value": "EUR"}}}))
    >>> apply({"CUSTOMER": 17, "AMOUNT": 57.16, "note": "x"})
    {'card_id': 'c17', 'amount_minor': 5716, 'currency': 'EUR', 'note': 'x'}
    """
    fields = dict(mapping.fields)
    taken = frozenset(field.source for field in fields.values() if field.source is not None)
    # Amounts last: how many minor units make a major one depends on the currency.
    order = sorted(fields, key=lambda name: (name in _AMOUNT_FIELDS, 0))

    def apply(row: Mapping[str, object]) -> dict[str, object]:
        event: dict[str, object] = {}
        for name in order:
            field = fields[name]
            if field.value is not None:
                event[name] = field.value
            elif field.source is not None and field.source in row:
                currency = event.get("currency", row.get("currency"))
                event[name] = _convert(name, row[field.source], field, currency)
        named = {name: event[name] for name in fields if name in event}
        rest = {key: value for key, value in row.items() if key not in taken and key not in named}
        return named | rest

    return apply


def _convert(name: str, value: object, field: FieldMapping, currency: object) -> object:
    if name in _ID_FIELDS or name not in _KNOWN_FIELDS:
        return _id(name, value, field.prefix)
    if name in _TIME_FIELDS:
        return _time(value, field)
    if name in _AMOUNT_FIELDS and field.unit == "major":
        return _minor(value, currency)
    if name == "is_fraud" and type(value) is int and value in (0, 1):
        return bool(value)
    return value


def _id(name: str, value: object, prefix: str) -> object:
    # Foreign ids are often integers; a float or a boolean is no id and is left to validation.
    if type(value) not in (int, str):
        return value
    if (name == "card_id" or name not in _KNOWN_FIELDS) and holds_card_number(str(value)):
        return str(value)  # a prefix would hide it from validation, which looks at whole words
    return f"{prefix}{value}"


def _time(value: object, field: FieldMapping) -> object:
    """Give epoch milliseconds for numbers and datetimes, RFC 3339 text as it is."""
    if isinstance(value, str) and field.zone is not None:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            if field.zone is None:
                return value.isoformat()  # without a zone: refused by the contract
            value = value.replace(tzinfo=ZoneInfo(field.zone))
        return (value - _EPOCH) // timedelta(milliseconds=1)
    if type(value) in (int, float) and field.unit in _MS_PER_UNIT:
        number = Decimal(str(value))
        return int(number * _MS_PER_UNIT[field.unit]) if number.is_finite() else value
    return value


def _minor(value: object, currency: object) -> object:
    """Give integer minor units, or the value unchanged when it has too many decimals."""
    if type(value) not in (int, float) or not isinstance(currency, str):
        return value
    if currency not in MINOR_UNIT_DECIMALS:
        return value
    try:
        minor = Decimal(str(value)).scaleb(MINOR_UNIT_DECIMALS[currency])
        nearest = minor.to_integral_value()
        # Computed amounts carry float noise: 444.79999999999995 is 444.80.
        return int(nearest) if abs(minor - nearest) <= _NOISE_MINOR else value
    except InvalidOperation:  # not a number, or infinite
        return value
