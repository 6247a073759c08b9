"""The books of the profile store: which stretch of the log has been applied to which bucket.

This is everything of a profile store that does not depend on where the records live: which
entries an event has, which bucket they belong to, how they are cut into calls, and, above all, how
far every input partition has been applied. Behind it stands a `ProfileBackend`: Valkey or memory.

Two numbers are kept of every input partition:

* ``acknowledged``, for each bucket: the watermark that the bucket confirmed last. Between it and
  the next call lie no records of that bucket, so a call starts there; a bucket that then
  answers with less has lost something.
* ``applied``: every bucket holds all of its records below this offset. A batch that starts above
  it would leave a gap, and is refused until the gap has been repaired from the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fraudstream.adapters.profile_backend import (
    NO_TIME_MS,
    BucketReply,
    BucketRequest,
    Entry,
    ProfileBackend,
    SeriesContent,
    SeriesRun,
)
from fraudstream.adapters.profile_calls import LABEL_OWNER, Call, Cutter, answers_of, plans
from fraudstream.errors import ProfileLossError, ProfilesRebuildingError
from fraudstream.profile import (
    InputPartition,
    ProfileAnswers,
    ProfileBatch,
    ProfileDefinition,
    Stretch,
)


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where a worker stands on an input partition when it takes it over.

    ``position`` is the next offset it will read, ``log_start`` the first one the log still has.
    """

    position: int
    log_start: int


class BucketedProfileStore:
    """A `fraudstream.profile.ProfileStore` over a backend.

    Parameters
    ----------
    definition
        The series to keep.
    backend
        Where they are kept.
    buckets
        How many buckets entities are spread over: 1 on one server, 64 on a cluster.
    partitions_expected
        How many input partitions there are in all; while one of them has no watermark, or is
        being rebuilt, no answer can be whole. None: do not ask.
    """

    def __init__(
        self,
        definition: ProfileDefinition,
        backend: ProfileBackend,
        *,
        buckets: int = 1,
        partitions_expected: int | None = None,
    ) -> None:
        self._definition = definition
        self._backend = backend
        self._buckets = buckets
        self._partitions_expected = partitions_expected
        self._plans = plans(definition)
        self._numbers = {series.name: number for number, series in enumerate(definition.series)}
        self._epochs = [b""] * buckets
        self._acknowledged: list[dict[InputPartition, int]] = [{} for _ in range(buckets)]
        self._applied: dict[InputPartition, int] = {}

    @property
    def definition(self) -> ProfileDefinition:
        """The series it keeps."""
        return self._definition

    @property
    def applied(self) -> Mapping[InputPartition, int]:
        """By attached partition: every record below this offset is in the store."""
        return self._applied

    def watermarks(self) -> dict[InputPartition, int]:
        """Read how far each partition has been applied to every bucket.

        Raises
        ------
        StoreUnavailableError
            The store does not answer.
        """
        states = self._backend.states()
        everywhere = set.intersection(*(set(state.watermarks) for state in states))
        return {p: min(state.watermarks[p] for state in states) for p in everywhere}

    def require_available(self) -> None:
        """Raise `StoreUnavailableError` if a call would not even be tried."""
        self._backend.require_available()

    def expect_partitions(self, count: int) -> None:
        """Say how many input partitions there are in all."""
        self._partitions_expected = count

    def attach(self, points: Mapping[InputPartition, AttachPoint]) -> set[InputPartition]:
        """Take over partitions, or look at them anew after a loss.

        Returns
        -------
        lost
            Partitions of which the store remembers nothing although they were read before:
            they must be rebuilt from the start of the log.

        Raises
        ------
        StoreUnavailableError
            Nothing was taken over; call again.
        """
        states = self._backend.states()
        lost: set[InputPartition] = set()
        for partition, point in points.items():
            if all(partition in state.watermarks for state in states):
                continue
            if point.position > point.log_start:
                # Marked before the first watermark is written: no other worker may take a
                # half-rebuilt partition for a whole one.
                self._backend.mark_rebuild(partition, point.position)
                lost.add(partition)
            self._initialise(partition, min(point.log_start, point.position))
        self._adopt(points)
        return lost

    def initialise(self, starts: Mapping[InputPartition, int]) -> None:
        """Give partitions that nobody has read yet their first watermark, unless they have one.

        Any worker may do it for any partition, so that a new deployment is whole at once.
        """
        for partition, start in starts.items():
            self._initialise(partition, start)

    def detach(self, partitions: Iterable[InputPartition]) -> None:
        """Forget partitions that another worker takes over."""
        for partition in partitions:
            self._applied.pop(partition, None)
            for acknowledged in self._acknowledged:
                acknowledged.pop(partition, None)

    def apply(self, batch: ProfileBatch) -> ProfileAnswers:
        """Record a batch and read every transaction's windows (see `ProfileStore.apply`)."""
        self._refuse_gaps(batch.stretches)
        calls, replies = self._carry_out(batch, is_record_only=False)
        self._require_whole(replies)
        return answers_of(self._plans, len(batch.transactions), calls, replies)

    def repair(self, batch: ProfileBatch) -> None:
        """Record a piece of the log again, reading nothing. Records already there stay as they are.

        Raises
        ------
        ProfileLossError
            The piece does not begin where the store ends, or the store lost something again.
        """
        self._refuse_gaps(batch.stretches)
        self._carry_out(batch, is_record_only=True)

    def advance(self, positions: Mapping[InputPartition, int]) -> None:
        """Move the watermarks of buckets without traffic up to positions without a gap.

        Raises
        ------
        ProfileLossError
            Found on the way: a bucket has lost something.
        """
        requests = []
        for bucket, acknowledged in enumerate(self._acknowledged):
            stretches = {
                partition: Stretch(acknowledged[partition], position)
                for partition, position in positions.items()
                if self._applied.get(partition) == position and partition in acknowledged
            }
            if stretches:
                requests.append(self._request(bucket, stretches, [], is_record_only=True))
        self._send(requests)

    def check(self) -> None:
        """Compare what every bucket confirmed with what it says now.

        Raises
        ------
        ProfileLossError
            A bucket was begun anew, or a watermark is gone or lower than it was.
        StoreUnavailableError
            The store does not answer.
        """
        states = self._backend.states()
        for epoch, acknowledged, state in zip(
            self._epochs, self._acknowledged, states, strict=True
        ):
            if not acknowledged:
                continue
            stored = state.watermarks
            is_lower = any(stored.get(p, -1) < reached for p, reached in acknowledged.items())
            if epoch != state.epoch or is_lower:
                raise ProfileLossError("the profile store lacks records that it had confirmed")

    def raise_floor(self, known_from_ms: int) -> None:
        """Say that nothing before this time can be known any more."""
        self._backend.raise_floor(known_from_ms)

    def lower_floor(self, known_from_ms: int) -> None:
        """Say that what came from this time on is known again."""
        self._backend.lower_floor(known_from_ms)

    def floor_ms(self) -> int:
        """Read from when on anything is known; 0 if nothing was ever lost for good."""
        return max(state.floor_ms for state in self._backend.states())

    def generation(self) -> str:
        """Say which run of the store answers (see `ProfileBackend.generation`)."""
        return self._backend.generation()

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        """Merge sorted records into their series (see `ProfileBackend.merge`)."""
        self._backend.merge(runs)

    def forget(self, series: str, entity: str, until_ms: int) -> int:
        """Drop an entity's records up to a time, and refuse such records from then on.

        Returns
        -------
        dropped
            How many records there were.
        """
        return self._backend.forget(self._numbers[series], entity, until_ms)

    def content(self, series: str, entity: str) -> SeriesContent | None:
        """Read all that is kept of one series of an entity; None if there is nothing."""
        return self._backend.content(self._numbers[series], entity)

    def _initialise(self, partition: InputPartition, start: int) -> None:
        stretch = {partition: Stretch(start, start)}
        self._backend.apply(
            [
                BucketRequest(
                    bucket,
                    stretch,
                    [],
                    is_initial=True,
                    is_record_only=True,
                    candidate_epoch=secrets.token_bytes(8),
                )
                for bucket in range(self._buckets)
            ]
        )

    def _adopt(self, partitions: Iterable[InputPartition]) -> None:
        """Take what the store says now, in one look, for what it confirmed."""
        states = self._backend.states()
        if not all(partition in state.watermarks for state in states for partition in partitions):
            raise ProfileLossError("the profile store lost something while it was looked at")
        self._epochs = [state.epoch for state in states]
        for partition in partitions:
            self._applied[partition] = min(state.watermarks[partition] for state in states)
            for acknowledged, state in zip(self._acknowledged, states, strict=True):
                acknowledged[partition] = state.watermarks[partition]

    def _refuse_gaps(self, stretches: Mapping[InputPartition, Stretch]) -> None:
        for partition, stretch in stretches.items():
            if self._applied.get(partition, -1) < stretch.start:
                raise ProfileLossError(f"records before {partition}@{stretch.start} are missing")

    def _carry_out(
        self, batch: ProfileBatch, *, is_record_only: bool
    ) -> tuple[list[Call], list[BucketReply]]:
        calls = self._cut(batch)
        # On a copy: until every call is confirmed, the next attempt starts where this one did.
        acknowledged = [dict(marks) for marks in self._acknowledged]
        times_ms = (located.event.event_time_ms for located in batch.transactions)
        oldest_ms = min(times_ms, default=NO_TIME_MS)
        requests = [
            self._request(
                call.bucket,
                _advance(acknowledged[call.bucket], call.ends),
                call.entries,
                is_record_only=is_record_only,
                oldest_ms=oldest_ms,
            )
            for call in calls
        ]
        replies = self._send(requests)
        self._acknowledged = acknowledged
        for partition, stretch in batch.stretches.items():
            self._applied[partition] = max(self._applied[partition], stretch.end)
        return calls, replies

    def _cut(self, batch: ProfileBatch) -> list[Call]:
        """Cut a batch into calls, in order; the last call of a bucket ends at the batch's end."""
        cutter = Cutter(self._plans, self._buckets)
        for label in batch.labels:
            cutter.add(label, LABEL_OWNER)
        for index, transaction in enumerate(batch.transactions):
            cutter.add(transaction, index)
        # A batch of nothing but dead letters has no entries, yet its watermark moves on.
        calls = cutter.calls or [Call(0)]
        for call in {call.bucket: call for call in calls}.values():
            call.ends = {partition: s.end for partition, s in batch.stretches.items()}
        return calls

    def _request(
        self,
        bucket: int,
        stretches: Mapping[InputPartition, Stretch],
        entries: Sequence[Entry],
        *,
        is_record_only: bool,
        oldest_ms: int = NO_TIME_MS,
    ) -> BucketRequest:
        return BucketRequest(
            bucket,
            stretches,
            entries,
            is_record_only=is_record_only,
            oldest_ms=oldest_ms,
            epoch=self._epochs[bucket],
            candidate_epoch=secrets.token_bytes(8),
        )

    def _send(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        replies = self._backend.apply(requests)
        if not all(reply.is_applied for reply in replies):
            raise ProfileLossError("the profile store lacks records that it had confirmed")
        return replies

    def _require_whole(self, replies: Iterable[BucketReply]) -> None:
        expected = self._partitions_expected
        for reply in replies:
            is_short = expected is not None and reply.partitions_known < expected
            if is_short or reply.partitions_rebuilding:
                raise ProfilesRebuildingError("profiles of another partition are being rebuilt")


def _advance(
    acknowledged: dict[InputPartition, int], ends: Mapping[InputPartition, int]
) -> dict[InputPartition, Stretch]:
    """Give a call's stretches, and expect the next call of its bucket to start at their ends."""
    stretches = {}
    for partition, end in ends.items():
        start = acknowledged[partition]
        # A batch read again after an abort may end before what was applied already.
        stretches[partition] = Stretch(start, max(start, end))
        acknowledged[partition] = stretches[partition].end
    return stretches
