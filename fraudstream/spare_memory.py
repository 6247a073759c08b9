"""Gives memory that is no longer used back to the operating system."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Free what only cycles of objects hold, and give back what the allocator keeps of it.

    glibc gives back only what lies at the very end of its heap. After much work of another kind
    than usual, such as a repair of lost profiles, most of that memory would stay with the process
    for good. Where the C library has no such call (macOS, musl), nothing is done.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
