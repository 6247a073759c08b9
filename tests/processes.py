"""What the system says of processes: from /proc where there is one, else from ``ps``."""

from __future__ import annotations

import subprocess
from pathlib import Path

_PROC = Path("/proc/self/stat")


def is_gone(pid: int) -> bool:
    """Also true of a process that has ended and only waits for its parent to look."""
    return _states().get(pid, ("Z", 0))[0] == "Z"


def children_of(pid: int) -> list[int]:
    """Every process below one, however deep."""
    parents = {child: parent for child, (_, parent) in _states().items()}
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def _states() -> dict[int, tuple[str, int]]:
    """Give each process's state, one letter, and its parent."""
    return _from_proc() if _PROC.exists() else _from_ps()


def _from_proc() -> dict[int, tuple[str, int]]:
    states = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text("utf-8", "replace")
            except OSError:
                continue  # it ended meanwhile
            # The name before the last bracket may hold anything.
            state, parent = text.rsplit(")", 1)[1].split()[:2]
            states[int(folder.name)] = (state, int(parent))
    return states


def _from_ps() -> dict[int, tuple[str, int]]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,stat=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listing.splitlines())
    return {int(pid): (state[0], int(parent)) for pid, state, parent in rows}
