"""Settings: the environment wins, nothing misspelt is ignored, no secret is ever shown."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from fraudstream.adapters.valkey import ValkeyLimits, connect
from fraudstream.errors import ExitCode, SettingsError
from fraudstream.settings import PREFIX, Settings, known_names, load_settings

CANARY = "s3cr3t-canary"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def refusal(file: Path | None = None) -> str:
    """Load settings that must be refused; give the sentence, which shows no secret."""
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    error = caught.value
    assert error.exit_code is ExitCode.SETTINGS
    assert CANARY not in "".join(traceback.format_exception(error))
    assert "\n" not in str(error)
    return str(error)


# ------------------------------------------------------------------ where they come from


def test_without_a_file_and_an_environment_there_are_defaults_for_all() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.topics.transactions == "fraudstream.transactions"
    assert settings.policy.review_threshold < settings.policy.decline_threshold


def test_a_file_wins_over_the_defaults_and_the_environment_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(
        "kafka: {bootstrap_servers: 'file:9092', group_id: from-file}\n"
        "policy: {review_threshold: 0.25}\nworker_slot: 3\n"
    )
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__GROUP_ID", "from-environment")
    monkeypatch.setenv("FRAUDSTREAM_POLICY__DECLINE_THRESHOLD", "0.75")
    monkeypatch.setenv("FRAUDSTREAM_WORKER_SLOT", "4")
    settings = load_settings(file)
    assert settings.kafka.bootstrap_servers == "file:9092"
    assert settings.kafka.group_id == "from-environment"
    assert settings.policy.review_threshold == 0.25
    assert settings.policy.decline_threshold == 0.75
    assert settings.worker_slot == 4
    assert settings.kafka.session_timeout_ms == 10_000


def test_client_properties_are_given_together_or_one_by_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("kafka: {properties: {security.protocol: SSL, client.rack: a}}\n")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__PROPERTIES__CLIENT.RACK", "b")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__PROPERTIES__SASL.MECHANISM", "PLAIN")
    assert load_settings(file).kafka.properties == {
        "security.protocol": "SSL",
        "client.rack": "b",
        "sasl.mechanism": "PLAIN",
    }
    monkeypatch.delenv("FRAUDSTREAM_KAFKA__PROPERTIES__CLIENT.RACK")
    monkeypatch.delenv("FRAUDSTREAM_KAFKA__PROPERTIES__SASL.MECHANISM")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__PROPERTIES", '{"security.protocol": "SASL_SSL"}')
    assert load_settings(file).kafka.properties["security.protocol"] == "SASL_SSL"


@pytest.mark.parametrize("text", ["", "# nothing but a remark\n", "---\n", "kafka: {}\n"])
def test_a_file_that_sets_nothing_is_fine(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_settings(file) == Settings()


@pytest.mark.parametrize(
    "place",
    [
        "s3://a/b",
        "s3://bucket//models/mine/",
        "memory://mine",
        "gs://a/b?generation=3#x",
        "../models/mine",
        "models/./mine/",
    ],
)
def test_where_a_bundle_lies_goes_through_as_it_is_written(
    place: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that was taken for a path would lose one of its slashes."""
    file.write_text(json.dumps({"model": {"bundle": place}}))
    assert load_settings(file).model.bundle == place
    monkeypatch.setenv("FRAUDSTREAM_MODEL__BUNDLE", place)
    assert load_settings().model.bundle == place
    assert load_settings().shown()["model"]["bundle"] == place


def test_the_password_of_a_bundles_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_MODEL__BUNDLE", f"ftp://user:{CANARY}@host/models/mine")
    settings = load_settings()
    assert CANARY in settings.model.bundle
    assert settings.shown()["model"]["bundle"] == "ftp://user:********@host/models/mine"


def test_explanations_are_exact_unless_approximate_ones_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().model.explanations == "exact"
    monkeypatch.setenv("FRAUDSTREAM_MODEL__EXPLANATIONS", "approximate")
    assert load_settings().model.explanations == "approximate"


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.worker_slot = 1
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.group_id = "another"


# ------------------------------------------------------------------ names nobody knows


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kafak: {}\n", "kafak"),
        ("kafka: {group: x}\n", "kafka.group"),
        ("valkey: {uri: redis://localhost}\n", "valkey.uri"),
        ("kafka.group_id: x\n", "kafka.group_id"),
        ("FRAUDSTREAM_WORKER_SLOT: 1\n", "FRAUDSTREAM_WORKER_SLOT"),
    ],
)
def test_a_name_in_the_file_that_nobody_knows_is_an_error(file: Path, text: str, name: str) -> None:
    file.write_text(text)
    assert f"{name} is no setting of ours" in refusal(file)


@pytest.mark.parametrize(
    "name",
    [
        "FRAUDSTREAM_KAFKA__BOOTSTRAP",
        "FRAUDSTREAM_KAFKA_GROUP_ID",
        "FRAUDSTREAM_KAFKA",
        "FRAUDSTREAM_VALKEY__URI",
        "FRAUDSTREAM_METRICS_PORT",
        "FRAUDSTREAM_WORKER__SLOT",
        "FRAUDSTREAM_REQUIRED",
        "FRAUDSTREAM_",
        "fraudstream_kafka__group",
    ],
)
def test_a_name_in_the_environment_that_nobody_knows_is_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, CANARY)
    assert f"the environment variable {name} is no setting of ours" in refusal()


def test_a_strange_name_is_found_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__PROPERTIES__CLIENT.RACK", "a")
    monkeypatch.setenv("FRAUDSTREAM_PORT", "tcp://10.0.0.1:9464")
    monkeypatch.setenv("FRAUDSTREAM_WORKER_SLOT", "1")
    monkeypatch.setenv("FRAUDSTREAM_ZZZ", "1")
    assert "FRAUDSTREAM_ZZZ" in refusal()


@pytest.mark.parametrize(
    "name",
    [
        "FRAUDSTREAM_SERVICE_HOST",
        "FRAUDSTREAM_SERVICE_PORT",
        "FRAUDSTREAM_SERVICE_PORT_METRICS",
        "FRAUDSTREAM_PORT",
        "FRAUDSTREAM_PORT_9464_TCP",
        "FRAUDSTREAM_PORT_9464_TCP_PROTO",
        "FRAUDSTREAM_PORT_9464_TCP_PORT",
        "FRAUDSTREAM_PORT_9464_TCP_ADDR",
        "FRAUDSTREAM_PORT_53_UDP_ADDR",
        "FRAUDSTREAM_REQUIRE",
        "FRAUDSTREAM_TEST_VALKEY_URL",
        "MY_FRAUDSTREAM_KAFKA",
        "FRAUDSTREAMER",
        "KAFKA__GROUP_ID",
    ],
)
def test_what_kubernetes_injects_for_a_service_of_our_name_and_what_is_not_ours_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:9464")
    assert load_settings() == Settings()


def test_every_setting_can_be_given_by_the_name_that_is_listed_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each listed variable, set to its default, is accepted; and no setting is missing."""
    names = set(known_names())
    defaults = Settings()
    for section_name in Settings.model_fields:
        section = getattr(defaults, section_name)
        values = (
            {f"{PREFIX}{section_name}__{name}": value for name, value in section}
            if isinstance(section, BaseModel)
            else {f"{PREFIX}{section_name}": section}
        )
        for name, value in values.items():
            assert name.upper() in names
            names.remove(name.upper())
            if value is not None and not hasattr(value, "get_secret_value"):
                text = json.dumps(value) if isinstance(value, dict) else str(value)
                monkeypatch.setenv(name.upper(), text)
    assert not names
    assert load_settings() == defaults


# ------------------------------------------------------------------ values that will not do


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kafka: {bootstrap_servers: ''}", "kafka.bootstrap_servers"),
        ("kafka: {group_id: 'two words'}", "kafka.group_id"),
        ("kafka: {session_timeout_ms: 10}", "kafka.session_timeout_ms"),
        ("kafka: {session_timeout_ms: 120001}", "kafka.session_timeout_ms"),
        ("valkey: {deadline_ms: 0}", "valkey.deadline_ms"),
        ("valkey: {on_deadline: ignore}", "valkey.on_deadline"),
        ("topics: {transactions: 'a/b'}", "topics.transactions"),
        ("topics: {partitions: 0}", "topics.partitions"),
        ("topics: {decisions: same, alerts: same}", "topics"),
        ("events: {framing: avro}", "events.framing"),
        ("events: {max_future_skew_s: -1}", "events.max_future_skew_s"),
        ("events: {card_number: hmac}", "events.hmac_key"),
        (f"events: {{card_number: hmac, hmac_key: {CANARY}}}", "events.hmac_key"),
        ("model: {explanations: none}", "model.explanations"),
        ("model: {device: gpu}", "model.device"),
        ("model: {bundle: ''}", "model.bundle"),
        ("model: {bundle: null}", "model.bundle"),
        ("profiles: {namespace: 'a:b'}", "profiles.namespace"),
        ("profiles: {namespace: '{x}'}", "profiles.namespace"),
        ("profiles: {buckets: 0}", "profiles.buckets"),
        ("{valkey: {cluster: true}, profiles: {buckets: 1}}", "profiles.buckets"),
        ("valkey: {cluster: true, url: 'unix:///run/valkey.sock'}", "valkey.url"),
        ("valkey: {cluster: true, url: 'redis://h:1/2'}", "valkey.url"),
        ("valkey: {cluster: true, url: 'redis://h:1?db=2'}", "valkey.url"),
        ("profiles: {currency: XXX}", "profiles.currency"),
        ("profiles: {known_from: 2018-04-01}", "profiles.known_from"),
        ("policy: {review_threshold: 1.5}", "policy.review_threshold"),
        ("policy: {review_threshold: .nan}", "policy.review_threshold"),
        ("policy: {review_threshold: 0.95}", "policy.review_threshold"),
        ("dead_letters: {ratio_max: 0}", "dead_letters.ratio_max"),
        ("metrics: {port: 70000}", "metrics.port"),
        ("worker_slot: -1", "worker_slot"),
        ("worker_slot: one", "worker_slot"),
        ("kafka: all of it", "kafka"),
        ("kafka:", "kafka"),
    ],
)
def test_a_value_that_will_not_do_is_an_error_that_names_its_setting(
    file: Path, text: str, name: str
) -> None:
    file.write_text(text)
    assert name in refusal(file)


@pytest.mark.parametrize(
    "text",
    [
        "valkey: {deadline_ms: 1}",
        "valkey: {deadline_ms: 60000}",
        "topics: {partitions: 1}",
        "events: {max_future_skew_s: 0}",
        f"events: {{card_number: hmac, hmac_key: {'k' * 32}}}",
        "policy: {review_threshold: 0.5, decline_threshold: 0.5}",
        "policy: {review_threshold: 0, decline_threshold: 1, fallback_review_threshold: 1.0}",
        "profiles: {buckets: 4096, known_from: 2018-04-01T00:00:00Z}",
        "{valkey: {cluster: true, url: 'redis://h:1/0'}, profiles: {buckets: 2}}",
        "dead_letters: {ratio_max: 1.0, ratio_records: 10, consecutive_max: 1}",
        "metrics: {port: 0}",
        "worker_slot: 999",
    ],
)
def test_a_value_at_its_bound_will_do(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_settings(file) != Settings()


@pytest.mark.parametrize(
    ("text", "buckets"),
    [
        ("", 1),
        ("valkey: {cluster: true}", 64),
        ("profiles: {buckets: 8}", 8),
        ("{valkey: {cluster: true}, profiles: {buckets: 8}}", 8),
    ],
)
def test_entities_are_spread_over_several_buckets_on_a_cluster(
    file: Path, text: str, buckets: int
) -> None:
    file.write_text(text)
    settings = load_settings(file)
    assert settings.buckets == buckets
    assert settings.shown()["profiles"]["buckets"] == buckets


def test_all_that_is_wrong_is_said_at_once(file: Path) -> None:
    file.write_text("worker_slot: -1\nkafka: {group: x}\nmetrics: {port: -1}\n")
    sentence = refusal(file)
    assert all(name in sentence for name in ("worker_slot", "kafka.group", "metrics.port"))


@pytest.mark.parametrize(
    "content",
    [
        b"kafka: {\n",
        b"kafka: [1, 2\n",
        b"a: b: c\n",
        b"\ttab: 1\n",
        b"key: 'no end\n",
        b"a: \x00\n",
        b"a: !!python/object/apply:os.system ['true']\n",
        b"known_from: 2018-13-45\n",
        b"worker_slot: 0b_\n",
        b"? [a, b]\n: c\n",
        b"a: &x [*x]\n b",
        b"[" * 5_000,
        b"- kafka\n- valkey\n",
        b"hello\n",
        b"17\n",
        b"1: one\n",
        b"kafka: {}\n1: one\n",
        b"\xff\xfe\x00",
        b"caf\xe9: 1\n",
    ],
    ids=repr,
)
def test_a_file_that_cannot_be_read_is_one_sentence(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert file.name in refusal(file)


def test_bad_yaml_is_said_with_its_line(file: Path) -> None:
    file.write_text("kafka: {}\nworker_slot: [\n")
    assert "line 3" in refusal(file)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refusal(tmp_path / "nowhere.yaml")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUDSTREAM_KAFKA__PROPERTIES", "{not json"),
        ("FRAUDSTREAM_KAFKA__PROPERTIES", '["a"]'),
        ("FRAUDSTREAM_KAFKA__PROPERTIES", CANARY),
        ("FRAUDSTREAM_METRICS__PORT", "http"),
        ("FRAUDSTREAM_POLICY__REVIEW_THRESHOLD", "nan"),
        ("FRAUDSTREAM_PROFILES__KNOWN_FROM", "yesterday"),
    ],
)
def test_a_value_in_the_environment_that_will_not_do_is_one_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert name.removeprefix(PREFIX).partition("__")[0].lower() in refusal()


@pytest.mark.parametrize("name", ["FRAUDSTREAM_KAFKA__PROPERTIES", "fraudstream_kafka__properties"])
def test_the_variable_that_is_no_json_is_named_with_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"sasl.password={CANARY}")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__GROUP_ID", "not JSON either, and need not be")
    assert refusal() == (
        "kafka.properties: the environment variable FRAUDSTREAM_KAFKA__PROPERTIES must be a JSON "
        """object, as '{"security.protocol": "SASL_SSL"}'"""
    )


VALKEY_FAULTS = [
    (f"redis://{CANARY}:{CANARY}@h:notaport/0", "port"),
    (f"redis://u:{CANARY}@h:0", "port"),
    (f"redis://u:{CANARY}@h:65536", "port"),
    (f"redis://u:{CANARY}@[::1:6379/0", "port"),
    (f"redis://u:{CANARY}/slash@h", "%2F"),
    (f"redis://u:{CANARY}#hash@h", "%23"),
    (f"redis://u:6379#{CANARY}@h", "%23"),
    (f"redis://u:6379?{CANARY}@h", "%3F"),
    (f"http://u:{CANARY}@h:1/0", "redis://, rediss:// or unix://"),
    (f"u:{CANARY}@h:6379", "redis://, rediss:// or unix://"),
    ("redis", "redis://, rediss:// or unix://"),
    ("", "redis://, rediss:// or unix://"),
    (f"redis://u:{CANARY}@h:1/abc", "database"),
    (f"redis://u:{CANARY}@h:1/1/2", "database"),
    (f"redis://u:{CANARY}@h:1/-1", "database"),
    (f"redis://u:{CANARY}@h?db=abc", "database"),
    ("unix:///run/valkey.sock?db=abc", "database"),
    ("unix://?db=1", "socket"),
    (f"redis://h:1/0?{CANARY}=1", "db, password, username"),
    ("redis://h:1/0?ssl_ca_certs=ca.pem", "db, password, username"),
    (f"rediss://h:1/0?socket_timeout={CANARY}", "ssl_ca_certs"),
]


@pytest.mark.parametrize(("url", "words"), VALKEY_FAULTS)
def test_an_address_of_valkey_that_cannot_be_used_is_refused(
    url: str, words: str, file: Path
) -> None:
    file.write_text(json.dumps({"valkey": {"url": url}}))
    sentence = refusal(file)
    assert sentence.startswith("valkey.url: ")
    assert words in sentence


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6379/",
        "redis://[::1]:6379/15",
        "redis://:p%2Fw%23@h:1/0",
        "unix:///run/valkey.sock",
        "rediss://h:65535/2?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
    ],
)
def test_an_address_that_is_taken_is_one_that_the_client_takes(url: str, file: Path) -> None:
    file.write_text(json.dumps({"valkey": {"url": url}}))
    assert load_settings(file).valkey.url.get_secret_value() == url
    connect(url, ValkeyLimits()).connection_pool.make_connection()


# ------------------------------------------------------------------ secrets


URLS = [
    f"redis://user:{CANARY}@host:6379/0",
    f"redis://:{CANARY}@host",
    f"rediss://user:with:colons:{CANARY}@host",
    f"redis://user:p@{CANARY}@host",
    f"unix://user:{CANARY}@/run/valkey.sock?db=1",
    f"redis://host:6379/0?password={CANARY}",
    f"redis://host:6379/0?db=1&password={CANARY}&username=u",
]


@pytest.mark.parametrize("url", URLS)
def test_the_password_of_an_address_is_never_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_VALKEY__URL", url)
    settings = load_settings()
    assert settings.valkey.url.get_secret_value() == url
    for shown in (str(settings.shown()), repr(settings), str(settings), settings.model_dump_json()):
        assert CANARY not in shown


def test_an_address_without_its_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_VALKEY__URL", f"rediss://user:{CANARY}@host:6379/3?db=1")
    assert load_settings().shown()["valkey"]["url"] == "rediss://user:********@host:6379/3?db=1"
    monkeypatch.setenv("FRAUDSTREAM_VALKEY__URL", "redis://host:6379/3")
    assert load_settings().shown()["valkey"]["url"] == "redis://host:6379/3"


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "SASL.PASSWORD",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.jaas.config",
    ],
)
def test_a_secret_property_of_the_kafka_client_is_never_shown(file: Path, name: str) -> None:
    file.write_text(f"kafka: {{properties: {{security.protocol: SSL, {name}: {CANARY}}}}}\n")
    settings = load_settings(file)
    assert settings.kafka.properties[name] == CANARY
    shown = settings.shown()["kafka"]["properties"]
    assert shown == {"security.protocol": "SSL", name: "********"}


def test_the_key_of_the_tokens_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_EVENTS__CARD_NUMBER", "hmac")
    monkeypatch.setenv("FRAUDSTREAM_EVENTS__HMAC_KEY", CANARY * 3)
    settings = load_settings()
    assert settings.events.hmac_key.get_secret_value() == CANARY * 3
    for shown in (str(settings.shown()), repr(settings), str(settings)):
        assert CANARY not in shown


def test_what_is_shown_is_all_of_it_and_can_be_written_as_json() -> None:
    shown = json.loads(json.dumps(load_settings().shown()))
    assert set(shown) == set(Settings.model_fields)
    assert shown["events"]["hmac_key"] == ""


@pytest.mark.parametrize(
    "values",
    [
        {"valkey": {"url": [CANARY]}},
        {"events": {"hmac_key": [CANARY]}},
        {"kafka": {"properties": {"sasl.password": [CANARY]}}},
        {"worker_slot": CANARY},
        {CANARY[:3]: CANARY},
    ],
)
def test_no_error_of_the_validation_itself_shows_a_value(values: dict[str, Any]) -> None:
    """The sentences are made from it; should one ever escape, it is as silent."""
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"valkey: {{url: [{CANARY}]}}",
        f"valkey: {{url: {{password: {CANARY}}}}}",
        f"kafka: {{properties: {{sasl.password: [{CANARY}]}}}}",
        f"kafka: {{properties: {CANARY}}}",
        f"events: {{hmac_key: [{CANARY}]}}",
        f"events: {{card_number: {CANARY}}}",
        f"worker_slot: {CANARY}",
    ],
)
def test_no_error_shows_a_value(file: Path, text: str) -> None:
    file.write_text(text)
    assert refusal(file)  # which looks for the secret
