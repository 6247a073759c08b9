"""Profiles in memory as bytes, for a device that keeps them over a restart.

    magic · version · digest of the definition · length · checksum │ body
    body    known_from_ms · buckets, each:
            epoch · floor_ms · watermarks · rebuilding marks · series, each:
            header · entity · base sums
            times │ hashes │ positions │ [versions, labels] │ values │ attributes

The same profiles give the same bytes. Numbers are little-endian, hashes and positions the opaque
big-endian bytes that they are everywhere; columns lie one behind the other, as numpy reads them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.profile_backend import SeriesContent, SeriesRun
from fraudstream.errors import StoreUnfitError
from fraudstream.profile import InputPartition, ProfileDefinition, Series

_MAGIC = b"fsprofil"
_VERSION = 1
_CHECKSUM_BYTES = 16
_HEAD = struct.Struct(f"<8sH8sQ{_CHECKSUM_BYTES}s")
_BODY = struct.Struct("<qI")
_BUCKET = struct.Struct("<8sqIII")
_MARK = struct.Struct("<BHq")
_SERIES = struct.Struct("<HHQqq")
_NO_EPOCH = b"\0" * 8


@dataclass(frozen=True, slots=True)
class BucketContent:
    """All that one bucket holds."""

    epoch: bytes
    floor_ms: int
    watermarks: Mapping[InputPartition, int]
    rebuilding: Mapping[InputPartition, int]
    series: Sequence[SeriesContent]


def pack_snapshot(
    definition: ProfileDefinition, known_from_ms: int, buckets: Sequence[BucketContent]
) -> bytes:
    """Write down all buckets of a store."""
    parts = [_BODY.pack(known_from_ms, len(buckets))]
    for bucket in buckets:
        parts += _pack_bucket(definition, bucket)
    body = b"".join(parts)
    head = (definition.digest.encode(), len(body), _checksum(body))
    return _HEAD.pack(_MAGIC, _VERSION, *head) + body


def unpack_snapshot(definition: ProfileDefinition, data: bytes) -> tuple[int, list[BucketContent]]:
    """Read what `pack_snapshot` wrote: ``known_from_ms`` and the buckets.

    Raises
    ------
    StoreUnfitError
        The bytes are no snapshot, of another release or of other definitions, or damaged.
    """
    reader = _Reader(_checked_body(definition, data))
    known_from_ms, buckets = reader.take(_BODY)
    return known_from_ms, [_read_bucket(definition, reader) for _ in range(buckets)]


def _checked_body(definition: ProfileDefinition, data: bytes) -> bytes:
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise StoreUnfitError("this is no snapshot of profiles: take one, or begin without it.")
    _, version, digest, body_bytes, checksum = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise StoreUnfitError(
            f"the snapshot of profiles has format {version}, this release reads {_VERSION}: "
            "take a new one with this release."
        )
    if digest.decode("latin-1") != definition.digest:
        raise StoreUnfitError(
            "the snapshot holds profiles of another feature set: use the one it was taken with, "
            "or begin without it."
        )
    body = data[_HEAD.size :]
    if len(body) != body_bytes or _checksum(body) != checksum:
        raise StoreUnfitError("the snapshot of profiles is cut off or damaged: take a new one.")
    return body


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest()


def _pack_bucket(definition: ProfileDefinition, bucket: BucketContent) -> list[bytes]:
    counts = (len(bucket.watermarks), len(bucket.rebuilding), len(bucket.series))
    parts = [_BUCKET.pack(bucket.epoch or _NO_EPOCH, bucket.floor_ms, *counts)]
    for marks in (bucket.watermarks, bucket.rebuilding):
        parts += [_MARK.pack(*partition, offset) for partition, offset in sorted(marks.items())]
    for content in sorted(bucket.series, key=lambda found: (found.run.series, found.run.entity)):
        parts += _pack_series(definition.series[content.run.series], content)
    return parts


def _pack_series(series: Series, content: SeriesContent) -> list[bytes]:
    run, entity = content.run, content.run.entity.encode()
    sizes = (run.series, len(entity), len(run))
    columns: list[NDArray[Any]] = [
        np.array(content.base_sums, dtype="<i8"),
        run.times_ms.astype("<i8"),
        run.hashes.astype(">u8"),
        run.positions.astype(">u8"),
        *([run.versions_ms.astype("<i8")] if series.is_versioned else []),
        run.values.T.astype("<i8"),
        run.attributes.T.astype(">u8"),
    ]
    header = _SERIES.pack(*sizes, content.trimmed_to_ms, content.base_count)
    return [header, entity, *(column.tobytes() for column in columns)]


class _Reader:
    """Reads on from where it stands; a checksum has said that everything is there."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        self._at += layout.size
        return layout.unpack_from(self._body, self._at - layout.size)

    def text(self, size: int) -> str:
        self._at += size
        return self._body[self._at - size : self._at].decode()

    def column(self, dtype: str, *shape: int) -> NDArray[Any]:
        count = int(np.prod(shape))
        self._at += 8 * count
        found = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._at - 8 * count)
        return found.reshape(shape)


def _read_bucket(definition: ProfileDefinition, reader: _Reader) -> BucketContent:
    epoch, floor_ms, watermarks, rebuilding, series = reader.take(_BUCKET)
    return BucketContent(
        b"" if epoch == _NO_EPOCH else epoch,
        floor_ms,
        _read_marks(reader, watermarks),
        _read_marks(reader, rebuilding),
        [_read_series(definition, reader) for _ in range(series)],
    )


def _read_marks(reader: _Reader, count: int) -> dict[InputPartition, int]:
    marks = (reader.take(_MARK) for _ in range(count))
    return {InputPartition(topic, partition): offset for topic, partition, offset in marks}


def _read_series(definition: ProfileDefinition, reader: _Reader) -> SeriesContent:
    number, entity_bytes, count, trimmed_to_ms, base_count = reader.take(_SERIES)
    series = definition.series[number]
    entity = reader.text(entity_bytes)
    base_sums = tuple(reader.column("<i8", len(series.measures)).tolist())
    run = SeriesRun(
        number,
        entity,
        reader.column("<i8", count),
        reader.column(">u8", count),
        reader.column(">u8", count),
        reader.column("<i8", count) if series.is_versioned else np.zeros(count, dtype=np.int64),
        reader.column("<i8", len(series.measures), count).T,
        reader.column(">u8", len(series.attributes), count).T,
    )
    return SeriesContent(run, trimmed_to_ms, base_count, base_sums)
