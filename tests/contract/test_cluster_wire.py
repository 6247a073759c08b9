"""The line to a cluster alone: where commands go, in which order, and when nodes or slots move."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from cluster_place import BUCKETS, SLOT, TAG, TAGS
from places import PATIENT, ValkeyPlace, own_valkey_fixture  # noqa: F401 - for the tests
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, TryAgainError

from fraudstream.adapters.valkey_cluster import Address, ClusterWire, _url_of
from fraudstream.adapters.valkey_wire import ServerWire, ValkeyLimits
from fraudstream.errors import StoreUnfitError
from fraudstream.local.cluster import ClusterNode, LocalCluster
from fraudstream.local.ready import wait_until

pytestmark = pytest.mark.services

HASTY = ValkeyLimits(deadline_s=0.5, connect_timeout_s=5)
#: Sets its second key to its argument, and says so.
LIBRARY = """#!lua name=fs_test
redis.register_function('fs_test_set', function(keys, arguments)
    redis.call('SET', keys[2], arguments[1])
    return arguments[1]
end)"""


@pytest.fixture
def wire(cluster: LocalCluster) -> Iterator[ClusterWire]:
    """Give a wire to a cluster that holds nothing."""
    with closing(ClusterWire(cluster.url, PATIENT)) as found:
        yield found
    for node in cluster.nodes:
        node.client.flushall()


def keys_of(client: redis.Redis) -> list[bytes]:
    return sorted(client.scan_iter())


def test_answers_of_several_nodes_come_back_in_the_order_of_the_commands(
    cluster: LocalCluster, wire: ClusterWire
) -> None:
    wire.run([("SET", f"{tag}:k", tag) for tag in TAGS])
    assert all(node.client.dbsize() for node in cluster.nodes)
    order = [TAGS[(number * 37) % BUCKETS] for number in range(200)]
    assert wire.run([("GET", f"{tag}:k") for tag in order]) == [tag.encode() for tag in order]


def test_an_error_is_the_answer_of_its_command_alone(wire: ClusterWire) -> None:
    first, error, last = wire.run([("SET", "{1}", "x"), ("INCR", "{1}"), ("GET", "{1}")])
    assert (first, last) == (True, b"x")
    assert "not an integer" in str(error)


def test_commands_of_a_slot_are_carried_out_in_their_order(wire: ClusterWire) -> None:
    wire.run([("APPEND", f"{tag}:k", letter) for letter in "abc" for tag in TAGS])
    assert set(wire.run([("GET", f"{tag}:k") for tag in TAGS])) == {b"abc"}


def test_all_nodes_work_at_the_same_time_and_late_answers_are_nobody_elses(
    cluster: LocalCluster,
) -> None:
    """Each node hangs once: the others have their commands all the same."""
    with closing(ClusterWire(cluster.url, HASTY)) as hasty:
        hasty.run([("SET", f"{tag}:k", "before") for tag in TAGS])
        for node in cluster.nodes:
            cluster.signal(node, signal.SIGSTOP)
            try:
                with pytest.raises(redis.TimeoutError):
                    hasty.run([("SET", f"{tag}:k", node.name) for tag in TAGS])
            finally:
                cluster.signal(node, signal.SIGCONT)
            for other in cluster.others(node):
                values = {other.client.get(key) for key in keys_of(other.client)}
                assert values == {node.name.encode()}
            assert wait_until(lambda: is_answered(hasty), timeout_s=20)
            cluster.await_whole()
            answers = hasty.run([("ECHO", tag) for tag in TAGS])
            assert answers == [tag.encode() for tag in TAGS]
    for node in cluster.nodes:
        node.client.flushall()


def is_answered(wire: ClusterWire) -> bool:
    """Say whether every node answers."""
    try:
        answers = wire.run([("EXISTS", tag) for tag in TAGS])
    except redis.RedisError:
        return False
    return not any(isinstance(answer, redis.RedisError) for answer in answers)


def test_commands_follow_a_slot_that_has_moved(
    cluster: LocalCluster, wire: ClusterWire, ends: tuple[ClusterNode, ClusterNode]
) -> None:
    source, target = ends
    wire.run([("SET", f"{TAG}:k", "a"), ("SET", "{1}:k", "a")])
    cluster.move(SLOT, source, target)
    answers = wire.run(
        [(name, f"{tag}:k", *rest) for name, *rest in (("APPEND", "b"), ("GET",)) for tag in TAGS]
    )
    assert answers[BUCKETS + 7] == b"ab"
    assert target.client.get(f"{TAG}:k") == b"ab"
    assert not any(isinstance(answer, redis.RedisError) for answer in answers)


def test_while_a_slot_is_moving_its_keys_are_found_at_either_end(
    cluster: LocalCluster, wire: ClusterWire, ends: tuple[ClusterNode, ClusterNode]
) -> None:
    source, target = ends
    keys = [f"{TAG}:{number}" for number in range(10)]
    wire.run([("SET", key, key) for key in keys])
    cluster.begin_move(SLOT, source, target)
    cluster.carry_keys(SLOT, source, target, at_most=4)
    assert wire.run([("GET", key) for key in keys]) == [key.encode() for key in keys]
    both = [source.keys_in(SLOT, 1)[0], target.keys_in(SLOT, 1)[0]]
    (answer,) = wire.run([("MGET", *both)])
    assert isinstance(answer, TryAgainError)
    cluster.carry_keys(SLOT, source, target, at_most=100)
    cluster.end_move(SLOT, source, target)
    assert wire.run([("MGET", *keys)]) == [[key.encode() for key in keys]]


def test_a_node_that_is_gone_is_no_answer_and_its_return_is_noticed(
    cluster: LocalCluster, wire: ClusterWire
) -> None:
    wire.run([("SET", f"{tag}:k", "x") for tag in TAGS])
    node = cluster.nodes[0]  # the one that the wire was told of
    cluster.kill(node)
    try:
        with pytest.raises(redis.ConnectionError):
            wire.run([("GET", f"{tag}:k") for tag in TAGS])
        assert wait_until(lambda: is_down(cluster, wire), timeout_s=20)
    finally:
        cluster.start(node)
        cluster.await_whole()
    answers = wire.run([("GET", f"{tag}:k") for tag in TAGS])
    held = [node.owns(key_slot(tag.encode())) for tag in TAGS]
    assert answers == [None if is_lost else b"x" for is_lost in held]
    assert True in held


def is_down(cluster: LocalCluster, wire: ClusterWire) -> bool:
    """Say whether the nodes that are left have seen that one is missing, and refuse commands."""
    held = next(tag for tag in TAGS if cluster.nodes[1].owns(key_slot(tag.encode())))
    (answer,) = wire.run([("GET", f"{held}:k")])
    return isinstance(answer, ClusterDownError)


def test_functions_are_loaded_on_every_node_and_called_where_their_keys_are(
    cluster: LocalCluster, wire: ClusterWire
) -> None:
    wire.prepare(LIBRARY)
    cluster.nodes[1].client.function_delete("fs_test")
    wire.prepare(LIBRARY)  # there already on two of them
    calls = [("FCALL", "fs_test_set", 2, f"{tag}:a", f"{tag}:b", tag) for tag in TAGS]
    assert wire.run(calls) == [tag.encode() for tag in TAGS]
    assert wire.run([("GET", f"{tag}:b") for tag in TAGS]) == [tag.encode() for tag in TAGS]
    for node in cluster.nodes:
        node.client.function_delete("fs_test")


def test_a_node_that_may_evict_keys_is_refused(cluster: LocalCluster, wire: ClusterWire) -> None:
    node = cluster.nodes[2]
    node.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnfitError, match="maxmemory-policy is allkeys-lru"):
            wire.prepare(LIBRARY)
    finally:
        node.client.config_set("maxmemory-policy", "noeviction")


def test_a_server_of_no_cluster_is_refused(own_valkey: ValkeyPlace) -> None:
    with (
        closing(ClusterWire(own_valkey.url, PATIENT)) as wire,
        pytest.raises(StoreUnfitError, match=r"set valkey\.cluster to false"),
    ):
        wire.prepare(LIBRARY)


def test_a_node_of_a_cluster_is_refused_where_a_single_server_is_expected(
    cluster: LocalCluster,
) -> None:
    with (
        closing(ServerWire(cluster.url, PATIENT)) as wire,
        pytest.raises(StoreUnfitError, match=r"set valkey\.cluster to true"),
    ):
        wire.prepare(LIBRARY)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://seed", "redis://[::1]:7000"),
        ("redis://user:p%40ss@seed:1/0", "redis://user:p%40ss@[::1]:7000/0"),
        ("rediss://:p@seed:1?ssl_ca_certs=ca.pem", "rediss://:p@[::1]:7000?ssl_ca_certs=ca.pem"),
    ],
)
def test_other_nodes_are_spoken_to_as_the_first_one_is(url: str, expected: str) -> None:
    assert _url_of(url, Address("::1", 7000)) == expected
