"""Hostile records, as data: what a publisher's bug, or a publisher, may put into a topic.

Each is refused for one reason, and where one of our fields is at fault, that field is named.
`fraudstream event check` and the fault tests can publish the same list.
"""

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


UNREADABLE = (
    Hostile("null", None, Reason.NULL_VALUE),
    Hostile("empty", b"", Reason.EMPTY),
    Hostile("white space", b" \n\t", Reason.INVALID_JSON),
    Hostile("words", b"hello", Reason.INVALID_JSON),
    Hostile("CSV", b"tx1;2018-07-25;c1;t1;57.16;EUR", Reason.INVALID_JSON),
    Hostile("XML", b"<tx><id>1</id></tx>", Reason.INVALID_JSON),
    Hostile("Python's repr", b"{'transaction_id': 'tx1'}", Reason.INVALID_JSON),
    Hostile("truncated", payment()[:-1], Reason.INVALID_JSON),
    Hostile("truncated in a string", payment()[:25], Reason.INVALID_JSON),
    Hostile("two objects", payment() + payment(), Reason.INVALID_JSON),
    Hostile("trailing comma", payment()[:-1] + b",}", Reason.INVALID_JSON),
    Hostile("comment", b"// a payment\n" + payment(), Reason.INVALID_JSON),
    Hostile("byte order mark", b"\xef\xbb\xbf" + payment(), Reason.INVALID_JSON),
    Hostile("UTF-16", payment().decode().encode("utf-16"), Reason.INVALID_UTF8),
    Hostile("zero byte inside", extra('"a\0b"'), Reason.INVALID_JSON),
    Hostile("NaN", raw("amount_minor", "NaN"), Reason.INVALID_JSON),
    Hostile("infinity", raw("amount_minor", "Infinity"), Reason.INVALID_JSON),
    Hostile("minus infinity", raw("amount_minor", "-Infinity"), Reason.INVALID_JSON),
    Hostile("1e400", raw("amount_minor", "1e400"), Reason.INVALID_JSON),
    Hostile("NaN in an unknown field", extra("NaN"), Reason.INVALID_JSON),
    Hostile("leading zero", raw("amount_minor", "05716"), Reason.INVALID_JSON),
    Hostile("hexadecimal", raw("amount_minor", "0x1654"), Reason.INVALID_JSON),
    Hostile("lone surrogate", extra(r'"\ud800"'), Reason.INVALID_JSON),
    Hostile("lone surrogate in an id", raw("card_id", r'"c\udfff"'), Reason.INVALID_JSON),
    Hostile("surrogate in UTF-8", extra('"~"').replace(b"~", b"\xed\xa0\x80"), Reason.INVALID_UTF8),
    Hostile("Latin-1", extra('"~"').replace(b"~", b"caf\xe9"), Reason.INVALID_UTF8),
    Hostile("overlong UTF-8", extra('"~"').replace(b"~", b"\xc0\xaf"), Reason.INVALID_UTF8),
    Hostile("random bytes", bytes(range(255, 127, -1)), Reason.INVALID_UTF8),
    Hostile("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", Reason.INVALID_UTF8),
    Hostile("array", b"[" + payment() + b"]", Reason.NOT_AN_OBJECT),
    Hostile("empty array", b"[]", Reason.NOT_AN_OBJECT),
    Hostile("string", b'"payment"', Reason.NOT_AN_OBJECT),
    Hostile("JSON in a string", json.dumps(payment().decode()).encode(), Reason.NOT_AN_OBJECT),
    Hostile("number", b"5716", Reason.NOT_AN_OBJECT),
    Hostile("true", b"true", Reason.NOT_AN_OBJECT),
    Hostile("JSON null", b"null", Reason.NOT_AN_OBJECT),
    Hostile("deep arrays", b"[" * 60_000, Reason.TOO_DEEP),
    Hostile("deep objects", b'{"a":' * 10_000, Reason.TOO_DEEP),
    Hostile("deep unknown field", extra("[" * 30_000 + "]" * 30_000), Reason.TOO_DEEP),
    Hostile("depth 100,000", b"[" * 100_000, Reason.TOO_LARGE),
    Hostile("one byte too many", payment().ljust(64 * KIBIBYTE + 1), Reason.TOO_LARGE),
    Hostile("10 MB of array", extra("[" + "0," * 5 * KIBIBYTE**2 + "0]"), Reason.TOO_LARGE),
    Hostile("10 MB of zero bytes", b"\0" * 10 * KIBIBYTE**2, Reason.TOO_LARGE),
    Hostile("schema registry's frame", b"\0\0\0\0\x01" + payment(), Reason.FRAMING),
    Hostile("nothing but a zero byte", b"\0", Reason.FRAMING),
    Hostile("big-endian UTF-16", payment().decode().encode("utf-16-be"), Reason.FRAMING),
)

IDS = tuple(
    Hostile(f"{field}: {name}", payment(**{field: value}), reason, field)
    for field in ("transaction_id", "card_id", "terminal_id")
    for name, value, reason in (
        ("empty", "", Reason.BAD_FORMAT),
        ("65 characters", "x" * 65, Reason.BAD_FORMAT),
        ("line feed at the end", "c1\n", Reason.BAD_FORMAT),
        ("line feed inside", "c1\nc2", Reason.BAD_FORMAT),
        ("space", "c 1", Reason.BAD_FORMAT),
        ("slash", "c/1", Reason.BAD_FORMAT),
        ("brace, as in our keys", "{0}", Reason.BAD_FORMAT),
        ("zero byte", "c\0", Reason.BAD_FORMAT),
        ("umlaut", "kärtchen", Reason.BAD_FORMAT),
        ("full-width digits", "１２３", Reason.BAD_FORMAT),
        ("emoji", "💳", Reason.BAD_FORMAT),
        ("right-to-left mark", "c1\u200f", Reason.BAD_FORMAT),
        ("number", 17, Reason.WRONG_TYPE),
        ("float", 1.5, Reason.WRONG_TYPE),
        ("boolean", True, Reason.WRONG_TYPE),
        ("array", ["c1"], Reason.WRONG_TYPE),
        ("object", {"id": "c1"}, Reason.WRONG_TYPE),
        ("null", None, Reason.WRONG_TYPE),
    )
)

AMOUNTS = tuple(
    Hostile(f"{field}: {name}", raw(field, text), reason, field)
    for field in ("amount_minor", "amount_base_minor")
    for name, text, reason in (
        ("number in a string", '"5716"', Reason.WRONG_TYPE),
        ("decimal in a string", '"57.16"', Reason.WRONG_TYPE),
        ("whole float", "5716.0", Reason.WRONG_TYPE),
        ("float", "57.16", Reason.WRONG_TYPE),
        ("exponent", "1e3", Reason.WRONG_TYPE),
        ("boolean", "true", Reason.WRONG_TYPE),
        ("array", "[5716]", Reason.WRONG_TYPE),
        ("object", '{"value": 5716}', Reason.WRONG_TYPE),
        ("minus one", "-1", Reason.OUT_OF_RANGE),
        ("one too many", str(10**12 + 1), Reason.OUT_OF_RANGE),
        ("2^53", str(2**53), Reason.OUT_OF_RANGE),
        ("2^63", str(2**63), Reason.OUT_OF_RANGE),
        ("minus 2^63", str(-(2**63)), Reason.OUT_OF_RANGE),
        ("2^64", str(2**64), Reason.WRONG_TYPE),
    )
)

CURRENCIES = (
    Hostile("currency: lower case", payment(currency="eur"), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: symbol", payment(currency="€"), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: four letters", payment(currency="EURO"), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: empty", payment(currency=""), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: line feed", payment(currency="EUR\n"), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: full-width", payment(currency="ＥＵＲ"), Reason.BAD_FORMAT, "currency"),
    Hostile("currency: number", payment(currency=978), Reason.WRONG_TYPE, "currency"),
    Hostile("currency: null", payment(currency=None), Reason.WRONG_TYPE, "currency"),
    Hostile("currency: array", payment(currency=["EUR"]), Reason.WRONG_TYPE, "currency"),
    Hostile("currency: none", payment(currency="XXX"), Reason.UNKNOWN_CURRENCY, "currency"),
    Hostile("currency: gold", payment(currency="XAU"), Reason.UNKNOWN_CURRENCY, "currency"),
    Hostile("currency: withdrawn", payment(currency="DEM"), Reason.UNKNOWN_CURRENCY, "currency"),
)


def _times(event: dict[str, Any], field: str) -> tuple[Hostile, ...]:
    def write(value: object) -> bytes:
        return json.dumps(event | {field: value}).encode()

    cases = (
        ("without a zone", "2018-07-25T10:11:12.500", Reason.BAD_FORMAT),
        ("a day", "2018-07-25", Reason.BAD_FORMAT),
        ("30 February", "2018-02-30T10:11:12Z", Reason.BAD_FORMAT),
        ("month 13", "2018-13-01T10:11:12Z", Reason.BAD_FORMAT),
        ("hour 24", "2018-07-25T24:11:12Z", Reason.BAD_FORMAT),
        ("leap second", "2016-12-31T23:59:60Z", Reason.BAD_FORMAT),
        ("zone of 25 hours", "2018-07-25T10:11:12+25:00", Reason.BAD_FORMAT),
        ("named zone", "2018-07-25T10:11:12 CET", Reason.BAD_FORMAT),
        ("year 10000", "10000-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("words", "yesterday", Reason.BAD_FORMAT),
        ("empty", "", Reason.BAD_FORMAT),
        ("line feed at the end", "2018-07-25T10:11:12Z\n", Reason.BAD_FORMAT),
        ("milliseconds in a string", str(RECORD_TIME_MS), Reason.BAD_FORMAT),
        ("seconds, so in 1970", RECORD_TIME_MS // 1000, Reason.TIME_TOO_EARLY),
        ("1970", "1970-01-01T00:00:00Z", Reason.TIME_TOO_EARLY),
        ("1999", "1999-12-31T23:59:59.999Z", Reason.TIME_TOO_EARLY),
        ("year 1 of a zone ahead", "0001-01-01T00:00:00+14:00", Reason.TIME_TOO_EARLY),
        ("zero", 0, Reason.TIME_TOO_EARLY),
        ("minus one", -1, Reason.TIME_TOO_EARLY),
        ("minus 2^63", -(2**63), Reason.TIME_TOO_EARLY),
        ("a millisecond too far ahead", RECORD_TIME_MS + 300_001, Reason.TIME_IN_FUTURE),
        ("in ten years", RECORD_TIME_MS + 10 * YEAR_MS, Reason.TIME_IN_FUTURE),
        ("in ten years, in words", "2028-07-25T10:11:12.500Z", Reason.TIME_IN_FUTURE),
        ("year 9999 of a zone behind", "9999-12-31T23:59:59-14:00", Reason.TIME_IN_FUTURE),
        ("microseconds", RECORD_TIME_MS * 1000, Reason.TIME_IN_FUTURE),
        ("2^63", 2**63, Reason.TIME_IN_FUTURE),
        ("2^64", 2**64, Reason.WRONG_TYPE),
        ("whole float", float(RECORD_TIME_MS), Reason.WRONG_TYPE),
        ("float of seconds", RECORD_TIME_MS / 1000, Reason.WRONG_TYPE),
        ("boolean", True, Reason.WRONG_TYPE),
        ("null", None, Reason.WRONG_TYPE),
        ("array", [2018, 7, 25], Reason.WRONG_TYPE),
        ("object", {"$date": RECORD_TIME_MS}, Reason.WRONG_TYPE),
    )
    return tuple(Hostile(f"{field}: {n}", write(v), reason, field) for n, v, reason in cases)


MISSING = tuple(
    Hostile(f"{field} missing", without(PAYMENT, field), Reason.MISSING_FIELD, field)
    for field in PAYMENT
)
NULLS = tuple(
    Hostile(f"{field} null", payment(**{field: None}), Reason.WRONG_TYPE, field)
    for field in PAYMENT
)

CARD_NUMBERS = tuple(
    Hostile(f"card number in {name}", value, Reason.CARD_NUMBER, field)
    for name, value, field in (
        ("card_id", payment(card_id=CARD_NUMBER), "card_id"),
        ("card_id with hyphens", payment(card_id="4111-1111-1111-1111"), "card_id"),
        ("card_id with spaces", payment(card_id="4111 1111 1111 1111"), "card_id"),
        ("card_id after a word", payment(card_id=f"card:{CARD_NUMBER}"), "card_id"),
        ("card_id in escapes", raw("card_id", r'"\u0034111111111111111"'), "card_id"),
        ("an unknown field", payment(pan=CARD_NUMBER), ""),
        ("an unknown field with spaces", payment(note="4111 1111 1111 1111"), ""),
        ("an unknown field with hyphens", payment(note="4111-1111-1111-1111"), ""),
        ("a sentence", payment(note=f"paid with {CARD_NUMBER}, thanks"), ""),
        ("a sentence, with its expiry", payment(note=f"{CARD_NUMBER} 12/27"), ""),
        ("a sentence, with its check digits", payment(note="4111 1111 1111 1111 123"), ""),
        ("a sentence, after a number", payment(note=f"order 12 {CARD_NUMBER}"), ""),
        ("a second line", payment(note=f"card:\n{CARD_NUMBER}"), ""),
        ("a table", payment(note=f"tx1\t{CARD_NUMBER}\t12/27"), ""),
        ("a sentence, after an accent in escapes", payment(note=f"payé{CARD_NUMBER}"), ""),
        ("an address", payment(url=f"https://shop.example/?pan={CARD_NUMBER}&x=1"), ""),
        ("an unknown object", payment(card={"number": CARD_NUMBER}), ""),
        ("an unknown array", payment(cards=["c1", CARD_NUMBER]), ""),
        ("a deep unknown field", payment(a=[{"b": [[{"c": CARD_NUMBER}]]}]), ""),
        ("the name of an unknown field", payment(**{CARD_NUMBER: 1}), ""),
        ("a nested name", payment(cards={CARD_NUMBER: {"cvc": 1}}), ""),
        ("JSON in a string", payment(body=json.dumps({"pan": CARD_NUMBER})), ""),
    )
)

PAYMENTS: tuple[Hostile, ...] = (
    *UNREADABLE,
    *MISSING,
    *NULLS,
    *IDS,
    *AMOUNTS,
    *CURRENCIES,
    *_times(PAYMENT, "event_time"),
    *CARD_NUMBERS,
    Hostile("no field at all", b"{}", Reason.MISSING_FIELD, "transaction_id"),
    Hostile("a label", label(), Reason.MISSING_FIELD, "amount_minor"),
    Hostile("names in capitals", payment().upper(), Reason.MISSING_FIELD, "transaction_id"),
)

LABELS: tuple[Hostile, ...] = (
    *UNREADABLE,
    *(
        Hostile(f"{field} missing", without(LABEL, field), Reason.MISSING_FIELD, field)
        for field in LABEL
    ),
    *(
        Hostile(f"{field} null", label(**{field: None}), Reason.WRONG_TYPE, field)
        for field in LABEL
    ),
    *_times(LABEL, "event_time"),
    *_times(LABEL, "reported_at"),
    Hostile("is_fraud: number", label(is_fraud=1), Reason.WRONG_TYPE, "is_fraud"),
    Hostile("is_fraud: word", label(is_fraud="true"), Reason.WRONG_TYPE, "is_fraud"),
    Hostile("source: empty", label(source=""), Reason.BAD_FORMAT, "source"),
    Hostile("source: two words", label(source="an analyst"), Reason.BAD_FORMAT, "source"),
    Hostile("card number in card_id", label(card_id=CARD_NUMBER), Reason.CARD_NUMBER, "card_id"),
    Hostile("card number in an unknown field", label(note=CARD_NUMBER), Reason.CARD_NUMBER),
    Hostile("a payment", payment(), Reason.MISSING_FIELD, "is_fraud"),
)

#: With ``framing: confluent``, where a frame must be there.
FRAMED: tuple[Hostile, ...] = (
    Hostile("no frame", payment(), Reason.FRAMING),
    Hostile("a frame of another kind", b"\x01\0\0\0\x01" + payment(), Reason.FRAMING),
    Hostile("a frame and nothing in it", b"\0\0\0\0\x01", Reason.INVALID_JSON),
    Hostile("half a frame", b"\0\0\0", Reason.INVALID_JSON),
    Hostile("a frame around Avro", b"\0\0\0\0\x01\x06tx1\x02", Reason.INVALID_JSON),
    Hostile("a frame in a frame", b"\0\0\0\0\x01" * 2 + payment(), Reason.INVALID_JSON),
)
