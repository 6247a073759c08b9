"""The parity meter against a real worker: its decisions, its log, and skews put in on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_names import DEFAULT_DEFINITION
from harness import BEGIN_MS, BUNDLE, DAY_MS, ROOT, Deployment, payment, wait_for
from processes import children_of, is_gone
from services import Services

from fraudstream.adapters.profile_backend import SeriesRun
from fraudstream.adapters.valkey import ValkeyBackend
from fraudstream.bundle import load_bundle
from fraudstream.errors import ExitCode
from fraudstream.settings import Settings

pytestmark = pytest.mark.services

_STEP_MS = DAY_MS // 20
_FEATURES = len(load_bundle(BUNDLE).features)


@pytest.fixture
def deployment(services: Services, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(services, tmp_path, settings={"VALKEY__ON_DEADLINE": "wait"}) as made:
        yield made.create_topics()


def publish_stream(deployment: Deployment, first: int, count: int) -> None:
    """Publish payments of ten cards at seven terminals, and findings of some eight days later."""
    deployment.publish(_payment(number) for number in range(first, first + count))
    old = [n - 8 * 20 for n in range(first, first + count) if n % 4 == 0 and n >= 8 * 20]
    deployment.publish((_finding(number) for number in old), "labels")


def _payment(number: int) -> dict[str, object]:
    return payment(number, event_time=BEGIN_MS + number * _STEP_MS)


def _finding(number: int) -> Mapping[str, object]:
    about = _payment(number)
    time_ms = BEGIN_MS + number * _STEP_MS
    names = ("transaction_id", "event_time", "card_id", "terminal_id")
    return {name: about[name] for name in names} | {
        "is_fraud": number % 3 == 0,
        "reported_at": time_ms + 8 * DAY_MS,
        "source": "analyst",
    }


def audited(deployment: Deployment, *words: str, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    """Run the command over all decisions; give its JSON."""
    command = [sys.executable, "-m", "fraudstream", "feature-set", "audit", "--json"]
    ended = subprocess.run(
        [*command, "--sample", "1", *words],
        env=deployment.environ(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    if code is not ExitCode.OK:
        assert ended.stderr.startswith("fraudstream: ")
        assert len(ended.stderr.splitlines()) == 1
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_what_a_worker_decided_on_is_what_the_log_gives(deployment: Deployment) -> None:
    worker = deployment.start().await_ready()
    for first in range(0, 600, 200):
        publish_stream(deployment, first, 200)
        deployment.await_done()
    found = audited(deployment)
    assert found["decisions"] == found["decisions_seen"] == 600
    totals = found["totals"]
    assert totals["mismatch"] == 0
    assert sum(totals.values()) == 600 * _FEATURES
    assert totals["missing"] == 0
    # A card's payments share a partition, so nothing of it is in doubt.
    assert found["features"]["card_tx_count_30d"]["match"] == 600
    assert found["features"]["terminal_fraud_rate_30d_lag7d"]["match"] > 300
    rates = [row.json()["features"]["terminal_fraud_rate_30d_lag7d"]
             for row in deployment.drain("decisions")]  # fmt: skip
    assert max(rates) > 0

    few = audited(deployment, "--decisions", "20")
    assert few["decisions"] == 20
    nobody = audited(deployment, "--until", "2020-01-01")
    assert nobody["decisions_seen"] == 0
    assert worker.stop() == ExitCode.OK


def test_a_card_that_is_counted_once_too_often_is_found(deployment: Deployment) -> None:
    worker = deployment.start().await_ready()
    publish_stream(deployment, 0, 200)
    deployment.await_done()
    assert audited(deployment)["totals"]["mismatch"] == 0
    count_twice(deployment, "c3", BEGIN_MS + 200 * _STEP_MS - 1)
    publish_stream(deployment, 200, 100)
    deployment.await_done()
    found = audited(deployment, code=ExitCode.PARITY)
    assert found["features"]["card_tx_count_30d"] == {
        "match": 290, "mismatch": 10, "missing": 0, "uncertain": 0
    }  # fmt: skip
    assert found["features"]["amount"]["match"] == 300
    assert found["features"]["terminal_tx_count_30d_lag7d"]["mismatch"] == 0
    for example in found["examples"]:
        assert example["feature"].startswith("card_")
        assert example["online"] != example["recomputed"]
    assert worker.stop() == ExitCode.OK


def count_twice(deployment: Deployment, card: str, time_ms: int) -> None:
    """Put a record into a card's series that no log has, as a redelivery taken for new would."""
    settings = {name: str(value) for name, value in deployment.settings.items()}
    backend = ValkeyBackend(
        settings["VALKEY__URL"],
        DEFAULT_DEFINITION,
        namespace=settings["PROFILES__NAMESPACE"],
        buckets=Settings().buckets,
    )
    number = next(n for n, s in enumerate(DEFAULT_DEFINITION.series) if s.name == "card_tx")
    content = backend.content(number, card)
    assert content is not None
    last = content.run
    (own_hash,) = last.hashes[-1:].tolist()
    stranger = SeriesRun(
        number,
        card,
        np.array([time_ms], dtype=np.int64),
        np.array([own_hash ^ 1], dtype=np.uint64),
        np.zeros(1, dtype=np.uint64),
        last.versions_ms[-1:],
        last.values[-1:],
        last.attributes[-1:],
    )
    backend.merge([stranger])


def test_a_worker_has_itself_audited_and_goes_on_when_that_fails(deployment: Deployment) -> None:
    worker = deployment.start(AUDIT__INTERVAL_S=1, AUDIT__SAMPLE=1.0).await_ready()
    # Decisions rest for ten seconds before they are looked at.
    publish_stream(deployment, 0, 100)
    deployment.await_done()
    wait_for(lambda: worker.metric("fraudstream_parity_decisions_total") == 100, "an audit of all")
    assert worker.metric("fraudstream_parity_last_run_timestamp_seconds") > 0
    text = worker.get("/metrics")[1]
    for line in text.splitlines():
        if line.startswith("fraudstream_parity_features_total") and 'result="mismatch"' in line:
            assert line.endswith(" 0.0")
    labels = 'feature="card_tx_count_1d",result="match"'
    assert worker.metric("fraudstream_parity_features_total", labels) == 100
    # Its audits fail from now on, and it decides all the same.
    wait_for(lambda: kill_children(worker.pid), "an audit to be ended from outside")
    wait_for(lambda: worker.metric("fraudstream_parity_failures_total") >= 1, "a failed audit")
    publish_stream(deployment, 100, 20)
    deployment.await_done()
    assert worker.has_logged("audit_failed")
    wait_for(lambda: bool(children_of(worker.pid)), "an audit under way")
    (child, *_) = children_of(worker.pid)
    worker.kill()
    wait_for(lambda: is_gone(child), "the audit to end with its parent")


def kill_children(pid: int) -> bool:
    """Kill an audit of a worker, if one is under way."""
    children = children_of(pid)
    for child in children:
        os.kill(child, signal.SIGKILL)
    return bool(children)
