"""The parent's end of the pipe: start the guard, speak with it, let it go.

The write end of the guard's standard input is held here and nowhere else: it is closed on exec,
and a fork closes its copy. When this process ends, however it ends, the guard reads the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fraudstream.errors import LocalStackError
from fraudstream.local import guard
from fraudstream.local.folder import StateFolder
from fraudstream.local.ready import last_lines, log_since

ANSWER_TIMEOUT_S = 20.0
_CLOSED = -1


class Leash:
    """The guard process, as its parent holds it.

    Parameters
    ----------
    folder
        The state folder.
    lock_fd
        Its lock, for the guard and the servers to inherit.
    is_temporary
        Whether the guard removes the folder at its end.
    """

    def __init__(self, folder: StateFolder, lock_fd: int, *, is_temporary: bool) -> None:
        self._log_path = folder.log("guard")
        self._turn = threading.Lock()
        read_fd, self._write_fd = os.pipe()  # both close on exec
        # Isolated and without site: nothing of the user's environment is needed or wanted there.
        command = [sys.executable, "-I", "-S", guard.__file__]
        command += [str(os.getpid()), str(lock_fd), str(folder.path)]
        try:
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    [*command, "remove"] if is_temporary else command,
                    stdin=read_fd,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    pass_fds=(lock_fd,),
                    # Away from the terminal's Ctrl-C: the servers outlast what uses them.
                    start_new_session=True,
                )
        finally:
            os.close(read_fd)
        _HELD.add(self)

    @property
    def guard_pid(self) -> int:
        """The guard's process id; its process group's, too."""
        return self._process.pid

    def start(self, name: str, command: Sequence[str], folder: Path, log_path: Path) -> int:
        """Start a server.

        Parameters
        ----------
        name
            ``kafka`` or ``valkey``.
        command
            Executable and arguments.
        folder
            Its working folder.
        log_path
            Gets its output, at the end.

        Returns
        -------
        pid
            The server's process id.
        """
        fields = {"command": list(command), "folder": str(folder), "log": str(log_path)}
        pid: int = self._ask(do="start", name=name, **fields)["pid"]
        return pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a server; after SIGKILL, return once it is gone.

        Parameters
        ----------
        name
            ``kafka`` or ``valkey``.
        number
            For instance ``signal.SIGKILL``.
        """
        self._ask(do="signal", name=name, signal=int(number))

    def exit_code(self, name: str) -> int | None:
        """Tell how a server ended.

        Parameters
        ----------
        name
            ``kafka`` or ``valkey``.

        Returns
        -------
        exit_code
            None while it lives; negative after a signal.
        """
        code: int | None = self._ask(do="status")["servers"][name]["exit"]
        return code

    def detach(self) -> None:
        """Let guard and servers outlive this process."""
        self._ask(do="detach")
        self._let_go()
        if self._process.stdout is not None:
            self._process.stdout.close()
        # Not ours to wait for any more; without this Python warns of a process left running.
        self._process.returncode = 0

    def stop(self, grace_s: float, *, is_kept: bool = False) -> None:
        """End servers and guard.

        Parameters
        ----------
        grace_s
            How long the servers may take to stop by themselves; 0 ends them at once.
        is_kept
            Leave even a temporary folder, whose log files somebody has to read.
        """
        if self._write_fd == _CLOSED:
            return
        try:
            self._ask(do="stop", grace_s=grace_s, keep=is_kept)
            self._process.wait(timeout=ANSWER_TIMEOUT_S)
        except (LocalStackError, subprocess.TimeoutExpired):
            # Its own child until it is waited for, so neither number can be somebody else's.
            os.killpg(self.guard_pid, signal.SIGKILL)
            self._process.wait()
        finally:
            self._let_go()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _ask(self, **request: object) -> dict[str, Any]:
        with self._turn:
            if self._write_fd == _CLOSED:
                message = "this local stack was stopped, or belongs to the parent process"
                raise LocalStackError(message)
            try:
                os.write(self._write_fd, json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                line = b""
            else:
                line = self._read_line(ANSWER_TIMEOUT_S)
        if not line:
            message = (
                "the process that guards the local stack is gone; "
                f"{self._log_path} ends with\n{last_lines(log_since(self._log_path))}"
            )
            raise LocalStackError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LocalStackError(answer["error"])
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        output = self._process.stdout
        if output is None or not select.select([output], [], [], timeout_s)[0]:
            return b""
        return bytes(output.readline())

    def _let_go(self) -> None:
        if self._write_fd != _CLOSED:
            os.close(self._write_fd)
            self._write_fd = _CLOSED


_HELD: weakref.WeakSet[Leash] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    for leash in list(_HELD):
        leash._let_go()


os.register_at_fork(after_in_child=_let_go_in_fork)
