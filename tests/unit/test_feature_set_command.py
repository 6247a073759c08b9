"""``fraudstream feature-set``: what it shows, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fraudstream.bundle import load_bundle
from fraudstream.errors import ExitCode
from fraudstream.feature_files import default_feature_set

ROOT = Path(__file__).resolve().parents[2]


def invoke(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fraudstream", "feature-set", *(str(word) for word in words)],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(ended: subprocess.CompletedProcess[str], code: ExitCode) -> str:
    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


def test_it_lists_every_feature_and_series_with_their_meaning() -> None:
    ended = invoke("list")
    assert ended.returncode == ExitCode.OK, ended.stderr
    chosen = default_feature_set()
    assert chosen.sha256 in ended.stdout
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if line.strip()}
    for feature in chosen.features:
        assert feature.reason_code in lines[feature.name]
    assert lines["card_tx"].split()[-2:] == ["40", "31d"]
    assert lines["terminal_tx"].split()[-2:] == ["24", "38d"]
    assert "fraudstream" in ended.stdout.splitlines()[-1]


def test_json_says_the_same_of_file_and_bundle(tmp_path: Path) -> None:
    inside = tmp_path / "inside.yaml"  # every JSON document is YAML too
    inside.write_text(json.dumps(load_bundle(ROOT / "models/default").feature_set.document))
    shown = [
        json.loads(invoke("list", "--json", *words).stdout)
        for words in (
            [],
            ["--feature-set", "configs/features/default.yaml"],
            ["--bundle", "models/default"],
            ["--feature-set", inside],
        )
    ]
    assert shown[0] == shown[1]
    assert shown[2] == shown[3]
    by_name = {feature["name"]: feature for feature in shown[0]["features"]}
    assert by_name["terminal_fraud_rate_7d_lag7d"] == {
        "name": "terminal_fraud_rate_7d_lag7d",
        "meaning": "share of frauds at this terminal within 7 days, up to 7 days ago",
        "series": "terminal_label / terminal_tx",
        "window": "7d",
        "lag": "7d",
        "counts_present": "no",
        "when_empty": "0",
        "when_unknown": "nan",
        "reason_code": "TERMINAL_FRAUD",
    }
    assert by_name["card_tx_count_1d"]["counts_present"] == "yes"
    assert by_name["card_tx_count_1d"]["when_empty"] == "0"
    assert by_name["card_amount_mean_1d"]["when_empty"] == "nan"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("entity: card", "entity: crad"), "no entity 'crad'"),
        (("[1d, 7d, 30d]", "[0d]"), "out of range"),
        (("version: 1", "version: [1"), "not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(
    change: tuple[str, str], words: str, tmp_path: Path
) -> None:
    text = (ROOT / "configs/features/default.yaml").read_text("utf-8")
    assert change[0] in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(*change))
    line = sentence(invoke("list", "--feature-set", file), ExitCode.SETTINGS)
    assert words in line
    assert "mine.yaml" in line


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    line = sentence(invoke("list", "--feature-set", tmp_path / "no.yaml"), ExitCode.SETTINGS)
    assert "cannot be read" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["list", "--feature-set", "a.yaml", "--bundle", "b"], "--bundle"),
        (["audit", "--sample", "0"], "--sample"),
        (["audit", "--sample", "1.5"], "--sample"),
        (["audit", "--since", "yesterday"], "--since"),
        (["audit", "--since", "2026-02-01", "--until", "2026-01-01"], "2026-02-01"),
        (["audit", "--tolerance", "soon"], "--tolerance"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], named: str) -> None:
    assert named in sentence(invoke(*words), ExitCode.USAGE)


def test_an_audit_without_kafka_says_so() -> None:
    nowhere = {"FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    line = sentence(invoke("audit", **nowhere), ExitCode.UNAVAILABLE)
    assert "Kafka" in line
