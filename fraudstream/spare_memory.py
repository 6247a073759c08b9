"""Keeps a long-running process small: what is no longer used goes back to the operating system.

Both are glibc's own calls; where the C library has none of them (macOS, musl), nothing is done.
"""

from __future__ import annotations

import ctypes
import gc

#: glibc's ``M_MMAP_THRESHOLD`` (malloc.h), and its value at a process's start.
_MMAP_THRESHOLD = -3
_MAPPED_FROM_BYTES = 128 * 1024


def map_large_blocks() -> None:
    """Give each large block a mapping of its own, which goes when the block is freed.

    That is what glibc begins with; but the first large block that is freed raises the limit to its
    size, and from then on Kafka's buffers of a megabyte lie among small blocks that stay.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)


def give_back() -> None:
    """Free what only cycles of objects hold, and give back what the allocator keeps of it.

    glibc by itself gives back only what lies at the very end of its heap. After an outage, a
    backlog or a repair most of that memory would stay with the process for good.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
