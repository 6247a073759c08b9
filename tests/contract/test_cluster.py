"""Profiles on a cluster: on several nodes at once, while slots move, and when a node is gone."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_place import BUCKETS, SLOT, TAG, TAGS, ClusterPlace
from feeds import (
    CARD_TX,
    LABELS,
    LONG,
    PAYMENTS,
    RICH,
    Feed,
    T,
    all_answers,
    batch_ends,
    batch_of,
    in_batches,
    random_events,
    run_of,
)
from places import PATIENT, KeptRecord, MemoryPlace, Place
from redis.crc import key_slot

from fraudstream.adapters.profile_backend import ProfileBackend, pack_position
from fraudstream.adapters.valkey import ValkeyBackend
from fraudstream.errors import ProfileLossError, StoreUnavailableError
from fraudstream.local.cluster import ClusterNode, LocalCluster
from fraudstream.local.ready import wait_until
from fraudstream.profile import Located, id_hash

pytestmark = pytest.mark.services

RUN_BOOK = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
#: Moves a slot from one node to another.
Move = Callable[[LocalCluster, int, ClusterNode, ClusterNode], None]
MOVES_MIN = 6


class Mover(threading.Thread):
    """Moves slots of profiles to and fro until it is told that it is enough."""

    def __init__(self, cluster: LocalCluster, move: Move) -> None:
        super().__init__()
        self._cluster = cluster
        self._move = move
        self.is_enough = threading.Event()
        self.moves = 0

    def run(self) -> None:
        slots = [key_slot(tag.encode()) for tag in TAGS]
        while not self.is_enough.is_set():
            slot = slots[self.moves % 4]
            source = self._cluster.owner(slot)
            target = self._cluster.others(source)[self.moves % 2]
            self._move(self._cluster, slot, source, target)
            self.moves += 1


@contextmanager
def moving(cluster: LocalCluster, move: Move) -> Iterator[Mover]:
    mover = Mover(cluster, move)
    mover.start()
    try:
        yield mover
    finally:
        mover.is_enough.set()
        mover.join()


def spread(place: Place) -> Feed:
    """Open a feed that uses every node."""
    return Feed(place.open(RICH, buckets=BUCKETS), RICH, buckets=BUCKETS)


def batches(feed: Feed, seed: int, count: int, size: int = 50) -> Iterator[list[Located]]:
    return in_batches([feed.read(event) for event in random_events(seed, count)], size)


def apply_at_last(feed: Feed, batch: Sequence[Located]) -> None:
    """Apply a batch again until there is an answer, as a worker does that may not degrade."""

    def is_applied() -> bool:
        try:
            feed.apply(*batch)
        except ProfileLossError:
            raise
        except StoreUnavailableError:
            return False
        return True

    assert wait_until(is_applied, timeout_s=30)


def test_profiles_on_a_cluster_are_as_the_twins_and_on_every_node(
    cluster: LocalCluster, cluster_place: ClusterPlace
) -> None:
    ours, theirs = spread(cluster_place), spread(MemoryPlace())
    for batch in batches(ours, 3, 1_500):
        assert all_answers(ours.apply(*batch)) == all_answers(theirs.apply(*batch))
    assert cluster_place.kept(ours.backend) == MemoryPlace().kept(theirs.backend)
    assert all(node.client.dbsize() for node in cluster.nodes)


@pytest.mark.parametrize("move", [LocalCluster.move, LocalCluster.move_at_once])
def test_profiles_are_as_the_twins_although_slots_moved_in_mid_run(
    cluster: LocalCluster, cluster_place: ClusterPlace, move: Move
) -> None:
    ours, theirs = spread(cluster_place), spread(MemoryPlace())
    applied = 0
    with moving(cluster, move) as mover:
        for batch in batches(ours, 5, 20_000):
            apply_at_last(ours, batch)
            theirs.apply(*batch)
            applied += 1
            if mover.moves >= MOVES_MIN and applied >= 40:
                break
    assert mover.moves >= MOVES_MIN
    assert cluster_place.kept(ours.backend) == MemoryPlace().kept(theirs.backend)
    assert ours.store.applied == theirs.store.applied


def test_a_long_series_of_a_slot_that_is_moving_is_never_half_written(
    cluster: LocalCluster, cluster_place: ClusterPlace
) -> None:
    """A function cannot make a new chunk there: it must not have shortened another one before."""
    backend, twin = cluster_place.open(LONG), MemoryPlace().open(LONG)
    in_order = run_of(LONG, CARD_TX, "c1", [record_at(number) for number in range(3_000)])
    between = run_of(LONG, CARD_TX, "c1", [record_at(number + 0.5) for number in range(3_000)])
    backend.merge([in_order])
    slot = key_slot(b"{0}")
    source = cluster.owner(slot)
    target = cluster.others(source)[0]
    cluster.begin_move(slot, source, target)
    try:
        with pytest.raises(StoreUnavailableError):
            backend.merge([between])
    finally:
        cluster.move(slot, source, target)
    assert wait_until(lambda: is_available(backend), timeout_s=5)
    records = cluster_place.kept(backend)["card_tx", "c1"].records
    assert 3_000 <= len(records) < 6_000
    assert records == sorted(set(records))
    backend.merge([between])
    for run in (in_order, between):
        twin.merge([run])
    assert cluster_place.kept(backend) == MemoryPlace().kept(twin)


def record_at(number: float) -> KeptRecord:
    hashed, position = id_hash(f"x{number}"), pack_position(PAYMENTS, int(2 * number))
    return KeptRecord(T + int(1_000 * number), hashed, position, 0, (7,), ())


def is_available(backend: ProfileBackend) -> bool:
    try:
        backend.require_available()
    except StoreUnavailableError:
        return False
    return True


def test_a_node_without_our_functions_is_given_them(
    cluster: LocalCluster, cluster_place: ClusterPlace
) -> None:
    """As one that has joined since, and was given slots of ours."""
    ours, theirs = spread(cluster_place), spread(MemoryPlace())
    first, second, *_ = batches(ours, 3, 150)
    ours.apply(*first)
    cluster.nodes[1].client.function_flush("SYNC")
    ours.apply(*second)
    for batch in (first, second):
        theirs.apply(*batch)
    assert cluster_place.kept(ours.backend) == MemoryPlace().kept(theirs.backend)


def test_while_a_node_is_gone_profiles_are_away_and_what_it_lost_is_noticed(
    cluster: LocalCluster, cluster_place: ClusterPlace
) -> None:
    ours, theirs = spread(cluster_place), spread(MemoryPlace())
    log = list(batches(ours, 3, 400))
    ours.apply(*log[0])
    node = cluster.nodes[2]
    cluster.kill(node)
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                ours.apply(*log[1])
    finally:
        cluster.start(node)
        cluster.await_whole()
    with pytest.raises(ProfileLossError):
        apply_at_last(ours, log[1])

    ours.ends = dict(batch_ends(log[0]))
    assert ours.attach() == {PAYMENTS, LABELS}
    for partition in (PAYMENTS, LABELS):
        ours.store.repair(batch_of([e for e in log[0] if e.partition == partition]))
    ours.store.advance(ours.ends)
    for batch in log[1:]:
        ours.apply(*batch)
    for batch in log:
        theirs.apply(*batch)
    assert records_of(cluster_place, ours) == records_of(MemoryPlace(), theirs)


def records_of(place: Place, feed: Feed) -> dict[tuple[str, str], set[KeptRecord]]:
    return {name: set(kept.records) for name, kept in place.kept(feed.backend).items()}


def test_the_rights_that_the_run_book_gives_are_enough_on_a_cluster(
    cluster: LocalCluster, ends: tuple[ClusterNode, ClusterNode]
) -> None:
    text = RUN_BOOK.read_text("utf-8")
    (rights,) = re.findall(r"ACL SETUSER fraudstream on >PASSWORD (.*)", text)
    (more,) = re.findall(r"each node needs the user, with `(.*)` as well", text)
    words = f"on >secret {rights} {more}".replace("~fs:default:*", "~fs:test-rights:*").split()
    for node in cluster.nodes:
        node.client.execute_command("ACL", "SETUSER", "worker", *words)  # type: ignore[no-untyped-call]
        node.client.function_flush("SYNC")
    url = cluster.url.replace("redis://", "redis://worker:secret@")
    backend = ValkeyBackend(
        url, RICH, namespace="test-rights", buckets=BUCKETS, limits=PATIENT, cluster=True
    )
    feed = Feed(backend, RICH, buckets=BUCKETS)
    first, second, *_ = batches(feed, 3, 200, size=100)
    feed.apply(*first)
    cluster.move(SLOT, *ends)
    feed.apply(*second)
    backend.forget(CARD_TX, "c1", T)
    assert backend.content(CARD_TX, "c1") is not None
    source, target = ends
    cluster.begin_move(SLOT, target, source)
    cluster.carry_keys(SLOT, target, source, at_most=100)
    assert backend.states()[TAGS.index(TAG)].watermarks  # by ASK
    cluster.end_move(SLOT, target, source)
    backend.close()
    for node in cluster.nodes:
        node.client.execute_command("ACL", "DELUSER", "worker")  # type: ignore[no-untyped-call]
        node.client.flushall()
