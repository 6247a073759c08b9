"""The worker's loop.

                    ┌───────────────────────────────────────────────────────────────┐
                    ▼                                                               │
    prepare ─▶ POLLING ──assignment──▶ SETTLING (where to start? profiles there?) ──┤
                 │  ▲                                                               │
                 │  └── nothing came: TIDYING (repair a slice, idle watermarks) ◀───┤
                 │ records                                                          │
                 ▼                                                                  │
             PROCESSING ─▶ PUBLISHING ─▶ COMMITTED: advance our offsets ────────────┤
                 │             ├─ aborted ────────────▶ READ AGAIN: rewind, wait ───┤
                 │             ├─ an output refused ──▶ each half of it by itself ──┤
                 │             └─ outcome unknown ────▶ IN DOUBT: new producer, ask │
                 │                                      what was committed ─────────┤
                 └─ profiles away: decided without them, or READ AGAIN              │
                                                                                    │
    Kafka away, at any place: wait, serve the client, again ────────────────────────┘
    a `StopError`, at any place: the process ends, the batch in hand uncommitted

Rules it keeps: no transaction is ever open across a poll; offsets are our own; a batch that was
not committed is read again, for as long as Kafka is away; every wait is bounded, and a stop wakes
it. One thread does all of it. ``docs/adr/0003-exactly-once-by-transactions.md`` says why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import structlog

from fraudstream.adapters.kafka_inquirer import PartitionStart
from fraudstream.adapters.profiles import AttachPoint
from fraudstream.errors import (
    BrokerUnavailableError,
    OffsetsSteppedBackError,
    OutputRefusedError,
    ProfileLossError,
    StoreUnavailableError,
    UnavailableError,
    UnknownOutcomeError,
)
from fraudstream.halving import Refusals, halve
from fraudstream.pipeline import InputBatch, Processed
from fraudstream.profile import InputPartition, Stretch
from fraudstream.spare_memory import give_back
from fraudstream.start import find_places
from fraudstream.worker_parts import LoopLimits, StartRules, WorkerParts

_log = structlog.get_logger("worker")


class Worker:
    """Runs the loop until it is told to stop.

    Parameters
    ----------
    parts, limits, rules
        See their classes.
    stopping
        Set from outside to stop: the batch in hand is finished first.
    """

    def __init__(
        self,
        parts: WorkerParts,
        limits: LoopLimits,
        rules: StartRules,
        stopping: threading.Event,
    ) -> None:
        self._source = parts.source
        self._publisher = parts.publisher
        self._pipeline = parts.pipeline
        self._store = parts.store
        self._repairer = parts.repairer
        self._guard = parts.guard
        self._observer = parts.observer
        self._limits = limits
        self._rules = rules
        self._stopping = stopping
        self._log_starts: dict[InputPartition, int] = {}
        self._refusals = Refusals()
        self._were_profiles_away = False
        self._backoff_s = 0.0
        self._polled_at_s = 0.0
        self._tidied_at_s = 0.0
        self._gave_back_at_s = 0.0
        self._gap_records = 0
        self._is_settled = False

    def run(self) -> None:
        """Poll, process, publish, commit, until stopped.

        Raises
        ------
        StopError
            Something that a person has to change.
        """
        while not self._stopping.is_set():
            self._turn()
        self._leave_watermarks()

    def _leave_watermarks(self) -> None:
        """Move idle watermarks on, so that whoever comes next has nothing to repair."""
        try:
            self._repairer.advance(self._source.positions)
        except UnavailableError as error:
            _log.info("watermarks_left_behind", error=str(error))

    def _turn(self) -> None:
        try:
            self._publisher.prepare()
            batch = self._source.poll(self._limits.batch_records_max, self._poll_timeout_s())
            self._polled_at_s = time.monotonic()
            self._follow_group()
            if batch.records:
                self._handle(batch)
            self._tidy()
        except UnavailableError as error:
            _log.warning("waiting", error=str(error))
            self._note_absence(error)
            self._source.serve()
            self._wait()
        self._report_progress()

    def _note_absence(self, error: UnavailableError) -> None:
        """Write down that Kafka is away: where nothing is polled, the source cannot hear of it."""
        if isinstance(error, BrokerUnavailableError):
            self._source.health.note_absence()

    def _report_progress(self) -> None:
        """Say that the loop is alive; a worker without partitions is ready too."""
        is_settled = self._is_settled and self._source.health.is_connected
        self._observer.looped(is_settled=is_settled)

    def _poll_timeout_s(self) -> float:
        """Do not wait for records while there is something to repair."""
        return 0.0 if self._gap_records else self._limits.poll_timeout_s

    # ------------------------------------------------------------------ one batch

    def _handle(self, batch: InputBatch) -> bool:
        """Decide a batch and commit it; say whether that was done. If not, it is read again."""
        try:
            processed = self._process(batch)
            guard = self._guard.after(processed.are_bad(len(batch.records)))
            started_s = time.monotonic()
            self._publisher.publish(
                processed.outputs,
                self._source.offsets(batch.stretches),
                self._source.group_metadata(),
            )
        except UnknownOutcomeError as error:
            if not self._was_committed(batch.stretches):
                return self._read_again(error)
        except OutputRefusedError as error:
            return self._narrow_down(batch, error)
        except UnavailableError as error:
            return self._read_again(error)
        self._guard = guard
        self._source.advance(batch.stretches)
        self._refusals.forget(batch)
        self._backoff_s = 0.0
        self._observer.committed(batch, processed, time.monotonic() - started_s)
        return True

    def _narrow_down(self, batch: InputBatch, error: OutputRefusedError) -> bool:
        """Handle the same records half by half, down to the one at fault.

        Without polling: what is read next may be other records, as long as there is a backlog.
        """
        _log.warning("output_refused", records=len(batch.records))
        self._observer.aborted(error)
        if len(batch.records) > 1:
            return all(
                self._may_go_on(half) and self._handle(half)
                for half in halve(batch, self._source.partition_of)
            )
        if self._refusals.note(batch.records[0]):
            return self._may_go_on(batch) and self._handle(batch)
        return self._read_again(error)

    def _may_go_on(self, part: InputBatch) -> bool:
        """Say whether a part of a batch is still ours to handle, and there is time for it.

        If not, it is read again: the group may have moved on while an outcome was in doubt, and
        a stop, or the group's patience, does not wait for a long search.
        """
        self._report_progress()
        positions = self._source.positions
        is_ours = all(positions.get(p) == s.start for p, s in part.stretches.items())
        is_late = time.monotonic() - self._polled_at_s > self._limits.narrowing_max_s
        if is_ours and not is_late and not self._stopping.is_set():
            return True
        self._source.rewind()
        return False

    def _process(self, batch: InputBatch) -> Processed:
        try:
            processed = self._pipeline.process(batch, is_degradable=self._rules.is_degradable)
        except ProfileLossError:
            self._note_loss()
            raise
        if isinstance(processed.store_error, ProfileLossError):
            self._note_loss()
        self._tell_of_profiles(processed.store_error)
        self._refusals.replace(batch, processed, self._pipeline.refuse)
        return processed

    def _tell_of_profiles(self, error: StoreUnavailableError | None) -> None:
        """Log once when profiles go away, and once when they are back."""
        if error is not None and not self._were_profiles_away:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            _log.warning("profiles_away", error=f"{error}{cause}")
        if error is None and self._were_profiles_away:
            _log.info("profiles_back")
            self._repairer.check_soon()  # what came back may have lost something
        self._were_profiles_away = error is not None

    def _note_loss(self) -> None:
        """Look at the store again, unless it merely lacks what we know it lacks."""
        if not self._repairer.gaps(self._source.positions):
            self._repairer.note_loss()

    def _was_committed(self, stretches: Mapping[InputPartition, Stretch]) -> bool:
        """Find out whether a transaction in doubt was committed, once the new producer is up.

        Its `prepare` ends or completes the transaction, so the committed offsets are final.
        """
        while not self._stopping.is_set():
            try:
                self._publisher.prepare()
                is_committed = _is_committed(self._source.inspect(stretches), stretches)
            except (BrokerUnavailableError, OffsetsSteppedBackError) as error:
                _log.warning("commit_in_doubt", error=str(error))
                self._note_absence(error)
                self._source.serve()
                self._report_progress()
                self._wait()
                continue
            _log.warning("commit_resolved", is_committed=is_committed)
            return is_committed
        return False

    def _read_again(self, error: UnavailableError) -> bool:
        _log.warning("batch_read_again", error=str(error))
        self._observer.aborted(error)
        self._source.rewind()
        is_repairable = isinstance(error, ProfileLossError)
        if not (is_repairable and self._repairer.gaps(self._source.positions)):
            self._wait()
        return False

    def _wait(self) -> None:
        limits = self._limits
        self._backoff_s = min(max(2 * self._backoff_s, limits.backoff_min_s), limits.backoff_max_s)
        self._stopping.wait(self._backoff_s)

    # ------------------------------------------------------------------ the group

    def _follow_group(self) -> None:
        assigned, revoked = self._source.take_assignment()
        if revoked:
            self._store.detach(revoked)
            self._is_settled = False
            self._refusals.forget_all()
        if assigned is None:
            return
        try:
            self._settle(assigned)
        except UnavailableError:
            self._source.postpone(assigned)
            raise

    def _settle(self, assigned: Sequence[InputPartition]) -> None:
        """Find out where each partition starts, and whether its profiles reach up to there."""
        places = find_places(self._source, self._store, assigned, self._rules.from_)
        self._log_starts = dict(places.log_starts)
        self._store.expect_partitions(places.partitions_in_all)
        try:
            self._repairer.attach(self._attach_points(places.positions))
        except StoreUnavailableError:
            # Kafka alone is enough to decide; profiles are looked at again as soon as they can be.
            if not self._rules.is_degradable:
                raise
            self._repairer.note_loss()
        self._source.start_from(places.positions)
        self._is_settled = True
        _log.info("assigned", partitions=len(places.positions))

    def _attach_points(
        self, positions: Mapping[InputPartition, int]
    ) -> dict[InputPartition, AttachPoint]:
        return {p: AttachPoint(o, self._log_starts.get(p, 0)) for p, o in positions.items()}

    # ------------------------------------------------------------------ between batches

    def _tidy(self) -> None:
        positions = self._source.positions
        self._give_back()
        try:
            self._care_for_profiles(positions)
        except StoreUnavailableError as error:
            # The stream goes on without profiles; the breaker keeps this from being tried often.
            _log.debug("profiles_away", error=str(error))

    def _give_back(self) -> None:
        """Let go of what an outage, a backlog or a repair took: a worker stays as small as it was.

        Here and not after each of them: what they took is free only when the last of it is.
        """
        now_s = time.monotonic()
        if now_s - self._gave_back_at_s >= self._limits.give_back_interval_s:
            self._gave_back_at_s = now_s
            give_back()

    def _care_for_profiles(self, positions: Mapping[InputPartition, int]) -> None:
        """Repair a slice of what is missing; where nothing is, move idle watermarks on."""
        self._gap_records = sum(g.end - g.start for g in self._repairer.gaps(positions).values())
        is_idle_due = False
        now_s = time.monotonic()
        if now_s - self._tidied_at_s >= self._limits.idle_interval_s:
            self._tidied_at_s = now_s
            self._observer.lag(self._source.lag_records(), self._gap_records)
            is_idle_due = True
            self._repairer.check()
        if self._repairer.must_look_again and positions:
            self._store.require_available()
            self._log_starts = {
                p: start.log_start for p, start in self._source.inspect(positions).items()
            }
            self._repairer.attach(self._attach_points(positions))
        if self._gap_records:
            self._gap_records = self._repairer.turn(positions)
        elif is_idle_due:
            self._repairer.advance(positions)


def _is_committed(
    found: Mapping[InputPartition, PartitionStart], stretches: Mapping[InputPartition, Stretch]
) -> bool:
    """Say whether a batch was committed; raise `OffsetsSteppedBackError` if Kafka cannot know.

    Where a batch began was committed before it, unless what lay before had been deleted.
    """
    for partition, stretch in stretches.items():
        start, committed = found[partition], found[partition].committed
        if committed is None or committed < stretch.start > start.log_start:
            raise OffsetsSteppedBackError("the group's committed offsets stepped back")
    return all(found[p].committed == s.end for p, s in stretches.items())
