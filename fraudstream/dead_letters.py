"""Tells bad records from a bad deployment.

A publisher's bug makes single records unreadable; a wrong schema, mapping or framing makes all of
them so. Diverting everything to the dead-letter topic would look like work: above a limit the
worker stops instead, loudly, and commits nothing of the batch that crossed it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fraudstream.errors import DeadLetterLimitError


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """When to stop.

    Parameters
    ----------
    ratio_max
        The greatest share of bad records among the last ``ratio_records``.
    ratio_records
        Over how many records; fewer are never judged by ratio.
    consecutive_max
        How many bad records may follow each other.
    """

    ratio_max: float = 0.5
    ratio_records: int = 1_000
    consecutive_max: int = 1_000


class DeadLetterGuard:
    """Counts good and bad records, in order, and stops above the limits.

    A guard does not change: `after` gives the next one, to be kept once the batch is committed. A
    batch that is read again is thus not counted twice.
    """

    def __init__(
        self, limits: DeadLetterLimits, recent: Iterable[bool] = (), consecutive: int = 0
    ) -> None:
        self._limits = limits
        self._recent = deque(recent, maxlen=limits.ratio_records)
        self._consecutive = consecutive

    def after(self, are_bad: Sequence[bool]) -> DeadLetterGuard:
        """Judge a batch before it is committed.

        Raises
        ------
        DeadLetterLimitError
            Too many records are bad.
        """
        consecutive = self._consecutive
        for is_bad in are_bad:
            consecutive = consecutive + 1 if is_bad else 0
            if consecutive > self._limits.consecutive_max:
                raise _refusal(f"more than {self._limits.consecutive_max} bad records in a row")
        judged = DeadLetterGuard(self._limits, self._recent, consecutive)
        judged._recent.extend(are_bad)
        bad, records = sum(judged._recent), self._limits.ratio_records
        if len(judged._recent) == records and bad > self._limits.ratio_max * records:
            raise _refusal(f"{bad} of the last {records} records are bad")
        return judged


def _refusal(found: str) -> DeadLetterLimitError:
    return DeadLetterLimitError(
        f"{found}: is the mapping, the framing or the topic wrong? Nothing of this batch was "
        "committed; put it right and start again, or raise dead_letters.* if that is expected."
    )
