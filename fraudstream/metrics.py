"""What a worker says of itself: Prometheus metrics and health.

Base units throughout: ``_seconds``, ``_records``, ``_total``. No label ever holds a value of an
event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from fraudstream import __version__
from fraudstream.errors import Reason, SettingsError, UnavailableError
from fraudstream.pipeline import InputBatch, InputTopics, Processed
from fraudstream.profile import InputPartition

_log = structlog.get_logger("metrics")

#: The loop turns at least every poll time-out; every blocking call in it is bounded below this.
_PROGRESS_MAX_S = 60.0
_STAGE_BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_LATENCY_BUCKETS_S = (
    0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0,
)  # fmt: skip
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_OUTCOMES = ("APPROVE", "REVIEW", "DECLINE")
_PLAIN_COUNTS = {
    "unknown_fields": "Fields that the contract does not name.",
    "key_mismatch": "Transactions whose Kafka key is not their card id.",
    "amount_unknown": "Transactions without an amount in the profiles' currency.",
    "entity_missing": "Times that a transaction did not name an optional entity of a series.",
    "conflicts": "Copies of a payment, in one series, with another content. The first one stands.",
    "labels_too_late": "Labels of payments older than what is kept.",
    "labels_superseded": "Labels that a newer finding already stands against.",
}


class WorkerMetrics:
    """Counts what the loop does (the `fraudstream.worker_parts.Observer`).

    Parameters
    ----------
    topics
        For the names of partitions.
    clock
        Wall time, epoch seconds: latency is counted from the records' Kafka timestamps.
    """

    def __init__(self, topics: InputTopics, clock: Callable[[], float] = time.time) -> None:
        self._topics = topics
        self._clock = clock
        self._looped_at_s = time.monotonic()
        self._is_settled = False
        self.registry = CollectorRegistry()
        self._make_counters()
        self._make_histograms()
        self._make_gauges()
        # Memory, descriptors and CPU time of the process itself, on Linux.
        ProcessCollector(registry=self.registry)

    def _make_counters(self) -> None:
        registry = self.registry

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"fraudstream_{name}", text, labels, registry=registry)

        self._records = counter("records", "Input records.", ("topic_kind", "result"))
        self._decisions = counter("decisions", "Decisions published.", ("outcome",))
        self._alerts = counter("alerts", "Alerts published.")
        self._flags = counter("flags", "Decisions by flag.", ("flag",))
        self._degraded = counter("degraded", "Decisions made without profiles.")
        self._dead_letters = counter("dead_letters", "Dead letters published.", ("reason",))
        self._batches = counter("batches", "Transactions with Kafka.", ("result",))
        self._store_failures = counter("store_failures", "Batches that found no profiles.")
        self._rebuilds = counter("producer_rebuilds", "Producers made anew.")
        self._plain = {name: counter(name, text) for name, text in _PLAIN_COUNTS.items()}
        # A series that is there from the start can be alerted on.
        for outcome in _OUTCOMES:
            self._decisions.labels(outcome)
        for reason in Reason:
            self._dead_letters.labels(reason.value)
        for result in ("committed", "aborted"):
            self._batches.labels(result)

    def _make_histograms(self) -> None:
        self._stages = Histogram(
            "fraudstream_stage_seconds",
            "Time of one micro-batch in each stage.",
            ("stage",),
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self._batch_records = Histogram(
            "fraudstream_batch_records",
            "Records in a micro-batch.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        self._latency = _BulkHistogram(
            "fraudstream_decision_latency_seconds",
            "From a transaction's Kafka timestamp to the commit of its decision.",
            _LATENCY_BUCKETS_S,
        )
        self.registry.register(self._latency)

    def _make_gauges(self) -> None:
        registry = self.registry
        self._lag = Gauge(
            "fraudstream_lag_records",
            "Readable records that are not decided yet.",
            ("topic", "partition"),
            registry=registry,
        )
        self._gap = Gauge(
            "fraudstream_profile_gap_records",
            "Records that the profiles still lack.",
            registry=registry,
        )
        self._ready = Gauge("fraudstream_ready", "1 when ready.", registry=registry)
        Gauge("fraudstream_build_info", "Version.", ("version",), registry=registry).labels(
            __version__
        ).set(1)

    @property
    def is_alive(self) -> bool:
        """Whether the loop makes progress. Kafka or Valkey being away does not stop it."""
        return time.monotonic() - self._looped_at_s < _PROGRESS_MAX_S

    @property
    def is_ready(self) -> bool:
        """Whether the worker has partitions, and Kafka answers."""
        return self.is_alive and self._is_settled

    def looped(self, *, is_settled: bool) -> None:
        """Note that the loop is alive, and whether it has partitions and Kafka answers."""
        self._looped_at_s = time.monotonic()
        self._is_settled = is_settled
        self._ready.set(is_settled)

    def committed(self, batch: InputBatch, processed: Processed, publish_s: float) -> None:
        """Note that a batch is out."""
        self._batches.labels("committed").inc()
        self._batch_records.observe(len(batch.records))
        for stage, seconds in processed.stage_seconds.items():
            self._stages.labels(stage).observe(seconds)
        self._stages.labels("publish").observe(publish_s)
        topic, now_ms = self._topics.transactions, self._clock() * 1000
        times_ms = [record.timestamp_ms for record in batch.records if record.topic == topic]
        self._latency.observe(np.maximum(now_ms - np.array(times_ms), 0.0) / 1000)
        self._count(processed.counts)
        if processed.store_error is not None:
            self._store_failures.inc()

    def aborted(self, error: UnavailableError) -> None:
        """Note that a batch was not committed and will be read again."""
        del error  # logged where it was caught
        self._batches.labels("aborted").inc()

    def rebuilt(self) -> None:
        """Note that the producer was made anew."""
        self._rebuilds.inc()

    def lag(self, records: Mapping[InputPartition, int], gap_records: int) -> None:
        """Note how far behind the worker is, and how many records its profiles lack."""
        self._lag.clear()
        for partition, count in records.items():
            topic = self._topics.topic(partition)
            self._lag.labels(topic, str(partition.partition)).set(count)
        self._gap.set(gap_records)

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            kind, _, value = name.partition("_")
            if name == "alerts":
                self._alerts.inc(count)
            elif kind == "outcome":
                self._decisions.labels(value).inc(count)
            elif kind == "flag":
                self._flags.labels(value).inc(count)
            elif name.startswith("dead_letter_"):
                self._dead_letters.labels(name.removeprefix("dead_letter_")).inc(count)
            elif name in self._plain:
                self._plain[name].inc(count)
        self._degraded.inc(counts.get("flag_degraded", 0))
        self._records.labels("transactions", "decided").inc(counts.get("transactions", 0))
        self._records.labels("labels", "applied").inc(counts.get("labels", 0))
        self._records.labels("any", "dead_letter").inc(counts.get("dead_letters", 0))


class _BulkHistogram(Collector):
    """A histogram that takes many observations at once: the client's own takes 1.5 µs for each."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name, self._text = name, text
        self._edges = np.array(buckets)
        self._counts = np.zeros(len(buckets) + 1, dtype=np.int64)
        self._sum = 0.0

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count n values, shape (n,); one that equals an edge is below it."""
        places = np.searchsorted(self._edges, values, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """Give what Prometheus reads."""
        edges = [*map(str, self._edges.tolist()), "+Inf"]
        counts = np.cumsum(self._counts).tolist()
        buckets = list(zip(edges, counts, strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets, self._sum)


class HealthServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from a thread of its own."""

    def __init__(self, metrics: WorkerMetrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._metrics_app = make_wsgi_app(metrics.registry)
        try:
            self._server = make_server(
                host, port, self._app, server_class=_HealthWsgiServer, handler_class=_QuietHandler
            )
        except OSError as error:
            raise SettingsError(
                f"metrics cannot be served on {host}:{port} ({error.strerror}): choose another "
                "metrics.port (worker n serves on port + n), or 0 to turn it off"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics_app(environ, start_response)
            return body
        states = {"/healthz": self._metrics.is_alive, "/readyz": self._metrics.is_ready}
        if path not in states:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics /healthz /readyz\n"]
        status = "200 OK" if states[path] else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain")])
        return [b"ok\n" if states[path] else b"not yet\n"]


class _HealthWsgiServer(ThreadingMixIn, WSGIServer):
    """A thread for each request: one silent client must not keep the others away."""

    daemon_threads = True
    block_on_close = False


class _QuietHandler(WSGIRequestHandler):
    """Does not write a line for every scrape, nor wait for ever for a request."""

    timeout = 5

    def log_message(self, format: str, *args: object) -> None:
        _log.debug("request", line=format % args)
