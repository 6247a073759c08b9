"""Failpoints: named places in a worker where it does what a plan says.

    FP1 after the poll            FP4 after sending offsets           FP7 after idle watermarks
    FP2 after Valkey              FP5 commit sent, no answer yet          were advanced
    FP3 after produce             FP6 after the commit

The places are methods of the product's classes, wrapped in the worker's process. A plan is a JSON
list of objects, re-read whenever its file changes, so that a live worker can be armed::

    {"failpoint": "FP3", "action": "kill", "after": 5, "token": "kill-1"}

``after``: at this passing, counted from when the plan was read (default 1, the next one).
``probability``: at each passing, by chance. ``seconds``: how long ``sleep`` sleeps, and how long a
worker goes on to do nothing after a ``stop``, while its clients' own threads do. An action with a
``token`` is done once, whichever process comes first: it leaves the file ``<plan>.<token>``, with
the time and the process id, before it acts.

Actions: ``kill`` and ``stop`` (SIGKILL and SIGSTOP of itself), ``sleep``, ``raise`` (an error that
nobody foresaw), and ``abort`` (of the transaction; at FP3 and FP4 only). At FP5 there are only the
first two.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from fraudstream.adapters.kafka_publisher import KafkaPublisher, _MustAbortError
from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.repair import Repairer

#: A commit is answered within a few milliseconds; FP5 hits at an instant within so long.
COMMIT_S = 0.004


@dataclass
class Action:
    """What to do at a failpoint."""

    failpoint: str
    action: str
    after: int = 1
    probability: float | None = None
    seconds: float = 0.0
    token: str | None = None
    passed: int = 0

    def is_due(self) -> bool:
        """Note that the place is passed; say whether it is time."""
        self.passed += 1
        if self.probability is not None:
            return random.random() < self.probability
        return self.passed == self.after


class Plan:
    """The plan file, and what was done of it.

    Parameters
    ----------
    path
        Need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at_ns = 0
        self._actions: list[Action] = []

    def due(self, failpoint: str) -> Action | None:
        """Give the action that is due as the worker passes a place."""
        self._read()
        found = None
        for action in self._actions:
            if action.failpoint == failpoint and action.is_due() and found is None:
                found = action if self._take(action) else None
        return found

    def _read(self) -> None:
        try:
            changed_at_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed_at_ns != self._read_at_ns:
            self._read_at_ns = changed_at_ns
            self._actions = [Action(**entry) for entry in json.loads(self._path.read_text())]

    def _take(self, action: Action) -> bool:
        """Take a token; False when it was taken before, perhaps by a predecessor."""
        if action.token is None:
            return True
        try:
            marker_fd = os.open(
                f"{self._path}.{action.token}", os.O_WRONLY | os.O_CREAT | os.O_EXCL
            )
        except FileExistsError:
            return False
        at_ms = time.time_ns() // 1_000_000
        note = {"at_ms": at_ms, "pid": os.getpid(), "failpoint": action.failpoint}
        os.write(marker_fd, json.dumps(note).encode())
        os.close(marker_fd)
        return True


class InjectedError(Exception):
    """What ``raise`` raises: an error that nobody foresaw."""


def act(action: Action) -> None:
    """Do it."""
    match action.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(action.seconds)
        case "sleep":
            time.sleep(action.seconds)
        case "abort":
            raise _MustAbortError("on purpose")
        case "raise":
            raise InjectedError(action.failpoint)


def install(plan: Plan) -> None:
    """Wrap the product's methods in this process."""

    def reach(failpoint: str) -> None:
        action = plan.due(failpoint)
        if action is not None:
            act(action)

    _after(KafkaSource, "poll", lambda batch: reach("FP1") if batch.records else None)
    _after(BucketedProfileStore, "apply", lambda _: reach("FP2"))
    _after(KafkaPublisher, "_produce", lambda _: reach("FP3"))
    _after(KafkaPublisher, "_send_offsets", lambda _: reach("FP4"))
    _during_commit(plan)
    _after(KafkaPublisher, "_commit", lambda _: reach("FP6"))
    _after(Repairer, "advance", lambda _: reach("FP7"))


def _after(owner: type, name: str, call: Callable[[Any], None]) -> None:
    """Call something with a method's result before it is returned."""
    inner = getattr(owner, name)

    @wraps(inner)
    def outer(*args: object, **kwargs: object) -> object:
        result = inner(*args, **kwargs)
        call(result)
        return result

    setattr(owner, name, outer)


def _during_commit(plan: Plan) -> None:
    inner = KafkaPublisher._commit

    def commit(self: KafkaPublisher) -> None:
        action = plan.due("FP5")
        if action is not None:
            # The library's call lets other threads run while it waits for the answer.
            threading.Timer(random.uniform(0.0, COMMIT_S), act, (action,)).start()
        inner(self)

    KafkaPublisher._commit = commit  # type: ignore[method-assign]
