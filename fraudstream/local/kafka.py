"""One Apache Kafka node in KRaft mode: its settings, its commands, and when it is ready."""

from __future__ import annotations

import base64
import logging
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fraudstream.errors import LocalStackError
from fraudstream.local.ready import HOST, is_listening, last_lines, log_since

if TYPE_CHECKING:
    from fraudstream.local.jars import KafkaRuntime

#: Small and quick to start rather than fast: a few hundred events a second are plenty here.
JVM_FLAGS = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
FORMAT_TIMEOUT_S = 60.0
METADATA_TIMEOUT_S = 2.0

#: What differs from Kafka's defaults, and why. Callers may change any of it.
PROPERTIES: Mapping[str, str] = {
    # One node keeps the only copy of everything.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Each partition of an internal topic costs a moment at its first use.
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.num.partitions": "1",
    # Consumers and dead producers are noticed at once rather than after Kafka's patient defaults.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A broker that was killed is let in again once its predecessor's session is over: 9 s else.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Else a broker that was killed tells groups old offsets for a while (docs/adr/0024).
    "offsets.load.buffer.size": "65536",
    # A misspelt topic is an error; nothing is ever forgotten unless a topic says so.
    "auto.create.topics.enable": "false",
    "log.retention.ms": "-1",
    # Index files are allocated in full, two for each partition.
    "log.index.size.max.bytes": "1048576",
    # The default buffer alone is a third of the heap.
    "log.cleaner.dedupe.buffer.size": "8388608",
    "num.network.threads": "2",
    "num.io.threads": "4",
}

#: Of these a caller can only add to ours.
_LISTENERS = ("listeners", "advertised.listeners", "listener.security.protocol.map")

LOG4J2_PROPERTIES = """\
# To standard output, which is the log file: the Java runtime's own last words go there, too.
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %-5p %m (%c{1})%n%ex
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
# It prints every setting at each start, twice.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
"""


@dataclass(frozen=True)
class KafkaNode:
    """Where one broker lives.

    Attributes
    ----------
    folder
        Its configuration and, in ``data``, its topics.
    log_path
        What it says.
    port
        For clients.
    controller_port
        For itself: broker and controller are one process.
    jvm_flags
        How Java runs it.
    """

    folder: Path
    log_path: Path
    port: int
    controller_port: int
    jvm_flags: tuple[str, ...] = JVM_FLAGS

    @property
    def bootstrap_servers(self) -> str:
        """The address clients are given."""
        return f"{HOST}:{self.port}"

    @property
    def cluster_id(self) -> str | None:
        """The id its data were prepared with; None for an empty folder."""
        try:
            lines = (self.folder / "data" / "meta.properties").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)["cluster.id"]

    def write_configuration(self, properties: Mapping[str, str]) -> None:
        """Write the files the broker reads at start.

        Parameters
        ----------
        properties
            Broker settings beside, or instead of, those of ``PROPERTIES``. Listeners come beside
            our own.
        """
        place = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
        }
        place |= {n: f"{place[n]},{properties[n]}" for n in _LISTENERS if n in properties}
        lines = [
            f"{name}={value}\n" for name, value in {**PROPERTIES, **properties, **place}.items()
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "server.properties").write_text("".join(lines), encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(LOG4J2_PROPERTIES, encoding="utf-8")

    def server_command(self, runtime: KafkaRuntime) -> list[str]:
        """Spell the command that runs the broker.

        Parameters
        ----------
        runtime
            Java and the jars.

        Returns
        -------
        command
            Executable and arguments.
        """
        return runtime.command("kafka.Kafka", self._properties_path, jvm=self._jvm)

    def format(self, runtime: KafkaRuntime) -> None:
        """Prepare an empty data folder, as a broker refuses to do by itself.

        Parameters
        ----------
        runtime
            Java and the jars.

        Raises
        ------
        LocalStackError
            Kafka's own tool failed.
        """
        arguments = ("format", "--cluster-id", new_cluster_id(), "--config", self._properties_path)
        command = runtime.command("kafka.tools.StorageTool", *arguments, jvm=self._jvm)
        with self.log_path.open("ab") as log:
            finished = subprocess.run(  # noqa: S603 - our own command
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=FORMAT_TIMEOUT_S,
                check=False,
            )
        if finished.returncode != 0:
            message = (
                f"Kafka's data folder could not be prepared; {self.log_path} ends with\n"
                f"{last_lines(log_since(self.log_path))}"
            )
            raise LocalStackError(message)

    def is_answering(self) -> bool:
        """Tell whether clients are served.

        Returns
        -------
        is_answering
            Whether it is this broker that answers, and knows itself to be there.
        """
        # The plain connection first: a Kafka client would go on trying.
        return is_listening(self.port) and _cluster_id(self.bootstrap_servers) == self.cluster_id

    @property
    def _properties_path(self) -> str:
        return str(self.folder / "server.properties")

    @property
    def _jvm(self) -> tuple[str, ...]:
        log4j2 = f"-Dlog4j2.configurationFile={(self.folder / 'log4j2.properties').as_uri()}"
        return (*self.jvm_flags, log4j2, "-Dlog4j2.disableJmx=true")


def new_cluster_id() -> str:
    """Make a cluster id in Kafka's own form.

    Returns
    -------
    cluster_id
        22 characters, none of which a command line could take for an option's dash in front.

    Examples
    --------
    >>> len(new_cluster_id())
    22
    """
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def _cluster_id(bootstrap_servers: str) -> str | None:
    """Ask whoever answers for the cluster's id; None if there is no broker yet."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.Logger("fraudstream.local.kafka")
    quiet.addHandler(logging.NullHandler())
    admin = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=quiet)
    try:
        metadata = admin.list_topics(timeout=METADATA_TIMEOUT_S)
    except KafkaException:
        return None
    return str(metadata.cluster_id) if metadata.brokers else None
