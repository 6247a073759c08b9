"""Recognise what looks like a card number, so that it goes nowhere.

A card number (PAN) here is a run of 13 to 19 digits, possibly grouped by single spaces or
hyphens, that begins like a number some network issues and passes the Luhn check (ISO/IEC 7812-1).
Only text is looked at when an event is judged, never JSON numbers: one in ten epoch-millisecond
integers passes Luhn. What is *kept* of a bad record is judged more strictly, numbers included.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator

_DIGITS_MIN = 13
# Whole runs only: a digit or letter on either side means it is part of something longer.
_RUN = re.compile(r"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])")
# The ways numbers are printed, beside other digits too: "number expiry", "number check digits".
_PRINTED = re.compile(
    r"(?<![0-9A-Za-z])(?=([0-9]{13,19}|[0-9]{4}(?:[ -][0-9]{4}){3}|[0-9]{4}[ -][0-9]{6}[ -]"
    r"[0-9]{4,5})(?![0-9A-Za-z]))"
)
# Visa; Maestro and Mastercard; Mir and Mastercard 2-series; Diners, Amex, JCB; Discover, Maestro,
# UnionPay; RuPay.
_ISSUED = re.compile(r"4|5[0-8]|2[2-7]|3(?:0[0-5]|[4-9])|6|8[12]")
# JSON's escapes, also inside a string that is JSON itself: of ASCII, of others, of line ends.
# Only from the first backslash of a row of them: tried from each, a long row takes minutes.
_ESCAPE = re.compile(rb"(?<!\\)\\+(?:u00([0-7][0-9A-Fa-f])|u[0-9A-Fa-f]{4}|[bfnrt])")
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def holds_card_number(text: str) -> bool:
    """Say whether a text holds what looks like a card number.

    Examples
    --------
    >>> holds_card_number("4111 1111 1111 1111"), holds_card_number("card:4111111111111111")
    (True, True)
    >>> holds_card_number("4111111111111112"), holds_card_number("1532513472345")
    (False, False)
    """
    # Nearly always; what is printed within a run is part of one.
    if len(text) < _DIGITS_MIN or _RUN.search(text) is None:
        return False
    runs = (run for pattern in (_RUN, _PRINTED) for run in pattern.findall(text))
    return any(_is_card_number(run) for run in runs)


def bytes_hold_card_number(raw: bytes) -> bool:
    r"""Say whether raw bytes, readable or not, hold what looks like a card number.

    JSON escapes are undone first, so that ``\u0034111…`` and ``\n4111…`` are found too, and it is
    tried without zero bytes as well, so that UTF-16 is.

    Examples
    --------
    >>> bytes_hold_card_number(b'{"pan": 4111111111111111')
    True
    """
    for written in (raw, raw.replace(b"\0", b"")) if b"\0" in raw else (raw,):
        plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else b"|", written)
        if holds_card_number(plain.decode("latin-1")):
            return True
    return False


def value_holds_card_number(value: object) -> bool:
    """Say whether any string inside a decoded JSON value looks like a card number.

    Walks without recursion: the value may be nested as deeply as the parser allows.
    """
    return any(holds_card_number(text) for text in _strings(value))


def tokenize(text: str, key: bytes) -> str:
    """Replace a card number by a keyed digest (HMAC-SHA-256, first 240 bits).

    Keyed because the space of card numbers is small enough to try them all (PCI DSS 3.5.1.1).
    Separators do not count, so every way of writing one number gives one token of 64 characters.
    """
    digits = re.sub(r"[^0-9]", "", text)
    return "pan:" + hmac.new(key, digits.encode(), hashlib.sha256).hexdigest()[:60]


def _is_card_number(run: str) -> bool:
    digits = run.replace(" ", "").replace("-", "")
    return _ISSUED.match(digits) is not None and _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        total += _LUHN_DOUBLED[int(digit)] if index % 2 else int(digit)
    return total % 10 == 0


def _strings(value: object) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
