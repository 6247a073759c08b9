"""The worker as a process: how it starts, stops, shows itself, and what it lets through."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import (
    PATIENCE_S,
    Deployment,
    Headers,
    Outgoing,
    Position,
    Row,
    WorkerProcess,
    payment,
    wait_for,
)
from processes import is_gone
from services import Services

from fraudstream.errors import ExitCode

pytestmark = pytest.mark.services

#: Passes Luhn and begins like an issued one; never given out.
CARD_NUMBER = "4539578763621486"
GROUPED_CARD_NUMBER = "4539-5787-6362-1486"
HMAC_KEY = "a key for tests only, of 41 characters ok"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACESTATE = "vendor=opaque"

Make = Callable[..., Deployment]


@pytest.fixture
def make(services: Services, tmp_path: Path) -> Iterator[Make]:
    made: list[Deployment] = []

    def apply(**settings: object) -> Deployment:
        made.append(Deployment(services, tmp_path, settings=settings))
        return made[-1].__enter__().create_topics()

    yield apply
    for deployment in made:
        deployment.__exit__(None, None, None)


def assert_exactly_once(deployment: Deployment, places: list[Position]) -> list[Row]:
    """Fail unless each payment has one decision, its alert if it calls for one, and no more."""
    decisions, alerts = deployment.drain("decisions"), deployment.drain("alerts")
    assert Counter(row.source for row in decisions) == Counter(places)
    called_for = [row.source for row in decisions if row.json()["outcome"] != "APPROVE"]
    assert Counter(row.source for row in alerts) == Counter(called_for)
    assert not [row for row in decisions if "duplicate" in row.json()["flags"]]
    return decisions


# ------------------------------------------------------------------ starting and stopping


def test_a_signal_ends_it_between_two_batches_and_a_restart_goes_on(make: Make) -> None:
    deployment = make()
    places: list[Position] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        before = sum(deployment.committed().values())
        worker = deployment.start().await_ready()
        start = len(places)
        places += deployment.publish(payment(n) for n in range(start, start + 6_000))
        wait_for(lambda b=before: sum(deployment.committed().values()) > b, "a first commit")  # type: ignore[misc]
        assert worker.stop(number) == ExitCode.OK
        assert worker.log("stopped")
        # Whole batches: what is decided is what is committed, and attempts are complete.
        decisions = deployment.drain("decisions")
        assert len(decisions) == sum(deployment.committed().values())
        rows = [*decisions, *deployment.drain("alerts")]
        for attempt, count in Counter(row.headers["fs_attempt"] for row in rows).items():
            said = {
                r.headers["fs_attempt_records"] for r in rows if r.headers["fs_attempt"] == attempt
            }
            assert said == {str(count)}
    last = deployment.start().await_ready()
    deployment.await_done()
    assert last.stop() == ExitCode.OK
    assert_exactly_once(deployment, places)


def test_two_workers_have_slots_ports_and_health_and_end_with_their_parent(make: Make) -> None:
    deployment = make()
    parent = deployment.start("--workers", "2").await_ready((0, 1))
    places = deployment.publish(payment(n) for n in range(400))
    deployment.await_done()
    decisions = assert_exactly_once(deployment, places)
    group = deployment.name
    attempts = {row.headers["fs_attempt"].split("/")[0] for row in decisions}
    assert attempts == {f"{group}-0-0", f"{group}-1-0"}

    for slot in (0, 1):
        assert parent.get("/healthz", slot) == (200, "ok\n")
        assert parent.get("/nowhere", slot)[0] == 404
        wait_for(lambda s=slot: parent.metric("fraudstream_ready", slot=s) == 1.0, "metrics")  # type: ignore[misc]
        assert parent.metric("fraudstream_batches_total", 'result="aborted"', slot) == 0.0
        text = parent.get("/metrics", slot)[1]
        for name in (
            'fraudstream_build_info{version="',
            "fraudstream_decision_latency_seconds_bucket{",
            'fraudstream_stage_seconds_count{stage="profile"}',
            'fraudstream_dead_letters_total{reason="invalid_json"} 0.0',
            'fraudstream_flags_total{flag="degraded"}',
            "fraudstream_profile_gap_records 0.0",
        ):
            assert (name in text) == ("degraded" not in name), name
    counted = [parent.metric("fraudstream_decisions_total", f'outcome="{o}"', s)
               for o in ("APPROVE", "REVIEW", "DECLINE") for s in (0, 1)]  # fmt: skip
    assert sum(counted) == 400
    wait_for(
        lambda: "fraudstream_lag_records{" in parent.get("/metrics", 0)[1], "the lag to be shown"
    )

    pids = {line["slot"]: line["pid"] for line in parent.log("worker_started")}
    assert set(pids) == {0, 1}
    parent.kill()
    wait_for(lambda: all(is_gone(pid) for pid in pids.values()), "the workers to end")
    assert {line["slot"] for line in parent.log("stopped")} == {0, 1}


def test_a_worker_takes_its_slot_from_the_environment(make: Make) -> None:
    deployment = make()
    worker = deployment.start(WORKER_SLOT=3)
    wait_for(lambda: worker.is_ready((3,)), "the port of slot 3")
    deployment.publish([payment(0)])
    deployment.await_done()
    (decision,) = deployment.drain("decisions")
    assert decision.headers["fs_attempt"].startswith(f"{deployment.name}-3-0/")
    assert worker.stop() == ExitCode.OK


def test_two_workers_in_one_slot_one_ends_and_nothing_is_doubled(make: Make) -> None:
    deployment = make()
    deployment.start().await_ready()
    places: list[Position] = []
    is_enough = threading.Event()

    def feed() -> None:
        while not is_enough.wait(0.02):
            start = len(places)
            places.extend(deployment.publish(payment(n) for n in range(start, start + 20)))

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        deployment.start(METRICS__PORT=deployment.port + 1)
        wait_for(lambda: len(_ended(deployment)) == 1, "one of the two to end")
    finally:
        is_enough.set()
        feeding.join()
    (loser,) = _ended(deployment)
    assert loser.exit_code == ExitCode.SLOT_TAKEN
    assert "slot" in loser.text().splitlines()[-1]
    assert "Traceback" not in loser.text()
    deployment.await_done()
    (winner,) = set(deployment.workers) - {loser}
    assert winner.stop() == ExitCode.OK
    assert_exactly_once(deployment, places)


def test_a_slot_that_another_takes_does_not_stop_its_neighbour(make: Make) -> None:
    deployment = make()
    supervisor = deployment.start("--workers", "2").await_ready((0, 1))
    places = deployment.publish(payment(n) for n in range(500))
    other = deployment.start("--slot", "0", METRICS__PORT=deployment.port + 5)
    wait_for(
        lambda: other.exit_code is not None or "slot_given_up" in supervisor.text(),
        "one of the two to give slot 0 up",
    )
    places += deployment.publish(payment(n) for n in range(500, 1_000))
    deployment.await_done()
    assert supervisor.exit_code is None
    assert supervisor.get("/healthz", 1)[0] == 200
    assert supervisor.stop() == ExitCode.OK
    if other.exit_code is None:
        assert other.stop() == ExitCode.OK
    assert_exactly_once(deployment, places)


def test_slots_are_given_to_single_workers_only(make: Make) -> None:
    for options, settings in ((["--slot", "3"], {}), ([], {"WORKER_SLOT": 3})):
        worker = make().start("--workers", "2", *options, **settings)
        assert worker.wait() == ExitCode.USAGE
        assert "--workers" in worker.text()


def _ended(deployment: Deployment) -> list[WorkerProcess]:
    return [worker for worker in deployment.workers if worker.exit_code is not None]


def test_a_bad_deployment_stops_and_loses_nothing(make: Make) -> None:
    """Both the limit and the parent, which must not start a worker again that stopped for it."""
    deployment = make()
    good = deployment.publish(payment(n) for n in range(100))
    bad = deployment.publish_records([("transactions", b"c0", b"not JSON", ())] * 60)
    good += deployment.publish(payment(n) for n in range(100, 140))
    parent = deployment.start("--workers", "2", DEAD_LETTERS__CONSECUTIVE_MAX=20)
    assert parent.wait(PATIENCE_S) == ExitCode.DEAD_LETTER_LIMIT
    assert "more than 20 bad records in a row" in parent.text()
    assert "Traceback" not in parent.text()
    assert deployment.lag() > 0
    letters = deployment.drain("dead_letters")
    assert len(letters) <= 20, "the batch that crossed the limit was committed"

    worker = deployment.start(DEAD_LETTERS__CONSECUTIVE_MAX=1_000).await_ready()
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    assert_exactly_once(deployment, good)
    assert Counter(row.source for row in deployment.drain("dead_letters")) == Counter(bad)


# ------------------------------------------------------------------ what it lets through


def assert_nowhere(deployment: Deployment, worker: WorkerProcess) -> None:
    """Fail if the card number is in a log, a metric, an output, or Valkey."""
    places = {"log": worker.text()}
    for kind in ("decisions", "alerts", "dead_letters"):
        places[kind] = repr(deployment.drain(kind))
    with deployment.valkey() as client:
        keys = sorted(client.scan_iter(f"fs:{deployment.name}:*", count=1_000))
        values = [client.dump(key) for key in keys]
        places["valkey"] = repr(keys) + repr(values)
    for place, text in places.items():
        assert text, place
        for number in (CARD_NUMBER, GROUPED_CARD_NUMBER, CARD_NUMBER[1:]):
            assert number not in text, place


def test_logs_are_json_and_a_card_number_is_nowhere(make: Make) -> None:
    deployment = make()
    event = payment(1)
    card = CARD_NUMBER.encode()
    records: list[Outgoing] = [
        ("transactions", card, event | {"card_id": CARD_NUMBER}, []),
        ("transactions", b"c1", event | {"card_id": GROUPED_CARD_NUMBER}, []),
        ("transactions", b"c1", event | {"note": f"paid with {GROUPED_CARD_NUMBER}"}, []),
        ("transactions", b"c1", event | {CARD_NUMBER: "a name"}, []),
        ("transactions", b"c1", b'{"card_id": ' + card, []),
        ("transactions", b"c1", event | {"terminal_id": f"{CARD_NUMBER} !"}, []),
        ("transactions", b"c1", event | {"amount_minor": CARD_NUMBER}, []),
        ("transactions", card, payment(2), []),
        ("transactions", b"c1", payment(3), [("tracestate", f"card={CARD_NUMBER}")]),
        ("labels", card, event | {"card_id": CARD_NUMBER, "is_fraud": True}, []),
        ("labels", b"t1", b"\xff" + card, []),
    ]  # fmt: skip
    worker = deployment.start("--log-level", "DEBUG").await_ready()
    deployment.publish_records(records)
    deployment.await_done()
    metrics = worker.get("/metrics")[1]
    assert CARD_NUMBER not in metrics
    assert worker.stop() == ExitCode.OK
    # Every line is read as JSON on the way.
    assert all({"event", "level", "timestamp"} <= set(line) for line in worker.log())
    assert worker.log("started")[0]["slot"] == 0
    letters = deployment.drain("dead_letters")
    assert len(letters) == 9
    assert all(row.value is None for row in letters)
    reasons = Counter(row.headers["fs_reason"] for row in letters)
    assert reasons["card_number"] == 5
    assert {row.json()["transaction_id"] for row in deployment.drain("decisions")} == {"p2", "p3"}
    assert_nowhere(deployment, worker)


def test_with_hmac_a_card_number_becomes_a_token(make: Make) -> None:
    deployment = make(EVENTS__CARD_NUMBER="hmac", EVENTS__HMAC_KEY=HMAC_KEY)
    worker = deployment.start("--log-level", "DEBUG").await_ready()
    ways = [CARD_NUMBER, GROUPED_CARD_NUMBER, GROUPED_CARD_NUMBER.replace("-", " ")]
    deployment.publish_records(
        ("transactions", b"c1", payment(n, card_id=way), ()) for n, way in enumerate(ways)
    )
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    decisions = deployment.drain("decisions")
    tokens = {row.json()["card_id"] for row in decisions}
    assert len(tokens) == 1
    assert tokens.pop().startswith("pan:")
    counts = sorted(row.json()["features"]["card_tx_count_1d"] for row in decisions)
    assert counts == [1.0, 2.0, 3.0]
    assert_nowhere(deployment, worker)
    assert HMAC_KEY not in worker.text()


def test_trace_context_is_passed_through_and_a_replay_is_flagged(make: Make) -> None:
    deployment = make(POLICY__REVIEW_THRESHOLD=0.0)  # an alert for each
    worker = deployment.start().await_ready()
    trace: Headers = [
        ("traceparent", TRACEPARENT),
        ("tracestate", TRACESTATE),
        ("baggage", "not ours to pass on"),
    ]
    deployment.publish_records(
        [
            ("transactions", b"c1", payment(1), trace),
            ("transactions", b"c2", payment(2), [("traceparent", "00-nothing-like-it")]),
            ("transactions", b"c3", payment(3), [("fs_replay_run", "run-7")]),
            ("transactions", b"c4", b"not JSON", trace),
        ]
    )
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    outputs = {
        (kind, row.json()["transaction_id"] if kind != "dead_letters" else "bad"): row
        for kind in ("decisions", "alerts", "dead_letters")
        for row in deployment.drain(kind)
    }
    assert len(outputs) == 7
    for place in (("decisions", "p1"), ("alerts", "p1"), ("dead_letters", "bad")):
        headers = outputs[place].headers
        assert (headers["traceparent"], headers["tracestate"]) == (TRACEPARENT, TRACESTATE)
        assert "baggage" not in headers
    for number in (2, 3):
        assert "traceparent" not in outputs["decisions", f"p{number}"].headers
    flags = {n: outputs["decisions", f"p{n}"].json()["flags"] for n in (1, 2, 3)}
    assert flags == {1: [], 2: [], 3: ["replayed"]}
    assert outputs["alerts", "p3"].json()["flags"] == ["replayed"]
