"""When each stretch of the input was decided, in bounded memory.

    source offsets   0 … 15 │ 16 … 31 │ 32 … 47        a block each
    decided at       09:00  │ 09:00   │ 09:02          first and last time stamp of its decisions

A payment entered the profiles a moment before its decision was published, so this is the best that
the topics tell about the order of payments in different partitions. When there are many blocks
they are joined two by two.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

#: Before, and after, everything.
EVER_MS: Final = -(2**62)
NEVER_MS: Final = 2**62

_BLOCKS_MAX: Final = 200_000
_FIRST_BITS: Final = 4


@dataclass(slots=True)
class _Partition:
    """The blocks of one partition: by number the first and the last time stamp in them."""

    first_offset: int
    last_offset: int
    blocks: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: The numbers in order, made when somebody asks.
    numbers: list[int] = field(default_factory=list)


class DecidedTimes:
    """Remembers when payments were decided, by their place in the input.

    Parameters
    ----------
    blocks_max
        How many blocks are kept at most, over all partitions.
    """

    def __init__(self, blocks_max: int = _BLOCKS_MAX) -> None:
        self._blocks_max = blocks_max
        self._bits = _FIRST_BITS
        self._count = 0
        self._partitions: dict[int, _Partition] = {}

    def note(self, partition: int, offset: int, decided_ms: int) -> None:
        """Note a decision, in any order."""
        own = self._partitions.setdefault(partition, _Partition(offset, offset))
        own.first_offset = min(own.first_offset, offset)
        own.last_offset = max(own.last_offset, offset)
        number = offset >> self._bits
        found = own.blocks.get(number)
        if found is None:
            own.blocks[number] = (decided_ms, decided_ms)
            own.numbers = []
            self._count += 1
            if self._count > self._blocks_max:
                self._coarsen()
        else:
            own.blocks[number] = (min(found[0], decided_ms), max(found[1], decided_ms))

    def when(self, partition: int, offset: int) -> tuple[int, int]:
        """Say between which two times a payment was decided, epoch milliseconds.

        Returns
        -------
        bounds
            `EVER_MS` where nothing of its partition was decided before it, `NEVER_MS` where
            nothing behind it was.

        Examples
        --------
        >>> times = DecidedTimes()
        >>> times.note(0, 7, 1_000)
        >>> times.note(0, 100, 5_000)
        >>> times.when(0, 7), times.when(0, 50), times.when(0, 101) == (5_000, NEVER_MS)
        ((1000, 1000), (1000, 5000), True)
        """
        own = self._partitions.get(partition)
        if own is None:
            return EVER_MS, NEVER_MS
        if offset < own.first_offset:
            return EVER_MS, own.blocks[own.first_offset >> self._bits][0]
        if offset > own.last_offset:
            return own.blocks[own.last_offset >> self._bits][1], NEVER_MS
        found = own.blocks.get(offset >> self._bits)
        return found if found is not None else self._between(own, offset >> self._bits)

    def _between(self, own: _Partition, number: int) -> tuple[int, int]:
        """Bound what lies in a block without decisions by those around it."""
        if not own.numbers:
            own.numbers = sorted(own.blocks)
        place = bisect_right(own.numbers, number)
        return own.blocks[own.numbers[place - 1]][1], own.blocks[own.numbers[place]][0]

    def _coarsen(self) -> None:
        self._bits += 1
        self._count = 0
        for own in self._partitions.values():
            joined: dict[int, tuple[int, int]] = {}
            for number, (first_ms, last_ms) in own.blocks.items():
                other = joined.get(number >> 1, (first_ms, last_ms))
                joined[number >> 1] = (min(first_ms, other[0]), max(last_ms, other[1]))
            own.blocks, own.numbers = joined, []
            self._count += len(joined)
