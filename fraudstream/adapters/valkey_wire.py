"""The line to Valkey: commands go out together, and answers come back in their order.

    ValkeyBackend ──commands──▶ Wire ──┬─ ServerWire    one server, one connection
                 ◀──answers───         └─ ClusterWire   one connection to each node

A wire neither retries nor waits: every call has a deadline and is tried once. What to do without
an answer is decided above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry

from fraudstream.adapters.valkey_fit import require_fit
from fraudstream.errors import StoreUnfitError

#: So many commands, some 84 payments, go to a server before the answers to those before are read.
_FLIGHT_COMMANDS = 2


@dataclass(frozen=True, slots=True)
class ValkeyLimits:
    """How long Valkey may take.

    Parameters
    ----------
    deadline_s
        For one answer.
    connect_timeout_s
        For a new connection.
    breaker_min_s, breaker_max_s
        How long no call is made after a failure; doubled for each further one.
    """

    deadline_s: float = 0.05
    connect_timeout_s: float = 0.25
    breaker_min_s: float = 0.05
    breaker_max_s: float = 1.0


class Wire(Protocol):
    """A connection to wherever the keys live."""

    def prepare(self, source: str) -> None:
        """Check that every primary is fit to hold profiles, and load a function library there.

        Raises
        ------
        StoreUnfitError
            A server must not be used for profiles.
        redis.RedisError, OSError
            No answer, or a server that is in trouble for now.
        """
        ...

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands without waiting for the answer to one before the next.

        Returns
        -------
        answers
            One for each command, in order; an error reply is a `redis.ResponseError` in the list.

        Raises
        ------
        redis.RedisError, OSError
            There is no answer.
        """
        ...

    def generation(self) -> str:
        """Name the processes that answer: others after a restart or a failover.

        Raises
        ------
        redis.RedisError, OSError
            There is no answer.
        """
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class ServerWire:
    """A `Wire` to a single server.

    Parameters
    ----------
    url
        ``redis://…``, ``rediss://…`` or ``unix://…``; user and password belong in it.
    limits
        Time-outs.
    """

    def __init__(self, url: str, limits: ValkeyLimits) -> None:
        self._client = connect(url, limits)

    def prepare(self, source: str) -> None:
        """Check the server and load the functions (see `Wire.prepare`)."""
        prepare_node(self._client, source)
        if self._client.info("cluster").get("cluster_enabled"):
            raise StoreUnfitError(
                "valkey.url names a node of a cluster: set valkey.cluster to true, and see "
                "docs/operations.md."
            )

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands, some at a time (see `Wire.run`).

        While the server carries some out, the next are on their way to it. All at once would not
        be through before the deadline where a large batch meets a busy server.
        """
        client = self._client
        answers: list[Any] = []
        with line(client) as connection:
            for start in range(0, len(commands), _FLIGHT_COMMANDS):
                write(connection, commands[start : start + _FLIGHT_COMMANDS])
                answers += [read(client, connection, c) for c in commands[len(answers) : start]]
            answers += [read(client, connection, c) for c in commands[len(answers) :]]
        return answers

    def generation(self) -> str:
        """Name the server's process (see `Wire.generation`)."""
        return run_id(self._client)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def connect(url: str, limits: ValkeyLimits) -> redis.Redis:
    """Make a client with our own time-outs and without retries of its own."""
    return redis.Redis.from_url(
        url,
        protocol=2,  # RESP3 sends commands on connect that Valkey does not know
        socket_timeout=limits.deadline_s,
        socket_connect_timeout=limits.connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        client_name="fraudstream",
    )


@contextmanager
def line(client: redis.Redis) -> Iterator[Connection]:
    """Borrow a client's connection; one whose answers were not all read is not used again."""
    pool = client.connection_pool
    connection = pool.get_connection()
    is_read_to_the_end = False
    try:
        yield connection
        is_read_to_the_end = True
    finally:
        if not is_read_to_the_end:
            connection.disconnect()  # type: ignore[no-untyped-call]
        pool.release(connection)


def write(connection: Connection, commands: Sequence[tuple[Any, ...]]) -> None:
    """Send commands without waiting for their answers."""
    packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
    connection.send_packed_command(packed)  # type: ignore[no-untyped-call]


def read(client: redis.Redis, connection: Connection, command: tuple[Any, ...]) -> Any:  # noqa: ANN401 - any reply
    """Wait for the answer to a command; an error reply is given, not raised."""
    try:
        return client.parse_response(connection, command[0])  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        return error


def run_id(client: redis.Redis) -> str:
    """Name a server's process: random, chosen at its start."""
    return str(client.info("server")["run_id"])


def prepare_node(client: redis.Redis, source: str) -> None:
    """Check that a server is fit to hold profiles, and load a function library there.

    Raises
    ------
    StoreUnfitError
        It is too old, may evict keys, knows no functions, or refuses ours for good.
    redis.RedisError, OSError
        No answer, or a server that is in trouble for now: out of memory, a replica, a full disk.
    """
    try:
        require_fit(client)
        client.function_load(source)
    except redis.ResponseError as error:
        text = str(error).lower()
        if "already exists" in text:
            return
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise StoreUnfitError(
                f"Valkey's ACL refuses what the worker needs ({error}): see docs/operations.md"
            ) from error
        if "unknown command" in text:
            raise StoreUnfitError(
                f"the server has no functions ({error}): use Valkey 8.1.9 or newer, and rename or "
                "disable none of its commands."
            ) from error
        if "error compiling" in text:
            raise StoreUnfitError(f"Valkey refuses our function library: {error}") from error
        raise
