"""Wrong clocks (24): a worker an hour ahead, one an hour behind, and clocks that are set meanwhile.

The clock is wrong for the whole process, the Kafka client too (``wrong_clock.c``, which is compiled
here). libfaketime is of no use: it does not know the waits of C11 threads, which librdkafka is
built with, and a worker an hour ahead would wait for an hour.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from crew import FaultWorker
from harness import wait_for
from history import read_journals
from registry import Scale, fault
from services import refuse
from stage import FaultStack, Outcome, Plan, Stage, now_ms

_SOURCE = Path(__file__).with_name("wrong_clock.c")
_HOUR_S = 3_600
_NS = 1_000_000_000
#: How far off a clock may be taken to be right, or as wrong as it was set.
_TOLERANCE_S = 120.0


def build(folder: Path) -> Path:
    """Compile the clock; refuse where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        refuse("services", "a wrong clock needs Linux and a C compiler")
    library = folder / "wrong_clock.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        refuse("services", f"a wrong clock cannot be compiled here: {built.stderr[-500:]}")
    return library


class Clock:
    """How wrong the clock of a worker is.

    Parameters
    ----------
    path
        A file that is made here.
    wrong_s
        At first.
    """

    def __init__(self, path: Path, wrong_s: int) -> None:
        self.path = path
        self.wrong_s = wrong_s
        path.write_bytes(self._bytes())

    def set(self, wrong_s: int) -> None:
        """Step the clock of a worker that runs."""
        self.wrong_s = wrong_s
        with self.path.open("r+b") as file:
            file.write(self._bytes())

    def _bytes(self) -> bytes:
        return (self.wrong_s * _NS).to_bytes(8, sys.byteorder, signed=True)


@fault(24, "wrong clocks: ±1 h, steps", limit_s=300.0)
def wrong_clocks(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Let one worker be ahead and one behind; then set both clocks, forward and back."""
    seconds = 3.0 if scale == "short" else 20.0
    ahead, behind = Clock(folder / "ahead", _HOUR_S), Clock(folder / "behind", -_HOUR_S)
    variables = {"LD_PRELOAD": str(build(folder)), "FRAUDSTREAM_TEST_CLOCK": str(ahead.path)}
    with Stage(stack, folder, seed, Plan(slots=2, variables=variables)) as stage:
        with stage.fault("clocks an hour ahead and behind") as window:
            stage.crew.stop_one(1)
            stage.crew.start(1, FRAUDSTREAM_TEST_CLOCK=str(behind.path))
            stage.crew.await_ready()
            errors_s = [
                _error_s(stage.crew.worker(slot)) - clock.wrong_s
                for slot, clock in enumerate((ahead, behind))
            ]
            time.sleep(seconds)
        stage.await_recovery(window.end_ms)
        for name, wrong_s in (("right", 0), ("an hour behind", -_HOUR_S), ("ahead", _HOUR_S)):
            with stage.fault(f"clocks are set to be {name}") as window:
                ahead.set(wrong_s)
                behind.set(-wrong_s)
                time.sleep(seconds)
            stage.await_recovery(window.end_ms)
        stage.settle()
        outcome = stage.finish()
        begun_ms = [attempt.begun_at_ms for attempt in read_journals(stage.crew.journals)]
    outcome.require(max(map(abs, errors_s)) < _TOLERANCE_S, f"the clocks are off: {errors_s} s")
    half_an_hour_ms = _HOUR_S * 500
    outcome.require(max(begun_ms) > now_ms() + half_an_hour_ms, "no worker was ahead")
    outcome.require(min(begun_ms) < now_ms() - half_an_hour_ms, "no worker was behind")
    outcome.require(outcome.figures.degraded == 0, "decisions were degraded")
    outcome.require(outcome.figures.dead_letters == 0, "payments were refused for a worker's clock")
    outcome.extra |= {"longest_stall_ms": outcome.figures.longest_stall_ms}
    return outcome


def _error_s(worker: FaultWorker) -> float:
    """Say how wrong a worker's clock is, as its log tells: it began a few seconds ago."""
    wait_for(lambda: worker.has_logged("started"), "the worker's first line")
    (*_, line) = worker.log("started")
    said = datetime.fromisoformat(line["timestamp"]).timestamp()
    return said - time.time()
