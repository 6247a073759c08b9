"""Stretches, watermarks and epochs: a call is applied wholly or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from feeds import (
    DEFINITION,
    LABELS,
    OTHER_PAYMENTS,
    PAYMENTS,
    TERMINAL_TX,
    Feed,
    Passing,
    T,
    all_answers,
    answers_of,
    batch_ends,
    batch_of,
    entry,
    in_batches,
    payment,
    random_events,
    rows,
)
from places import Kept, MemoryPlace, Place, ValkeyPlace, place_fixture  # noqa: F401

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import (
    CALL_ENTRIES_MAX,
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    ProfileBackend,
)
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.errors import (
    ProfileLossError,
    ProfilesRebuildingError,
    StoreUnavailableError,
)
from fraudstream.profile import InputPartition, Located, Recording, Stretch


@dataclass
class Bucket:
    """One bucket, spoken to directly."""

    backend: ProfileBackend
    epoch: bytes = b""

    def send(
        self,
        start: int,
        end: int,
        *entries: Entry,
        partition: InputPartition = PAYMENTS,
        is_initial: bool = False,
        is_record_only: bool = False,
    ) -> BucketReply:
        request = BucketRequest(
            0,
            {partition: Stretch(start, end)},
            entries,
            is_initial=is_initial,
            is_record_only=is_record_only,
            epoch=self.epoch,
            candidate_epoch=uuid.uuid4().bytes[:8],
        )
        (reply,) = self.backend.apply([request])
        return reply

    @property
    def state(self) -> BucketState:
        (state,) = self.backend.states()
        return state


def test_a_stretch_above_the_watermark_writes_nothing_and_says_so(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    bucket.send(0, 10, entry("a", T, 9), is_initial=True)
    before = place.kept(bucket.backend), bucket.state
    reply = bucket.send(11, 12, entry("b", T, 11), entry("c", T, 11, (), series=TERMINAL_TX))
    assert not reply.is_applied
    assert not reply.rows
    assert (reply.partitions_known, reply.partitions_rebuilding) == (1, 0)
    assert (place.kept(bucket.backend), bucket.state) == before
    assert bucket.send(10, 12, entry("b", T, 11)).is_applied
    assert bucket.state.watermarks == {PAYMENTS: 12}


def test_a_partition_without_a_watermark_is_refused_unless_it_is_begun(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    assert not bucket.send(0, 1, entry("a", T, 0)).is_applied
    assert bucket.state == BucketState(b"", {})
    assert not place.kept(bucket.backend)
    assert bucket.send(7, 7, is_initial=True).is_applied
    assert bucket.state.watermarks == {PAYMENTS: 7}
    assert bucket.send(7, 9).is_applied
    # Beginning again leaves what is there.
    assert bucket.send(3, 3, is_initial=True).is_applied
    assert bucket.state.watermarks == {PAYMENTS: 9}
    # A second partition is as unknown as the first one was.
    assert not bucket.send(0, 1, partition=LABELS).is_applied
    assert bucket.send(0, 1, partition=LABELS, is_initial=True).is_applied
    assert bucket.state.watermarks == {PAYMENTS: 9, LABELS: 1}


def test_one_stretch_too_high_holds_back_the_others_of_its_call(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    for partition in (PAYMENTS, LABELS):
        bucket.send(0, 5, partition=partition, is_initial=True)
    stretches = {PAYMENTS: Stretch(5, 8), LABELS: Stretch(6, 8)}
    (reply,) = bucket.backend.apply([BucketRequest(0, stretches, [entry("a", T, 5)])])
    assert not reply.is_applied
    assert bucket.state.watermarks == {PAYMENTS: 5, LABELS: 5}
    assert not place.kept(bucket.backend)


def test_an_older_stretch_again_is_applied_and_does_not_lower_the_watermark(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    bucket.send(0, 10, entry("a", T, 3), is_initial=True)
    reply = bucket.send(2, 4, entry("a", T, 3), entry("b", T, 2))
    assert [row[0] for row in rows(reply)] == [Recording.RETRY, Recording.RECORDED]
    assert bucket.state.watermarks == {PAYMENTS: 10}


def test_the_first_epoch_stays_and_another_one_is_refused(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    epoch = bucket.send(0, 0, is_initial=True).epoch
    assert len(epoch) == 8
    assert bucket.send(0, 1).epoch == bucket.state.epoch == epoch
    bucket.epoch = epoch
    assert bucket.send(1, 2).is_applied
    bucket.epoch = b"stranger"
    reply = bucket.send(2, 3, entry("a", T, 2))
    assert (reply.is_applied, reply.epoch) == (False, epoch)
    assert bucket.state == BucketState(epoch, {PAYMENTS: 2})
    assert not place.kept(bucket.backend)


def test_an_expected_epoch_is_not_given_to_an_empty_bucket(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION), epoch=b"expected")
    assert not bucket.send(0, 0, is_initial=True).is_applied
    assert bucket.state == BucketState(b"", {})


def test_recording_only_records_as_ever_and_reads_nothing(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    bucket.send(0, 0, is_initial=True)
    both = [entry("a", T, 0), entry("a", T, 1)]
    reply = bucket.send(0, 2, *both, is_record_only=True)
    assert rows(reply) == [[Recording.RECORDED, 0], [Recording.DUPLICATE, 0]]
    assert len(place.kept(bucket.backend)["card_tx", "c1"].records) == 1


def test_recording_only_trims_too(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    entries = [entry(f"x{number}", T + 100 * number, number) for number in range(100)]
    (reply,) = bucket.backend.apply([BucketRequest(0, {}, entries, is_record_only=True)])
    assert {row[0] for row in rows(reply)} == {Recording.RECORDED}
    assert len(place.kept(bucket.backend)["card_tx", "c1"].records) < 50


def test_a_look_at_an_entity_leaves_nothing_behind(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("a", T))
    assert set(place.kept(feed.backend)) == {("card_tx", "c1"), ("terminal_tx", "t1")}


def test_a_rebuilding_mark_is_counted_until_its_partition_is_there(place: Place) -> None:
    bucket = Bucket(place.open(DEFINITION))
    for partition in (PAYMENTS, OTHER_PAYMENTS):
        bucket.send(0, 0, partition=partition, is_initial=True)
    bucket.backend.mark_rebuild(PAYMENTS, 10)
    bucket.backend.mark_rebuild(OTHER_PAYMENTS, 5)
    assert bucket.send(0, 9).partitions_rebuilding == 2
    assert bucket.send(0, 5, partition=OTHER_PAYMENTS).partitions_rebuilding == 1
    reply = bucket.send(9, 10)
    assert (reply.partitions_known, reply.partitions_rebuilding) == (2, 0)


# ------------------------------------------------------------------ calls of bounded size


@dataclass
class LossyWire(Passing):
    """Loses some of the requests on the way."""

    lost: set[int] = field(default_factory=set)
    sent: list[BucketRequest] = field(default_factory=list)
    replies: list[BucketReply] = field(default_factory=list)

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        self.sent = list(requests)
        arriving = [r for number, r in enumerate(requests) if number not in self.lost]
        self.replies = self.inner.apply(arriving)
        if len(arriving) < len(requests):
            raise StoreUnavailableError("a call got no answer")
        return self.replies


def test_a_call_is_cut_and_its_second_half_is_refused_when_the_first_failed(place: Place) -> None:
    backend = place.open(DEFINITION)
    wire = LossyWire(backend)
    feed, calm = Feed(wire), Feed(MemoryBackend(DEFINITION))
    events = [payment(f"x{number}", T + 10 * number, number) for number in range(100)]
    batch = [feed.read(event) for event in events]
    wire.lost = {0}
    with pytest.raises(StoreUnavailableError, match="no answer"):
        feed.apply(*batch)
    assert len(wire.sent) == 3
    assert max(len(request.entries) for request in wire.sent) <= CALL_ENTRIES_MAX
    assert [reply.is_applied for reply in wire.replies] == [False, False]
    assert not place.kept(backend)
    assert backend.states()[0].watermarks[PAYMENTS] == 0

    wire.lost = {1}  # the first arrives and so stays
    with pytest.raises(StoreUnavailableError):
        feed.apply(*batch)
    assert [reply.is_applied for reply in wire.replies] == [True, False]

    wire.lost = set()
    answers = answers_of(feed.apply(*batch))
    undisturbed = answers_of(calm.apply(*[calm.read(event) for event in events]))
    assert [a[1:] for a in answers] == [a[1:] for a in undisturbed]
    assert {a.outcome for a in answers[:20]} == {Recording.RETRY}
    assert {a.outcome for a in answers[-20:]} == {Recording.RECORDED}
    assert place.kept(backend) == MemoryPlace().kept(calm.backend)


# ------------------------------------------------------------------ histories


@pytest.mark.parametrize("seed", range(3))
def test_several_buckets_give_the_same_answers_as_one(place: Place, seed: int) -> None:
    one = Feed(MemoryBackend(DEFINITION))
    several = Feed(place.open(DEFINITION, buckets=8), buckets=8)
    events = random_events(seed, 400)
    outcomes: set[int] = set()
    for batch in in_batches([one.read(event) for event in events], 37):
        expected, found = one.apply(*batch), several.apply(*batch)
        assert all_answers(found) == all_answers(expected)
        assert found.labels_too_late == expected.labels_too_late
        assert found.labels_superseded == expected.labels_superseded
        outcomes.update(a.outcome for a in all_answers(found)["card_tx"])
    assert outcomes == {Recording.RECORDED, Recording.DUPLICATE, Recording.TOO_LATE}
    assert place.kept(several.backend) == MemoryPlace().kept(one.backend)
    several.store.advance(
        {PAYMENTS: one.store.applied[PAYMENTS], LABELS: one.store.applied[LABELS]}
    )
    assert several.store.watermarks() == one.store.watermarks()


@pytest.mark.parametrize("buckets", [1, 8])
def test_after_losing_everything_a_repair_from_the_log_makes_it_as_if_nothing_had_happened(
    place: Place, buckets: int
) -> None:
    calm = Feed(MemoryBackend(DEFINITION))
    struck = Feed(place.open(DEFINITION, buckets=buckets), buckets=buckets)
    events = random_events(7, 300)
    located = [struck.read(event) for event in events]
    before, after = located[:200], located[200:]
    for batch in in_batches(before, 20):
        calm.apply(*batch)
        struck.apply(*batch)

    place.wipe(struck.backend)
    with pytest.raises(ProfileLossError):
        struck.apply(*after[:20])
    assert not place.kept(struck.backend)

    struck.ends = dict(batch_ends(before))
    assert struck.attach() == {PAYMENTS, LABELS}
    with pytest.raises(ProfileLossError):  # the gap is known, and nothing is put behind it
        struck.apply(*after[:20])
    for partition in (PAYMENTS, LABELS):
        for batch in in_batches((e for e in before if e.partition == partition), 33):
            struck.store.repair(batch_of(batch))
    struck.store.advance(struck.ends)
    assert struck.store.watermarks() == struck.ends
    assert struck.attach() == set()

    for batch in in_batches(after, 20):
        assert all_answers(struck.apply(*batch)) == all_answers(calm.apply(*batch))
    assert _untrimmed(place.kept(struck.backend)) == _untrimmed(MemoryPlace().kept(calm.backend))


def _untrimmed(kept: Mapping[tuple[str, str], Kept]) -> dict[tuple[str, str], Kept]:
    """Leave out how far was trimmed: it depends on the batches, which a repair cuts otherwise."""
    return {key: series._replace(trimmed_to_ms=0) for key, series in kept.items()}


def test_until_a_lost_partition_is_back_another_workers_answers_are_not_whole(
    place: Place,
) -> None:
    backend = place.open(DEFINITION)
    ours, theirs = (
        BucketedProfileStore(DEFINITION, backend, partitions_expected=2) for _ in range(2)
    )
    ours.attach({PAYMENTS: AttachPoint(0, 0)})
    theirs.attach({OTHER_PAYMENTS: AttachPoint(0, 0)})
    log = [Located(payment(f"x{i}", T + i), PAYMENTS, i) for i in range(10)]
    ours.apply(batch_of(log))
    place.wipe(backend)
    assert ours.attach({PAYMENTS: AttachPoint(10, 0)}) == {PAYMENTS}
    assert theirs.attach({OTHER_PAYMENTS: AttachPoint(0, 0)}) == set()

    def pay_theirs(number: int) -> None:
        located = Located(payment(f"y{number}", T + number), OTHER_PAYMENTS, number)
        theirs.apply(batch_of([located]))

    with pytest.raises(ProfilesRebuildingError):
        pay_theirs(0)
    ours.repair(batch_of(log[:9]))
    with pytest.raises(ProfilesRebuildingError):
        pay_theirs(1)
    ours.repair(batch_of(log[9:]))
    pay_theirs(2)
    # Whatever was refused an answer was recorded all the same.
    assert len(place.kept(backend)["card_tx", "c1"].records) == 13
