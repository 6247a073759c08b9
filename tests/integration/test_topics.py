"""``topics create``: what it makes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from feature_names import DEFAULT_DEFINITION
from services import Services
from typer.testing import CliRunner

from fraudstream.adapters.kafka import KafkaAccess
from fraudstream.cli.streams import topics_app
from fraudstream.errors import ServiceAwayError, SettingsError, UsageError
from fraudstream.local.ready import HOST, find_free_port
from fraudstream.profile import DAY_MS
from fraudstream.topics import TopicAdmin, require_retention

pytestmark = pytest.mark.services

KINDS = ("transactions", "labels", "decisions", "alerts", "dead_letters", "erasures")
#: Of each, as it is made: erasures are few.
PARTITIONS = dict.fromkeys(KINDS, 3) | {"erasures": 1}
TIMEOUT_S = 15.0

Create = Callable[..., str]


@pytest.fixture
def prefix() -> str:
    return f"topics-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def create(services: Services, prefix: str, tmp_path: Path) -> Create:
    """Give a function that runs the command, and raises what it raises."""

    def run(
        *words: str, partitions: int = 3, bootstrap_servers: str = services.bootstrap_servers
    ) -> str:
        config = tmp_path / "settings.yaml"
        names = "".join(f"  {kind}: {prefix}.{kind}\n" for kind in KINDS)
        config.write_text(
            f"kafka: {{bootstrap_servers: '{bootstrap_servers}'}}\n"
            f"topics:\n{names}  partitions: {partitions}\n"
        )
        result = CliRunner().invoke(topics_app, ["create", "-c", str(config), *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def partitions_of(services: Services, prefix: str) -> dict[str, int]:
    topics = AdminClient({"bootstrap.servers": services.bootstrap_servers}).list_topics(
        timeout=TIMEOUT_S
    )
    return {
        name.removeprefix(f"{prefix}."): len(topic.partitions)
        for name, topic in topics.topics.items()
        if name.startswith(prefix)
    }


def retention_days(services: Services, prefix: str) -> dict[str, float]:
    admin = TopicAdmin(KafkaAccess(services.bootstrap_servers))
    found = admin.retention_ms([f"{prefix}.{kind}" for kind in KINDS])
    return {name.removeprefix(f"{prefix}."): ms / DAY_MS for name, ms in found.items()}


def test_six_topics_are_made_and_kept_as_long_as_profiles_need(
    services: Services, prefix: str, create: Create
) -> None:
    lines = create().splitlines()
    assert lines[0] == f"{prefix}.transactions: created, 3 partitions, kept for 45 days"
    assert len(lines) == 6
    assert all("created" in line for line in lines)
    assert partitions_of(services, prefix) == PARTITIONS
    days = retention_days(services, prefix)
    horizon_ms = DEFAULT_DEFINITION.horizon_ms
    assert days["transactions"] == days["labels"] == horizon_ms / DAY_MS + 7
    assert {days["decisions"], days["alerts"], days["dead_letters"]} == {90.0}
    assert lines[-1] == f"{prefix}.erasures: created, 1 partitions, kept for ever"
    inputs = {name: int(days[name] * DAY_MS) for name in ("transactions", "labels")}
    require_retention(inputs, horizon_ms)


def test_a_second_time_nothing_is_made(services: Services, prefix: str, create: Create) -> None:
    create()
    lines = create().splitlines()
    assert len(lines) == 6
    assert all("was there" in line for line in lines)
    assert partitions_of(services, prefix) == PARTITIONS


def test_topics_may_be_kept_for_ever(services: Services, prefix: str, create: Create) -> None:
    assert "kept for ever" in create("--unlimited-retention", "--replication", "1")
    assert {round(days * DAY_MS) for days in retention_days(services, prefix).values()} == {-1}


def test_what_is_there_and_different_is_told_and_left_alone(
    services: Services, prefix: str, create: Create
) -> None:
    create()
    with pytest.raises(SettingsError, match="exists with 3 partitions, not 4"):
        create(partitions=4)
    with pytest.raises(SettingsError, match=r"exists with retention\.ms=3888000000, not -1"):
        create("--unlimited-retention")
    assert partitions_of(services, prefix) == PARTITIONS
    assert retention_days(services, prefix)["transactions"] == 45


def test_no_copies_at_all_are_refused(create: Create) -> None:
    with pytest.raises(UsageError, match="--replication 0"):
        create("--replication", "0")


def test_more_copies_than_brokers_are_refused(create: Create) -> None:
    with pytest.raises(ServiceAwayError, match="INVALID_REPLICATION_FACTOR"):
        create("--replication", "9")


def test_an_absent_kafka_is_told(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudstream.topics._TIMEOUT_S", 1.0)
    with pytest.raises(ServiceAwayError, match="Kafka cannot be reached"):
        create(bootstrap_servers=f"{HOST}:{find_free_port()}")
