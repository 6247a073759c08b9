"""How fast a replay goes: by its events' own times, at a steady rate, or as fast as it can.

Every event has a time at which it is due, counted from the start and never from the event before:
a delay is made up for, so that the rate is what was asked for however late single events are (an
open loop, as load tests need it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fraudstream.errors import UsageError

_FACTOR = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)x", re.ASCII)
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/s", re.ASCII)


@dataclass(frozen=True, slots=True)
class Speed:
    """At most one of a factor on event time and a rate; neither is as fast as it can.

    Parameters
    ----------
    event_time_factor
        60 lets an hour of event time pass in a minute.
    rate_per_s
        Transactions in a second. Labels go along at their times and are not counted.
    """

    event_time_factor: float | None = None
    rate_per_s: float | None = None

    @property
    def is_paced(self) -> bool:
        """Whether events have times at which they are due at all."""
        return self.event_time_factor is not None or self.rate_per_s is not None

    def due_s(self, transactions_before: int, event_time_passed_ms: int) -> float:
        """Say when an event is due, in seconds since the start.

        Parameters
        ----------
        transactions_before
            How many transactions went before it.
        event_time_passed_ms
            Its time less the first event's.

        Examples
        --------
        >>> parse_speed("60x").due_s(0, 3_600_000), parse_speed("500/s").due_s(250, 3_600_000)
        (60.0, 0.5)
        """
        if self.rate_per_s is not None:
            return transactions_before / self.rate_per_s
        if self.event_time_factor is not None:
            return event_time_passed_ms / 1_000 / self.event_time_factor
        return 0.0


def parse_speed(text: str) -> Speed:
    """Read a speed.

    Raises
    ------
    UsageError
        It is none.

    Examples
    --------
    >>> parse_speed("500/s")
    Speed(event_time_factor=None, rate_per_s=500.0)
    >>> parse_speed("max").is_paced
    False
    """
    if text == "max":
        return Speed()
    factor, rate = _FACTOR.fullmatch(text), _RATE.fullmatch(text)
    if factor is not None and float(factor[1]) > 0:
        return Speed(event_time_factor=float(factor[1]))
    if rate is not None and float(rate[1]) > 0:
        return Speed(rate_per_s=float(rate[1]))
    raise UsageError(
        f"--speed {text}: write 1x (as it happened), 60x (an hour in a minute), 500/s (a steady "
        "rate), or max (as fast as it goes)"
    )
