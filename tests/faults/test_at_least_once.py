"""`delivery: at_least_once`: a crash repeats outputs, by their ids, and loses nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from harness import Position, Row, card_features
from proxy import OFFSET_COMMIT
from stage import FaultStack, Plan, Stage

pytestmark = pytest.mark.services

SEED = 1


def test_a_killed_worker_repeats_by_id_and_loses_nothing(
    faults: FaultStack, tmp_path: Path
) -> None:
    plan = Plan(slots=1, rate=200, settings={"DELIVERY": "at_least_once"})
    with Stage(faults, tmp_path, SEED, plan) as stage:
        # Its outputs are there by then, and the group does not know of them.
        held = stage.proxy.hold(OFFSET_COMMIT, containing=stage.deployment.name)
        assert held.wait(20)
        killed_at_ms = stage.crew.kill(0)
        held.drop()
        stage.await_recovery(killed_at_ms)
        stage.settle()
        assert stage.crew.stop() == {0: 0}
        drained = [stage.deployment.drain(k) for k in ("transactions", "decisions", "alerts")]
    payments, decisions, alerts = drained
    # Without transactions there are no markers that take offsets.
    assert sum({row.partition: row.offset + 1 for row in decisions}.values()) == len(decisions)
    _assert_nothing_is_lost(payments, decisions, alerts)
    _assert_counted_once(payments, decisions)


def _assert_nothing_is_lost(payments: list[Row], decisions: list[Row], alerts: list[Row]) -> None:
    by_source: dict[Position, list[Row]] = defaultdict(list)
    for row in decisions:
        by_source[row.source].append(row)
    assert by_source.keys() == {row.place for row in payments}
    repeated = {source for source, rows in by_source.items() if len(rows) > 1}
    assert repeated
    called_for: Counter[str] = Counter()
    for rows in by_source.values():
        bodies = [row.json() for row in rows]
        told = [{n: v for n, v in body.items() if n != "timings_ms"} for body in bodies]
        assert all(body == told[0] for body in told)  # its id, its score, everything
        assert told[0]["flags"] == []  # what is repeated is no duplicate
        if told[0]["outcome"] != "APPROVE":
            called_for[told[0]["decision_id"]] += len(rows)
    raised = Counter(row.json()["decision_id"] for row in alerts)
    assert raised.keys() == called_for.keys()
    # A crash may come between a decision and its alert.
    assert all(1 <= count <= called_for[name] for name, count in raised.items())


def _assert_counted_once(payments: list[Row], decisions: list[Row]) -> None:
    expected = card_features(payments)
    for row in decisions:
        features = row.json()["features"]
        for name, value in expected[row.source].items():
            assert np.float32(features[name]) == value, (row.source, name)
