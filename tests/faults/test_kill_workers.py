"""The short form of `kill_workers`: one seed; the whole of it is a program of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_workers import KILLS_MIN, run
from services import Services

EVENTS = 20_000
#: A run whose kills came too late to show anything is no failure of the workers: the next seed.
SEEDS = (1, 2, 3, 4)


@pytest.mark.services
def test_killed_workers_lose_and_double_nothing(services: Services, tmp_path: Path) -> None:
    for seed in SEEDS:
        report = run(services, tmp_path, seed, EVENTS)
        wrong = [p for p in report.problems if not _is_lack_of_evidence(p)]
        assert wrong == []
        counted = (report.events, report.decisions, report.lost, report.doubled)
        assert counted == (EVENTS, EVENTS, 0, 0)
        if not report.problems:
            break
    assert report.problems == []
    assert len(report.kills) >= KILLS_MIN
    assert report.retried_alerts > 0


def _is_lack_of_evidence(problem: str) -> bool:
    return problem.startswith("only ") or problem.endswith("nothing was shown")
