"""Profiles in Valkey (or Redis): the function library ``profile.lua`` and how it is called.

Every call has a deadline and is tried once: the loop above decides what to do without an answer.
After a failure a breaker keeps further calls away for a moment that grows, so that a slow server
is neither piled upon nor waited for by every batch.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraudstream.adapters.valkey_fit import require_fit
from fraudstream.errors import StoreUnavailableError, StoreUnfitError
from fraudstream.profile import (
    BucketReply,
    BucketRequest,
    BucketState,
    Entry,
    InputPartition,
    ProfileDefinition,
    Series,
)

_FLAG_INITIAL, _FLAG_RECORD_ONLY, _FLAG_KEEP_FLOOR = 1, 2, 4
_ANY_EPOCH = b"\0" * 8
_HEADER = struct.Struct("<B8s8sqqH")
_STRETCH = struct.Struct("<BHqq")
_SERIES = struct.Struct("<BBqqB")
_WINDOW = struct.Struct("<qq")
_ENTRY = "<BBq8s8sq"
_ROW_META_COLUMNS = 2
_WATERMARK_META_FIELDS = 2
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class ValkeyLimits:
    """How long Valkey may take.

    Parameters
    ----------
    deadline_s
        For one answer.
    connect_timeout_s
        For a new connection.
    breaker_min_s, breaker_max_s
        How long no call is made after a failure; doubled for each further one.
    """

    deadline_s: float = 0.05
    connect_timeout_s: float = 0.25
    breaker_min_s: float = 0.05
    breaker_max_s: float = 1.0


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


class ValkeyBackend:
    """A `fraudstream.profile.ProfileBackend` on a Valkey server.

    Parameters
    ----------
    url
        ``redis://…``, ``rediss://…`` or ``unix://…``; user and password belong in it.
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

    def __init__(
        self,
        url: str,
        definition: ProfileDefinition,
        *,
        namespace: str,
        buckets: int = 1,
        known_from_ms: int = 0,
        limits: ValkeyLimits | None = None,
    ) -> None:
        limits = limits or ValkeyLimits()
        self._client = connect(url, limits)
        self._definition = definition
        self._prefix = f"fs:{namespace}:{definition.digest}:"
        self._buckets = buckets
        self._known_from_ms = known_from_ms
        self._breaker = Breaker(limits)
        self._library = _Library()
        self._is_ready = False
        self._packer = _Packer(definition)

    def require_available(self) -> None:
        """Raise `StoreUnavailableError` while calls are kept away after a failure."""
        self._breaker.require_closed()

    def states(self) -> list[BucketState]:
        """Read every bucket's epoch and watermarks."""
        replies = self._run([("HGETALL", self._watermarks_key(b)) for b in range(self._buckets)])
        return [_bucket_state(_pairs(reply)) for reply in replies]

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
        arguments = (
            _HEADER.pack(_FLAG_KEEP_FLOOR, _ANY_EPOCH, secrets.token_bytes(8), known_from_ms, 0, 0),
        )
        self._run(
            [
                self._call(bucket, (), (*arguments, self._packer.series, b""))
                for bucket in range(self._buckets)
            ]
        )

    def apply(self, requests: Sequence[BucketRequest]) -> list[BucketReply]:
        """Carry out the requests in one round trip, each atomically."""
        commands = [
            self._call(
                request.bucket,
                self._series_keys(request),
                (
                    self._header(request),
                    self._packer.series,
                    self._packer.entries(request.entries),
                ),
            )
            for request in requests
        ]
        replies = self._run(commands)
        return [
            self._packer.reply(reply, request)
            for reply, request in zip(replies, requests, strict=True)
        ]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call(
        self, bucket: int, series_keys: Sequence[str], arguments: Sequence[bytes]
    ) -> tuple[Any, ...]:
        keys = (self._watermarks_key(bucket), self._rebuilding_key(bucket), *series_keys)
        return ("FCALL", self._library.function, len(keys), *keys, *arguments)

    def _header(self, request: BucketRequest) -> bytes:
        flags = request.is_initial * _FLAG_INITIAL + request.is_record_only * _FLAG_RECORD_ONLY
        head = _HEADER.pack(
            flags,
            request.epoch or _ANY_EPOCH,
            request.candidate_epoch,
            self._known_from_ms,
            request.oldest_ms,
            len(request.stretches),
        )
        return head + b"".join(
            _STRETCH.pack(*partition, *stretch) for partition, stretch in request.stretches.items()
        )

    def _series_keys(self, request: BucketRequest) -> list[str]:
        prefix = f"{self._prefix}{{{request.bucket}}}:"
        names = [series.name for series in self._definition.series]
        return [f"{prefix}{names[entry.series]}:{entry.entity}" for entry in request.entries]

    def _watermarks_key(self, bucket: int) -> str:
        return f"{self._prefix}{{{bucket}}}:watermarks"

    def _rebuilding_key(self, bucket: int) -> str:
        return f"{self._prefix}{{{bucket}}}:rebuilding"

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip; look at every answer."""
        self._breaker.require_closed()
        try:
            if not self._is_ready:
                self._prepare()
            replies = self._pipeline(commands)
            if any(_is_function_missing(reply) for reply in replies):
                # Restarted empty: put the library back. What else was lost, watermarks tell.
                self._prepare()
                replies = self._pipeline(commands)
            for reply in replies:
                if isinstance(reply, redis.ResponseError):
                    raise _refusal(reply)
        except (redis.RedisError, OSError) as error:
            self._breaker.failed()
            self._is_ready = False
            raise StoreUnavailableError(f"Valkey: {type(error).__name__}") from error
        self._breaker.succeeded()
        return replies

    def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return list(pipeline.execute(raise_on_error=False))

    def _prepare(self) -> None:
        """Check that the server is fit to hold profiles, and load our functions."""
        require_fit(self._client)
        try:
            self._client.function_load(self._library.source)
        except redis.ResponseError as error:
            # Out of memory, a replica, a full disk: in trouble for now, and tried again later.
            if _is_refused_for_good(error):
                raise StoreUnfitError(f"Valkey refuses our function library: {error}") from error
            if "already exists" not in str(error):
                raise
        self._is_ready = True


def connect(url: str, limits: ValkeyLimits) -> redis.Redis:
    """Make a client with our own time-outs and without retries of its own."""
    return redis.Redis.from_url(
        url,
        protocol=2,  # RESP3 sends commands on connect that Valkey does not know
        socket_timeout=limits.deadline_s,
        socket_connect_timeout=limits.connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        client_name="fraudstream",
    )


class _Library:
    """The function library's source, named by the hash of its content."""

    def __init__(self) -> None:
        template = files("fraudstream.adapters").joinpath("profile.lua").read_text("utf-8")
        digest = hashlib.sha256(template.encode()).hexdigest()[:12]
        self.source = template.replace("@DIGEST@", digest)
        self.function = f"fs_apply_{digest}"


class _Packer:
    """Packs arguments and unpacks answers as the head of ``profile.lua`` lays them out."""

    def __init__(self, definition: ProfileDefinition) -> None:
        self._series = definition.series
        self._structs = [struct.Struct(_ENTRY + "q" * len(s.measures)) for s in definition.series]
        packed = [bytes([len(definition.series)])]
        packed += [_pack_series(series) for series in definition.series]
        self.series = b"".join(packed)

    def entries(self, entries: Sequence[Entry]) -> bytes:
        structs = self._structs
        return b"".join(
            structs[entry.series].pack(
                entry.series,
                entry.is_recorded,
                entry.event_time_ms,
                entry.id_hash,
                entry.position,
                entry.version_ms,
                *entry.values,
            )
            for entry in entries
        )

    def reply(self, reply: list[Any], request: BucketRequest) -> BucketReply:
        is_applied, epoch, fields, rebuilding, *packed_rows = reply
        rows = {}
        for number, packed in enumerate(packed_rows):
            if packed:
                columns = _ROW_META_COLUMNS
                if not request.is_record_only:
                    series = self._series[number]
                    columns += len(series.windows) * (1 + len(series.measures))
                rows[number] = np.frombuffer(packed, dtype="<i8").reshape(-1, columns)
        return BucketReply(
            is_applied=is_applied == 1,
            epoch=epoch,
            partitions_known=max(fields - _WATERMARK_META_FIELDS, 0),
            partitions_rebuilding=rebuilding,
            rows=rows,
        )


def _pack_series(series: Series) -> bytes:
    head = _SERIES.pack(
        len(series.measures),
        series.is_versioned,
        series.horizon_ms,
        _ttl_ms(series),
        len(series.windows),
    )
    return head + b"".join(_WINDOW.pack(w.length_ms, w.lag_ms) for w in series.windows)


def _ttl_ms(series: Series) -> int:
    """Say how long an idle key is kept; a bound on garbage, never on meaning.

    A worker can be away for as long as the log is kept (the horizon and a week), and the oldest
    event it then reads still looks back one horizon.
    """
    return 2 * series.horizon_ms + 8 * _DAY_MS


def _bucket_state(fields: Mapping[bytes, bytes]) -> BucketState:
    watermarks = {}
    for name, value in fields.items():
        topic_number, colon, partition = name.partition(b":")
        if colon:
            watermarks[InputPartition(int(topic_number), int(partition))] = int(value)
    return BucketState(fields.get(b"e", b""), watermarks)


def _pairs(reply: Any) -> Mapping[bytes, bytes]:  # noqa: ANN401 - redis-py types no answers
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def _is_function_missing(reply: object) -> bool:
    return isinstance(reply, redis.ResponseError) and "Function not found" in str(reply)


def _is_refused_for_good(error: redis.ResponseError) -> bool:
    text = str(error).lower()
    is_forbidden = isinstance(error, redis.exceptions.NoPermissionError)
    return is_forbidden or "error compiling" in text or "unknown command" in text


def _refusal(error: redis.ResponseError) -> Exception:
    """Tell a server that must not be used from one that is in trouble for now."""
    text = str(error)
    if text.startswith(("LAYOUT", "WRONGTYPE")):
        return StoreUnfitError(
            "a profile key holds data of another layout: choose another profiles.namespace, or "
            "delete the keys that begin with it."
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return StoreUnfitError("Valkey's ACL refuses what the worker needs: see docs/operations.md")
    return error
