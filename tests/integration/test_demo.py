"""The demo from the outside: it ends by itself, counts, and says so when the count is wrong."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import children_of, is_gone

from fraudstream.demo.keys import pressed_keys
from fraudstream.errors import ExitCode
from fraudstream.local.ready import wait_until

pytestmark = pytest.mark.services

#: A start on a busy machine, the stream, and a count.
TIMEOUT_S = 150
EXIT_TIMEOUT_S = 30.0

#: A run whose topics somebody tampers with before they are counted.
TAMPERED = """
import sys
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
import fraudstream.cli, fraudstream.demo.run as run

TOPIC = "fraudstream.decisions"

def first_decision(access):
    consumer = Consumer({"bootstrap.servers": access.bootstrap_servers, "group.id": "tamper"})
    consumer.assign([TopicPartition(TOPIC, n, 0) for n in range(6)])
    message = consumer.poll(30)
    consumer.close()
    return message

def double(access):
    found = first_decision(access)
    producer = Producer({"bootstrap.servers": access.bootstrap_servers})
    producer.produce(TOPIC, found.value(), found.key(), headers=found.headers())
    assert producer.flush(30) == 0

def remove(access):
    found = first_decision(access)
    end = TopicPartition(TOPIC, found.partition(), found.offset() + 1)
    admin = AdminClient({"bootstrap.servers": access.bootstrap_servers})
    for future in admin.delete_records([end]).values():
        future.result(30)

honest, tamper = run.run_demo, globals()[sys.argv.pop(1)]
run.run_demo = lambda plan, folder: honest(plan, folder, tamper)
fraudstream.cli.main()
"""


def run_demo(
    folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "fraudstream")
) -> tuple[int, str, str]:
    """Run it, with its temporary folders in a folder of ours."""
    done = subprocess.run(
        [sys.executable, *program, "demo", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.timeout(TIMEOUT_S)
def test_a_short_demo_survives_everything_and_counts(tmp_path: Path) -> None:
    arguments = ("--seconds", "12", "--rate", "100", "--seed", "7", "--json")
    code, out, err = run_demo(tmp_path, *arguments)
    assert code == ExitCode.OK, err
    summary = json.loads(out)
    counted = summary["counted"]
    assert summary["problems"] == []
    assert counted["decisions"] == 1_200
    assert counted["dead_letters"] == 17
    assert counted["bad_labels"] == 1
    assert counted["events"] == 1_217
    assert counted["lost"] == counted["doubled"] == counted["invented"] == 0
    assert counted["alerts"] > 0
    assert sum(summary["dead_letters"].values()) == 17
    kinds = {fault["kind"]: fault for fault in summary["faults"]}
    assert set(kinds) == {"worker", "valkey", "bad records"}
    assert kinds["worker"]["recovered_s"] > 0
    assert kinds["valkey"]["away_s"] > 4.5
    assert summary["degraded"] > 0
    assert 0 < summary["fraud"]["caught"] <= summary["fraud"]["frauds"]
    assert summary["latency_ms"][0] > 0
    assert "killed with kill -9" in err
    assert "Valkey is back, empty" in err
    assert "bad records sent" in err
    assert "\x1b" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(TIMEOUT_S)
def test_the_words_and_the_picture(tmp_path: Path) -> None:
    """The picture must need nothing from anywhere: no fonts, no addresses."""
    picture = tmp_path / "pictures" / "demo.svg"
    arguments = ("--seconds", "6", "--rate", "100", "--no-faults", "--svg", str(picture))
    code, out, err = run_demo(tmp_path, *arguments)
    assert code == ExitCode.OK, err
    assert "600 = 600 decisions + 0 dead letters" in out
    assert "Every event was answered exactly once." in out
    assert "Takes about 21 s" in err.partition("making the payments")[0]
    assert "killed" not in err
    drawn = picture.read_text("utf-8")
    assert drawn.startswith("<svg")
    assert "url(" not in drawn.replace("url(#", "")


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("tampering", "sentence"),
    [
        ("double", "1 answers came twice"),
        ("remove", "events were neither decided nor dead-lettered"),
    ],
)
def test_a_wrong_count_is_an_exit_code(tmp_path: Path, tampering: str, sentence: str) -> None:
    arguments = ("--seconds", "6", "--rate", "50", "--no-faults")
    code, out, err = run_demo(tmp_path, *arguments, program=("-c", TAMPERED, tampering))
    assert code == ExitCode.COUNT, err
    assert sentence in err.splitlines()[-1]
    assert "The count is wrong" in out
    kept = Path(err.partition("log is kept: ")[2].splitlines()[0])
    assert "worker_started" in kept.read_text("utf-8")


def test_there_must_be_a_bundle(tmp_path: Path) -> None:
    code, _, err = run_demo(tmp_path, "--bundle", str(tmp_path / "nowhere"))
    assert code == ExitCode.USAGE
    assert "there is no model bundle at" in err


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_stopped_in_a_terminal_it_leaves_nothing_behind(number: signal.Signals, code: int) -> None:
    main_fd, terminal_fd = pty.openpty()
    before = termios.tcgetattr(terminal_fd)
    demo = subprocess.Popen(
        [sys.executable, "-m", "fraudstream", "demo", "--seconds", "60", "--rate", "50"],
        stdin=terminal_fd,
        stdout=terminal_fd,
        stderr=terminal_fd,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    try:
        shown = b"".join(read_until(main_fd, b"what happened"))
        os.write(main_fd, b"b")
        shown += b"".join(read_until(main_fd, b"dead letters now"))
        assert b"k kills a worker" in shown
        below = children_of(demo.pid)
        assert len(below) >= 5  # two workers, the guard, Kafka, Valkey
        demo.send_signal(number)
        rest = b"".join(read_until(main_fd, b"\x1b[?25h"))  # the cursor is back
        assert demo.wait(EXIT_TIMEOUT_S) == code
        assert wait_until(lambda: all(map(is_gone, below)), EXIT_TIMEOUT_S)
        assert termios.tcgetattr(terminal_fd) == before
        assert b"log is kept" not in rest
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        os.close(main_fd)
        os.close(terminal_fd)


def read_until(fd: int, end: bytes) -> Iterator[bytes]:
    """Read what a terminal shows until something is on it."""
    seen = b""
    deadline_s = time.monotonic() + TIMEOUT_S / 2
    while end not in seen:
        assert time.monotonic() < deadline_s, seen[-2_000:]
        if select.select([fd], [], [], 0.5)[0]:
            part = os.read(fd, 65_536)
            seen += part
            yield part


def test_keys_come_one_by_one_and_the_terminal_is_as_it_was() -> None:
    main_fd, terminal_fd = pty.openpty()
    before = termios.tcgetattr(terminal_fd)
    try:
        with pytest.raises(KeyboardInterrupt):
            _press_and_interrupt(main_fd, terminal_fd)
        assert termios.tcgetattr(terminal_fd) == before
    finally:
        os.close(main_fd)
        os.close(terminal_fd)


def _press_and_interrupt(main_fd: int, terminal_fd: int) -> None:
    with pressed_keys(terminal_fd) as keys:
        os.write(main_fd, b"kv")
        assert [keys.get(timeout=5), keys.get(timeout=5)] == ["k", "v"]
        raise KeyboardInterrupt


def test_without_a_terminal_no_key_ever_comes() -> None:
    read_fd, write_fd = os.pipe()
    try:
        with pressed_keys(read_fd) as keys:
            os.write(write_fd, b"k")
            assert keys.empty()
    finally:
        os.close(read_fd)
        os.close(write_fd)
