"""A small world, a model of its first weeks, and what it is measured on, for tests of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from feature_names import DEFAULT
from labelled import made_rows, read

from fraudstream.bundle import Bundle
from fraudstream.bundle_writing import write_bundle
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors, Reading
from fraudstream.training.recipe import BoosterSettings, FoldSettings, Recipe
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream
from fraudstream.training.train import Trainer

#: 2026-01-01, the first day of simulated streams.
START_MS = 1_767_225_600_000
LEARNT_DAYS = 35
#: After the training and a week of label delay; two folds of six days, and two days more.
MEASURED_FROM_MS = START_MS + (LEARNT_DAYS + 7) * DAY_MS
DAYS = 56

RECIPE = Recipe(
    data="made up",
    label_maturity="complete",
    folds=FoldSettings(count=1, train_days=21, test_days=7),
    booster=BoosterSettings(rounds_max=20, rounds_step=20, max_bin=64, max_depth=3),
    fallback=BoosterSettings(rounds_max=5, rounds_step=5, max_bin=64, max_depth=2),
)


@dataclass(frozen=True)
class World:
    """A file of payments with a ``channel``, a model of its first weeks, and where that lies."""

    file: Path
    rows: LabelledVectors
    bundle: Bundle
    folder: Path


def make_world(folder: Path) -> World:
    """Simulate, learn from the first weeks, and read all of it again."""
    file = folder / "world.parquet"
    write_stream(simulate(SimulationSpec(cards=150, terminals=300, days=DAYS, seed=4)), file)
    channels = ("web", "pos", "atm")
    frame = pl.read_parquet(file)
    channel = pl.Series("channel", [channels[number % 3] for number in range(len(frame))])
    frame.with_columns(channel).write_parquet(file)
    learnt = Reading(DEFAULT, until_ms=START_MS + LEARNT_DAYS * DAY_MS)
    draft = Trainer(RECIPE, DEFAULT).train(read(file, reading=learnt), "small")
    bundle = write_bundle(folder / "small", draft)
    rows = read(file, reading=Reading(DEFAULT, segment="channel"))
    return World(file, rows, bundle, folder / "small")


def payments(
    *lines: tuple[float, str, bool], amounts_minor: Sequence[int] = (), segments: Sequence[str] = ()
) -> LabelledVectors:
    """Make rows of days, cards and truths, with vectors that nobody looks at."""
    days, cards, truths = zip(*lines, strict=True)
    rows = made_rows(
        np.zeros((len(lines), 1), np.float32),
        np.array(truths, dtype=np.bool_),
        np.array([round(day * DAY_MS) for day in days], dtype=np.int64),
        cards,
    )
    if amounts_minor:
        rows = replace(rows, amount_minor=np.array(amounts_minor, dtype=np.int64))
    return replace(rows, segment=np.array(segments, dtype=object)) if segments else rows


def scores_of(*scores: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Write scores as a model gives them."""
    return np.array(scores, dtype=np.float32)
