"""Brings profiles that fell behind, or were lost, back from the log.

Between two batches the loop gives the repair a little time: read a slice of the log where the store
ends, record it, and so on; the rest waits for the next turn. Decisions meanwhile are made without
profiles and say so. The gap closes because reading is much faster than the stream; and what is
left at the end, a batch's worth in each partition, is repaired before going on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
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


class Log(Protocol):
    """A way to read the input topics again."""

    def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
        """Read the beginning of a stretch."""
        ...


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
    turn_s
        How long one turn may take while much is missing.
    """

    def __init__(
        self,
        store: BucketedProfileStore,
        log: Log,
        parse: Callable[[InputBatch], ProfileBatch],
        turn_s: float = TURN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turn_s = turn_s
        self._clock = clock
        self._store = store
        self._log = log
        self._parse = parse
        self._must_look_again = False
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
        lost = self._store.attach(points)
        if lost:
            _log.warning("profiles_lost", partitions=len(lost))
        applied = self._store.applied
        self._truncated |= {
            p
            for p, point in points.items()
            if point.log_start > 0 and (p in lost or applied[p] < point.log_start)
        }
        self._must_look_again = False

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
        while missing := self._missing(positions):
            spent_s = self._clock() - started_s
            if spent_s > (LAST_TURN_S if missing < LAST_RECORDS_MAX else self._turn_s):
                return missing
            self._store.require_available()
            self._repair_slice(*next(iter(self.gaps(positions).items())))
        _log.info("profiles_repaired")
        return 0

    def _missing(self, positions: Mapping[InputPartition, int]) -> int:
        return sum(gap.end - gap.start for gap in self.gaps(positions).values())

    def _repair_slice(self, partition: InputPartition, stretch: Stretch) -> None:
        batch = self._log.read(partition, stretch, SLICE_RECORDS_MAX)
        profile_batch = self._parse(batch)
        if partition in self._truncated:
            self._raise_floor(partition, profile_batch)
        try:
            self._store.repair(profile_batch)
        except ProfileLossError:
            self.note_loss()
            raise

    def advance(self, positions: Mapping[InputPartition, int]) -> None:
        """Move the watermarks of idle buckets on, and see that nothing was lost meanwhile.

        Raises
        ------
        StoreUnavailableError
            The store is away, or it did lose something.
        """
        try:
            self._store.advance(positions)
        except ProfileLossError:
            self.note_loss()
            raise

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
