"""All settings of a deployment: one frozen class, from a YAML file and the environment.

The environment wins over the file: ``FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS`` is
``kafka.bootstrap_servers``. A name that nobody knows is an error in either place, because a
misspelt setting that is silently ignored is found out in production. No error and no listing
ever shows a secret.

Only ``app`` and ``cli`` read this class; everything else gets small frozen objects made from it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.errors import SettingsError
from fraudstream.valkey_url import HIDDEN, hide_password, url_fault

PREFIX = "FRAUDSTREAM_"
#: Names under our prefix that are not settings: what Kubernetes injects for a service called
#: fraudstream, and what only the tests read.
_FOREIGN_NAMES = re.compile(
    r"FRAUDSTREAM_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?"
    r"|REQUIRE|REFERENCE_DATA|TEST_\w+)"
)
_SECRET_PROPERTY = re.compile(r"password|secret|jaas|token|\.key\b|key\.pem", re.IGNORECASE)
#: Buckets on a cluster: each lives on one node, and a node that joins takes some over.
CLUSTER_BUCKETS = 64
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=()
    )


class KafkaSettings(_Section):
    """How to reach Kafka, and as whom."""

    bootstrap_servers: str = Field(default="localhost:9092", min_length=1)
    group_id: str = Field(default="fraudstream", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    #: At most what the workers' max.poll.interval.ms is: the client refuses more.
    session_timeout_ms: int = Field(default=10_000, ge=1_000, le=120_000)
    #: Passed to every client as it is: security.protocol, sasl.*, ssl.*
    properties: dict[str, str] = Field(default_factory=dict)


class ValkeySettings(_Section):
    """How to reach Valkey, and how long it may take."""

    url: SecretStr = SecretStr("redis://localhost:6379/0")
    deadline_ms: int = Field(default=50, ge=1, le=60_000)
    #: ``wait`` never decides without profiles: for replays and tests that must be exact.
    on_deadline: Literal["degrade", "wait"] = "degrade"
    #: ``url`` is a node of a Valkey Cluster, which names the others.
    cluster: bool = False

    @field_validator("url")
    @classmethod
    def _usable(cls, url: SecretStr) -> SecretStr:
        if fault := url_fault(url.get_secret_value()):
            raise ValueError(fault)
        return url

    @model_validator(mode="after")
    def _url_of_a_cluster(self) -> ValkeySettings:
        parts = urlsplit(self.url.get_secret_value())
        databases = {parts.path[1:], *parse_qs(parts.query).get("db", [])} - {"", "0"}
        if self.cluster and (parts.scheme == "unix" or databases):
            msg = "with valkey.cluster, valkey.url must be redis:// or rediss://, with database 0"
            raise ValueError(msg)
        return self


class TopicsSettings(_Section):
    """Names of the topics, and how many partitions ``topics create`` gives them."""

    transactions: TopicName = "fraudstream.transactions"
    labels: TopicName = "fraudstream.labels"
    decisions: TopicName = "fraudstream.decisions"
    alerts: TopicName = "fraudstream.alerts"
    dead_letters: TopicName = "fraudstream.dead-letters"
    #: Who asked to be forgotten: compacted, kept for ever.
    erasures: TopicName = "fraudstream.erasures"
    partitions: int = Field(default=6, ge=1, le=10_000)

    @model_validator(mode="after")
    def _distinct(self) -> TopicsSettings:
        names = [self.transactions, self.labels, self.decisions, self.alerts, self.dead_letters]
        names.append(self.erasures)
        if len(set(names)) < len(names):
            msg = "the six topics must have different names"
            raise ValueError(msg)
        return self


class EventsSettings(_Section):
    """How events are read."""

    mapping: Path | None = None
    framing: Literal["plain", "confluent"] = "plain"
    max_future_skew_s: int = Field(default=300, ge=0, le=86_400)
    card_number: Literal["refuse", "hmac"] = "refuse"
    #: The key of the tokens that stand in for card numbers; at least 32 characters.
    hmac_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _key_for_hmac(self) -> EventsSettings:
        if self.card_number == "hmac" and len(self.hmac_key.get_secret_value()) < 32:
            msg = "card_number: hmac needs events.hmac_key of at least 32 characters"
            raise ValueError(msg)
        return self


class ModelSettings(_Section):
    """Which model decides."""

    #: A folder, or an address such as s3://bucket/models/mine (docs/model-quality.md).
    bundle: str = Field(default="models/default", min_length=1)
    #: ``approximate`` gives reasons at a fraction of the cost, where alerts are many.
    explanations: Literal["exact", "approximate"] = "exact"
    #: Passed through to XGBoost.
    device: Literal["cpu", "cuda"] = "cpu"


class ProfilesSettings(_Section):
    """Where profiles live in Valkey, and what they are counted in."""

    namespace: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    #: None: `Settings.buckets` chooses.
    buckets: int | None = Field(default=None, ge=1, le=4096)
    currency: str = "EUR"
    #: Windows that reach back before this time are unknown, not empty.
    known_from: AwareDatetime | None = None

    @model_validator(mode="after")
    def _known_currency(self) -> ProfilesSettings:
        if self.currency not in MINOR_UNIT_DECIMALS:
            msg = "profiles.currency must be an ISO 4217 code like EUR"
            raise ValueError(msg)
        return self


class PolicySettings(_Section):
    """From which score on a payment is looked at, or declined. The defaults fit models/default."""

    name: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    review_threshold: Score = 0.3
    decline_threshold: Score = 0.8
    fallback_review_threshold: Score = 0.3

    @model_validator(mode="after")
    def _ordered(self) -> PolicySettings:
        if self.review_threshold > self.decline_threshold:
            msg = "policy.review_threshold must not be above policy.decline_threshold"
            raise ValueError(msg)
        return self


class DeadLettersSettings(_Section):
    """How many bad records are still bad records, and not a bad deployment."""

    ratio_max: float = Field(default=0.5, gt=0.0, le=1.0)
    ratio_records: int = Field(default=1_000, ge=10)
    consecutive_max: int = Field(default=1_000, ge=1)


class MetricsSettings(_Section):
    """Where metrics and health are served: worker n on ``port + n``."""

    #: 0 turns it off.
    port: int = Field(default=9464, ge=0, le=65_000)
    host: str = "0.0.0.0"  # noqa: S104 - scraped from outside the container


class AuditSettings(_Section):
    """How often slot 0 has features of decisions computed again from the log, and of how many."""

    #: 0 turns it off.
    interval_s: int = Field(default=0, ge=0, le=30 * 86_400)
    sample: float = Field(default=0.001, gt=0.0, le=1.0)


class Settings(BaseSettings):
    """The effective settings of a deployment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    kafka: KafkaSettings = KafkaSettings()
    valkey: ValkeySettings = ValkeySettings()
    topics: TopicsSettings = TopicsSettings()
    events: EventsSettings = EventsSettings()
    model: ModelSettings = ModelSettings()
    profiles: ProfilesSettings = ProfilesSettings()
    policy: PolicySettings = PolicySettings()
    dead_letters: DeadLettersSettings = DeadLettersSettings()
    metrics: MetricsSettings = MetricsSettings()
    audit: AuditSettings = AuditSettings()
    #: ``at_least_once``: sooner readable, but a crash may publish outputs again, with the same ids.
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    worker_slot: int = Field(default=0, ge=0, le=999)

    @property
    def buckets(self) -> int:
        """Over how many buckets entities are spread: enough for every node of a cluster to work."""
        return self.profiles.buckets or (CLUSTER_BUCKETS if self.valkey.cluster else 1)

    @model_validator(mode="after")
    def _several_buckets_on_a_cluster(self) -> Settings:
        if self.valkey.cluster and self.buckets == 1:
            msg = (
                "profiles.buckets is 1, but a bucket lives on one node: with valkey.cluster leave "
                f"it out, which gives {CLUSTER_BUCKETS}, or set it to several times the nodes"
            )
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose content comes as arguments."""
        return (env_settings, init_settings)

    def shown(self) -> dict[str, Any]:
        """Give all settings as plain values, secrets hidden."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        dumped["valkey"]["url"] = hide_password(self.valkey.url.get_secret_value())
        dumped["model"]["bundle"] = hide_password(self.model.bundle)
        dumped["profiles"]["buckets"] = self.buckets
        if self.events.hmac_key.get_secret_value():
            dumped["events"]["hmac_key"] = HIDDEN
        properties = dumped["kafka"]["properties"]
        for name in properties:
            if _SECRET_PROPERTY.search(name):
                properties[name] = HIDDEN
        return dumped


def load_settings(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings file, if there is one, and the environment.

    Raises
    ------
    SettingsError
        The file cannot be read, or a name or value is wrong. The message names the setting, never
        its value.
    """
    _refuse_strangers(os.environ if environ is None else environ)
    values = _read_yaml(file) if file is not None else {}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(error))) from None
    except ValueError as error:  # an environment value that should be JSON and is not
        raise SettingsError("; ".join(_not_json(os.environ)) or str(error)) from None


def known_names() -> Iterator[str]:
    """List every environment variable that is a setting."""
    for name, section in Settings.model_fields.items():
        kind = section.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for inner in kind.model_fields:
                yield f"{PREFIX}{name}__{inner}".upper()
        else:
            yield f"{PREFIX}{name}".upper()


def _refuse_strangers(names: Iterable[str]) -> None:
    known = set(known_names())
    for name in names:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or _FOREIGN_NAMES.fullmatch(upper):
            continue
        # kafka.properties may also be given one by one.
        if upper.startswith(f"{PREFIX}KAFKA__PROPERTIES__"):
            continue
        raise SettingsError(
            f"the environment variable {name} is no setting of ours; "
            "`fraudstream config show` lists them all"
        )


def _not_json(environ: Mapping[str, str]) -> Iterator[str]:
    """Say which variables that stand for several names and values are no JSON."""
    for section_name, section in Settings.model_fields.items():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            variable = f"{PREFIX}{section_name}__{name}".upper()
            values = [v for n, v in environ.items() if n.upper() == variable]
            if get_origin(field.annotation) is dict and values and not _is_json(values[-1]):
                yield (
                    f"{section_name}.{name}: the environment variable {variable} must be a JSON "
                    """object, as '{"security.protocol": "SASL_SSL"}'"""
                )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {file}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date like 2018-13-45
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"the settings file {file} is not YAML{where}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingsError(f"the settings file {file} must hold names and values")
    return content


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            yield f"{name} is no setting of ours; `fraudstream config show` lists them all"
        else:
            yield f"{name}: {problem['msg'].removeprefix('Value error, ')}"
