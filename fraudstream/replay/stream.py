"""Payments in event-time order, and the labels of the frauds among them, as one stream.

A fraud becomes known a fixed delay after its payment: its label is sent when the stream's time
reaches that moment, before the payments of that very moment. Genuine payments get no label. What
would become known only after the last payment is not sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from fraudstream.event import EVENT_TIME_MAX_MS, format_time
from fraudstream.replay.span import TimeSpan

#: What a label repeats of its payment, under our names.
FINDING_FIELDS = ("transaction_id", "event_time", "card_id", "terminal_id")
_SOURCE = "replay"
_SLICE_ROWS = 4_096


class ReplayEvent(NamedTuple):
    """A record to publish, and the event time at which it is sent."""

    time_ms: int
    is_label: bool
    key: bytes | None
    value: bytes


class Finding(NamedTuple):
    """What the label of a fraud repeats of its payment.

    Attributes
    ----------
    terminal_id
        The label's key.
    fields
        The `FINDING_FIELDS`, named and written as in the payment's own record: whoever maps the
        one maps the other.
    """

    terminal_id: str
    fields: Mapping[str, object]


class Payment(NamedTuple):
    """A transaction to publish.

    Attributes
    ----------
    time_ms, key, value
        As of a `ReplayEvent`. Without a value it is not sent: only its label is.
    finding
        None for a genuine payment.
    """

    time_ms: int
    key: bytes | None
    value: bytes | None
    finding: Finding | None = None


class PaymentColumns(Protocol):
    """Payments as columns of one length, in event-time order: what the simulator makes."""

    @property
    def transaction_id(self) -> NDArray[np.str_]:
        """Strings."""

    @property
    def event_time_ms(self) -> NDArray[np.int64]:
        """Epoch milliseconds, never falling."""

    @property
    def card_id(self) -> NDArray[np.str_]:
        """Strings."""

    @property
    def terminal_id(self) -> NDArray[np.str_]:
        """Strings."""

    @property
    def amount_minor(self) -> NDArray[np.int64]:
        """In minor units of the currency."""

    @property
    def currency(self) -> NDArray[np.str_]:
        """Strings."""

    @property
    def is_fraud(self) -> NDArray[np.bool_]:
        """The truth."""

    def __len__(self) -> int:
        """Return the number of payments."""


class LabelledStream:
    """Payments with their labels among them, to be gone through once.

    Parameters
    ----------
    payments
        In event-time order.
    labels_after_ms
        How long after a payment its fraud is reported; None for a stream without labels.
    framing
        Put before each label's JSON, as the labels topic asks for.

    Attributes
    ----------
    labels_made
        How many frauds there were so far: those whose labels were given out and those that wait.

    Examples
    --------
    >>> same = {"transaction_id": "a", "event_time": 5, "card_id": "c", "terminal_id": "t"}
    >>> fraud = Finding("t", same)
    >>> payments = [Payment(5, b"c", b"{}", fraud), Payment(14, b"c", b"{}"),
    ...             Payment(15, b"c", b"{}")]
    >>> [(event.time_ms, event.is_label) for event in LabelledStream(payments, 10)]
    [(5, False), (14, False), (15, True), (15, False)]
    """

    def __init__(
        self, payments: Iterable[Payment], labels_after_ms: int | None, framing: bytes = b""
    ) -> None:
        self._payments = payments
        self._labels_after_ms = labels_after_ms
        self._framing = framing
        self.labels_made = 0

    def __iter__(self) -> Iterator[ReplayEvent]:
        """Give out the events, in order."""
        # All labels have the same delay: they become due in the order of their payments.
        waiting: deque[ReplayEvent] = deque()
        for time_ms, key, value, finding in self._payments:
            while waiting and waiting[0].time_ms <= time_ms:
                yield waiting.popleft()
            if value is not None:
                yield ReplayEvent(time_ms, False, key, value)
            if finding is None or self._labels_after_ms is None:
                continue
            reported_at_ms = time_ms + self._labels_after_ms
            if reported_at_ms <= EVENT_TIME_MAX_MS:  # beyond it no time can be written
                waiting.append(self._label(finding, reported_at_ms))
                self.labels_made += 1

    def _label(self, finding: Finding, reported_at_ms: int) -> ReplayEvent:
        # A mapping passes on what it does not name, and reads times with a zone as they are.
        label = {
            **finding.fields,
            "is_fraud": True,
            "reported_at": format_time(reported_at_ms),
            "source": _SOURCE,
        }
        value = self._framing + orjson.dumps(label, default=str)
        return ReplayEvent(reported_at_ms, True, finding.terminal_id.encode(), value)


def stream_of_columns(
    columns: PaymentColumns, labels_after_ms: int | None, span: TimeSpan | None = None
) -> LabelledStream:
    """Make a stream of the simulator's columns.

    Parameters
    ----------
    columns
        A simulated world, in event-time order.
    labels_after_ms
        As of a `LabelledStream`.
    span
        Which payments to take; all of them by default.
    """
    return LabelledStream(_payments(columns, span or TimeSpan()), labels_after_ms)


def _payments(columns: PaymentColumns, span: TimeSpan) -> Iterator[Payment]:
    first, last = 0, len(columns)
    if span.from_ms is not None:
        first = int(np.searchsorted(columns.event_time_ms, span.from_ms))
    if span.until_ms is not None:
        last = int(np.searchsorted(columns.event_time_ms, span.until_ms))
    for start in range(first, last, _SLICE_ROWS):
        part = slice(start, min(start + _SLICE_ROWS, last))
        for transaction_id, time_ms, card_id, terminal_id, amount_minor, currency, is_fraud in zip(
            columns.transaction_id[part].tolist(),
            columns.event_time_ms[part].tolist(),
            columns.card_id[part].tolist(),
            columns.terminal_id[part].tolist(),
            columns.amount_minor[part].tolist(),
            columns.currency[part].tolist(),
            columns.is_fraud[part].tolist(),
            strict=True,
        ):
            transaction = {
                "transaction_id": transaction_id,
                "event_time": format_time(time_ms),
                "card_id": card_id,
                "terminal_id": terminal_id,
                "amount_minor": amount_minor,
                "currency": currency,
            }
            finding = None
            if is_fraud:
                same = {name: transaction[name] for name in FINDING_FIELDS}
                finding = Finding(terminal_id, same)
            yield Payment(time_ms, card_id.encode(), orjson.dumps(transaction), finding)
