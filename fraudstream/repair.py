"""Brings profiles that fell behind, or were lost, back from the log.

    small gap:  log ─▶ slice ─▶ record                                    (a batch that failed)
    large gap:  log ─▶ slices ─▶ sorted runs ─▶ merge, a bit at a time ─▶ watermark   (a loss)

Between two batches the loop gives the repair a little time; the rest waits for the next turn.
Decisions meanwhile are made without profiles and say so. The gap closes because reading is much
faster than the stream; and what is left at the end, a batch's worth in each partition, is repaired
before going on. A large gap is closed as a rebuild does it (`fraudstream.rebuild`), many records
of one card at once; its watermark moves when all of them are in.

A loss is found by the first call after it, on assignment, and by `Repairer.check` every few
seconds and whenever the store is back. Who was erased is forgotten again before old records come
back (`fraudstream.erasures`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from fraudstream.adapters.profile_backend import SeriesRun
from fraudstream.adapters.profile_runs import RunCollector, add_batch, portions
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.erasures import EntityHasher, ErasureKeeper, ErasureList, ErasureReader
from fraudstream.errors import ProfileLossError
from fraudstream.event import Label
from fraudstream.pipeline import InputBatch
from fraudstream.profile import InputPartition, ProfileBatch, Stretch

_log = structlog.get_logger("repair")

#: One slice: some 20 ms of work, so that a live event hardly waits for it.
SLICE_RECORDS_MAX = 500
#: So many payments at the start of a kept log say when it begins: a late one alone would not.
FIRST_RECORDS = 32
#: How long one turn may take.
TURN_S = 0.05
#: How long the last turn may take: every batch that comes in between opens the gaps of all its
#: partitions again, so with many of them it must not be cut short.
LAST_TURN_S = 10.0
#: What counts as the end of a gap.
LAST_RECORDS_MAX = 2_000
#: A gap from this size on is merged, not recorded.
BULK_RECORDS_MIN = 50_000
#: So many events are collected before they are merged: more of each card, fewer calls.
BULK_EVENTS_MAX = 100_000
#: So many records are merged at once, some 10 ms of work.
_MERGE_RECORDS = 1_000
#: How often watermarks and epochs are compared.
CHECK_INTERVAL_S = 5.0
#: How often a large gap is looked at anew: a rebuild beside us may have closed it.
_LOOK_AGAIN_S = 5.0


class Log(Protocol):
    """A way to read the input topics again."""

    def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
        """Read the beginning of a stretch."""
        ...


@dataclass(slots=True)
class _Bulk:
    """A part of a large gap on its way into the store: first collected, then merged."""

    partition: InputPartition
    start: int
    position: int
    collector: RunCollector
    #: Which run of the store it is merged into: one begun anew may hold only some of it.
    generation: str
    #: What is to be merged, once all is collected; and the first of it, until it is in.
    portions: Iterator[list[SeriesRun]] | None = None
    portion: list[SeriesRun] | None = None


def no_erasures() -> ErasureList:
    """Give the erasures of a deployment that has none."""
    return ErasureList(EntityHasher())


class Repairer:
    """Closes the gaps between what was read and what the profile store holds.

    Parameters
    ----------
    store
        The profile store.
    log
        The input topics.
    parse
        Records → what they mean for the profiles (`Pipeline.parse`).
    erasures
        Reads who is to stay forgotten; asked once a loss.
    turn_s
        How long one turn may take while much is missing.
    bulk_records_min
        How many missing records of a partition are merged instead of recorded.
    """

    def __init__(  # noqa: PLR0913 - four collaborators, and their limits
        self,
        store: BucketedProfileStore,
        log: Log,
        parse: Callable[[InputBatch], ProfileBatch],
        *,
        erasures: ErasureReader = no_erasures,
        turn_s: float = TURN_S,
        bulk_records_min: int = BULK_RECORDS_MIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turn_s = turn_s
        self._bulk_records_min = bulk_records_min
        self._clock = clock
        self._store = store
        self._log = log
        self._parse = parse
        self._read_erasures = erasures
        self._keeper: ErasureKeeper | None = None
        self._bulk: _Bulk | None = None
        self._must_look_again = False
        self._looked_at_s = clock()
        self._check_due_s = 0.0
        self._log_starts: dict[InputPartition, int] = {}
        #: Partitions that are rebuilt from the start of a log that no longer reaches back to the
        #: beginning: what their first record looks back on cannot be known.
        self._truncated: set[InputPartition] = set()

    def attach(self, points: Mapping[InputPartition, AttachPoint]) -> None:
        """Take partitions over, or look at the store anew after it lost something.

        Raises
        ------
        StoreUnavailableError
            The store does not answer; call again.
        """
        self._take_over(points)
        self._log_starts = {partition: point.log_start for partition, point in points.items()}
        self._must_look_again = False
        self._looked_at_s = self._clock()
        # Erasures may have been added, and what was merged may be lost with the rest.
        self._keeper = self._bulk = None

    def _take_over(self, points: Mapping[InputPartition, AttachPoint]) -> set[InputPartition]:
        lost = self._store.attach(points)
        if lost:
            _log.warning("profiles_lost", partitions=len(lost))
        self._truncated |= cut_off(points, self._store.applied)
        return lost

    def note_loss(self) -> None:
        """Remember that the store must be looked at again before it is trusted."""
        self._must_look_again = True

    @property
    def must_look_again(self) -> bool:
        """Whether `attach` is due."""
        return self._must_look_again

    def gaps(self, positions: Mapping[InputPartition, int]) -> dict[InputPartition, Stretch]:
        """Say what the store lacks of what this worker has read."""
        applied = self._store.applied
        return {
            partition: Stretch(applied[partition], position)
            for partition, position in positions.items()
            if partition in applied and applied[partition] < position
        }

    def turn(self, positions: Mapping[InputPartition, int]) -> int:
        """Repair for a little while; return how many records are still missing.

        Raises
        ------
        UnavailableError
            Kafka or the store is away for now.
        """
        started_s = self._clock()
        self._look_again(positions, started_s)
        while missing := self._missing(positions):
            spent_s = self._clock() - started_s
            if spent_s > (LAST_TURN_S if missing < LAST_RECORDS_MAX else self._turn_s):
                return missing
            self._store.require_available()
            self._repair(self.gaps(positions))
        _log.info("profiles_repaired")
        return 0

    def advance(self, positions: Mapping[InputPartition, int]) -> None:
        """Move the watermarks of idle buckets on, and see that nothing was lost meanwhile.

        Raises
        ------
        StoreUnavailableError
            The store is away, or it did lose something.
        """
        self._noting_loss(lambda: self._store.advance(positions))

    def check(self) -> None:
        """See every few seconds that the store still holds all that it confirmed.

        Raises
        ------
        StoreUnavailableError
            The store is away, or it lost something.
        """
        now_s = self._clock()
        if now_s >= self._check_due_s:
            self._noting_loss(self._store.check)
            self._check_due_s = now_s + CHECK_INTERVAL_S

    def check_soon(self) -> None:
        """Let the next `check` look, because the store was away."""
        self._check_due_s = 0.0

    def _noting_loss(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ProfileLossError:
            self.note_loss()
            raise

    def _missing(self, positions: Mapping[InputPartition, int]) -> int:
        return sum(gap.end - gap.start for gap in self.gaps(positions).values())

    def _look_again(self, positions: Mapping[InputPartition, int], now_s: float) -> None:
        """Take over watermarks that a rebuild beside us may have moved on."""
        is_due = now_s - self._looked_at_s >= _LOOK_AGAIN_S
        if not is_due or self._missing(positions) < self._bulk_records_min:
            return
        self._looked_at_s = now_s
        # First what was lost: taking over would make the present state the expected one.
        self._noting_loss(self._store.check)
        points = {p: AttachPoint(o, self._log_starts.get(p, 0)) for p, o in positions.items()}
        if self._take_over(points):
            self._keeper = self._bulk = None

    def _repair(self, gaps: Mapping[InputPartition, Stretch]) -> None:
        bulk = self._bulk
        if bulk is not None:
            gap = gaps.get(bulk.partition)
            if gap is not None and bulk.position >= gap.start:
                # Before all others: small gaps open again with every batch that comes meanwhile.
                self._go_on(bulk, gap.end)
                return
            self._bulk = None  # revoked, or somebody else has been here
        partition, gap = next(iter(gaps.items()))
        if gap.end - gap.start >= self._bulk_records_min:
            collector = RunCollector(self._store.definition, self._keep().meet)
            generation = self._store.generation()
            self._bulk = _Bulk(partition, gap.start, gap.start, collector, generation)
        else:
            self._repair_slice(partition, gap)

    def _repair_slice(self, partition: InputPartition, stretch: Stretch) -> None:
        batch = self._read(partition, stretch)
        keeper = self._keep()
        if keeper.erasures:
            for entity_field in {series.entity for series in self._store.definition.series}:
                for entity in _entities(batch, entity_field):
                    keeper.meet(entity_field, entity)
            keeper.settle()
        self._noting_loss(lambda: self._store.repair(batch))

    def _read(self, partition: InputPartition, stretch: Stretch) -> ProfileBatch:
        batch = self._parse(self._log.read(partition, stretch, SLICE_RECORDS_MAX))
        if partition in self._truncated:
            self._raise_floor(partition, batch)
        return batch

    def _go_on(self, bulk: _Bulk, gap_end: int) -> None:
        """Do one small step: read a slice, merge some records, or move the watermark."""
        if bulk.portions is None:
            batch = self._read(bulk.partition, Stretch(bulk.position, gap_end))
            add_batch(bulk.collector, batch)
            bulk.position = batch.stretches[bulk.partition].end
            if bulk.position >= gap_end or len(bulk.collector) >= BULK_EVENTS_MAX:
                bulk.portions = portions(bulk.collector.take(), _MERGE_RECORDS)
                bulk.portion = next(bulk.portions, None)
        elif bulk.portion is not None:
            self._keep().settle()
            self._store.merge(bulk.portion)
            bulk.portion = next(bulk.portions, None)  # not before the last one is in
        elif self._store.generation() != bulk.generation:
            _log.warning("profiles_restarted", partition=bulk.partition)
            self._bulk = None  # what was merged may be gone again: once more from the start
        else:
            stretch = {bulk.partition: Stretch(bulk.start, bulk.position)}
            self._noting_loss(lambda: self._store.repair(ProfileBatch((), (), stretch)))
            self._bulk = None

    def _keep(self) -> ErasureKeeper:
        if self._keeper is None:
            self._keeper = ErasureKeeper(self._store, self._read_erasures())
        return self._keeper

    def _raise_floor(self, partition: InputPartition, batch: ProfileBatch) -> None:
        """Say from when on profiles are whole again: from where the kept log begins in time.

        Payments come a little out of order, so the latest of the first few counts. What labels
        tell is as old as their report.
        """
        times_ms = [located.event.event_time_ms for located in batch.transactions[:FIRST_RECORDS]]
        firsts = [located.event for located in batch.labels[:1]]
        times_ms += [event.reported_at_ms for event in firsts if isinstance(event, Label)]
        if times_ms:
            self._store.raise_floor(max(times_ms))
            self._truncated.discard(partition)


def cut_off(
    points: Mapping[InputPartition, AttachPoint], applied: Mapping[InputPartition, int]
) -> set[InputPartition]:
    """Find partitions that are rebuilt from the start of a log which has forgotten its beginning.

    Whoever began with it may have ended since: its watermark then says where the log starts.
    """
    return {
        partition
        for partition, point in points.items()
        if 0 < point.log_start < point.position and applied[partition] <= point.log_start
    }


def _entities(batch: ProfileBatch, entity_field: str) -> set[str]:
    """Give the entities of a kind that a batch is about."""
    found: set[str | None] = set()
    for located in (*batch.transactions, *batch.labels):
        event = located.event
        if isinstance(event, Label):
            found.add(getattr(event, entity_field, None))
        else:
            found.add(event.text(entity_field))
    return {entity for entity in found if entity is not None}
