"""Waiting for a server, the ports it may have, and the last words of one that failed."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from fraudstream.errors import LocalStackError

HOST = "127.0.0.1"
#: Told in a sentence what is being done; shows it, or does not.
Progress = Callable[[str], None]

#: Below the ports that systems give to outgoing connections (Linux from 32768, macOS from 49152):
#: a client that keeps trying a dead server's port could otherwise be given that very port and
#: connect to itself, and the server could not come back.
PORT_MIN = 20_000
PORT_MAX = 32_000
PORT_TRIES = 200
LOG_LINES_MAX = 25
LOG_READ_BYTES_MAX = 1_000_000
POLL_INTERVAL_S = 0.05


def silent(_sentence: str) -> None:
    """Show no progress."""


def find_free_port() -> int:
    """Find a port nobody listens on.

    Returns
    -------
    port
        Free a moment ago; a server that finds it taken has to be started on another one.

    Raises
    ------
    LocalStackError
        Every port tried was taken.
    """
    for _ in range(PORT_TRIES):
        port = PORT_MIN + secrets.randbelow(PORT_MAX - PORT_MIN)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    message = f"no free port between {PORT_MIN} and {PORT_MAX} on {HOST}"
    raise LocalStackError(message)


def is_listening(port: int, timeout_s: float = 1.0) -> bool:
    """Tell whether somebody accepts connections on a port.

    Parameters
    ----------
    port
        On this machine.
    timeout_s
        How long to wait for the answer.

    Returns
    -------
    is_listening
        Whether a connection was accepted.
    """
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def wait_until(is_ready: Callable[[], bool], timeout_s: float) -> bool:
    """Ask again and again until the answer is yes.

    Parameters
    ----------
    is_ready
        The question; may raise to give up.
    timeout_s
        For how long to ask.

    Returns
    -------
    was_ready
        False once the time is up.
    """
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def log_since(path: Path, start_bytes: int = 0) -> str:
    """Read what was added to a log file.

    Parameters
    ----------
    path
        May be missing.
    start_bytes
        Its size before.

    Returns
    -------
    text
        At most the last ``LOG_READ_BYTES_MAX``.
    """
    try:
        with path.open("rb") as log:
            size_bytes = log.seek(0, 2)
            log.seek(max(start_bytes, size_bytes - LOG_READ_BYTES_MAX))
            return log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def last_lines(text: str) -> str:
    r"""Pick what a person should see of a log.

    Parameters
    ----------
    text
        The log.

    Returns
    -------
    lines
        The last ones, indented, without the frames of Java's stack traces.

    Examples
    --------
    >>> print(last_lines("BindException: in use\n\tat java.base/Net.bind\n\t... 18 more"))
      BindException: in use
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("at ", "... "))]
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_MAX:] or ["(nothing)"])
