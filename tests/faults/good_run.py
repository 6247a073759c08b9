"""A good history without services: the real pipeline over a made-up log, in a made-up worker.

The worker does what a real one does around the pipeline: it takes batches of any mixture, loses
some of its attempts after their batch was recorded, is without profiles for a while, repairs them
from the log. What it writes is kept as Kafka would keep it, markers included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
import orjson
from harness import BEGIN_MS, BUNDLE, DAY_MS, Partition, Position, Row
from history import Attempt, FaultWindow, History, contents_of, entities_of

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.alert import Encoder, ModelIdentity, OutputRecord, OutputTopics
from fraudstream.bundle import load_bundle
from fraudstream.decision import Policy
from fraudstream.errors import StoreUnavailableError
from fraudstream.event import EventRules, Record
from fraudstream.pipeline import InputBatch, InputTopics, Models, Pipeline
from fraudstream.profile import (
    InputPartition,
    ProfileAnswers,
    ProfileBatch,
    ProfileDefinition,
    Stretch,
)

PARTITIONS = 3
PAYMENTS, CARDS, TERMINALS = 420, 12, 5
#: Longer than the profiles' horizon: something is trimmed, something comes too late.
SPAN_MS = 60 * DAY_MS
#: When the first record is published; a record every 20 ms.
WALL_MS = BEGIN_MS + 100 * DAY_MS
STEP_MS = 20
BATCH_MAX = 24
#: Low, so that there are many alerts.
REVIEW_THRESHOLD = 0.05
#: The batches that are decided without profiles.
AWAY = range(14, 17)
IN = InputTopics("in.transactions", "in.labels")
IN_TOPICS = (IN.transactions, IN.labels)
OUT = OutputTopics("out.decisions", "out.alerts", "out.dead-letters")
KINDS = {OUT.decisions: "decisions", OUT.alerts: "alerts", OUT.dead_letters: "dead_letters"}
#: What becomes of attempts, and how often.
FATES = {
    "committed": 0.74, "aborted": 0.08, "begun": 0.08, "unknown": 0.05, "unknown_committed": 0.05,
}  # fmt: skip
Event: TypeAlias = "dict[str, Any]"


class Published(NamedTuple):
    """An input on its way into the log."""

    topic: str
    key: bytes
    value: bytes | None


# ------------------------------------------------------------------ the log


def make_log(rng: np.random.Generator) -> list[Row]:
    """Make the input topics: in order mostly, with everything that publishers may do."""
    ends: dict[Partition, int] = {}
    rows = []
    for number, sent in enumerate(_published(rng)):
        place = (sent.topic, crc32(sent.key) % PARTITIONS)
        offset = ends.get(place, 0) + (rng.random() < 0.05)  # a marker takes an offset too
        ends[place] = offset + 1
        at_ms = WALL_MS + number * STEP_MS
        rows.append(Row(*place, offset, at_ms, sent.key, sent.value, {}))
    return rows


def _published(rng: np.random.Generator) -> Iterator[Published]:
    times_ms = BEGIN_MS + np.sort(rng.integers(0, SPAN_MS, PAYMENTS))
    reported: list[tuple[int, Event]] = []
    sent: list[Event] = []
    for number, now_ms in enumerate(times_ms.tolist()):
        while reported and reported[0][0] <= now_ms:
            yield _label(reported.pop(0)[1])
        event = _payment(rng, number, now_ms)
        sent.append(event)
        yield _transaction(event)
        if rng.random() < 0.15:
            reported = sorted([*reported, *_findings(rng, event)], key=lambda found: found[0])
        if rng.random() < 0.06:
            yield _transaction(sent[int(rng.integers(max(0, number - 40), number + 1))])
        if rng.random() < 0.04:
            yield _bad(rng, event)


def _payment(rng: np.random.Generator, number: int, now_ms: int) -> Event:
    """Make a payment; some come minutes late, a few weeks."""
    late_ms = int(rng.integers(60_000, DAY_MS)) if rng.random() < 0.12 else 0
    late_ms = 45 * DAY_MS if number in {380, 400} else late_ms
    currency = "USD" if rng.random() < 0.05 else "EUR"
    event: Event = {
        "transaction_id": f"g{number}",
        "event_time": max(BEGIN_MS, now_ms - late_ms),
        "card_id": f"c{rng.integers(CARDS)}",
        "terminal_id": f"t{rng.integers(TERMINALS)}",
        "amount_minor": int(rng.lognormal(8.3, 1.2)),
        "currency": currency,
    }
    return event


def _findings(rng: np.random.Generator, event: Event) -> list[tuple[int, Event]]:
    """Make a finding some days later, and of some a second that says otherwise."""
    shared = {n: event[n] for n in ("transaction_id", "event_time", "card_id", "terminal_id")}
    at_ms = event["event_time"] + int(rng.integers(DAY_MS, 10 * DAY_MS))
    first = shared | {"is_fraud": True, "reported_at": at_ms, "source": "test"}
    if rng.random() > 0.4:
        return [(at_ms, first)]
    second = first | {"is_fraud": False, "reported_at": at_ms + int(rng.integers(0, 2)) * DAY_MS}
    return [(at_ms, first), (at_ms + 2 * DAY_MS, second), (at_ms + 3 * DAY_MS, first)]


def _transaction(event: Event) -> Published:
    return Published(IN.transactions, event["card_id"].encode(), orjson.dumps(event))


def _label(event: Event) -> Published:
    return Published(IN.labels, event["terminal_id"].encode(), orjson.dumps(event))


def _bad(rng: np.random.Generator, event: Event) -> Published:
    key = event["card_id"].encode()
    return (
        Published(IN.transactions, key, b"{"),
        Published(IN.transactions, key, None),
        Published(IN.transactions, key, orjson.dumps(event | {"amount_minor": -1})),
        Published(IN.labels, event["terminal_id"].encode(), b"[]"),
    )[int(rng.integers(4))]


# ------------------------------------------------------------------ the worker


class FlakyStore:
    """A profile store that is away when it is told to be.

    Parameters
    ----------
    inner
        The store.
    """

    def __init__(self, inner: BucketedProfileStore) -> None:
        self.inner = inner
        self.is_away = False

    @property
    def definition(self) -> ProfileDefinition:
        """The series it keeps."""
        return self.inner.definition

    def apply(self, batch: ProfileBatch) -> ProfileAnswers:
        """Record a batch and read its windows, or be away."""
        if self.is_away:
            raise StoreUnavailableError("away")
        return self.inner.apply(batch)


@dataclass
class Worker:
    """Decides a log; keeps all that is left behind.

    Parameters
    ----------
    log
        The input topics, in the order in which they were published.
    rng
        How batches are cut, and what becomes of them.
    """

    log: Sequence[Row]
    rng: np.random.Generator
    outputs: dict[str, list[Row]] = field(default_factory=lambda: {k: [] for k in KINDS.values()})
    uncommitted: dict[str, list[Row]] = field(
        default_factory=lambda: {k: [] for k in KINDS.values()}
    )
    attempts: list[Attempt] = field(default_factory=list)
    seen_at_ms: dict[Position, int] = field(default_factory=dict)
    ends: dict[Partition, int] = field(default_factory=dict)
    now_ms: int = 0
    _run: int = 0
    _numbers: int = 0

    def __post_init__(self) -> None:
        """Start with nothing read and nothing remembered."""
        self.bundle = load_bundle(BUNDLE)
        self.rules = EventRules(extra_fields=self.bundle.feature_set.extra_fields)
        definition = self.bundle.feature_set.profile_definition("EUR")
        self.store = FlakyStore(BucketedProfileStore(definition, MemoryBackend(definition)))
        self._pipeline = self._make_pipeline()
        self.queues: dict[Partition, list[Row]] = {
            (topic, number): [] for topic in IN_TOPICS for number in range(PARTITIONS)
        }
        for row in self.log:
            self.queues[row.topic, row.partition].append(row)
        self.positions = dict.fromkeys(self.queues, 0)
        self.store.inner.attach({IN.partition(*place): AttachPoint(0, 0) for place in self.queues})

    def run(self) -> None:
        """Decide everything."""
        number = 0
        while batch := self._take():
            self.store.is_away = number in AWAY
            if not self.store.is_away:
                self._repair()
            self._attempt(batch, is_last_try=self.store.is_away)
            number += 1
        self._repair()
        self.store.inner.advance({IN.partition(*p): o for p, o in self.positions.items()})

    def _take(self) -> list[Row]:
        """Take some of what was published up to now, partition by partition in order."""
        left = [
            [row for row in queue if row.offset >= self.positions[place]]
            for place, queue in self.queues.items()
        ]
        left = [queue for queue in left if queue]
        if not left:
            return []
        oldest_ms = min(queue[0].timestamp_ms for queue in left)
        self.now_ms = max(self.now_ms, oldest_ms) + int(self.rng.integers(5, 600))
        ready = [[r for r in queue if r.timestamp_ms <= self.now_ms] for queue in left]
        batch: list[Row] = []
        while (open_ := [queue for queue in ready if queue]) and len(batch) < BATCH_MAX:
            batch.append(open_[int(self.rng.integers(len(open_)))].pop(0))
        return batch

    def _attempt(self, batch: Sequence[Row], *, is_last_try: bool) -> None:
        """Decide a batch; commit it, or not."""
        ends = {row.place[:2]: row.offset + 1 for row in batch}
        processed = self._pipeline.process(self._input_batch(batch, ends))
        fate = "committed" if is_last_try else self._fate()
        self._numbers += 1
        name = f"good-0-0/{self._run:08x}/{self._numbers}"
        begun_at_ms, self.now_ms = self.now_ms, self.now_ms + int(self.rng.integers(2, 30))
        is_committed = fate in {"committed", "unknown_committed"}
        self._write(name, processed.outputs, is_visible=is_committed)
        state = fate.partition("_")[0]
        resolved = is_committed if state == "unknown" else None
        ended_at_ms = None if state == "begun" else self.now_ms
        records = len(processed.outputs)
        self.attempts.append(
            Attempt(name, 0, state, records, ends, begun_at_ms, ended_at_ms, resolved)
        )
        if is_committed:
            self.positions |= ends
            self.now_ms += 2
            decided = [row.place for row in batch if row.topic == IN.transactions]
            self.seen_at_ms |= dict.fromkeys(decided, self.now_ms)
        if state == "begun":
            self._run, self._numbers = self._run + 1, 0

    def _fate(self) -> str:
        return str(self.rng.choice(list(FATES), p=list(FATES.values())))

    def _write(self, name: str, outputs: Sequence[OutputRecord], *, is_visible: bool) -> None:
        touched: set[Partition] = set()
        for output in outputs:
            headers = {name: value.decode() for name, value in output.headers if value is not None}  # type: ignore[union-attr]
            headers |= {"fs_attempt": name, "fs_attempt_records": str(len(outputs))}
            place = (output.topic, int(headers["fs_source_partition"]))
            offset = self.ends.get(place, 0)
            self.ends[place] = offset + 1
            row = Row(*place, offset, self.now_ms, output.key, output.value, headers)
            touched.add(place)
            self.uncommitted[KINDS[output.topic]].append(row)
            if is_visible:
                self.outputs[KINDS[output.topic]].append(row)
        for place in touched:
            self.ends[place] += 1  # the marker

    def _repair(self) -> None:
        """Read again what is missing from the profiles."""
        applied = self.store.inner.applied
        for place, position in self.positions.items():
            start = applied[IN.partition(*place)]
            if start < position:
                missing = [r for r in self.queues[place] if start <= r.offset < position]
                batch = InputBatch(
                    [_record(row) for row in missing],
                    {IN.partition(*place): Stretch(start, position)},
                )
                self.store.inner.repair(self._pipeline.parse(batch))

    def _input_batch(self, rows: Sequence[Row], ends: Mapping[Partition, int]) -> InputBatch:
        stretches: dict[InputPartition, Stretch] = {
            IN.partition(*place): Stretch(self.positions[place], end) for place, end in ends.items()
        }
        return InputBatch([_record(row) for row in rows], stretches)

    def _make_pipeline(self) -> Pipeline:
        bundle, policy = self.bundle, Policy(REVIEW_THRESHOLD, 0.4, 0.1)
        return Pipeline(
            topics=IN,
            rules=self.rules,
            store=self.store,
            models=Models(bundle.model, bundle.fallback, bundle.features, bundle.reasons),
            policy=policy,
            encoder=Encoder(
                OUT,
                ModelIdentity(bundle.name, bundle.version, bundle.sha256),
                policy.version,
                tuple(feature.name for feature in bundle.features),
            ),
            stopwatch=lambda: 0.0,
        )


def _record(row: Row) -> Record:
    return Record(row.topic, row.partition, row.offset, row.timestamp_ms, row.key, row.value)


# ------------------------------------------------------------------ what is left


@cache
def good_history(seed: int = 1) -> History:
    """Make a history in which nothing is wrong. It is shared: copy what is to be changed."""
    rng = np.random.default_rng(seed)
    log = make_log(rng)
    worker = Worker(log, rng)
    worker.run()
    store, rules = worker.store.inner, worker.rules
    places = [(topic, number) for topic in (*KINDS, *IN_TOPICS) for number in range(PARTITIONS)]
    ends = {place: worker.ends.get(place, 0) for place in places}
    ends |= {place: queue[-1].offset + 1 for place, queue in worker.queues.items() if queue}
    away = worker.attempts[AWAY.start : AWAY.stop]
    fault = FaultWindow("profiles away", away[0].begun_at_ms, away[-1].ended_at_ms or 0)
    return History(
        bundle=worker.bundle,
        transactions_topic=IN.transactions,
        labels_topic=IN.labels,
        inputs=sorted(log, key=lambda row: row.place),
        outputs={kind: _ordered(rows) for kind, rows in worker.outputs.items()},
        uncommitted={kind: _ordered(rows) for kind, rows in worker.uncommitted.items()},
        attempts=worker.attempts,
        committed=dict(worker.positions),
        stable=dict(ends),
        ends=ends,
        watermarks={(IN.topic(p), p.partition): o for p, o in store.watermarks().items()},
        profiles=dict(contents_of(store, entities_of(log, IN.labels, rules))),
        seen_at_ms=worker.seen_at_ms,
        faults=[fault],
        workers=1,
        recovery_ms=50,
        rules=rules,
    )


def _ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.partition, row.offset))
