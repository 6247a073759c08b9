"""The local stack, with its real processes: it comes up, bears killing, never stays behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)
from processes import is_gone
from services import Services, refuse
from typer.testing import CliRunner

from fraudstream.cli.local import app
from fraudstream.errors import ExitCode, LocalStackError, UsageError
from fraudstream.local import jars
from fraudstream.local import stack as stack_module
from fraudstream.local.folder import StateFolder
from fraudstream.local.ready import HOST, find_free_port, is_listening, wait_until
from fraudstream.local.stack import LocalStack, local_stack

pytestmark = pytest.mark.services

CLIENT_TIMEOUT_S = 15.0
GONE_TIMEOUT_S = 10.0


def valkey_client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, protocol=2, socket_timeout=0.5, socket_connect_timeout=0.5, retry=None
    )


def make_topic(bootstrap_servers: str) -> str:
    name = f"local-stack-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, 1, 1)]).values():
        future.result(CLIENT_TIMEOUT_S)
    return name


def publish(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(CLIENT_TIMEOUT_S)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(CLIENT_TIMEOUT_S)


def first_value(bootstrap_servers: str, topic: str) -> bytes | None:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{topic}-{uuid.uuid4().hex[:8]}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    try:
        message = consumer.poll(CLIENT_TIMEOUT_S)
        return message.value() if message is not None and message.error() is None else None
    finally:
        consumer.close()


# --- what it is like while it runs


def test_both_servers_answer(services: Services) -> None:
    topic = make_topic(services.bootstrap_servers)
    publish(services.bootstrap_servers, topic, b"paid")
    assert first_value(services.bootstrap_servers, topic) == b"paid"
    with valkey_client(services.valkey_url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_broker_has_our_settings_and_the_callers(stack: LocalStack) -> None:
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    (future,) = admin.describe_configs([resource]).values()
    settings = {name: entry.value for name, entry in future.result(CLIENT_TIMEOUT_S).items()}
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["log.retention.ms"] == "-1"
    assert settings["message.max.bytes"] == str(12 * 1024 * 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not this machine's")
def test_only_this_machine_can_connect(stack: LocalStack) -> None:
    status = stack.status()
    record = StateFolder(stack.state_dir).read_record()
    assert record is not None
    for port in (record.kafka_port, record.controller_port, record.valkey_port):
        # Somebody else may still bind the port on another address of this machine.
        with socket.socket() as other:
            other.bind(("127.0.0.2", port))
    assert status.is_kafka_answering
    assert status.is_valkey_answering


def test_a_killed_valkey_comes_back_empty_on_its_port(stack: LocalStack) -> None:
    url = stack.valkey_url
    with valkey_client(url) as client:
        client.set("local-stack", "here")
        stack.kill_valkey()
        assert not stack.status().is_valkey_answering
        with pytest.raises(redis.ConnectionError):
            client.ping()
        stack.start_valkey()
        assert stack.valkey_url == url
        assert client.dbsize() == 0


def test_a_snapshot_can_be_put_back(stack: LocalStack, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot.rdb"
    with valkey_client(stack.valkey_url) as client:
        client.set("local-stack", "old")
        client.save()
        shutil.copyfile(stack.state_dir / "valkey" / "dump.rdb", snapshot)
        client.set("local-stack", "new")
        stack.kill_valkey()
        stack.start_valkey(snapshot=snapshot)
        assert client.get("local-stack") == b"old"
        stack.kill_valkey()
        stack.start_valkey()
        assert client.dbsize() == 0


def test_a_paused_valkey_hangs_and_goes_on(stack: LocalStack) -> None:
    with valkey_client(stack.valkey_url) as client:
        client.set("local-stack", "here")
        stack.pause_valkey()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        stack.resume_valkey()
        assert client.get("local-stack") == b"here"


def test_a_killed_broker_comes_back_with_its_records(stack: LocalStack) -> None:
    address = stack.bootstrap_servers
    topic = make_topic(address)
    publish(address, topic, b"before")
    stack.kill_kafka()
    assert not stack.status().is_kafka_answering
    stack.start_kafka()
    assert stack.bootstrap_servers == address
    assert first_value(address, topic) == b"before"


def test_revive_puts_everything_right(stack: LocalStack) -> None:
    stack.kill_valkey()
    stack.pause_kafka()
    stack.revive()
    assert wait_until(lambda: stack.status().is_kafka_answering, CLIENT_TIMEOUT_S)
    assert stack.status().is_valkey_answering


def test_what_runs_is_not_started_twice(stack: LocalStack) -> None:
    with pytest.raises(LocalStackError, match="valkey runs already"):
        stack.start_valkey()


# --- coming up and going away


def test_a_second_stack_in_the_same_folder_is_refused(stack: LocalStack) -> None:
    sentence = f"already runs in {re.escape(str(stack.state_dir))} .*process {os.getpid()}\\b"
    with pytest.raises(LocalStackError, match=sentence), local_stack(stack.state_dir):
        pytest.fail("two stacks in one folder")
    assert stack.status().is_kafka_answering


def test_nothing_is_left_of_a_temporary_stack() -> None:
    with local_stack() as stack:
        status = stack.status()
        assert stack.state_dir.is_dir()
    assert not stack.state_dir.exists()
    assert is_gone(status.kafka_pid)
    assert is_gone(status.valkey_pid)
    stack.stop()
    with pytest.raises(LocalStackError, match="was stopped"):
        stack.start_kafka()
    assert not stack.state_dir.exists()


def test_a_taken_port_leads_to_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((HOST, find_free_port()))
        other.listen()
        taken = other.getsockname()[1]
        given = iter([taken, find_free_port(), taken, find_free_port()])
        monkeypatch.setattr(stack_module, "find_free_port", lambda: next(given, find_free_port()))
        with local_stack(tmp_path) as stack:
            assert stack.status().is_kafka_answering
            assert stack.status().is_valkey_answering
            assert str(taken) not in stack.bootstrap_servers + stack.valkey_url


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    properties = {"log.retention.ms": "nonsense"}
    log = re.escape(str(tmp_path / "kafka.log"))
    with (
        pytest.raises(LocalStackError, match=rf"(?s){log} ends with.*nonsense") as raised,
        local_stack(tmp_path, kafka_properties=properties),
    ):
        pytest.fail("started with nonsense")
    assert raised.value.exit_code == ExitCode.LOCAL_STACK
    assert not StateFolder(tmp_path).is_taken()


def test_java_runs_the_broker_as_it_is_told(tmp_path: Path) -> None:
    """What Java says of a flag that it does not know shows that it was given ours."""
    with (
        pytest.raises(LocalStackError, match="NoSuchFlag"),
        local_stack(tmp_path, kafka_jvm=("-XX:+NoSuchFlag",)),
    ):
        pytest.fail("started with a flag that Java does not know")


PARENT = """
import os, sys, time
from pathlib import Path
from fraudstream.local.stack import local_stack

with local_stack(Path(sys.argv[1])) as stack:
    status = stack.status()
    # A copy of this process that lives on must not hold the servers alive.
    child = os.fork() or time.sleep(600)
    print(child, status.guard_pid, status.kafka_pid, status.valkey_pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a process with a stack; give the ids of its fork, the guard, broker and Valkey."""
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        try:
            yield process, pids
        finally:
            process.kill()
            os.kill(pids[0], signal.SIGKILL)


def test_everything_goes_with_a_killed_parent(
    parent: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    process, (_, *pids) = parent
    process.kill()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids), GONE_TIMEOUT_S)
    assert not StateFolder(tmp_path).is_taken()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_servers_go_with_a_killed_guard(
    parent: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    _, (_, guard_pid, *pids) = parent
    os.kill(guard_pid, signal.SIGKILL)
    assert wait_until(lambda: all(is_gone(pid) for pid in pids), GONE_TIMEOUT_S)
    assert wait_until(lambda: not StateFolder(tmp_path).is_taken(), GONE_TIMEOUT_S)


# --- the download


def test_without_network_it_says_what_to_do(tmp_path: Path) -> None:
    nowhere = {"nowhere": f"http://{HOST}:{find_free_port()}"}
    with pytest.raises(LocalStackError) as raised:
        jars.resolve_runtime(lambda _: None, cache_dir=tmp_path, repositories=nowhere)
    message = str(raised.value)
    assert "could not be downloaded (45 MB, needed once): ConnectionRefusedError" in message
    assert "Connect to the network and run the same command again" in message
    assert str(tmp_path) in message
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("*.jar"))


def test_a_jar_with_other_bytes_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = jars.resolve_runtime(lambda _: None)
    victim = tmp_path / "repository" / f"kafka-clients-{jars.KAFKA_VERSION}.jar"
    victim.parent.mkdir()
    attempts = []

    def resolve_jars(_builder: object, *, is_rebuild: bool = False) -> dict[str, Path]:
        attempts.append(is_rebuild)
        victim.write_bytes(b"something else")
        return {jar.name: jar for jar in runtime.class_path} | {victim.name: victim}

    monkeypatch.setattr(jars, "_resolve_jars", resolve_jars)
    with pytest.raises(LocalStackError, match=rf"{re.escape(victim.name)} .*SHA-256 differs"):
        jars.resolve_runtime(lambda _: None, cache_dir=tmp_path)
    assert attempts == [False, True], "a damaged file is downloaded once more"


# --- the command


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`fraudstream local` in a folder of its own; what it prints to standard output."""

    def run(command: str, *options: str) -> str:
        words = [command, "--state-dir", str(tmp_path), *options]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    yield run
    run("down")


def test_up_status_down(local: Callable[..., str], tmp_path: Path) -> None:
    exports = local("up", "--env", "--kafka-property", "message.max.bytes=2097152")
    status: dict[str, Any] = json.loads(local("status", "--json"))
    assert status["is_kafka_answering"]
    assert status["is_valkey_answering"]
    assert exports == local("status", "--env")
    assert exports.splitlines() == [
        f"export FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS={status['bootstrap_servers']}",
        f"export FRAUDSTREAM_VALKEY__URL={status['valkey_url']}",
    ]
    with pytest.raises(LocalStackError, match=f"held by process {status['guard_pid']}"):
        local("up")
    topic = make_topic(status["bootstrap_servers"])

    assert local("down") == ""
    assert is_gone(status["kafka_pid"])
    assert is_gone(status["valkey_pid"])
    with pytest.raises(LocalStackError, match="nothing runs in"):
        local("status")

    plain = local("up")
    assert status["bootstrap_servers"] in plain, "the same ports again"
    assert status["valkey_url"] in plain
    admin = AdminClient({"bootstrap.servers": status["bootstrap_servers"]})
    assert topic in admin.list_topics(timeout=CLIENT_TIMEOUT_S).topics


def test_up_outlives_the_process_and_the_pipe_it_was_started_with(
    local: Callable[..., str], tmp_path: Path
) -> None:
    """As in `eval "$(fraudstream local up --env)"`, which waits for the end of the output."""
    code = "from fraudstream.cli.local import app; app()"
    command = [sys.executable, "-c", code, "up", "--state-dir", str(tmp_path), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    status = json.loads(finished.stdout)
    assert "starting Kafka" in finished.stderr
    assert json.loads(local("status", "--json")) == status
    local("down")
    assert not is_listening(int(status["bootstrap_servers"].rpartition(":")[2]))


def test_down_ends_servers_whose_guard_is_gone(
    local: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As left behind on macOS, where nothing ends the servers of a guard that was killed."""
    monkeypatch.setattr("fraudstream.local.status.STOP_TIMEOUT_S", 0.5)
    local("up")
    status = json.loads(local("status", "--json"))
    os.kill(status["guard_pid"], signal.SIGSTOP)
    local("down")
    assert is_gone(status["kafka_pid"])
    assert is_gone(status["valkey_pid"])


def test_down_and_status_where_nothing_ever_ran(local: Callable[..., str], tmp_path: Path) -> None:
    assert local("down") == ""
    with pytest.raises(LocalStackError, match="fraudstream local up"):
        local("status")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--json", "--env"], ["--kafka-property", "message.max.bytes"]])
def test_words_that_make_no_sense(local: Callable[..., str], words: list[str]) -> None:
    with pytest.raises(UsageError):
        local("up", *words)


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_help_teaches(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    assert "Example" in text
    assert "Next" in text


# --- what the tests do without it


def test_a_missing_service_is_a_skip_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_REQUIRE", "reference-data")
    with pytest.raises(pytest.skip.Exception, match="services: no network"):
        refuse("services", "no network")


def test_a_missing_service_is_a_failure_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_REQUIRE", "reference-data, services")
    with pytest.raises(pytest.fail.Exception, match=r"services, required by .*: no network"):
        refuse("services", "no network")
