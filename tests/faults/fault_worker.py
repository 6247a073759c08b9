"""``fraudstream run`` with failpoints and a journal: what the fault tests start as a worker.

    python tests/faults/fault_worker.py run --slot 1 --stop-with-parent

The product itself has no hooks: they are put in here, in this process. By the environment:

``FRAUDSTREAM_TEST_JOURNAL``
    A file to append the steps of each transaction to (``journal.py``).
``FRAUDSTREAM_TEST_PLAN``
    A file with what to do at which failpoint (``failpoints.py``).
``FRAUDSTREAM_TEST_CONSTANTS``
    JSON: constants of modules to change, as ``{"fraudstream.runtime.NAME": value}``.
``FRAUDSTREAM_TEST_BROKEN``
    The name of a defect to have (``broken.py``).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import broken
from failpoints import Plan, install
from journal import Journal, keep_journal

from fraudstream.cli import main


def _path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _slot(arguments: list[str]) -> int:
    return int(arguments[arguments.index("--slot") + 1]) if "--slot" in arguments else 0


def _change_constants(changes: dict[str, object]) -> None:
    for name, value in changes.items():
        module_name, _, constant = name.rpartition(".")
        module = importlib.import_module(module_name)
        if not hasattr(module, constant):
            raise AttributeError(name)
        setattr(module, constant, value)


def prepare(arguments: list[str]) -> None:
    """Do to this process what its environment asks for."""
    _change_constants(json.loads(os.environ.get("FRAUDSTREAM_TEST_CONSTANTS", "{}")))
    defect = os.environ.get("FRAUDSTREAM_TEST_BROKEN")
    if defect:
        broken.apply(defect)
    journal = _path("FRAUDSTREAM_TEST_JOURNAL")
    if journal:
        keep_journal(Journal(journal, _slot(arguments)))
    plan = _path("FRAUDSTREAM_TEST_PLAN")
    if plan:
        install(Plan(plan))


if __name__ == "__main__":
    prepare(sys.argv)
    main()
