"""The short form of the fault tests: one fixed seed each. ``matrix.py`` runs all in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry import load_faults
from stage import FaultStack

#: Numbers in the table of faults. The others are long, or shown by other tests too.
SELECTION = (1, 3, 5, 7, 10, 14, 15, 16, 20, 21, 23, 25)
SEED = 20_240_101


@pytest.mark.services
@pytest.mark.timeout(600)  # a test that passes takes half a minute on an idle machine
@pytest.mark.parametrize("number", SELECTION)
def test_nothing_is_lost_or_doubled(number: int, faults: FaultStack, tmp_path: Path) -> None:
    fault = load_faults()[number]
    outcome = fault.run(faults, tmp_path, SEED + number, "short")
    assert outcome.problems == [], outcome.verdict.sentence()
    assert outcome.figures.decisions > 0
