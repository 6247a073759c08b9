"""Profiles in Valkey (or Redis): the function library ``profile.lua`` and how it is called.

    BucketRequest ──Packer──▶ FCALL fs_apply ──Wire──▶ Valkey
    BucketReply   ◀──────────── rows ◀───────────────────┘

Every call has a deadline and is tried once: the loop above decides what to do without an answer.
After a failure a breaker keeps further calls away for a moment that grows, so that a slow server
is neither piled upon nor waited for by every batch.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

import redis

from fraudstream.adapters.profile_backend import (
    BucketReply,
    BucketRequest,
    BucketState,
    SeriesContent,
    SeriesRun,
    bucket_of,
)
from fraudstream.adapters.valkey_cluster import ClusterWire
from fraudstream.adapters.valkey_pack import Head, Packer, pack_floor
from fraudstream.adapters.valkey_wire import ServerWire, ValkeyLimits, Wire, connect
from fraudstream.errors import StoreUnavailableError, StoreUnfitError
from fraudstream.profile import InputPartition, ProfileDefinition

__all__ = ["Breaker", "ValkeyBackend", "ValkeyLimits", "connect"]

#: Of a run that is merged, so many records go into one call, and so many into one round trip.
_MERGE_CALL_RECORDS = 512
_MERGE_TRIP_RECORDS = 4096
_MERGE_TRIP_CALLS = 256
_CONTENT_TRIP_CHUNKS = 16
_CONTENT_TRIES = 5


_AnswerT = TypeVar("_AnswerT")


class Breaker:
    """Keeps calls away for a while after a failure; doubles the while as long as it fails."""

    def __init__(self, limits: ValkeyLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._pause_s = 0.0
        self._open_until_s = 0.0

    def require_closed(self) -> None:
        """Raise `StoreUnavailableError` while calls are kept away."""
        if self._clock() < self._open_until_s:
            raise StoreUnavailableError("Valkey failed a moment ago and is left alone")

    def failed(self) -> None:
        """Keep calls away, longer each time."""
        limits = self._limits
        self._pause_s = min(max(2 * self._pause_s, limits.breaker_min_s), limits.breaker_max_s)
        self._open_until_s = self._clock() + self._pause_s

    def succeeded(self) -> None:
        """Let calls through again."""
        self._pause_s = 0.0


class _Piece(NamedTuple):
    """What is left of a run on its way into a series."""

    key: str
    series: int
    packed: memoryview


class ValkeyBackend:
    """A `fraudstream.adapters.profile_backend.ProfileBackend` on a Valkey server or cluster.

    Parameters
    ----------
    wire
        The connection, or the address of a server: ``redis://…``, ``rediss://…`` or ``unix://…``;
        user and password belong in it.
    definition
        The series to keep; its digest is part of every key.
    namespace
        Part of every key: keeps deployments, and replays, apart.
    buckets
        How many buckets entities are spread over.
    known_from_ms
        Windows that reach back before this time are unknown.
    limits
        Time-outs and back-off.
    """

    def __init__(  # noqa: PLR0913 - names a deployment's keys and limits, each once
        self,
        wire: Wire | str,
        definition: ProfileDefinition,
        *,
        namespace: str,
        buckets: int = 1,
        known_from_ms: int = 0,
        limits: ValkeyLimits | None = None,
        cluster: bool = False,
    ) -> None:
        limits = limits or ValkeyLimits()
        if isinstance(wire, str):
            wire = ClusterWire(wire, limits) if cluster else ServerWire(wire, limits)
        self._wire = wire
        self._prefix = f"fs:{namespace}:{definition.digest}:"
        self._names = [series.name for series in definition.series]
        self._buckets = buckets
        self._known_from_ms = known_from_ms
        self._breaker = Breaker(limits)
        self._library = _Library()
        self._is_ready = False
        self._packer = Packer(definition)

    def require_available(self) -> None:
        """Raise `StoreUnavailableError` while calls are kept away after a failure."""
        self._breaker.require_closed()

    def states(self) -> list[BucketState]:
        """Read every bucket's epoch and watermarks."""
        replies = self._run([("HGETALL", self._watermarks_key(b)) for b in range(self._buckets)])
        return [_bucket_state(_pairs(reply)) for reply in replies]

    def generation(self) -> str:
        """Name the servers' processes (see `ProfileBackend.generation`)."""
        return self._guarded(self._wire.generation)

    def mark_rebuild(self, partition: InputPartition, target: int) -> None:
        """Say in every bucket that a partition is being rebuilt until its watermark is there."""
        field = f"{partition.topic_number}:{partition.partition}"
        self._run(
            [
                ("HSET", self._rebuilding_key(bucket), field, target)
                for bucket in range(self._buckets)
            ]
        )

    def raise_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that nothing before this time is known any more."""
        header = pack_floor(secrets.token_bytes(8), known_from_ms)
        arguments = (header, self._packer.all_series, b"")
        self._run([self._call(bucket, (), arguments) for bucket in range(self._buckets)])

    def lower_floor(self, known_from_ms: int) -> None:
        """Say in every bucket that what came from this time on is known again."""
        commands = [
            ("HSET", self._watermarks_key(bucket), "f", known_from_ms)
            for bucket, state in enumerate(self.states())
            if state.floor_ms > known_from_ms
        ]
        if commands:
            self._run(commands)

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        """Carry out the requests in one round trip, each atomically."""
        packer = self._packer
        commands = [
            self._call(
                request.bucket,
                self._series_keys(request),
                (
                    packer.header(request, self._known_from_ms),
                    packer.all_series,
                    packer.entries(request.entries),
                ),
            )
            for request in requests
        ]
        replies = self._run(commands)
        return [
            packer.reply(reply, request) for reply, request in zip(replies, requests, strict=True)
        ]

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        """Merge records into their series, many series a round trip and a bounded part of each."""
        waiting = deque(self._pieces(runs))
        while waiting:
            trip, held = self._next_trip(waiting)
            replies = self._run([self._merge_call(piece) for piece in trip])
            for piece, done in zip(trip, replies, strict=True):
                rest = piece.packed[done * self._packer.record_bytes(piece.series) :]
                if rest:
                    held.append(piece._replace(packed=rest))
            waiting.extendleft(reversed(held))

    def forget(self, series: int, entity: str, until_ms: int) -> int:
        """Drop an entity's records up to a time, and refuse such records from then on."""
        (dropped,) = self._run(
            [
                (
                    "FCALL",
                    self._library.forget,
                    1,
                    self._key(series, entity),
                    self._packer.one_series[series],
                    until_ms.to_bytes(8, "little", signed=True),
                )
            ]
        )
        return int(dropped)

    def content(self, series: int, entity: str) -> SeriesContent | None:
        """Read all that is kept of one series, in pieces; None if there is nothing.

        Raises
        ------
        StoreUnavailableError
            No answer, or the series changed all the time while it was read.
        """
        key = self._key(series, entity)
        for _ in range(_CONTENT_TRIES):
            head = self._head(series, key)
            if head is None:
                return None
            chunks = self._chunks(key, [number for number, _, _ in head.chunks])
            # What lies in chunks changes seldom, and never without the index or the offsets.
            after = self._head(series, key) if chunks else head
            if after is not None and _shape(after) == _shape(head):
                if not self._packer.are_whole(series, head, chunks):
                    raise _refusal(redis.ResponseError(f"LOST a chunk of {key}"))
                return self._packer.content(series, entity, head, chunks)
        raise StoreUnavailableError("the series changes faster than it can be read")

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def _head(self, series: int, key: str) -> Head | None:
        (packed,) = self._run([("GET", key)])
        if packed is None:
            return None
        head = self._packer.head(series, packed)
        if head is None:
            raise StoreUnfitError(_OTHER_LAYOUT)
        return head

    def _chunks(self, key: str, numbers: Sequence[int]) -> list[bytes]:
        chunks: list[bytes] = []
        for start in range(0, len(numbers), _CONTENT_TRIP_CHUNKS):
            some = numbers[start : start + _CONTENT_TRIP_CHUNKS]
            replies = self._run([("GET", f"{key}#{number}") for number in some])
            chunks += [reply or b"" for reply in replies]
        return chunks

    def _pieces(self, runs: Sequence[SeriesRun]) -> Iterable[_Piece]:
        for series in sorted({run.series for run in runs}):
            ours = [run for run in runs if run.series == series]
            for run, packed in zip(ours, self._packer.runs(series, ours), strict=True):
                if packed:
                    yield _Piece(self._key(series, run.entity), series, packed)

    def _next_trip(self, waiting: deque[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
        """Take what goes into one round trip, of each key one piece; the second list must wait."""
        trip: list[_Piece] = []
        held: list[_Piece] = []
        keys, records = set(), 0
        while waiting and records < _MERGE_TRIP_RECORDS and len(trip) < _MERGE_TRIP_CALLS:
            piece = waiting.popleft()
            if piece.key in keys:
                held.append(piece)
                continue
            keys.add(piece.key)
            trip.append(piece)
            size = self._packer.record_bytes(piece.series)
            records += min(len(piece.packed) // size, _MERGE_CALL_RECORDS)
        return trip, held

    def _merge_call(self, piece: _Piece) -> tuple[Any, ...]:
        size = _MERGE_CALL_RECORDS * self._packer.record_bytes(piece.series)
        series = self._packer.one_series[piece.series]
        return ("FCALL", self._library.merge, 1, piece.key, series, bytes(piece.packed[:size]))

    def _call(
        self, bucket: int, series_keys: Sequence[str], arguments: Sequence[bytes]
    ) -> tuple[Any, ...]:
        keys = (self._watermarks_key(bucket), self._rebuilding_key(bucket), *series_keys)
        return ("FCALL", self._library.apply, len(keys), *keys, *arguments)

    def _series_keys(self, request: BucketRequest) -> list[str]:
        prefix = f"{self._prefix}{{{request.bucket}}}:"
        starts = [f"{prefix}{name}:" for name in self._names]
        return [starts[entry.series] + entry.entity for entry in request.entries]

    def _key(self, series: int, entity: str) -> str:
        bucket = bucket_of(entity, self._buckets)
        return f"{self._prefix}{{{bucket}}}:{self._names[series]}:{entity}"

    def _watermarks_key(self, bucket: int) -> str:
        return f"{self._prefix}{{{bucket}}}:watermarks"

    def _rebuilding_key(self, bucket: int) -> str:
        return f"{self._prefix}{{{bucket}}}:rebuilding"

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip; look at every answer."""
        return self._guarded(lambda: self._answers(commands))

    def _answers(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = self._wire.run(commands)
        if any(_is_function_missing(reply) for reply in replies):
            # Restarted empty: put the library back. What else was lost, watermarks tell.
            self._prepare()
            replies = self._wire.run(commands)
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise _refusal(reply)
        return replies

    def _guarded(self, ask: Callable[[], _AnswerT]) -> _AnswerT:
        """Ask once, unless the breaker is open; no answer opens it."""
        self._breaker.require_closed()
        try:
            if not self._is_ready:
                self._prepare()
            answer = ask()
        except (redis.RedisError, OSError) as error:
            self._breaker.failed()
            self._is_ready = False
            raise StoreUnavailableError(f"Valkey: {type(error).__name__}") from error
        self._breaker.succeeded()
        return answer

    def _prepare(self) -> None:
        """Check that every server is fit to hold profiles, and load our functions."""
        self._wire.prepare(self._library.source)
        self._is_ready = True


class _Library:
    """The function library's source, named by the hash of its content."""

    def __init__(self) -> None:
        template = files("fraudstream.adapters").joinpath("profile.lua").read_text("utf-8")
        digest = hashlib.sha256(template.encode()).hexdigest()[:12]
        self.source = template.replace("@DIGEST@", digest)
        self.apply = f"fs_apply_{digest}"
        self.merge = f"fs_merge_{digest}"
        self.forget = f"fs_forget_{digest}"


_OTHER_LAYOUT = (
    "a profile key holds data of another layout: choose another profiles.namespace, or "
    "delete the keys that begin with it."
)


def _shape(head: Head) -> tuple[object, ...]:
    """Give what changes whenever a chunk does."""
    return head.base_count, head.base_sums, head.chunks, head.offsets


def _bucket_state(fields: Mapping[bytes, bytes]) -> BucketState:
    watermarks = {}
    for name, value in fields.items():
        topic_number, colon, partition = name.partition(b":")
        if colon:
            watermarks[InputPartition(int(topic_number), int(partition))] = int(value)
    return BucketState(fields.get(b"e", b""), watermarks, int(fields.get(b"f", 0)))


def _pairs(reply: Any) -> Mapping[bytes, bytes]:  # noqa: ANN401 - redis-py types no answers
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def _is_function_missing(reply: object) -> bool:
    return isinstance(reply, redis.ResponseError) and "Function not found" in str(reply)


def _refusal(error: redis.RedisError) -> Exception:
    """Tell a server that must not be used from one that is in trouble for now."""
    text = str(error)
    if text.startswith(("LAYOUT", "WRONGTYPE")):
        return StoreUnfitError(_OTHER_LAYOUT)
    if text.startswith("LOST"):
        return StoreUnfitError(
            f"a piece of a profile is gone ({text.removeprefix('LOST ')}): somebody or something "
            "deletes keys. Delete the keys of this profiles.namespace, so that it is rebuilt."
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return StoreUnfitError("Valkey's ACL refuses what the worker needs: see docs/operations.md")
    if "unknown command" in text.lower():
        return StoreUnfitError(
            f"the server has no functions ({text}): use Valkey 8.1.9 or newer, and rename or "
            "disable none of its commands."
        )
    return error
