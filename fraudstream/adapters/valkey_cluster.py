"""The line to a Valkey Cluster: each command goes to the node that holds its keys.

    commands ──▶ slot of each one's key ──▶ owner of the slot ──┬─ pipeline ─▶ node A ─┐
                                                                ├─ pipeline ─▶ node B ─┼─▶ answers
                                                                └─ pipeline ─▶ node C ─┘  in order

All keys of a profile bucket share a slot, so one command never needs two nodes, and the buckets of
a micro-batch are spread over all of them. Every node's pipeline is written before the first answer
is read: the nodes work at the same time, and it stays one round trip.

While slots move, or a replica takes over, answers say where to go instead. Commands may be sent
again, for recording is idempotent:

* MOVED: the slot has another owner. The command goes there, and with it all later ones of that
  slot, for their order matters; who owns what is asked anew.
* ASK: this command's key has gone ahead of its slot. The command alone goes there, this once.
* TRYAGAIN, CLUSTERDOWN: nobody can answer now. The error is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoPermissionError

from fraudstream.adapters.valkey_wire import (
    ValkeyLimits,
    connect,
    line,
    prepare_node,
    read,
    run_id,
    write,
)
from fraudstream.errors import StoreUnfitError

#: How often one run follows its commands to other nodes before it leaves it at that.
REDIRECTIONS_MAX = 2
#: Here the first key stands behind the function's name and the number of keys; in other commands
#: it comes first.
_FUNCTION_CALLS = frozenset({"FCALL", "FCALL_RO"})
_ASKING = ("ASKING",)


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class ClusterWire:
    """A `fraudstream.adapters.valkey_wire.Wire` to all primaries of a cluster.

    Parameters
    ----------
    url
        ``redis://…`` or ``rediss://…``: any node, which names the others. User, password and TLS
        options are used for all of them.
    limits
        Time-outs; ``deadline_s`` is for each answer of each node.
    """

    def __init__(self, url: str, limits: ValkeyLimits) -> None:
        self._url = url
        self._limits = limits
        parts = urlsplit(url)
        self._seed = Address(parts.hostname or "localhost", parts.port or 6379)
        #: Whom to ask who owns what, in this order; one that does not answer goes to the end.
        self._guides = [self._seed]
        self._clients: dict[Address, redis.Redis] = {}
        #: By slot, the primary that holds it. Empty: has to be asked.
        self._owners: dict[int, Address] = {}

    def prepare(self, source: str) -> None:
        """Check all primaries and load the functions there (see `Wire.prepare`)."""
        self._learn_owners()
        for address in sorted(set(self._owners.values())):
            prepare_node(self._client(address), source)

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send each command to the node that holds its keys (see `Wire.run`)."""
        try:
            answers = self._run(commands)
        except (redis.RedisError, OSError):
            self._owners.clear()
            raise
        if any(isinstance(answer, MovedError | ClusterDownError) for answer in answers):
            self._owners.clear()
        return answers

    def generation(self) -> str:
        """Name all primaries' processes (see `Wire.generation`)."""
        if not self._owners:
            self._learn_owners()
        primaries = sorted(set(self._owners.values()))
        return " ".join(run_id(self._client(address)) for address in primaries)

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            client.close()

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if not self._owners:
            self._learn_owners()
        slots = [_slot(command) for command in commands]
        targets = {number: self._owner(slot) for number, slot in enumerate(slots)}
        answers: list[Any] = [None] * len(commands)
        self._exchange(commands, targets, answers)
        for _ in range(REDIRECTIONS_MAX):
            moved = _moved(slots, answers)
            asked = {
                number: _named(answer, targets[number])
                for number, answer in enumerate(answers)
                if isinstance(answer, AskError) and number not in moved
            }
            if not moved and not asked:
                break
            if moved:
                self._learn_owners()
            # The old owner knows: the one that was asked may not have heard of it yet.
            for number in moved:
                if isinstance(answers[number], MovedError):
                    self._owners[slots[number]] = _named(answers[number], targets[number])
            again = {number: self._owner(slots[number]) for number in moved}
            self._exchange(commands, again, answers)
            self._exchange(commands, asked, answers, is_asking=True)
            targets |= again | asked
        return answers

    def _exchange(
        self,
        commands: Sequence[tuple[Any, ...]],
        targets: Mapping[int, Address],
        answers: list[Any],
        *,
        is_asking: bool = False,
    ) -> None:
        """Write every node's commands, then read every node's answers into their places."""
        numbers_by_node: dict[Address, list[int]] = {}
        for number, address in targets.items():
            numbers_by_node.setdefault(address, []).append(number)
        prefix = [_ASKING] if is_asking else []
        with ExitStack() as lines:
            opened = {a: lines.enter_context(line(self._client(a))) for a in numbers_by_node}
            for address, numbers in numbers_by_node.items():
                write(opened[address], [w for n in numbers for w in (*prefix, commands[n])])
            for address, numbers in numbers_by_node.items():
                client = self._client(address)
                for number in numbers:
                    for word in (*prefix, commands[number]):
                        answers[number] = read(client, opened[address], word)

    def _owner(self, slot: int) -> Address:
        address = self._owners.get(slot)
        if address is None:
            raise ClusterDownError(f"no node holds slot {slot}")
        return address

    def _client(self, address: Address) -> redis.Redis:
        if address not in self._clients:
            self._clients[address] = connect(_url_of(self._url, address), self._limits)
        return self._clients[address]

    def _learn_owners(self) -> None:
        """Ask one node after the other who owns what, until one answers."""
        for address in tuple(self._guides):
            try:
                self._owners = _owners(self._client(address), address)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                self._guides.remove(address)
                self._guides.append(address)
                failure = error
            else:
                self._forget_others()
                return
        raise failure

    def _forget_others(self) -> None:
        """Let go of nodes that own nothing any more."""
        owners = set(self._owners.values())
        kept = [address for address in self._guides if address in owners]
        self._guides = list(dict.fromkeys([*kept, *sorted(owners), self._seed]))
        for address in set(self._clients).difference(self._guides):
            self._clients.pop(address).close()


def _owners(client: redis.Redis, asked: Address) -> dict[int, Address]:
    """Ask a node which primary holds each slot.

    Raises
    ------
    StoreUnfitError
        It belongs to no cluster, or does not let us ask.
    """
    try:
        ranges: list[Any] = client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
    except NoPermissionError as error:
        raise StoreUnfitError(
            f"Valkey's ACL refuses what the worker needs ({error}): see docs/operations.md"
        ) from error
    except redis.ResponseError as error:
        if "cluster support disabled" in str(error):
            raise StoreUnfitError(
                "valkey.cluster is true, but valkey.url names a server that belongs to no cluster: "
                "set valkey.cluster to false, or name a node of the cluster."
            ) from error
        raise
    owners = {}
    for first, last, (host, port, *_), *_ in ranges:
        # A node that does not know its own address means the one under which it was asked.
        address = Address(host.decode() if host else asked.host, port)
        owners.update(dict.fromkeys(range(first, last + 1), address))
    return owners


def _moved(slots: Sequence[int], answers: Sequence[Any]) -> list[int]:
    """List the commands that were sent away for good, and all behind them in the same slots."""
    moved_slots = set()
    moved = []
    for number, (slot, answer) in enumerate(zip(slots, answers, strict=True)):
        if isinstance(answer, MovedError):
            moved_slots.add(slot)
        if slot in moved_slots:
            moved.append(number)
    return moved


def _named(error: AskError, asked: Address) -> Address:
    """Read which node an answer names; without a host, another port of the one that was asked."""
    return Address(error.host or asked.host, error.port)


def _slot(command: Sequence[Any]) -> int:
    key = command[3 if command[0] in _FUNCTION_CALLS else 1]
    return key_slot(key.encode() if isinstance(key, str) else key)


def _url_of(url: str, address: Address) -> str:
    """Put another node's address into a URL: user, password and options stay."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return parts._replace(netloc=f"{user}{at}{host}:{address.port}").geturl()
