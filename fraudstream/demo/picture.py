"""The last panel and the summary as an SVG that needs nothing from anywhere."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

from rich.console import Console

from fraudstream.demo.show import View, draw_panel
from fraudstream.demo.summary import Summary, draw_summary
from fraudstream.errors import UsageError

_WIDTH: Final = 110
#: Rich links fonts on the web; a picture in a README may not load them anyway.
_FONT_FACE: Final = re.compile(r"@font-face\s*\{[^}]*\}\s*")


def require_writable(file: Path) -> None:
    """Refuse a place that cannot be written to before a minute is spent.

    Raises
    ------
    UsageError
        It cannot.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise UsageError(f"--svg {file}: cannot be written ({error.strerror})") from error


def write_picture(file: Path, view: View, summary: Summary) -> None:
    """Draw panel and summary, one below the other."""
    console = Console(
        record=True,
        width=_WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(draw_panel(view))
    console.print()
    console.print(draw_summary(summary))
    picture = console.export_svg(title="fraudstream demo")
    file.write_text(_FONT_FACE.sub("", picture), "utf-8")
