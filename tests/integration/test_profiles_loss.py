"""Valkey hangs, is emptied, or dies and comes back empty, under a live worker.

Decisions go on, say what they lack, and never decline a payment for it; afterwards profiles are
what they would have been. One worker lives through all of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from harness import BUNDLE, Deployment, Position, Row, card_features, payment, wait_for
from services import Services

from fraudstream.bundle import load_bundle
from fraudstream.local.stack import LocalStack

pytestmark = pytest.mark.services

PROFILE_FEATURES = [f.name for f in load_bundle(BUNDLE).features if not f.is_stateless]
#: Five times the default: a busy machine must not look like a Valkey that is away.
DEADLINE_MS = 250
AWAY_S = 2.0
#: A decision waits at most once for the deadline; mostly the breaker keeps it from waiting at all.
#: The rest is what a busy machine may add.
DECIDED_MS_MAX = 2_500
DECIDED_MS_TYPICAL = 750


class Live:
    """A worker, what was sent to it, and how much of that was looked at."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.worker = deployment.start().await_ready()
        self._sent = 0
        self._seen: set[Position] = set()

    def send(self, count: int) -> None:
        """Publish payments, and wait until they are decided."""
        start, self._sent = self._sent, self._sent + count
        self.deployment.publish(payment(n) for n in range(start, self._sent))
        self.deployment.await_done()

    def new(self) -> list[Row]:
        """Give the decisions since the last time; of all, there must be one for each payment."""
        rows = self.deployment.drain("decisions")
        assert len(rows) == self._sent
        assert len({row.source for row in rows}) == self._sent
        alerts = Counter(row.source for row in self.deployment.drain("alerts"))
        called_for = [row.source for row in rows if row.json()["outcome"] != "APPROVE"]
        assert alerts == Counter(called_for)
        new = [row for row in rows if row.source not in self._seen]
        self._seen |= {row.source for row in rows}
        return new

    def await_repair(self) -> None:
        """Wait until a decision is whole again; what it takes until then may be degraded."""

        def is_whole() -> bool:
            self.send(5)
            newest = sorted(self.new(), key=lambda row: row.timestamp_ms)[-5:]
            return not any(row.json()["flags"] for row in newest)

        wait_for(is_whole, "profiles to be whole again")

    def assert_exact(self, rows: list[Row]) -> None:
        """Fail unless none is flagged and card features are those of an undisturbed fold."""
        expected = card_features(self.deployment.drain("transactions"))
        for row in rows:
            decision = row.json()
            assert decision["flags"] == []
            assert decision["missing_features"] == []
            for name, value in expected[row.source].items():
                assert np.float32(decision["features"][name]) == value, (row.source, name)


@pytest.fixture(scope="module")
def deployment(
    services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    settings = {"VALKEY__DEADLINE_MS": DEADLINE_MS}
    with Deployment(services, tmp_path_factory.mktemp("loss"), settings=settings) as made:
        yield made.create_topics()


@pytest.fixture(scope="module")
def started(deployment: Deployment) -> Live:
    return Live(deployment)


@pytest.fixture
def live(started: Live) -> Iterator[Live]:
    """Begin with whole profiles and some past; end with a worker that is still the same."""
    started.send(600)
    started.await_repair()
    started.new()
    yield started
    assert started.worker.exit_code is None
    assert started.worker.get("/healthz")[0] == 200


def assert_degraded(rows: list[Row]) -> None:
    """Fail unless each is flagged, names what is missing, and is no refusal."""
    for row in rows:
        decision = row.json()
        assert decision["flags"] == ["degraded"]
        assert decision["missing_features"] == PROFILE_FEATURES
        assert all(decision["features"][name] is None for name in PROFILE_FEATURES)
        assert decision["outcome"] in {"APPROVE", "REVIEW"}


def test_valkey_hangs_and_the_payments_are_decided_meanwhile(live: Live, stack: LocalStack) -> None:
    stack.pause_valkey()
    until_s = time.monotonic() + AWAY_S
    try:
        while time.monotonic() < until_s:
            live.send(10)  # returns when they are decided, which is before Valkey answers again
        while_away = live.new()
    finally:
        stack.resume_valkey()
    assert len(while_away) >= 20
    assert_degraded(while_away)
    assert "REVIEW" in {row.json()["outcome"] for row in while_away}
    # Of each decision: when the worker wrote it, and when its payment had come.
    came = {row.place: row.timestamp_ms for row in live.deployment.drain("transactions")}
    waited_ms = [row.timestamp_ms - came[row.source] for row in while_away]
    assert max(waited_ms) < DECIDED_MS_MAX
    assert np.median(waited_ms) < DECIDED_MS_TYPICAL

    live.await_repair()
    live.new()
    live.send(300)
    live.assert_exact(live.new())


def test_valkey_dies_and_comes_back_empty(live: Live, stack: LocalStack) -> None:
    stack.kill_valkey()
    live.send(100)
    assert_degraded(live.new())
    stack.start_valkey()
    live.await_repair()
    live.new()
    live.send(300)
    live.assert_exact(live.new())
    wait_for(
        lambda: live.worker.metric("fraudstream_profile_gap_records") == 0.0, "the gap to be shown"
    )


def test_valkey_is_emptied_and_the_first_payment_notices(live: Live) -> None:
    """Neither the connection nor Valkey's run id changes."""
    with live.deployment.valkey() as client:
        client.flushall()
    live.send(1)
    (first,) = live.new()
    decision = first.json()
    if decision["flags"]:
        assert_degraded([first])
    else:  # the worker looked between two batches, and had it repaired by then
        live.assert_exact([first])
    live.await_repair()
    live.new()
    live.send(300)
    live.assert_exact(live.new())
    assert live.worker.has_logged("profiles_lost")
    assert live.worker.has_logged("profiles_repaired")
