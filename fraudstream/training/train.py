"""Labelled stream → model bundle. The same stream and settings give the same bytes.

    stream ─▶ vectors (as online) ─▶ train │ delay │ validation ─▶ model, fallback ─▶ bundle

XGBoost's parameters are chosen knowingly. Its 256 histogram bins cannot separate the 0.2 % of
amounts above 220 from the rest (average precision 0.759 instead of 0.771 with the shipped
settings), and on the reference data a fitted ``base_score`` costs about as much; so there are
4,096 bins and a fixed 0.5. One thread: the order of sums, and so the model, does not depend on
the machine's load. Rounds end early on the validation period's average precision, which makes
the figures reported on that period a little too good.

A tenth of the training rows is shown to the model a second time with their longer windows
forgotten, because it meets such vectors after a loss of profiles: a model that never saw a
missing value scores them arbitrarily.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import xgboost
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fraudstream.bundle import BundleDraft
from fraudstream.currency import minor_units_per_major
from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.feature_files import default_feature_set
from fraudstream.feature_set import FeatureSet
from fraudstream.features import Feature
from fraudstream.manifest import Period, Quality, Training
from fraudstream.profile import DAY_MS, ProfileDefinition
from fraudstream.score import Model
from fraudstream.training.card import write_card
from fraudstream.training.dataset import LabelledVectors, Periods, build_vectors, split_periods
from fraudstream.training.quality import measure
from fraudstream.training.stream_file import LabelledStream

_GOLDEN_ROWS: Final = 48
#: Above all amounts and counts that occur.
_FAR_OUT: Final = 1e9

Days = Annotated[int, Field(ge=0, le=3650)]


class TrainingSettings(BaseModel):
    """What a training run needs besides its data; the fields of a file in configs/training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Written into the manifest and into every decision.
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "1"
    #: What the data are, and how final their labels, in words for the model card.
    data: str = "not stated"
    label_maturity: str = "not stated"
    #: The profiles' currency.
    currency: str = "EUR"
    #: The feature set (docs/features.md); the one that comes with the package if there is none.
    feature_set: Path | None = None
    #: Which of its features are the model's columns, in order; all of them if nothing is said. The
    #: fallback model gets those that need no profile.
    features: tuple[str, ...] | None = None
    #: Not learnt from, at the start. 0: profiles still filling up are part of what is learnt.
    warm_up_days: Days = 0
    #: How long after a payment its label is known.
    label_delay_days: Days = 7
    #: At the end of the stream.
    validation_days: Annotated[int, Field(ge=1, le=3650)] = 14
    #: Share of training rows shown again with their longer windows forgotten.
    forgotten_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    rounds_max: Annotated[int, Field(ge=1, le=10_000)] = 600
    #: Rounds without a better average precision before it ends.
    patience_rounds: Annotated[int, Field(ge=1)] = 40
    max_depth: Annotated[int, Field(ge=1, le=12)] = 4
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_bin: Annotated[int, Field(ge=2, le=65_536)] = 4096
    base_score: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def parameters(self) -> dict[str, int | float | str]:
        """Give XGBoost's parameters."""
        return {
            "objective": "binary:logistic",
            "eval_metric": "aucpr",
            "tree_method": "hist",
            "max_bin": self.max_bin,
            "base_score": self.base_score,
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "nthread": 1,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is learnt from and what is measured on, and the hash of all of the stream."""

    periods: Periods
    train: LabelledVectors
    validation: LabelledVectors
    sha256: str


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A model, its bytes, how many rounds it took, and how good it is."""

    ubj: bytes
    model: Model
    rounds: int
    quality: Quality


def train(
    stream: LabelledStream,
    name: str,
    settings: TrainingSettings,
    feature_set: FeatureSet | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> BundleDraft:
    """Train the model and its fallback, for `fraudstream.bundle.write_bundle`.

    Parameters
    ----------
    stream
        Labelled payments in event-time order.
    name
        What the model is called in its manifest and in every decision.
    settings
        Features, periods and parameters.
    feature_set
        What features there are; the one that comes with the package if None.
    on_progress
        Told how many payments have got their vectors, batch by batch.

    Raises
    ------
    UsageError
        The stream is too short for the periods, or a period has no frauds.
    FeatureSetError
        The settings name a feature that there is not.
    """
    feature_set = feature_set or default_feature_set()
    names = settings.features
    features = feature_set.features if names is None else feature_set.select(names)
    stateless = [index for index, feature in enumerate(features) if feature.is_stateless]
    if not stateless:
        raise UsageError("no feature is left for the fallback model; add `amount`")
    rows = _prepare(
        stream, features, feature_set.profile_definition(settings.currency), settings, on_progress
    )
    shown = with_forgotten_windows(rows.train, features, settings.forgotten_share, settings.seed)
    main = _fit(shown, rows.validation, features, settings)
    spare = _fit(
        rows.train.columns(stateless),
        rows.validation.columns(stateless),
        [features[index] for index in stateless],
        settings,
    )
    about = {
        "name": name,
        "version": settings.version,
        "feature_set": feature_set.document,
        "feature_set_sha256": feature_set.sha256,
        "features": [feature.definition() for feature in features],
        "fallback_features": list(spare.model.columns),
        "training": _record(rows, settings, main, spare).model_dump(),
        "label_maturity": settings.label_maturity,
        "quality": main.quality.model_dump(),
        "fallback_quality": spare.quality.model_dump(),
        "calibration": None,
    }
    golden = golden_vectors(rows.validation.vectors, main.model, features)
    return BundleDraft(about, main.ubj, spare.ubj, golden, write_card(about))


def with_forgotten_windows(
    rows: LabelledVectors, features: Sequence[Feature], share: float, seed: int
) -> LabelledVectors:
    """Add copies of some rows that lack every window reaching back further than a random one.

    Parameters
    ----------
    rows
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
    copied = np.flatnonzero(rng.random(len(rows)) < share)
    if not len(choices_ms) or not len(copied):
        return rows
    forgotten_from_ms = rng.choice(choices_ms, len(copied))
    copies = rows.vectors[copied]
    copies[reaches_ms[None, :] >= forgotten_from_ms[:, None]] = np.nan
    return LabelledVectors(
        np.concatenate((rows.vectors, copies)),
        np.concatenate((rows.is_fraud, rows.is_fraud[copied])),
        np.concatenate((rows.event_time_ms, rows.event_time_ms[copied])),
        np.concatenate((rows.card_id, rows.card_id[copied])),
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


def _prepare(
    stream: LabelledStream,
    features: Sequence[Feature],
    definition: ProfileDefinition,
    settings: TrainingSettings,
    on_progress: Callable[[int], None],
) -> _Rows:
    rows = build_vectors(
        stream,
        features,
        definition,
        label_delay_ms=settings.label_delay_days * DAY_MS,
        minor_per_major=minor_units_per_major(settings.currency),
        on_progress=on_progress,
    )
    periods = split_periods(
        rows.event_time_ms,
        warm_up_days=settings.warm_up_days,
        label_delay_days=settings.label_delay_days,
        validation_days=settings.validation_days,
    )
    train_rows = rows.between(*periods.train_ms)
    if not train_rows.is_fraud.any():
        raise UsageError("there is no fraud in the training period")
    return _Rows(periods, train_rows, rows.between(*periods.validation_ms), rows.sha256())


def _fit(
    rows: LabelledVectors,
    validation: LabelledVectors,
    features: Sequence[Feature],
    settings: TrainingSettings,
) -> _Fitted:
    names = [feature.name for feature in features]
    learnt, judged = (
        xgboost.DMatrix(part.vectors, label=part.is_fraud, feature_names=names, nthread=1)
        for part in (rows, validation)
    )
    booster = xgboost.train(
        settings.parameters(),
        learnt,
        settings.rounds_max,
        evals=[(judged, "validation")],
        early_stopping_rounds=settings.patience_rounds,
        verbose_eval=False,
    )
    rounds = booster.best_iteration + 1
    best = booster[:rounds]
    # Attributes of the run, such as the best score, would only be dead weight in the file.
    best.set_attr(**dict.fromkeys(best.attributes()))
    ubj = bytes(best.save_raw("ubj"))
    model = Model(ubj, names)
    return _Fitted(ubj, model, rounds, measure(model.score(validation.vectors), validation))


def _record(rows: _Rows, settings: TrainingSettings, main: _Fitted, spare: _Fitted) -> Training:
    return Training(
        data=settings.data,
        data_sha256=rows.sha256,
        train=_period(rows.periods.train_ms, rows.train),
        validation=_period(rows.periods.validation_ms, rows.validation),
        label_delay_days=settings.label_delay_days,
        forgotten_share=settings.forgotten_share,
        seed=settings.seed,
        parameters=settings.parameters(),
        rounds=main.rounds,
        fallback_rounds=spare.rounds,
    )


def _period(bounds_ms: tuple[int, int], rows: LabelledVectors) -> Period:
    start_ms, end_ms = bounds_ms
    return Period(
        start=format_time(start_ms),
        end=format_time(end_ms),
        transactions=len(rows),
        frauds=int(rows.is_fraud.sum()),
    )
