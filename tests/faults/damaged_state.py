"""Damages to C9 to C11: to profiles, to the ends of topics, to when decisions were degraded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness import Partition
from history import History, ProfileRecord, SeriesKey

# ------------------------------------------------------------------ C9


def forget_record(history: History) -> History:
    """Let a card's profile lack its newest payment."""
    return _with_series(history, "card_tx", lambda records: records[:-1])


def forget_terminal_record(history: History) -> History:
    """Let a terminal's profile lack one payment in the middle of those that are surely kept."""
    return _with_series(history, "terminal_tx", lambda records: [*records[:-3], *records[-2:]])


def forget_label(history: History) -> History:
    """Let a terminal's profile lack its newest finding."""
    return _with_series(history, "terminal_label", lambda records: records[:-1])


def forget_card(history: History) -> History:
    """Lose a card."""
    key = _key(history, "card_tx")
    return replace(history, profiles={k: v for k, v in history.profiles.items() if k != key})


def count_twice(history: History) -> History:
    """Record a payment twice."""
    return _with_series(history, "card_tx", lambda records: [*records, records[-1]])


def invent_record(history: History) -> History:
    """Record a payment that nobody made."""
    return _with_series(
        history, "card_tx", lambda records: [*records, replace(records[-1], id_hash=b"\1" * 8)]
    )


def alter_value(history: History) -> History:
    """Record another amount than was paid."""

    def change(record: ProfileRecord) -> ProfileRecord:
        amount, *others = record.values
        return replace(record, values=(amount + 1, *others))

    return _with_series(history, "card_tx", lambda records: [*records[:-1], change(records[-1])])


def keep_old_finding(history: History) -> History:
    """Keep a finding although a newer one came."""

    def change(record: ProfileRecord) -> ProfileRecord:
        return replace(record, version_ms=record.version_ms - 1)

    return _with_series(
        history, "terminal_label", lambda records: [*records[:-1], change(records[-1])]
    )


def turn_finding(history: History) -> History:
    """Hold a payment for genuine that was found to be fraud, or the other way round."""

    def change(record: ProfileRecord) -> ProfileRecord:
        return replace(record, values=(1 - record.values[0],))

    return _with_series(
        history, "terminal_label", lambda records: [*records[:-1], change(records[-1])]
    )


def shuffle_records(history: History) -> History:
    """Keep two payments of a card in the wrong order."""
    return _with_series(
        history, "card_tx", lambda records: [*records[:-2], records[-1], records[-2]]
    )


def advance_watermark(history: History) -> History:
    """Let profiles say that they reach further than was committed."""
    return _with_watermark(history, 1)


def hold_watermark(history: History) -> History:
    """Let profiles say that they do not reach as far as was committed."""
    return _with_watermark(history, -1)


def lose_watermark(history: History) -> History:
    """Let profiles not know of a partition."""
    place = _busy_partition(history)
    marks = {p: offset for p, offset in history.watermarks.items() if p != place}
    return replace(history, watermarks=marks)


def _with_watermark(history: History, step: int) -> History:
    place = _busy_partition(history)
    return replace(
        history, watermarks=history.watermarks | {place: history.watermarks[place] + step}
    )


def _busy_partition(history: History) -> Partition:
    return max(history.committed, key=lambda place: history.committed[place])


def _key(history: History, series: str) -> SeriesKey:
    """Choose the longest profile of a kind."""
    return max(
        (key for key in history.profiles if key[0] == series),
        key=lambda key: len(history.profiles[key]),
    )


def _with_series(
    history: History,
    series: str,
    change: Callable[[list[ProfileRecord]], list[ProfileRecord]],
) -> History:
    key = _key(history, series)
    profiles = history.profiles | {key: change(history.profiles[key])}
    return replace(history, profiles=profiles)


# ------------------------------------------------------------------ C10, C11


def hang_output(history: History) -> History:
    """Leave a transaction open on the decisions topic."""
    return _with_stable(history, "out.decisions")


def hang_input(history: History) -> History:
    """Leave a publisher's transaction open."""
    return _with_stable(history, history.transactions_topic)


def _with_stable(history: History, topic: str) -> History:
    place = (topic, 0)
    return replace(history, stable=history.stable | {place: history.ends[place] - 1})


def degrade_without_fault(history: History) -> History:
    """Decide without profiles although nothing was wrong."""
    return replace(history, faults=[])


def degrade_after_fault(history: History) -> History:
    """Go on deciding without profiles long after the fault."""
    early = [
        replace(fault, start_ms=fault.start_ms - 60_000, end_ms=fault.start_ms - 50_000)
        for fault in history.faults
    ]
    return replace(history, faults=early)
