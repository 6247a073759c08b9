"""Makes profiles anew out of the log, in bulk: ``fraudstream rebuild``.

    file before the log ─┐
    transactions, labels ┴▶ parse ─▶ columns ─▶ sorted runs ─▶ merge (in a thread) ─┐
                                                                                    ▼
    marks "being rebuilt" first ······································ watermarks, floor last

What is there already stays, and what is merged twice counts once, so it may be run at any time and
again, with workers running. They take the profiles for whole only when they are: partitions of
which the store remembers nothing are marked first, and the watermarks that take the marks away are
written last. What is collected is merged whenever a budget is reached, so memory is bounded.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from fraudstream.adapters.kafka_bulk import BulkSlice, KafkaBulk, Place, PlaceRange
from fraudstream.adapters.profile_backend import SeriesRun
from fraudstream.adapters.profile_runs import RunCollector, portions, positions_of
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.erasures import ErasureKeeper, ErasureList
from fraudstream.errors import (
    InvalidEventError,
    ProfileLossError,
    ServiceAwayError,
    StoreUnavailableError,
)
from fraudstream.event import (
    EventRules,
    Label,
    Record,
    Transaction,
    parse_label,
    parse_transaction,
)
from fraudstream.pipeline import InputTopics
from fraudstream.profile import DAY_MS, LABELS_TOPIC_NUMBER, InputPartition, ProfileBatch, Stretch
from fraudstream.repair import FIRST_RECORDS, cut_off

if TYPE_CHECKING:  # what reads files is an extra, and a worker does without it
    from fraudstream.replay.past import Past
    from fraudstream.replay.stream import ReplayEvent

#: So many events are held in memory, some 80 bytes each, before they are merged. The more, the
#: longer the runs and the fewer the calls.
EVENTS_HELD_MAX = 200_000
#: So many records go to the store at once.
_MERGE_RECORDS = 16_384
#: How long the store may be away.
_PATIENCE_S = 30.0
_RETRY_INTERVAL_S = 0.2
_PAST_SLICE = 2_000
#: Later than any time: of a file no time is too far in the future.
_NO_TIMESTAMP_MS = 2**53

_EventT = TypeVar("_EventT", Transaction, Label)
_AnswerT = TypeVar("_AnswerT")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is: offsets of the log that are behind, and that there are."""

    events: int
    offsets: int
    offsets_total: int


@dataclass(slots=True)
class RebuildSummary:
    """What a rebuild did.

    Attributes
    ----------
    transactions, labels
        Events of the log that were merged.
    past_transactions, past_labels
        Events of the file.
    refused
        Records that are no events: they are in the dead letters.
    erased
        Entities that were met and are to stay forgotten.
    lost
        Input partitions of which the store remembered nothing.
    known_from_ms
        Nothing earlier is known; None if that did not change.
    is_past_joined
        Whether the file reaches up to where the log begins.
    seconds
        How long it took.
    """

    transactions: int = 0
    labels: int = 0
    past_transactions: int = 0
    past_labels: int = 0
    refused: int = 0
    erased: int = 0
    lost: int = 0
    known_from_ms: int | None = None
    is_past_joined: bool = True
    seconds: float = 0.0

    @property
    def events(self) -> int:
        """All events that were merged."""
        return self.transactions + self.labels + self.past_transactions + self.past_labels

    @property
    def events_per_s(self) -> float:
        """How fast it went."""
        return self.events / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class RebuildParts:
    """What a rebuild works with."""

    store: BucketedProfileStore
    bulk: KafkaBulk
    topics: InputTopics
    rules: EventRules
    erasures: ErasureList = field(repr=False)


class Rebuilder:
    """Rebuilds profiles once.

    Parameters
    ----------
    parts
        The store, the log, how records are read, and who is to stay forgotten.
    past
        What lies before the log.
    on_progress
        Called now and then.
    events_held_max
        How many events are held in memory.
    """

    def __init__(
        self,
        parts: RebuildParts,
        past: Past | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        events_held_max: int = EVENTS_HELD_MAX,
    ) -> None:
        self._store = parts.store
        self._bulk = parts.bulk
        self._topics = parts.topics
        self._rules = parts.rules
        self._past = past
        self._on_progress = on_progress
        self._events_held_max = events_held_max
        self._keeper = ErasureKeeper(parts.store, parts.erasures)
        self._collector = RunCollector(
            parts.store.definition, self._keeper.meet if len(parts.erasures) else None
        )
        self._summary = RebuildSummary()
        #: By partition: event times of its first records, which say when the log begins.
        self._first_times_ms: dict[InputPartition, list[int]] = defaultdict(list)
        self._merger = ThreadPoolExecutor(1, thread_name_prefix="merge")
        self._merging: Future[None] | None = None
        self._generation = ""

    def run(self) -> RebuildSummary:
        """Rebuild, and say what was done.

        Raises
        ------
        ServiceAwayError
            Kafka or the store is away, or the store lost something meanwhile: run it again.
        """
        started_s = time.monotonic()
        try:
            with self._merger:
                truncated = self._take_over(self._survey())
                # Asked once more: a worker that marked a partition before it was taken over had
                # read no further than to here.
                ranges = self._survey()
                self._add_past()
                ends = self._add_log(ranges)
                self._flush()
                self._await_merge()
                self._set_floor(truncated)
                self._finish(ends)
        except ProfileLossError:
            raise ServiceAwayError(
                "the profile store lost something while it was rebuilt: run the command again"
            ) from None
        self._summary.seconds = time.monotonic() - started_s
        return self._summary

    # ------------------------------------------------------------------ before

    def _survey(self) -> dict[Place, PlaceRange]:
        names = [self._topics.transactions, self._topics.labels]
        found = self._bulk.survey(names, with_committed=True)
        if missing := [name for name in names if name not in {topic for topic, _ in found}]:
            raise ServiceAwayError(
                f"there is no topic {missing[0]}; `fraudstream topics create` makes it"
            )
        return found

    def _take_over(self, ranges: Mapping[Place, PlaceRange]) -> set[InputPartition]:
        """Mark what is lost; give the partitions whose beginning the log has forgotten."""
        points = {
            self._topics.partition(*place): AttachPoint(
                max(range_.committed or 0, range_.start), range_.start
            )
            for place, range_ in ranges.items()
        }
        lost = patiently(lambda: self._store.attach(points))
        self._summary.lost = len(lost)
        self._generation = patiently(self._store.generation)
        return cut_off(points, self._store.applied)

    # ------------------------------------------------------------------ reading

    def _add_past(self) -> None:
        if self._past is None:
            return
        events = self._past.events()
        while part := list(islice(events, _PAST_SLICE)):
            transactions = self._parse(_records(part, are_labels=False), parse_transaction)
            labels = self._parse(_records(part, are_labels=True), parse_label)
            self._collector.add_transactions([t for _, t in transactions], [0] * len(transactions))
            self._collector.add_labels([label for _, label in labels], [0] * len(labels))
            self._summary.past_transactions += len(transactions)
            self._summary.past_labels += len(labels)
            self._flush_if_due()
            self._on_progress(Progress(self._summary.events, 0, 0))
        # Before the log is: copies of the same payments in the log then claim these records.
        self._flush()

    def _add_log(self, ranges: Mapping[Place, PlaceRange]) -> dict[InputPartition, int]:
        """Collect all records; give the offsets up to which they were read."""
        total = sum(range_.end - range_.start for range_ in ranges.values())
        ends = {self._topics.partition(*place): range_.start for place, range_ in ranges.items()}
        starts = dict(ends)
        for part in self._bulk.read(ranges):
            partition = self._topics.partition(*part.place)
            self._add_slice(partition, part)
            ends[partition] = part.end
            self._flush_if_due()
            done = sum(ends[p] - starts[p] for p in ends)
            self._on_progress(Progress(self._summary.events, done, total))
        return ends

    def _add_slice(self, partition: InputPartition, part: BulkSlice) -> None:
        first_times_ms = self._first_times_ms[partition]
        if partition.topic_number == LABELS_TOPIC_NUMBER:
            labels = self._parse(part.records, parse_label)
            offsets = positions_of(partition, (offset for offset, _ in labels))
            self._collector.add_labels([label for _, label in labels], offsets)
            self._summary.labels += len(labels)
            if not first_times_ms:
                first_times_ms += [label.reported_at_ms for _, label in labels[:1]]
            return
        transactions = self._parse(part.records, parse_transaction)
        offsets = positions_of(partition, (offset for offset, _ in transactions))
        self._collector.add_transactions([t for _, t in transactions], offsets)
        self._summary.transactions += len(transactions)
        room = max(FIRST_RECORDS - len(first_times_ms), 0)
        first_times_ms += [t.event_time_ms for _, t in transactions[:room]]

    def _parse(
        self, records: Iterable[Record], parse: Callable[[Record, EventRules], _EventT]
    ) -> list[tuple[int, _EventT]]:
        """Validate records as a worker does; give offset and event of those that are valid."""
        rules, parsed = self._rules, []
        for record in records:
            try:
                parsed.append((record.offset, parse(record, rules)))
            except InvalidEventError:
                self._summary.refused += 1
        return parsed

    # ------------------------------------------------------------------ merging

    def _flush_if_due(self) -> None:
        if len(self._collector) >= self._events_held_max:
            self._flush()

    def _flush(self) -> None:
        """Begin to merge what was collected; the next events are parsed meanwhile."""
        self._await_merge()
        runs, met = self._collector.take(), self._keeper.take()
        self._summary.erased += len(met)
        self._merging = self._merger.submit(self._merge, runs, met)

    def _await_merge(self) -> None:
        if self._merging is not None:
            self._merging.result()

    def _merge(self, runs: Iterable[SeriesRun], met: dict[tuple[str, str], int]) -> None:
        patiently(lambda: self._keeper.settle(met))
        for portion in portions(runs, _MERGE_RECORDS):
            patiently(lambda: self._store.merge(portion))  # noqa: B023 - called at once

    # ------------------------------------------------------------------ after

    def _set_floor(self, truncated: set[InputPartition]) -> None:
        """Say from when on profiles are whole: from the file's beginning, or else the log's."""
        begins_ms = {p: max(times) for p, times in self._first_times_ms.items() if times}
        floor_ms = max((begins_ms[p] for p in truncated if p in begins_ms), default=None)
        past = self._past
        if past is not None:
            log_begins_ms = max(begins_ms.values(), default=past.last_ms)
            self._summary.is_past_joined = past.last_ms >= log_begins_ms - DAY_MS
            if self._summary.is_past_joined:
                first_ms = past.first_ms
                patiently(lambda: self._store.lower_floor(first_ms))
                self._summary.known_from_ms = first_ms
                floor_ms = None if floor_ms is None else first_ms
        if floor_ms is not None:
            raised_ms = floor_ms
            patiently(lambda: self._store.raise_floor(raised_ms))
            self._summary.known_from_ms = floor_ms

    def _finish(self, ends: Mapping[InputPartition, int]) -> None:
        """Move the watermarks of all buckets to the ends, which takes the marks away."""
        if patiently(self._store.generation) != self._generation:
            # Begun anew from what it had saved: what was merged since may be gone.
            raise ProfileLossError("the profile store was restarted while it was rebuilt")
        applied = dict(self._store.applied)
        stretches = {p: Stretch(min(applied[p], end), end) for p, end in ends.items()}
        patiently(lambda: self._store.repair(ProfileBatch((), (), stretches)))
        patiently(lambda: self._store.advance(self._store.applied))


def _records(events: Iterable[ReplayEvent], *, are_labels: bool) -> Iterator[Record]:
    for event in events:
        if event.is_label == are_labels:
            yield Record("file", 0, 0, _NO_TIMESTAMP_MS, None, event.value)


def patiently(call: Callable[[], _AnswerT]) -> _AnswerT:
    """Call the store until it answers, for a while.

    Raises
    ------
    ProfileLossError
        At once: trying again cannot help.
    ServiceAwayError
        It did not answer.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except ProfileLossError:
            raise
        except StoreUnavailableError as error:
            if time.monotonic() > deadline_s:
                raise ServiceAwayError(
                    f"the profile store does not answer ({error}): check valkey.url; what was "
                    "merged stays, so run the command again when it is back"
                ) from error
            time.sleep(_RETRY_INTERVAL_S)
