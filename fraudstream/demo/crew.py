"""The workers of the demo: real processes, kept running by the real supervisor."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from fraudstream.errors import ExitCode, StopError
from fraudstream.local.ready import HOST, wait_until
from fraudstream.supervisor import Supervisor

_READY_TIMEOUT_S: Final = 60.0
_PROBE_TIMEOUT_S: Final = 1.0
#: Longer than the supervisor gives its workers to finish their batch.
_STOP_TIMEOUT_S: Final = 30.0


class WorkersGaveUpError(StopError):
    """The workers ended by themselves; the exit code is theirs."""

    def __init__(self, sentence: str, exit_code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Crew:
    """Workers in slots from 0.

    Parameters
    ----------
    workers
        How many.
    environ
        Their settings (`fraudstream.demo.plan.worker_environment`).
    log_path
        Where their output goes, for sentences that send people there.
    """

    def __init__(self, workers: int, environ: Mapping[str, str], log_path: Path) -> None:
        self._slots = range(workers)
        self._port = int(environ["FRAUDSTREAM_METRICS__PORT"])
        self._log_path = log_path
        self._stopping = threading.Event()
        self._supervisor = Supervisor(self._slots, [], self._stopping, environ)
        self._exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and wait until all of them decide.

        Raises
        ------
        WorkersGaveUpError
            They ended, or are not ready in time.
        """
        self._thread.start()
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        for slot in self._slots:
            is_ready = partial(self._is_ready, slot)
            if not wait_until(is_ready, deadline_s - time.monotonic()):
                raise WorkersGaveUpError(
                    f"worker {slot} was not ready within {_READY_TIMEOUT_S:.0f} s; "
                    f"its log is {self._log_path}"
                )

    def require_alive(self) -> None:
        """See that the supervisor still looks after the workers.

        Raises
        ------
        WorkersGaveUpError
            A worker ended in a way that starting it again does not cure.
        """
        if self._exit_code is None:
            return
        known = self._exit_code in list(ExitCode) and self._exit_code != ExitCode.OK
        code = ExitCode(self._exit_code) if known else ExitCode.INTERNAL
        raise WorkersGaveUpError(
            f"the workers gave up ({code.name}, exit code {self._exit_code}); "
            f"the end of {self._log_path} says why",
            code,
        )

    def kill_one(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Kill one of the live workers with SIGKILL.

        Returns
        -------
        slot, pid
            Which; None if there is none alive.
        """
        alive = sorted(self._supervisor.pids().items())
        if not alive:
            return None
        slot, pid = alive[int(rng.integers(len(alive)))]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return slot, pid

    def stop(self) -> None:
        """Let the workers finish their batches and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        self._exit_code = self._supervisor.run()

    def _is_ready(self, slot: int) -> bool:
        self.require_alive()
        connection = http.client.HTTPConnection(HOST, self._port + slot, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
