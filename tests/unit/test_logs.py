"""Log lines: JSON that says which worker speaks."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, threading, structlog
from fraudstream.logs import configure_logs
configure_logs("INFO", slot=3)
def speak():
    structlog.get_logger("health").info("asked", path="/metrics")
    logging.getLogger("library").warning("tired")
thread = threading.Thread(target=speak)
thread.start()
thread.join()
"""


def test_every_thread_says_which_worker_it_belongs_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    ours, librarys = map(json.loads, done.stderr.splitlines())
    assert (ours["event"], ours["slot"], ours["path"]) == ("asked", 3, "/metrics")
    assert (librarys["text"], librarys["slot"]) == ("tired", 3)
