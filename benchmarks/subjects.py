"""Who is measured: fraudstream's workers, or the bare echo, as processes of their own.

Each subject has topics, a consumer group and a namespace of its own, so that several can be
measured one after the other on one broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TypeAlias

from benchmarks.echo import READY
from benchmarks.open_loop import PARTITIONS, Channel
from fraudstream.adapters.kafka import KafkaAccess
from fraudstream.local.ready import find_free_port
from fraudstream.local.stack import LocalStack, local_stack
from fraudstream.topics import TopicAdmin, plan_topics

ECHO = "echo"
#: Those of Kafka's `kafka-server-start.sh`.
BROKER_JVM = (
    *("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    "-XX:MaxInlineLevel=15",
)
DELIVERIES = ("exactly_once", "at_least_once")
_Process: TypeAlias = "subprocess.Popen[str]"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
#: What of a worker's metrics is worth a column: what it did beside deciding in time.
_COUNTERS = {
    "fraudstream_degraded_total": "degraded",
    'fraudstream_batches_total{result="aborted"}': "aborted_batches",
    "fraudstream_producer_rebuilds_total": "producer_rebuilds",
    "fraudstream_batch_records_sum": "batch_records",
    "fraudstream_batch_records_count": "batches",
}


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How fraudstream's workers are started.

    Parameters
    ----------
    bundle
        The model.
    workers
        How many.
    review_threshold
        From which score on there is an alert.
    environ
        Settings to try, by their names in the environment.
    """

    bundle: Path
    workers: int = 1
    review_threshold: float = 0.3
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process, from ``/proc``; MB are 10^6 bytes."""

    resident_mb: float
    peak_mb: float


class Processes:
    """The running processes of a subject; they end with the block.

    Notes
    -----
    Settings of fraudstream in the environment of this program are not passed on: figures are of
    the settings that are given here.
    """

    def __init__(self) -> None:
        self._running: list[_Process] = []
        self._environ = {n: v for n, v in os.environ.items() if not n.startswith("FRAUDSTREAM_")}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._running:
            self.stop(self._running[-1])

    def start(self, arguments: Sequence[str], environ: Mapping[str, str]) -> _Process:
        """Start a Python module as a process."""
        return self.run([sys.executable, "-m", *arguments], environ)

    def run(self, command: Sequence[str], environ: Mapping[str, str]) -> _Process:
        """Start a program as a process."""
        process = subprocess.Popen(
            list(command), env={**self._environ, **environ}, stdout=subprocess.PIPE, text=True
        )
        self._running.append(process)
        return process

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [process.pid for process in self._running]

    def stop(self, process: _Process) -> None:
        """Let one end in order."""
        self._running.remove(process)
        process.terminate()
        try:
            process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def check(self) -> None:
        """See that all of them live.

        Raises
        ------
        SystemExit
            One ended by itself.
        """
        for process in self._running:
            if process.poll() is not None:
                sys.exit(f"{process.args!r} ended with exit code {process.returncode}")

    def memory(self) -> list[Memory]:
        """Give the resident memory of each, where the system tells."""
        return [found for p in self._running if (found := _memory(p.pid)) is not None]


class Workers:
    """Workers of one deployment: a process in each slot.

    Parameters
    ----------
    stack, name, delivery
        Where, under which name, and with which guarantee.
    options
        See its class.
    """

    def __init__(self, stack: LocalStack, name: str, delivery: str, options: WorkerOptions) -> None:
        self.processes = Processes()
        self._count = options.workers
        self._ports: dict[int, int] = {}
        self._started: dict[int, _Process] = {}
        self._environ = {
            **deployment_environ(stack, name, options.bundle),
            "FRAUDSTREAM_POLICY__REVIEW_THRESHOLD": str(options.review_threshold),
            "FRAUDSTREAM_DELIVERY": delivery,
            **{
                f"FRAUDSTREAM_TOPICS__{kind.upper()}": _topic(name, kind)
                for kind in ("transactions", "labels", "decisions", "alerts", "dead_letters")
            },
            **options.environ,
        }

    def begin(self) -> None:
        """Start all of them, and wait until each has its share of the partitions."""
        for slot in range(self._count):
            self.start(slot)
        for slot in range(self._count):
            self.await_ready(slot)

    def start(self, slot: int) -> None:
        """Start the worker of a slot; `await_ready` waits for it."""
        self._ports[slot] = find_free_port()
        # A worker adds its slot to the port that it is given.
        port = {"FRAUDSTREAM_METRICS__PORT": str(self._ports[slot] - slot)}
        arguments = ["fraudstream", "run", "--log-level", "ERROR", "--slot", str(slot)]
        self._started[slot] = self.processes.start(arguments, self._environ | port)

    def stop(self, slot: int) -> None:
        """Let the worker of a slot end in order."""
        del self._ports[slot]
        self.processes.stop(self._started.pop(slot))

    def await_ready(self, slot: int) -> None:
        """Wait until a worker has its share of the partitions."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            self.processes.check()
            try:
                _get(self._ports[slot], "readyz")
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        sys.exit("the worker did not become ready")

    def counters(self) -> dict[str, float]:
        """Add up over the workers what they count."""
        totals = dict.fromkeys(_COUNTERS.values(), 0.0)
        for port in self._ports.values():
            for line in _get(port, "metrics").splitlines():
                name, _, value = line.rpartition(" ")
                if name in _COUNTERS:
                    totals[_COUNTERS[name]] += float(value)
        return totals


class Echo:
    """The bare echo, from a channel's input to its first output.

    Parameters
    ----------
    channel
        See its class.
    """

    def __init__(self, channel: Channel) -> None:
        self.processes = Processes()
        self._channel = channel

    def begin(self) -> None:
        """Start it, and wait until it has its partitions."""
        channel = self._channel
        arguments = echo_arguments(
            channel.bootstrap_servers, channel.input, channel.input, channel.outputs[0]
        )
        process = self.processes.start(arguments, {})
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            sys.exit("the echo did not start")

    def counters(self) -> dict[str, float]:
        """Give nothing: it counts nothing."""
        return {}


Subject: TypeAlias = Workers | Echo


@contextmanager
def benchmark_stack() -> Iterator[LocalStack]:
    """Run Kafka and Valkey, the broker as Kafka's own script starts it.

    The local stack's flags are for a quick start: they leave out the compiler that makes a broker
    fast after a minute, and its collector stopped everything for 25 to 50 ms every two seconds at
    1,000 events/s.
    """
    with local_stack(kafka_jvm=BROKER_JVM) as stack:
        yield stack


def deployment_environ(stack: LocalStack, name: str, bundle: Path) -> dict[str, str]:
    """Give the settings that make workers a deployment of their own on a stack."""
    return {
        "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "FRAUDSTREAM_KAFKA__GROUP_ID": name,
        "FRAUDSTREAM_VALKEY__URL": stack.valkey_url,
        "FRAUDSTREAM_PROFILES__NAMESPACE": name,
        "FRAUDSTREAM_MODEL__BUNDLE": str(bundle),
    }


def echo_arguments(bootstrap_servers: str, group: str, source: str, output: str) -> list[str]:
    """Spell the module and the arguments of the bare echo."""
    arguments = ["benchmarks.echo", "--bootstrap", bootstrap_servers, "--group", group]
    return [*arguments, "--input", source, "--output", output]


def create_topics(
    stack: LocalStack, inputs: Sequence[str], outputs: Sequence[str], partitions: int
) -> None:
    """Make topics that keep everything."""
    plans = plan_topics(inputs, outputs, partitions=partitions, horizon_ms=0, is_unlimited=True)
    TopicAdmin(KafkaAccess(stack.bootstrap_servers)).create(plans)


def make_topics(stack: LocalStack, name: str) -> Channel:
    """Make the topics of a subject.

    Returns
    -------
    channel
        With decisions and alerts as outputs. The echo has no alerts, but its reader looks for some
        all the same: both are measured by the same reader.
    """
    inputs = [_topic(name, "transactions"), _topic(name, "labels")]
    outputs = [_topic(name, kind) for kind in ("decisions", "alerts", "dead_letters")]
    create_topics(stack, inputs, outputs, PARTITIONS)
    return Channel(stack.bootstrap_servers, inputs[0], tuple(outputs[:2]))


def _topic(name: str, kind: str) -> str:
    return f"{name}.{kind}"


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
        text: str = answer.read().decode()
        return text


def _memory(pid: int) -> Memory | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    sizes_mb = [int(found[name].split()[0]) * 1_024 / 1e6 for name in ("VmRSS", "VmHWM")]
    return Memory(*sizes_mb)
