"""What the contract tests say to a store: events, entries, and a worker that feeds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from oracle import NO_POSITION
from places import KeptRecord

from fraudstream.adapters.profile_backend import (
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    ProfileBackend,
    SeriesContent,
    SeriesRun,
    pack_position,
)
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileAnswers,
    ProfileBatch,
    ProfileDefinition,
    Scan,
    Series,
    Stretch,
    Window,
    id_hash,
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
WITHOUT_PRESENT = Window(LENGTH_MS, counts_present=False)
#: The same with everything else that can be asked of a series.
RICH = ProfileDefinition(
    (
        Series(
            "card_tx",
            "card_id",
            "transactions",
            ("amount_minor", "amount_known"),
            (PLAIN, LAGGED, WITHOUT_PRESENT),
            LATENESS_MS,
            attributes=("terminal_id", "mcc"),
            scans=(
                Scan("distinct", PLAIN, "terminal_id"),
                Scan("distinct", WITHOUT_PRESENT, "mcc"),
                Scan("distinct", LAGGED, "mcc"),
                Scan("quantile", PLAIN, per_mille=500),
                Scan("quantile", WITHOUT_PRESENT, per_mille=900),
                Scan("last", PLAIN),
                Scan("last", LAGGED),
            ),
        ),
        Series("terminal_tx", "terminal_id", "transactions", (), (LAGGED,), LATENESS_MS),
        Series(
            "terminal_label",
            "terminal_id",
            "labels",
            ("fraud",),
            (LAGGED,),
            LATENESS_MS,
            scans=(Scan("last", PLAIN),),
        ),
        Series("device_tx", "device_id", "transactions", ("amount_minor",), (PLAIN,), LATENESS_MS),
        Series("mcc_tx", "mcc", "transactions", (), (), LATENESS_MS),
    )
)
#: Series that grow long before anything is trimmed.
LONG = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", ("amount_minor",), (Window(DAY_MS),)),
        Series("terminal_tx", "terminal_id", "transactions", (), (Window(DAY_MS),)),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), (Window(DAY_MS),)),
    )
)


class Answer(NamedTuple):
    """What one series says of one payment."""

    outcome: int
    marks: int
    counts: list[int]
    sums: list[list[int]]
    scans: list[int]
    is_absent: bool


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
            found.scans.tolist(),
            found.absent.tolist(),
            strict=True,
        )
    ]


def all_answers(answers: ProfileAnswers) -> dict[str, list[Answer]]:
    return {name: answers_of(answers, name) for name in answers.series}


def payment(
    name: str,
    time_ms: int,
    amount: int | None = 100,
    card: str = "c1",
    terminal: str = "t1",
    **extra: str | None,
) -> Transaction:
    return Transaction(
        name, time_ms, card, terminal, amount or 0, "EUR", amount, extra=tuple(extra.items())
    )


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
    attributes: tuple[bytes, ...] = (),
) -> Entry:
    """Make an entry as the store does; without an offset it did not come through Kafka."""
    position = NO_POSITION if offset is None else pack_position(PAYMENTS, offset)
    entity = "c1" if series == CARD_TX else "t1"
    return Entry(
        series, entity, True, time_ms, id_hash(name), position, version_ms, values, attributes
    )


@dataclass
class Passing:
    """Passes everything on to another backend: a base for such as do something on the way."""

    inner: ProfileBackend

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        return self.inner.apply(requests)

    def require_available(self) -> None:
        self.inner.require_available()

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


def rows(reply: BucketReply, series: int = CARD_TX) -> list[list[int]]:
    assert reply.is_applied
    return [[int(number) for number in row] for row in reply.rows[series].tolist()]


def run_of(
    definition: ProfileDefinition, series: int, entity: str, records: Sequence[KeptRecord]
) -> SeriesRun:
    """Make a run to merge of records in order."""
    count, wanted = len(records), definition.series[series]
    attributes = np.frombuffer(b"".join(b"".join(r.attributes) for r in records), dtype=">u8")
    values = np.array([r.values for r in records], dtype=np.int64)
    return SeriesRun(
        series,
        entity,
        np.array([r.time_ms for r in records], dtype=np.int64),
        np.frombuffer(b"".join(r.id_hash for r in records), dtype=">u8"),
        np.frombuffer(b"".join(r.position for r in records), dtype=">u8"),
        np.array([r.version_ms for r in records], dtype=np.int64),
        values.reshape(count, len(wanted.measures)),
        attributes.reshape(count, len(wanted.attributes)),
    )


def record(backend: ProfileBackend, *entries: Entry) -> list[tuple[int, int]]:
    """Record entries without a stretch; give the outcome and marks of each."""
    (reply,) = backend.apply([BucketRequest(0, {}, list(entries))])
    return [(row[0], row[1]) for row in rows(reply, entries[0].series)]


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


def batch_ends(events: Sequence[Located]) -> Mapping[InputPartition, int]:
    return {p: stretch.end for p, stretch in batch_of(events).stretches.items()}
