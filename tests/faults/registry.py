"""The table of faults: a number, a name, and what runs it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from stage import FaultStack, Outcome

#: ``short`` is for ``make test``, ``full`` for the matrix.
Scale: TypeAlias = Literal["short", "full"]
Run: TypeAlias = Callable[[FaultStack, Path, int, Scale], Outcome]

_MODULES = (
    "faults_workers",
    "faults_kafka",
    "faults_valkey",
    "faults_valkey_loss",
    "faults_input",
    "faults_soak",
)


@dataclass(frozen=True)
class Fault:
    """One row of the table in the document on reliability.

    Attributes
    ----------
    number, name
        As in that table.
    run
        Takes a stack, an empty folder, a seed and a scale. What must hold besides the checker is
        among its outcome's problems, or raised as an AssertionError.
    limit_s
        How long it may take at full scale, everything included.
    """

    number: int
    name: str
    run: Run
    limit_s: float


FAULTS: dict[int, Fault] = {}


def fault(number: int, name: str, limit_s: float = 600.0) -> Callable[[Run], Run]:
    """Enter a function into the table."""

    def enter(run: Run) -> Run:
        assert number not in FAULTS, f"two faults are number {number}"
        FAULTS[number] = Fault(number, name, run, limit_s)
        return run

    return enter


def load_faults() -> dict[int, Fault]:
    """Give all faults that there are, by number."""
    for name in _MODULES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    return dict(sorted(FAULTS.items()))
