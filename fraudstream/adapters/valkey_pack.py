"""What goes over the line and lies in Valkey, as the head of ``profile.lua`` lays it out.

entries ──Packer.entries──▶ ARGV[3] of fs_apply ──▶ rows ──Packer.rows──▶ int64 arrays
runs    ──Packer.runs─────▶ ARGV[2] of fs_merge
head and chunks of a key ──Packer.content──▶ SeriesContent
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fraudstream.adapters.profile_backend import (
    BucketReply,
    BucketRequest,
    Entry,
    SeriesContent,
    SeriesRun,
)
from fraudstream.profile import DAY_MS, ProfileDefinition, Scan, Series, Window

#: Sums are kept modulo this: differences are exact, whatever went through a series in its life.
SUM_MODULUS = 2**53
FLAG_INITIAL, FLAG_RECORD_ONLY, FLAG_KEEP_FLOOR = 1, 2, 4
ANY_EPOCH = b"\0" * 8
LAYOUT = 2
_VERSIONED = 128
_HEADER = struct.Struct("<B8s8sqqH")
_STRETCH = struct.Struct("<BHqq")
_SERIES = struct.Struct("<BBBqq")
_COUNT = struct.Struct("<H")
_EDGE = struct.Struct("<q")
_WINDOW = struct.Struct("<HH")
_SCAN = struct.Struct("<BHHBBH")
_HEAD = struct.Struct("<BBBBIIqq")
_SCAN_KINDS = {"distinct": 0, "quantile": 1, "last": 2}
_ROW_META_COLUMNS = 2
_WATERMARK_META_FIELDS = 2


@dataclass(frozen=True, slots=True)
class Head:
    """The key of a series, taken apart.

    Attributes
    ----------
    trimmed_to_ms, base_count, base_sums
        What was dropped.
    chunks
        Number, records and sum offsets of each, oldest first.
    offsets
        Of the head's own records.
    records
        The newest ones, packed.
    """

    trimmed_to_ms: int
    base_count: int
    base_sums: tuple[int, ...]
    chunks: tuple[tuple[int, int, tuple[int, ...]], ...]
    offsets: tuple[int, ...]
    records: bytes


class Packer:
    """Packs arguments and unpacks answers for the series of one definition."""

    def __init__(self, definition: ProfileDefinition) -> None:
        self._series = definition.series
        self._structs = [_entry_struct(series) for series in definition.series]
        self._dtypes = [_record_dtype(series) for series in definition.series]
        packed = [_pack_series(series) for series in definition.series]
        self.all_series = bytes([len(packed)]) + b"".join(packed)
        #: The same for each series alone.
        self.one_series = [b"\1" + one for one in packed]

    def header(self, request: BucketRequest, known_from_ms: int) -> bytes:
        """Pack what a call is about."""
        flags = request.is_initial * FLAG_INITIAL + request.is_record_only * FLAG_RECORD_ONLY
        head = _HEADER.pack(
            flags,
            request.epoch or ANY_EPOCH,
            request.candidate_epoch,
            known_from_ms,
            request.oldest_ms,
            len(request.stretches),
        )
        return head + b"".join(
            _STRETCH.pack(*partition, *stretch) for partition, stretch in request.stretches.items()
        )

    def entries(self, entries: Sequence[Entry]) -> bytes:
        """Pack the entries of a call, in order."""
        structs = self._structs
        packed = []
        for series, _, is_recorded, time_ms, hashed, position, version_ms, values, extra in entries:
            packing, is_versioned = structs[series]
            version = (version_ms,) if is_versioned else ()
            packed.append(
                packing.pack(
                    series, is_recorded, time_ms, hashed, position, *version, *extra, *values
                )
            )
        return b"".join(packed)

    def reply(self, reply: list[Any], request: BucketRequest) -> BucketReply:
        """Unpack the answer to a call."""
        is_applied, epoch, fields, rebuilding, *packed_rows = reply
        rows = {}
        for number, packed in enumerate(packed_rows):
            if packed:
                columns = _ROW_META_COLUMNS
                if not request.is_record_only:
                    series = self._series[number]
                    columns += len(series.windows) * (1 + len(series.measures)) + len(series.scans)
                rows[number] = np.frombuffer(packed, dtype="<i8").reshape(-1, columns)
        return BucketReply(
            is_applied=is_applied == 1,
            epoch=epoch,
            partitions_known=max(fields - _WATERMARK_META_FIELDS, 0),
            partitions_rebuilding=rebuilding,
            rows=rows,
        )

    def record_bytes(self, series: int) -> int:
        """Give the size of a series' records."""
        return self._dtypes[series].itemsize

    def runs(self, series: int, runs: Sequence[SeriesRun]) -> list[memoryview]:
        """Pack runs of one series, all at once: most are short."""
        lengths = [len(run.times_ms) for run in runs]
        dtype = self._dtypes[series]
        packed = np.empty(sum(lengths), dtype=dtype)
        packed["time_ms"] = np.concatenate([run.times_ms for run in runs])
        packed["hash"] = np.concatenate([run.hashes for run in runs])
        packed["position"] = np.concatenate([run.positions for run in runs])
        if self._series[series].is_versioned:
            packed["version_ms"] = np.concatenate([run.versions_ms for run in runs])
        if self._series[series].attributes:
            packed["attributes"] = np.concatenate([run.attributes for run in runs])
        if self._series[series].measures:
            packed["values"] = np.concatenate([run.values for run in runs])
        whole = memoryview(packed.tobytes())
        ends = (np.cumsum(lengths) * dtype.itemsize).tolist()
        return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def head(self, series: int, packed: bytes) -> Head | None:
        """Take the key of a series apart; None if it is of another layout."""
        definition, dtype = self._series[series], self._dtypes[series]
        columns = len(definition.measures)
        sums = struct.Struct(f"<{columns}q")
        if len(packed) < _HEAD.size + 2 * sums.size:
            return None
        layout, stored_columns, kind, hints, chunks, _, trimmed_to_ms, base_count = (
            _HEAD.unpack_from(packed)
        )
        if (layout, stored_columns, kind) != (LAYOUT, columns, _kind(definition)):
            return None
        index_at = _HEAD.size + 2 * sums.size + 4 * hints
        entry = struct.Struct(f"<qqII{columns}q")
        records_at = index_at + chunks * entry.size
        if len(packed) < records_at or (len(packed) - records_at) % dtype.itemsize:
            return None
        index = entry.iter_unpack(packed[index_at:records_at])
        return Head(
            trimmed_to_ms,
            base_count,
            sums.unpack_from(packed, _HEAD.size),
            tuple((number, n, tuple(offsets)) for _, _, number, n, *offsets in index),
            sums.unpack_from(packed, _HEAD.size + sums.size),
            packed[records_at:],
        )

    def are_whole(self, series: int, head: Head, chunks: Sequence[bytes]) -> bool:
        """Say whether every chunk holds as many records as the head says."""
        size = self._dtypes[series].itemsize
        return [len(c) for c in chunks] == [n * size for _, n, _ in head.chunks]

    def content(
        self, series: int, entity: str, head: Head, chunks: Sequence[bytes]
    ) -> SeriesContent:
        """Put a series together from its head and its chunks' bytes."""
        dtype = self._dtypes[series]
        packed = np.frombuffer(b"".join((*chunks, head.records)), dtype=dtype)
        sizes = [*(n for _, n, _ in head.chunks), len(head.records) // dtype.itemsize]
        offsets = np.array([*(o for _, _, o in head.chunks), head.offsets], dtype=np.int64)
        offsets = offsets.reshape(len(sizes), -1)
        columns = len(self._series[series].measures)
        sums = packed["values"].reshape(len(packed), columns) + np.repeat(offsets, sizes, axis=0)
        base = np.array(head.base_sums, dtype=np.int64).reshape(1, columns)
        is_versioned = self._series[series].is_versioned
        run = SeriesRun(
            series,
            entity,
            packed["time_ms"].astype(np.int64),
            packed["hash"].astype(np.uint64),
            packed["position"].astype(np.uint64),
            (packed["version_ms"] if is_versioned else np.zeros(len(packed))).astype(np.int64),
            np.diff(sums, axis=0, prepend=base) % SUM_MODULUS,
            packed["attributes"].astype(np.uint64),
        )
        return SeriesContent(run, head.trimmed_to_ms, head.base_count, head.base_sums)


def pack_floor(candidate_epoch: bytes, known_from_ms: int) -> bytes:
    """Pack the header of a call that does nothing but raise a bucket's floor."""
    return _HEADER.pack(FLAG_KEEP_FLOOR, ANY_EPOCH, candidate_epoch, known_from_ms, 0, 0)


def _kind(series: Series) -> int:
    return len(series.attributes) + _VERSIONED * series.is_versioned


def _entry_struct(series: Series) -> tuple[struct.Struct, bool]:
    version = "q" * series.is_versioned
    extra = "8s" * len(series.attributes)
    return struct.Struct(f"<BBq8s8s{version}{extra}{len(series.measures)}q"), series.is_versioned


def _record_dtype(series: Series) -> np.dtype[np.void]:
    fields: list[Any] = [("time_ms", "<i8"), ("hash", ">u8"), ("position", ">u8")]
    if series.is_versioned:
        fields.append(("version_ms", "<i8"))
    fields.append(("attributes", ">u8", (len(series.attributes),)))
    fields.append(("values", "<i8", (len(series.measures),)))
    return np.dtype(fields)


def _pack_series(series: Series) -> bytes:
    """Pack a series with its windows as pairs of edges: windows that share one look for it once."""
    windows = [*series.windows, *(scan.window for scan in series.scans)]
    ends = {window.lag_ms for window in windows if window.lag_ms}
    edges = sorted(ends | {window.reach_ms for window in windows})
    numbers = {edge: number for number, edge in enumerate(edges, 1)}

    def pair(window: Window) -> tuple[int, int]:
        if window.lag_ms:
            upper = numbers[window.lag_ms]
        else:
            upper = len(edges) + (1 if window.counts_present else 2)
        return upper, numbers[window.reach_ms]

    pieces = [
        _SERIES.pack(
            len(series.measures),
            len(series.attributes),
            series.is_versioned,
            series.horizon_ms,
            _ttl_ms(series),
        ),
        _COUNT.pack(len(edges)),
        *(_EDGE.pack(edge) for edge in edges),
        _COUNT.pack(len(series.windows)),
        *(_WINDOW.pack(*pair(window)) for window in series.windows),
        _COUNT.pack(len(series.scans)),
        *(_pack_scan(series, scan, pair(scan.window)) for scan in series.scans),
    ]
    return b"".join(pieces)


def _pack_scan(series: Series, scan: Scan, edges: tuple[int, int]) -> bytes:
    column, known = 0, 0
    if scan.kind == "distinct":
        column = series.attributes.index(scan.attribute) + 1
    elif scan.kind == "quantile":
        column = series.measures.index("amount_minor") + 1
        known = series.measures.index("amount_known") + 1
    return _SCAN.pack(_SCAN_KINDS[scan.kind], *edges, column, known, scan.per_mille)


def _ttl_ms(series: Series) -> int:
    """Say how long an idle key is kept; a bound on garbage, never on meaning.

    A worker can be away for as long as the log is kept (the horizon and a week), and the oldest
    event it then reads still looks back one horizon.
    """
    return 2 * series.horizon_ms + 8 * DAY_MS
