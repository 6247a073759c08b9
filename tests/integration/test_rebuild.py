"""``rebuild`` and ``profiles``, with a real Kafka and a real Valkey.

What a worker recorded is lost and brought back; who was forgotten stays forgotten.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from harness import BEGIN_MS, DAY_MS, Deployment, payment, wait_for
from services import Services

from fraudstream.adapters.kafka import KafkaAccess
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.app import build_store, profile_definition
from fraudstream.bundle import load_bundle
from fraudstream.errors import ExitCode
from fraudstream.settings import Settings
from fraudstream.topics import TopicAdmin, plan_erasures

pytestmark = pytest.mark.services

PAYMENTS = 1_200


@pytest.fixture
def deployment(services: Services, tmp_path: Path) -> Iterator[Deployment]:
    erasures = f"erasures-{uuid.uuid4().hex[:8]}"
    settings = {"TOPICS__ERASURES": erasures, "EVENTS__HMAC_KEY": "k" * 32}
    with Deployment(services, tmp_path, settings=settings) as made:
        made.create_topics()
        plan = replace(plan_erasures(erasures), partitions=made.partitions)
        TopicAdmin(KafkaAccess(services.bootstrap_servers)).create([plan])
        made.topics["erasures"] = erasures
        yield made


def label(
    of: dict[str, object], reported_at_ms: int, *, is_fraud: bool = True
) -> dict[str, object]:
    same = {n: of[n] for n in ("transaction_id", "event_time", "card_id", "terminal_id")}
    return same | {"is_fraud": is_fraud, "reported_at": reported_at_ms, "source": "test"}


def publish_all(deployment: Deployment, first: int = 0, count: int = PAYMENTS) -> None:
    """Publish payments, one in ten twice, and findings that were renewed and withdrawn."""
    payments = [payment(n) for n in range(first, first + count)]
    deployment.publish([p for n, p in enumerate(payments) for _ in range(1 + (n % 10 == 0))])
    found = payments[::9]
    labels = [label(p, BEGIN_MS + DAY_MS) for p in found]
    labels += [label(p, BEGIN_MS + 2 * DAY_MS, is_fraud=False) for p in found[::2]]
    labels += [label(p, BEGIN_MS + DAY_MS // 2) for p in found[::3]]
    deployment.publish(labels, "labels")


def command(deployment: Deployment, *words: str, code: int = 0, **settings: object) -> str:
    """Run a command of ours; give stdout, or stderr if it is to fail."""
    ended = subprocess.run(
        [sys.executable, "-m", "fraudstream", *words],
        env=deployment.environ(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr if code else ended.stdout


def open_store(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> BucketedProfileStore:
    with monkeypatch.context() as patch:
        for name, value in deployment.environ().items():
            if name.startswith("FRAUDSTREAM_") and name not in os.environ:
                patch.setenv(name, value)
        settings = Settings()
    bundle = load_bundle(settings.model.bundle)
    return build_store(settings, profile_definition(settings, bundle), is_patient=True)


def contents(store: BucketedProfileStore) -> dict[tuple[str, str], set[tuple[Any, ...]]]:
    """Give the set of (time, id, values …) of every series; of ties the order is not asked."""
    found = {}
    for series in store.definition.series:
        kind, count = ("c", 10) if series.entity == "card_id" else ("t", 7)
        for entity in (f"{kind}{number}" for number in range(count)):
            content = store.content(series.name, entity)
            if content is not None:
                run = content.run
                values = np.asarray(run.values).tolist()
                columns = (run.times_ms, run.hashes, run.versions_ms)
                rows = zip(*(c.tolist() for c in columns), map(tuple, values), strict=True)
                kept = list(rows)
                assert len(set(kept)) == len(kept)
                found[series.name, entity] = set(kept)
    return found


def flush(deployment: Deployment) -> None:
    """Lose all that this deployment has in Valkey."""
    with deployment.valkey() as client:
        for key in client.scan_iter(match=f"fs:{deployment.name}:*", count=1_000):
            client.delete(key)


def test_a_rebuild_brings_back_what_was_recorded_and_counts_nothing_twice(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(deployment)
    worker = deployment.start().await_ready()
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    store = open_store(deployment, monkeypatch)
    recorded, watermarks = contents(store), store.watermarks()
    assert sum(len(rows) for (name, _), rows in recorded.items() if name == "card_tx") == PAYMENTS
    assert {name for name, _ in recorded} == {"card_tx", "terminal_tx", "terminal_label"}

    command(deployment, "rebuild")
    assert contents(store) == recorded
    flush(deployment)
    assert contents(store) == {}
    summary = json.loads(command(deployment, "rebuild", "--json"))
    assert summary["transactions"] == PAYMENTS * 11 // 10
    assert summary["lost"] == 2 * deployment.partitions
    assert contents(store) == recorded
    assert store.watermarks() == watermarks

    # A worker takes them for whole at once: the next decisions know the past.
    worker = deployment.start().await_ready()
    before = len(deployment.drain("decisions"))
    deployment.publish(payment(n) for n in range(PAYMENTS, PAYMENTS + 20))
    deployment.await_done()
    decisions = [row.json() for row in deployment.drain("decisions")]
    new = [d for d in decisions if int(d["transaction_id"][1:]) >= PAYMENTS]
    assert len(new) == len(decisions) - before == 20
    assert all(d["flags"] == [] for d in new)
    assert all(d["features"]["card_tx_count_30d"] > PAYMENTS / 10 for d in new)
    assert not worker.has_logged("profiles_lost")


def test_a_rebuild_beside_live_workers_leaves_whole_profiles(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(deployment)
    worker = deployment.start().await_ready()
    deployment.await_done()
    store = open_store(deployment, monkeypatch)
    recorded = contents(store)
    flush(deployment)
    command(deployment, "rebuild")
    wait_for(lambda: contents(store) == recorded, "everything to be back")

    sent = PAYMENTS

    def is_whole() -> bool:
        nonlocal sent
        deployment.publish([payment(sent)])
        sent += 1
        deployment.await_done()
        found = [row.json() for row in deployment.drain("decisions")]
        (newest,) = (d for d in found if d["transaction_id"] == f"p{sent - 1}")
        return not newest["flags"]

    wait_for(is_whole, "decisions with profiles")
    assert worker.exit_code is None


def test_who_was_forgotten_stays_forgotten(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(deployment)
    command(deployment, "rebuild")
    store = open_store(deployment, monkeypatch)
    before = contents(store)
    said = json.loads(command(deployment, "profiles", "forget", "card:c3", "--yes", "--json"))
    assert said["dropped"] == {"card_tx": PAYMENTS // 10}
    erased = before | {("card_tx", "c3"): set()}
    assert contents(store) == erased

    (record,) = deployment.drain("erasures")
    assert b"c3" not in (record.key or b"") + (record.value or b"")
    assert record.json()["field"] == "card_id"

    for is_lost in (False, True):
        if is_lost:
            flush(deployment)
        command(deployment, "rebuild")
        assert contents(store) == erased
    content = store.content("card_tx", "c3")
    assert content is not None
    assert content.trimmed_to_ms == record.json()["until_ms"]

    # Under another key nobody could tell who it was.
    said_of_key = command(deployment, "rebuild", code=ExitCode.SETTINGS, EVENTS__HMAC_KEY="o" * 32)
    assert "events.hmac_key" in said_of_key
    # Asked for an earlier time, it does not bring back what was forgotten before.
    words = ("profiles", "forget", "card:c3", "--until", "2024-01-01", "--yes", "--json")
    assert json.loads(command(deployment, *words))["until"] == said["until"]


def test_a_worker_that_repairs_does_not_remember_who_was_forgotten(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(deployment)
    deployment.start().await_ready()
    deployment.await_done()
    command(deployment, "profiles", "forget", "card:c3", "--yes")
    store = open_store(deployment, monkeypatch)
    erased = contents(store)
    assert erased["card_tx", "c3"] == set()
    flush(deployment)
    wait_for(lambda: contents(store) == erased, "the repair")
    assert contents(store)["card_tx", "c3"] == set()


def test_a_file_gives_what_lies_before_the_log(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = [payment(n) for n in range(PAYMENTS)]
    publish_all(deployment)
    # The log forgets its beginning.
    delete_before(deployment, 100)
    kept = [row.json() for row in deployment.drain("transactions")]
    command(deployment, "rebuild")
    store = open_store(deployment, monkeypatch)
    assert store.floor_ms() == 0  # nobody had read it: nothing is lost
    # Nothing was committed yet, and all of it is in the profiles: the worker goes on behind it.
    worker = deployment.start("--from", "watermark").await_ready()
    deployment.await_done()
    assert worker.stop() == ExitCode.OK
    assert deployment.drain("decisions") == []
    flush(deployment)
    command(deployment, "rebuild")
    assert store.floor_ms() > BEGIN_MS

    file = tmp_path / "past.parquet"
    frame = pl.DataFrame(past).with_columns(is_fraud=pl.int_range(pl.len()) % 9 == 0)
    frame.write_parquet(file)
    summary = json.loads(
        command(deployment, "rebuild", "--from", str(file), "--labels-after", "1h", "--json")
    )
    assert summary["past_transactions"] == PAYMENTS
    assert summary["past_labels"] > 0
    assert store.floor_ms() == BEGIN_MS
    found = contents(store)
    assert sum(len(rows) for (name, _), rows in found.items() if name == "card_tx") == PAYMENTS
    assert len(kept) < PAYMENTS
    # What the log has, too, is claimed by it; the rest did not come through Kafka.
    unclaimed = 0
    for number in range(10):
        content = store.content("card_tx", f"c{number}")
        assert content is not None
        unclaimed += int((content.run.positions == 0).sum())
    assert unclaimed == PAYMENTS - len({row["transaction_id"] for row in kept})


def delete_before(deployment: Deployment, offset: int) -> None:
    from confluent_kafka import TopicPartition

    places = [
        TopicPartition(deployment.topics["transactions"], number, offset)
        for number in range(deployment.partitions)
    ]
    for future in deployment.admin.delete_records(places).values():
        future.result(15)


def test_show_says_what_is_remembered(deployment: Deployment) -> None:
    publish_all(deployment, count=200)
    command(deployment, "rebuild")
    shown = json.loads(command(deployment, "profiles", "show", "card:c3", "--json"))
    (series,) = shown["series"]
    assert (series["name"], series["records"]) == ("card_tx", 20)
    assert series["last_ms"] == BEGIN_MS + 193 * 60_000
    day = next(window for window in series["windows"] if window["name"] == "1d")
    assert day["count"] == 20
    assert day["sums"] == {
        "amount_minor": sum(1_000 + 37 * n for n in range(3, 200, 10)),
        "amount_known": 20,
    }
    early = json.loads(
        command(deployment, "profiles", "show", "card_id:c3", "--at", "2024-01-01T00:05:00Z",
                "--json")
    )  # fmt: skip
    counts = {window["name"]: window["count"] for window in early["series"][0]["windows"]}
    # What is looked up record by record has a value, and no count.
    assert counts == {"1d": 1, "7d": 1, "14d": 1, "30d": 1, "quantile 100 % 14d": None}
    (scanned,) = (w for w in early["series"][0]["windows"] if w["count"] is None)
    assert scanned["value"] == 1_000 + 37 * 3
    table = command(deployment, "profiles", "show", "terminal:t3")
    assert "terminal_tx" in table
    assert "terminal_fraud_rate_7d_lag7d" in table
    assert "p3" not in table.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("show", "card:nobody"), "nothing is remembered"),
        (("show", "c3"), "card:ID"),
        (("show", "planet:c3"), "card:ID"),
        (("show", "card:4111111111111111"), "card number"),
        (("forget", "card:4111111111111111", "--yes"), "card number"),
        (("forget", "card:c3", "--until", "2999-01-01", "--yes"), "future"),
    ],
)
def test_a_mistake_is_one_sentence(
    deployment: Deployment, words: tuple[str, ...], expected: str
) -> None:
    said = command(deployment, "profiles", *words, code=ExitCode.USAGE)
    assert expected in said
    assert "4111111111111111" not in said
    assert len(said.splitlines()) == 1


def test_nothing_is_forgotten_that_cannot_be_written_down(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(deployment, count=100)
    command(deployment, "rebuild")
    store = open_store(deployment, monkeypatch)
    before = contents(store)
    command(
        deployment, "profiles", "forget", "card:c3", "--yes",
        code=ExitCode.UNAVAILABLE, TOPICS__ERASURES=f"{deployment.name}.nowhere",
    )  # fmt: skip
    assert contents(store) == before
    asked = subprocess.run(
        [sys.executable, "-m", "fraudstream", "profiles", "forget", "card:c3"],
        env=deployment.environ(), input="n\n", capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert asked.returncode == 1
    assert contents(store) == before
