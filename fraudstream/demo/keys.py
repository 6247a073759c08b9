"""Single keys from a terminal, without Return, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import queue
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_INTERVAL_S = 0.1

Keys = queue.SimpleQueue[str]


@contextmanager
def pressed_keys(descriptor: int | None = None) -> Iterator[Keys]:
    """Listen to the keyboard for the length of a ``with`` block.

    Ctrl-C still interrupts. Where there is no terminal, or it belongs to another job, no key
    ever comes.

    Parameters
    ----------
    descriptor
        The terminal; standard input by default.
    """
    keys: Keys = queue.SimpleQueue()
    fd = _standard_input() if descriptor is None else descriptor
    if fd is None or not _is_ours(fd):
        yield keys
        return
    before = termios.tcgetattr(fd)
    stop = threading.Event()
    thread = threading.Thread(target=_listen, args=(fd, keys, stop), name="keys", daemon=True)
    try:
        tty.setcbreak(fd)
        thread.start()
        yield keys
    finally:
        stop.set()
        # Its number may be another file's as soon as the caller closes it.
        if thread.ident is not None:
            thread.join()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _standard_input() -> int | None:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None  # closed, or something else in its place


def _is_ours(fd: int) -> bool:
    """Tell whether it is a terminal, and we are in its foreground: others may not touch it."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return os.isatty(fd)


def _listen(fd: int, keys: Keys, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            if not select.select([fd], [], [], _LOOK_INTERVAL_S)[0]:
                continue
            read = os.read(fd, 32)
        except OSError:
            return  # the terminal is gone
        if not read:
            return
        for letter in read.decode(errors="replace"):
            keys.put(letter)
