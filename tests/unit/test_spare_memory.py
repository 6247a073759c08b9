"""What is freed goes back to the operating system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from fraudstream.spare_memory import give_back

#: 100 MB in small pieces, with one that stays behind all of them: glibc keeps the rest.
PROGRAM = """
import numpy as np
from fraudstream.spare_memory import give_back

def resident_mb():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 / 1e6

pieces = [np.ones(10_000, dtype=np.uint8) for _ in range(10_000)]
last = np.ones(10_000, dtype=np.uint8)
pieces.clear()
before = resident_mb()
give_back()
print(before - resident_mb())
"""


def test_it_can_be_called_anywhere() -> None:
    give_back()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's own")
def test_what_was_freed_below_something_kept_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    )
    assert float(done.stdout) > 80
