"""A user's mistake is one sentence and an exit code: never a traceback, never a secret."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from fraudstream.app import kafka_access
from fraudstream.bundle import load_bundle
from fraudstream.errors import BundleError, ExitCode, LocalStackError, SettingsError, UsageError
from fraudstream.event import Record
from fraudstream.export import files as export_files
from fraudstream.export.columns import TopicKind
from fraudstream.local.folder import StateFolder
from fraudstream.settings import load_settings

CANARY = "s3cr3t-canary"
#: Nobody listens there.
NOWHERE = "127.0.0.1:1"


def invoke(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fraudstream", *(str(word) for word in words)],
        env={**os.environ, "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": NOWHERE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(ended: subprocess.CompletedProcess[str], code: ExitCode) -> str:
    """Give the one sentence on stderr."""
    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("fraudstream: ")
    assert CANARY not in ended.stderr + ended.stdout
    return line


# ------------------------------------------------------------------ kafka.properties


@pytest.mark.parametrize(
    "words",
    [
        ["config", "check"],
        ["topics", "create"],
        ["run"],
        ["export", "alerts", "--out", "out.csv"],
        ["replay", "payments.csv"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_names_a_property_that_nobody_knows(words: list[str], tmp_path: Path) -> None:
    payments = tmp_path / "payments.csv"
    payments.write_text(
        "transaction_id,event_time,card_id,terminal_id,amount_minor,currency\n"
        "t1,2026-01-01T00:00:00Z,c1,p1,100,EUR\n"
    )
    ended = invoke(
        *[tmp_path / word if word.endswith(".csv") else word for word in words],
        FRAUDSTREAM_KAFKA__PROPERTIES=f'{{"sasl.pasword": "{CANARY}"}}',
        FRAUDSTREAM_METRICS__PORT="0",
    )
    line = sentence(ended, ExitCode.SETTINGS)
    assert "kafka.properties: the Kafka client knows no property sasl.pasword;" in line
    assert not ended.stdout


SASL = {"security.protocol": "SASL_SSL"}
OIDC = SASL | {
    "sasl.mechanism": "OAUTHBEARER",
    "sasl.oauthbearer.method": "oidc",
    "sasl.oauthbearer.client.id": "worker",
    "sasl.oauthbearer.client.secret": CANARY,
}


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"client.id": CANARY, "client.id.x": CANARY}, "knows no property client.id.x;"),
        ({"client.rack": "a", "two words": CANARY}, "knows no property two words;"),
        ({"socket.timeout.ms": CANARY}, "refuses the value of socket.timeout.ms;"),
        ({"client.rack": "a", "debug": f"broker,{CANARY}"}, "refuses the value of debug;"),
        ({"security.protocol": CANARY}, "refuses the value of security.protocol;"),
        # The library names it request.required.acks.
        ({"client.rack": "a", "acks": CANARY}, "refuses the value of acks;"),
        # Only one of the two kinds of client says no.
        ({"max.poll.interval.ms": "1"}, "refuses the value of max.poll.interval.ms;"),
        ({"message.timeout.ms": "30000"}, "refuses the value of message.timeout.ms;"),
        ({"error_cb": CANARY}, "refuses the value of error_cb;"),
        ({"default.topic.config": CANARY}, "refuses the value of default.topic.config;"),
        (
            {"security.protocol": "SSL", "ssl.ca.location": f"/nowhere/{CANARY}"},
            "cannot use the file in ssl.ca.location:",
        ),
        (
            {"security.protocol": "SSL", "ssl.certificate.location": __file__},
            "cannot use the file in ssl.certificate.location:",
        ),
        ({"security.protocol": "SSL", "ssl.key.pem": CANARY}, "refuses the value of ssl.key.pem;"),
        (SASL | {"sasl.mechanism": CANARY}, "sasl.mechanism): set sasl.mechanism to PLAIN"),
        (
            SASL | {"sasl.mechanism": "PLAIN", "sasl.username": CANARY},
            "the Kafka client also needs sasl.password",
        ),
        (OIDC, "the Kafka client also needs sasl.oauthbearer.token.endpoint.url"),
    ],
)
def test_what_the_kafka_client_refuses_is_named_without_its_value(
    properties: dict[str, str], words: str
) -> None:
    settings = load_settings().model_copy(
        update={"kafka": load_settings().kafka.model_copy(update={"properties": properties})}
    )
    with pytest.raises(SettingsError) as caught:
        kafka_access(settings)
    assert str(caught.value).startswith("kafka.properties: the Kafka client ")
    assert words in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"client.rack": "a", "fetch.min.bytes": "1", "linger.ms": "5"},
        SASL | {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": CANARY},
        OIDC | {"sasl.oauthbearer.token.endpoint.url": f"http://{NOWHERE}/token"},
    ],
    ids=len,
)
def test_good_properties_are_passed_on_without_waiting_for_anybody(
    properties: dict[str, str],
) -> None:
    kafka = load_settings().kafka.model_copy(update={"properties": properties})
    started_s = time.monotonic()
    access = kafka_access(load_settings().model_copy(update={"kafka": kafka}))
    assert time.monotonic() - started_s < 2.0
    assert access.properties == properties


# ------------------------------------------------------------------ --state-dir


def test_a_state_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("not a folder")
    for attempt in (StateFolder(file).lock, StateFolder(file).is_taken):
        with pytest.raises(LocalStackError, match=r"README.md .*\(it is a file, not a folder"):
            attempt()
    with pytest.raises(LocalStackError, match="it is a file"):
        StateFolder(file).read_record()
    assert "it is a file" in sentence(
        invoke("local", "down", "--state-dir", file), ExitCode.LOCAL_STACK
    )


def test_a_state_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalStackError, match=r"Not a directory.*--state-dir"):
        StateFolder(tmp_path / "file" / "local").lock()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="nothing else refuses root a folder")
def test_a_state_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(LocalStackError, match=r"/proc/x .*--state-dir"):
        StateFolder(Path("/proc/x")).lock()


def test_a_state_folder_without_rights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    for attempt in (StateFolder(tmp_path).lock, StateFolder(tmp_path).is_taken):
        with pytest.raises(LocalStackError, match=r"Permission denied.*look at its rights"):
            attempt()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"guard_pid": 1}', "\0"])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(LocalStackError, match=r"stack.json is damaged: delete it"):
        StateFolder(tmp_path).read_record()


def test_down_says_nothing_of_stopping_where_nothing_runs(tmp_path: Path) -> None:
    ended = invoke("local", "down", "--state-dir", tmp_path / "nowhere")
    assert ended.returncode == ExitCode.OK
    assert ended.stderr == f"nothing runs in {tmp_path / 'nowhere'}\n"


# ------------------------------------------------------------------ export --out

RECORD = Record("alerts", 0, 0, 1_700_000_000_000, b"c1", b"{}")


def unread() -> Iterator[Sequence[Record]]:
    yield pytest.fail("something was read")


def test_an_export_into_a_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "d.csv"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"d.csv is a folder: give the name of a file"):
        export_files.write_file(unread(), "alerts", TopicKind.ALERTS, folder)
    assert list(tmp_path.iterdir()) == [folder]
    # Kafka is not even looked for: its absence would be another exit code.
    line = sentence(invoke("export", "alerts", "-o", folder), ExitCode.USAGE)
    assert "is a folder" in line


@pytest.mark.parametrize("moment", ["open", "write", "close", "rename"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_export_that_fails_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    whole = export_files._WRITERS[suffix]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def open_writer(file: Path, schema: pa.Schema) -> object:
        if moment == "open":
            full()
        writer = whole(file, schema)
        if moment == "write":
            monkeypatch.setattr(type(writer), "write", full)
        if moment == "close":
            close = writer.close

            def close_late(_: object) -> None:
                close()
                full()

            monkeypatch.setattr(type(writer), "close", close_late)
        return writer

    monkeypatch.setitem(export_files._WRITERS, suffix, open_writer)
    if moment == "rename":
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=r"out\.\w+: cannot be written \(No space left"):
        export_files.write_file(iter([[RECORD]]), "alerts", TopicKind.ALERTS, out)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _ctrl_c_interrupts() -> Iterator[None]:
    """Give SIGINT its usual meaning: in the background of a shell it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_interrupts")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_export_that_is_ended_by_a_signal_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    def slices() -> Iterator[Sequence[Record]]:
        yield [RECORD]
        assert [path.name for path in tmp_path.iterdir()] == [".out.csv.unfinished"]
        os.kill(os.getpid(), number)
        time.sleep(5)
        yield [RECORD]

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as caught:
        export_files.write_file(slices(), "alerts", TopicKind.ALERTS, tmp_path / "out.csv")
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_export_works_in_another_thread_too(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = (iter([[RECORD]]), "alerts", TopicKind.ALERTS, out)
    thread = threading.Thread(target=export_files.write_file, args=arguments)
    thread.start()
    thread.join()
    assert len(out.read_text().splitlines()) == 1


# ------------------------------------------------------------------ standard output

COMMANDS = [["config", "show"], ["config", "show", "--json"], ["--help"], ["--version"]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_sentence(
    words: list[str], unbuffered: str
) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "fraudstream", *words],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == ExitCode.INTERNAL
    assert ended.stderr == (
        "fraudstream: the output cannot be written (No space left on device): send it elsewhere\n"
    )


@pytest.mark.parametrize("words", COMMANDS[:3], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "fraudstream", *words],
            stdout=write_fd,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write_fd)
    assert ended.stderr == b""


# ------------------------------------------------------------------ the bundle


def test_a_file_given_as_a_bundle_is_told_apart_from_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no bundle")
    with pytest.raises(BundleError, match=r"this is a file, and a bundle is a folder"):
        load_bundle(tmp_path / "README.md")
    with pytest.raises(BundleError, match=r"there is no such folder"):
        load_bundle(tmp_path / "nowhere")
