"""What is remembered of one entity, for people: ``fraudstream profiles show``.

    content of a series ─▶ MemorySeries ─▶ windows as of a time
                        └▶ its latest records

The windows are read by the in-memory store's own code, so they are what a payment of an entity
would find that came right after that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fraudstream.adapters.memory_series import MemorySeries
from fraudstream.adapters.profile_backend import SeriesContent, SeriesRun
from fraudstream.features import Feature
from fraudstream.profile import DAY_MS, Scan, Series, Window

LATEST_RECORDS = 5
_UNITS_MS = ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record.

    Attributes
    ----------
    time_ms
        Its event time.
    id_hash
        Hash of the transaction id, hexadecimal.
    source
        (topic number, partition, offset) of its first writer; None: not through Kafka.
    reported_at_ms
        When a finding was made; None for payments.
    values
        By measure.
    """

    time_ms: int
    id_hash: str
    source: tuple[int, int, int] | None
    reported_at_ms: int | None
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class WindowView:
    """What a window holds.

    Attributes
    ----------
    name
        ``7d``, ``7d lag 7d``, or with a scan before it ``median 1d``.
    count
        How many records; None if that cannot be known. None for scans.
    sums
        By measure; empty if they cannot be known.
    value
        A scan's answer; None if it is unknown or there is nothing to make it of.
    features
        Names of the features that are made of it.
    """

    name: str
    count: int | None
    sums: dict[str, int]
    value: int | None
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeriesView:
    """What a series holds.

    Attributes
    ----------
    name
        The series.
    records
        How many records are kept.
    first_ms, last_ms
        Event times of the first and last record; None without records.
    known_from_ms
        Nothing earlier is known; 0: everything is.
    latest
        The latest records, the newest first.
    windows
        Windows and scans as of the time that was asked for.
    """

    name: str
    records: int
    first_ms: int | None
    last_ms: int | None
    known_from_ms: int
    latest: tuple[RecordView, ...]
    windows: tuple[WindowView, ...]


def view_series(
    series: Series,
    content: SeriesContent,
    at_ms: int,
    known_from_ms: int = 0,
    features: Sequence[Feature] = (),
) -> SeriesView:
    """Look at a series as of a time.

    Parameters
    ----------
    series, content
        Its definition, and all that is kept of it.
    at_ms
        When its windows are read.
    known_from_ms
        Windows that reach back before it are unknown, besides what the series itself says.
    features
        Those of the feature set: each window says which are made of it.
    """
    run = content.run
    row = MemorySeries.of(series, content).read(at_ms, None, known_from_ms)
    columns = 1 + len(series.measures)
    windows = [
        _window(series, window, row[columns * n : columns * (n + 1)], features)
        for n, window in enumerate(series.windows)
    ]
    scans = [
        _scan(series, scan, answer, features)
        for scan, answer in zip(series.scans, row[columns * len(series.windows) :], strict=True)
    ]
    newest_first = range(len(run) - 1, max(len(run) - 1 - LATEST_RECORDS, -1), -1)
    return SeriesView(
        name=series.name,
        records=len(run),
        first_ms=int(run.times_ms[0]) if len(run) else None,
        last_ms=int(run.times_ms[-1]) if len(run) else None,
        known_from_ms=max(content.trimmed_to_ms, known_from_ms),
        latest=tuple(_record(series, run, index) for index in newest_first),
        windows=(*windows, *scans),
    )


def duration_text(duration_ms: int) -> str:
    """Write a duration in the largest unit that divides it.

    Examples
    --------
    >>> duration_text(7 * DAY_MS), duration_text(90 * 60_000)
    ('7d', '90m')
    """
    for unit_ms, unit in _UNITS_MS:
        if duration_ms % unit_ms == 0:
            return f"{duration_ms // unit_ms}{unit}"
    return f"{duration_ms}ms"


def _record(series: Series, run: SeriesRun, index: int) -> RecordView:
    position = int(run.positions[index])
    source = (position >> 56, position >> 40 & 0xFFFF, (position & (1 << 40) - 1) - 1)
    values = np.asarray(run.values[index]).tolist()
    return RecordView(
        time_ms=int(run.times_ms[index]),
        id_hash=f"{int(run.hashes[index]):016x}",
        source=source if position else None,
        reported_at_ms=int(run.versions_ms[index]) if series.is_versioned else None,
        values=dict(zip(series.measures, values, strict=True)),
    )


def _window(
    series: Series, window: Window, row: Sequence[int], features: Sequence[Feature]
) -> WindowView:
    count, *sums = row
    made_of_it = (f for f in features if series.name in f.series and f.window == window)
    is_known = count >= 0
    return WindowView(
        _window_text(window),
        count if is_known else None,
        dict(zip(series.measures, sums, strict=True)) if is_known else {},
        None,
        tuple(f.name for f in made_of_it if f.scan is None),
    )


def _scan(series: Series, scan: Scan, answer: int, features: Sequence[Feature]) -> WindowView:
    made_of_it = (f.name for f in features if series.name in f.series and f.scan == scan)
    detail = {"distinct": scan.attribute, "quantile": f"{scan.per_mille / 10:g} %", "last": "ms"}
    name = f"{scan.kind} {detail[scan.kind]} {_window_text(scan.window)}"
    return WindowView(name, None, {}, answer if answer >= 0 else None, tuple(made_of_it))


def _window_text(window: Window) -> str:
    text = duration_text(window.length_ms)
    return f"{text} lag {duration_text(window.lag_ms)}" if window.lag_ms else text
