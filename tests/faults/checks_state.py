"""C9 to C11: profiles are what the log makes them, nothing is open, degraded only under faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

from checks_records import at
from harness import Position
from history import ProfileRecord, SeriesKey
from run_view import RunView

from fraudstream.event import Label, Transaction
from fraudstream.profile import Series

#: Event time and hash of the transaction id.
Identity: TypeAlias = "tuple[int, bytes]"


@dataclass(slots=True)
class _Told:
    """What the log says of one record: where, and with which values and version."""

    places: list[Position] = field(default_factory=list)
    contents: list[tuple[tuple[int, ...], int]] = field(default_factory=list)


#: By series and entity, then by identity.
Fold: TypeAlias = "dict[SeriesKey, dict[Identity, _Told]]"


# ------------------------------------------------------------------ C9


def check_profiles(view: RunView) -> Iterator[str]:
    """C9: profiles hold what a fold of the whole log holds, and reach as far as the group."""
    history = view.history
    series_of = {series.name: series for series in history.definition.series}
    fold = _fold(view)
    for key in sorted(fold.keys() | history.profiles.keys()):
        kept = history.profiles.get(key, [])
        yield from _compare(view, series_of[key[0]], key, fold.get(key, {}), kept)
        times_ms = [record.time_ms for record in kept]
        if times_ms != sorted(times_ms):
            yield f"state: {key[0]} of {key[1]} is out of order"
    for place in sorted(history.committed.keys() | history.watermarks.keys()):
        applied, committed = history.watermarks.get(place, 0), history.committed.get(place, 0)
        if applied != committed:
            yield f"state: {at((*place, committed))} is committed, profiles reach to {applied}"


def _fold(view: RunView) -> Fold:
    fold: Fold = defaultdict(lambda: defaultdict(_Told))
    for series in view.history.definition.series:
        events = view.labels if series.kind == "labels" else view.transactions
        for place, event in events:
            entity = event.terminal_id if series.entity == "terminal_id" else event.card_id
            hashed = blake2b(event.transaction_id.encode(), digest_size=8).digest()
            told = fold[series.name, entity][event.event_time_ms, hashed]
            told.places.append(place)
            told.contents.append(_content(series, event))
    return fold


def _content(series: Series, event: Transaction | Label) -> tuple[tuple[int, ...], int]:
    if isinstance(event, Label):
        return (int(event.is_fraud),), event.reported_at_ms
    amount = event.amount_base_minor
    columns = {"amount_minor": amount or 0, "amount_known": int(amount is not None)}
    return tuple(columns[measure] for measure in series.measures), 0


def _compare(
    view: RunView,
    series: Series,
    key: SeriesKey,
    told: dict[Identity, _Told],
    kept: list[ProfileRecord],
) -> Iterator[str]:
    name = f"{key[0]} of {key[1]}"
    found: dict[Identity, ProfileRecord] = {}
    for record in kept:
        identity = record.time_ms, record.id_hash
        if identity in found:
            yield f"state: {name} has a record of {record.time_ms} twice"
        elif identity not in told:
            yield f"state: {name} has a record of {record.time_ms} that no input made"
        found[identity] = record
    floor_ms = max((time_ms for time_ms, _ in told), default=0) - series.horizon_ms
    for identity, own in told.items():
        match = found.get(identity)
        if match is None:
            if identity[0] > floor_ms and not _are_cut_off(view, own):
                yield f"state: {name} lacks {at(own.places[0])}"
        elif (match.values, match.version_ms) not in _allowed(view, series, own):
            yield f"state: {name} holds other values than {at(own.places[0])}"


def _allowed(view: RunView, series: Series, told: _Told) -> list[tuple[tuple[int, ...], int]]:
    """Give what a record may hold: the newest finding; of copies in one partition the first."""
    if series.is_versioned:
        return [max(told.contents, key=lambda content: (content[1], -content[0][0]))]
    if _are_cut_off(view, told, partly=True):
        return told.contents
    firsts: dict[tuple[str, int], tuple[tuple[int, ...], int]] = {}
    for place, content in zip(told.places, told.contents, strict=True):
        firsts.setdefault(place[:2], content)
    return list(firsts.values())


def _are_cut_off(view: RunView, told: _Told, *, partly: bool = False) -> bool:
    """Say whether the log no longer holds what made a record."""
    starts = view.history.log_starts
    gone = [place[2] < starts.get(place[:2], 0) for place in told.places]
    return any(gone) if partly else all(gone)


# ------------------------------------------------------------------ C10, C11


def check_hanging(view: RunView) -> Iterator[str]:
    """C10: at rest nothing is open: the last stable offset is the end on every topic."""
    history = view.history
    for place, end in sorted(history.ends.items()):
        stable = history.stable.get(place, -1)
        if stable != end:
            yield f"hanging: {at((*place, stable))} is as far as one can read, of {end}"


def check_degraded(view: RunView) -> Iterator[str]:
    """C11: decisions without profiles only while a fault lasts, and shortly after."""
    history = view.history
    windows = [(fault.start_ms, fault.end_ms + history.recovery_ms) for fault in history.faults]
    for answer in view.decisions:
        if not answer.is_degraded:
            continue
        moments_ms = {answer.timestamp_ms, history.seen_at_ms.get(answer.source, 0)}
        if not any(start <= moment <= end for moment in moments_ms for start, end in windows):
            yield f"outside: {at(answer.source)} is degraded and nothing was wrong"
