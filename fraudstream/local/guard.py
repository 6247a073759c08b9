"""Own the broker and Valkey, and end them when the process that wanted them is gone.

Run as a file, with the standard library alone, so that it is up in a few milliseconds::

    python -I -S guard.py PARENT_PID LOCK_FD STATE_FOLDER [remove]

One JSON object a line on standard input is a request, one on standard output its answer:

    {"do": "start", "name", "command", "folder", "log"}   → {"pid"}
    {"do": "signal", "name", "signal"}                    → {}      after 9: once it is gone
    {"do": "status"}                                      → {"servers": {name: {"pid", "exit"}}}
    {"do": "detach"}                                      → {}      outlive the parent from here on
    {"do": "stop", "grace_s", "keep"}                     → {}      then the guard ends

Three things end everything at once: the end of standard input, another parent process than the
one named (a copy of the pipe may live on in a fork), and SIGTERM (politely). On Linux the servers
die with the guard, too, should it be killed. The servers inherit the state folder's lock, so the
folder stays taken as long as any of the three lives. With ``remove`` the folder goes at the end,
whatever brought it, unless the parent asked to keep it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: How often the guard looks for a changed parent or a SIGTERM while nobody speaks to it.
WATCH_INTERVAL_S = 0.25
#: How long servers may take to stop by themselves after a SIGTERM to the guard.
SIGTERM_GRACE_S = 8.0
_PR_SET_PDEATHSIG = 1


class Guard:
    """The servers, and what the parent may ask for.

    Parameters
    ----------
    parent_pid
        The process whose end is the servers' end, too.
    lock_fd
        The state folder's locked file; the servers inherit it.
    """

    def __init__(self, parent_pid: int, lock_fd: int) -> None:
        self._parent_pid = parent_pid
        self._lock_fd = lock_fd
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.is_attached = True
        self.is_stopping = False
        self.is_kept = False

    @property
    def is_orphan(self) -> bool:
        """Whether the parent is gone although it never let go of the guard."""
        return self.is_attached and os.getppid() != self._parent_pid

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks for.

        Parameters
        ----------
        request
            See the module's table.

        Returns
        -------
        answer
            What goes back to the parent.
        """
        match request["do"]:
            case "start":
                return self._start(request)
            case "signal":
                return self._signal(request["name"], request["signal"])
            case "status":
                return self._status()
            case "detach":
                self.is_attached = False
                return {}
            case "stop":
                self.stop(request["grace_s"])
                self.is_stopping = True
                self.is_kept = request["keep"]
                return {}
        return {"error": f"unknown request: {request['do']}"}

    def stop(self, grace_s: float) -> None:
        """End every server, politely for a while and then at once.

        Parameters
        ----------
        grace_s
            How long they may take together; 0 ends them at once.
        """
        running = [server for server in self._servers.values() if server.poll() is None]
        if grace_s > 0:
            for server in running:
                server.send_signal(signal.SIGCONT)  # a paused one would not hear the SIGTERM
                server.terminate()
        deadline = time.monotonic() + grace_s
        for server in running:
            try:
                server.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        before = self._servers.get(request["name"])
        if before is not None and before.poll() is None:
            return {"error": f"{request['name']} runs already, process {before.pid}"}
        try:
            with Path(request["log"]).open("ab") as log:
                server = subprocess.Popen(  # noqa: S603 - the parent's own command
                    request["command"],
                    cwd=request["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(self._lock_fd,),
                    preexec_fn=self._die_with_guard,
                )
        except OSError as error:
            return {"error": str(error)}
        self._servers[request["name"]] = server
        return {"pid": server.pid}

    # Runs between fork and exec; safe, as the guard has one thread.
    def _die_with_guard(self) -> None:
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def _signal(self, name: str, number: int) -> dict[str, Any]:
        server = self._servers.get(name)
        if server is None or server.poll() is not None:
            return {"error": f"{name} does not run"}
        server.send_signal(number)
        if number == signal.SIGKILL:
            server.wait()
        return {}

    def _status(self) -> dict[str, Any]:
        return {
            "servers": {
                name: {"pid": server.pid, "exit": server.poll()}
                for name, server in self._servers.items()
            }
        }


def serve(guard: Guard) -> None:
    """Answer requests until there is a reason to end.

    Parameters
    ----------
    guard
        The servers' owner; ended, with all servers, when this returns.
    """
    unread = b""
    while not guard.is_stopping:
        if guard.is_orphan:
            break
        # Detached there is nobody to listen to, and an end of file would be no news.
        sources = [0] if guard.is_attached else []
        if not select.select(sources, [], [], WATCH_INTERVAL_S)[0]:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            os.write(1, json.dumps(guard.answer(json.loads(line))).encode() + b"\n")


def main(arguments: list[str]) -> None:
    """Be the guard of the process that started this one.

    Parameters
    ----------
    arguments
        The parent's process id, the lock's file descriptor, the state folder, and perhaps the
        word ``remove``.
    """
    guard = Guard(parent_pid=int(arguments[0]), lock_fd=int(arguments[1]))

    def stop_politely(_number: int, _frame: object) -> None:
        guard.is_stopping = True

    signal.signal(signal.SIGTERM, stop_politely)
    # The terminal's own signals are for the parent, which may still need its servers to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        serve(guard)
    except BrokenPipeError:
        pass  # the parent died between its question and our answer
    finally:
        guard.stop(SIGTERM_GRACE_S if guard.is_stopping else 0.0)
        if arguments[3:] == ["remove"] and not guard.is_kept:
            shutil.rmtree(arguments[2], ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
