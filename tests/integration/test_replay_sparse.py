"""A small file that covers months, through a real worker: as exact as a large one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from harness import ROOT, Deployment
from services import Services

from fraudstream.event import format_time

pytestmark = pytest.mark.services

T0_MS = 1_530_403_200_000  # 2018-07-01T00:00:00Z
STEP_MS = 4 * 3_600_000
PAYMENTS = 1_000
TIMEOUT_S = 120


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_no_decision_of_a_sparse_file_lacks_its_past(services: Services, tmp_path: Path) -> None:
    """One payment in four hours: all of them together are fewer than may be in flight."""
    file, exported = tmp_path / "sparse.parquet", tmp_path / "decisions.parquet"
    pl.DataFrame(
        {
            "transaction_id": [f"tx{n}" for n in range(PAYMENTS)],
            "event_time": [format_time(T0_MS + STEP_MS * n) for n in range(PAYMENTS)],
            "card_id": [f"c{n % 40}" for n in range(PAYMENTS)],
            "terminal_id": [f"t{n % 7}" for n in range(PAYMENTS)],
            "amount_minor": list(range(PAYMENTS)),
            "currency": "EUR",
        }
    ).write_parquet(file)
    settings = {"VALKEY__ON_DEADLINE": "wait", "VALKEY__DEADLINE_MS": 2_000}
    with Deployment(services, tmp_path, partitions=4, settings=settings) as deployment:
        deployment.create_topics()
        worker = deployment.start().await_ready()
        for words in (
            ("replay", str(file)),
            ("export", deployment.topics["decisions"], "--out", str(exported)),
        ):
            subprocess.run(
                [sys.executable, "-m", "fraudstream", *words],
                env=deployment.environ(),
                cwd=ROOT,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=True,
            )
            deployment.await_done(TIMEOUT_S)
        assert worker.stop() == 0
    flags = Counter(flag for row in pl.read_parquet(exported)["flags"] for flag in json.loads(row))
    assert flags == {"replayed": PAYMENTS}
