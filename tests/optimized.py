"""A small model and all of its variants, made by the product's own commands, once a session."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from labelled import read
from typer.testing import CliRunner, Result

from fraudstream.bundle import Bundle, load_bundle
from fraudstream.cli import app
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream

KINDS = ("pruned", "distilled", "quantised", "onnx", "distilled-onnx")
#: So low that the small model's scores lie on all sides of them.
THRESHOLDS = (0.1, 0.6)
CONFIG = "policy: {review_threshold: 0.1, decline_threshold: 0.6}\n"
RECIPE = """\
folds: {count: 1, train_days: 28, test_days: 7}
booster: {rounds_max: 60, rounds_step: 60, max_depth: 4, max_bin: 256}
fallback: {rounds_max: 10, rounds_step: 10, max_depth: 2}
calibration: sigmoid
"""


@dataclass(frozen=True)
class Optimized:
    """Where everything is.

    The stream has 56 days; the teacher learnt from days 8 to 35, so days 43 to 56 are judged.
    """

    folder: Path
    #: What the command printed, as JSON.
    printed: dict[str, list[dict[str, object]]]

    @property
    def file(self) -> Path:
        return self.folder / "stream.parquet"

    @property
    def config(self) -> Path:
        return self.folder / "low.yaml"

    @property
    def teacher_path(self) -> Path:
        return self.folder / "small"

    def path(self, kind: str) -> Path:
        return self.folder / f"small-{kind}"

    @functools.cached_property
    def teacher(self) -> Bundle:
        return load_bundle(self.teacher_path)

    def variant(self, kind: str) -> Bundle:
        return load_bundle(self.path(kind))

    @functools.cached_property
    def rows(self) -> LabelledVectors:
        return read(self.file)


def optimize(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["model", "optimize", *map(str, arguments)])


@functools.cache
def optimized(base: Path) -> Optimized:
    """Make everything below a folder, which stands for the session."""
    folder = base / "optimized"
    folder.mkdir()
    spec = SimulationSpec(cards=150, terminals=300, days=56, seed=4)
    write_stream(simulate(spec), folder / "stream.parquet")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "low.yaml").write_text(CONFIG)
    train = ("train", folder / "stream.parquet", "--recipe", folder / "recipe.yaml")
    trained = CliRunner().invoke(
        app, [*map(str, train), "--until", "2026-02-04", "--out", str(folder / "small")]
    )
    assert trained.exit_code == 0, trained.output
    made = optimize(
        *(folder / "small", folder / "stream.parquet", "--out", folder),
        *("--config", folder / "low.yaml", "--ap-loss-max", 0.02, "--json"),
    )
    assert made.exit_code == 0, made.output
    return Optimized(folder, json.loads(made.stdout))
