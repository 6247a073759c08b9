"""A running worker has its decisions audited now and then, by a process of its own.

    worker, slot 0 ── thread: waits, looks ──▶ fraudstream feature-set audit --json   (niced)
                  ◀── counts by feature ──────┘    reads Kafka, ends with its parent

Nothing of it is done in the worker's own process, whose one interpreter lock decides payments. An
audit that fails is logged and counted, and the next one looks at its decisions too.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from fraudstream.errors import ExitCode
from fraudstream.event import format_time

_log = structlog.get_logger("audit")

#: The newest decisions are left for the next time: what came at the same moment is still coming in.
_SETTLED_AFTER_MS: Final = 10_000
_POLL_INTERVAL_S: Final = 0.5
#: Long enough to read a month of a busy topic.
_RUN_MAX_S: Final = 6 * 3_600.0
_STOP_TIMEOUT_S: Final = 5.0
_ENDED_WELL: Final = frozenset({ExitCode.OK, ExitCode.PARITY})


class AuditMetrics:
    """What audits found, for Prometheus.

    Parameters
    ----------
    registry
        The worker's.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.features = Counter(
            "fraudstream_parity_features",
            "Features that were computed again from the log, by what came of it.",
            ("feature", "result"),
            registry=registry,
        )
        self.decisions = Counter(
            "fraudstream_parity_decisions",
            "Decisions whose features were computed again.",
            registry=registry,
        )
        self.failures = Counter(
            "fraudstream_parity_failures", "Audits that came to nothing.", registry=registry
        )
        self.last_run = Gauge(
            "fraudstream_parity_last_run_timestamp_seconds",
            "When the last audit ended well.",
            registry=registry,
        )


@dataclass(frozen=True, slots=True)
class WatchRules:
    """How often a worker has its decisions audited.

    Parameters
    ----------
    interval_s
        From the end of one audit to the beginning of the next.
    sample
        Which share of the decisions.
    arguments
        What the command is given beside that, such as the settings file.
    """

    interval_s: float
    sample: float
    arguments: tuple[str, ...] = ()


class _Found(msgspec.Struct):
    """What is read of the command's JSON."""

    decisions: int
    features: dict[str, dict[str, int]]


class AuditWatch:
    """Starts the command at intervals, and counts what it found.

    Parameters
    ----------
    rules
        How often, and of what.
    metrics
        Where it is counted.
    """

    def __init__(self, rules: WatchRules, metrics: AuditMetrics) -> None:
        self._rules = rules
        self._metrics = metrics
        self._since_ms = _now_ms()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to wait for the first audit."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and an audit that is under way."""
        self._stopping.set()
        self._thread.join(2 * _STOP_TIMEOUT_S)

    def _watch(self) -> None:
        while not self._stopping.wait(self._rules.interval_s):
            until_ms = _now_ms() - _SETTLED_AFTER_MS
            if until_ms > self._since_ms and self._audit(until_ms):
                self._since_ms = until_ms

    def _audit(self, until_ms: int) -> bool:
        """Audit what was decided since the last time; say whether that succeeded."""
        command = [sys.executable, "-m", "fraudstream", "feature-set", "audit", "--json"]
        command += ["--sample", repr(self._rules.sample), "--background"]
        command += ["--since", format_time(self._since_ms), "--until", format_time(until_ms)]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            code = self._run([*command, *self._rules.arguments], output, errors)
            if code is None:
                return False
            found = _decoded(_text(output)) if code in _ENDED_WELL else None
            if found is None:
                self._metrics.failures.inc()
                _log.warning("audit_failed", exit_code=code, error=_last_line(_text(errors)))
                return False
        self._count(found)
        return True

    def _run(self, command: Sequence[str], output: IO[bytes], errors: IO[bytes]) -> int | None:
        """Run the command to its end; None if the worker stops first."""
        # It ends when its standard input does, which happens even if this process is killed.
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=output, stderr=errors
        )
        deadline_s = time.monotonic() + _RUN_MAX_S
        try:
            while process.poll() is None and time.monotonic() < deadline_s:
                if self._stopping.wait(_POLL_INTERVAL_S):
                    return None
            return process.poll() if process.returncode is not None else int(ExitCode.INTERNAL)
        finally:
            _end(process)

    def _count(self, found: _Found) -> None:
        self._metrics.decisions.inc(found.decisions)
        differing: dict[str, int] = {}
        for feature, results in found.features.items():
            for result, count in results.items():
                self._metrics.features.labels(feature, result).inc(count)
            if results.get("mismatch"):
                differing[feature] = results["mismatch"]
        self._metrics.last_run.set_to_current_time()
        if differing:
            _log.error("parity_broken", decisions=found.decisions, mismatches=differing)
        else:
            _log.info("audited", decisions=found.decisions)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _decoded(text: bytes) -> _Found | None:
    try:
        return msgspec.json.decode(text, type=_Found)
    except msgspec.DecodeError:
        return None


def _text(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _now_ms() -> int:
    return int(time.time() * 1000)
