"""Publishes a stream at its speed, and never too far ahead of those who read it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudstream.adapters.kafka import KafkaAccess
from fraudstream.errors import BrokerUnavailableError, ServiceAwayError
from fraudstream.pipeline import InputTopics
from fraudstream.profile import DAY_MS
from fraudstream.replay.backlog import Backlog, GroupWatch, Patience
from fraudstream.replay.sending import Sender
from fraudstream.replay.speed import Speed
from fraudstream.replay.stream import ReplayEvent

AHEAD_RECORDS_MAX = 20_000
#: As late as an event may come to its profiles and still find every window whole.
AHEAD_TIME_MAX_MS = DAY_MS

#: A worker that was started together with the replay is not in its group at once.
_FIRST_MEMBER_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0
_PROGRESS_INTERVAL_S = 0.1
#: Longest sleep at once, so that delivery reports are taken and a stop is seen.
_NAP_S = 0.05
#: The group is asked the less often the longer it takes: an answer costs half a millisecond.
_ASK_INTERVAL_MIN_S = 0.001
_ASK_INTERVAL_MAX_S = 0.02
_ASK_INTERVAL_SHARE = 0.25
#: Sending record by record wakes the client's threads for each, at three times the cost.
_FULL_SPEED_LINGER_MS = 5.0
#: How many events at full speed go between two looks at the clock.
_CLOCK_EVERY = 64


class Progress(NamedTuple):
    """How far a replay is.

    Attributes
    ----------
    transactions, labels
        Sent so far.
    event_time_ms
        The time of the newest event.
    is_held
        Whether it waits for the consumer group.
    """

    transactions: int
    labels: int
    event_time_ms: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What became of a replay.

    Attributes
    ----------
    transactions, labels
        Sent.
    undelivered
        How many of them Kafka had not taken when it was stopped.
    seconds
        From the first event to the last delivery.
    first_time_ms, last_time_ms
        Event times; None if nothing was sent.
    is_complete
        False if it was stopped.
    """

    run_id: str
    transactions: int
    labels: int
    undelivered: int
    seconds: float
    first_time_ms: int | None
    last_time_ms: int | None
    is_complete: bool

    @property
    def records_per_s(self) -> float:
        """Transactions and labels in a second."""
        return (self.transactions + self.labels) / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Stay near those who read.

    Parameters
    ----------
    group_id
        Whose committed offsets count.
    ahead_records_max
        At most so many records are sent and not committed.
    ahead_time_max_ms
        No event is sent that is later by more than that than one which is not committed; 0 is
        without limit. Partitions are read at their own pace: some thousand records of a small
        file are months, and profiles would see the months in any order.
    """

    group_id: str
    ahead_records_max: int = AHEAD_RECORDS_MAX
    ahead_time_max_ms: int = AHEAD_TIME_MAX_MS

    def __post_init__(self) -> None:
        assert self.ahead_records_max > 0
        assert self.ahead_time_max_ms >= 0


def _tell_nobody(_: Progress) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replay is told from outside, and whom it tells.

    Parameters
    ----------
    stop
        Set by anybody: the replay ends as soon as it can.
    on_progress
        Called some ten times a second, and at the end.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[Progress], None] = _tell_nobody


class Replayer:
    """Publishes one stream.

    Parameters
    ----------
    access
        Where.
    topics
        The topics of transactions and labels.
    run_id
        Goes into every record, as the header ``fs_replay_run``.
    hold_back
        None to publish whether anybody reads or not.
    surroundings
        How it is stopped, and whom it tells.

    Notes
    -----
    With ``hold_back``, a label is sent only when all before it is committed, and nothing after
    it before it is committed itself: whatever the speed, each decision knows exactly the
    labels that were there at its event's time.
    """

    _sender: Sender
    _backlog: Backlog

    def __init__(
        self,
        access: KafkaAccess,
        topics: InputTopics,
        *,
        run_id: str,
        hold_back: HoldBack | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        surroundings = surroundings or Surroundings()
        self._access = access
        self._topics = topics
        self._run_id = run_id
        self._stop = surroundings.stop
        self._on_progress = surroundings.on_progress
        self._watch = GroupWatch(access, hold_back.group_id) if hold_back else None
        self._ahead_max = hold_back.ahead_records_max if hold_back else 0
        self._ahead_ms = (hold_back and hold_back.ahead_time_max_ms) or math.inf
        self._transactions = self._labels = 0
        self._first_ms: int | None = None
        self._last_ms: int | None = None
        self._is_after_label = False
        self._told_s = 0.0

    def run(self, events: Iterable[ReplayEvent], speed: Speed) -> ReplaySummary:
        """Publish a stream, once.

        Parameters
        ----------
        events
            In the order of their times.
        speed
            When each is due.

        Raises
        ------
        ServiceAwayError
            Kafka cannot be reached, or there is nobody in the group to wait for.
        SettingsError
            A topic does not exist.
        UsageError
            Kafka refuses a record.
        """
        linger_ms = 0.0 if speed.is_paced else _FULL_SPEED_LINGER_MS
        self._backlog = Backlog(is_watched=self._watch is not None)
        self._sender = Sender(
            self._access, self._topics, self._run_id, self._backlog, linger_ms=linger_ms
        )
        try:
            self._sender.require_topics()
            if self._watch is not None:
                self._require_member(self._watch)
            started_s = time.monotonic()
            is_complete = self._publish(events, speed, started_s)
            self._deliver()
        finally:
            self._sender.close()
        self._tell(is_held=False)
        return ReplaySummary(
            self._run_id,
            self._transactions,
            self._labels,
            self._backlog.undelivered,
            time.monotonic() - started_s,
            self._first_ms,
            self._last_ms,
            is_complete,
        )

    def _publish(self, events: Iterable[ReplayEvent], speed: Speed, started_s: float) -> bool:
        is_paced = speed.is_paced
        for number, event in enumerate(events):
            if self._first_ms is None:
                self._first_ms = event.time_ms
            if is_paced:
                passed_ms = event.time_ms - self._first_ms
                self._await_due(started_s + speed.due_s(self._transactions, passed_ms))
            elif number % _CLOCK_EVERY == 0:
                self._sender.take_reports()
                self._tell_at(time.monotonic(), is_held=False)
            if self._watch is not None:
                self._await_group(event, self._watch)
            if self._stop.is_set() or not self._sender.send(event, self._stop):
                return False
            self._note_sent(event)
        return True

    def _note_sent(self, event: ReplayEvent) -> None:
        if event.is_label:
            self._labels += 1
        else:
            self._transactions += 1
        self._is_after_label = event.is_label
        self._last_ms = event.time_ms

    def _await_due(self, due_s: float) -> None:
        while not self._stop.is_set():
            self._sender.take_reports()
            now_s = time.monotonic()
            self._tell_at(now_s, is_held=False)
            if now_s >= due_s:
                return
            self._stop.wait(min(due_s - now_s, _NAP_S))

    def _await_group(self, event: ReplayEvent, watch: GroupWatch) -> None:
        """Wait until so much is committed that the event may be sent."""
        # A label stands alone: between everything before it and everything after it.
        is_barrier = event.is_label or self._is_after_label
        records_max = 0 if is_barrier else self._ahead_max - 1
        if self._is_within(records_max, event.time_ms):
            return
        # Other than a label or a stretch of time, records that are merely many are in no hurry.
        is_urgent = is_barrier or self._backlog.records <= records_max
        least_s = _ASK_INTERVAL_MIN_S if is_urgent else _ASK_INTERVAL_MAX_S
        patience = Patience(watch)
        since_s = time.monotonic()
        while not self._stop.is_set():
            self._sender.deliver(_NAP_S)
            self._ask(watch)
            if self._is_within(records_max, event.time_ms):
                return
            now_s = time.monotonic()
            self._tell_at(now_s, is_held=True)
            patience.check(event.time_ms)
            interval_s = max(least_s, (now_s - since_s) * _ASK_INTERVAL_SHARE)
            self._stop.wait(min(interval_s, _ASK_INTERVAL_MAX_S))

    def _is_within(self, records_max: int, time_ms: int) -> bool:
        backlog = self._backlog
        return backlog.records <= records_max and backlog.span_ms(time_ms) <= self._ahead_ms

    def _ask(self, watch: GroupWatch) -> None:
        """Have the group's offsets written down; without an answer, patience sets the limit."""
        with suppress(BrokerUnavailableError):
            self._backlog.note_committed(watch.committed(self._backlog.partitions))

    def _deliver(self) -> None:
        """Wait for what Kafka has not taken yet: each record has its own time-out."""
        stopped_s: float | None = None
        while self._backlog.undelivered:
            self._sender.deliver(_NAP_S)
            now_s = time.monotonic()
            self._tell_at(now_s, is_held=False)
            if self._stop.is_set():
                stopped_s = now_s if stopped_s is None else stopped_s
                if now_s - stopped_s > _STOP_TIMEOUT_S:
                    return

    def _require_member(self, watch: GroupWatch) -> None:
        deadline_s = time.monotonic() + _FIRST_MEMBER_TIMEOUT_S
        try:
            while not watch.has_members() and not self._stop.wait(_NAP_S):
                if time.monotonic() > deadline_s:
                    raise ServiceAwayError(
                        f"nobody reads as the consumer group {watch.group_id}: start "
                        "`fraudstream run` first, or give --max-ahead 0 to publish regardless "
                        "of who reads"
                    )
        except BrokerUnavailableError as error:
            raise ServiceAwayError(str(error)) from error

    def _tell_at(self, now_s: float, *, is_held: bool) -> None:
        if now_s - self._told_s >= _PROGRESS_INTERVAL_S:
            self._told_s = now_s
            self._tell(is_held=is_held)

    def _tell(self, *, is_held: bool) -> None:
        if self._last_ms is not None:
            self._on_progress(Progress(self._transactions, self._labels, self._last_ms, is_held))
