"""Header junk, as data: what publishers, or others in between, may put beside a good payment.

Headers never decide what becomes of a record. Only a trace context is passed on, once, and only
the name of a replay's header is looked at; whatever else is in them goes nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hostile_writing import CARD_NUMBER, KIBIBYTE

Headers = Sequence[tuple[str, bytes | None]]
#: In every junk that could leak into an output.
CANARY = b"canary7316"
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACESTATE = b"congo=t61rcWkgMzE"


class HeaderJunk(NamedTuple):
    """Headers, and what of them goes on to each output.

    Attributes
    ----------
    name
        What is wrong with them.
    headers
        As they are published.
    passed_on
        The trace context that an output carries.
    is_replayed
        Whether the decision is flagged as a replay's, which is all that such a header can do.
    """

    name: str
    headers: Headers
    passed_on: Headers = ()
    is_replayed: bool = False


_PAN = CARD_NUMBER.encode()
_REASONS = [("fs_reason", b"empty"), ("fs_field", CANARY)]

JUNK: tuple[HeaderJunk, ...] = (
    HeaderJunk("empty name", [("", CANARY)]),
    HeaderJunk("null value", [("note", None)]),
    HeaderJunk("empty value", [("note", b"")]),
    HeaderJunk("no UTF-8", [("note", b"\xff\xfe" + CANARY)]),
    HeaderJunk("zero bytes", [("note", b"\0" * 100 + CANARY)]),
    HeaderJunk("line ends", [("note\r\nfs_reason", b"x\r\nfs_reason: " + CANARY)]),
    HeaderJunk("emoji", [("💳" * 50, CANARY)]),
    HeaderJunk("a name of 30,000 bytes", [("n" * 30_000, CANARY)]),
    HeaderJunk("500 kB", [("note", CANARY * 50_000)]),
    HeaderJunk("1,000 headers", [(f"h{n}", CANARY) for n in range(1_000)]),
    HeaderJunk("1,000 of one name", [("note", CANARY)] * 1_000),
    HeaderJunk("an attempt from outside", [("fs_attempt", CANARY), ("fs_attempt_records", b"9")]),
    HeaderJunk("an attempt without a value", [("fs_attempt", None)]),
    HeaderJunk(
        "a source from outside",
        [
            ("fs_source_topic", CANARY),
            ("fs_source_partition", b"7"),
            ("fs_source_offset", b"-1"),
        ],
    ),
    HeaderJunk("a source of no number", [("fs_source_offset", CANARY)]),
    HeaderJunk("a reason from outside", _REASONS),
    HeaderJunk("CloudEvents from outside", [("ce_id", CANARY), ("ce_type", CANARY)]),
    HeaderJunk("another content type", [("content-type", b"application/xml; " + CANARY)]),
    HeaderJunk("a replay from outside", [("fs_replay_run", CANARY)], is_replayed=True),
    HeaderJunk("a replay without a name", [("fs_replay_run", None)], is_replayed=True),
    HeaderJunk("two replays", [("fs_replay_run", CANARY), ("fs_replay_run", b"")], (), True),
    HeaderJunk("a replay in capitals", [("FS_REPLAY_RUN", CANARY)]),
    HeaderJunk("a fake trace", [("traceparent", CANARY)]),
    HeaderJunk("a trace in capitals", [("traceparent", TRACEPARENT.upper() + CANARY)]),
    HeaderJunk("a trace without a value", [("traceparent", None)]),
    HeaderJunk("a trace with a line end", [("traceparent", TRACEPARENT + b"\n")]),
    HeaderJunk("a trace that is no UTF-8", [("tracestate", b"\xff" + CANARY)]),
    HeaderJunk("a trace state of 513 bytes", [("tracestate", b"a=" + b"b" * 511)]),
    HeaderJunk(
        "a trace", [("traceparent", TRACEPARENT), ("tracestate", TRACESTATE), ("b3", CANARY)],
        [("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)],
    ),
    HeaderJunk(
        "two traces",
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT.replace(b"-01", b"-00"))],
        [("traceparent", TRACEPARENT)],
    ),
    HeaderJunk(
        "a fake trace before a true one",
        [("traceparent", CANARY), ("traceparent", TRACEPARENT)],
        [("traceparent", TRACEPARENT)],
    ),
    # Each copy that went on would be in the decision and in its dead letter: no output of the
    # record would ever be taken.
    HeaderJunk("1.3 MB of traces", [("tracestate", b"a=" + b"b" * 510)] * 2_500,
               [("tracestate", b"a=" + b"b" * 510)]),
    HeaderJunk("card number", [("note", _PAN)]),
    HeaderJunk("card number in a name", [(f"pan {CARD_NUMBER}", b"")]),
    HeaderJunk("card number in a replay's name", [("fs_replay_run", _PAN)], is_replayed=True),
    HeaderJunk("card number in a trace state", [("tracestate", b"pan=" + _PAN)]),
    HeaderJunk("card number in groups in a trace state", [("tracestate", b"4111 1111 1111 1111")]),
    HeaderJunk("card number as a span",
               [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-" + _PAN + b"-01")]),
    HeaderJunk("card number in fields of a trace state", [("tracestate", b"a=1,pan=" + _PAN)]),
    HeaderJunk("500 kB of card numbers", [("note", (_PAN + b" ") * (30 * KIBIBYTE))]),
)  # fmt: skip
