"""A place on a real cluster of three nodes, for the tests of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from places import PATIENT, ValkeyPlace
from redis.crc import key_slot

from fraudstream.adapters.profile_backend import ProfileBackend
from fraudstream.adapters.valkey import ValkeyBackend
from fraudstream.adapters.valkey_cluster import ClusterWire
from fraudstream.local.cluster import ClusterNode, LocalCluster, running_cluster

BUCKETS = 64
#: One key's worth of each bucket, as in the keys of profiles.
TAGS = [f"{{{number}}}" for number in range(BUCKETS)]
#: One of them that tests move, and its slot.
TAG = TAGS[7]
SLOT = key_slot(TAG.encode())


class ClusterPlace(ValkeyPlace):
    """Three nodes; every backend has a namespace of its own on them."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(cluster.url)
        self.cluster = cluster
        self._wire = ClusterWire(cluster.url, PATIENT)

    def wipe(self, backend: ProfileBackend) -> None:
        self._wire.run([("DEL", key) for key in self.keys(backend)])

    def keys(self, backend: ProfileBackend) -> list[bytes]:
        """List a backend's keys on all nodes."""
        pattern = f"fs:{self._how(backend)['namespace']}:*"
        found = (
            key
            for node in self.cluster.nodes
            for key in node.client.scan_iter(match=pattern, count=10_000)
        )
        return sorted(found)

    def close(self) -> None:
        super().close()
        self._wire.close()

    def _open(self, how: dict[str, object]) -> ValkeyBackend:
        return super()._open({**how, "cluster": True})


@pytest.fixture(scope="session", name="cluster")
def cluster_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Give all tests the same cluster."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(name="cluster_place")
def cluster_place_fixture(cluster: LocalCluster) -> Iterator[ClusterPlace]:
    """Give a test a place on it that is empty and is emptied."""
    found = ClusterPlace(cluster)
    yield found
    found.close()


@pytest.fixture(name="ends")
def ends_fixture(cluster: LocalCluster) -> Iterator[tuple[ClusterNode, ClusterNode]]:
    """Give the node that has `SLOT` and one that it can move to; it is back home at the end."""
    source = cluster.owner(SLOT)
    target = cluster.others(source)[0]
    yield source, target
    if not source.owns(SLOT):
        cluster.move(SLOT, target, source)
