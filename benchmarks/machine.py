"""What machine it was, and what processes used of it (from ``/proc``: Linux alone)."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def describe_machine() -> dict[str, object]:
    """Name what figures depend on: processor, cores, memory, system and Python."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def describe_run(module: str) -> dict[str, object]:
    """Head results with what they depend on; called before anything runs, for the load."""
    return {
        "machine": describe_machine(),
        "load_before": load_average(),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
    }


def load_average() -> float:
    """Say how busy the machine is: of the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Add up the processor time that processes have used, all their threads together.

    Children that have ended count with their parent.
    """
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    # The name may hold spaces and brackets: what counts begins behind its last bracket.
    _, _, fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")
    user, system, ended_user, ended_system = fields.split()[11:15]
    return (int(user) + int(system) + int(ended_user) + int(ended_system)) / _TICKS_PER_S


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []
