"""The topics: what settings they need, making them, and checking that the log lasts long enough.

Valkey can be rebuilt only while Kafka keeps the transactions and labels, so their retention must
cover the profiles' horizon (the longest window, its lag, and the allowed lateness) and a week.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from fraudstream.adapters.kafka import KafkaAccess, client_config, error_of, kafka_logger
from fraudstream.errors import RetentionError, ServiceAwayError, SettingsError
from fraudstream.profile import DAY_MS

_TIMEOUT_S = 10.0
#: How much longer than the horizon the log is kept: time to notice a loss and to rebuild.
RETENTION_MARGIN_MS = 7 * DAY_MS
#: Dead letters, alerts and decisions: how long they are kept by default.
_OUTPUT_RETENTION_MS = 90 * DAY_MS
_UNLIMITED_MS = -1

_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it should be."""

    name: str
    partitions: int
    config: Mapping[str, str]


def plan_topics(
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    partitions: int,
    horizon_ms: int,
    is_unlimited: bool = False,
) -> list[TopicPlan]:
    """Say what the topics should be.

    Topics are stamped by the broker: the time that bounds an event's own time must not come from
    the same wrong clock, and a broker refuses outputs that a worker stamps an hour ahead.
    """
    retention_ms = _UNLIMITED_MS if is_unlimited else horizon_ms + RETENTION_MARGIN_MS
    output_retention_ms = _UNLIMITED_MS if is_unlimited else _OUTPUT_RETENTION_MS
    stamped = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
    input_config = stamped | {"retention.ms": str(retention_ms)}
    output_config = stamped | {"retention.ms": str(output_retention_ms)}
    return [TopicPlan(name, partitions, input_config) for name in inputs] + [
        TopicPlan(name, partitions, output_config) for name in outputs
    ]


def plan_erasures(name: str) -> TopicPlan:
    """Say what the topic of erasures should be: kept for ever, of each entity the newest."""
    config = {"retention.ms": str(_UNLIMITED_MS), "cleanup.policy": "compact"}
    return TopicPlan(name, 1, config)


class TopicAdmin:
    """Makes and checks topics.

    Parameters
    ----------
    access
        Where.
    """

    def __init__(self, access: KafkaAccess) -> None:
        self._client = AdminClient(
            client_config(access, "fraudstream-admin") | {"logger": kafka_logger()}
        )

    def create(self, plans: Sequence[TopicPlan], replication: int = -1) -> dict[str, bool]:
        """Make the topics that are missing; look at the others, and change none of them.

        Returns
        -------
        created
            By name: True if it was made now, False if it was there as planned.

        Raises
        ------
        SettingsError
            A topic is there with another number of partitions or other settings.
        ServiceAwayError
            Kafka does not answer.
        """
        existing = self._existing()
        for plan in plans:
            if plan.name in existing:
                self._refuse_difference(plan, existing[plan.name])
        missing = [plan for plan in plans if plan.name not in existing]
        futures = (
            self._client.create_topics(
                [
                    NewTopic(
                        p.name,
                        num_partitions=p.partitions,
                        replication_factor=replication,
                        config=dict(p.config),
                    )
                    for p in missing
                ]
            )
            if missing
            else {}
        )
        for future in futures.values():
            try:
                _result(future)
            except KafkaException as exception:
                # Another creator was faster: what it made is looked at the next time.
                if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        return {plan.name: plan.name in futures for plan in plans}

    def retention_ms(self, topics: Sequence[str]) -> dict[str, int]:
        """Read how long topics keep their records; −1 is for ever.

        Raises
        ------
        ServiceAwayError
            Kafka does not answer.
        """
        return {name: int(config["retention.ms"]) for name, config in self._configs(topics).items()}

    def _existing(self) -> dict[str, int]:
        try:
            metadata = self._client.list_topics(timeout=_TIMEOUT_S)
        except KafkaException as exception:
            raise _away(exception) from exception
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def _configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        found = {}
        for resource, future in self._client.describe_configs(resources).items():
            entries = _result(future)
            found[resource.name] = {name: entry.value for name, entry in entries.items()}
        return found

    def _refuse_difference(self, plan: TopicPlan, partitions: int) -> None:
        if partitions != plan.partitions:
            raise SettingsError(
                f"the topic {plan.name} exists with {partitions} partitions, not "
                f"{plan.partitions}: set topics.partitions to {partitions}, or choose another name "
                "(adding partitions would move cards and break their order)"
            )
        config = self._configs([plan.name])[plan.name]
        for name, value in plan.config.items():
            if config.get(name) != value:
                raise SettingsError(
                    f"the topic {plan.name} exists with {name}={config.get(name)}, not {value}; "
                    "it was left as it is: change it with Kafka's own tools, or choose another name"
                )


def require_retention(retention_ms: Mapping[str, int], horizon_ms: int) -> None:
    """Refuse topics that forget sooner than profiles can be rebuilt.

    Raises
    ------
    RetentionError
        A topic keeps its records for less than the horizon and the margin.
    """
    needed_ms = horizon_ms + RETENTION_MARGIN_MS
    for name, kept_ms in retention_ms.items():
        if 0 <= kept_ms < needed_ms:
            raise RetentionError(
                f"the topic {name} keeps its records for {kept_ms / DAY_MS:.1f} days, but profiles "
                f"look back {needed_ms / DAY_MS:.0f} (horizon and a week): raise its retention.ms "
                f"to {needed_ms}, or start with --accept-short-retention"
            )


def _result(future: Future[_ResultT]) -> _ResultT:
    try:
        return future.result(timeout=_TIMEOUT_S)
    except KafkaException as exception:
        if error_of(exception).code() == KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        raise _away(exception) from exception
    except TimeoutError as exception:
        raise ServiceAwayError("Kafka did not answer in time; is it running?") from exception


def _away(exception: KafkaException) -> ServiceAwayError:
    if error_of(exception).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return ServiceAwayError(
            "an input topic does not exist; `fraudstream topics create` makes it"
        )
    return ServiceAwayError(
        f"Kafka cannot be reached or refuses ({error_of(exception).name()}): check "
        "kafka.bootstrap_servers, or start a local one with `fraudstream local up`"
    )
