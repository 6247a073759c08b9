"""Labelled vectors → model bundle. The same rows and recipe give the same bytes.

    rows ─┬─ folds ─▶ settings and rounds ─▶ figures, calibration ─┐
          └─ the last days ─▶ model, fallback, golden vectors ─────┴─▶ bundle

The settings are chosen, and the quality is measured, on prequential folds: models that were made
alike and judged on later payments. The model itself then learns from the latest days, up to the
end, with nothing held back.

A tenth of the training rows is shown to the model a second time with their longer windows
forgotten, because it meets such vectors after a loss of profiles: a model that never saw a
missing value scores them arbitrarily.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.bundle_writing import BundleDraft
from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.feature_set import FeatureSet
from fraudstream.features import Feature
from fraudstream.manifest import CalibrationRecord, FoldQuality, Period, Training
from fraudstream.score import Model, require_device
from fraudstream.training.boosting import (
    Choice,
    Examples,
    Fitter,
    FoldExamples,
    side_by_side,
    steps_of,
)
from fraudstream.training.calibrating import fit_calibration
from fraudstream.training.card import write_card
from fraudstream.training.dataset import LabelledVectors, concatenate, require_both_kinds
from fraudstream.training.protocol import Fold, cut_folds, cut_training, each_fold
from fraudstream.training.quality import measure, summarise
from fraudstream.training.recipe import Recipe

_GOLDEN_ROWS: Final = 48
#: Above all amounts and counts that occur.
_FAR_OUT: Final = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A fold, what models made on it give to its test rows, and how good that is."""

    test: LabelledVectors
    scores: NDArray[np.float32]
    record: FoldQuality


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What the folds say of a recipe.

    Attributes
    ----------
    folds
        How good models made on each are.
    main, spare
        The settings that were best, of the model and of the fallback model.
    test, scores
        All test rows, and what models that did not learn from them give them.
    golden
        Shape (n, features): the last fold's test vectors, to choose golden vectors from.
    """

    folds: tuple[FoldQuality, ...]
    main: Choice
    spare: Choice
    test: LabelledVectors
    scores: NDArray[np.float32]
    golden: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Columns:
    """The model's features, and which of them the fallback model has.

    Raises
    ------
    UsageError
        None of them can be known without profiles.
    """

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        if not self.stateless:
            raise UsageError("no feature is left for the fallback model; add `amount`")

    @property
    def stateless(self) -> list[int]:
        """The columns that need no profile."""
        return [index for index, feature in enumerate(self.features) if feature.is_stateless]

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(feature.name for feature in self.features)

    @property
    def fallback_names(self) -> tuple[str, ...]:
        """The names of the fallback model's columns."""
        return tuple(self.names[index] for index in self.stateless)


class Trainer:
    """Makes bundles of labelled vectors by one recipe.

    Parameters
    ----------
    recipe
        Periods, parameters, seeds.
    feature_set
        What features there are.
    on_round
        Told after every round of every fit; `rounds` says how many there are at most.

    Raises
    ------
    UsageError
        The recipe contradicts itself.
    FeatureSetError
        The recipe names a feature that there is not.
    """

    def __init__(
        self, recipe: Recipe, feature_set: FeatureSet, on_round: Callable[[], None] = lambda: None
    ) -> None:
        names = recipe.features
        features = feature_set.features if names is None else feature_set.select(names)
        self.recipe, self.feature_set = recipe, feature_set
        self.columns = Columns(features)
        self.candidates = recipe.candidates()
        for settings in (*self.candidates, recipe.fallback):
            require_device(settings.device)
        if odd := sorted(set(recipe.reasons) - set(self.columns.names)):
            raise UsageError(f"the recipe's `reasons` name {odd[0]!r}, which is no feature of its")
        self._fitter = Fitter(self.columns.names, recipe.seed, on_round)
        self._fallback_fitter = Fitter(self.columns.fallback_names, recipe.seed, on_round)

    def telling(self, on_round: Callable[[], None]) -> Trainer:
        """Give the same trainer, which tells of every round."""
        return Trainer(self.recipe, self.feature_set, on_round)

    @property
    def rounds(self) -> int:
        """How many rounds are fitted at most, over all folds and candidates."""
        searched = sum(settings.rounds_max for settings in self.candidates)
        longest = max(settings.rounds_max for settings in self.candidates)
        spare = self.recipe.fallback.rounds_max
        folds = self.recipe.folds.count
        return folds * (searched + spare) + (folds + 1) * (longest + spare)

    def train(self, rows: LabelledVectors, name: str) -> BundleDraft:
        """Train the model and its fallback, for `fraudstream.bundle_writing.write_bundle`.

        Parameters
        ----------
        rows
            Labelled vectors in event-time order, their columns the recipe's features.
        name
            What the model is called in its manifest and in every decision.

        Raises
        ------
        UsageError
            The rows cover too few days, or a period has no frauds.
        """
        train_ms = cut_training(rows.start_ms, rows.end_ms, self.recipe.fold_plan)
        learnt = rows.between(*train_ms)
        require_both_kinds(learnt, "the training period")
        judged = self.judge(rows)
        model_ubj, fallback_ubj = self._fit_both(learnt, judged.main, judged.spare)
        about = self._about(name, judged) | {
            "training": self._record(_period(train_ms, learnt), learnt, judged).model_dump(),
        }
        model = Model(model_ubj, self.columns.names)
        golden = golden_vectors(judged.golden, model, self.columns.features)
        return BundleDraft(about, model_ubj, fallback_ubj, golden, write_card(about))

    def judge(self, rows: LabelledVectors) -> Judgement:
        """Choose settings and measure quality on folds, without making the model itself.

        Raises
        ------
        UsageError
            As for `train`.
        """
        plan = self.recipe.fold_plan
        folds = cut_folds(rows.start_ms, rows.end_ms, plan)
        pairs = each_fold(rows, folds, plan.label_delay_days)
        parts = [(fold, train, test) for fold, (train, test) in zip(folds, pairs, strict=True)]
        for _, train_rows, test_rows in parts:
            require_both_kinds(train_rows, "a fold's training period")
            require_both_kinds(test_rows, "a fold's test period")
        main = self._choose([rows_of for _, *rows_of in parts])
        spare = self._choose_spare([rows_of for _, *rows_of in parts])
        judged = self._judge(parts, main, spare)
        return Judgement(
            tuple(fold.record for fold in judged),
            main,
            spare,
            concatenate([fold.test for fold in judged]),
            np.concatenate([fold.scores for fold in judged]),
            judged[-1].test.vectors,
        )

    def _choose(self, folds: Sequence[Sequence[LabelledVectors]]) -> Choice:
        examples = [
            FoldExamples(self._shown(train), Examples(test.vectors, test.is_fraud))
            for train, test in folds
        ]
        return self._fitter.choose(self.candidates, examples)

    def _choose_spare(self, folds: Sequence[Sequence[LabelledVectors]]) -> Choice:
        """Choose how long the fallback model learns."""
        columns = self.columns.stateless
        examples = [
            FoldExamples(
                Examples(train.columns(columns), train.is_fraud),
                Examples(test.columns(columns), test.is_fraud),
            )
            for train, test in folds
        ]
        return self._fallback_fitter.choose([self.recipe.fallback], examples)

    def _shown(self, rows: LabelledVectors) -> Examples:
        recipe = self.recipe
        return with_forgotten_windows(
            Examples(rows.vectors, rows.is_fraud),
            self.columns.features,
            recipe.forgotten_share,
            recipe.seed,
        )

    def _fit_both(self, rows: LabelledVectors, main: Choice, spare: Choice) -> tuple[bytes, bytes]:
        stateless = Examples(rows.columns(self.columns.stateless), rows.is_fraud)
        return (
            self._fitter.fit(self._shown(rows), main.settings, main.rounds),
            self._fallback_fitter.fit(stateless, spare.settings, spare.rounds),
        )

    def _judge(
        self,
        parts: Sequence[tuple[Fold, LabelledVectors, LabelledVectors]],
        main: Choice,
        spare: Choice,
    ) -> list[_Judged]:
        """Make models as the final one is made, on each fold, and score what came after."""

        def judge(part: tuple[Fold, LabelledVectors, LabelledVectors]) -> _Judged:
            fold, train, test = part
            ubj, fallback_ubj = self._fit_both(train, main, spare)
            scores = Model(ubj, self.columns.names).score(test.vectors)
            fallback = Model(fallback_ubj, self.columns.fallback_names)
            record = FoldQuality(
                train=_period(fold.train_ms, train),
                test=_period(fold.test_ms, test),
                quality=measure(scores, test),
                fallback_quality=measure(
                    fallback.score(test.columns(self.columns.stateless)), test
                ),
            )
            return _Judged(test, scores, record)

        with side_by_side() as pool:
            return list(pool.map(judge, parts))

    def _about(self, name: str, judged: Judgement) -> dict[str, Any]:
        quality, deviation = summarise([fold.quality for fold in judged.folds])
        fallback, _ = summarise([fold.fallback_quality for fold in judged.folds])
        calibration = self._calibrate(judged)
        words = {f.name: {"code": f.reason_code, "text": f.meaning} for f in self.columns.features}
        own = {name: reason.model_dump() for name, reason in self.recipe.reasons.items()}
        return {
            "name": name,
            "version": self.recipe.version,
            "feature_set": self.feature_set.document,
            "feature_set_sha256": self.feature_set.sha256,
            "features": [feature.definition() for feature in self.columns.features],
            "fallback_features": list(self.columns.fallback_names),
            "reasons": words | own,
            "label_maturity": self.recipe.label_maturity,
            "quality": quality.model_dump(),
            "quality_deviation": deviation.model_dump(),
            "fallback_quality": fallback.model_dump(),
            "calibration": None if calibration is None else calibration.model_dump(),
            "variant": None,
        }

    def _calibrate(self, judged: Judgement) -> CalibrationRecord | None:
        method = self.recipe.calibration
        if method == "none":
            return None
        return fit_calibration(
            method,
            judged.scores,
            judged.test.is_fraud,
            f"{len(judged.test)} payments of {len(judged.folds)} folds, scored by models made on "
            "the days before them",
        )

    def _record(self, period: Period, learnt: LabelledVectors, judged: Judgement) -> Training:
        recipe = self.recipe
        return Training(
            data=recipe.data,
            data_sha256=learnt.sha256(),
            train=period,
            folds=judged.folds,
            label_delay_days=recipe.label_delay_days,
            forgotten_share=recipe.forgotten_share,
            seed=recipe.seed,
            parameters=judged.main.settings.parameters(recipe.seed),
            rounds=judged.main.rounds,
            fallback_rounds=judged.spare.rounds,
            candidates=sum(len(steps_of(settings)) for settings in self.candidates),
        )


def with_forgotten_windows(
    examples: Examples, features: Sequence[Feature], share: float, seed: int
) -> Examples:
    """Add copies of some rows that lack every window reaching back further than a random one.

    Parameters
    ----------
    examples
        The training rows.
    features
        Their columns.
    share
        How many of the rows are copied, 0 to 1.
    seed
        Which.
    """
    reaches_ms = np.array([f.window.reach_ms if f.window else 0 for f in features])
    choices_ms = np.unique(reaches_ms[reaches_ms > 0])
    rng = np.random.default_rng(seed)
    copied = np.flatnonzero(rng.random(len(examples.vectors)) < share)
    if not len(choices_ms) or not len(copied):
        return examples
    forgotten_from_ms = rng.choice(choices_ms, len(copied))
    copies = examples.vectors[copied]
    copies[reaches_ms[None, :] >= forgotten_from_ms[:, None]] = np.nan
    return Examples(
        np.concatenate((examples.vectors, copies)),
        np.concatenate((examples.target, examples.target[copied]), dtype=np.float32),
    )


def golden_vectors(
    vectors: NDArray[np.float32], model: Model, features: Sequence[Feature]
) -> NDArray[np.float32]:
    """Choose vectors that show whether a model scores as it did when it was made.

    Rows from the lowest score to the highest, some of them again without profiles, each column
    missing once, and vectors far from all that occurs.

    Returns
    -------
    golden
        Shape (some dozens, features), float32.
    """
    by_score = np.argsort(model.score(vectors), kind="stable")
    places = np.linspace(0, len(by_score) - 1, _GOLDEN_ROWS).astype(np.int64)
    chosen = vectors[by_score[places]]
    without_profiles = chosen[::8].copy()
    without_profiles[:, [not feature.is_stateless for feature in features]] = np.nan
    one_missing = np.repeat(chosen[-1:], len(features), axis=0)
    np.fill_diagonal(one_missing, np.nan)
    odd = np.array([[np.nan], [0.0], [-1.0], [_FAR_OUT]], np.float32).repeat(len(features), 1)
    return np.concatenate((chosen, without_profiles, one_missing, odd))


def _period(bounds_ms: tuple[int, int], rows: LabelledVectors) -> Period:
    start_ms, end_ms = bounds_ms
    return Period(
        start=format_time(start_ms),
        end=format_time(end_ms),
        transactions=len(rows),
        frauds=int(rows.is_fraud.sum()),
    )
