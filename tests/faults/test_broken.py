"""Broken workers are found out: three of them always, all with ``FRAUDSTREAM_TEST_FAULTS=full``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from broken import BROKEN
from exposures import DEFECTS, EXPOSURES, expose
from stage import FaultStack

pytestmark = pytest.mark.services

#: Each is a few seconds at one fault that has to be shown to a whole worker once.
CHEAP = ("no_rewind", "no_id_check", "retries_as_duplicates")
IS_FULL = os.environ.get("FRAUDSTREAM_TEST_FAULTS") == "full"
SHOWN = tuple(DEFECTS) if IS_FULL else CHEAP
SHOWN_EXPOSURES = tuple(dict.fromkeys(DEFECTS[name].exposure for name in SHOWN))


def test_every_defect_has_a_fault_that_shows_it() -> None:
    assert DEFECTS.keys() == BROKEN.keys()
    assert {expectation.exposure for expectation in DEFECTS.values()} == EXPOSURES.keys()


@pytest.mark.parametrize("exposure", SHOWN_EXPOSURES)
def test_a_whole_worker_stands_the_fault(faults: FaultStack, tmp_path: Path, exposure: str) -> None:
    """Otherwise it would be the fault that is noticed, not the defect."""
    assert expose(faults, tmp_path, EXPOSURES[exposure], None).problems == []


@pytest.mark.parametrize("defect", SHOWN)
def test_a_broken_worker_is_named_by_its_check(
    faults: FaultStack, tmp_path: Path, defect: str
) -> None:
    expectation = DEFECTS[defect]
    outcome = expose(faults, tmp_path, EXPOSURES[expectation.exposure], defect)
    assert expectation.checks <= outcome.verdict.failed, outcome.problems[:20]
