"""Keeps the screen to the demo: everything else that is written goes into a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def output_into(log_path: Path) -> Iterator[TextIO]:
    """Send standard output and standard error to a file, the children's and the libraries' too.

    The descriptors themselves are turned over, because workers inherit them.

    Yields
    ------
    screen
        What standard error was.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for descriptor in kept:
            os.dup2(log_fd, descriptor)
        with os.fdopen(os.dup(kept[2]), "w", buffering=1, errors="replace") as screen:
            yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.close(log_fd)
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
