"""Workers that are broken on purpose, to show that the checker notices. Never in the product.

Each function changes the product's classes in this process, before a worker is built, into what a
careless implementation would be. ``exposures.py`` has the fault that brings each of them to light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_INVALID, Producer, TopicPartition
from numpy.typing import NDArray

from fraudstream.adapters import kafka_source, profile_calls, valkey
from fraudstream.adapters.kafka import KafkaAccess, consumer_config
from fraudstream.adapters.kafka_publisher import KafkaPublisher
from fraudstream.adapters.kafka_signs import DelaySigns
from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.profile import InputPartition, Recording, Stretch
from fraudstream.repair import Repairer

#: How ``profile.lua`` looks whether a record is there already.
_LOOK = "local known, at = find(s, t, entry.hash, part, i)"


def offsets_outside() -> None:
    """Commit the offsets by the consumer instead of in the transaction, before it ends."""

    def give_source(self: KafkaSource) -> object:
        return self

    def commit(self: KafkaPublisher, offsets: list[TopicPartition], group: object) -> None:
        assert isinstance(group, KafkaSource)
        group.commit(offsets)

    KafkaSource.group_metadata = give_source  # type: ignore[method-assign]
    KafkaPublisher._send_offsets = commit  # type: ignore[method-assign]


def no_rewind() -> None:
    """Go on behind the batch after an abort."""

    def stay(self: KafkaSource) -> None:
        return None

    KafkaSource.rewind = stay  # type: ignore[method-assign]


def position_asked() -> None:
    """Believe the consumer's position instead of keeping books of what was committed."""

    def ask(source: KafkaSource) -> list[TopicPartition]:
        asked = [source._topic_partition(p, OFFSET_INVALID) for p in source.positions]
        return [found for found in source._consumer.position(asked) if found.offset >= 0]

    def offsets(
        self: KafkaSource, stretches: Mapping[InputPartition, Stretch]
    ) -> list[TopicPartition]:
        return ask(self)

    def rewind(self: KafkaSource) -> None:
        found = {self._topics.partition(p.topic, p.partition): p.offset for p in ask(self)}
        self.start_from({**self.positions, **found})

    KafkaSource.offsets = offsets  # type: ignore[method-assign]
    KafkaSource.rewind = rewind  # type: ignore[method-assign]


def no_id_check() -> None:
    """Record events in the profiles without looking whether they are there already."""

    class Library(valkey._Library):
        def __init__(self) -> None:
            super().__init__()
            assert self.source.count(_LOOK) == 1, "profile.lua looks in another way"
            # Valkey never replaces a library, and keeps it longer than this worker lives.
            digest = self.apply.removeprefix("fs_apply_")
            self.source = self.source.replace(_LOOK, "local known, at = nil, nil")
            self.source = self.source.replace(digest, digest[::-1])
            self.apply, self.merge, self.forget = (
                name.replace(digest, digest[::-1]) for name in (self.apply, self.merge, self.forget)
            )

    valkey._Library = Library  # type: ignore[misc]


def retries_as_duplicates() -> None:
    """Take an event that an attempt before had recorded for a copy of itself."""
    split = profile_calls._split

    def confuse(series: Any, rows: NDArray[np.int64], is_absent: Any) -> object:  # noqa: ANN401
        rows[rows[:, 0] == Recording.RETRY, 0] = Recording.DUPLICATE
        return split(series, rows, is_absent)

    profile_calls._split = confuse  # type: ignore[assignment]


def read_uncommitted() -> None:
    """Read input that its publisher has not committed, and perhaps never will."""

    def careless(access: KafkaAccess, group_id: str) -> dict[str, Any]:
        return consumer_config(access, group_id) | {"isolation.level": "read_uncommitted"}

    kafka_source.consumer_config = careless  # type: ignore[attr-defined]


def producer_kept() -> None:
    """Begin the next transaction with the same producer, whatever looked delayed."""
    take = DelaySigns.take

    def ignore(self: DelaySigns, producer: Producer) -> bool:
        take(self, producer)
        return False

    DelaySigns.take = ignore  # type: ignore[method-assign]
    KafkaPublisher._is_suspicious = property(  # type: ignore[assignment]
        lambda _: False, lambda _, value: None
    )


def gap_skipped() -> None:
    """Move the watermarks on over what was decided while the profiles were away."""

    def accept(self: BucketedProfileStore, stretches: Mapping[InputPartition, Stretch]) -> None:
        return None

    def none(
        self: Repairer, positions: Mapping[InputPartition, int]
    ) -> dict[InputPartition, Stretch]:
        return {}

    BucketedProfileStore._refuse_gaps = accept  # type: ignore[method-assign]
    Repairer.gaps = none  # type: ignore[method-assign]


_ALL: Sequence[Callable[[], None]] = (
    offsets_outside,
    no_rewind,
    position_asked,
    no_id_check,
    retries_as_duplicates,
    read_uncommitted,
    producer_kept,
    gap_skipped,
)
#: By name, what breaks this process's worker.
BROKEN: Mapping[str, Callable[[], None]] = {defect.__name__: defect for defect in _ALL}


def apply(name: str) -> None:
    """Break the worker of this process, before it is built."""
    BROKEN[name]()
