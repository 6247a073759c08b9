"""Fitting boosted trees, and choosing their settings on folds.

    candidate settings × folds ─▶ a booster each ─▶ average precision after 20, 40, … rounds
                                                         └─ mean over folds, the best is chosen

Each fit has one thread, so its bytes do not depend on the machine's load; folds are fitted side by
side. Nothing is chosen by what the final model is later judged on, but the folds' own figures are
those of the settings that were best on them, and so a little too good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from fraudstream.training.recipe import BoosterSettings

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a model learns from: n vectors, and which are frauds (a share in a student's case)."""

    vectors: Vectors
    target: NDArray[np.bool_] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FoldExamples:
    """What is learnt from in a fold, and what it is judged on."""

    train: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class Choice:
    """What was best on the folds: a candidate, and how many rounds it learns."""

    settings: BoosterSettings
    rounds: int


@dataclass(frozen=True, slots=True)
class Fitter:
    """How boosters are fitted.

    Parameters
    ----------
    columns
        The features' names.
    seed
        Of what is drawn by chance, where a setting asks for that.
    on_round
        Told after every round of every fit.
    """

    columns: tuple[str, ...]
    seed: int
    on_round: Callable[[], None] = lambda: None

    def fit(self, examples: Examples, settings: BoosterSettings, rounds: int) -> bytes:
        """Fit one model, in XGBoost's UBJSON format."""
        booster = self._train(self._matrix(examples, settings), settings, rounds)
        # Attributes of the run would only be dead weight in the file.
        booster.set_attr(**dict.fromkeys(booster.attributes()))
        return bytes(booster.save_raw("ubj"))

    def choose(
        self, candidates: Sequence[BoosterSettings], folds: Sequence[FoldExamples]
    ) -> Choice:
        """Find the settings and the number of rounds whose mean over the folds is best."""
        if len(candidates) == 1 and len(steps_of(candidates[0])) == 1:
            return Choice(candidates[0], candidates[0].rounds_max)
        with side_by_side() as pool:
            # By fold, by candidate: figures after each step of rounds.
            figures = list(pool.map(lambda fold: self._judge(candidates, fold), folds))
        means = [np.mean(of_candidate, axis=0) for of_candidate in zip(*figures, strict=True)]
        best = max(range(len(candidates)), key=lambda number: float(means[number].max()))
        rounds = steps_of(candidates[best])[int(means[best].argmax())]
        return Choice(candidates[best], rounds)

    def _judge(
        self, candidates: Sequence[BoosterSettings], fold: FoldExamples
    ) -> list[NDArray[np.float64]]:
        matrices: dict[tuple[str, int], xgboost.DMatrix] = {}
        found = []
        for settings in candidates:
            kind = (settings.tree_method, settings.max_bin)
            if kind not in matrices:
                matrices.clear()  # one at a time: they are large
                matrices[kind] = self._matrix(fold.train, settings)
            steps = steps_of(settings)
            booster = self._train(matrices[kind], settings, steps[-1])
            found.append(_figures_by_step(booster, steps, fold.test))
        return found

    def _matrix(self, examples: Examples, settings: BoosterSettings) -> xgboost.DMatrix:
        names = list(self.columns)
        if settings.tree_method == "exact":
            return xgboost.DMatrix(
                examples.vectors, label=examples.target, feature_names=names, nthread=1
            )
        return xgboost.QuantileDMatrix(
            examples.vectors,
            label=examples.target,
            feature_names=names,
            nthread=1,
            max_bin=settings.max_bin,
        )

    def _train(
        self, matrix: xgboost.DMatrix, settings: BoosterSettings, rounds: int
    ) -> xgboost.Booster:
        return xgboost.train(
            settings.parameters(self.seed),
            matrix,
            rounds,
            callbacks=[_Told(self.on_round)],
            verbose_eval=False,
        )


def side_by_side() -> ThreadPoolExecutor:
    """Make room for one fit a core: each has one thread, so its bytes depend on none of it."""
    return ThreadPoolExecutor(max(1, os.cpu_count() or 1))


def steps_of(settings: BoosterSettings) -> list[int]:
    """Say after how many rounds a candidate is looked at.

    Examples
    --------
    >>> steps_of(BoosterSettings(rounds_max=50, rounds_step=20))
    [20, 40, 50]
    """
    steps = list(range(settings.rounds_step, settings.rounds_max, settings.rounds_step))
    return [*steps, settings.rounds_max]


def _figures_by_step(
    booster: xgboost.Booster, steps: Sequence[int], test: Examples
) -> NDArray[np.float64]:
    """Judge the first trees, then some more, and so on; each tree is walked through once."""
    margin = np.zeros(len(test.vectors))
    figures = []
    for start, end in zip([0, *steps], steps, strict=False):
        # Each part brings the same base score, which changes no rank.
        margin += booster.inplace_predict(
            test.vectors, iteration_range=(start, end), predict_type="margin", missing=np.nan
        )
        figures.append(average_precision_score(test.target, margin))
    return np.array(figures)


class _Told(xgboost.callback.TrainingCallback):
    """Tells of every round."""

    def __init__(self, on_round: Callable[[], None]) -> None:
        super().__init__()
        self._on_round = on_round

    def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:
        self._on_round()
        return False
