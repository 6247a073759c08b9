"""Hostile records, as data: what a publisher's bug, or a publisher, may put into a topic.

Each is refused for one reason, and where one of our fields is at fault, that field is named.
Unit tests parse them one by one; `tests/integration/test_bad_input.py` publishes all of them to a
live worker, and the fault tests mix them into their load.
"""

from __future__ import annotations

import json
from typing import Any

from hostile_json import UNREADABLE
from hostile_writing import (
    CARD_NUMBER,
    LABEL,
    PAYMENT,
    RECORD_TIME_MS,
    YEAR_MS,
    Hostile,
    label,
    note,
    payment,
    raw,
    without,
)

from fraudstream.errors import Reason

__all__ = (
    "CARD_NUMBER", "LABEL", "PAYMENT", "RECORD_TIME_MS", "Hostile", "label", "payment", "raw",
    "without",
)  # fmt: skip

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
        ("no-break space", "c\u00a01", Reason.BAD_FORMAT),
        ("carriage return and line feed", "c1\r\nfs_reason: none", Reason.BAD_FORMAT),
        ("terminal's escape", "c\x1b[2J", Reason.BAD_FORMAT),
        ("a look-up", "${jndi:ldap://c.example/1}", Reason.BAD_FORMAT),
        ("SQL", "c1'; DROP TABLE cards; --", Reason.BAD_FORMAT),
        ("mark-up", "<script>c1</script>", Reason.BAD_FORMAT),
        ("a path", "../../c1", Reason.BAD_FORMAT),
        ("a format", "%s%n", Reason.BAD_FORMAT),
        ("number", 17, Reason.WRONG_TYPE),
        ("float", 1.5, Reason.WRONG_TYPE),
        ("boolean", True, Reason.WRONG_TYPE),
        ("array", ["c1"], Reason.WRONG_TYPE),
        ("object", {"id": "c1"}, Reason.WRONG_TYPE),
        ("null", None, Reason.WRONG_TYPE),
        ("minus zero", -0.0, Reason.WRONG_TYPE),
        ("empty array", [], Reason.WRONG_TYPE),
        ("empty object", {}, Reason.WRONG_TYPE),
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
        ("capital exponent", "1E3", Reason.WRONG_TYPE),
        ("exponent of nothing", "0e0", Reason.WRONG_TYPE),
        ("minus zero as a float", "-0.0", Reason.WRONG_TYPE),
        ("smaller than any double", "1e-400", Reason.WRONG_TYPE),
        ("empty string", '""', Reason.WRONG_TYPE),
        ("with its currency", '"57.16 EUR"', Reason.WRONG_TYPE),
        ("false", "false", Reason.WRONG_TYPE),
        ("boolean", "true", Reason.WRONG_TYPE),
        ("array", "[5716]", Reason.WRONG_TYPE),
        ("object", '{"value": 5716}', Reason.WRONG_TYPE),
        ("minus one", "-1", Reason.OUT_OF_RANGE),
        ("one too many", str(10**12 + 1), Reason.OUT_OF_RANGE),
        ("2^53", str(2**53), Reason.OUT_OF_RANGE),
        ("2^63", str(2**63), Reason.OUT_OF_RANGE),
        ("minus 2^63", str(-(2**63)), Reason.OUT_OF_RANGE),
        ("2^63 − 1", str(2**63 - 1), Reason.OUT_OF_RANGE),
        ("2^64 − 1", str(2**64 - 1), Reason.OUT_OF_RANGE),
        ("2^64", str(2**64), Reason.WRONG_TYPE),
        ("less than minus 2^63", str(-(2**63) - 1), Reason.WRONG_TYPE),
        ("300 digits", "1" * 300, Reason.WRONG_TYPE),
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
        ("second 60", "2018-07-25T10:11:60Z", Reason.BAD_FORMAT),
        ("minute 60", "2018-07-25T10:60:12Z", Reason.BAD_FORMAT),
        ("day 0", "2018-07-00T10:11:12Z", Reason.BAD_FORMAT),
        ("month 0", "2018-00-25T10:11:12Z", Reason.BAD_FORMAT),
        ("29 February of no leap year", "2019-02-29T10:11:12Z", Reason.BAD_FORMAT),
        ("leap second", "2016-12-31T23:59:60Z", Reason.BAD_FORMAT),
        ("zone of 24 hours", "2018-07-25T10:11:12+24:00", Reason.BAD_FORMAT),
        ("zone of 60 minutes", "2018-07-25T10:11:12+02:60", Reason.BAD_FORMAT),
        ("zone of hours alone", "2018-07-25T10:11:12+02", Reason.BAD_FORMAT),
        ("zone with a true minus sign", "2018-07-25T10:11:12−02:00", Reason.BAD_FORMAT),
        ("no seconds", "2018-07-25T10:11Z", Reason.BAD_FORMAT),
        ("no digit behind the point", "2018-07-25T10:11:12.Z", Reason.BAD_FORMAT),
        ("decimal comma", "2018-07-25T10:11:12,5Z", Reason.BAD_FORMAT),
        ("no separators", "20180725T101112Z", Reason.BAD_FORMAT),
        ("day of the year", "2018-206T10:11:12Z", Reason.BAD_FORMAT),
        ("week", "2018-W30-3T10:11:12Z", Reason.BAD_FORMAT),
        ("month of one digit", "2018-7-25T10:11:12Z", Reason.BAD_FORMAT),
        ("year with a sign", "+2018-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("year 0", "0000-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("American", "07/25/2018 10:11:12 AM", Reason.BAD_FORMAT),
        ("RFC 2822", "Wed, 25 Jul 2018 10:11:12 +0000", Reason.BAD_FORMAT),
        ("full-width digits", "２０１８-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("space before", " 2018-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("space behind", "2018-07-25T10:11:12Z ", Reason.BAD_FORMAT),
        ("zero byte behind", "2018-07-25T10:11:12Z\0", Reason.BAD_FORMAT),
        ("zone of 25 hours", "2018-07-25T10:11:12+25:00", Reason.BAD_FORMAT),
        ("named zone", "2018-07-25T10:11:12 CET", Reason.BAD_FORMAT),
        ("year 10000", "10000-07-25T10:11:12Z", Reason.BAD_FORMAT),
        ("words", "yesterday", Reason.BAD_FORMAT),
        ("empty", "", Reason.BAD_FORMAT),
        ("line feed at the end", "2018-07-25T10:11:12Z\n", Reason.BAD_FORMAT),
        ("JavaScript's wrong date", "Invalid Date", Reason.BAD_FORMAT),
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
        ("nanoseconds", RECORD_TIME_MS * 1_000_000, Reason.TIME_IN_FUTURE),
        ("a day ahead", RECORD_TIME_MS + 86_400_000, Reason.TIME_IN_FUTURE),
        ("2^53", 2**53, Reason.TIME_IN_FUTURE),
        ("2^63 − 1", 2**63 - 1, Reason.TIME_IN_FUTURE),
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


TIMES = _times(PAYMENT, "event_time")

MISSING = tuple(
    Hostile(f"{field} missing", without(PAYMENT, field), Reason.MISSING_FIELD, field)
    for field in PAYMENT
)
NULLS = tuple(
    Hostile(f"{field} null", payment(**{field: None}), Reason.WRONG_TYPE, field)
    for field in PAYMENT
)

ENVELOPES = tuple(
    Hostile(name, json.dumps(value).encode(), Reason.MISSING_FIELD, "transaction_id")
    for name, value in (
        ("CloudEvents' envelope", {"specversion": "1.0", "id": "1", "data": PAYMENT}),
        ("Debezium's envelope", {"before": None, "after": PAYMENT, "op": "c"}),
        ("Debezium's deletion", {"before": PAYMENT, "after": None, "op": "d"}),
        ("Connect's envelope", {"schema": {"type": "struct"}, "payload": PAYMENT}),
        ("our own dead letter's", {"value": json.dumps(PAYMENT), "fs_reason": "empty"}),
        ("a list of them", {"transactions": [PAYMENT, PAYMENT]}),
        ("camel case", {"transactionId": "tx1", "eventTime": RECORD_TIME_MS, "cardId": "c1"}),
        ("names with hyphens", {n.replace("_", "-"): v for n, v in PAYMENT.items()}),
        ("names with a space", {f"{n} ": v for n, v in PAYMENT.items()}),
        ("names with a zero byte", {f"{n}\0": v for n, v in PAYMENT.items()}),
        ("names with a byte order mark", {f"\ufeff{n}": v for n, v in PAYMENT.items()}),
        ("dotted names", {f"payment.{n}": v for n, v in PAYMENT.items()}),
    )
)  # fmt: skip

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
        ("15 digits", payment(note="378282246310005"), ""),
        ("15 digits in groups", payment(note="3782 822463 10005"), ""),
        ("14 digits", payment(note="30569309025904"), ""),
        ("13 digits", payment(note="4222222222222"), ""),
        ("19 digits", payment(note="6205500000000000004"), ""),
        ("another network's", payment(card_id="5555555555554444"), "card_id"),
        ("a third network's", payment(card_id="6011-1111-1111-1117"), "card_id"),
        ("quotes", payment(note=f"'{CARD_NUMBER}'"), ""),
        ("mark-up", payment(note=f"<pan>{CARD_NUMBER}</pan>"), ""),
        ("a line of CSV", payment(note=f"tx1;{CARD_NUMBER};57.16"), ""),
        ("a magnetic stripe's track", payment(note=f";{CARD_NUMBER}=25121010000012345678?"), ""),
    )
)

#: Refused for another reason, and yet nothing of them may be kept.
LEAKS = tuple(
    Hostile(f"card number in {name}", value, reason, field)
    for name, value, reason, field in (
        ("half a payment", payment(pan=CARD_NUMBER)[:-1], Reason.INVALID_JSON, ""),
        ("a line of words", f"paid with {CARD_NUMBER}".encode(), Reason.INVALID_JSON, ""),
        ("Latin-1", note(b"caf\xe9 " + CARD_NUMBER.encode()), Reason.INVALID_UTF8, ""),
        ("an array", f'["{CARD_NUMBER}"]'.encode(), Reason.NOT_AN_OBJECT, ""),
        ("a number alone", CARD_NUMBER.encode(), Reason.NOT_AN_OBJECT, ""),
        ("a frame", b"\0\0\0\0\x01" + payment(pan=CARD_NUMBER), Reason.FRAMING, ""),
        ("card_id as a number", payment(card_id=int(CARD_NUMBER)), Reason.WRONG_TYPE, "card_id"),
        ("terminal_id", payment(terminal_id=f"t {CARD_NUMBER}"), Reason.BAD_FORMAT, "terminal_id"),
        ("currency", payment(currency=CARD_NUMBER), Reason.BAD_FORMAT, "currency"),
        ("amount_minor", payment(amount_minor=int(CARD_NUMBER)), Reason.OUT_OF_RANGE,
         "amount_minor"),
        ("event_time", payment(event_time=int(CARD_NUMBER)), Reason.TIME_IN_FUTURE, "event_time"),
    )
)  # fmt: skip

PAYMENTS: tuple[Hostile, ...] = (
    *UNREADABLE,
    *MISSING,
    *NULLS,
    *IDS,
    *AMOUNTS,
    *CURRENCIES,
    *TIMES,
    *ENVELOPES,
    *CARD_NUMBERS,
    *LEAKS,
    Hostile("no field at all", b"{}", Reason.MISSING_FIELD, "transaction_id"),
    Hostile("a label", label(), Reason.MISSING_FIELD, "amount_minor"),
    Hostile(
        "Avro's JSON",
        payment(transaction_id={"string": "tx1"}),
        Reason.WRONG_TYPE,
        "transaction_id",
    ),
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
