"""The transactional producer: outputs and input offsets in one Kafka transaction.

                      ┌──────────────── nothing looked delayed ◀────────────────┐
                      ▼                                                         │
    prepare ─▶ READY ─▶ _begin ─▶ _produce ─▶ _send_offsets ─▶ _commit ─▶ COMMITTED
       ▲                 │ must abort, or an output was refused   │ something looked delayed
       │                 ▼                                        ▼
       │              _abort ─▶ ABORTED ─▶ (as after a commit)  SUSPICIOUS
       │                 │ failed                                 │
       │                 ▼                                        │
       └── no producer ◀─┴── fatal, or the outcome is unknown     │
       └──────────── a new producer of the same name ◀────────────┘

    A retriable error: the same step again, never another one. COMMITTED, ABORTED
    (`BrokerUnavailableError`, `OutputRefusedError`) and unknown (`UnknownOutcomeError`) are what
    the loop hears.

The rules are those of ``docs/adr/0003-exactly-once-by-transactions.md``: librdkafka has no
protection against a delayed request of an earlier transaction (KIP-890 part 2), so whenever
anything looked delayed, the next transaction is begun by a new producer, which the coordinator
tells from the old one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from fraudstream.adapters.kafka import (
    Fences,
    GroupMembership,
    KafkaAccess,
    error_of,
    producer_config,
)
from fraudstream.adapters.kafka_bounded import BoundedCaller, close_aside
from fraudstream.adapters.kafka_deliveries import Deliveries, attempt_headers
from fraudstream.adapters.kafka_signs import DelaySigns, drain
from fraudstream.alert import OutputRecord
from fraudstream.errors import (
    BrokerUnavailableError,
    OutputRefusedError,
    SlotTakenError,
    UnknownOutcomeError,
)

_log = structlog.get_logger("publisher")

#: Above the longest batch by far, below the time a reader should wait for a dead worker's.
_TRANSACTION_TIMEOUT_MS = 10_000
_INIT_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 5.0
#: All tries of one step together.
_STEP_DEADLINE_S = 8.0
#: Sending offsets may never return (`kafka_bounded`): whoever waits for it keeps payments waiting.
_OFFSETS_TIMEOUT_S = 4.0
_OFFSETS_DEADLINE_S = 5.0
#: A commit slower than this may have left a request behind (measured with a proxy).
_SUSPICIOUS_CALL_S = 0.5


class _MustAbortError(Exception):
    """The transaction can only be aborted."""


class _MustRebuildError(Exception):
    """The producer can no longer be used; what became of the transaction is not known."""


class KafkaPublisher:
    """Publishes batches, each in a transaction of its own.

    Parameters
    ----------
    access, membership
        Where, and as whom.
    on_rebuild
        Called whenever a producer is made anew.
    """

    def __init__(
        self,
        access: KafkaAccess,
        membership: GroupMembership,
        on_rebuild: Callable[[], None] = lambda: None,
    ) -> None:
        self._access = access
        self._membership = membership
        self._on_rebuild = on_rebuild
        self._producer: Producer | None = None
        self._is_suspicious = False
        self._signs = DelaySigns()
        self._bounded = BoundedCaller()
        #: Producers in calls that do not return, and who makes the calls.
        self._abandoned: list[tuple[Producer, BoundedCaller]] = []
        self._deliveries = Deliveries()
        self._began_at_s = 0.0
        self._fences = Fences()
        # A worker's attempts must not be taken for those of its predecessor in the slot.
        self._run = secrets.token_hex(4)
        self._transactions = 0
        #: What the records of the current transaction carry.
        self.attempt = ""

    def prepare(self) -> None:
        """Make the producer ready, ending a predecessor's open transaction.

        Raises
        ------
        BrokerUnavailableError
            Not now; call again.
        """
        self._let_go()
        if self._producer is not None:
            is_delayed = self._signs.take(self._producer)
            if not (is_delayed or self._is_suspicious):
                return
            _log.warning("producer_rebuilt")
            self._on_rebuild()
            close_aside(self._producer)
        self._producer = None
        self._signs = DelaySigns()
        producer = Producer(
            producer_config(self._access)
            | {
                "transactional.id": self._membership.transactional_id,
                "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                "delivery.report.only.error": True,
            }
            | self._signs.config()
        )
        try:
            producer.init_transactions(_INIT_TIMEOUT_S)
        except KafkaException as exception:
            raise BrokerUnavailableError(
                f"the transactional producer cannot start: {error_of(exception).name()}"
            ) from exception
        self._producer = producer
        self._is_suspicious = False

    def publish(
        self, outputs: Sequence[OutputRecord], offsets: Sequence[TopicPartition], group: object
    ) -> None:
        """Publish outputs and commit the offsets they stand for: all or nothing.

        Raises
        ------
        BrokerUnavailableError
            Aborted, or, as `UnknownOutcomeError`, not known whether it was committed.
        OutputRefusedError
            Kafka will never take one of the outputs. The transaction was aborted.
        """
        self.prepare()
        try:
            self._begin()
            self._produce(outputs)
            self._send_offsets(list(offsets), group)
            self._commit()
        except OutputRefusedError:
            self._abort()
            raise
        except _MustAbortError as error:
            self._abort()
            self._deliveries.raise_refused()
            raise BrokerUnavailableError(f"transaction aborted: {error}") from error
        except _MustRebuildError as error:
            self._discard()
            raise UnknownOutcomeError(f"transaction in doubt: {error}") from error

    def _begin(self) -> None:
        self._deliveries = Deliveries()
        self._began_at_s = time.monotonic()
        self._transactions += 1
        self.attempt = f"{self._membership.transactional_id}/{self._run}/{self._transactions}"
        self._step(self._require().begin_transaction)

    def _produce(self, outputs: Sequence[OutputRecord]) -> None:
        producer = self._require()
        attempt = attempt_headers(self.attempt, len(outputs))
        for output in outputs:
            try:
                self._deliveries.enqueue(producer, output, attempt)
            except BrokerUnavailableError as error:
                raise _MustAbortError(str(error)) from error
            except KafkaException as exception:
                found = error_of(exception)
                if found.code() == KafkaError._STATE and not found.fatal():
                    # An output before it was refused already; the reports say which.
                    raise _MustAbortError(found.name()) from exception
                raise self._judge(found) from exception
        producer.poll(0)

    def _send_offsets(self, offsets: list[TopicPartition], group: object) -> None:
        self._step(lambda: self._send_offsets_once(offsets, group))

    def _send_offsets_once(self, offsets: list[TopicPartition], group: object) -> None:
        producer = self._require()
        try:
            self._bounded(
                lambda: producer.send_offsets_to_transaction(offsets, group, _OFFSETS_TIMEOUT_S),
                _OFFSETS_DEADLINE_S,
            )
        except TimeoutError:
            # Until it returns nothing of it can be freed.
            self._abandoned.append((producer, self._bounded))
            self._producer = None
            self._bounded.close()
            self._bounded = BoundedCaller()
            self._on_rebuild()
            raise _MustRebuildError("sending offsets does not return") from None

    def _commit(self) -> None:
        self._step(lambda: self._require().commit_transaction(_CALL_TIMEOUT_S))

    def _require(self) -> Producer:
        assert self._producer is not None
        return self._producer

    def _step(self, call: Callable[[], object]) -> None:
        """Make one call of the transaction, again while the library says so."""
        started_s = time.monotonic()
        while True:
            try:
                call()
            except KafkaException as exception:
                error = error_of(exception)
                self._is_suspicious = True
                is_in_time = time.monotonic() - started_s < _STEP_DEADLINE_S
                # Only the same call may be repeated: commit may not become abort here.
                if not (error.retriable() and is_in_time):
                    raise self._judge(error) from exception
            else:
                if time.monotonic() - started_s > _SUSPICIOUS_CALL_S:
                    self._is_suspicious = True
                return

    def _judge(self, error: KafkaError) -> Exception:
        if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED):
            self._note_fenced()
        if error.txn_requires_abort() and not error.fatal():
            return _MustAbortError(error.name())
        return _MustRebuildError(error.name())

    def _note_fenced(self) -> None:
        now_s = time.monotonic()
        if now_s - self._began_at_s >= _TRANSACTION_TIMEOUT_MS / 1000:
            return  # it timed out: slowness of our own, which the client reports as fencing too
        if self._fences.are_too_many():
            raise SlotTakenError(
                f"another live worker publishes as {self._membership.transactional_id}: give each "
                "worker a slot of its own"
            )

    def _abort(self) -> None:
        try:
            self._step(lambda: self._require().abort_transaction(_CALL_TIMEOUT_S))
        except (_MustAbortError, _MustRebuildError) as error:
            # The coordinator ends it when the next producer of this name reports.
            _log.warning("abort_failed", error=str(error))
            self._discard()

    def _let_go(self) -> None:
        """Close producers that were given up, as soon as their calls return.

        They return once the group's coordinator is up again, hours later perhaps. Until then what
        they report has to be taken, or it would pile up.
        """
        for producer, caller in list(self._abandoned):
            drain(producer)
            if caller.is_idle:
                self._abandoned.remove((producer, caller))
                close_aside(producer)
                _log.info("abandoned_producer_closed")

    def _discard(self) -> None:
        if self._producer is not None:
            close_aside(self._producer)
            _log.warning("producer_discarded")
            self._on_rebuild()
        self._producer = None
