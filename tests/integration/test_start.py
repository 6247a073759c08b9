"""Starting where something is wrong: what waits, what refuses, and that it says why.

A refusal is an exit code with a name and one sentence; a traceback is only for what nobody foresaw.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, DAY_MS, Deployment, WorkerProcess, card_features, payment, wait_for
from services import Services

from fraudstream.bundle import hash_line
from fraudstream.errors import ExitCode
from fraudstream.local.stack import LocalStack

pytestmark = pytest.mark.services


@pytest.fixture
def deployment(services: Services, tmp_path: Path) -> Iterator[Deployment]:
    # The shortest time-out there is: a group with members cannot be deleted.
    with Deployment(services, tmp_path, settings={"KAFKA__SESSION_TIMEOUT_MS": 1_000}) as made:
        yield made


def refusal(worker: WorkerProcess, code: ExitCode) -> str:
    """Wait for the worker to end with a code; give the one sentence it said, its last line."""
    assert worker.wait() == code, worker.text()[-3_000:]
    text = worker.text()
    assert "Traceback" not in text
    sentences = [line for line in text.splitlines() if line.startswith("fraudstream: ")]
    assert len(sentences) == 1, text
    assert text.endswith(sentences[0] + "\n")
    return sentences[0]


# ------------------------------------------------------------------ waiting


def test_without_kafka_it_waits_and_begins_once_kafka_is_there(
    deployment: Deployment, stack: LocalStack
) -> None:
    deployment.create_topics()
    places = deployment.publish(payment(n) for n in range(50))
    stack.kill_kafka()
    impatient, patient = deployment.start(), deployment.start("--slot", "1")
    for worker in (impatient, patient):
        wait_for(lambda w=worker: w.has_logged("waiting_for_kafka"), "it to say so")  # type: ignore[misc]
        assert worker.get("/healthz") == (200, "ok\n")
        assert worker.get("/readyz") == (503, "not yet\n")
    assert impatient.stop() == ExitCode.OK
    assert impatient.exit_code == 0
    stack.start_kafka()
    patient.await_ready()
    deployment.await_done()
    assert patient.stop() == ExitCode.OK
    assert Counter(row.source for row in deployment.drain("decisions")) == Counter(places)


def test_kafka_dies_under_workers_and_they_wait_or_stop(
    deployment: Deployment, stack: LocalStack
) -> None:
    deployment.create_topics()
    impatient, patient = deployment.start(), deployment.start("--slot", "1")
    for worker in (impatient, patient):
        worker.await_ready()
    places = deployment.publish(payment(n) for n in range(500))
    deployment.await_done()
    stack.kill_kafka()
    for worker in (impatient, patient):
        wait_for(lambda w=worker: w.get("/readyz")[0] == 503, "it to be no longer ready")  # type: ignore[misc]
        assert worker.get("/healthz") == (200, "ok\n")
    assert impatient.stop() == ExitCode.OK
    stack.start_kafka()
    patient.await_ready()
    places += deployment.publish(payment(n) for n in range(500, 1_000))
    deployment.await_done()
    assert patient.stop() == ExitCode.OK
    assert Counter(row.source for row in deployment.drain("decisions")) == Counter(places)


def test_without_topics_it_waits_and_says_how_they_are_made(deployment: Deployment) -> None:
    worker = deployment.start()
    wait_for(lambda: worker.has_logged("waiting_for_kafka"), "it to say so")
    assert worker.get("/readyz")[0] == 503
    deployment.create_topics()
    worker.await_ready()
    places = deployment.publish(payment(n) for n in range(5))
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    assert len(deployment.drain("decisions")) == len(places)
    said = worker.log("waiting_for_kafka")[0]["error"]
    assert "does not exist" in said
    assert "fraudstream topics create" in said


# ------------------------------------------------------------------ settings and bundle


def test_an_unknown_setting_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    said = refusal(deployment.start(KAFKA__BOOTSTRAP_SERVER="localhost:1"), ExitCode.SETTINGS)
    assert "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVER is no setting of ours" in said
    file = tmp_path / "settings.yaml"
    file.write_text("kafka: {group: fraudstream}\n", "utf-8")
    said = refusal(deployment.start("--config", str(file)), ExitCode.SETTINGS)
    assert "kafka.group is no setting of ours" in said


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def test_a_missing_bundle_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.start(MODEL__BUNDLE=tmp_path / "nowhere")
    assert "no such folder" in refusal(worker, ExitCode.BUNDLE)


def test_a_bundle_with_one_flipped_byte_is_refused(deployment: Deployment, bundle: Path) -> None:
    model = bundle / "model.ubj"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    said = refusal(deployment.start(MODEL__BUNDLE=bundle), ExitCode.BUNDLE)
    assert "model.ubj is not the file that the bundle was made with" in said


def test_a_bundle_with_another_list_of_features_is_refused(
    deployment: Deployment, bundle: Path
) -> None:
    """With right hashes: two features of one window have changed places."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    features = manifest["features"]
    features[3], features[4] = features[4], features[3]
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    content = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(content)
    (bundle / "manifest.sha256").write_bytes(hash_line(content))
    said = refusal(deployment.start(MODEL__BUNDLE=bundle), ExitCode.BUNDLE)
    assert "feature" in said


# ------------------------------------------------------------------ Kafka and Valkey


def test_short_retention_is_refused_unless_it_is_accepted(deployment: Deployment) -> None:
    deployment.create_topics(retention_ms=7 * DAY_MS)
    said = refusal(deployment.start(), ExitCode.RETENTION)
    assert "for 7.0 days, but profiles look back 45" in said
    assert "--accept-short-retention" in said
    worker = deployment.start("--accept-short-retention").await_ready()
    assert {line["topic"] for line in worker.log("short_retention")} == {
        deployment.topics["transactions"],
        deployment.topics["labels"],
    }
    assert worker.stop() == ExitCode.OK


def test_a_valkey_that_may_evict_is_refused(deployment: Deployment) -> None:
    deployment.create_topics()
    with deployment.valkey() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            said = refusal(deployment.start(), ExitCode.STORE_UNFIT)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is allkeys-lru" in said


def _profiles(deployment: Deployment) -> dict[bytes, Any]:
    """Give every series as it lies in Valkey."""
    with deployment.valkey() as client:
        keys = list(client.scan_iter(f"fs:{deployment.name}:*_tx:*", count=1_000))
        values: dict[bytes, Any] = {key: client.get(key) for key in keys}
    return values


def _forget_offsets(deployment: Deployment) -> None:
    """Delete the group, once its static members have timed out."""

    def is_deleted() -> bool:
        (future,) = deployment.admin.delete_consumer_groups([deployment.name]).values()
        return future.exception(15) is None

    wait_for(is_deleted, "the group to be deleted")
    assert deployment.committed() == {}


def _decide(deployment: Deployment, *arguments: str) -> None:
    worker = deployment.start(*arguments).await_ready()
    deployment.await_done()
    assert worker.stop() == ExitCode.OK


def test_offsets_that_stepped_back_are_not_believed_unless_somebody_says_so(
    deployment: Deployment,
) -> None:
    deployment.create_topics()
    # All on one partition: a step back must be longer than any batch.
    deployment.publish(payment(n, card_id="c0") for n in range(4_000))
    _decide(deployment)
    (place,) = (place for place, end in deployment.committed().items() if end == 4_000)
    deployment.set_offsets({place: 1_000})

    worker = deployment.start()
    wait_for(lambda: worker.has_logged("waiting"), "it to say so")
    assert worker.get("/healthz") == (200, "ok\n")
    assert worker.get("/readyz") == (503, "not yet\n")
    said = worker.log("waiting")[0]["error"]
    assert "stepped back" in said
    assert "--from committed" in said
    assert worker.stop() == ExitCode.OK
    assert len(deployment.drain("decisions")) == 4_000

    _decide(deployment, "--from", "committed")
    counts = Counter(row.source for row in deployment.drain("decisions"))
    assert Counter(counts.values()) == {1: 1_000, 2: 3_000}


def test_lost_offsets_are_noticed_and_nothing_is_counted_twice(deployment: Deployment) -> None:
    deployment.create_topics()
    deployment.publish(payment(n) for n in range(300))
    _decide(deployment)
    assert len(deployment.drain("decisions")) == 300

    _forget_offsets(deployment)
    deployment.publish(payment(n) for n in range(300, 330))
    said = refusal(deployment.start(), ExitCode.OFFSETS_MISSING)
    assert "--from watermark" in said
    assert "--from earliest" in said

    _decide(deployment, "--from", "watermark")
    second = deployment.drain("decisions")
    expected = card_features(deployment.drain("transactions"))
    assert Counter(row.source for row in second) == Counter(list(expected)), (
        "only the new ones, once"
    )

    _forget_offsets(deployment)
    profiles = _profiles(deployment)
    _decide(deployment, "--from", "earliest")
    third = deployment.drain("decisions")
    assert Counter(row.source for row in third) == Counter(2 * list(expected))
    by_source: dict[object, list[dict[str, object]]] = {}
    for row in third:
        decision = {n: v for n, v in row.json().items() if n != "timings_ms"}
        by_source.setdefault(row.source, []).append(decision)
    assert all(one == other for one, other in by_source.values()), "the same ids, the same answers"
    assert not any(decision["flags"] for decision, _ in by_source.values())
    assert _profiles(deployment) == profiles
