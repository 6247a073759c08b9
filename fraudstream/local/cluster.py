"""A real Valkey Cluster of three nodes on this machine, for tests and benchmarks.

    node 0 ──slots 0…5460         each node: a primary without replicas, nothing on disk but the
    node 1 ──slots 5461…10922     cluster's own file, ended with the process that started it,
    node 2 ──slots 10923…16383    however that ends

Nodes can be killed, paused and started again, and slots moved. Where tests share one, whoever kills
a node starts it again.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from fraudstream.adapters.valkey_wire import ValkeyLimits, connect
from fraudstream.local.folder import StateFolder
from fraudstream.local.leash import Leash
from fraudstream.local.ready import HOST, find_free_port, wait_until
from fraudstream.local.valkey import ValkeyNode

#: Where each node's slots begin, and the end.
BOUNDS = (0, 5461, 10923, 16384)
NODE_TIMEOUT_MS = 1_000
START_TIMEOUT_S = 30.0
MIGRATE_TIMEOUT_MS = 5_000
PATIENT = ValkeyLimits(deadline_s=20, connect_timeout_s=5)


@dataclass(frozen=True)
class ClusterNode:
    """One node: its server, and a client that speaks to it alone."""

    name: str
    server: ValkeyNode
    bus_port: int
    client: redis.Redis

    @property
    def command(self) -> list[str]:
        """The command that runs it."""
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-config-file": "nodes.conf",
        }
        words = (word for name, value in options.items() for word in (f"--{name}", value))
        return [*self.server.server_command(), *words]

    def cluster(self, *words: str | int) -> bytes:
        """Ask the node something of ``CLUSTER``."""
        answer: bytes = self.client.execute_command("CLUSTER", *words)  # type: ignore[no-untyped-call]
        return answer

    @property
    def node_id(self) -> str:
        """The name the cluster knows it by."""
        return self.cluster("MYID").decode()

    def owns(self, slot: int) -> bool:
        """Tell whether a slot is its own, as it sees it."""
        own = (self.server.port, self.node_id.encode())
        return any(
            first <= slot <= last and (primary[1], primary[2]) == own
            for first, last, primary in self.slots()
        )

    def view(self) -> tuple[bytes, frozenset[tuple[int, int, int]]]:
        """Give the newest epoch it knows of, and whose each range of slots is, by port."""
        (epoch,) = re.findall(rb"cluster_current_epoch:(\d+)", self.cluster("INFO"))
        return epoch, frozenset((first, last, primary[1]) for first, last, primary in self.slots())

    def slots(self) -> list[tuple[int, int, list[Any]]]:
        """List ranges of slots, first and last, and the node that has each."""
        ranges: list[Any] = self.client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
        return [(first, last, primary) for first, last, primary, *_ in ranges]

    def keys_in(self, slot: int, at_most: int) -> list[bytes]:
        """List some of the keys of a slot that lie here."""
        return list(self.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, at_most))  # type: ignore[no-untyped-call]

    def sees_whole_cluster(self) -> bool:
        """Tell whether it knows of all nodes, and that every slot has one."""
        lines = self.cluster("INFO").split()
        return b"cluster_state:ok" in lines and b"cluster_known_nodes:3" in lines


class LocalCluster:
    """Three nodes that make one cluster.

    Parameters
    ----------
    nodes
        Not yet running.
    leash
        What starts them, and ends them in any case.
    """

    def __init__(self, nodes: list[ClusterNode], leash: Leash) -> None:
        self.nodes = nodes
        self._leash = leash
        self._pids: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The address that clients are given: one node's; it names the others."""
        return self.nodes[0].server.url

    @property
    def pids(self) -> list[int]:
        """The processes of all nodes that were started."""
        return list(self._pids.values())

    def start(self, node: ClusterNode) -> None:
        """Start a node and wait until it answers."""
        node.server.folder.mkdir(exist_ok=True)
        pid = self._leash.start(node.name, node.command, node.server.folder, node.server.log_path)
        assert wait_until(lambda: node.server.is_answering(pid), START_TIMEOUT_S), node.name
        self._pids[node.name] = pid

    def kill(self, node: ClusterNode) -> None:
        """End a node at once; its data are gone, its place in the cluster is not."""
        self._leash.signal(node.name, signal.SIGKILL)

    def signal(self, node: ClusterNode, number: signal.Signals) -> None:
        """Send a node a signal, as SIGSTOP and SIGCONT."""
        self._leash.signal(node.name, number)

    def owner(self, slot: int) -> ClusterNode:
        """Find the node that holds a slot."""
        return next(node for node in self.nodes if node.owns(slot))

    def others(self, *but: ClusterNode) -> list[ClusterNode]:
        """List the nodes except some."""
        return [node for node in self.nodes if node not in but]

    def begin_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Open a slot at both ends; its keys still lie at the source."""
        target.cluster("SETSLOT", slot, "IMPORTING", source.node_id)
        source.cluster("SETSLOT", slot, "MIGRATING", target.node_id)

    def carry_keys(self, slot: int, source: ClusterNode, target: ClusterNode, at_most: int) -> int:
        """Carry some of a slot's keys over; give the number carried."""
        keys = source.keys_in(slot, at_most)
        if keys:
            words = (HOST, target.server.port, "", 0, MIGRATE_TIMEOUT_MS, "KEYS", *keys)
            source.client.execute_command("MIGRATE", *words)  # type: ignore[no-untyped-call]
        return len(keys)

    def end_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Give the slot to the target, which must have all of its keys."""
        for node in (target, source, *self.others(source, target)):
            node.cluster("SETSLOT", slot, "NODE", target.node_id)
        self.await_agreement()

    def move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move a slot key by key, as every release can."""
        self.begin_move(slot, source, target)
        while self.carry_keys(slot, source, target, at_most=20):
            pass
        self.end_move(slot, source, target)

    def move_at_once(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move a slot as a whole, as Valkey 9 can: the source serves it until the target does."""
        source.cluster("MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.node_id)
        assert wait_until(lambda: target.owns(slot), START_TIMEOUT_S)
        self.await_agreement()

    def await_agreement(self) -> None:
        """Wait until all nodes tell the same of the slots.

        Another move that began before it could claim the same epoch, and slots would go astray.
        """
        assert wait_until(
            lambda: len({node.view() for node in self.nodes}) == 1, START_TIMEOUT_S
        ), [node.view() for node in self.nodes]

    def form(self) -> None:
        """Give each running node its slots, and make them known to each other."""
        slots = zip(self.nodes, pairwise(BOUNDS), strict=True)
        for number, (node, (first, end)) in enumerate(slots):
            node.cluster("SET-CONFIG-EPOCH", number + 1)
            node.cluster("ADDSLOTSRANGE", first, end - 1)
        first_node = self.nodes[0]
        for node in self.nodes[1:]:
            first_node.cluster("MEET", HOST, node.server.port, node.bus_port)
        self.await_whole()

    def await_whole(self) -> None:
        """Wait until every node sees a whole cluster."""
        assert wait_until(
            lambda: all(node.sees_whole_cluster() for node in self.nodes), START_TIMEOUT_S
        )


@contextmanager
def running_cluster(folder: Path) -> Iterator[LocalCluster]:
    """Run a cluster for the length of a ``with`` block.

    Parameters
    ----------
    folder
        Where nodes keep their files and logs.
    """
    state = StateFolder(folder.resolve())
    with ExitStack() as exits:
        lock_fd = state.lock()
        leash = Leash(state, lock_fd, is_temporary=False)
        os.close(lock_fd)  # the guard and the nodes hold their own copies
        exits.callback(leash.stop, 0.0)
        nodes = [_node(state.path, f"node-{number}", exits) for number in range(3)]
        cluster = LocalCluster(nodes, leash)
        for node in nodes:
            cluster.start(node)
        cluster.form()
        yield cluster


def _node(folder: Path, name: str, exits: ExitStack) -> ClusterNode:
    server = ValkeyNode(folder / name, folder / f"{name}.log", find_free_port())
    client = exits.enter_context(closing(connect(server.url, PATIENT)))
    return ClusterNode(name, server, find_free_port(), client)
