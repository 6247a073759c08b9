"""What a run left behind, as plain data: topics, offsets, profiles, and the workers' own journals.

    collect ──▶ History ──check──▶ Verdict          (checker.py)
                   ▲
                   └── damaged.py, to prove the checker

Everything is read after a quiet period, when nothing is being written. A history does not know how
it came about: one of real workers, one of the pipeline alone and one damaged by hand look alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from harness import BUNDLE, Deployment, Partition, Position, Row
from services import Services

from fraudstream.adapters.profile_backend import SeriesContent
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits
from fraudstream.bundle import Bundle, load_bundle
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import EventRules, Label, Record, Transaction, parse_label, parse_transaction
from fraudstream.pipeline import InputTopics
from fraudstream.profile import ProfileDefinition

OUTPUT_KINDS = ("decisions", "alerts", "dead_letters")
CURRENCY = "EUR"
#: Back within the session's time-out, and what a busy machine adds to it.
RECOVERY_MS = 15_000
_REQUEST_TIMEOUT_S = 15.0
_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
#: Series name, entity.
SeriesKey: TypeAlias = "tuple[str, str]"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One transaction, from a worker's journal.

    Attributes
    ----------
    attempt
        As in the header ``fs_attempt``: ``<transactional id>/<run>/<n>``.
    slot
        Whose it was.
    state
        ``begun`` (the worker died in it), ``committed``, ``aborted``, or ``unknown``.
    records
        How many outputs it produced.
    ends
        The offsets that it sent.
    begun_at_ms, ended_at_ms
        Wall clock; no end where it has none.
    was_committed
        What the worker found out about an unknown outcome; None: it did not, or need not.
    """

    attempt: str
    slot: int
    state: str
    records: int
    ends: Mapping[Partition, int]
    begun_at_ms: int
    ended_at_ms: int | None
    was_committed: bool | None = None

    @property
    def is_committed(self) -> bool | None:
        """Whether its worker knows it to be committed (True), or not (False); None: it does not."""
        if self.state == "unknown":
            return self.was_committed
        return {"committed": True, "aborted": False}.get(self.state)


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """A fault, from its cause to the end of its cause. Wall clock."""

    name: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """A record of a profile series; ``version_ms`` is 0 where the series keeps none."""

    time_ms: int
    id_hash: bytes
    values: tuple[int, ...]
    version_ms: int = 0


@dataclass
class History:
    """What a run left behind.

    Attributes
    ----------
    bundle
        The models that decided, and what is remembered for them.
    transactions_topic, labels_topic
        Names of the input topics.
    inputs
        Transactions and labels as workers may read them (read_committed), ordered by topic,
        partition and offset.
    outputs
        By kind (`OUTPUT_KINDS`), at read_committed, in log order.
    uncommitted
        The same topics at read_uncommitted.
    attempts
        From the workers' journals; may be empty.
    committed
        The group's offsets.
    stable, ends
        Last stable offset and high watermark of all five topics.
    watermarks
        How far each input partition was applied to the profiles.
    profiles
        Final content by series name and entity; an entity without content is not there.
    seen_at_ms
        By source position, when a live read_committed reader saw its decision.
    faults
        What was done to the run.
    workers
        How many ran at once. Terminal features are checked only with one.
    recovery_ms
        How long after a fault ``degraded`` is still allowed.
    rules
        How input records are read.
    log_starts
        By input partition, the first offset that the log still had, where that is not 0.
    known_from_ms
        The profiles' floor: windows that begin before it may be unknown. 0 with a whole log.
    rewound
        By input partition, stretches of offsets that were given back on purpose, and are therefore
        decided again.
    """

    bundle: Bundle
    transactions_topic: str
    labels_topic: str
    inputs: list[Row]
    outputs: dict[str, list[Row]]
    uncommitted: dict[str, list[Row]]
    attempts: list[Attempt]
    committed: dict[Partition, int]
    stable: dict[Partition, int]
    ends: dict[Partition, int]
    watermarks: dict[Partition, int]
    profiles: dict[SeriesKey, list[ProfileRecord]]
    seen_at_ms: dict[Position, int]
    faults: list[FaultWindow]
    workers: int
    recovery_ms: int
    rules: EventRules = field(default_factory=EventRules)
    log_starts: dict[Partition, int] = field(default_factory=dict)
    known_from_ms: int = 0
    rewound: dict[Partition, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def definition(self) -> ProfileDefinition:
        """What the profiles keep."""
        return self.bundle.feature_set.profile_definition(self.rules.currency)


def read_event(row: Row, labels_topic: str, rules: EventRules) -> Transaction | Label | Reason:
    """Read an input record as the contract says; what is no event has a reason."""
    record = Record(row.topic, row.partition, row.offset, row.timestamp_ms, row.key, row.value)
    try:
        if row.topic == labels_topic:
            return parse_label(record, rules)
        return parse_transaction(record, rules)
    except InvalidEventError as error:
        return error.reason


# ------------------------------------------------------------------ journals


def read_journals(paths: Iterable[Path]) -> list[Attempt]:
    """Read the attempts of all workers, in the order in which they were begun.

    A worker that was killed stops in the middle of an attempt, or even of a line.
    """
    attempts: dict[str, Attempt] = {}
    for path in paths:
        for line in path.read_bytes().split(b"\n")[:-1]:
            _note(attempts, orjson.loads(line))
    return sorted(attempts.values(), key=lambda attempt: attempt.begun_at_ms)


def _note(attempts: dict[str, Attempt], line: Mapping[str, Any]) -> None:
    name, event, at_ms = line["attempt"], line["event"], int(line["at_ms"])
    known = attempts.get(name)
    if known is None:
        known = Attempt(name, int(line["slot"]), "begun", 0, {}, at_ms, None)
    ends = {(topic, partition): offset for topic, partition, offset in line.get("ends") or ()}
    known = replace(known, records=line.get("records") or known.records, ends=ends or known.ends)
    if event == "resolved":
        known = replace(known, state="unknown", was_committed=bool(line["was_committed"]))
    elif event != "begun":
        known = replace(known, state=event, ended_at_ms=at_ms)
    attempts[name] = known


# ------------------------------------------------------------------ collecting


def collect(
    deployment: Deployment,
    services: Services,
    *,
    journals: Iterable[Path] = (),
    faults: Sequence[FaultWindow] = (),
    seen_at_ms: Mapping[Position, int] | None = None,
    workers: int = 1,
    recovery_ms: int = RECOVERY_MS,
    earlier_inputs: Sequence[Row] = (),
    rewound: Mapping[Partition, list[tuple[int, int]]] | None = None,
    bundle: Bundle | None = None,
) -> History:
    """Read everything that a deployment left behind. Its workers have stopped.

    Parameters
    ----------
    deployment, services
        Whose, and where to reach Kafka and Valkey without any proxy.
    journals
        Files of the workers, one or more; none is fine.
    faults, seen_at_ms, workers, recovery_ms, rewound
        See `History`.
    earlier_inputs
        Input records that the log held once and no longer does.
    bundle
        The default one if None.
    """
    bundle = bundle or load_bundle(BUNDLE)
    rules = EventRules(currency=CURRENCY, extra_fields=bundle.feature_set.extra_fields)
    labels_topic = deployment.topics["labels"]
    inputs = _inputs(deployment, earlier_inputs)
    firsts = _offsets(deployment, _EARLIEST)
    log_starts = {p: firsts[p] for p in deployment.input_partitions() if firsts[p]}
    topics = InputTopics(deployment.topics["transactions"], labels_topic)
    entities = entities_of(inputs, labels_topic, rules)
    definition = bundle.feature_set.profile_definition(rules.currency)
    outputs = {kind: deployment.drain(kind) for kind in OUTPUT_KINDS}
    with _store(services.valkey_url, deployment.name, definition) as store:
        watermarks, profiles = store.watermarks(), dict(contents_of(store, entities))
        floor_ms = store.floor_ms()
    return History(
        bundle=bundle,
        transactions_topic=topics.transactions,
        labels_topic=labels_topic,
        inputs=inputs,
        outputs=outputs,
        uncommitted={kind: _all_rows(deployment, kind, outputs[kind]) for kind in OUTPUT_KINDS},
        attempts=read_journals(journals),
        committed=deployment.committed(),
        stable=_offsets(deployment, _LATEST, is_committed=True),
        ends=_offsets(deployment, _LATEST),
        watermarks={(topics.topic(p), p.partition): o for p, o in watermarks.items()},
        profiles=profiles,
        seen_at_ms=dict(seen_at_ms or {}),
        faults=list(faults),
        workers=workers,
        recovery_ms=recovery_ms,
        rules=rules,
        log_starts=log_starts,
        known_from_ms=floor_ms if log_starts else 0,
        rewound=dict(rewound or {}),
    )


def _inputs(deployment: Deployment, earlier: Sequence[Row]) -> list[Row]:
    rows = {row.place: row for row in earlier}
    rows |= {r.place: r for kind in ("transactions", "labels") for r in deployment.drain(kind)}
    return [rows[place] for place in sorted(rows)]


def _all_rows(deployment: Deployment, kind: str, visible: Sequence[Row]) -> list[Row]:
    """Drain at read_uncommitted; what is visible anyway is kept once."""
    known = {(row.partition, row.offset): row for row in visible}
    rows = deployment.drain(kind, "read_uncommitted")
    return [known.get((row.partition, row.offset), row) for row in rows]


def _offsets(
    deployment: Deployment, spec: OffsetSpec, *, is_committed: bool = False
) -> dict[Partition, int]:
    """Ask for an offset of every partition of all five topics."""
    level = IsolationLevel.READ_COMMITTED if is_committed else IsolationLevel.READ_UNCOMMITTED
    places = itertools.product(deployment.topics.values(), range(deployment.partitions))
    # Not the deployment's own client: one that knew the broker before it was restarted asks with
    # leaders that are none any more, and is refused.
    admin = deployment.fresh_admin()
    futures = admin.list_offsets(
        {TopicPartition(topic, number): spec for topic, number in places},
        isolation_level=level,
        request_timeout=_REQUEST_TIMEOUT_S,
    )
    return {
        (place.topic, place.partition): future.result(_REQUEST_TIMEOUT_S).offset
        for place, future in futures.items()
    }


def entities_of(inputs: Iterable[Row], labels_topic: str, rules: EventRules) -> dict[str, set[str]]:
    """Give the entities that the inputs name, by event field."""
    found: dict[str, set[str]] = {"card_id": set(), "terminal_id": set()}
    for row in inputs:
        event = read_event(row, labels_topic, rules)
        if not isinstance(event, Reason):
            found["card_id"].add(event.card_id)
            found["terminal_id"].add(event.terminal_id)
    return found


@contextmanager
def _store(
    url: str, namespace: str, definition: ProfileDefinition
) -> Iterator[BucketedProfileStore]:
    """Look at the profiles as they lie in Valkey, without haste."""
    limits = ValkeyLimits(deadline_s=20.0, connect_timeout_s=5.0)
    backend = ValkeyBackend(url, definition, namespace=namespace, limits=limits)
    try:
        yield BucketedProfileStore(definition, backend)
    finally:
        backend.close()


def contents_of(
    store: BucketedProfileStore, entities: Mapping[str, set[str]]
) -> Iterator[tuple[SeriesKey, list[ProfileRecord]]]:
    """Read what a store holds of entities, by event field."""
    for series in store.definition.series:
        for entity in sorted(entities[series.entity]):
            content = store.content(series.name, entity)
            if content is not None:
                yield (series.name, entity), _records(content)


def _records(content: SeriesContent) -> list[ProfileRecord]:
    run = content.run
    hashes = run.hashes.astype(">u8").tobytes()
    rows = zip(run.times_ms.tolist(), run.values.tolist(), run.versions_ms.tolist(), strict=True)
    return [
        ProfileRecord(time_ms, hashes[8 * n : 8 * n + 8], tuple(values), version_ms)
        for n, (time_ms, values, version_ms) in enumerate(rows)
    ]
