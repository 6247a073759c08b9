"""One fault of the matrix, or the detection matrix, in a process of its own.

    python tests/faults/matrix_one.py WHAT FOLDER RESULT SEED SCALE

Started by ``matrix.py``. It writes what came of it as JSON, also when it raised, and ends in order
when it is told to stop or when nobody holds its standard input any more.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import get_args

if __name__ == "__main__":  # as a program there is no pytest to set up the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detection import detection_entry
from matrix_state import Entry, describe_run, raised, scrub, summary
from registry import Scale, load_faults
from stage import FaultStack

DETECTION = "detection"


def run(what: str, folder: Path, seed: int, scale: Scale) -> Entry:
    """Run it; give its entry."""
    with FaultStack() as faults:
        about = describe_run(faults)
        if what == DETECTION:
            return detection_entry(faults, folder, seed, _tell) | about
        try:
            outcome = load_faults()[int(what)].run(faults, folder, seed, scale)
        except Exception:
            _keep_servers(faults, folder)
            raise
        return summary(outcome, folder) | about


def _keep_servers(faults: FaultStack, folder: Path) -> None:
    """Keep the servers' logs and Kafka's own topics: who stands still says seldom why."""
    ours = shutil.ignore_patterns("test-*")
    # They still write: a file that goes meanwhile is no loss.
    with suppress(shutil.Error):
        shutil.copytree(faults.stack.state_dir, folder.parent / "servers", ignore=ours)


def _tell(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _write(result: Path, entry: Entry) -> None:
    unfinished = result.with_suffix(".new")
    unfinished.write_text(json.dumps(entry), "utf-8")
    unfinished.replace(result)


def _end_with_parent() -> None:
    # Not by a buffered reader: its lock, held by a thread, is fatal when the interpreter ends.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """Be the process of one fault."""
    what, folder, result = arguments[0], Path(arguments[1]), Path(arguments[2])
    seed, scale = int(arguments[3]), next(s for s in get_args(Scale) if s == arguments[4])

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Keep what it raised as a sentence; the log has the rest."""
        sys.__excepthook__(kind, error, trace)
        _write(result, raised(scrub(f"{kind.__name__}: {error}", folder)))

    sys.excepthook = note
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own = folder / "run"
    own.mkdir()
    _write(result, run(what, own, seed, scale))


if __name__ == "__main__":
    main(sys.argv[1:])
