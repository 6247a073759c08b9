"""What is freed goes back to the operating system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from fraudstream.spare_memory import give_back, map_large_blocks

RESIDENT_MB = """
def resident_mb():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 / 1e6
"""
#: 100 MB in small pieces, with one that stays behind all of them: glibc keeps the rest.
SMALL = f"""
{RESIDENT_MB}
import numpy as np
from fraudstream.spare_memory import give_back

pieces = [np.ones(10_000, dtype=np.uint8) for _ in range(10_000)]
last = np.ones(10_000, dtype=np.uint8)
pieces.clear()
before = resident_mb()
give_back()
print(before - resident_mb())
"""
#: The first large block that is freed raises glibc's limit; the next one then lies in the heap,
#: below something small that stays.
LARGE = f"""
{RESIDENT_MB}
import sys
import numpy as np
from fraudstream.spare_memory import map_large_blocks

if sys.argv[1] == "mapped":
    map_large_blocks()
first = np.ones(16_000_000, dtype=np.uint8)
del first
second = np.ones(12_000_000, dtype=np.uint8)
last = [np.ones(10_000, dtype=np.uint8) for _ in range(200)]
before = resident_mb()
del second
print(before - resident_mb())
"""


def test_they_can_be_called_anywhere() -> None:
    map_large_blocks()
    give_back()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's own")
def test_what_was_freed_below_something_kept_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL], check=True, capture_output=True, text=True, timeout=60
    )
    assert float(done.stdout) > 80


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's own")
@pytest.mark.parametrize(("way", "is_given_back"), [("mapped", True), ("as it comes", False)])
def test_a_large_block_goes_when_it_is_freed(way: str, *, is_given_back: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE, way], check=True, capture_output=True, text=True, timeout=60
    )
    assert (float(done.stdout) > 10) == is_given_back
