"""The layout of profiles in Valkey against two others, in one run; see ``profile_layouts.lua``.

The same packed entries of the same cards go to each layout in turn: a record and its three windows
of a day, a week and a month. Ours does more for it: late arrivals, trimming, chunks, watermarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis

from fraudstream.adapters.profile_backend import (
    CALL_ENTRIES_MAX,
    BucketRequest,
    Entry,
    pack_position,
)
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits, connect
from fraudstream.adapters.valkey_pack import Packer
from fraudstream.profile import (
    DAY_MS,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    ProfileDefinition,
    id_hash,
)

_CARDS, _START_MS = 1_024, 1_532_513_472_000
_PARTITION = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
_SIZES = (30, 300)
_PATIENT = ValkeyLimits(deadline_s=20, connect_timeout_s=5)

_Apply = Callable[[Sequence[Entry]], object]


class Comparison(NamedTuple):
    """What one layout needs for series of one size."""

    name: str
    value: float
    unit: str
    spread: str


def compare_layouts(url: str, definition: ProfileDefinition, rounds: int) -> list[Comparison]:
    """Fill cards to each size in every layout, then time one record more of each card.

    Parameters
    ----------
    url
        A server that nobody else uses.
    definition
        Its first series has the columns of a card's payments.
    rounds
        How many records more; the median over rounds is given.
    """
    client = connect(url, _PATIENT)
    client.function_load(Path(__file__).with_suffix(".lua").read_text("utf-8"), replace=True)
    comparisons = []
    for size in _SIZES:
        layouts = _layouts(client, url, definition, size)
        for turn in range(size):
            for calls in layouts.values():
                _apply_all(calls, turn, size)
        for name in layouts:
            taken = [_apply_all(layouts[name], size + turn, size) for turn in range(rounds)]
            comparisons.append(_comparison(client, (name, size, rounds), taken))
        client.flushdb()
    client.close()
    return comparisons


def _layouts(
    client: redis.Redis, url: str, definition: ProfileDefinition, size: int
) -> dict[str, _Apply]:
    backend = ValkeyBackend(url, definition, namespace=f"ours-{size}", limits=_PATIENT)
    packer = Packer(definition)

    def ours(entries: Sequence[Entry]) -> object:
        return backend.apply([BucketRequest(0, {}, entries)])

    def other(function: str, prefix: str) -> _Apply:
        def apply(entries: Sequence[Entry]) -> object:
            keys = [f"{prefix}-{size}:{'x' * 24}:{entry.entity}" for entry in entries]
            command: Sequence[Any] = ("FCALL", function, len(keys), *keys, packer.entries(entries))
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

        return apply

    return {
        "ours": ours,
        "string by APPEND": other("layout_append", "append"),
        "sorted set": other("layout_sorted", "sorted"),
    }


def _apply_all(apply: _Apply, place: int, size: int) -> float:
    """Record one payment of every card; give the seconds that took."""
    calls = list(_calls(place, size))
    start = time.perf_counter()
    for entries in calls:
        apply(entries)
    return time.perf_counter() - start


def _calls(place: int, size: int) -> Iterator[list[Entry]]:
    time_ms = _START_MS + place * 30 * DAY_MS // size
    for first in range(0, _CARDS, CALL_ENTRIES_MAX):
        yield [
            Entry(
                0,
                f"c{card:07d}",
                True,
                time_ms + card,
                id_hash(f"{place}-{card}"),
                pack_position(_PARTITION, place * _CARDS + card),
                0,
                (1_234 + card, 1),
            )
            for card in range(first, first + CALL_ENTRIES_MAX)
        ]


def _comparison(
    client: redis.Redis, what: tuple[str, int, int], taken: Sequence[float]
) -> Comparison:
    name, size, rounds = what
    prefix = {"ours": "fs:ours", "string by APPEND": "append", "sorted set": "sorted"}[name]
    keys = [
        key
        for key in client.scan_iter(f"{prefix}-{size}:*", count=1_000)
        if not key.endswith((b":watermarks", b":rebuilding"))
    ]
    memory = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
    a_record = 1e6 * np.array(taken) / _CARDS
    return Comparison(
        f"layout {name}, {size} records a card",
        float(np.median(a_record)),
        "µs",
        f"{a_record.min():.1f} to {a_record.max():.1f}; "
        f"{memory / _CARDS / (size + rounds):.1f} B a record, key and all",
    )
