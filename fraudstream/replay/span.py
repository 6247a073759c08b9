"""Times and durations as people write them on a command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fraudstream.errors import UsageError
from fraudstream.event import format_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS_PER_UNIT = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_DURATION = re.compile(r"(\d{1,9})([dhms])", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """From a time on, and until before another; None leaves that end open.

    Raises
    ------
    UsageError
        It ends before it begins.
    """

    from_ms: int | None = None
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if self.from_ms is not None and self.until_ms is not None and self.until_ms <= self.from_ms:
            raise UsageError(
                f"nothing lies from {format_time(self.from_ms)} until before "
                f"{format_time(self.until_ms)}: the second time must be the later one"
            )

    def __contains__(self, time_ms: int) -> bool:
        """Tell whether a time lies in it: the beginning does, the end does not."""
        if self.from_ms is not None and time_ms < self.from_ms:
            return False
        return self.until_ms is None or time_ms < self.until_ms


def parse_span(from_text: str | None, until_text: str | None, option: str = "") -> TimeSpan:
    """Read the two options of a span.

    Parameters
    ----------
    from_text, until_text
        What was given, None if nothing was.
    option
        What the options' names end in, for messages.

    Raises
    ------
    UsageError
        One of them is no time, or they are in the wrong order.

    Examples
    --------
    >>> 1_530_403_200_000 in parse_span("2018-07-01", "2018-08-01")
    True
    """
    return TimeSpan(
        None if from_text is None else parse_time(from_text, f"--from{option}"),
        None if until_text is None else parse_time(until_text, f"--until{option}"),
    )


def parse_time(text: str, option: str) -> int:
    """Read a date or an RFC 3339 time; without a zone it is UTC.

    Returns
    -------
    time_ms
        Epoch milliseconds.

    Raises
    ------
    UsageError
        It is neither.

    Examples
    --------
    >>> parse_time("2018-07-01", "--from"), parse_time("2018-07-01T02:00:00+02:00", "--from")
    (1530403200000, 1530403200000)
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text}: write a date like 2018-07-01, or a time like 2018-07-01T12:00:00Z; "
            "without a zone it is taken as UTC"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def parse_duration(text: str, option: str) -> int:
    """Read a duration.

    Returns
    -------
    duration_ms
        Milliseconds.

    Raises
    ------
    UsageError
        It is none.

    Examples
    --------
    >>> parse_duration("7d", "--labels-after"), parse_duration("90s", "--labels-after")
    (604800000, 90000)
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{option} {text}: write a whole number and a unit: 7d (days), 12h, 30m (minutes), 45s"
        )
    return int(found[1]) * _MS_PER_UNIT[found[2]]
