"""A real Kafka and a real Valkey for the tests, and what happens when there is none.

Taken from, in this order:

1. the addresses in ``FRAUDSTREAM_TEST_BOOTSTRAP_SERVERS`` and ``FRAUDSTREAM_TEST_VALKEY_URL``;
2. containers, if ``FRAUDSTREAM_TEST_CONTAINERS=1`` and a Docker engine answers;
3. the local stack, which is started once for all tests.

What cannot be had is a skip at home and a failure where ``FRAUDSTREAM_REQUIRE`` (words with commas
between them, here ``services`` and ``reference-data``) says that it must be there, as it does in
CI: a test that is skipped unnoticed shows nothing.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import pytest

from fraudstream.errors import LocalStackError
from fraudstream.local.kafka import PROPERTIES
from fraudstream.local.ready import find_free_port
from fraudstream.local.stack import LocalStack, local_stack

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

KAFKA_IMAGE = "apache/kafka:4.2.2"
VALKEY_IMAGE = "valkey/valkey:9.1"
CONTAINER_TIMEOUT_S = 120
#: Room for the records that are too large for us, so that it is we who refuse them.
BROKER_PROPERTIES = {"message.max.bytes": str(12 * 1024 * 1024)}


@dataclass(frozen=True)
class Services:
    """Where the tests find Kafka and Valkey.

    Attributes
    ----------
    bootstrap_servers, valkey_url
        The addresses. Other tests use the same two: give topics and namespaces names of their own.
    stack
        Set if it is the local stack, whose servers can be killed.
    """

    bootstrap_servers: str
    valkey_url: str
    stack: LocalStack | None = None


def refuse(requirement: str, why: str) -> NoReturn:
    """Skip the test, or fail it where the requirement must be met.

    Parameters
    ----------
    requirement
        ``services`` or ``reference-data``.
    why
        What is missing.
    """
    required = os.environ.get("FRAUDSTREAM_REQUIRE", "").split(",")
    if requirement in (word.strip() for word in required):
        pytest.fail(f"{requirement}, required by FRAUDSTREAM_REQUIRE: {why}", pytrace=False)
    pytest.skip(f"{requirement}: {why}")


@contextmanager
def running_services() -> Iterator[Services]:
    """Find or start Kafka and Valkey.

    Yields
    ------
    services
        Both answer, if it was this function that started them.
    """
    bootstrap_servers = os.environ.get("FRAUDSTREAM_TEST_BOOTSTRAP_SERVERS")
    valkey_url = os.environ.get("FRAUDSTREAM_TEST_VALKEY_URL")
    if bootstrap_servers and valkey_url:
        yield Services(bootstrap_servers, valkey_url)
    elif os.environ.get("FRAUDSTREAM_TEST_CONTAINERS") == "1" and _has_docker_engine():
        with _containers() as services:
            yield services
    else:
        with ExitStack() as exits:
            try:
                stack = exits.enter_context(local_stack(kafka_properties=BROKER_PROPERTIES))
            except LocalStackError as error:
                refuse("services", str(error))
            yield Services(stack.bootstrap_servers, stack.valkey_url, stack)


def _has_docker_engine() -> bool:
    import docker  # type: ignore[import-untyped]

    # Without an engine the client fails in its constructor and leaves a socket to be collected.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env().close()  # asks the engine for its version
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()
    return True


@contextmanager
def _containers() -> Iterator[Services]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    def started_when(message: str) -> LogMessageWaitStrategy:
        return LogMessageWaitStrategy(message).with_startup_timeout(CONTAINER_TIMEOUT_S)

    port = find_free_port()
    valkey = (
        DockerContainer(VALKEY_IMAGE)
        .with_exposed_ports(6379)
        .with_command(["valkey-server", "--maxmemory-policy", "noeviction", "--save", ""])
        .waiting_for(started_when("Ready to accept connections"))
    )
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    kafka.with_envs(**_kafka_environment(_host(kafka), port))
    kafka.waiting_for(started_when("Kafka Server started"))
    with valkey, kafka:
        yield Services(
            bootstrap_servers=f"{_host(kafka)}:{port}",
            valkey_url=f"redis://{_host(valkey)}:{valkey.get_exposed_port(6379)}/0",
        )


def _host(container: DockerContainer) -> str:
    """Name the machine the engine publishes ports on; known before the container runs."""
    return str(container.get_docker_client().host())


def _kafka_environment(host: str, port: int) -> dict[str, str]:
    """Spell the broker's settings as the image wants them.

    A broker tells its clients where it is, so the outer port has to be known before it starts.
    """
    properties = {
        **PROPERTIES,
        **BROKER_PROPERTIES,
        "node.id": "1",
        "process.roles": "broker,controller",
        "controller.quorum.voters": "1@localhost:9093",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INSIDE",
        "listeners": "OUTSIDE://:9092,INSIDE://localhost:9094,CONTROLLER://localhost:9093",
        "advertised.listeners": f"OUTSIDE://{host}:{port},INSIDE://localhost:9094",
        "listener.security.protocol.map": (
            "OUTSIDE:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
    }
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
