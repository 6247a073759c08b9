"""The short form of `kill_workers`: one seed; the whole of it is a program of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_workers import KILLS_MIN, run
from services import Services

EVENTS = 20_000
SEED = 1


@pytest.mark.services
def test_killed_workers_lose_and_double_nothing(services: Services, tmp_path: Path) -> None:
    report = run(services, tmp_path, SEED, EVENTS)
    assert report.problems == []
    assert (report.events, report.decisions, report.lost, report.doubled) == (EVENTS, EVENTS, 0, 0)
    assert len(report.kills) >= KILLS_MIN
    assert report.retried_alerts > 0
