"""What looks like a card number is found however it is written, and little else is."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudstream.card_number import (
    bytes_hold_card_number,
    holds_card_number,
    tokenize,
    value_holds_card_number,
)

#: Numbers that networks publish for tests, of every length and network we look for.
PUBLISHED = {
    "Visa": "4111111111111111",
    "Visa, another": "4012888888881881",
    "Visa of 13 digits": "4222222222222",
    "Mastercard": "5555555555554444",
    "Mastercard, 2-series": "2223003122003222",
    "American Express": "378282246310005",
    "Diners Club": "30569309025904",
    "Diners Club, 38": "38520000023237",
    "Discover": "6011111111111117",
    "JCB": "3530111333300000",
    "Maestro": "6759649826438453",
    "UnionPay": "6200000000000005",
    "UnionPay of 19 digits": "6205500000000000004",
}
ISSUED_PREFIXES = ["4", "51", "55", "50", "58", "2221", "2720", "2200", "34", "37", "300", "305"]
ISSUED_PREFIXES += ["36", "38", "3528", "3589", "6011", "62", "65", "67", "81", "82"]


def with_check_digit(digits: str) -> str:
    """Append the digit that makes a number pass Luhn, worked out by trying all ten."""
    for check in "0123456789":
        doubled = [2 * int(digit) for digit in digits[::-2]]
        plain = [int(digit) for digit in digits[-2::-2]]
        total = sum(d - 9 if d > 9 else d for d in doubled) + sum(plain) + int(check)
        if total % 10 == 0:
            return digits + check
    raise AssertionError


@st.composite
def numbers(draw: st.DrawFn) -> str:
    prefix = draw(st.sampled_from(ISSUED_PREFIXES))
    length = draw(st.integers(13, 19))
    middle = draw(st.text("0123456789", min_size=19, max_size=19))
    return with_check_digit((prefix + middle)[: length - 1])


@st.composite
def written(draw: st.DrawFn) -> str:
    """Write a number with single spaces or hyphens anywhere between its digits."""
    number = draw(numbers())
    return (
        "".join(digit + draw(st.sampled_from(["", "", "", " ", "-"])) for digit in number[:-1])
        + number[-1]
    )


def printed(number: str, separator: str) -> str:
    """Write a number of 16 digits as on the card."""
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


@pytest.mark.parametrize("number", PUBLISHED.values(), ids=PUBLISHED)
def test_the_numbers_of_every_network_are_found(number: str) -> None:
    assert holds_card_number(number)


@pytest.mark.parametrize("number", PUBLISHED.values(), ids=PUBLISHED)
def test_one_wrong_digit_is_no_card_number(number: str) -> None:
    for place in range(len(number)):
        other = str((int(number[place]) + 1) % 10)
        assert not holds_card_number(number[:place] + other + number[place + 1 :])


@given(text=written(), before=st.sampled_from(["", "x:", "paid with ", "(", "_", "é", "\n", "=“"]))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_number_is_found_however_it_is_grouped_and_whatever_sign_is_beside_it(
    text: str, before: str
) -> None:
    assert holds_card_number(before + text)
    assert holds_card_number(before + text + before[::-1])


@given(number=numbers(), before=st.integers(0, 10**6), after=st.integers(0, 10**6))
@example(number=PUBLISHED["Visa"], before=1, after=12)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_number_is_found_between_other_numbers(number: str, before: int, after: int) -> None:
    """An expiry or a check number after it must not hide it."""
    for text in (f"{before} {number} {after}", f"{before}-{number}-{after}", f"{number} 12/27"):
        assert holds_card_number(text)
    if len(number) == 16:
        for separator in " -":
            assert holds_card_number(f"{printed(number, separator)} {after}")
            assert holds_card_number(f"{before} {printed(number, separator)}")


def test_an_american_express_number_is_found_as_printed_beside_its_check_number() -> None:
    assert holds_card_number("3782 822463 10005 1234")
    assert holds_card_number("3056 930902 5904 123")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c1",
        "411111111111",
        "4111111111111112",
        "41111111111111111111",
        "x4111111111111111",
        "4111111111111111x",
        "04111111111111111",
        "4111.1111.1111.1111",
        "4111  1111  1111  1111",
        "4111--1111--1111--1111",
        "1532513472345",
        "9999999999999995",
        "7000000000000005",
        "2018-07-25T10:11:12.500Z",
        "123e4567-e89b-42d3-a456-426614174000",
        "+49 30 901820",
        "٤١١١١١١١١١١١١١١١",
    ],
)
def test_other_texts_are_no_card_numbers(text: str) -> None:
    assert not holds_card_number(text)


@given(st.integers(946_684_800_000, 1_999_999_999_999))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_time_in_epoch_milliseconds_before_2033_is_taken_for_one(time_ms: int) -> None:
    assert not holds_card_number(str(time_ms))


def test_numbers_are_looked_for_in_texts_and_names_at_any_depth_but_not_among_json_numbers() -> (
    None
):
    number = PUBLISHED["Visa"]
    for value in (number, [number], {"a": number}, {number: 1}, {"a": [{"b": [{number: None}]}]}):
        assert value_holds_card_number(value)
    for other in (int(number), [int(number)], {"a": int(number)}, None, True, 1.5, [], {}):
        assert not value_holds_card_number(other)


def test_a_value_nested_as_deeply_as_a_parser_allows_is_searched() -> None:
    value: object = PUBLISHED["Visa"]
    for _ in range(100_000):
        value = [value]
    assert value_holds_card_number(value)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"pan": 4111111111111111',
        b'{"pan": "4111111111111111"}',
        b'{"pan": "\\u0034111111111111111"}',
        b'{"pan": "4111\\u002d1111\\u002D1111\\u00201111"}',
        b"".join(b"\\u%04x" % ord(digit) for digit in PUBLISHED["Visa"]),
        b"\xff\xfe4111111111111111\xff",
        json.dumps({"note": "card:\n4111111111111111"}).encode(),
        json.dumps({"note": "tx1\t4111111111111111\t12/27"}).encode(),
        json.dumps({"note": "payé4111111111111111"}).encode(),
        json.dumps({"body": json.dumps({"note": "é\n4111111111111111"})}).encode(),
        b"tx1;4111 1111 1111 1111;12/27;123",
        PUBLISHED["Visa"].encode("utf-16"),
        json.dumps({"pan": PUBLISHED["Visa"]}).encode("utf-16-be"),
        json.dumps({"pan": int(PUBLISHED["Visa"])}).encode("utf-32"),
        json.dumps(json.dumps({"pan": PUBLISHED["Visa"]})).encode(),
    ],
)
def test_what_is_kept_of_a_bad_record_is_searched_as_bytes(raw: bytes) -> None:
    assert bytes_hold_card_number(raw)


@given(
    before=st.text(max_size=5),
    number=written(),
    after=st.text(max_size=5),
    is_escaped=st.booleans(),
)
@example("1\0", "4111111111111111", "\x005", True)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_what_is_found_in_a_text_is_found_in_its_bytes(
    before: str, number: str, after: str, is_escaped: bool
) -> None:
    """A record is refused for its text, and its payload must not be kept for its bytes."""
    text = before + number + after
    raw = json.dumps({"note": text}, ensure_ascii=is_escaped).encode("utf-8", "replace")
    assert bytes_hold_card_number(raw) or not holds_card_number(text)


@given(
    before=st.text(st.characters(max_codepoint=127), max_size=5),
    number=written(),
    after=st.text(st.characters(max_codepoint=127), max_size=5),
    encoding=st.sampled_from(["utf-16", "utf-16-be", "utf-32", "utf-32-be"]),
)
@example("1\0", "4111111111111111", "\x005", "utf-16")
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_found_in_a_text_is_found_in_its_bytes_of_a_wider_encoding(
    before: str, number: str, after: str, encoding: str
) -> None:
    text = before + number + after
    raw = json.dumps({"note": text}).encode(encoding)
    assert bytes_hold_card_number(raw) or not holds_card_number(text)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b'{"at": 1532513472345}', b"\\u00zz", bytes(range(256)), b"\\u0034" * 12]
)
def test_other_bytes_hold_none(raw: bytes) -> None:
    assert not bytes_hold_card_number(raw)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_bytes_can_be_searched(raw: bytes) -> None:
    assert bytes_hold_card_number(raw) in {True, False}
    assert bytes_hold_card_number(raw + b"|4111111111111111")


@pytest.mark.parametrize(
    "text", ["4" * 65_536, "4 " * 32_768, "4444 " * 13_107, "44444444444444 " * 4_369, "-" * 65_536]
)
def test_the_worst_texts_of_an_events_size_are_searched_in_no_time(text: str) -> None:
    """A record must not be able to hold up the others; 0.1 s of work on an idle machine."""
    started_s = time.process_time()
    holds_card_number(text)
    assert time.process_time() - started_s < 2.0


@pytest.mark.parametrize("raw", [b"\\" * 65_536, b"\\u" * 32_768, b"\0\\" * 32_768])
def test_the_worst_bytes_of_an_events_size_are_searched_in_no_time(raw: bytes) -> None:
    started_s = time.process_time()
    bytes_hold_card_number(raw)
    assert time.process_time() - started_s < 2.0


@given(number=numbers(), key=st.binary(min_size=1, max_size=64))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_token_is_an_id_of_ours_and_shows_no_digits_of_the_number(
    number: str, key: bytes
) -> None:
    token = tokenize(number, key)
    assert re.fullmatch(r"pan:[0-9a-f]{60}", token)
    assert number not in token
    assert not holds_card_number(token)
    assert token == tokenize("-".join(number), key)
    assert token != tokenize(number, key + b"x")
