"""What runs in a state folder, seen from outside, and how to end it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fraudstream.errors import LocalStackError
from fraudstream.local.folder import StateFolder
from fraudstream.local.kafka import KafkaNode
from fraudstream.local.ready import wait_until
from fraudstream.local.valkey import ValkeyNode

STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class StackStatus:
    """A local stack as it was a moment ago.

    Attributes
    ----------
    state_dir
        Its folder.
    is_running
        Whether anything of it lives.
    is_detached
        Whether it goes on without the process that started it.
    bootstrap_servers, valkey_url
        The addresses; of the last run if none runs.
    is_kafka_answering, is_valkey_answering
        Whether clients are served.
    guard_pid, kafka_pid, valkey_pid
        The processes.
    """

    state_dir: Path
    is_running: bool
    is_detached: bool
    bootstrap_servers: str
    valkey_url: str
    is_kafka_answering: bool
    is_valkey_answering: bool
    guard_pid: int
    kafka_pid: int
    valkey_pid: int


def stack_status(folder: StateFolder) -> StackStatus:
    """Look at a state folder, and ask both servers.

    Parameters
    ----------
    folder
        Need not exist.

    Returns
    -------
    status
        What was found.

    Raises
    ------
    LocalStackError
        No stack ever came up there.
    """
    record = folder.read_record()
    if record is None:
        message = (
            f"no local stack in {folder.path}: `fraudstream local up --state-dir {folder.path}` "
            "starts one"
        )
        raise LocalStackError(message)
    is_running = folder.is_taken()
    kafka = KafkaNode(folder.kafka, folder.log("kafka"), record.kafka_port, record.controller_port)
    valkey = ValkeyNode(folder.valkey, folder.log("valkey"), record.valkey_port)
    return StackStatus(
        state_dir=folder.path,
        is_running=is_running,
        is_detached=record.is_detached,
        bootstrap_servers=record.bootstrap_servers,
        valkey_url=record.valkey_url,
        is_kafka_answering=is_running and kafka.is_answering(),
        is_valkey_answering=is_running and valkey.is_answering(record.valkey_pid),
        guard_pid=record.guard_pid,
        kafka_pid=record.kafka_pid,
        valkey_pid=record.valkey_pid,
    )


def stop_from_outside(folder: StateFolder) -> bool:
    """End whatever runs in a state folder, politely first.

    Parameters
    ----------
    folder
        Need not exist.

    Returns
    -------
    was_running
        Whether there was anything to end.

    Raises
    ------
    LocalStackError
        It is just starting, or did not end.
    """
    if not folder.is_taken():
        return False
    record = folder.read_record()
    if record is None:
        message = f"the local stack in {folder.path} is just starting; try again in a moment"
        raise LocalStackError(message)
    has_guard = _signal(folder, record.guard_pid, signal.SIGTERM)
    if has_guard and wait_until(lambda: not folder.is_taken(), STOP_TIMEOUT_S):
        return True
    # The guard is gone or does not react: end what it left behind.
    pids = (record.guard_pid, record.kafka_pid, record.valkey_pid)
    for pid in pids:
        _signal(folder, pid, signal.SIGKILL)
    if not wait_until(lambda: not folder.is_taken(), KILL_TIMEOUT_S):
        message = f"the local stack in {folder.path} did not stop; its processes were {pids}"
        raise LocalStackError(message)
    return True


def _signal(folder: StateFolder, pid: int, number: signal.Signals) -> bool:
    """Signal one of this stack's processes; False if it is gone and the number perhaps reused."""
    if str(folder.path) not in _command_line(pid):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    listing = subprocess.run(  # noqa: S603 - a number is all that varies
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return listing.stdout
