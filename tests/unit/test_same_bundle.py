"""Who trains the same again gets the same bundle: in another process, with other threads.

By the command, in processes of their own: a hash that depended on the order of a set, on how many
threads add numbers up, or on a clock would be another one in the next.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xgboost
from typer.testing import CliRunner

from fraudstream.bundle import load_bundle
from fraudstream.cli import app
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream

#: Folds, a choice, rows shown twice, a calibration: everything that could differ.
PLAIN = """\
data: made up
folds: {count: 2, train_days: 14, test_days: 6}
booster: {rounds_max: 20, rounds_step: 10, max_bin: 64, max_depth: 3}
fallback: {rounds_max: 10, rounds_step: 5, max_bin: 64}
search: {max_depth: [2, 3]}
calibration: sigmoid
"""
DRAWN = PLAIN.replace("max_depth: 3}", "max_depth: 3, subsample: 0.5, colsample_bytree: 0.6}")
NOTHING_DRAWN = PLAIN + "forgotten_share: 0\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "stream.parquet"
    write_stream(simulate(SimulationSpec(cards=80, terminals=160, days=35, seed=2)), file)
    return file


def words_of(data: Path, folder: Path, recipe: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    words = ["train", str(data), "--recipe", str(folder / "recipe.yaml")]
    return [*words, "--out", str(folder / "mine")]


def files_of(folder: Path, shown: str) -> dict[str, bytes]:
    assert f"sha256 {load_bundle(folder / 'mine').sha256}" in shown
    return {entry.name: entry.read_bytes() for entry in (folder / "mine").iterdir()}


def train(data: Path, folder: Path, recipe: str) -> dict[str, bytes]:
    """Train in this process; give all of the bundle's files."""
    words = words_of(data, folder, recipe)
    return files_of(folder, CliRunner().invoke(app, words, catch_exceptions=False).stdout)


def train_elsewhere(data: Path, folder: Path, **environment: str) -> dict[str, bytes]:
    """Train in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "fraudstream", *words_of(data, folder, DRAWN)],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return files_of(folder, done.stdout)


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return train(data, tmp_path_factory.mktemp("first"), DRAWN)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3", "TZ": "Asia/Tokyo"},
    ],
    ids=["one thread", "three threads, elsewhere"],
)
def test_the_same_command_gives_the_same_bytes(
    data: Path, tmp_path: Path, first: dict[str, bytes], environment: dict[str, str]
) -> None:
    assert train(data, tmp_path / "again", DRAWN) == first
    assert train_elsewhere(data, tmp_path / "elsewhere", **environment) == first


def test_the_same_payments_in_another_kind_of_file_and_order_give_the_same_bytes(
    tmp_path: Path, first: dict[str, bytes]
) -> None:
    file = tmp_path / "stream.csv"
    write_stream(simulate(SimulationSpec(cards=80, terminals=160, days=35, seed=2)), file)
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert train(file, tmp_path, DRAWN) == first


def test_another_seed_gives_other_trees_where_something_is_drawn_by_chance(
    data: Path, tmp_path: Path, first: dict[str, bytes]
) -> None:
    other = train(data, tmp_path, DRAWN + "seed: 2\n")
    assert other["manifest.sha256"] != first["manifest.sha256"]
    assert other["model.ubj"] != first["model.ubj"]


def test_another_seed_changes_no_tree_where_nothing_is(data: Path, tmp_path: Path) -> None:
    """But the manifest says which seed it was, so it is another bundle."""
    one = train(data, tmp_path / "1", NOTHING_DRAWN)
    two = train(data, tmp_path / "2", NOTHING_DRAWN + "seed: 2\n")
    assert two["manifest.sha256"] != one["manifest.sha256"]
    assert two["model.ubj"] == one["model.ubj"]
    assert two["golden.json"] == one["golden.json"]


def test_a_model_file_says_nothing_of_when_and_where_it_was_made(first: dict[str, bytes]) -> None:
    booster = xgboost.Booster(model_file=bytearray(first["model.ubj"]))
    assert booster.attributes() == {}
    for content in first.values():
        assert os.fsencode(Path.home()) not in content
        assert b"/tmp" not in content
