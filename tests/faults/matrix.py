"""All faults, one after the other, each on servers of its own; and a report on them.

    python tests/faults/matrix.py                           what is not in the state file yet
    python tests/faults/matrix.py --faults 1,3,5-9 --scale short
    python tests/faults/matrix.py --faults 27 --minutes 30 --again 27
    python tests/faults/matrix.py --again missed            those that missed, once more
    python tests/faults/matrix.py --only-detection          what the checker notices, if not known
    python tests/faults/matrix.py --only-report

Each fault runs in a process of its own (``matrix_one.py``), under its time limit. Its result goes
to the state file, so a run that was stopped goes on where it was. A fault that raised is a miss,
and the next one runs. Logs of what missed stay beside the state file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program there is no pytest to set up the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import ROOT
from matrix_report import Explained, report
from matrix_state import Entry, State, is_miss, raised, scrub
from registry import Fault, Scale, load_faults
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

DETECTION = "detection"
SOAK = 27
MINUTES_VARIABLE = "FRAUDSTREAM_TEST_SOAK_MINUTES"
EXPLAINED = Path(__file__).with_name("explained.toml")
_ONE = Path(__file__).with_name("matrix_one.py")
_DETECTION_LIMIT_S = 1_800.0
#: A soak settles, and its history is checked, after its time.
_AFTER_SOAK_S = 900.0
_END_TIMEOUT_S = 60.0
_LAST_BYTES = 2_000


@dataclass(frozen=True)
class Wanted:
    """What to run.

    Attributes
    ----------
    what
        A fault's number, or ``detection``.
    name
        For people.
    limit_s
        How long it may take.
    also
        What must hold besides the checker.
    """

    what: str
    name: str
    limit_s: float
    also: str = ""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    faults: tuple[int, ...]
    again: frozenset[str]
    scale: Scale
    seed: int
    minutes: float | None
    state: Path
    out: Path
    is_report_only: bool
    has_faults: bool
    has_detection: bool


def numbers_of(text: str) -> tuple[int, ...]:
    """Read a list of numbers.

    Examples
    --------
    >>> numbers_of("1,3,5-8")
    (1, 3, 5, 6, 7, 8)
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def read_options(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=numbers_of, default=(), help="such as 1,3,5-9; all")
    parser.add_argument(
        "--again", default="", help="such as 5,6: run these anew; missed; detection"
    )
    parser.add_argument("--scale", choices=("full", "short"), default="full")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="how long the soak, fault 27, lasts")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "faults.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability-results.md")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--no-detection", action="store_true", help="run faults alone")
    parser.add_argument("--only-detection", action="store_true", help="show the checker that alone")
    given = parser.parse_args(arguments)
    words = [word for word in given.again.split(",") if word]
    plain = [word for word in words if word in ("missed", DETECTION)]
    numbers = [word for word in words if word not in plain]
    return Options(
        faults=given.faults,
        again=frozenset([*plain, *map(str, numbers_of(",".join(numbers)) if numbers else ())]),
        scale=given.scale,
        seed=given.seed,
        minutes=given.minutes,
        state=given.state,
        out=given.out,
        is_report_only=given.only_report,
        has_faults=not given.only_detection,
        has_detection=not given.no_detection,
    )


def choose(options: Options, faults: Mapping[int, Fault], state: State) -> list[Wanted]:
    """Say what is to be run: what was asked for, and is not there yet or is to be done again."""
    unknown = set(options.faults) - faults.keys()
    if unknown:
        raise SystemExit(f"there is no fault {', '.join(map(str, sorted(unknown)))}")
    wanted = []
    for number in (options.faults or faults) if options.has_faults else ():
        known = state.runs.get(number)
        is_again = str(number) in options.again or (
            known is not None and "missed" in options.again and is_miss(known)
        )
        if known is None or is_again or known["scale"] != options.scale:
            wanted.append(_wanted(faults[number], options.minutes))
    is_detection_due = not state.detection or DETECTION in options.again
    if options.has_detection and is_detection_due and not options.faults:
        wanted.append(Wanted(DETECTION, "does the checker notice?", _DETECTION_LIMIT_S))
    return wanted


def _wanted(fault: Fault, minutes: float | None) -> Wanted:
    limit_s = fault.limit_s
    if fault.number == SOAK and minutes is not None:
        limit_s = max(limit_s, 60.0 * minutes + _AFTER_SOAK_S)
    also = " ".join((fault.run.__doc__ or "").strip().partition("\n\n")[0].split())
    return Wanted(str(fault.number), fault.name, limit_s, also)


# ------------------------------------------------------------------ one of them


def run_one(wanted: Wanted, options: Options) -> Entry:
    """Run one in a process of its own; give its entry."""
    folder = options.state.parent / "faults" / wanted.what
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result, log = folder / "result.json", folder / "log.txt"
    command = [sys.executable, str(_ONE), wanted.what, str(folder), str(result)]
    command += [str(options.seed), options.scale]
    environ = dict(os.environ)
    if options.minutes is not None:
        environ[MINUTES_VARIABLE] = str(options.minutes)
    started_s = time.monotonic()
    with log.open("wb") as output, _child(command, environ, output) as child:
        try:
            child.wait(wanted.limit_s)
            why = f"its process ended with {child.returncode}: {_last_line(log, folder)}"
        except subprocess.TimeoutExpired:
            why = f"it took longer than {wanted.limit_s:.0f} s"
    entry = json.loads(result.read_text("utf-8")) if result.exists() else raised(why)
    entry |= {"seconds": time.monotonic() - started_s, "scale": options.scale}
    entry |= {"seed": options.seed, "name": wanted.name, "also": wanted.also}
    if wanted.what != DETECTION and not is_miss(entry):
        shutil.rmtree(folder)
    return dict(entry)


@contextmanager
def _child(
    command: Sequence[str],
    environ: Mapping[str, str],
    output: Any,  # noqa: ANN401 - a binary file
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends with this one, however this one ends."""
    child = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.PIPE,  # its end is how the child knows of ours
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        start_new_session=True,  # a Ctrl-C is ours; the child is told in order
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        assert child.stdin is not None
        child.stdin.close()


def _last_line(log: Path, folder: Path) -> str:
    lines = log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace").strip().splitlines()
    return scrub(lines[-1], folder) if lines else "it said nothing"


# ------------------------------------------------------------------ all of them


def run_all(wanted: Sequence[Wanted], options: Options, state: State) -> None:
    """Run them one after the other; keep each result at once."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("faults", total=len(wanted))
        for one in wanted:
            bar.update(task, description=f"{one.what} {one.name}")
            entry = run_one(one, options)
            if one.what == DETECTION:
                state.detection = entry
            else:
                state.runs[int(one.what)] = entry
            state.save()
            bar.advance(task)
            console.print(_line(one, entry), markup=False, highlight=False, soft_wrap=True)


def _line(one: Wanted, entry: Entry) -> str:
    is_bad = not is_good_detection(entry) if one.what == DETECTION else is_miss(entry)
    found = "; ".join(entry.get("failures", ())) or ("anomalies" if is_bad else "")
    verdict = f"MISS {found}" if is_bad else "ok"
    return f"{one.what:>9} {entry['seconds']:6.0f} s  {one.name}: {verdict}"


def is_good_detection(entry: Entry) -> bool:
    """Say whether everything was noticed that had to be, and nothing else."""
    return bool(entry.get("rows")) and all(row["is_right"] for row in entry["rows"])


def read_explained(path: Path = EXPLAINED) -> Explained:
    """Read what people wrote about misses and about what is not run."""
    if not path.exists():
        return Explained()
    known = tomllib.loads(path.read_text("utf-8"))
    misses, not_run = (
        {int(number): sentence for number, sentence in known.get(name, {}).items()}
        for name in ("misses", "not_run")
    )
    return Explained(misses, not_run)


def write_report(options: Options, faults: Mapping[int, Fault], state: State) -> None:
    """Write the report from what is known."""
    names = dict.fromkeys(range(1, SOAK + 1), "no test is written for it")
    names |= {number: fault.name for number, fault in faults.items()}
    text = report(state, names, read_explained(), "make faults")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, "utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run what is wanted, write the report; 1 if anything missed."""
    options = read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children end in order
    faults, state = load_faults(), State(options.state)
    try:
        if not options.is_report_only:
            run_all(choose(options, faults, state), options, state)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on here")
        return 130
    finally:
        write_report(options, faults, state)
    has_missed = any(is_miss(run) for run in state.runs.values())
    is_noticed = not state.detection or is_good_detection(state.detection)
    return int(has_missed or not is_noticed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
