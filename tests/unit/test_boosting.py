"""Fitting trees, and choosing among settings and lengths on folds: by hand, and by trying all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from fraudstream.score import Model
from fraudstream.training.boosting import Choice, Examples, Fitter, FoldExamples, steps_of
from fraudstream.training.recipe import BoosterSettings

COLUMNS = ("a", "b", "c")
QUICK = BoosterSettings(rounds_max=25, rounds_step=10, max_bin=32, max_depth=2)


def examples(rows: int, seed: int) -> Examples:
    """Make payments whose fraud takes two features together to be seen, and noise."""
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    is_fraud = (vectors[:, 0] * vectors[:, 1] > 0.3) & (rng.random(rows) < 0.9)
    vectors[rng.random(vectors.shape) < 0.05] = np.nan
    return Examples(vectors, is_fraud)


def folds(count: int = 2) -> list[FoldExamples]:
    return [
        FoldExamples(examples(600, seed=10 + number), examples(500, seed=20 + number))
        for number in range(count)
    ]


def figure(ubj: bytes, test: Examples) -> float:
    return float(average_precision_score(test.target, Model(ubj, COLUMNS).score(test.vectors)))


def try_all(
    fitter: Fitter, candidates: Sequence[BoosterSettings], of: Sequence[FoldExamples]
) -> dict[tuple[int, int], float]:
    """Fit every candidate for every number of rounds by itself; give the means over the folds."""
    return {
        (number, rounds): float(
            np.mean([figure(fitter.fit(f.train, settings, rounds), f.test) for f in of])
        )
        for number, settings in enumerate(candidates)
        for rounds in steps_of(settings)
    }


@pytest.mark.parametrize("tree_method", ["hist", "exact"])
def test_the_best_of_all_candidates_and_lengths_is_chosen(tree_method: str) -> None:
    candidates = [
        QUICK.model_copy(update={"max_depth": depth, "tree_method": tree_method, "max_bin": bins})
        for depth, bins in ((1, 32), (3, 32), (2, 16))
    ]
    fitter, of = Fitter(COLUMNS, seed=1), folds()
    means = try_all(fitter, candidates, of)
    (number, rounds) = max(means, key=lambda key: means[key])
    assert fitter.choose(candidates, of) == Choice(candidates[number], rounds)
    # A tree of depth 1 looks at one feature alone, which says nothing here.
    assert candidates[number].max_depth > 1


def test_longer_is_not_better_where_the_folds_say_so() -> None:
    """Trees that learn single payments by heart: what comes later is judged worse and worse."""
    settings = QUICK.model_copy(
        update={"max_depth": 8, "learning_rate": 1.0, "rounds_max": 30, "rounds_step": 3}
    )
    fitter, of = Fitter(COLUMNS, seed=1), folds()
    choice = fitter.choose([settings], of)
    means = try_all(fitter, [settings], of)
    assert choice.rounds == max(means, key=lambda key: means[key])[1] < 30


def test_where_there_is_nothing_to_choose_nothing_is_fitted() -> None:
    told: list[None] = []
    fitter = Fitter(COLUMNS, 1, lambda: told.append(None))
    only = QUICK.model_copy(update={"rounds_step": 25})
    assert fitter.choose([only], folds()) == Choice(only, 25)
    assert not told


def test_of_equal_candidates_the_first_and_shortest_is_chosen() -> None:
    same = BoosterSettings(rounds_max=30, rounds_step=10, max_bin=32, max_depth=2)
    alike = same.model_copy(update={"min_child_weight": 0.9999})
    # Nothing can be learnt from vectors that are all alike: every length is as good.
    rows = Examples(np.zeros((50, 3), np.float32), np.arange(50) % 2 == 0)
    fitter = Fitter(COLUMNS, seed=1)
    assert fitter.choose([same, alike], [FoldExamples(rows, rows)]) == Choice(same, 10)


# ------------------------------------------------------------------ the same again


def test_the_same_examples_and_seed_give_the_same_bytes() -> None:
    learnt = examples(600, seed=1)
    drawn = QUICK.model_copy(update={"subsample": 0.5, "colsample_bytree": 0.7})
    for settings in (QUICK, drawn):
        first, again = (Fitter(COLUMNS, 7).fit(learnt, settings, 10) for _ in range(2))
        assert first == again
    assert Fitter(COLUMNS, 7).fit(learnt, drawn, 10) != Fitter(COLUMNS, 8).fit(learnt, drawn, 10)
    # Where nothing is drawn there is nothing for a seed to change.
    assert Fitter(COLUMNS, 7).fit(learnt, QUICK, 10) == Fitter(COLUMNS, 8).fit(learnt, QUICK, 10)


def test_a_fit_is_that_many_rounds_and_says_nothing_of_its_run() -> None:
    told: list[None] = []
    ubj = Fitter(COLUMNS, 1, lambda: told.append(None)).fit(examples(600, 1), QUICK, 7)
    assert len(told) == 7
    assert b"best_iteration" not in ubj
    assert b"best_score" not in ubj


def test_more_rounds_go_on_where_fewer_ended() -> None:
    """So that the figures of all lengths can be had of one fit."""
    learnt, test = examples(600, seed=1), examples(500, seed=2)
    fitter = Fitter(COLUMNS, seed=1)
    scores: list[NDArray[np.float32]] = [
        Model(fitter.fit(learnt, QUICK, rounds), COLUMNS).score(test.vectors) for rounds in (10, 11)
    ]
    assert (scores[0] != scores[1]).any()
    assert np.abs(scores[0] - scores[1]).max() < 0.1


def test_a_share_can_be_learnt_as_well_as_a_truth() -> None:
    """A student learns its teacher's scores."""
    learnt = examples(600, seed=1)
    shares = np.where(learnt.target, 0.8, 0.1).astype(np.float32)
    scores = Model(Fitter(COLUMNS, 1).fit(Examples(learnt.vectors, shares), QUICK, 25), COLUMNS)
    found = scores.score(learnt.vectors)
    assert found.min() > 0.05
    assert found.max() < 0.85
    assert figure(Fitter(COLUMNS, 1).fit(Examples(learnt.vectors, shares), QUICK, 25), learnt) > 0.8
