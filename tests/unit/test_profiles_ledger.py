"""The books of the profile store: which stretches are asked for, confirmed, refused, repaired.

Answers are the contract suite's business; here it is what the store asks of its backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import (
    CALL_ENTRIES_MAX,
    BucketReply,
    BucketRequest,
    BucketState,
    SeriesContent,
    SeriesRun,
    bucket_of,
    pack_position,
)
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.errors import (
    ProfileLossError,
    ProfilesRebuildingError,
    StoreUnavailableError,
)
from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Recording,
    Series,
    Stretch,
    Window,
    id_hash,
)

T = 1_532_513_472_000
LENGTHS = (Window(DAY_MS), Window(7 * DAY_MS), Window(30 * DAY_MS))
LAGGED = tuple(Window(window.length_ms, 7 * DAY_MS) for window in LENGTHS)
DEFINITION = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", ("amount_minor", "amount_known"), LENGTHS),
        Series("terminal_tx", "terminal_id", "transactions", (), LAGGED),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), LAGGED),
    )
)
P0, P1 = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0), InputPartition(TRANSACTIONS_TOPIC_NUMBER, 1)
L0 = InputPartition(LABELS_TOPIC_NUMBER, 0)
#: Enough to be in every one of four buckets.
CARDS = [f"c{number}" for number in range(40)]


@dataclass
class Wire:
    """Writes down what goes to a backend, and can fail after the backend has done its work."""

    inner: MemoryBackend
    requests: list[BucketRequest] = field(default_factory=list)
    is_answer_lost: bool = False

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        self.requests.extend(requests)
        replies = self.inner.apply(requests)
        if self.is_answer_lost:
            raise StoreUnavailableError("the answer came too late")
        return replies

    def require_available(self) -> None:
        raise StoreUnavailableError("left alone")

    def states(self) -> list[BucketState]:
        return self.inner.states()

    def generation(self) -> str:
        return self.inner.generation()

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        self.inner.mark_rebuild(partition, target)

    def raise_floor(self, known_from_ms: int) -> None:
        self.inner.raise_floor(known_from_ms)

    def lower_floor(self, known_from_ms: int) -> None:
        self.inner.lower_floor(known_from_ms)

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        self.inner.merge(runs)

    def forget(self, series: int, entity: str, until_ms: int) -> int:
        return self.inner.forget(series, entity, until_ms)

    def content(self, series: int, entity: str) -> SeriesContent | None:
        return self.inner.content(series, entity)


def wired(buckets: int = 1) -> Wire:
    return Wire(MemoryBackend(DEFINITION, buckets))


def attached(wire: Wire, buckets: int = 1, **at: int) -> BucketedProfileStore:
    """Make a store that has taken over P0, P1 and L0, from nothing unless said otherwise."""
    store = BucketedProfileStore(DEFINITION, wire, buckets=buckets)
    points = {p: AttachPoint(at.get(name, 0), 0) for name, p in NAMED.items()}
    store.attach(points)
    wire.requests.clear()
    return store


NAMED = {"p0": P0, "p1": P1, "l0": L0}


def paid(offset: int, partition: InputPartition = P0, card: str = "c1") -> Located:
    event = Transaction(f"x{offset}", T + offset, card, "t1", 100, "EUR", 100)
    return Located(event, partition, offset)


def found(offset: int) -> Located:
    event = Label(f"x{offset}", T + offset, "c1", "t1", True, T + DAY_MS, "analyst")
    return Located(event, L0, offset)


def batch(
    transactions: Sequence[Located] = (), labels: Sequence[Located] = (), **stretches: Stretch
) -> ProfileBatch:
    return ProfileBatch(labels, transactions, {NAMED[n]: s for n, s in stretches.items()})


# ------------------------------------------------------------------ stretches


def test_a_batch_begins_where_the_last_one_ended_although_its_records_begin_later() -> None:
    """Offsets of transaction markers and of deleted records lie in between, and hold nothing."""
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(3), paid(7)], p0=Stretch(0, 9)))
    store.apply(batch([paid(12)], p0=Stretch(9, 15)))
    assert [r.stretches for r in wire.requests] == [{P0: Stretch(0, 9)}, {P0: Stretch(9, 15)}]
    assert store.watermarks() == {P0: 15, P1: 0, L0: 0}
    assert store.applied == {P0: 15, P1: 0, L0: 0}


def test_a_batch_of_nothing_but_dead_letters_moves_the_watermark() -> None:
    wire = wired()
    store = attached(wire)
    answers = store.apply(batch(p0=Stretch(0, 5), l0=Stretch(0, 2)))
    assert store.watermarks() == {P0: 5, P1: 0, L0: 2}
    assert answers.series["card_tx"].counts.shape == (0, 3)


def test_a_batch_above_what_was_applied_is_refused_before_anything_is_sent() -> None:
    wire = wired()
    store = attached(wire)
    with pytest.raises(ProfileLossError, match="records before"):
        store.apply(batch([paid(5)], p0=Stretch(5, 6)))
    with pytest.raises(ProfileLossError):
        store.repair(batch([paid(5)], p0=Stretch(5, 6)))
    assert not wire.requests


def test_a_partition_that_was_not_taken_over_is_refused() -> None:
    store = BucketedProfileStore(DEFINITION, wired())
    with pytest.raises(ProfileLossError):
        store.apply(batch([paid(0)], p0=Stretch(0, 1)))


def test_a_batch_read_again_after_an_abort_may_end_before_what_was_applied() -> None:
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(n) for n in range(10)], p0=Stretch(0, 10)))
    answers = store.apply(batch([paid(n) for n in range(4)], p0=Stretch(0, 4)))
    assert set(answers.series["card_tx"].outcomes.tolist()) == {Recording.RETRY}
    assert store.watermarks()[P0] == store.applied[P0] == 10


def test_a_batch_whose_answer_was_lost_is_applied_again_without_being_counted_again() -> None:
    wire = wired()
    store = attached(wire)
    wire.is_answer_lost = True
    with pytest.raises(StoreUnavailableError):
        store.apply(batch([paid(0), paid(1)], p0=Stretch(0, 2)))
    wire.is_answer_lost = False
    assert store.applied[P0] == 0
    answers = store.apply(batch([paid(0), paid(1), paid(2)], p0=Stretch(0, 3)))
    outcomes = [Recording.RETRY, Recording.RETRY, Recording.RECORDED]
    assert answers.series["card_tx"].outcomes.tolist() == outcomes
    assert answers.series["card_tx"].counts[:, 0].tolist() == [1, 2, 3]


def test_a_batch_that_was_not_confirmed_leaves_a_gap_for_the_next_one() -> None:
    """Its decisions were made without profiles; its records must be repaired before going on."""
    wire = wired()
    store = attached(wire)
    wire.is_answer_lost = True
    with pytest.raises(StoreUnavailableError):
        store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    wire.is_answer_lost = False
    with pytest.raises(ProfileLossError):
        store.apply(batch([paid(1)], p0=Stretch(1, 2)))
    store.repair(batch([paid(0)], p0=Stretch(0, 1)))
    store.apply(batch([paid(1)], p0=Stretch(1, 2)))


def test_a_repair_records_and_asks_for_no_answers() -> None:
    wire = wired()
    store = attached(wire)
    store.repair(batch([paid(0)], [found(0)], p0=Stretch(0, 1), l0=Stretch(0, 1)))
    assert [request.is_record_only for request in wire.requests] == [True]
    assert store.watermarks() == {P0: 1, P1: 0, L0: 1}


# ------------------------------------------------------------------ calls


def test_calls_are_cut_at_their_bound_and_follow_each_other_without_a_gap() -> None:
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(n) for n in range(200)], p0=Stretch(0, 205)))
    sizes = [len(request.entries) for request in wire.requests]
    # 42 payments of three entries each; all entries of one payment stay together.
    assert sizes == [126, 126, 126, 126, 96]
    assert max(sizes) <= CALL_ENTRIES_MAX
    stretches = [request.stretches[P0] for request in wire.requests]
    assert stretches[0].start == 0
    assert [stretch.end for stretch in stretches] == [42, 84, 126, 168, 205]
    assert all(left.end == right.start for left, right in pairwise(stretches))


def test_labels_go_before_payments_and_each_has_its_own_stretch() -> None:
    wire = wired()
    store = attached(wire)
    labels = [found(n) for n in range(130)]
    payments = [paid(n) for n in range(2)]
    store.apply(batch(payments, labels, p0=Stretch(0, 3), l0=Stretch(0, 131)))
    first, second = wire.requests
    assert first.stretches == {L0: Stretch(0, 128)}
    assert second.stretches == {L0: Stretch(128, 131), P0: Stretch(0, 3)}
    assert [entry.series for entry in second.entries] == [2, 2, 0, 1, 2, 0, 1, 2]


def test_an_entry_says_all_that_is_recorded() -> None:
    wire = wired()
    store = attached(wire)
    foreign = Transaction("y", T, "c1", "t1", 500, "JPY", None)
    label = Label("z", T - 5, "c1", "t1", True, T + DAY_MS, "analyst")
    located = [Located(foreign, P0, 7), Located(label, L0, 3)]
    store.apply(batch(located[:1], located[1:], p0=Stretch(0, 8), l0=Stretch(0, 4)))
    label_entry, card, terminal, look = wire.requests[0].entries
    assert label_entry == (
        2, "t1", True, T - 5, id_hash("z"), pack_position(L0, 3), T + DAY_MS, (1,), ()
    )  # fmt: skip
    position = pack_position(P0, 7)
    assert card == (0, "c1", True, T, id_hash("y"), position, 0, (0, 0), ())
    assert terminal == (1, "t1", True, T, id_hash("y"), position, 0, (), ())
    assert look == (2, "t1", False, T, id_hash("y"), position, 0, (0,), ())


def test_an_entry_has_a_hash_of_each_attribute_and_each_measure_that_is_asked_for() -> None:
    measures = ("amount_square_1", "amount_minor", "amount_square_0", "amount_square_2")
    attributes = ("terminal_id", "mcc", "device_id")
    definition = ProfileDefinition(
        (Series("device", "device_id", "transactions", measures, (), DAY_MS, attributes),)
    )
    wire = Wire(MemoryBackend(definition))
    store = BucketedProfileStore(definition, wire)
    store.attach({P0: AttachPoint(0, 0)})
    wire.requests.clear()
    amount = 10**12 - 1
    extra = (("mcc", None), ("device_id", "d1"))
    event = Transaction("x", T, "c1", "t1", amount, "EUR", amount, extra=extra)
    store.apply(batch([Located(event, P0, 0)], p0=Stretch(0, 1)))
    (entry,) = wire.requests[0].entries
    assert entry.entity == "d1"
    assert entry.attributes == (id_hash("t1"), b"\0" * 8, id_hash("d1"))
    middle, minor, low, high = entry.values
    assert minor == amount
    assert low + (middle << 27) + (high << 54) == amount**2
    assert max(low, middle) < 2**27


def test_a_payment_that_names_no_entity_has_no_entry_and_still_moves_the_watermark() -> None:
    definition = ProfileDefinition((Series("device", "device_id", "transactions", (), ()),))
    wire = Wire(MemoryBackend(definition))
    store = BucketedProfileStore(definition, wire)
    store.attach({P0: AttachPoint(0, 0)})
    answers = store.apply(batch([paid(0), paid(1)], p0=Stretch(0, 2)))
    assert not wire.requests[-1].entries
    assert store.watermarks() == {P0: 2}
    assert answers.series["device"].absent.tolist() == [True, True]


def test_labels_can_only_be_kept_of_entities_that_they_name() -> None:
    of_devices = Series("device_label", "device_id", "labels", ("fraud",), LENGTHS)
    definition = ProfileDefinition((of_devices,))
    with pytest.raises(ValueError, match="labels do not name device_id"):
        BucketedProfileStore(definition, MemoryBackend(definition))
    of_cards = ProfileDefinition((Series("card_label", "card_id", "labels", ("fraud",), LENGTHS),))
    store = BucketedProfileStore(of_cards, MemoryBackend(of_cards))
    store.attach({L0: AttachPoint(0, 0)})
    store.apply(batch(labels=[found(0)], l0=Stretch(0, 1)))
    content = store.content("card_label", "c1")
    assert content is not None
    assert len(content.run) == 1


def test_a_position_is_topic_partition_and_offset_and_never_all_zero() -> None:
    # The numbers of the topics are in the stored records, and so for ever.
    assert (TRANSACTIONS_TOPIC_NUMBER, LABELS_TOPIC_NUMBER) == (1, 2)
    assert pack_position(InputPartition(1, 0), 0).hex() == "0100000000000001"
    assert pack_position(InputPartition(2, 65_535), 2**40 - 2).hex() == "02ffffffffffffff"
    places = [(p, o) for p in (P0, P1, L0) for o in (0, 1, 255, 256, 65_535, 2**32)]
    packed = [pack_position(partition, offset) for partition, offset in places]
    # As bytes they are in the order of topic, partition and offset, which lateness relies on.
    assert packed == sorted(packed)
    assert len(set(packed)) == len(packed)


# ------------------------------------------------------------------ buckets


def test_events_are_spread_over_all_buckets_and_an_event_over_those_of_its_entities() -> None:
    wire = wired(buckets=4)
    store = attached(wire, buckets=4)
    store.apply(batch([paid(n, card=CARDS[n]) for n in range(40)], p0=Stretch(0, 40)))
    assert {request.bucket for request in wire.requests} == {0, 1, 2, 3}
    by_series = [{e.entity: r.bucket for r in wire.requests for e in r.entries if e.series == s}
                 for s in range(3)]  # fmt: skip
    assert len(by_series[0]) == 40
    assert len(set(by_series[1].values())) == 1
    assert by_series[1] == by_series[2]


def test_the_last_call_of_each_bucket_ends_where_the_batch_ends() -> None:
    wire = wired(buckets=4)
    store = attached(wire, buckets=4)
    store.apply(batch([paid(n, card=CARDS[n]) for n in range(40)], p0=Stretch(0, 50)))
    last = {request.bucket: request.stretches[P0].end for request in wire.requests}
    assert last == dict.fromkeys(range(4), 50)
    assert store.watermarks()[P0] == 50


def test_a_bucket_without_traffic_stays_behind_until_it_is_advanced() -> None:
    wire = wired(buckets=4)
    store = attached(wire, buckets=4)
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    assert store.applied[P0] == 1
    assert store.watermarks()[P0] == 0  # of the bucket that has least
    wire.requests.clear()
    store.advance({P0: 1, P1: 0, L0: 0})
    assert store.watermarks() == {P0: 1, P1: 0, L0: 0}
    assert all(request.is_record_only and not request.entries for request in wire.requests)
    # It goes on from where the bucket was left, whatever that was.
    store.apply(batch([paid(n, card=CARDS[n]) for n in range(1, 40)], p0=Stretch(1, 40)))
    assert store.watermarks()[P0] == 40


def test_a_watermark_is_never_moved_past_an_unrepaired_stretch() -> None:
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    store.advance({P0: 9, P1: 0, L0: 0})  # read up to 9, but applied to 1
    assert store.watermarks()[P0] == 1


def test_a_loss_in_one_of_several_buckets_is_noticed_by_the_first_call_to_it() -> None:
    wire = wired(buckets=4)
    store = attached(wire, buckets=4)
    everyone = [paid(n, card=CARDS[n]) for n in range(40)]
    store.apply(batch(everyone, p0=Stretch(0, 40)))
    lost = wire.requests[0].bucket
    empty = MemoryBackend(DEFINITION, 4)
    wire.inner._buckets[lost] = empty._buckets[lost]
    with pytest.raises(ProfileLossError):
        store.advance({P0: 40, P1: 0, L0: 0})
    later = [paid(40 + n, card=CARDS[n]) for n in range(40)]
    with pytest.raises(ProfileLossError):
        store.apply(batch(later, p0=Stretch(40, 80)))

    assert store.attach({p: AttachPoint(40 if p == P0 else 0, 0) for p in (P0, P1, L0)}) == {P0}
    assert store.applied[P0] == 0
    store.repair(batch(everyone, p0=Stretch(0, 40)))
    answers = store.apply(batch(later, p0=Stretch(40, 80)))
    assert answers.series["card_tx"].counts[:, 0].tolist() == [2] * 40
    assert answers.series["terminal_tx"].outcomes.tolist() == [Recording.RECORDED] * 40


# ------------------------------------------------------------------ taking over


def test_a_new_deployment_begins_at_its_positions_and_has_lost_nothing() -> None:
    wire = wired(buckets=2)
    store = BucketedProfileStore(DEFINITION, wire, buckets=2)
    assert store.attach({P0: AttachPoint(5, 5), L0: AttachPoint(0, 0)}) == set()
    assert store.watermarks() == {P0: 5, L0: 0}
    assert store.applied == {P0: 5, L0: 0}
    assert len({state.epoch for state in wire.states()} - {b""}) == 2


def test_a_partition_that_was_read_before_and_is_not_remembered_is_lost() -> None:
    wire = wired()
    store = BucketedProfileStore(DEFINITION, wire)
    assert store.attach({P0: AttachPoint(100, 40), P1: AttachPoint(3, 3)}) == {P0}
    assert store.applied == {P0: 40, P1: 3}
    # Marked, so that no other worker takes it for whole before the watermark is at 100.
    (reply,) = wire.apply([BucketRequest(0, {P0: Stretch(40, 99)}, [])])
    assert reply.partitions_rebuilding == 1
    (reply,) = wire.apply([BucketRequest(0, {P0: Stretch(99, 100)}, [])])
    assert reply.partitions_rebuilding == 0


def test_another_worker_takes_over_where_the_store_is_and_not_where_the_group_is() -> None:
    wire = wired()
    ours = attached(wire)
    ours.apply(batch([paid(n) for n in range(10)], p0=Stretch(0, 10)))
    ours.detach([P0])
    assert P0 not in ours.applied
    with pytest.raises(ProfileLossError):
        ours.apply(batch([paid(10)], p0=Stretch(10, 11)))

    ahead = BucketedProfileStore(DEFINITION, wire)  # committed less than was applied
    assert ahead.attach({P0: AttachPoint(7, 0)}) == set()
    answers = ahead.apply(batch([paid(n) for n in range(7, 12)], p0=Stretch(7, 12)))
    assert (
        answers.series["card_tx"].outcomes.tolist()
        == [Recording.RETRY] * 3 + [Recording.RECORDED] * 2
    )

    behind = BucketedProfileStore(DEFINITION, wire)  # decided without profiles for a while
    assert behind.attach({P0: AttachPoint(20, 0)}) == set()
    assert behind.applied == {P0: 12}
    with pytest.raises(ProfileLossError):
        behind.apply(batch([paid(20)], p0=Stretch(20, 21)))
    behind.repair(batch([paid(n) for n in range(12, 20)], p0=Stretch(12, 20)))
    behind.apply(batch([paid(20)], p0=Stretch(20, 21)))


def test_who_takes_over_trusts_the_bucket_that_has_least() -> None:
    wire = wired(buckets=4)
    attached(wire, buckets=4).apply(batch([paid(0)], p0=Stretch(0, 1)))
    assert sorted(state.watermarks[P0] for state in wire.states())[::3] == [0, 1]
    store = BucketedProfileStore(DEFINITION, wire, buckets=4)
    assert store.attach({P0: AttachPoint(1, 0)}) == set()
    assert store.applied == {P0: 0}


def test_known_and_new_partitions_are_taken_over_together() -> None:
    wire = wired()
    ours = BucketedProfileStore(DEFINITION, wire)
    ours.attach({P0: AttachPoint(0, 0)})
    ours.attach({P0: AttachPoint(0, 0), L0: AttachPoint(2, 2), P1: AttachPoint(7, 3)})
    assert ours.applied == {P0: 0, L0: 2, P1: 3}
    assert ours.watermarks() == {P0: 0, L0: 2, P1: 3}


def test_partitions_that_nobody_has_read_are_begun_by_anybody_and_only_once() -> None:
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    other = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 2)
    store.initialise({P0: 0, other: 4})
    assert store.watermarks() == {P0: 1, P1: 0, L0: 0, other: 4}
    assert other not in store.applied


@pytest.mark.parametrize(
    ("lose", "is_noticed"),
    [
        pytest.param(lambda wire: wire.inner.flush(), True, id="everything is lost"),
        pytest.param(lambda wire: None, False, id="nothing is lost"),
    ],
)
def test_a_loss_is_noticed_while_there_is_no_traffic(
    lose: Callable[[Wire], None], is_noticed: bool
) -> None:
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    lose(wire)
    if is_noticed:
        with pytest.raises(ProfileLossError):
            store.advance(dict(store.applied))
    else:
        store.advance(dict(store.applied))
    assert store.watermarks() == ({} if is_noticed else {P0: 1, P1: 0, L0: 0})


def test_a_store_that_was_lost_and_begun_anew_by_others_is_known_by_its_epoch() -> None:
    """Every watermark is where it was, so they alone would tell nothing."""
    wire = wired()
    store = attached(wire)
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))
    wire.inner.flush()
    stretches = {P0: Stretch(1, 1), P1: Stretch(0, 0), L0: Stretch(0, 0)}
    begun = BucketRequest(0, stretches, [], is_initial=True, candidate_epoch=b"anewlife")
    assert wire.apply([begun])[0].is_applied
    with pytest.raises(ProfileLossError):
        store.apply(batch([paid(1)], p0=Stretch(1, 2)))


def applied_everywhere(buckets: int = 4) -> tuple[Wire, BucketedProfileStore]:
    """Make a store that has confirmed 40 payments in each of its buckets."""
    wire = wired(buckets)
    store = attached(wire, buckets)
    store.apply(batch([paid(n, card=CARDS[n]) for n in range(40)], p0=Stretch(0, 40)))
    wire.requests.clear()
    return wire, store


def test_a_check_of_a_store_that_has_everything_writes_nothing_and_finds_nothing() -> None:
    wire, store = applied_everywhere()
    store.check()
    wire.inner.apply([BucketRequest(0, {P0: Stretch(40, 50)}, [])])  # another worker is ahead
    store.check()
    assert not wire.requests
    BucketedProfileStore(DEFINITION, wired()).check()  # nothing was taken over, nothing is missed


def lose_a_watermark(wire: Wire) -> None:
    del wire.inner._buckets[2].watermarks[P0]


def lower_a_watermark(wire: Wire) -> None:
    wire.inner._buckets[3].watermarks[P0] -= 1


def begin_anew(wire: Wire) -> None:
    wire.inner._buckets[1].epoch = b"anewlife"


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda wire: wire.inner.flush(), id="everything is lost"),
        pytest.param(lose_a_watermark, id="one watermark is gone"),
        pytest.param(lower_a_watermark, id="an older copy was put back"),
        pytest.param(begin_anew, id="somebody else began a bucket anew"),
    ],
)
def test_a_check_finds_what_is_missing_in_any_bucket(lose: Callable[[Wire], None]) -> None:
    wire, store = applied_everywhere()
    lose(wire)
    with pytest.raises(ProfileLossError):
        store.check()
    assert not wire.requests
    store.detach([P0, P1, L0])
    store.check()


def test_a_series_is_erased_and_shown_in_the_bucket_of_its_entity() -> None:
    wire, store = applied_everywhere()
    assert store.forget("card_tx", "c7", T + 7) == 1
    held = [number for number, b in enumerate(wire.inner._buckets) if (0, "c7") in b.series]
    assert held == [bucket_of("c7", 4)]
    content = store.content("card_tx", "c7")
    assert content is not None
    assert (len(content.run), content.trimmed_to_ms) == (0, T + 7)
    other = store.content("card_tx", "c8")
    assert other is not None
    assert wire.inner.content(0, "c7") is not None
    store.merge([other.run])
    assert len(other.run) == 1


def test_every_bucket_gets_an_epoch_of_its_own_at_every_beginning() -> None:
    epochs = set()
    for _ in range(5):
        wire = wired(buckets=3)
        attached(wire, buckets=3)
        epochs |= {state.epoch for state in wire.states()}
    assert len(epochs) == 15


# ------------------------------------------------------------------ other workers' partitions


def test_while_an_expected_partition_has_no_watermark_no_answer_is_whole() -> None:
    wire = wired()
    store = BucketedProfileStore(DEFINITION, wire)
    store.attach({P0: AttachPoint(0, 0)})
    store.apply(batch([paid(0)], p0=Stretch(0, 1)))  # not asked for
    store.expect_partitions(2)
    with pytest.raises(ProfilesRebuildingError):
        store.apply(batch([paid(1)], p0=Stretch(1, 2)))
    # What was refused an answer was recorded, and is not a gap.
    assert store.applied == {P0: 2}
    store.initialise({P1: 0})
    answers = store.apply(batch([paid(2)], p0=Stretch(2, 3)))
    assert answers.series["card_tx"].counts[0, 0] == 3


def test_a_repair_goes_on_while_other_partitions_are_being_rebuilt() -> None:
    wire = wired()
    store = BucketedProfileStore(DEFINITION, wire, partitions_expected=9)
    store.attach({P0: AttachPoint(2, 0)})
    store.repair(batch([paid(0), paid(1)], p0=Stretch(0, 2)))
    assert store.applied == {P0: 2}


def test_whether_a_call_would_be_tried_is_the_backends_to_say() -> None:
    with pytest.raises(StoreUnavailableError, match="left alone"):
        attached(wired()).require_available()
