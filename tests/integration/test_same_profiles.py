"""One stream on four ways into the profiles: what is remembered at the end is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from feature_names import DEFAULT_DEFINITION
from harness import Deployment, payment, wait_for
from services import Services

from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits

pytestmark = pytest.mark.services

EVENTS, CARDS, TERMINALS = 3_000, 25, 12
Event: TypeAlias = "dict[str, object]"
#: By series and entity: (event time, id hash, values) of every record.
Remembered: TypeAlias = "dict[tuple[str, str], set[tuple[int, int, tuple[int, ...]]]]"


@pytest.fixture(scope="module")
def stream() -> tuple[list[Event], list[Event]]:
    """Make payments some seconds apart, some of one card in one millisecond, and findings."""
    rng = np.random.default_rng(11)
    steps_ms = rng.choice([0, 1, 500, 3_000, 20_000], EVENTS)
    payments = [
        payment(
            number,
            event_time=1_704_067_200_000 + int(steps_ms[: number + 1].sum()),
            card_id=f"c{rng.integers(CARDS)}",
            terminal_id=f"t{rng.integers(TERMINALS)}",
            amount_minor=int(rng.integers(1, 10**6)),
        )
        for number in range(EVENTS)
    ]
    findings: list[Event] = []
    for number in rng.choice(EVENTS, 200, replace=False).tolist():
        shared: Any = {
            name: payments[number][name]
            for name in ("transaction_id", "event_time", "card_id", "terminal_id")
        }
        times: Any = shared["event_time"]
        findings += [
            shared
            | {"is_fraud": later == 0 or number % 3 > 0, "reported_at": times + later}
            | {"source": "test"}
            for later in ([0, 86_400_000] if number % 2 else [0])
        ]
    return payments, findings


def remembered(deployment: Deployment, services: Services) -> Remembered:
    backend = ValkeyBackend(
        services.valkey_url,
        DEFAULT_DEFINITION,
        namespace=deployment.name,
        limits=ValkeyLimits(deadline_s=20, connect_timeout_s=5),
    )
    found: Remembered = {}
    for number, series in enumerate(DEFAULT_DEFINITION.series):
        letter, count = ("c", CARDS) if series.entity == "card_id" else ("t", TERMINALS)
        for entity in (f"{letter}{n}" for n in range(count)):
            content = backend.content(number, entity)
            if content is not None:
                run = content.run
                values = [tuple(row) for row in run.values.tolist()]
                rows = list(zip(run.times_ms.tolist(), run.hashes.tolist(), values, strict=True))
                assert len(set(rows)) == len(rows)
                found[series.name, entity] = set(rows)
    backend.close()
    return found


def shuffled(events: list[Event]) -> list[Event]:
    """Let every event come up to a minute late."""
    rng = np.random.default_rng(12)
    times_ms: Any = [event["event_time"] for event in events]
    order = np.argsort(np.array(times_ms) + rng.integers(0, 60_000, len(events)), kind="stable")
    return [events[number] for number in order.tolist()]


def run_through(
    services: Services, folder: Path, payments: list[Event], findings: list[Event], kills: int
) -> Remembered:
    folder.mkdir()
    with Deployment(services, folder, settings={"VALKEY__ON_DEADLINE": "wait"}) as deployment:
        deployment.create_topics()
        deployment.publish(payments)
        deployment.publish(findings, "labels")
        lags = []
        for _ in range(kills):
            worker = deployment.start()
            before = sum(deployment.committed().values())
            wait_for(
                lambda before=before: sum(deployment.committed().values()) > before,  # type: ignore[misc]
                "some progress before the kill",
            )
            worker.kill()
            lags.append(deployment.lag())
        assert not kills or max(lags) > 0  # at least one was in the middle of its work
        worker = deployment.start().await_ready()
        deployment.await_done()
        assert worker.stop() == 0
        return remembered(deployment, services)


@pytest.mark.timeout(400)
def test_in_order_shuffled_twice_and_with_killed_workers_the_profiles_are_the_same(
    services: Services, tmp_path: Path, stream: tuple[list[Event], list[Event]]
) -> None:
    payments, findings = stream
    twice = [event for event in payments for _ in range(2)]
    ways = {
        "in_order": (payments, findings, 0),
        "shuffled": (shuffled(payments), findings, 0),
        "twice": (twice, findings + findings[::-1], 0),
        "killed": (payments, findings, 3),
    }
    ended = {
        way: run_through(services, tmp_path / way, *arguments) for way, arguments in ways.items()
    }
    expected = ended["in_order"]
    records = dict.fromkeys(("card_tx", "terminal_tx", "terminal_label"), 0)
    for (series, _), rows in expected.items():
        records[series] += len(rows)
    assert records == {"card_tx": EVENTS, "terminal_tx": EVENTS, "terminal_label": 200}
    for way, found in ended.items():
        assert found == expected, way
