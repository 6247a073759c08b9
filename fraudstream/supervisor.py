"""Several workers on one machine: a process for each slot, started again when it dies.

The parent does nothing but watch. A worker that was killed or crashed is started again in its slot,
after a pause that grows; one that stopped because a person has to change something is not:
every other would stop the same way. Where another worker has taken a slot, only that slot is given
up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from fraudstream.errors import ExitCode

_log = structlog.get_logger("supervisor")

_POLL_INTERVAL_S = 0.1
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 10.0
#: A worker that lived this long starts again after the shortest pause.
_HEALTHY_S = 30.0
#: How long a worker may take to finish its batch when told to stop.
_STOP_TIMEOUT_S = 20.0
#: A crash; or somebody stopped one worker alone, whose partitions would go undecided.
_RESTARTED = frozenset({ExitCode.OK, ExitCode.INTERNAL})


@dataclass(slots=True)
class _Child:
    slot: int
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    starts_at_s: float = 0.0
    backoff_s: float = 0.0
    is_given_up: bool = False


class Supervisor:
    """Keeps a worker running in each slot.

    Parameters
    ----------
    slots
        The slots, counted from 0.
    arguments
        What every worker is started with, after ``python -m fraudstream run``.
    stopping
        Set from outside to stop all of them.
    environ
        Environment of the workers; None takes over this process's.
    """

    def __init__(
        self,
        slots: Sequence[int],
        arguments: Sequence[str],
        stopping: threading.Event,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._children = [_Child(slot) for slot in slots]
        self._arguments = list(arguments)
        self._stopping = stopping
        self._environ = dict(os.environ if environ is None else environ)
        self.restarts = 0

    def run(self) -> int:
        """Watch the workers until told to stop, or until one must not be started again.

        Returns
        -------
        exit_code
            0 after a stop; else the exit code of the worker that gave up.
        """
        try:
            while not self._stopping.is_set():
                if all(child.is_given_up for child in self._children):
                    return ExitCode.SLOT_TAKEN
                for child in self._children:
                    code = self._look_after(child)
                    if code is not None:
                        return code
                self._stopping.wait(_POLL_INTERVAL_S)
            return 0
        finally:
            self._stop_all()

    def pids(self) -> dict[int, int]:
        """Give the process id of each slot's live worker."""
        # Another thread may be looking after the children: each process is taken once.
        processes = [(child.slot, child.process) for child in self._children]
        return {
            slot: process.pid
            for slot, process in processes
            if process is not None and process.poll() is None
        }

    def _look_after(self, child: _Child) -> int | None:
        if child.is_given_up:
            return None
        if child.process is None:
            if time.monotonic() >= child.starts_at_s:
                self._start(child)
            return None
        code = child.process.poll()
        if code is None:
            return None
        child.process = None
        _log.warning("worker_ended", slot=child.slot, exit_code=code)
        if code == ExitCode.SLOT_TAKEN:
            # Another worker decides this slot's share; ours would only fence it in turn.
            child.is_given_up = True
            _log.error("slot_given_up", slot=child.slot)
            return None
        if code >= 0 and code not in _RESTARTED:
            return code
        lived_s = time.monotonic() - child.started_at_s
        is_healthy = lived_s >= _HEALTHY_S
        child.backoff_s = (
            _BACKOFF_MIN_S
            if is_healthy
            else min(max(2 * child.backoff_s, _BACKOFF_MIN_S), _BACKOFF_MAX_S)
        )
        child.starts_at_s = time.monotonic() + child.backoff_s
        self.restarts += 1
        return None

    def _start(self, child: _Child) -> None:
        command = [sys.executable, "-m", "fraudstream", "run", *self._arguments]
        command += ["--slot", str(child.slot), "--stop-with-parent"]
        child.started_at_s = time.monotonic()
        # The worker stops when its standard input ends, which it does even if we are killed.
        child.process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, env=self._environ
        )
        _log.info("worker_started", slot=child.slot, pid=child.process.pid)

    def _stop_all(self) -> None:
        running = [c.process for c in self._children if c.process is not None]
        for process in running:
            process.terminate()
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for process in running:
            try:
                process.wait(max(deadline_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                _log.error("worker_killed", pid=process.pid)
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def stop_with_parent(stopping: threading.Event) -> None:
    """Stop this worker when its standard input ends: its parent is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stopping.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()
