"""Puts the parts together: the only file that knows the concrete classes.

Settings come in, small frozen objects go out to each part, and a worker comes back.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import yaml
from pydantic import ValidationError

from fraudstream.adapters.kafka import GroupMembership, KafkaAccess
from fraudstream.adapters.kafka_at_least_once import AtLeastOncePublisher
from fraudstream.adapters.kafka_bulk import KafkaBulk
from fraudstream.adapters.kafka_log import KafkaLog
from fraudstream.adapters.kafka_publisher import KafkaPublisher
from fraudstream.adapters.kafka_source import KafkaSource
from fraudstream.adapters.kafka_trial import fault_of_properties
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits
from fraudstream.alert import Encoder, ModelIdentity, OutputTopics
from fraudstream.audit.watch import AuditMetrics, AuditWatch, WatchRules
from fraudstream.bundle import Bundle, load_bundle
from fraudstream.currency import minor_units_per_major
from fraudstream.dead_letters import DeadLetterGuard, DeadLetterLimits
from fraudstream.decision import Policy
from fraudstream.erasures import EntityHasher, ErasureLog
from fraudstream.errors import ServiceAwayError, SettingsError
from fraudstream.event import EventRules
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.metrics import HealthServer, WorkerMetrics
from fraudstream.pipeline import InputTopics, Models, Pipeline
from fraudstream.profile import ProfileDefinition
from fraudstream.rebuild import Progress, Rebuilder, RebuildParts
from fraudstream.repair import LAST_TURN_S, TURN_S, Repairer
from fraudstream.runtime import Worker
from fraudstream.settings import Settings
from fraudstream.spare_memory import map_large_blocks
from fraudstream.topics import RETENTION_MARGIN_MS, TopicAdmin, require_retention
from fraudstream.worker_parts import LoopLimits, Publisher, StartRules, WorkerParts

if TYPE_CHECKING:  # a worker does without what reads files
    from fraudstream.replay.past import Past

_log = structlog.get_logger("app")

#: So many new objects that stay, and the garbage collector looks for cycles among them.
_COLLECT_AFTER_OBJECTS = 10_000
#: How long a command that can wait gives Valkey for one answer.
PATIENT_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to the settings.

    Parameters
    ----------
    slot
        Which worker this is.
    from_
        Where to begin when the group's offsets are gone: ``earliest`` or ``watermark``; with these
        or ``committed`` the offsets that there are are believed, however old.
    accept_short_retention
        Go on although the log forgets sooner than the profiles need it.
    config
        The settings file, for the commands that the worker starts.
    """

    slot: int = 0
    from_: str | None = None
    accept_short_retention: bool = False
    config: Path | None = None


def run_worker(settings: Settings, options: RunOptions, stopping: threading.Event) -> None:
    """Run one worker until it is told to stop.

    Raises
    ------
    StopError
        Something that a person has to change.
    """
    map_large_blocks()
    bundle = load_bundle(settings.model.bundle, settings.model.device)
    topics = input_topics(settings)
    metrics = WorkerMetrics(topics)
    health = _serve_health(settings, options.slot, metrics)
    audits = _watch_parity(settings, options, metrics)
    try:
        if not _await_topics(settings, bundle, options, metrics, stopping):
            return
        worker = build_worker(settings, bundle, options, metrics, stopping)
        _log.info("started", slot=options.slot, model=bundle.name, version=bundle.version)
        # What was made so far stays for good: later collections need not walk through it.
        gc.collect()
        gc.freeze()
        # A batch is some ten thousand objects that go away by themselves: by default the
        # collector would walk through them several times.
        gc.set_threshold(_COLLECT_AFTER_OBJECTS)
        worker.run()
        _log.info("stopped", slot=options.slot)
    finally:
        if audits is not None:
            audits.stop()
        if health is not None:
            health.stop()


def check_retention(settings: Settings, bundle: Bundle) -> None:
    """See that the input topics are kept for as long as profiles look back.

    Raises
    ------
    RetentionError
        They are not.
    ServiceAwayError
        Kafka does not answer.
    """
    topics = input_topics(settings)
    kept_ms = TopicAdmin(kafka_access(settings)).retention_ms([topics.transactions, topics.labels])
    require_retention(kept_ms, profile_definition(settings, bundle).horizon_ms)


def build_worker(
    settings: Settings,
    bundle: Bundle,
    options: RunOptions,
    metrics: WorkerMetrics,
    stopping: threading.Event,
) -> Worker:
    """Make a worker of the deployment's settings and a checked bundle."""
    topics = input_topics(settings)
    access = kafka_access(settings)
    membership = GroupMembership(
        settings.kafka.group_id, options.slot, settings.kafka.session_timeout_ms
    )
    store = build_store(settings, profile_definition(settings, bundle))
    pipeline = build_pipeline(settings, bundle, store)
    is_degradable = settings.valkey.on_deadline == "degrade"
    source = KafkaSource(access, membership, topics)
    publisher: Publisher
    if settings.delivery == "exactly_once":
        publisher = KafkaPublisher(access, membership, metrics.rebuilt)
    else:
        publisher = AtLeastOncePublisher(access, membership, source.commit, metrics.rebuilt)
    parts = WorkerParts(
        source=source,
        publisher=publisher,
        pipeline=pipeline,
        store=store,
        repairer=Repairer(
            store,
            KafkaLog(access, settings.kafka.group_id, topics),
            pipeline.parse,
            erasures=erasure_log(settings).read_for_repair,
            # Where every decision must wait for its profiles, nothing else is worth doing.
            turn_s=TURN_S if is_degradable else LAST_TURN_S,
        ),
        guard=DeadLetterGuard(_dead_letter_limits(settings)),
        observer=metrics,
    )
    return Worker(parts, LoopLimits(), StartRules(options.from_, is_degradable), stopping)


def profile_definition(settings: Settings, bundle: Bundle) -> ProfileDefinition:
    """Say what the profile store keeps for a bundle."""
    return bundle.feature_set.profile_definition(settings.profiles.currency)


def build_store(
    settings: Settings, definition: ProfileDefinition, *, is_patient: bool = False
) -> BucketedProfileStore:
    """Make the profile store in Valkey; a patient one is for commands that can wait."""
    deadline_s = PATIENT_DEADLINE_S if is_patient else settings.valkey.deadline_ms / 1000
    known_from = settings.profiles.known_from
    backend = ValkeyBackend(
        settings.valkey.url.get_secret_value(),
        definition,
        namespace=settings.profiles.namespace,
        buckets=settings.buckets,
        known_from_ms=int(known_from.timestamp() * 1000) if known_from else 0,
        limits=ValkeyLimits(deadline_s=deadline_s),
        cluster=settings.valkey.cluster,
    )
    return BucketedProfileStore(definition, backend, buckets=settings.buckets)


def build_rebuilder(
    settings: Settings,
    bundle: Bundle,
    past: Past | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Rebuilder:
    """Make what rebuilds the profiles of a deployment once.

    Raises
    ------
    StopError
        Kafka is away, or erasures were made under another key.
    """
    parts = RebuildParts(
        build_store(settings, profile_definition(settings, bundle), is_patient=True),
        KafkaBulk(kafka_access(settings), settings.kafka.group_id),
        input_topics(settings),
        event_rules(settings, bundle.feature_set.extra_fields),
        erasure_log(settings).read(),
    )
    return Rebuilder(parts, past, on_progress)


def erasure_log(settings: Settings) -> ErasureLog:
    """Make what writes and reads the topic of erasures."""
    return ErasureLog(
        kafka_access(settings),
        f"{settings.kafka.group_id}-repair",
        settings.topics.erasures,
        EntityHasher(settings.events.hmac_key.get_secret_value().encode()),
    )


def build_pipeline(settings: Settings, bundle: Bundle, store: BucketedProfileStore) -> Pipeline:
    """Make the six stages."""
    policy = Policy(
        settings.policy.review_threshold,
        settings.policy.decline_threshold,
        settings.policy.fallback_review_threshold,
        settings.policy.name,
    )
    encoder = Encoder(
        OutputTopics(
            settings.topics.decisions, settings.topics.alerts, settings.topics.dead_letters
        ),
        ModelIdentity(bundle.name, bundle.version, bundle.sha256),
        policy.version,
        tuple(feature.name for feature in bundle.features),
    )
    return Pipeline(
        topics=input_topics(settings),
        rules=event_rules(settings, bundle.feature_set.extra_fields),
        store=store,
        models=Models(
            bundle.model,
            bundle.fallback,
            bundle.features,
            bundle.reasons,
            is_approximate=settings.model.explanations == "approximate",
        ),
        policy=policy,
        encoder=encoder,
        stopwatch=time.perf_counter,
        minor_per_major=minor_units_per_major(settings.profiles.currency),
    )


def event_rules(settings: Settings, extra_fields: tuple[str, ...] = ()) -> EventRules:
    """Say how records are read; ``extra_fields`` are those that the feature set names."""
    events = settings.events
    return EventRules(
        currency=settings.profiles.currency,
        framing=events.framing,
        max_future_skew_ms=events.max_future_skew_s * 1000,
        card_number=events.card_number,
        hmac_key=events.hmac_key.get_secret_value().encode(),
        mapping=compile_mapping(load_mapping(events.mapping)) if events.mapping else None,
        extra_fields=extra_fields,
    )


def load_mapping(file: Path) -> EventMapping:
    """Read a mapping of foreign names to ours.

    Raises
    ------
    SettingsError
        It cannot be read, or is wrong.
    """
    try:
        return EventMapping.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the mapping {file}: {error}") from None
    except yaml.YAMLError:
        raise SettingsError(f"the mapping {file} is not YAML") from None
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        message = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"the mapping {file}: {where}: {message}") from None


def input_topics(settings: Settings) -> InputTopics:
    """Name the input topics."""
    return InputTopics(settings.topics.transactions, settings.topics.labels)


def kafka_access(settings: Settings) -> KafkaAccess:
    """Say how to reach Kafka, by properties that the client library was seen to take.

    Raises
    ------
    SettingsError
        It refuses one of ``kafka.properties``; names the property, never its value.
    """
    properties = dict(settings.kafka.properties)
    fault = fault_of_properties(properties)
    if fault is not None:
        raise SettingsError(f"kafka.properties: {fault}")
    return KafkaAccess(settings.kafka.bootstrap_servers, properties)


def _dead_letter_limits(settings: Settings) -> DeadLetterLimits:
    limits = settings.dead_letters
    return DeadLetterLimits(limits.ratio_max, limits.ratio_records, limits.consecutive_max)


def _serve_health(settings: Settings, slot: int, metrics: WorkerMetrics) -> HealthServer | None:
    if settings.metrics.port == 0:
        return None
    health = HealthServer(metrics, settings.metrics.host, settings.metrics.port + slot)
    health.start()
    return health


def _watch_parity(
    settings: Settings, options: RunOptions, metrics: WorkerMetrics
) -> AuditWatch | None:
    """Have decisions audited, by the first of all workers alone."""
    if settings.audit.interval_s == 0 or options.slot:
        return None
    arguments = ("--config", str(options.config)) if options.config is not None else ()
    rules = WatchRules(settings.audit.interval_s, settings.audit.sample, arguments)
    watch = AuditWatch(rules, AuditMetrics(metrics.registry))
    watch.start()
    return watch


def _await_topics(
    settings: Settings,
    bundle: Bundle,
    options: RunOptions,
    metrics: WorkerMetrics,
    stopping: threading.Event,
) -> bool:
    """Wait for Kafka and see that the log lasts long enough; False when told to stop."""
    admin = TopicAdmin(kafka_access(settings))
    topics = input_topics(settings)
    backoff_s = 0.2
    while not stopping.is_set():
        try:
            kept_ms = admin.retention_ms([topics.transactions, topics.labels])
        except ServiceAwayError as error:
            _log.warning("waiting_for_kafka", error=str(error))
            metrics.looped(is_settled=False)
            stopping.wait(backoff_s)
            backoff_s = min(2 * backoff_s, 5.0)
            continue
        horizon_ms = profile_definition(settings, bundle).horizon_ms
        if options.accept_short_retention:
            _warn_of_short_retention(kept_ms, horizon_ms)
        else:
            require_retention(kept_ms, horizon_ms)
        return True
    return False


def _warn_of_short_retention(kept_ms: dict[str, int], horizon_ms: int) -> None:
    for topic, retention_ms in kept_ms.items():
        if 0 <= retention_ms < horizon_ms + RETENTION_MARGIN_MS:
            _log.warning("short_retention", topic=topic, retention_ms=retention_ms)
