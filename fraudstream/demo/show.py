"""What a person sees while the demo runs: a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live as LivePanel
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fraudstream.demo.live import RECENT_S, Figures

_WIDTH_MAX: Final = 110
_SENTENCES_MAX: Final = 7
_LINE_INTERVAL_S: Final = 3.0
_PANEL_INTERVAL_S: Final = 0.25
_STYLES: Final[Mapping[str, str]] = {"APPROVE": "green", "REVIEW": "yellow", "DECLINE": "bold red"}


@dataclass(slots=True)
class View:
    """Everything that is shown.

    Attributes
    ----------
    title
        The run in a few words.
    elapsed_s, seconds
        How far it is.
    phase
        What goes on, when it is not simply the stream.
    ongoing
        Faults whose effects are not over.
    hint
        What keys do.
    sentences
        What happened, and at which second.
    """

    title: str
    seconds: int
    figures: Figures
    elapsed_s: float = 0.0
    phase: str = ""
    ongoing: list[str] = field(default_factory=list)
    hint: str = ""
    sentences: deque[tuple[float, str]] = field(
        default_factory=lambda: deque(maxlen=_SENTENCES_MAX)
    )


class Screen(Protocol):
    """Where it is shown."""

    def progress(self, sentence: str) -> None:
        """Say what is being prepared."""
        ...

    def say(self, view: View, sentence: str) -> None:
        """Say what happened."""
        ...

    def turn_to(self, view: View) -> None:
        """Say that another phase has begun."""
        ...

    def update(self, view: View) -> None:
        """Show the figures, if it is time."""
        ...


@contextmanager
def open_screen(file: TextIO) -> Iterator[Screen]:
    """Choose a panel for a terminal and lines for anything else.

    Parameters
    ----------
    file
        What people look at.
    """
    if not file.isatty():
        yield LineScreen(file)
        return
    console = Console(file=file)
    console.width = min(console.width, _WIDTH_MAX)
    screen = PanelScreen(console)
    try:
        yield screen
    finally:
        screen.close()


class LineScreen:
    """Plain lines, one every few seconds."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._shown_at_s = 0.0

    def progress(self, sentence: str) -> None:
        """Say what is being prepared."""
        self._write(sentence)

    def say(self, view: View, sentence: str) -> None:
        """Say what happened."""
        self._write(f"{view.elapsed_s:6.1f} s  * {sentence}")

    def turn_to(self, view: View) -> None:
        """Say that another phase has begun."""
        self._write(f"{view.elapsed_s:6.1f} s  {view.phase}")

    def update(self, view: View) -> None:
        """Write a line, if the last was long enough ago."""
        if view.elapsed_s - self._shown_at_s >= _LINE_INTERVAL_S:
            self._shown_at_s = view.elapsed_s
            self._write(f"{view.elapsed_s:6.1f} s  {figures_line(view.figures)}")

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


class PanelScreen:
    """A panel that changes in its place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._panel: LivePanel | None = None
        self._shown_at_s = -1.0

    def progress(self, sentence: str) -> None:
        """Say what is being prepared, in one changing line."""
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(sentence)

    def say(self, view: View, sentence: str) -> None:
        """Show a sentence at once; it stays for a while."""
        del sentence  # it is in the view
        self.turn_to(view)

    def turn_to(self, view: View) -> None:
        """Say that another phase has begun."""
        self._shown_at_s = -1.0
        self.update(view)

    def update(self, view: View) -> None:
        """Draw the panel anew, if the last time was long enough ago."""
        if self._shown_at_s >= 0 and view.elapsed_s - self._shown_at_s < _PANEL_INTERVAL_S:
            return
        self._shown_at_s = view.elapsed_s
        if self._panel is None:
            self._end_status()
            self._panel = LivePanel(console=self._console, auto_refresh=False)
            self._panel.start()
        self._panel.update(draw_panel(view), refresh=True)

    def close(self) -> None:
        """Leave the last panel where it is, and the cursor below it."""
        self._end_status()
        if self._panel is not None:
            self._panel.stop()

    def _end_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def figures_line(figures: Figures) -> str:
    """Put the figures into one plain line."""
    outcomes = ", ".join(f"{figures.outcomes.get(o, 0):,} {o.lower()}" for o in _STYLES)
    return (
        f"{figures.asked:,} in, {figures.rate_per_s:.0f} decisions/s, {_latency(figures)}; "
        f"{outcomes}; {figures.alerts:,} alerts, {sum(figures.dead_letters.values()):,} dead "
        f"letters, {figures.degraded:,} degraded, lag {figures.lag:,}"
    )


def draw_panel(view: View) -> RenderableType:
    """Draw everything."""
    parts: list[RenderableType] = [
        _progress_row(view),
        Text(),
        _figures_table(view),
        Rule("latest alerts", style="dim"),
        _alerts_table(view.figures.latest_alerts),
        Rule("what happened", style="dim"),
        _sentences_table(view),
    ]
    return Panel(
        Group(*parts), title=view.title, subtitle=view.hint or None, padding=(0, 1), style="none"
    )


def _progress_row(view: View) -> RenderableType:
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    done_s = min(view.elapsed_s, view.seconds)
    words = view.phase or f"{view.seconds - done_s:.0f} s left"
    row.add_row(ProgressBar(total=view.seconds, completed=done_s), words)
    return row


def _figures_table(view: View) -> RenderableType:
    figures = view.figures
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(no_wrap=True, overflow="ellipsis")
    letters = sum(figures.dead_letters.values())
    table.add_row("events", f"{figures.asked:,} in, {figures.rate_per_s:.0f} decisions/s")
    table.add_row("latency", f"{_latency(figures)}, in the last {RECENT_S:.0f} s")
    table.add_row("outcomes", _outcomes(figures))
    table.add_row(
        "other",
        f"lag {figures.lag:,}   dead letters {letters:,}   degraded {figures.degraded:,}",
    )
    ongoing = Text("; ".join(view.ongoing), style="bold red") if view.ongoing else Text("none")
    table.add_row("broken now", ongoing)
    return table


def _outcomes(figures: Figures) -> Text:
    words = Text()
    for outcome, style in _STYLES.items():
        words.append(f"{outcome} ", style=style).append(f"{figures.outcomes.get(outcome, 0):,}   ")
    return words.append(f"alerts {figures.alerts:,}")


def _latency(figures: Figures) -> str:
    if figures.latency_ms is None:
        return "no decisions"
    median_ms, high_ms = figures.latency_ms
    return f"p50 {median_ms:,.0f} ms, p99 {high_ms:,.0f} ms"


def _alerts_table(alerts: tuple[Mapping[str, Any], ...]) -> RenderableType:
    """Give each alert two lines: what it is, and the sentence of its strongest reason."""
    lines = Table.grid()
    lines.add_column(no_wrap=True, overflow="ellipsis")
    for alert in reversed(alerts):
        lines.add_row(_alert_line(alert))
        reasons = alert["reasons"]
        lines.add_row(Text(f"{'':13}{reasons[0]['text'] if reasons else ''}", style="dim"))
    if not alerts:
        lines.add_row(Text("none yet", style="dim"))
    return lines


def _alert_line(alert: Mapping[str, Any]) -> Text:
    outcome = alert["outcome"]
    line = Text(alert["event_time"][5:16].replace("T", " "), style="dim")
    line.append(f"  {alert['card_id']:8} {alert['amount']:>10} {alert['currency']}", "not dim")
    line.append(f"  {alert['score'] or 0.0:.2f}  ", "not dim")
    line.append(f"{outcome:8}", f"not dim {_STYLES[outcome]}")
    codes = dict.fromkeys(reason["code"] for reason in alert["reasons"])
    return line.append(" ".join(codes), "not dim")


def _sentences_table(view: View) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True, min_width=8)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for at_s, sentence in view.sentences:
        table.add_row(f"{at_s:.1f} s", Text(sentence))
    if not view.sentences:
        table.add_row("", Text("nothing special yet", style="dim"))
    return table
