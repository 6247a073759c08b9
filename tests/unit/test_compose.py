"""What docker-compose.yml and deploy/ promise, as far as it can be shown without an engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fraudstream.cli import app
from fraudstream.errors import ExitCode
from fraudstream.metrics import WorkerMetrics
from fraudstream.pipeline import InputTopics
from fraudstream.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+(-[\w.]+)*$")
METRIC = re.compile(r"\bfraudstream_[a-z_]+")

compose: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
services: dict[str, dict[str, Any]] = compose["services"]
dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")

each_service = pytest.mark.parametrize("name", services)


def test_the_file_fits_the_compose_schema() -> None:
    check = subprocess.run(
        [
            sys.executable,
            *("-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_all_parts_are_there() -> None:
    parts = {"kafka", "valkey", "topics", "worker-0", "worker-1", "prometheus", "grafana"}
    assert set(services) == parts


@each_service
def test_every_image_is_pinned(name: str) -> None:
    assert PINNED.match(services[name]["image"])


def test_the_dockerfile_starts_from_pinned_images() -> None:
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert bases
    assert all(PINNED.match(base) for base in bases)
    assert "--require-hashes" in dockerfile


def test_our_image_carries_our_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    ours = {item["image"] for item in services.values() if item["image"].startswith("fraudstream")}
    assert ours == {f"fraudstream:{version[1]}"}


@each_service
def test_nothing_runs_as_root(name: str) -> None:
    user, _, _ = services[name]["user"].partition(":")
    assert int(user) > 0


def test_the_image_itself_is_not_root() -> None:
    last = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1]
    assert last == services["worker-0"]["user"]


@each_service
def test_every_service_is_locked_down(name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "cap_add" not in service
    assert "privileged" not in service


@each_service
def test_nothing_listens_beyond_this_machine(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in services[name].get("ports", []))


@each_service
def test_what_others_wait_for_can_be_waited_for(name: str) -> None:
    for other, wait in services[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in services[other]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert services[other]["restart"] == "on-failure"


def test_workers_differ_only_in_what_follows_from_their_slot() -> None:
    port = int(services["worker-0"]["environment"]["FRAUDSTREAM_METRICS__PORT"])
    scraped = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))
    (targets,) = (
        target["targets"]
        for job in scraped["scrape_configs"]
        if job["job_name"] == "fraudstream"
        for target in job["static_configs"]
    )
    for slot in (0, 1):
        worker = services[f"worker-{slot}"]
        assert worker["environment"]["FRAUDSTREAM_WORKER_SLOT"] == str(slot)
        assert worker["ports"] == [f"127.0.0.1:{port + slot}:{port + slot}"]
        assert f":{port + slot}/" in worker["healthcheck"]["test"][-1]
        assert f"worker-{slot}:{port + slot}" in targets


@pytest.mark.parametrize("name", ["topics", "worker-0", "worker-1"])
def test_our_services_use_commands_and_settings_that_exist(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services[name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.model.bundle == "/app/models/default"
    shown = CliRunner().invoke(app, [*service["command"], "--help"])
    assert shown.exit_code == 0, shown.output


def test_valkey_never_evicts() -> None:
    assert "--maxmemory-policy noeviction" in " ".join(services["valkey"]["command"])


@each_service
def test_mounted_files_exist(name: str) -> None:
    for volume in services[name].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), volume
            assert volume.endswith(":ro")
        else:
            assert source in compose["volumes"]


def _dashboard_queries() -> dict[str, str]:
    file = ROOT / "deploy/grafana/dashboards/fraudstream.json"
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    return {
        f"{panel['title']}/{target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", [])
    }


def _alert_queries() -> dict[str, str]:
    rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text(encoding="utf-8"))
    return {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def _metric_names() -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {
        family.name + suffix
        for family in WorkerMetrics(InputTopics("t", "l")).registry.collect()
        for suffix in suffixes[family.type]
    }


@pytest.mark.parametrize(
    ("place", "query"), [*_dashboard_queries().items(), *_alert_queries().items()]
)
def test_every_query_asks_for_metrics_that_exist(place: str, query: str) -> None:
    asked = set(METRIC.findall(query)) or {"up"} & set(query.split("{"))
    assert asked, place
    assert asked - {"up"} <= _metric_names()


def test_every_metric_is_in_the_run_book() -> None:
    run_book = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in _metric_names()}
    assert not [name for name in families if not re.search(rf"`{name}[`{{]", run_book)]


def test_every_exit_code_is_in_the_run_book() -> None:
    run_book = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert not [code for code in ExitCode if f"| {int(code)} | `{code.name}` |" not in run_book]


def test_every_alert_points_into_the_run_book() -> None:
    rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text(encoding="utf-8"))
    run_book = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in run_book
