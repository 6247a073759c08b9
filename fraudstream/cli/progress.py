"""Progress bars of long commands: on stderr, and only where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from fraudstream.rebuild import Progress as Rebuilt
    from fraudstream.replay.replayer import Progress
    from fraudstream.replay.source import PaymentFile
    from fraudstream.replay.speed import Speed

_RATE_INTERVAL_S = 1.0


@contextmanager
def replay_progress(payments: PaymentFile, speed: Speed) -> Iterator[Callable[[Progress], None]]:
    """Show how far a replay is, how fast, at which event time, and when it will be done.

    Parameters
    ----------
    payments
        All that is to be sent.
    speed
        By event time, the bar too goes by event time: days are not equally busy.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from fraudstream.event import format_time

    is_by_time = speed.event_time_factor is not None
    total = payments.last_ms - payments.first_ms if is_by_time else len(payments)
    with _bar() as bar:
        task = bar.add_task("replaying", total=max(total, 1), details="")
        marks = [(time.monotonic(), 0)]

        def show(progress: Progress) -> None:
            records = progress.transactions + progress.labels
            now_s = time.monotonic()
            marks.append((now_s, records))
            while len(marks) > 2 and now_s - marks[0][0] > _RATE_INTERVAL_S:
                marks.pop(0)
            rate = (records - marks[0][1]) / max(now_s - marks[0][0], 1e-9)
            done = progress.event_time_ms - payments.first_ms
            held = "  waiting for the workers" if progress.is_held else ""
            bar.update(
                task,
                completed=done if is_by_time else progress.transactions,
                details=f"{rate:,.0f}/s  {format_time(progress.event_time_ms)[:16]}{held}",
            )

        yield show


@contextmanager
def export_progress(topic: str, offsets: int) -> Iterator[Callable[[int], None]]:
    """Show how much of a topic was read.

    Parameters
    ----------
    topic
        Its name.
    offsets
        How many it has.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task(topic, total=max(offsets, 1), details="")
        yield lambda done: bar.update(task, completed=done, details=f"{done:,} of {offsets:,}")


@contextmanager
def rows_progress(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Show how many of a file's rows are done.

    Parameters
    ----------
    name
        The file's.
    rows
        How many it has.

    Yields
    ------
    advance
        To be told how many more are done.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task(name, total=max(rows, 1), details=f"{rows:,} rows")
        yield lambda done: bar.advance(task, done)


@contextmanager
def steps_progress(words: str, steps: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how many of the steps of a long work are done.

    Parameters
    ----------
    words, unit
        What is done, and what a step is called.
    steps
        How many there are at most.

    Yields
    ------
    advance
        To be told how many more are done; from any thread.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task(words, total=max(steps, 1), details=f"{steps:,} {unit} at most")
        yield lambda done: bar.advance(task, done)


@contextmanager
def rebuild_progress() -> Iterator[Callable[[Rebuilt], None]]:
    """Show how much of the log a rebuild has read, and how fast it is."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("rebuilding", total=None, details="")
        started_s = time.monotonic()

        def show(progress: Rebuilt) -> None:
            rate = progress.events / max(time.monotonic() - started_s, 1e-9)
            bar.update(
                task,
                total=progress.offsets_total or None,
                completed=progress.offsets,
                details=f"{progress.events:,} events  {rate:,.0f}/s",
            )

        yield show


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[details]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
