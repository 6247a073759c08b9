"""What lies before the log: a file's payments and labels, read as a replay reads them.

A rebuild takes them for what was known before the log began. Labels come as they were known: those
reported after the file's last payment are left to the log.
"""

from __future__ import annotations

from collections.abc import Iterator

from fraudstream.replay.source import PaymentFile
from fraudstream.replay.stream import LabelledStream, ReplayEvent


class Past:
    """A file's events, to be gone through once.

    Parameters
    ----------
    payments
        The file.
    labels_after_ms
        How long after its payment a fraud was reported; None: the file says nothing of frauds.
    framing
        Put before each event's JSON, as the topics ask for.

    Attributes
    ----------
    first_ms, last_ms
        Event times of the first and the last payment.
    """

    def __init__(
        self, payments: PaymentFile, labels_after_ms: int | None, framing: bytes = b""
    ) -> None:
        self.first_ms = payments.first_ms
        self.last_ms = payments.last_ms
        self._stream = LabelledStream(payments, labels_after_ms, framing)

    def events(self) -> Iterator[ReplayEvent]:
        """Give payments and labels in event-time order."""
        return iter(self._stream)
