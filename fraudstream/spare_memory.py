"""Gives memory that is no longer used back to the operating system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give back what the C library's allocator keeps of memory that was freed.

    glibc gives back only what lies at the very end of its heap. After much work of another kind
    than usual, such as a repair of lost profiles, most of that memory would stay with the process
    for good. Where the C library has no such call (macOS, musl), nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
