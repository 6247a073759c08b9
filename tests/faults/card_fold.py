"""What the features of a card must be: a fold over its payments in the order of the log.

Plain Python integers, sums from the beginning and positions found by halving; nothing of the code
that decides takes part. A window is ``(t − w, t]`` of what stands in the card's past up to the
payment's own place, equal times in order of arrival.

A payment is decided by what had come up to its own record. Only an attempt that failed may have
recorded more: later records with earlier times, up to some offset. So a decision may also be right
*as of* such an offset; `CardFold.later_views` gives what it then has to say.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from fraudstream.event import Transaction
from fraudstream.features import Feature

_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_SCAN_RECORDS_MAX = 256
#: So many records behind a payment tell that it came late; more are not looked at.
_LATE_RECORDS_MAX = 512
_PER_MILLE = 1000


class Record(NamedTuple):
    """A payment in a card's past."""

    time_ms: int
    offset: int
    identity: str
    #: In the profiles' currency, minor units; None where that is not known.
    amount: int | None


class Expected(NamedTuple):
    """What a decision must say of its card.

    Attributes
    ----------
    values
        A float64 for each card feature, NaN for what is not there.
    floor_ms
        A window that begins before this time may be unknown instead.
    is_too_late
        All of them are unknown: the payment is older than what is kept. None: that may be.
    is_late
        Whether a later payment had come before. None: it cannot be said.
    """

    values: list[float]
    floor_ms: float
    is_too_late: bool | None
    is_late: bool | None


@dataclass(slots=True)
class CardFold:
    """One card's past.

    Parameters
    ----------
    features
        The card features.
    horizon_ms
        How far behind its newest record a card is kept.
    """

    features: Sequence[Feature]
    horizon_ms: int
    records: list[Record] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    #: Sums of known amounts, and how many, over all before each record; one longer than those.
    sums: list[int] = field(default_factory=lambda: [0])
    known: list[int] = field(default_factory=lambda: [0])
    first_places: dict[tuple[int, str], Record] = field(default_factory=dict)

    def meet(self, offset: int, event: Transaction) -> Expected:
        """Take the card's next payment into its past, and say what its features must be."""
        time_ms = event.event_time_ms
        first = self.first_places.get((time_ms, event.transaction_id))
        newest_ms = self.times_ms[-1] if self.times_ms else -math.inf
        floor_ms = newest_ms - self.horizon_ms
        if first is None and time_ms <= floor_ms:
            return Expected([math.nan] * len(self.features), floor_ms, True, False)
        is_late: bool | None = newest_ms > time_ms
        if first is None:
            record = Record(time_ms, offset, event.transaction_id, event.amount_base_minor)
            self._insert(record)
            first = self.first_places[time_ms, event.transaction_id] = record
            if len(self.times_ms) - bisect_right(self.times_ms, time_ms) > _LATE_RECORDS_MAX:
                is_late = None
        else:
            is_late = None  # a copy meets what came after the first
        index = self._place_of(first)
        values = self._values(self.records, index, event.amount_base_minor)
        return Expected(values, floor_ms, None if time_ms <= floor_ms else False, is_late)

    def later_views(self, offset: int, event: Transaction) -> Iterator[list[float]]:
        """Say what the features would be had an attempt that failed recorded more of the log.

        To be asked once all of the card's payments are in.
        """
        first = self.first_places.get((event.event_time_ms, event.transaction_id))
        if first is None:
            return
        end = self._place_of(first) + 1
        before = self.records[:end]
        for upto in sorted(record.offset for record in before if record.offset > offset):
            seen = [record for record in before if record.offset <= upto]
            fold = CardFold(self.features, self.horizon_ms)
            for record in seen:
                fold.append(record)
            yield fold._values(seen, len(seen) - 1, event.amount_base_minor)

    def append(self, record: Record) -> None:
        """Put a record behind all others."""
        self.records.append(record)
        self.times_ms.append(record.time_ms)
        self.sums.append(self.sums[-1] + (record.amount or 0))
        self.known.append(self.known[-1] + (record.amount is not None))

    def _insert(self, record: Record) -> None:
        place = bisect_right(self.times_ms, record.time_ms)
        if place == len(self.records):
            self.append(record)
            return
        self.records.insert(place, record)
        self.times_ms.insert(place, record.time_ms)
        behind = self.records[place:]
        self.sums[place:] = accumulate((r.amount or 0 for r in behind), initial=self.sums[place])
        self.known[place:] = accumulate(
            (r.amount is not None for r in behind), initial=self.known[place]
        )

    def _place_of(self, record: Record) -> int:
        index = bisect_right(self.times_ms, record.time_ms) - 1
        while self.records[index] is not record:
            index -= 1
        return index

    def _values(self, records: Sequence[Record], index: int, amount: int | None) -> list[float]:
        """Give the features of the payment at a place; ``amount`` is what it says itself."""
        now_ms, end = records[index].time_ms, index + 1
        starts: dict[int, int] = {}
        values = []
        for feature in self.features:
            assert feature.window is not None
            length_ms = feature.window.length_ms
            start = starts.get(length_ms)
            if start is None:
                start = starts[length_ms] = bisect_right(self.times_ms, now_ms - length_ms, 0, end)
            values.append(self._value(feature, records, start, end, amount))
        return values

    def _value(
        self, feature: Feature, records: Sequence[Record], start: int, end: int, amount: int | None
    ) -> float:
        total, known = self.sums[end] - self.sums[start], self.known[end] - self.known[start]
        if feature.aggregate == "count":
            return float(end - start)
        if feature.aggregate == "mean":
            return total / 100 / known if known else math.nan
        if feature.aggregate == "ratio_to_mean":
            return math.nan if amount is None or total == 0 else amount * known / total
        latest = records[max(start, end - _SCAN_RECORDS_MAX) : end]
        ranked = sorted(record.amount for record in latest if record.amount is not None)
        rank = max(1, math.ceil(len(ranked) * feature.per_mille / _PER_MILLE))
        return ranked[rank - 1] / 100 if ranked else math.nan


#: What this oracle can work out, of a card.
CARD_AGGREGATES = frozenset({"count", "mean", "ratio_to_mean", "quantile"})


def own_value(feature: Feature, event: Transaction) -> float:
    """Give a feature of the payment alone. Times are UTC; 1970-01-01 was a Thursday."""
    if feature.aggregate == "amount":
        amount = event.amount_base_minor
        return math.nan if amount is None else amount / 100
    if feature.aggregate == "is_weekend":
        return float((event.event_time_ms // _DAY_MS + 4) % 7 in {0, 6})
    assert feature.aggregate == "is_night", feature.aggregate
    return float(event.event_time_ms % _DAY_MS < 7 * _HOUR_MS)
