"""How each contestant is built, scored and started.

    prepare ─▶ score 10,000 vectors ─▶ start on a broker ─▶ … ─▶ stop

Peers are programs of their own (``quix/app.py``, ``kafka_streams``), started as a user of the
framework would start them; their settings are in their READMEs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.subjects import Processes, deployment_environ, echo_arguments
from fraudstream.bundle import load_bundle
from fraudstream.local.stack import LocalStack

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "bench"
_JAR = HERE / "kafka_streams" / "target" / "contestant.jar"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contestant.

    Parameters
    ----------
    stack
        The broker and Valkey of all runs.
    name
        Of this run: its group, state and namespace.
    input, output
        The topics. ``output`` exists.
    bundle
        The folder of the model.
    """

    stack: LocalStack
    name: str
    input: str
    output: str
    bundle: Path


class Contestant(Protocol):
    """A program that does the job."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def prepare(self) -> None:
        """Build or install it, unless that was done."""
        ...

    def score(self, bundle: Path, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score n vectors of shape (n, features) by the way it scores payments."""
        ...

    def start(self, run: Run, processes: Processes) -> None:
        """Start it; it ends with the processes."""
        ...


@dataclass(frozen=True, slots=True)
class Fraudstream:
    """Our own workers, as ``fraudstream run`` starts them.

    Parameters
    ----------
    workers
        How many.
    environ
        Settings to try, by their names in the environment.
    """

    workers: int = 1
    environ: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"fraudstream, {self.workers} worker" + "s" * (self.workers > 1)

    def prepare(self) -> None:
        """Do nothing: it is installed."""

    def score(self, bundle: Path, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score as a worker does."""
        return load_bundle(str(bundle)).model.score(vectors)

    def start(self, run: Run, processes: Processes) -> None:
        """Start the workers."""
        environ = {
            **deployment_environ(run.stack, run.name, run.bundle),
            "FRAUDSTREAM_TOPICS__TRANSACTIONS": run.input,
            "FRAUDSTREAM_TOPICS__LABELS": f"{run.input}.labels",
            "FRAUDSTREAM_TOPICS__DECISIONS": run.output,
            "FRAUDSTREAM_TOPICS__ALERTS": f"{run.input}.alerts",
            "FRAUDSTREAM_TOPICS__DEAD_LETTERS": f"{run.input}.dead-letters",
            "FRAUDSTREAM_METRICS__PORT": "0",
            # The job asks for scores and outcomes, not for what explains an alert.
            "FRAUDSTREAM_MODEL__EXPLANATIONS": "approximate",
            # Nobody here decides without profiles, however busy the machine is.
            "FRAUDSTREAM_VALKEY__ON_DEADLINE": "wait",
            "FRAUDSTREAM_VALKEY__DEADLINE_MS": "1000",
            **(self.environ or {}),
        }
        for slot in range(self.workers):
            arguments = ["fraudstream", "run", "--log-level", "ERROR", "--slot", str(slot)]
            processes.start(arguments, environ)


@dataclass(frozen=True, slots=True)
class Echo:
    """Nothing but Kafka: what is read is published again (`benchmarks.echo`)."""

    name: str = "bare transactional echo"

    def prepare(self) -> None:
        """Do nothing."""

    def score(self, bundle: Path, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take ours: it scores nothing."""
        return Fraudstream().score(bundle, vectors)

    def start(self, run: Run, processes: Processes) -> None:
        """Start it."""
        servers = run.stack.bootstrap_servers
        processes.start(echo_arguments(servers, run.name, run.input, run.output), {})


@dataclass(frozen=True, slots=True)
class Quix:
    """Quix Streams, one process, row by row, in an environment of its own."""

    name: str = "Quix Streams, exactly-once"

    @property
    def _python(self) -> Path:
        return BUILD / "venv-quix" / "bin" / "python"

    def prepare(self) -> None:
        """Install it, by pinned files."""
        wanted = (HERE / "quix" / "requirements.txt").read_text("utf-8")
        mark = BUILD / "venv-quix" / "installed.txt"
        if mark.exists() and mark.read_text("utf-8") == wanted:
            return
        venv.create(self._python.parent.parent, with_pip=True, clear=True)
        pip: list[str | Path] = [self._python, "-m", "pip", "install", "--quiet"]
        pip += ["--require-hashes", "--no-deps"]
        _run_or_exit([*pip, "-r", HERE / "quix" / "requirements.txt"])
        mark.write_text(wanted, "utf-8")

    def score(self, bundle: Path, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ask the program."""
        return _ask([self._python, HERE / "quix" / "app.py"], bundle, vectors)

    def start(self, run: Run, processes: Processes) -> None:
        """Start it."""
        processes.run([str(self._python), str(HERE / "quix" / "app.py"), "run"], _environ(run))


@dataclass(frozen=True, slots=True)
class KafkaStreams:
    """Kafka Streams with XGBoost's package for the JVM, two threads; needs a JDK and Maven.

    Parameters
    ----------
    rows
        How many payments are scored in one call at most. One is what a first program does; several
        spare the peer most of what a call of XGBoost costs beside the trees.
    threads
        Of the stream.
    """

    rows: int = 1
    threads: int = 2

    @property
    def name(self) -> str:
        """What tables call it."""
        how = "row by row" if self.rows == 1 else f"{self.rows} rows a call"
        return f"Kafka Streams, exactly_once_v2, {how}"

    def prepare(self) -> None:
        """Build it, unless the jar is newer than its sources."""
        folder = HERE / "kafka_streams"
        sources = [folder / "pom.xml", *folder.glob("src/main/**/*.java")]
        if _JAR.exists() and _JAR.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            return
        if shutil.which("mvn") is None or shutil.which("java") is None:
            sys.exit(
                "Kafka Streams needs Java 17 and Maven; leave it out by --without kafka-streams"
            )
        _run_or_exit(["mvn", "-q", "-B", "-f", folder / "pom.xml", "package"])

    def score(self, bundle: Path, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ask the program."""
        return _ask(["java", "-jar", _JAR], bundle, vectors)

    def start(self, run: Run, processes: Processes) -> None:
        """Start it."""
        own = {"BENCH_THREADS": str(self.threads), "BENCH_SCORE_ROWS": str(self.rows)}
        environ = _environ(run) | own
        processes.run(["java", "-jar", str(_JAR), "run"], environ)


def _environ(run: Run) -> dict[str, str]:
    state = BUILD / "state" / run.name
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    return {
        "BENCH_BOOTSTRAP": run.stack.bootstrap_servers,
        "BENCH_GROUP": run.name,
        "BENCH_INPUT": run.input,
        "BENCH_OUTPUT": run.output,
        "BENCH_MODEL": str(run.bundle / "model.ubj"),
        "BENCH_STATE_DIR": str(state),
    }


def _ask(
    program: Sequence[str | Path], bundle: Path, vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    asked, answered = BUILD / "vectors.bin", BUILD / "scores.bin"
    np.ascontiguousarray(vectors, dtype="<f4").tofile(asked)
    answered.unlink(missing_ok=True)
    _run_or_exit([*program, "score", bundle / "model.ubj", asked, answered])
    return np.fromfile(answered, dtype="<f4")


def _run_or_exit(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed with exit code {done.returncode}")
