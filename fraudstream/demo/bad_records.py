"""Records that can never become events, one of each kind that shops have been seen to send."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from fraudstream.demo.plan import INPUTS

#: A test number of the card schemes: no account has it.
TEST_CARD_NUMBER: Final = "4111111111111111"
_TEN_YEARS_MS: Final = 3_652 * 86_400_000
_DEPTH: Final = 3_000
_HUGE_BYTES: Final = 100_000


class BadRecord(NamedTuple):
    """What is sent, and what is wrong with it."""

    kind: str
    value: bytes | None
    topic: str = INPUTS.transactions


def bad_records(now_ms: int) -> list[BadRecord]:
    """Make one bad record of each kind.

    Parameters
    ----------
    now_ms
        Epoch milliseconds; what lies ten years ahead of it lies in the future.
    """

    def payment(**changes: object) -> bytes:
        fields = {
            "transaction_id": "bad-1",
            "event_time": now_ms,
            "card_id": "c0001",
            "terminal_id": "t0001",
            "amount_minor": 1_250,
            "currency": "EUR",
        } | changes
        return orjson.dumps({name: value for name, value in fields.items() if value is not None})

    return [
        BadRecord("no value", None),
        BadRecord("empty", b""),
        BadRecord("not JSON", b"amount=12.50;currency=EUR"),
        BadRecord("cut off", payment()[:40]),
        BadRecord("not UTF-8", b'{"transaction_id": "caf\xe9"}'),
        BadRecord("an array", b"[1, 2, 3]"),
        BadRecord("a field missing", payment(amount_minor=None)),
        BadRecord("a wrong type", payment(amount_minor="12.50")),
        BadRecord("a negative amount", payment(amount_minor=-1)),
        BadRecord("an unknown currency", payment(currency="ZZZ")),
        BadRecord("a time in 1970", payment(event_time=now_ms // 1_000)),
        BadRecord("a time in ten years", payment(event_time=now_ms + _TEN_YEARS_MS)),
        BadRecord("a card number", payment(card_id=TEST_CARD_NUMBER)),
        BadRecord("nested too deep", b'{"a":' * _DEPTH + b"1" + b"}" * _DEPTH),
        BadRecord("huge", payment(note="x" * _HUGE_BYTES)),
        BadRecord("a schema registry's framing", b"\x00\x00\x00\x00\x07" + payment()),
        BadRecord("a label without its time", payment(is_fraud=True, source="demo"), INPUTS.labels),
    ]
