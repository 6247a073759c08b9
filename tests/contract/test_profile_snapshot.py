"""The twin's snapshot: everything comes back, or nothing does."""

from __future__ import annotations

import struct

import pytest
from feeds import (
    DEFINITION,
    LABELS,
    LENGTH_MS,
    PAYMENTS,
    RICH,
    Feed,
    T,
    all_answers,
    in_batches,
    payment,
    random_events,
)
from places import MemoryPlace

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import BucketRequest
from fraudstream.errors import StoreUnfitError
from fraudstream.profile import ProfileDefinition, Stretch


def lived_in(seed: int = 1, buckets: int = 4) -> tuple[Feed, MemoryBackend]:
    """Make a store in which everything has happened that leaves a trace."""
    backend = MemoryBackend(RICH, buckets, known_from_ms=T - 10**9)
    feed = Feed(backend, RICH, buckets)
    for batch in in_batches([feed.read(event) for event in random_events(seed, 300)], 23):
        feed.apply(*batch)
    feed.pay(payment("with a device", T + 90_000, device_id="d1", mcc="5411"))
    feed.store.forget("card_tx", "nobody", T)
    feed.store.raise_floor(T - LENGTH_MS)
    feed.store.advance(feed.ends)
    return feed, backend


def test_everything_comes_back() -> None:
    _, backend = lived_in()
    backend.mark_rebuild(PAYMENTS, 10**6)
    restored = MemoryBackend.restore(RICH, backend.snapshot())
    assert MemoryPlace().kept(restored) == MemoryPlace().kept(backend)
    assert restored.states() == backend.states()
    assert restored.snapshot() == backend.snapshot()
    request = BucketRequest(0, {}, [])
    (reply,), (expected,) = restored.apply([request]), backend.apply([request])
    assert reply == expected
    assert (reply.partitions_known, reply.partitions_rebuilding) == (2, 1)


def test_who_goes_on_from_a_snapshot_answers_as_if_nothing_had_been() -> None:
    ours, backend = lived_in()
    restored = MemoryBackend.restore(RICH, backend.snapshot())
    theirs = Feed(restored, RICH, 4, list(ours.log), dict(ours.ends))
    for batch in in_batches([ours.read(event) for event in random_events(2, 300)], 23):
        assert all_answers(theirs.apply(*batch)) == all_answers(ours.apply(*batch))
    assert restored.snapshot() == backend.snapshot()


def test_a_snapshot_is_not_touched_by_what_comes_after_it() -> None:
    feed, backend = lived_in()
    before = backend.snapshot()
    restored = MemoryBackend.restore(RICH, before)
    feed.pay(payment("after", T + 100_000))
    assert restored.snapshot() == before != backend.snapshot()


def test_the_same_profiles_give_the_same_bytes_in_whatever_order_they_came() -> None:
    one, other = (MemoryBackend(DEFINITION) for _ in range(2))
    stretches = {PAYMENTS: Stretch(0, 5), LABELS: Stretch(0, 3)}
    cards = [f"c{number}" for number in range(20)]
    for backend, order in ((one, cards), (other, cards[::-1])):
        ordered = list(stretches.items()) if backend is one else list(stretches.items())[::-1]
        backend.apply(
            [BucketRequest(0, dict(ordered), [], is_initial=True, candidate_epoch=b"an-epoch")]
        )
        for card in order:
            backend.forget(0, card, T)
    assert one.snapshot() == other.snapshot()


def test_an_empty_store_is_restored_empty() -> None:
    restored = MemoryBackend.restore(RICH, MemoryBackend(RICH, 3).snapshot())
    assert not restored.all_series()
    assert [state.epoch for state in restored.states()] == [b"", b"", b""]


def test_a_snapshot_is_no_larger_than_what_it_must_hold() -> None:
    backend = MemoryBackend(DEFINITION)
    feed = Feed(backend)
    feed.pay(*[payment(f"x{n}", T + n) for n in range(100)])
    # Of each record a time, a hash, a position, and of cards two measures.
    assert len(backend.snapshot()) < 100 * (40 + 24) + 300


def damage(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def test_no_damaged_byte_goes_unnoticed() -> None:
    _, backend = lived_in()
    data = backend.snapshot()
    places = [*range(60), *range(60, len(data), 997), len(data) - 1]
    for at in places:
        with pytest.raises(StoreUnfitError):
            MemoryBackend.restore(RICH, damage(data, at))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 30, 42, 43, 50, -1, -8])
def test_a_snapshot_that_is_cut_off_is_refused(kept: int) -> None:
    data = lived_in()[1].snapshot()
    with pytest.raises(StoreUnfitError, match=r"cut off|no snapshot"):
        MemoryBackend.restore(RICH, data[:kept])


def test_a_snapshot_with_more_behind_it_is_refused() -> None:
    with pytest.raises(StoreUnfitError, match="damaged"):
        MemoryBackend.restore(RICH, MemoryBackend(RICH).snapshot() + b"\0")


@pytest.mark.parametrize(
    "foreign", [b"", b"{}", b'{"profiles": "of somebody else"}' * 9, b"\0" * 99]
)
def test_what_is_no_snapshot_is_refused(foreign: bytes) -> None:
    with pytest.raises(StoreUnfitError, match="no snapshot"):
        MemoryBackend.restore(RICH, foreign)


def test_a_snapshot_of_other_definitions_is_refused() -> None:
    with pytest.raises(StoreUnfitError, match="another feature set"):
        MemoryBackend.restore(DEFINITION, MemoryBackend(RICH).snapshot())
    in_dollars = ProfileDefinition(RICH.series, "USD")
    with pytest.raises(StoreUnfitError, match="another feature set"):
        MemoryBackend.restore(in_dollars, MemoryBackend(RICH).snapshot())


def test_a_snapshot_of_another_format_is_refused() -> None:
    data = MemoryBackend(RICH).snapshot()
    (version,) = struct.unpack_from("<H", data, 8)
    newer = data[:8] + struct.pack("<H", version + 1) + data[10:]
    with pytest.raises(StoreUnfitError, match=f"format {version + 1}, this release reads"):
        MemoryBackend.restore(RICH, newer)
