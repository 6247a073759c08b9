"""What a worker is made of, what bounds it, and who is told what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import TopicPartition

from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.alert import OutputRecord
from fraudstream.dead_letters import DeadLetterGuard
from fraudstream.errors import UnavailableError
from fraudstream.pipeline import InputBatch, Pipeline, Processed
from fraudstream.profile import InputPartition
from fraudstream.repair import Repairer


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """Bounds of the loop.

    Parameters
    ----------
    batch_records_max
        How many records one transaction takes at most. Twelve calls to Valkey, some 25 ms.
    poll_timeout_s
        How long to wait for a first record.
    backoff_min_s, backoff_max_s
        How long to wait after an abort; doubled each time.
    idle_interval_s
        How often the watermarks of buckets without traffic are moved on.
    narrowing_max_s
        How long the search for a refused output may keep the worker from polling. Some refusals
        take five seconds each, and ten find one record of 512: less would begin anew for ever.
    give_back_interval_s
        How often memory that is no longer used goes back to the operating system.
    """

    batch_records_max: int = 512
    poll_timeout_s: float = 0.1
    backoff_min_s: float = 0.02
    backoff_max_s: float = 1.0
    idle_interval_s: float = 1.0
    narrowing_max_s: float = 60.0
    give_back_interval_s: float = 20.0


class Observer(Protocol):
    """Is told what the loop does: metrics and health."""

    def looped(self, *, is_settled: bool) -> None:
        """Note that the loop is alive, and whether it has partitions and Kafka answers."""
        ...

    def committed(self, batch: InputBatch, processed: Processed, publish_s: float) -> None:
        """Note that a batch is out."""
        ...

    def aborted(self, error: UnavailableError) -> None:
        """Note that a batch was not committed and will be read again."""
        ...

    def lag(self, records: Mapping[InputPartition, int], gap_records: int) -> None:
        """How far behind the worker is, and how many records its profiles lack."""
        ...


class Publisher(Protocol):
    """Publishes a batch's outputs, and commits the input offsets that they stand for."""

    def prepare(self) -> None:
        """Make ready; raises `BrokerUnavailableError` if that is not possible now."""
        ...

    def publish(
        self, outputs: Sequence[OutputRecord], offsets: Sequence[TopicPartition], group: object
    ) -> None:
        """Publish and commit; raises an `UnavailableError` where that did not succeed."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a worker is made of."""

    source: KafkaSource
    publisher: Publisher
    pipeline: Pipeline
    store: BucketedProfileStore
    repairer: Repairer
    guard: DeadLetterGuard
    observer: Observer


@dataclass(frozen=True, slots=True)
class StartRules:
    """What to do where the answer is not plain.

    Parameters
    ----------
    from_
        Where to begin when the group's offsets are gone although profiles exist: ``earliest`` or
        ``watermark``; with either, or ``committed``, offsets that lie far behind the profiles are
        believed. None refuses both.
    is_degradable
        Whether to decide without profiles when they are away.
    """

    from_: str | None = None
    is_degradable: bool = True
