"""The corpus is what it says; and whatever becomes of a payment's bytes, the answer is one of two.

Damaged payments are read twice: by the worker's parser, and by a plain reading with the standard
library's json module and the rules of ``docs/contracts.md``. They must agree on what is a payment,
on what it says, and, where it is none, that it is refused for exactly one reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hostile
import hostile_json
import pytest
from hostile import PAYMENT, RECORD_TIME_MS, Hostile
from hostile_headers import JUNK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import EventRules, Record, Transaction, parse_transaction

CONTRACTS = Path(__file__).resolve().parents[2] / "docs" / "contracts.md"
RULES = EventRules()
SIZE_MAX = 64 * 1024
DEPTH_MAX = 1_024
AMOUNT_MAX = 10**12
EARLIEST_MS = 946_684_800_000
SKEW_MS = 300_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FAMILIES = {
    "nothing": hostile_json.NOTHING,
    "foreign formats": hostile_json.FOREIGN,
    "grammar": hostile_json.GRAMMAR,
    "numbers": hostile_json.NUMBERS,
    "strings": hostile_json.STRINGS,
    "no objects": hostile_json.NO_OBJECTS,
    "depth": hostile_json.DEEP,
    "sizes": hostile_json.SIZES,
    "ids": hostile.IDS,
    "amounts": hostile.AMOUNTS,
    "currencies": hostile.CURRENCIES,
    "times": hostile.TIMES,
    "missing fields": hostile.MISSING,
    "nulls": hostile.NULLS,
    "envelopes": hostile.ENVELOPES,
    "card numbers": hostile.CARD_NUMBERS,
    "card numbers in other faults": hostile.LEAKS,
}


# ------------------------------------------------------------------ the corpus itself


def test_the_corpus_has_every_reason_that_publishers_are_told_of() -> None:
    table = CONTRACTS.read_text("utf-8").partition("| reason |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert told == {reason.value for reason in Reason}
    # Whether Kafka takes an output is not seen in the record: tests/faults.
    of_records = told - {Reason.OUTPUT_REFUSED.value}
    assert {case.reason.value for case in hostile.PAYMENTS} == of_records
    assert {case.reason.value for case in hostile.LABELS} | {"out_of_range"} >= of_records - {
        "unknown_currency"
    }


def test_no_case_is_there_twice() -> None:
    for cases in (hostile.PAYMENTS, hostile.LABELS):
        assert len({case.name for case in cases}) == len(cases)
    values = [case.value for case in hostile.PAYMENTS]
    twice = {case.name for case in hostile.PAYMENTS if values.count(case.value) > 1}
    # A null is a fault of its own and one of the values that each field is tried with.
    assert {name for name in twice if "null" not in name} == set()


def test_each_family_is_whole_and_in_the_corpus() -> None:
    for name, cases in FAMILIES.items():
        assert set(cases) <= set(hostile.PAYMENTS), name
        assert len(cases) >= 5, name
    assert sum(len(cases) for cases in FAMILIES.values()) >= 450
    assert len({junk.name for junk in JUNK}) == len(JUNK) >= 35


# ------------------------------------------------------------------ a plain reading


def read_plainly(value: bytes | None) -> Transaction | None:
    """Read a payment with the standard library; None where it is none."""
    if not value or len(value) > SIZE_MAX or value[0] == 0:
        return None
    try:
        found = json.loads(
            value.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_integer,
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or _depth(found) > DEPTH_MAX or not _is_text(found):
        return None
    return _read_fields(found)


def _refuse(name: str) -> object:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(text)
    return number


def _integer(text: str) -> int | float:
    """Integers are of 64 bits, signed or not; what is larger is read as a float."""
    if len(text) > 400:
        raise ValueError(text)
    number = int(text)
    return number if -(2**63) <= number < 2**64 else _finite(text)


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [inner for outer in level for inner in _inside(outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
    return deepest


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list) else []


def _is_text(value: object) -> bool:
    """Say whether all strings inside can be written as UTF-8: no lone surrogates."""
    pending = [value]
    while pending:
        item = pending.pop()
        pending.extend(_inside(item))
        if isinstance(item, str) and re.search("[\ud800-\udfff]", item):
            return False
    return True


def _read_fields(found: Mapping[str, Any]) -> Transaction | None:
    base = found.get("amount_base_minor")
    currency = found.get("currency")
    time_ms = _time_ms(found.get("event_time"))
    is_good = (
        all(_is_id(found.get(name)) for name in ("transaction_id", "card_id", "terminal_id"))
        and _is_amount(found.get("amount_minor"))
        and (base is None or _is_amount(base))
        and isinstance(currency, str)
        and currency in MINOR_UNIT_DECIMALS
        and time_ms is not None
        and EARLIEST_MS <= time_ms <= RECORD_TIME_MS + SKEW_MS
    )
    unknown = {n: v for n, v in found.items() if n not in {*PAYMENT, "amount_base_minor"}}
    if not is_good or _has_card_number(found["card_id"]) or _has_card_number(unknown):
        return None
    amount = found["amount_minor"]
    return Transaction(
        found["transaction_id"],
        time_ms or 0,
        found["card_id"],
        found["terminal_id"],
        amount,
        str(currency),
        amount if currency == "EUR" else base,
        len(unknown),
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9._:-]{1,64}", value) is not None


def _is_amount(value: object) -> bool:
    return type(value) is int and 0 <= value <= AMOUNT_MAX


_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:?\d\d)", re.ASCII
)


def _time_ms(value: object) -> int | None:
    """Read RFC 3339 with a zone, or integer milliseconds; finer than a millisecond is cut."""
    if type(value) is int:
        return value
    if not isinstance(value, str) or (parts := _TIME.fullmatch(value)) is None:
        return None
    day, second, fraction, zone = parts.groups()
    zone = "+00:00" if zone in "Zz" else zone
    if int(zone[1:3]) > 23 or int(zone[-2:]) > 59:
        return None
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    try:
        moment = datetime.fromisoformat(f"{day}T{second}+00:00") - EPOCH
    except ValueError:
        return None
    moment = moment + offset if zone[0] == "-" else moment - offset
    return moment // timedelta(milliseconds=1) + int(f"{fraction or ''}000"[:3])


def _has_card_number(value: object) -> bool:
    """Look for 13 to 19 digits on their own, of a known issuer, that pass Luhn."""
    pending, texts = [value], []
    while pending:
        item = pending.pop()
        pending.extend(_inside(item))
        texts += [item] if isinstance(item, str) else []
    runs = [
        run for t in texts for run in re.findall(r"(?<![0-9A-Za-z])[0-9]{13,19}(?![0-9A-Za-z])", t)
    ]
    return any(run[0] in "4568" and _passes_luhn(run) for run in runs)


def _passes_luhn(digits: str) -> bool:
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 * (n > 9) for n in doubled)) % 10 == 0


def read(value: bytes | None) -> Transaction | InvalidEventError:
    """Read as the worker does. Another error than the one for bad records fails."""
    try:
        return parse_transaction(Record("transactions", 0, 7, RECORD_TIME_MS, b"c1", value), RULES)
    except InvalidEventError as error:
        return error


def assert_agreed(value: bytes | None) -> None:
    found, plainly = read(value), read_plainly(value)
    if isinstance(found, InvalidEventError):
        assert isinstance(found.reason, Reason)
        assert found.field in {*PAYMENT, "amount_base_minor", ""}
        assert plainly is None, found
    else:
        assert found == plainly


@pytest.mark.parametrize("case", hostile.PAYMENTS, ids=lambda case: case.name)
def test_a_plain_reading_refuses_the_corpus_too(case: Hostile) -> None:
    if case.reason is not Reason.CARD_NUMBER:  # these are written in more ways than it knows
        assert read_plainly(case.value) is None


def test_a_plain_reading_takes_the_good_payment() -> None:
    assert read_plainly(hostile.payment()) == read(hostile.payment())
    assert isinstance(read_plainly(hostile.payment()), Transaction)


# ------------------------------------------------------------------ mutations

GOOD = st.sampled_from(
    [
        hostile.payment(),
        hostile.payment(event_time=RECORD_TIME_MS),
        hostile.payment(event_time="2018-07-25T12:11:12.5+02:00", basket=["payé", {"a": 2}]),
        hostile.payment(currency="JPY", amount_base_minor=17),
        json.dumps(PAYMENT | {"note": '\U0001f4b3 \\ " \n'}, ensure_ascii=False).encode(),
        json.dumps(PAYMENT, indent=2).encode(),
    ]
)
#: What makes another JSON text of one: flips land on these too seldom.
TELLING = st.sampled_from(
    [b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"0", b"-", b".", b"e", b"E9", b"\0", b"\n",
     b" ", b"\xff", b"\xc3\xa9", b"\\u0031", b"\\ud800", b"null", b"true", b"1e400", b"NaN",
     b"9999"]
)  # fmt: skip
JUNK_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["EUR", "2018-07-25T10:11:12Z", "5716", "", "c1", RECORD_TIME_MS, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([*PAYMENT, "amount_base_minor", "note", "", "Card_id"])
MUTATIONS = settings(max_examples=600, deadline=None, derandomize=True)


@given(good=GOOD, flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 7)), max_size=3))
@MUTATIONS
def test_flipped_bits_are_read_alike(good: bytes, flips: list[tuple[int, int]]) -> None:
    value = bytearray(good)
    for at, bit in flips:
        value[at % len(value)] ^= 1 << bit
    assert_agreed(bytes(value))


@given(good=GOOD, at=st.integers(0, 400), put=TELLING, cut=st.integers(0, 4))
@MUTATIONS
def test_what_is_put_in_or_left_out_is_read_alike(
    good: bytes, at: int, put: bytes, cut: int
) -> None:
    at %= len(good) + 1
    assert_agreed(good[:at] + put + good[at + cut :])


@given(good=GOOD, start=st.integers(0, 60), end=st.integers(0, 400))
@MUTATIONS
def test_what_is_cut_off_is_read_alike(good: bytes, start: int, end: int) -> None:
    assert_agreed(good[start // 2 : end])


@given(good=GOOD, parts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=3))
@MUTATIONS
def test_what_is_repeated_is_read_alike(good: bytes, parts: list[tuple[int, int]]) -> None:
    value = good
    for at, length in parts:
        at %= len(value)
        value = value[: at + length] + value[at:]
    assert_agreed(value)


@given(changes=st.dictionaries(NAMES, JUNK_VALUES, max_size=3), dropped=st.sets(NAMES, max_size=1))
@example(changes={"amount_minor": -0.0}, dropped=set())
@example(changes={"note": [[[]]] * 3}, dropped={"note"})
@MUTATIONS
def test_other_types_and_nested_junk_are_read_alike(
    changes: dict[str, Any], dropped: set[str]
) -> None:
    fields = {name: v for name, v in (PAYMENT | changes).items() if name not in dropped}
    assert_agreed(json.dumps(fields).encode())
    assert_agreed(json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(names=st.lists(NAMES, min_size=2, max_size=2), data=st.data())
@MUTATIONS
def test_swapped_and_doubled_values_are_read_alike(names: list[str], data: st.DataObject) -> None:
    one, other = names
    swapped = PAYMENT | {one: PAYMENT.get(other), other: PAYMENT.get(one)}
    assert_agreed(json.dumps(swapped).encode())
    junk = f'"{one}": {json.dumps(data.draw(JUNK_VALUES))}'.encode()
    fields = hostile.payment()[1:-1]
    assert_agreed(b"{" + fields + b", " + junk + b"}")
    assert_agreed(b"{" + junk + b", " + fields + b"}")


@given(
    day=st.sampled_from(["2018-07-25", "2018-02-29", "2016-02-29", "1999-12-31", "2018-13-01"]),
    second=st.sampled_from(["10:11:12", "00:00:00", "23:59:59", "23:59:60", "24:00:00"]),
    fraction=st.just("") | st.from_regex(r"\.[0-9]{0,6}", fullmatch=True),
    zone=st.sampled_from(["Z", "z", "", "+02:00", "-00:00", "+24:00", "+0100", "-23:59", " Z"]),
    between=st.sampled_from("Tt _"),
)
@MUTATIONS
def test_times_are_read_alike(
    day: str, second: str, fraction: str, zone: str, between: str
) -> None:
    assert_agreed(hostile.payment(event_time=f"{day}{between}{second}{fraction}{zone}"))


@pytest.mark.parametrize("fraction", ["4999999", "9999999", "0005", "123456789012345678901234"])
def test_finer_than_a_millisecond_is_cut(fraction: str) -> None:
    assert_agreed(hostile.payment(event_time=f"2018-07-25T10:11:11.{fraction}Z"))
