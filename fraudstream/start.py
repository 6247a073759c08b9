"""Where a worker begins to read the partitions it was given.

The group's committed offsets say so. Where there are none, either nobody has read the partition
yet, or the offsets were lost; the profiles' watermarks tell the two apart. They also tell offsets
that stepped back: Kafka can tell old ones for a while (``docs/adr/0024``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from fraudstream.adapters.kafka_inquirer import PartitionStart
from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.errors import (
    BrokerUnavailableError,
    OffsetsMissingError,
    OffsetsSteppedBackError,
    StoreUnavailableError,
)
from fraudstream.profile import InputPartition

_log = structlog.get_logger("start")

#: How far committed offsets may lie behind the profiles. A worker that ended leaves one batch
#: there at most, 512 records; among their offsets are those of markers and of aborted records.
_BEHIND_MAX = 2_048


@dataclass(frozen=True, slots=True)
class Places:
    """Where to read each of a worker's partitions from, and where each log begins."""

    positions: Mapping[InputPartition, int]
    log_starts: Mapping[InputPartition, int]
    partitions_in_all: int


def find_places(
    source: KafkaSource,
    store: BucketedProfileStore,
    assigned: Sequence[InputPartition],
    from_: str | None,
) -> Places:
    """Find out where each assigned partition starts.

    Parameters
    ----------
    source, store
        Ask the group and the log; ask the profiles.
    assigned
        What the group gave to this worker.
    from_
        Where to begin when the group's offsets are gone although profiles exist: ``earliest`` or
        ``watermark``; None refuses. If it is given, a person has looked at the offsets: they are
        believed, however old they are.

    Raises
    ------
    UnavailableError
        Kafka does not answer, or profiles do not where they are needed; ask again.
    OffsetsSteppedBackError
        The offsets are older than what was decided by them; ask again.
    OffsetsMissingError
        The offsets are gone, and nobody said where to begin.
    """
    everywhere = source.inspect(source.all_partitions())
    if not set(assigned) <= everywhere.keys():
        raise BrokerUnavailableError("Kafka assigned a partition that it does not list yet")
    own = {partition: everywhere[partition] for partition in assigned}
    positions = {p: _committed(p, s) for p, s in own.items() if s.committed is not None}
    if from_ is None:
        _refuse_step_back(positions, store)
    if len(positions) < len(own):
        fresh = {p: s for p, s in everywhere.items() if s.committed is None}
        positions |= _begin_fresh(source, store, set(own) & set(fresh), fresh, from_)
    log_starts = {partition: start.log_start for partition, start in own.items()}
    return Places(positions, log_starts, len(everywhere))


def _refuse_step_back(positions: Mapping[InputPartition, int], store: BucketedProfileStore) -> None:
    """Refuse offsets that lie further behind the profiles than a batch in hand can."""
    try:
        watermarks = store.watermarks()
    except StoreUnavailableError:
        return  # nothing to compare with
    behind = {p: watermarks.get(p, position) - position for p, position in positions.items()}
    worst = max(behind, key=behind.__getitem__, default=None)
    if worst is not None and behind[worst] > _BEHIND_MAX:
        raise OffsetsSteppedBackError(
            f"the group's committed offsets stepped back: {worst} is at {positions[worst]}, "
            f"{behind[worst]} behind what the profiles hold; Kafka is asked again. If they were "
            "put back on purpose, start once with --from committed"
        )


def _committed(partition: InputPartition, start: PartitionStart) -> int:
    assert start.committed is not None
    if start.committed < start.log_start:
        _log.error("records_deleted_unread", partition=partition, until=start.log_start)
    return max(start.committed, start.log_start)


def _begin_fresh(
    source: KafkaSource,
    store: BucketedProfileStore,
    own: set[InputPartition],
    fresh: Mapping[InputPartition, PartitionStart],
    from_: str | None,
) -> dict[InputPartition, int]:
    """Begin partitions that the group never read, unless it did and its offsets are gone."""
    watermarks = store.watermarks()
    ahead = [p for p, s in fresh.items() if watermarks.get(p, s.log_start) > s.log_start]
    # Asked again: another worker commits its start before it applies anything.
    if ahead and from_ is None:
        _refuse_missing_offsets(source.inspect(ahead))
    starts = {p: fresh[p].log_start for p in own}
    if from_ == "watermark":
        starts = {p: max(watermarks.get(p, start), start) for p, start in starts.items()}
    source.commit_start(starts)
    # Of every partition, so that a new deployment is whole before its last worker has come.
    store.initialise({p: s.log_start for p, s in fresh.items() if p not in watermarks})
    return starts


def _refuse_missing_offsets(found: Mapping[InputPartition, PartitionStart]) -> None:
    if any(start.committed is None for start in found.values()):
        raise OffsetsMissingError(
            "the group's committed offsets are gone, but its profiles exist: start with "
            "--from watermark to go on where the profiles end, or --from earliest to read "
            "the whole log again (decisions are then published again, with the same ids)"
        )
