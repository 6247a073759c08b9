"""How an error raised on purpose is shown."""

from __future__ import annotations

from rich.console import Console

from fraudstream.errors import ExitCode, StopError


def show_stop(error: StopError) -> ExitCode:
    """Print one sentence to stderr; return the exit code that goes with it."""
    Console(stderr=True).print(
        f"fraudstream: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True
    )
    return error.exit_code
