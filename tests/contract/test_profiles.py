"""One contract for the profile store, held by the twin in memory and by a real Valkey alike."""

from __future__ import annotations

import struct
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from oracle import NO_POSITION, Oracle
from services import Services

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits, connect
from fraudstream.errors import (
    ProfileLossError,
    ProfilesRebuildingError,
    StoreUnavailableError,
    StoreUnfitError,
)
from fraudstream.event import Label, Transaction
from fraudstream.local.ready import find_free_port, wait_until
from fraudstream.local.valkey import ValkeyNode
from fraudstream.profile import (
    CALL_ENTRIES_MAX,
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    InputPartition,
    Located,
    Mark,
    ProfileAnswers,
    ProfileBackend,
    ProfileBatch,
    ProfileDefinition,
    Recording,
    Series,
    Stretch,
    Window,
    id_hash,
    pack_position,
)

#: Some instant, far enough from the epoch for every window.
T = 1_532_513_472_000
LENGTH_MS, LAG_MS, LATENESS_MS = 1_000, 500, 500
#: The longest window with its lag, and the lateness.
HORIZON_MS = LENGTH_MS + LAG_MS + LATENESS_MS
PAYMENTS = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
OTHER_PAYMENTS = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 1)
LABELS = InputPartition(LABELS_TOPIC_NUMBER, 0)
PLAIN, LAGGED = Window(LENGTH_MS), Window(LENGTH_MS, LAG_MS)
DEFINITION = ProfileDefinition(
    (
        Series(
            "card_tx",
            "card_id",
            "transactions",
            ("amount_minor", "amount_known"),
            (PLAIN, LAGGED),
            LATENESS_MS,
        ),
        Series("terminal_tx", "terminal_id", "transactions", (), (LAGGED,), LATENESS_MS),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), (LAGGED,), LATENESS_MS),
    )
)
CARD_TX, TERMINAL_TX, TERMINAL_LABEL = 0, 1, 2
#: Long enough for a busy machine: deadlines have tests of their own.
PATIENT = ValkeyLimits(deadline_s=20, connect_timeout_s=5, breaker_min_s=0.001, breaker_max_s=0.001)


class Kept(NamedTuple):
    """What a series holds: header, then each record's time, hash, position, version and sums."""

    trimmed_to_ms: int
    base_count: int
    base_sums: tuple[int, ...]
    records: list[tuple[int, bytes, bytes, int, tuple[int, ...]]]


class Place(Protocol):
    """Where backends are opened, and can be robbed of what they hold."""

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        """Open a backend that shares nothing with any other."""
        ...

    def wipe(self, backend: ProfileBackend) -> None:
        """Lose all that a backend holds, as FLUSHALL does."""
        ...

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        """Look at what a backend holds, by series and entity."""
        ...


class MemoryPlace:
    """The twin."""

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        return MemoryBackend(definition, buckets, known_from_ms)

    def wipe(self, backend: ProfileBackend) -> None:
        assert isinstance(backend, MemoryBackend)
        backend.flush()

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        assert isinstance(backend, MemoryBackend)
        return {
            name: Kept(
                series.trimmed_to_ms,
                series.base_count,
                tuple(series.base_sums),
                [
                    (time_ms, hashed, position, version_ms, tuple(c[i] for c in series.sums))
                    for i, (time_ms, hashed, position, version_ms) in enumerate(
                        zip(
                            series.times_ms,
                            series.hashes,
                            series.positions,
                            series.versions_ms,
                            strict=True,
                        )
                    )
                ],
            )
            for name, series in backend.all_series().items()
        }


class ValkeyPlace:
    """A real server; every backend has a namespace of its own there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url, PATIENT)
        self._opened: list[tuple[ValkeyBackend, str, ProfileDefinition]] = []

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        namespace = f"test-{uuid.uuid4().hex}"
        backend = ValkeyBackend(
            self.url,
            definition,
            namespace=namespace,
            buckets=buckets,
            known_from_ms=known_from_ms,
            limits=PATIENT,
        )
        self._opened.append((backend, namespace, definition))
        return backend

    def wipe(self, backend: ProfileBackend) -> None:
        if keys := self.keys(backend):
            self.client.delete(*keys)

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        """Read the strings as the head of ``profile.lua`` describes them."""
        _, definition = self._find(backend)
        by_name = {series.name: series for series in definition.series}
        found = {}
        for key in self.keys(backend):
            name, _, entity = key.decode().split("}:", 1)[1].partition(":")
            if entity:
                packed = self.client.get(key)
                assert isinstance(packed, bytes)
                found[name, entity] = _unpack(by_name[name], packed)
        return found

    def keys(self, backend: ProfileBackend) -> list[bytes]:
        """List a backend's keys."""
        namespace, _ = self._find(backend)
        return sorted(self.client.scan_iter(match=f"fs:{namespace}:*", count=10_000))

    def close(self) -> None:
        for backend, _, _ in self._opened:
            self.wipe(backend)
            backend.close()
        self.client.close()

    def _find(self, backend: ProfileBackend) -> tuple[str, ProfileDefinition]:
        return next((n, d) for opened, n, d in self._opened if opened is backend)


def _unpack(series: Series, packed: bytes) -> Kept:
    columns = len(series.measures)
    layout, stored_columns, header_bytes, chunks = struct.unpack_from("<BBHI", packed)
    assert (layout, stored_columns, header_bytes, chunks) == (1, columns, 24 + 8 * columns, 0)
    trimmed_to_ms, base_count, *base_sums = struct.unpack_from(f"<qq{columns}q", packed, 8)
    record = struct.Struct(f"<q8s8s{'q' * series.is_versioned}{columns}q")
    records = []
    for time_ms, hashed, position, *rest in record.iter_unpack(packed[header_bytes:]):
        version_ms = rest.pop(0) if series.is_versioned else 0
        records.append((time_ms, hashed, position, version_ms, tuple(rest)))
    return Kept(trimmed_to_ms, base_count, tuple(base_sums), records)


@pytest.fixture(params=["memory", pytest.param("valkey", marks=pytest.mark.services)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield MemoryPlace()
        return
    found: Services = request.getfixturevalue("services")
    valkey = ValkeyPlace(found.valkey_url)
    yield valkey
    valkey.close()


@pytest.fixture
def valkey(services: Services) -> Iterator[ValkeyPlace]:
    found = ValkeyPlace(services.valkey_url)
    yield found
    found.close()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyPlace]:
    """Start a server for one test, which may do with it what it likes."""
    node = ValkeyNode(tmp_path, tmp_path / "log", find_free_port())
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(node.server_command(), stdout=log, stderr=log) as server,
    ):
        try:
            assert wait_until(lambda: node.is_answering(server.pid), timeout_s=20)
            found = ValkeyPlace(node.url)
            yield found
            found.client.config_set("maxmemory", 0)
            found.close()
        finally:
            server.kill()


class Answer(NamedTuple):
    """What one series says of one payment."""

    outcome: int
    marks: int
    counts: list[int]
    sums: list[list[int]]


@dataclass
class Feed:
    """What a worker does with the profiles of two partitions, one of payments and one of labels."""

    backend: ProfileBackend
    definition: ProfileDefinition = DEFINITION
    buckets: int = 1
    log: list[Located] = field(default_factory=list)
    ends: dict[InputPartition, int] = field(default_factory=lambda: {PAYMENTS: 0, LABELS: 0})

    def __post_init__(self) -> None:
        self.store = BucketedProfileStore(self.definition, self.backend, buckets=self.buckets)
        self.attach()

    def attach(self) -> set[InputPartition]:
        return self.store.attach({p: AttachPoint(end, 0) for p, end in self.ends.items()})

    def read(self, event: Transaction | Label) -> Located:
        """Give an event the next place in its log."""
        partition = LABELS if isinstance(event, Label) else PAYMENTS
        located = Located(event, partition, self.ends[partition])
        self.ends[partition] += 1
        self.log.append(located)
        return located

    def apply(self, *events: Located) -> ProfileAnswers:
        return self.store.apply(batch_of(events))

    def pay(self, *payments: Transaction, series: str = "card_tx") -> list[Answer]:
        """Read new payments as one batch, and answer them."""
        return answers_of(self.apply(*[self.read(p) for p in payments]), series)

    def find(self, *labels: Label) -> ProfileAnswers:
        return self.apply(*[self.read(label) for label in labels])


def batch_of(events: Sequence[Located]) -> ProfileBatch:
    stretches = {}
    for partition in dict.fromkeys(located.partition for located in events):
        offsets = [located.offset for located in events if located.partition == partition]
        stretches[partition] = Stretch(min(offsets), max(offsets) + 1)
    labels = [located for located in events if isinstance(located.event, Label)]
    payments = [located for located in events if isinstance(located.event, Transaction)]
    return ProfileBatch(labels, payments, stretches)


def answers_of(answers: ProfileAnswers, series: str = "card_tx") -> list[Answer]:
    found = answers.series[series]
    return [
        Answer(*row)
        for row in zip(
            found.outcomes.tolist(),
            found.marks.tolist(),
            found.counts.tolist(),
            found.sums.tolist(),
            strict=True,
        )
    ]


def all_answers(answers: ProfileAnswers) -> dict[str, list[Answer]]:
    return {name: answers_of(answers, name) for name in answers.series}


def payment(
    name: str, time_ms: int, amount: int | None = 100, card: str = "c1", terminal: str = "t1"
) -> Transaction:
    return Transaction(name, time_ms, card, terminal, amount or 0, "EUR", amount)


def finding(
    name: str, time_ms: int, *, is_fraud: bool = True, reported_at_ms: int = T + DAY_MS
) -> Label:
    return Label(name, time_ms, "c1", "t1", is_fraud, reported_at_ms, "analyst")


def entry(
    name: str,
    time_ms: int,
    offset: int | None,
    values: tuple[int, ...] = (100, 1),
    *,
    series: int = CARD_TX,
    version_ms: int = 0,
) -> Entry:
    """Make an entry as the store does; without an offset it did not come through Kafka."""
    position = NO_POSITION if offset is None else pack_position(PAYMENTS, offset)
    entity = "c1" if series == CARD_TX else "t1"
    return Entry(series, entity, True, time_ms, id_hash(name), position, version_ms, values)


def rows(reply: BucketReply, series: int = CARD_TX) -> list[list[int]]:
    assert reply.is_applied
    return [[int(number) for number in row] for row in reply.rows[series].tolist()]


def record(backend: ProfileBackend, *entries: Entry) -> list[tuple[int, int]]:
    """Record entries without a stretch; give the outcome and marks of each."""
    (reply,) = backend.apply([BucketRequest(0, {}, list(entries))])
    return [(row[0], row[1]) for row in rows(reply, entries[0].series)]


# ------------------------------------------------------------------ windows


#: Age of an earlier record, and whether (t − 1000, t] and (t − 1500, t − 500] hold it.
EDGES = [
    (0, 1, 0),
    (1, 1, 0),
    (499, 1, 0),
    (500, 1, 1),
    (501, 1, 1),
    (999, 1, 1),
    (1000, 0, 1),
    (1001, 0, 1),
    (1499, 0, 1),
    (1500, 0, 0),
    (1501, 0, 0),
]


@pytest.mark.parametrize(("age_ms", "in_plain", "in_lagged"), EDGES)
def test_a_window_ends_to_the_millisecond(
    place: Place, age_ms: int, in_plain: int, in_lagged: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - age_ms, 30))
    (answer,) = feed.pay(payment("now", T, 500))
    assert answer.counts == [1 + in_plain, in_lagged]
    assert answer.sums == [
        [500 + 30 * in_plain, 1 + in_plain],
        [30 * in_lagged, in_lagged],
    ]


@pytest.mark.parametrize(("age_ms", "in_lagged"), [(age, lagged) for age, _, lagged in EDGES])
def test_a_lagged_window_of_a_terminal_and_of_its_labels_ends_to_the_millisecond(
    place: Place, age_ms: int, in_lagged: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - age_ms, card="another"))
    feed.find(finding("before", T - age_ms))
    answers = feed.apply(feed.read(payment("now", T)))
    assert answers_of(answers, "terminal_tx")[0].counts == [in_lagged]
    label = answers_of(answers, "terminal_label")[0]
    assert (label.outcome, label.counts) == (Recording.READ_ONLY, [in_lagged])
    assert label.sums == [[in_lagged]]


def test_a_payment_of_an_unknown_amount_is_counted_and_adds_nothing(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("unknown", T - 1, None))
    (answer,) = feed.pay(payment("known", T, 500))
    assert answer.counts[0] == 2
    assert answer.sums[0] == [500, 1]


def test_at_equal_times_each_sees_those_before_it_and_itself(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    together = feed.pay(payment("a", T, 1), payment("b", T, 10))
    (alone,) = feed.pay(payment("c", T, 100))
    assert [answer.counts[0] for answer in (*together, alone)] == [1, 2, 3]
    assert [answer.sums[0][0] for answer in (*together, alone)] == [1, 11, 111]
    assert {answer.marks for answer in (*together, alone)} == {Mark.NONE}


def test_cards_and_terminals_do_not_see_each_other(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("a", T - 700, card="c1", terminal="t1"))
    answers = feed.apply(feed.read(payment("b", T, card="c2", terminal="t2")))
    assert answers_of(answers)[0].counts == [1, 0]
    assert answers_of(answers, "terminal_tx")[0].counts == [0]
    # One name for a card and a terminal is still two entities.
    answers = feed.apply(feed.read(payment("c", T, card="t1", terminal="c1")))
    assert answers_of(answers)[0].counts == [1, 0]


def test_amounts_up_to_the_contracts_greatest_are_summed_exactly(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    for number in range(200):
        (answer,) = feed.pay(payment(f"x{number}", T + number, 10**12 - number))
    assert answer.counts[0] == 200
    assert answer.sums[0][0] == sum(10**12 - number for number in range(200))


# ------------------------------------------------------------------ meeting a record again


def test_the_same_record_again_is_a_retry_and_is_not_counted_twice(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    located = feed.read(payment("a", T))
    first, second = feed.apply(located), feed.apply(located)
    assert answers_of(first)[0].outcome == Recording.RECORDED
    assert answers_of(second)[0] == answers_of(first)[0]._replace(outcome=Recording.RETRY)


def test_another_record_of_the_same_payment_is_a_duplicate_for_ever(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    original, copy = feed.read(payment("a", T)), feed.read(payment("a", T))
    answers = answers_of(feed.apply(original, copy))
    assert [a.outcome for a in answers] == [Recording.RECORDED, Recording.DUPLICATE]
    assert [a.counts[0] for a in answers] == [1, 1]
    # Which of the two is the duplicate does not depend on how often they are read.
    answers = answers_of(feed.apply(original, copy))
    assert [a.outcome for a in answers] == [Recording.RETRY, Recording.DUPLICATE]


def test_the_same_id_at_another_time_is_another_payment(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("a", T))
    (answer,) = feed.pay(payment("a", T + 1))
    assert (answer.outcome, answer.counts[0]) == (Recording.RECORDED, 2)


def test_a_copy_with_other_content_is_marked_and_the_first_one_stands(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("before", T - 1, 7), payment("a", T, 100))
    (copy,) = feed.pay(payment("a", T, 999))
    assert (copy.outcome, copy.marks) == (Recording.DUPLICATE, Mark.CONFLICT)
    assert copy.sums[0][0] == 107
    (unknown,) = feed.pay(payment("a", T, None))
    assert unknown.marks == Mark.CONFLICT
    (same,) = feed.pay(payment("a", T, 100))
    assert same.marks == Mark.NONE


def test_a_record_that_did_not_come_through_kafka_is_claimed_by_its_first_copy(
    place: Place,
) -> None:
    backend = place.open(DEFINITION)
    assert record(backend, entry("a", T, None)) == [(Recording.RECORDED, 0)]
    assert record(backend, entry("a", T, None)) == [(Recording.RETRY, 0)]
    assert record(backend, entry("a", T, 5, (1, 1))) == [(Recording.RECORDED, Mark.CONFLICT)]
    assert record(backend, entry("a", T, 5)) == [(Recording.RETRY, 0)]
    assert record(backend, entry("a", T, 6)) == [(Recording.DUPLICATE, 0)]
    assert record(backend, entry("a", T, None)) == [(Recording.RETRY, 0)]
    assert len(place.kept(backend)["card_tx", "c1"].records) == 1


def test_reading_again_gives_the_same_answer_although_more_was_recorded(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    located = [feed.read(payment(f"x{i}", T + 100 * (i // 2), i)) for i in range(12)]
    first = answers_of(feed.apply(*located[:6]))
    feed.apply(*located[6:])
    again = answers_of(feed.apply(*located[:6]))
    assert again == [answer._replace(outcome=Recording.RETRY) for answer in first]


# ------------------------------------------------------------------ late, and too late


def test_a_late_payment_is_inserted_at_its_place(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("first", T - 900, 1), payment("last", T, 100))
    (late,) = feed.pay(payment("late", T - 400, 10))
    assert (late.outcome, late.marks) == (Recording.RECORDED, Mark.LATE)
    assert (late.counts, late.sums[0]) == ([2, 1], [11, 2])
    (after,) = feed.pay(payment("after", T + 1, 1000))
    assert (after.counts, after.sums[0], after.marks) == ([4, 1], [1111, 4], Mark.NONE)
    records = place.kept(feed.backend)["card_tx", "c1"].records
    assert [time_ms for time_ms, *_ in records] == [T - 900, T - 400, T, T + 1]
    assert [sums for *_, sums in records] == [(1, 1), (11, 2), (111, 3), (1111, 4)]


def test_a_late_payment_is_marked_late_on_a_retry_too(place: Place) -> None:
    """The first attempt saw the later payment come first; so must the second."""
    feed = Feed(place.open(DEFINITION))
    batch = [
        feed.read(payment("ahead", T + 50)),
        feed.read(payment("late", T)),
        feed.read(payment("tied", T)),
        feed.read(payment("in order", T + 60)),
        feed.read(payment("last", T + 70)),
    ]
    marks = [Mark.NONE, Mark.LATE, Mark.LATE, Mark.NONE, Mark.NONE]
    assert [answer.marks for answer in answers_of(feed.apply(*batch))] == marks
    again = answers_of(feed.apply(*batch))
    assert {answer.outcome for answer in again} == {Recording.RETRY}
    assert [answer.marks for answer in again] == marks


@pytest.mark.parametrize(("between", "marks"), [(511, Mark.LATE), (512, Mark.NONE)])
def test_what_came_first_is_looked_for_among_the_512_next_records(
    place: Place, between: int, marks: Mark
) -> None:
    """A retry lies behind at most a batch of later records, and the search must end."""
    backend = place.open(DEFINITION)
    late = entry("late", T, 5_000)
    record(backend, late)
    others = [entry(f"x{number}", T + 1, 6_000 + number) for number in range(between)]
    for batch in (others[:300], others[300:], [entry("ahead", T + 2, 4_000)]):
        record(backend, *batch)
    assert record(backend, late) == [(Recording.RETRY, marks)]


@pytest.mark.parametrize(("age_ms", "is_late"), [(HORIZON_MS - 1, False), (HORIZON_MS, True)])
def test_what_is_as_old_as_the_horizon_is_too_late(
    place: Place, age_ms: int, is_late: bool
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("newest", T))
    (answer,) = feed.pay(payment("old", T - age_ms))
    kept = place.kept(feed.backend)
    if is_late:
        assert answer == Answer(Recording.TOO_LATE, Mark.NONE, [-1, -1], [[0, 0], [0, 0]])
        assert len(kept["card_tx", "c1"].records) == len(kept["terminal_tx", "t1"].records) == 1
    else:
        assert (answer.outcome, answer.marks) == (Recording.RECORDED, Mark.LATE)
        assert (answer.counts, answer.sums[0]) == ([1, 0], [100, 1])
        assert len(kept["card_tx", "c1"].records) == len(kept["terminal_tx", "t1"].records) == 2


def test_what_is_within_the_allowed_lateness_finds_every_window_whole(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    for number in range(60):  # much is trimmed on the way
        feed.pay(payment(f"x{number}", T + 100 * number, number))
    (late,) = feed.pay(payment("late", T + 5_900 - LATENESS_MS, 7))
    assert late.marks == Mark.LATE
    assert late.counts == [11, 10]


def test_a_window_that_should_hold_what_came_too_late_is_unknown(place: Place) -> None:
    """A series that refused a payment must not go on as if it had never been."""
    refused_ms = T - HORIZON_MS - 300
    feed = Feed(place.open(DEFINITION))
    feed.pay(payment("newest", T))
    (whole,) = feed.pay(payment("late", refused_ms + LENGTH_MS + LAG_MS - 1))
    assert whole.counts == [1, 0]
    # Of two that are too late, the later one says how far back nothing is known.
    for name, time_ms in (("refused", refused_ms), ("refused too", refused_ms - 100)):
        (refused,) = feed.pay(payment(name, time_ms))
        assert refused.outcome == Recording.TOO_LATE
    (unknown,) = feed.pay(payment("late too", refused_ms + LENGTH_MS + LAG_MS - 1))
    assert unknown.counts == [2, -1]
    (known,) = feed.pay(payment("less late", refused_ms + LENGTH_MS + LAG_MS))
    assert known.counts == [3, 0]


# ------------------------------------------------------------------ trimming


def test_trimming_drops_what_no_window_reaches_and_changes_no_count(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    untrimmed = Oracle(DEFINITION)
    for number in range(100):
        (answer,) = feed.pay(payment(f"x{number}", T + 150 * number, number))
        row = [answer.outcome, answer.marks]
        for count, sums in zip(answer.counts, answer.sums, strict=True):
            row += [count, *sums]
        expected = untrimmed.expect(entry(f"x{number}", T + 150 * number, number, (number, 1)))
        assert -1 not in answer.counts
        assert expected.admits(row), (expected, row)
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert kept.base_count > 0
    assert kept.base_count + len(kept.records) == 100
    assert kept.base_sums == (sum(range(kept.base_count)), kept.base_count)
    assert len(kept.records) <= 2 * HORIZON_MS // 150
    assert kept.trimmed_to_ms <= T + 150 * 99 - HORIZON_MS < T + 150 * 99 - LENGTH_MS - LAG_MS


@pytest.mark.parametrize(
    ("old", "newest_ms", "dropped"),
    [
        (3, T + HORIZON_MS, 0),  # of four, one is out of reach
        (3, T + HORIZON_MS + 1, 2),
        (2, T + HORIZON_MS + 9, 0),  # fewer than four are left alone
        (7, T + HORIZON_MS + 1, 0),
        (7, T + HORIZON_MS + 2, 3),
    ],
)
def test_a_series_is_trimmed_once_more_than_a_quarter_of_it_is_out_of_reach(
    place: Place, old: int, newest_ms: int, dropped: int
) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.pay(*[payment(f"x{number}", T + number) for number in range(old)])
    feed.pay(payment("newest", newest_ms))
    kept = place.kept(feed.backend)["card_tx", "c1"]
    assert (kept.base_count, len(kept.records)) == (dropped, old + 1 - dropped)
    assert kept.trimmed_to_ms == (newest_ms - HORIZON_MS if dropped else 0)


def test_a_series_that_was_trimmed_does_not_know_what_was_before(place: Place) -> None:
    backend = place.open(DEFINITION)
    feed = Feed(backend)
    for number in range(4):
        feed.pay(payment(f"x{number}", T + number))
    feed.pay(payment("later", T + HORIZON_MS + 1_000))
    trimmed_to_ms = place.kept(backend)["card_tx", "c1"].trimmed_to_ms
    assert trimmed_to_ms == T + 1_000

    def counts_at(time_ms: int) -> list[int]:
        (reply,) = backend.apply(
            [BucketRequest(0, {}, [entry("look", time_ms, 99)._replace(is_recorded=False)])]
        )
        return [rows(reply)[0][2], rows(reply)[0][5]]

    # (first, last] is known as a whole if first is not before trimmed_to.
    assert counts_at(trimmed_to_ms + LENGTH_MS) == [0, -1]
    assert counts_at(trimmed_to_ms + LENGTH_MS - 1) == [-1, -1]
    assert counts_at(trimmed_to_ms + LENGTH_MS + LAG_MS) == [0, 0]
    assert counts_at(trimmed_to_ms + LENGTH_MS + LAG_MS - 1) == [0, -1]


def test_what_was_trimmed_and_comes_again_is_too_late_and_not_counted_again(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    old = [feed.read(payment(f"x{number}", T + number)) for number in range(4)]
    feed.apply(*old)
    feed.pay(payment("later", T + 10_000))
    before = place.kept(feed.backend)
    again = answers_of(feed.apply(*old))
    assert {answer.outcome for answer in again} == {Recording.TOO_LATE}
    assert place.kept(feed.backend) == before


# ------------------------------------------------------------------ known from


def test_windows_that_reach_back_before_known_from_are_unknown(place: Place) -> None:
    feed = Feed(place.open(DEFINITION, known_from_ms=T - LENGTH_MS))
    (at_edge,) = feed.pay(payment("a", T))
    (before,) = feed.pay(payment("b", T - 1))
    (after,) = feed.pay(payment("c", T + LAG_MS))
    assert [at_edge.counts, before.counts, after.counts] == [[1, -1], [-1, -1], [3, 2]]


def test_a_raised_floor_stays_and_is_never_lowered(place: Place) -> None:
    backend = place.open(DEFINITION, buckets=2)
    feed = Feed(backend, buckets=2)
    feed.store.raise_floor(T - LENGTH_MS)
    feed.store.raise_floor(T - LENGTH_MS - 10)
    for card in ("c1", "c2", "c3", "c4"):  # of both buckets
        (known,) = feed.pay(payment("a", T, card=card))
        (unknown,) = feed.pay(payment("b", T - 1, card=card))
        assert (known.counts[0], unknown.counts[0]) == (1, -1)


def test_raising_the_floor_of_an_empty_bucket_does_not_make_later_losses_invisible(
    place: Place,
) -> None:
    """The bucket's epoch must be one that no other bucket, made after a loss, will have."""
    backend = place.open(DEFINITION)
    backend.raise_floor(T)
    feed = Feed(backend)
    place.wipe(backend)
    backend.apply(
        [
            BucketRequest(
                0,
                {PAYMENTS: Stretch(0, 0), LABELS: Stretch(0, 0)},
                [],
                is_initial=True,
                candidate_epoch=b"anewlife",
            )
        ]
    )
    with pytest.raises(ProfileLossError):
        feed.pay(payment("a", T))


# ------------------------------------------------------------------ labels


def label_sum(feed: Feed, at_ms: int = T) -> tuple[int, int]:
    """Read how many labels, and how many frauds, a look at this time finds."""
    look = entry("look", at_ms, 0, (0,), series=TERMINAL_LABEL)._replace(is_recorded=False)
    (reply,) = feed.backend.apply([BucketRequest(0, {}, [look])])
    _, _, count, frauds = rows(reply, TERMINAL_LABEL)[0]
    return count, frauds


DAY_1, DAY_2, DAY_3 = T + DAY_MS, T + 2 * DAY_MS, T + 3 * DAY_MS


@pytest.mark.parametrize(
    ("reports", "frauds"),
    [
        ([(True, DAY_1)], 1),
        ([(False, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_2)], 0),
        ([(False, DAY_1), (True, DAY_2)], 1),
        ([(True, DAY_2), (False, DAY_1)], 1),
        ([(False, DAY_2), (True, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_1)], 0),
        ([(False, DAY_1), (True, DAY_1)], 0),
        ([(True, DAY_1), (False, DAY_2), (True, DAY_3)], 1),
        ([(True, DAY_1), (False, DAY_3), (True, DAY_2)], 0),
    ],
)
def test_of_several_findings_the_newer_wins_and_at_equal_times_genuine(
    place: Place, reports: list[tuple[bool, int]], frauds: int
) -> None:
    time_ms = T - LAG_MS
    feed = Feed(place.open(DEFINITION))
    feed.find(finding("around", time_ms - 1), finding("around too", time_ms, reported_at_ms=DAY_1))
    for is_fraud, reported_at_ms in reports:
        feed.find(finding("x", time_ms, is_fraud=is_fraud, reported_at_ms=reported_at_ms))
    feed.find(finding("after", time_ms + 1))
    assert label_sum(feed) == (3, 2 + frauds)
    assert label_sum(feed, T + 1) == (4, 3 + frauds)


def test_an_old_finding_that_comes_again_changes_nothing(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    old = feed.read(finding("x", T - LAG_MS, is_fraud=True, reported_at_ms=DAY_1))
    feed.apply(old)
    withdrawn = feed.read(finding("x", T - LAG_MS, is_fraud=False, reported_at_ms=DAY_2))
    answers = feed.apply(withdrawn)
    assert (answers.labels_superseded, label_sum(feed)) == (0, (1, 0))
    before = place.kept(feed.backend)
    assert feed.apply(old).labels_superseded == 1
    assert feed.apply(withdrawn).labels_superseded == 0
    resumed = feed.read(finding("x", T - LAG_MS, is_fraud=True, reported_at_ms=DAY_1))
    assert feed.apply(resumed).labels_superseded == 1
    assert place.kept(feed.backend) == before


def test_a_label_too_old_for_its_series_is_counted_and_not_recorded(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    feed.find(finding("newest", T))
    answers = feed.find(finding("old", T - HORIZON_MS), finding("newer", T - HORIZON_MS + 1))
    assert answers.labels_too_late == 1
    records = place.kept(feed.backend)["terminal_label", "t1"].records
    assert [time_ms for time_ms, *_ in records] == [T - HORIZON_MS + 1, T]


def test_labels_go_before_the_payments_of_their_batch(place: Place) -> None:
    feed = Feed(place.open(DEFINITION))
    events = [feed.read(payment("now", T)), feed.read(finding("before", T - LAG_MS))]
    answers = feed.apply(*events)
    assert answers_of(answers, "terminal_label")[0].counts == [1]


# ------------------------------------------------------------------ stretches, watermarks, epochs


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
class LossyWire:
    """Passes requests on to a backend, but loses some of them on the way."""

    inner: ProfileBackend
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

    def require_available(self) -> None:
        self.inner.require_available()

    def states(self) -> list[BucketState]:
        return self.inner.states()

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        self.inner.mark_rebuild(partition, target)

    def raise_floor(self, known_from_ms: int) -> None:
        self.inner.raise_floor(known_from_ms)


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


def random_events(seed: int, count: int) -> list[Transaction | Label]:
    """Make payments and labels with everything that goes wrong: ties, late, twice, withdrawn."""
    rng = np.random.default_rng(seed)
    events: list[Transaction | Label] = []
    now_ms = T
    for number in range(count):
        now_ms += int(rng.choice([0, 1, 40, 150, 2_500], p=[0.2, 0.2, 0.3, 0.28, 0.02]))
        time_ms = now_ms - int(rng.choice([0, 30, 600, 3_000], p=[0.7, 0.2, 0.08, 0.02]))
        earlier = [event for event in events[-30:] if isinstance(event, Transaction)]
        kind = rng.random()
        if earlier and kind < 0.1:
            events.append(earlier[int(rng.integers(len(earlier)))])
        elif earlier and kind < 0.3:
            about = earlier[int(rng.integers(len(earlier)))]
            reported_at_ms = now_ms + DAY_MS * int(rng.integers(1, 4))
            events.append(
                Label(
                    about.transaction_id,
                    about.event_time_ms,
                    about.card_id,
                    about.terminal_id,
                    bool(rng.random() < 0.5),
                    reported_at_ms,
                    "analyst",
                )
            )
        else:
            amount = None if rng.random() < 0.1 else int(rng.integers(1, 10_000))
            card, terminal = f"c{rng.integers(6)}", f"t{rng.integers(4)}"
            events.append(payment(f"x{number}", time_ms, amount, card, terminal))
    return events


def in_batches(events: Iterable[Located], size: int) -> Iterator[list[Located]]:
    found = list(events)
    for first in range(0, len(found), size):
        yield found[first : first + size]


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


def batch_ends(events: Sequence[Located]) -> Mapping[InputPartition, int]:
    return {p: stretch.end for p, stretch in batch_of(events).stretches.items()}


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


ENTITIES = st.integers(0, 1)
ACTS = st.sampled_from(["again", "copy", "conflict", "served", "older", "newer"])


class Histories(RuleBasedStateMachine):
    """Random histories: whatever comes, in whatever order, the oracle must agree."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.place.open(DEFINITION)
        self.oracle = Oracle(DEFINITION)
        self.seen: list[Entry] = []
        self.waiting: list[Entry] = []
        self.offset = 0
        self.newest_ms = T

    @rule(entity=ENTITIES, step_ms=st.sampled_from([0, 1, 400, 500, 1_000, 2_100]))
    def new_payment(self, entity: int, step_ms: int) -> None:
        self.newest_ms += step_ms
        self._pay(entity, self.newest_ms)

    @rule(
        entity=ENTITIES,
        age_ms=st.sampled_from([1, 499, 500, 501, 999, 1_000, 1_500, 1_999, 2_000, 2_001, 3_000]),
    )
    def late_payment(self, entity: int, age_ms: int) -> None:
        self._pay(entity, self.newest_ms - age_ms)

    @rule(entity=ENTITIES, age_ms=st.integers(0, 2_200), is_fraud=st.booleans())
    def new_label(self, entity: int, age_ms: int, is_fraud: bool) -> None:
        time_ms = self.newest_ms - age_ms
        self._queue(TERMINAL_LABEL, entity, time_ms, (int(is_fraud),), version_ms=T + 100)

    @rule(entity=ENTITIES)
    def look_at_labels(self, entity: int) -> None:
        look = self._entry(TERMINAL_LABEL, entity, self.newest_ms, (0,))
        self.waiting.append(look._replace(is_recorded=False))

    @rule(pick=st.integers(0, 30), act=ACTS, is_fraud=st.booleans())
    def meet_again(self, pick: int, act: str, is_fraud: bool) -> None:
        if not self.seen:
            return
        known = self.seen[-1 - pick % len(self.seen)]
        is_label = known.series == TERMINAL_LABEL
        if act == "copy":
            known = known._replace(position=self._position())
        elif act == "served" and not is_label:
            known = known._replace(position=NO_POSITION)
        elif act == "conflict" and known.series == CARD_TX:
            known = known._replace(values=(77, 1), position=self._position())
        elif act in {"older", "newer"} and is_label:
            version_ms = known.version_ms + (1 if act == "newer" else -1)
            known = known._replace(version_ms=version_ms, values=(int(is_fraud),))
        self.waiting.append(known)
        self.seen.append(known)

    @rule()
    def send(self) -> None:
        entries, self.waiting = self.waiting, []
        (reply,) = self.backend.apply([BucketRequest(0, {}, entries)])
        found: dict[int, list[list[int]]] = {n: rows(reply, n) for n in reply.rows}
        for one in entries:
            expected, row = self.oracle.expect(one), found[one.series].pop(0)
            assert expected.admits(row), f"{one}: {row} is not {expected}"

    def teardown(self) -> None:
        """Compare what is kept and can be read with what the oracle has of the same time."""
        self.send()
        for (name, entity), kept in self.place.kept(self.backend).items():
            number = next(i for i, s in enumerate(DEFINITION.series) if s.name == name)
            before, found = kept.base_sums, []
            for time_ms, hashed, position, version_ms, sums in kept.records:
                values = tuple(b - a for a, b in zip(before, sums, strict=True))
                if time_ms > kept.trimmed_to_ms:
                    found.append((time_ms, hashed, position, version_ms, values))
                before = sums
            assert found == self.oracle.records(number, entity, kept.trimmed_to_ms)

    def _pay(self, entity: int, time_ms: int) -> None:
        amount = 1 + len(self.seen)
        self._queue(CARD_TX, entity, time_ms, (amount, 1))
        self._queue(TERMINAL_TX, entity, time_ms, ())

    def _queue(
        self, series: int, entity: int, time_ms: int, values: tuple[int, ...], version_ms: int = 0
    ) -> None:
        new = self._entry(series, entity, time_ms, values)._replace(version_ms=version_ms)
        self.waiting.append(new)
        self.seen.append(new)

    def _entry(self, series: int, entity: int, time_ms: int, values: tuple[int, ...]) -> Entry:
        hashed, position = id_hash(f"x{self.offset}"), self._position()
        return Entry(series, f"e{entity}", True, time_ms, hashed, position, 0, values)

    def _position(self) -> bytes:
        self.offset += 1
        return pack_position(PAYMENTS, self.offset)


def test_every_history_is_answered_as_a_plain_list_would(place: Place) -> None:
    histories = type("PlacedHistories", (Histories,), {"place": place})
    run_state_machine_as_test(
        histories,
        settings=settings(
            max_examples=300, stateful_step_count=60, deadline=None, derandomize=True, database=None
        ),
    )


# ------------------------------------------------------------------ long series


LONG = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", ("amount_minor",), (Window(DAY_MS),)),
        Series("terminal_tx", "terminal_id", "transactions", (), (Window(DAY_MS),)),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), (Window(DAY_MS),)),
    )
)


@pytest.mark.services
@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_series_that_outgrows_a_single_read_is_as_the_twins(
    valkey: ValkeyPlace, in_one_call: bool
) -> None:
    """Up to 16,384 bytes the function reads a series as a whole: 511 of these records, exactly."""
    real, twin = valkey.open(LONG), MemoryBackend(LONG)
    entries = [entry(f"x{i}", T + 1_000 * i, i, (i,)) for i in range(505)]
    for number in range(505, 520):
        new = entry(f"x{number}", T + 1_000 * number, number, (number,))
        late = entry(f"y{number}", T + 1_000 * number - 1_500, number, (1,))
        entries += [new, late, new, late._replace(position=pack_position(PAYMENTS, 9_999))]
    size = CALL_ENTRIES_MAX if in_one_call else 1
    requests = [BucketRequest(0, {}, entries[:505])]
    requests += [BucketRequest(0, {}, entries[i : i + size]) for i in range(505, 565, size)]
    for ours, theirs in zip(real.apply(requests), twin.apply(requests), strict=True):
        assert rows(ours) == rows(theirs)
    assert valkey.kept(real) == MemoryPlace().kept(twin)
    assert valkey.client.strlen(valkey.keys(real)[0]) == 32 + 32 * 535


@pytest.mark.services
def test_series_of_megabytes_are_as_the_twins(valkey: ValkeyPlace) -> None:
    rng = np.random.default_rng(11)
    real, twin = valkey.open(LONG), MemoryBackend(LONG)

    def apply(entries: Sequence[Entry], *, is_record_only: bool = False) -> None:
        requests = [
            BucketRequest(0, {}, entries[i : i + CALL_ENTRIES_MAX], is_record_only=is_record_only)
            for i in range(0, len(entries), CALL_ENTRIES_MAX)
        ]
        for ours, theirs in zip(real.apply(requests), twin.apply(requests), strict=True):
            for number in range(3):
                assert (number in ours.rows) == (number in theirs.rows)
                if number in ours.rows:
                    assert np.array_equal(ours.rows[number], theirs.rows[number])

    cards = [entry(f"x{i}", T + 1_000 * i, i, (i % 97,)) for i in range(80_000)]
    frauds = [
        entry(f"x{i}", T + 1_000 * i, i, (i % 2,), series=TERMINAL_LABEL, version_ms=T)
        for i in range(2_000)
    ]
    stops = [entry(f"x{i}", T + 1_000 * i, i, (), series=TERMINAL_TX) for i in range(2_000)]
    apply([*cards, *frauds, *stops], is_record_only=True)
    (key,) = [key for key in valkey.keys(real) if key.endswith(b":card_tx:c1")]
    assert valkey.client.strlen(key) > 2_500_000

    def some(entries: Sequence[Entry], count: int) -> list[Entry]:
        return [entries[i] for i in rng.choice(len(entries), count, replace=False)]

    late = [
        e._replace(event_time_ms=e.event_time_ms + 500, position=pack_position(PAYMENTS, 90_000))
        for entries, count in ((cards, 12), (stops, 12), (frauds, 12))
        for e in some(entries, count)
    ]
    apply(late)
    apply([e._replace(version_ms=T + 1, values=(1 - e.values[0],)) for e in some(frauds, 30)])
    again = [*some(cards, 60), *some(stops, 30)]
    apply(again)
    apply([e._replace(position=pack_position(PAYMENTS, 95_000)) for e in again])
    # And one so much later that nearly all of it goes.
    apply([cards[-1]._replace(event_time_ms=T + 81_000_000 + 2 * DAY_MS, id_hash=id_hash("end"))])
    kept = valkey.kept(real)
    assert kept == MemoryPlace().kept(twin)
    assert kept["card_tx", "c1"].base_count > 70_000


# ------------------------------------------------------------------ servers that will not do


def overwrite(valkey: ValkeyPlace, backend: ProfileBackend, name: str, value: bytes | None) -> None:
    """Put something else in the place of one of a backend's keys; None: a hash."""
    (key,) = [key for key in valkey.keys(backend) if key.decode().endswith(name)]
    valkey.client.delete(key)
    if value is None:
        valkey.client.hset(key, "field", "value")
    else:
        valkey.client.set(key, value)


def header(layout: int = 1, columns: int = 2, header_bytes: int = 40) -> bytes:
    return struct.pack("<BBHI", layout, columns, header_bytes, 0) + b"\0" * (header_bytes - 8)


@pytest.mark.services
@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(header(layout=2), id="another layout"),
        pytest.param(header(columns=3, header_bytes=48), id="more columns"),
        pytest.param(header() + b"\0" * 39, id="half a record"),
        pytest.param(b"{}", id="a short string"),
        pytest.param(b'{"profile": "of somebody else"}', id="a longer string"),
        pytest.param(None, id="a hash"),
    ],
)
@pytest.mark.parametrize("name", [":card_tx:c1", ":terminal_tx:t1"])
def test_a_key_that_holds_something_else_is_refused_and_nothing_is_half_written(
    valkey: ValkeyPlace, name: str, foreign: bytes | None
) -> None:
    feed = Feed(valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    overwrite(valkey, feed.backend, name, foreign)
    before = {key: valkey.client.dump(key) for key in valkey.keys(feed.backend)}
    with pytest.raises(StoreUnfitError, match="another layout"):
        feed.pay(payment("b", T + 1))
    assert {key: valkey.client.dump(key) for key in valkey.keys(feed.backend)} == before


@pytest.mark.services
def test_code_with_other_definitions_never_meets_our_keys(valkey: ValkeyPlace) -> None:
    other = ProfileDefinition(tuple(s for s in DEFINITION.series if s.name != "terminal_label"))
    assert other.digest != DEFINITION.digest
    ours = valkey.open(DEFINITION)
    Feed(ours).pay(payment("a", T))
    assert all(f":{DEFINITION.digest}:".encode() in key for key in valkey.keys(ours))


@pytest.mark.services
def test_idle_series_expire_and_the_books_do_not(valkey: ValkeyPlace) -> None:
    """A series may go when no window can reach it; a watermark that went would look like a loss."""
    feed = Feed(valkey.open(DEFINITION))
    feed.pay(*[payment(f"x{number}", T + 500 * number) for number in range(10)])  # trimmed, too
    ttls = {
        key.decode().rsplit("}:", 1)[1]: valkey.client.pttl(key)
        for key in valkey.keys(feed.backend)
    }
    assert ttls.pop("watermarks") == -1
    assert set(ttls) == {"card_tx:c1", "terminal_tx:t1"}
    assert all(ttl_ms > 2 * HORIZON_MS for ttl_ms in ttls.values())


@pytest.mark.services
def test_the_life_of_a_series_is_renewed_on_each_new_day_of_its_events(valkey: ValkeyPlace) -> None:
    backend = valkey.open(LONG)
    record(backend, entry("a", T, 0, (1,)))
    (key,) = [key for key in valkey.keys(backend) if key.endswith(b":card_tx:c1")]
    valkey.client.pexpire(key, 60_000)
    record(backend, entry("b", T + 1_000, 1, (1,)))
    assert valkey.client.pttl(key) <= 60_000
    record(backend, entry("c", T + DAY_MS, 2, (1,)))
    assert valkey.client.pttl(key) > 60_000


@pytest.mark.services
def test_a_server_that_may_evict_keys_is_refused(own_valkey: ValkeyPlace) -> None:
    own_valkey.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnfitError, match="maxmemory-policy is allkeys-lru"):
        Feed(own_valkey.open(DEFINITION))
    assert own_valkey.client.dbsize() == 0
    own_valkey.client.config_set("maxmemory-policy", "noeviction")
    Feed(own_valkey.open(DEFINITION)).pay(payment("a", T))


@pytest.mark.services
def test_a_server_without_memory_left_is_away_and_nothing_is_half_written(
    own_valkey: ValkeyPlace,
) -> None:
    feed = Feed(own_valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    before = own_valkey.kept(feed.backend)
    own_valkey.client.config_set("maxmemory", 1)
    located = feed.read(payment("b", T + 1))
    with pytest.raises(StoreUnavailableError):
        feed.apply(located)
    assert own_valkey.kept(feed.backend) == before
    own_valkey.client.config_set("maxmemory", 0)
    wait_until(lambda: is_available(feed.backend), timeout_s=5)
    assert answers_of(feed.apply(located))[0].counts[0] == 2


def is_available(backend: ProfileBackend) -> bool:
    try:
        backend.require_available()
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.services
def test_a_server_restarted_empty_gets_our_functions_back_and_the_loss_is_noticed(
    own_valkey: ValkeyPlace,
) -> None:
    feed = Feed(own_valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    own_valkey.client.flushall()
    own_valkey.client.function_flush("SYNC")
    with pytest.raises(ProfileLossError):
        feed.pay(payment("b", T + 1))
    assert own_valkey.client.dbsize() == 0
    assert own_valkey.client.function_list()


@pytest.mark.services
def test_two_releases_of_the_functions_live_side_by_side(own_valkey: ValkeyPlace) -> None:
    """Loading is never replacing: the library is named by the hash of its content."""
    own_valkey.client.function_load(
        "#!lua name=fraudstream_000000000000\n"
        "redis.register_function('fs_apply_000000000000', function() return 'older' end)"
    )
    Feed(own_valkey.open(DEFINITION)).pay(payment("a", T))
    assert own_valkey.client.fcall("fs_apply_000000000000", 0) == b"older"
    assert len(own_valkey.client.function_list()) == 2


def test_a_server_that_is_gone_is_away_and_is_left_alone_for_a_moment() -> None:
    backend = ValkeyBackend(
        f"redis://127.0.0.1:{find_free_port()}/0",
        DEFINITION,
        namespace="nobody",
        limits=ValkeyLimits(breaker_min_s=30.0, breaker_max_s=30.0),
    )
    with pytest.raises(StoreUnavailableError, match="ConnectionError"):
        backend.states()
    with pytest.raises(StoreUnavailableError, match="left alone"):
        backend.states()
    with pytest.raises(StoreUnavailableError, match="left alone"):
        backend.require_available()
    backend.close()


@pytest.mark.services
def test_an_error_about_the_store_never_tells_its_password(own_valkey: ValkeyPlace) -> None:
    port = own_valkey.url.split(":")[-1]
    backend = ValkeyBackend(
        f"redis://user:canary-secret@127.0.0.1:{port}", DEFINITION, namespace="x", limits=PATIENT
    )
    with pytest.raises((StoreUnavailableError, StoreUnfitError)) as caught:
        backend.states()
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    backend.close()
    assert isinstance(caught.value.__cause__, redis.RedisError)


def test_a_batch_that_comes_again_reads_what_it_read_although_it_spans_days(place: Place) -> None:
    """A crash after the profiles, before the commit: later events of the batch trimmed nothing."""
    feed = Feed(place.open(DEFINITION))
    past = [feed.read(payment(f"p{n}", T + n * DAY_MS)) for n in range(40)]
    for event in past:
        feed.apply(event)
    batch = [feed.read(payment(f"b{n}", T + (40 + 3 * n) * DAY_MS)) for n in range(10)]
    first, again = feed.apply(*batch), feed.apply(*batch)
    for name, answers in first.series.items():
        assert (answers.counts >= 0).all()
        assert answers.counts.tolist() == again.series[name].counts.tolist()
        assert answers.sums.tolist() == again.series[name].sums.tolist()
