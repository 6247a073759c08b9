"""The workers of a fault test: started, killed, paused, armed, and started again when they die.

Each slot has one process of ``fault_worker.py`` at a time, one journal and one plan of failpoints.
As the product's own supervisor does, a dead worker is started again after 0.2 s, but without a
growing pause: a test kills far more often than the world does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness import PATIENCE_S, ROOT, Deployment, WorkerProcess, wait_for

from fraudstream.errors import ExitCode

_PROGRAM = Path(__file__).with_name("fault_worker.py")
_RESTART_S = 0.2
_LOOK_INTERVAL_S = 0.05
#: As the supervisor: the rest is for a person to change, and every other would end the same way.
_RESTARTED = frozenset({int(ExitCode.OK), int(ExitCode.INTERNAL)})


class FaultWorker(WorkerProcess):
    """One process; it stops by itself when this one is gone.

    Parameters
    ----------
    arguments, environ, log_path, port
        As for any worker.
    """

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], log_path: Path, port: int
    ) -> None:
        self.log_path = log_path
        self.port = port
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), "run", *arguments, "--stop-with-parent"],
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it is gone."""
        self._process.send_signal(number)

    def clean_up(self) -> None:
        """End it and its children, if any of them is left."""
        super().clean_up()
        assert self._process.stdin is not None
        self._process.stdin.close()


@dataclass(frozen=True)
class Exit:
    """A worker's end, by itself, by a kill, or because it was asked to."""

    slot: int
    pid: int
    code: int
    at_ms: int
    was_asked: bool


@dataclass(frozen=True)
class Armed:
    """An action that waits at a failpoint of a live worker."""

    marker: Path

    def fired_at_ms(self) -> int | None:
        """Give the time at which it was done; None if it was not yet."""
        try:
            return int(json.loads(self.marker.read_text())["at_ms"])
        except (FileNotFoundError, json.JSONDecodeError):
            return None  # not there, or just being written

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait until it is done; give the time."""
        wait_for(lambda: self.fired_at_ms() is not None, f"{self.marker.name}", timeout_s)
        return self.fired_at_ms() or 0


class Crew:
    """The workers.

    Parameters
    ----------
    deployment
        Whose workers they are.
    folder
        For journals, plans and logs.
    slots
        Which slots are started.
    arguments
        For ``fraudstream run``, besides the slot.
    variables
        More environment variables, with their full names.
    """

    def __init__(
        self,
        deployment: Deployment,
        folder: Path,
        slots: Iterable[int],
        *,
        arguments: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._arguments = list(arguments)
        self._variables = dict(variables or {})
        self._lock = threading.RLock()
        self._workers: dict[int, FaultWorker] = {}
        self._starts_at_s: dict[int, float] = {}
        self._kept: set[int] = set()
        self._stopping = threading.Event()
        self._tokens = 0
        self._all: list[FaultWorker] = []
        self._thread = threading.Thread(target=self._keep, name="crew")
        self.slots = tuple(slots)
        self.exits: list[Exit] = []

    def __enter__(self) -> Self:
        """Start a worker in each slot, and wait until all are deciding."""
        self._thread.start()
        for slot in self.slots:
            self.start(slot)
        try:
            self.await_ready()
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End whatever is left."""
        self._stopping.set()
        self._thread.join()
        for worker in self._all:
            worker.clean_up()

    # ------------------------------------------------------------------ one worker

    def start(self, slot: int, **variables: str) -> FaultWorker:
        """Start a worker in a slot that has none; it is kept running from then on."""
        with self._lock:
            assert slot not in self._workers, f"slot {slot} has a worker"
            if slot not in self.slots:
                self.slots += (slot,)
            self._kept.add(slot)
            return self._start(slot, variables)

    def kill(self, slot: int) -> int:
        """End a worker as a power cut would; it is started again. Give the time, in ms."""
        with self._lock:
            worker = self._workers[slot]
            at_ms = _now_ms()
            worker.kill()
        return at_ms

    def stop_one(self, slot: int) -> int:
        """Ask a worker to stop, and do not start it again; give the exit code."""
        with self._lock:
            self._kept.discard(slot)
            worker = self._workers.pop(slot)
        code = _stop(worker)
        self._note_exit(slot, worker, code, was_asked=True)
        return code

    def pause(self, slot: int) -> None:
        """Freeze a worker."""
        self.worker(slot).signal(signal.SIGSTOP)

    def resume(self, slot: int) -> None:
        """Let it go on."""
        self.worker(slot).signal(signal.SIGCONT)

    def worker(self, slot: int) -> FaultWorker:
        """Give the process in a slot."""
        with self._lock:
            return self._workers[slot]

    def pid(self, slot: int) -> int | None:
        """Give the process id in a slot; None while it is between two."""
        with self._lock:
            worker = self._workers.get(slot)
            return None if worker is None or worker.exit_code is not None else worker.pid

    def is_ready(self, slot: int) -> bool:
        """Say whether the worker in a slot is deciding."""
        with self._lock:
            worker = self._workers.get(slot)
        return worker is not None and _is_ready(worker)

    # ------------------------------------------------------------------ failpoints

    def arm(self, slot: int, failpoint: str, action: str, **details: float) -> Armed:
        """Let a live worker do something once, as it passes a failpoint for the next time.

        Parameters
        ----------
        slot, failpoint, action
            See ``failpoints.py``.
        details
            ``after``, ``seconds``. It replaces what the slot was armed with before.
        """
        self._tokens += 1
        token = f"{failpoint}-{action}-{self._tokens}"
        entry: dict[str, object] = {"failpoint": failpoint, "action": action, "token": token}
        self.plan(slot, [entry | details])
        return Armed(Path(f"{self._plan_path(slot)}.{token}"))

    def plan(self, slot: int, entries: Sequence[Mapping[str, object]]) -> None:
        """Give a slot a plan: for the worker in it and those that follow."""
        path = self._plan_path(slot)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(list(entries)))
        unfinished.replace(path)

    def disarm(self) -> None:
        """Give all slots an empty plan."""
        for slot in self.slots:
            self.plan(slot, [])

    # ------------------------------------------------------------------ all of them

    def await_ready(self, slots: Collection[int] | None = None) -> None:
        """Wait until these, or all that are kept, are deciding."""

        def are_ready() -> bool:
            return all(self.is_ready(slot) for slot in (slots or sorted(self._kept)))

        try:
            wait_for(are_ready, "the workers to be ready")
        except AssertionError as error:
            tails = "\n".join(worker.text()[-3_000:] for worker in self._all[-3:])
            raise AssertionError(f"{error}\n{tails}") from error

    def stop(self) -> dict[int, int]:
        """Ask all to stop; give the exit codes by slot."""
        with self._lock:
            self._kept.clear()
            self._starts_at_s.clear()
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        codes = {slot: _stop(worker) for slot, worker in workers.items()}
        for slot, code in codes.items():
            self._note_exit(slot, workers[slot], code, was_asked=True)
        return codes

    @property
    def journals(self) -> list[Path]:
        """The journals that were written."""
        return sorted(self._folder.glob("journal-*.jsonl"))

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Give the log lines of all workers so far, or those of one kind."""
        return [line for worker in list(self._all) for line in worker.log(event)]

    def metric(self, name: str, labels: str = "") -> float:
        """Sum up a sample of all live workers."""
        with self._lock:
            workers = list(self._workers.values())
        return sum(worker.metric(name, labels) for worker in workers)

    # ------------------------------------------------------------------ keeping them

    def _keep(self) -> None:
        while not self._stopping.wait(_LOOK_INTERVAL_S):
            with self._lock:
                for slot in list(self._workers):
                    self._look_after(slot)
                for slot, due_s in list(self._starts_at_s.items()):
                    if time.monotonic() >= due_s:
                        del self._starts_at_s[slot]
                        self._start(slot, {})

    def _look_after(self, slot: int) -> None:
        worker = self._workers[slot]
        code = worker.exit_code
        if code is None:
            return
        del self._workers[slot]
        self._note_exit(slot, worker, code, was_asked=False)
        if slot in self._kept and (code < 0 or code in _RESTARTED):
            self._starts_at_s[slot] = time.monotonic() + _RESTART_S

    def _note_exit(self, slot: int, worker: FaultWorker, code: int, *, was_asked: bool) -> None:
        self.exits.append(Exit(slot, worker.pid, code, _now_ms(), was_asked))

    def _start(self, slot: int, variables: Mapping[str, str]) -> FaultWorker:
        environ = {**self._deployment.environ(), **self._variables, **variables}
        environ["FRAUDSTREAM_TEST_JOURNAL"] = str(self._folder / f"journal-{slot}.jsonl")
        environ["FRAUDSTREAM_TEST_PLAN"] = str(self._plan_path(slot))
        worker = FaultWorker(
            ["--slot", str(slot), *self._arguments],
            environ,
            self._folder / f"worker-{slot}-{len(self._all)}.log",
            self._deployment.port + slot,
        )
        self._workers[slot] = worker
        self._all.append(worker)
        return worker

    def _plan_path(self, slot: int) -> Path:
        return self._folder / f"plan-{slot}.json"


def _is_ready(worker: FaultWorker) -> bool:
    return worker.exit_code is None and worker.get("/readyz")[0] == 200


def _stop(worker: FaultWorker) -> int:
    worker.signal(signal.SIGCONT)
    worker.signal(signal.SIGTERM)
    try:
        return worker.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        return int(-signal.SIGKILL)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
