"""The state folder: its lock, its record of what runs, its log files.

.fraudstream/local/
  lock          locked as long as anything of the stack lives; holds a process id
  stack.json    the addresses and process ids of what runs
  kafka/  valkey/
  kafka.log  valkey.log  guard.log
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fraudstream.errors import LocalStackError
from fraudstream.local.ready import wait_until

DEFAULT_STATE_DIR = Path(".fraudstream/local")
#: Somebody who only looks holds the lock for a moment; that is no reason to refuse.
LOCK_TIMEOUT_S = 0.3


@dataclass(frozen=True)
class StackRecord:
    """What runs in a state folder.

    Attributes
    ----------
    bootstrap_servers
        Kafka's address.
    valkey_url
        Valkey's address.
    controller_port
        Kafka's second port.
    guard_pid
        The process to ask to stop.
    kafka_pid, valkey_pid
        The servers.
    is_detached
        Whether it goes on without the process that started it.
    """

    bootstrap_servers: str
    valkey_url: str
    controller_port: int
    guard_pid: int
    kafka_pid: int
    valkey_pid: int
    is_detached: bool = False

    @property
    def kafka_port(self) -> int:
        """The port in ``bootstrap_servers``."""
        return int(self.bootstrap_servers.rpartition(":")[2])

    @property
    def valkey_port(self) -> int:
        """The port in ``valkey_url``."""
        return int(self.valkey_url.rpartition(":")[2].partition("/")[0])


@dataclass(frozen=True)
class StateFolder:
    """A folder that belongs to one local stack at a time.

    Attributes
    ----------
    path
        Absolute.
    """

    path: Path

    @property
    def kafka(self) -> Path:
        """The broker's folder."""
        return self.path / "kafka"

    @property
    def valkey(self) -> Path:
        """Valkey's folder."""
        return self.path / "valkey"

    def log(self, name: str) -> Path:
        """Name the file a process writes its messages to.

        Parameters
        ----------
        name
            ``kafka``, ``valkey`` or ``guard``.

        Returns
        -------
        path
            A file in this folder.
        """
        return self.path / f"{name}.log"

    def lock(self) -> int:
        """Take the folder, until the file and every copy of it that children inherit is closed.

        Returns
        -------
        lock_fd
            The locked file.

        Raises
        ------
        LocalStackError
            Another stack has it, or it cannot be made or written to.
        """
        with self.blamed():
            self.path.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if wait_until(lambda: _try_flock(lock_fd, fcntl.LOCK_EX), LOCK_TIMEOUT_S):
            with self.blamed():
                self.name_holder(os.getpid())
            return lock_fd
        holder = os.pread(lock_fd, 32, 0).decode() or "unknown"
        os.close(lock_fd)
        message = (
            f"a local stack already runs in {self.path} (held by process {holder}): "
            f"`fraudstream local status --state-dir {self.path}` shows it, `fraudstream local down "
            f"--state-dir {self.path}` stops it, another --state-dir gives a second one"
        )
        raise LocalStackError(message)

    def name_holder(self, pid: int) -> None:
        """Write into the lock who has it.

        Parameters
        ----------
        pid
            The process a person would look for.
        """
        self._lock_path.write_text(str(pid), encoding="ascii")

    def is_taken(self) -> bool:
        """Tell whether anything of a stack lives here.

        Returns
        -------
        is_taken
            Whether the folder is locked.

        Raises
        ------
        LocalStackError
            It is no folder, or may not be looked at.
        """
        try:
            with self.blamed(FileNotFoundError):
                lock_fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_flock(lock_fd, fcntl.LOCK_SH)
        finally:
            os.close(lock_fd)

    def write_record(self, record: StackRecord) -> None:
        """Remember what runs here.

        Parameters
        ----------
        record
            Replaces the one before.
        """
        unfinished = self.path / "stack.json.new"
        unfinished.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._record_path)

    def read_record(self) -> StackRecord | None:
        """Read what runs here, or ran here last.

        Returns
        -------
        record
            None if nothing ever came up in this folder.

        Raises
        ------
        LocalStackError
            It is no folder, or what is written there cannot be read.
        """
        try:
            with self.blamed(FileNotFoundError):
                return StackRecord(**json.loads(self._record_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            message = f"{self._record_path} is damaged: delete it, then `fraudstream local up`"
            raise LocalStackError(message) from error

    def forget_record(self) -> None:
        """Forget what ran here last: its process ids say nothing about what is starting."""
        self._record_path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all data of earlier runs, and nothing that is not ours."""
        for folder in (self.kafka, self.valkey):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("kafka", "valkey", "guard"):
            self.log(name).unlink(missing_ok=True)
        self.forget_record()

    @contextmanager
    def blamed(self, *others: type[OSError]) -> Iterator[None]:
        """Turn what the file system refuses into a sentence about this folder.

        Parameters
        ----------
        others
            Errors that the caller understands; they pass.

        Raises
        ------
        LocalStackError
            It is no folder, may not be written to, or the disk is full.
        """
        try:
            yield
        except OSError as error:
            # A server's silence is no folder's fault.
            if isinstance(error, (*others, ConnectionError, TimeoutError)):
                raise
            is_file = self.path.exists() and not self.path.is_dir()
            reason = "it is a file, not a folder" if is_file else error.strerror or str(error)
            message = (
                f"{self.path} cannot be the local stack's folder ({reason}): give another one with "
                "--state-dir, or look at its rights"
            )
            raise LocalStackError(message) from error

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def _record_path(self) -> Path:
        return self.path / "stack.json"


def _try_flock(lock_fd: int, kind: int) -> bool:
    try:
        fcntl.flock(lock_fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
