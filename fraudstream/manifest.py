"""What a model bundle says of itself: the fields of its JSON files.

`fraudstream.bundle` reads and writes the folder; this module only says what belongs in it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from fraudstream import calibration

#: Version of the folder's layout and of the manifest's fields.
LAYOUT_VERSION: Final = 3

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
ReasonCode = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: What computes the scores.
Engine = Literal["xgboost", "onnx"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Platform(_Record):
    """Where scores are promised to be equal to the last bit, with the same engine."""

    system: str
    machine: str


class Period(_Record):
    """A stretch of event time ``[start, end)``, RFC 3339, and what lies in it."""

    start: str
    end: str
    transactions: Count
    frauds: Count


class Quality(_Record):
    """How good scores are on payments that the model has not seen.

    ``card_precision_100`` is the share of frauds among the 100 cards a day that the model ranks
    highest, ``card_precision_100_best`` what a ranking without a mistake would reach: with few
    frauds a day that is far below 1.
    """

    auc: Share
    average_precision: Share
    card_precision_100: Share
    card_precision_100_best: Share


class FoldQuality(_Record):
    """One prequential fold: learnt from one period, measured on a later one.

    ``test`` counts what was measured: without the cards that were known to be compromised.
    """

    train: Period
    test: Period
    quality: Quality
    fallback_quality: Quality


class Training(_Record):
    """What the model was made from, and how.

    The model itself learnt from all of ``train``; its quality is that of models made alike for
    each of ``folds``, between whose periods lie ``label_delay_days``. ``data_sha256`` is over all
    vectors and labels of ``train``. ``forgotten_share`` of the training rows was shown again
    without longer windows. ``candidates`` is how many settings the folds chose among.
    """

    data: str
    data_sha256: Sha256
    train: Period
    folds: tuple[FoldQuality, ...] = Field(min_length=1)
    label_delay_days: Count
    forgotten_share: Share
    seed: Count
    parameters: dict[str, int | float | str]
    rounds: Count
    fallback_rounds: Count
    candidates: Count


class ReasonText(_Record):
    """What an alert says where this feature pushed its score up; features may share a code."""

    code: ReasonCode
    text: Annotated[str, Field(min_length=1)]


class SigmoidCalibration(_Record):
    """See `fraudstream.calibration.Sigmoid`; ``fitted_on`` says on which scores."""

    method: Literal["sigmoid"]
    fitted_on: str
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Finite

    def function(self) -> calibration.Calibration:
        """Make what turns raw scores into probabilities."""
        return calibration.Sigmoid(self.slope, self.intercept)


class IsotonicCalibration(_Record):
    """See `fraudstream.calibration.Isotonic`; ``fitted_on`` says on which scores."""

    method: Literal["isotonic"]
    fitted_on: str
    scores: tuple[Share, ...] = Field(min_length=2)
    probabilities: tuple[Share, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _points_rise(self) -> IsotonicCalibration:
        falls = any(
            later < earlier
            for column in (self.scores, self.probabilities)
            for earlier, later in pairwise(column)
        )
        if falls or len(self.scores) != len(self.probabilities):
            msg = "scores and probabilities must be as many, and rise"
            raise ValueError(msg)
        return self

    def function(self) -> calibration.Calibration:
        """Make what turns raw scores into probabilities."""
        return calibration.Isotonic(self.scores, self.probabilities)


CalibrationRecord = Annotated[
    SigmoidCalibration | IsotonicCalibration, Field(discriminator="method")
]


class Variant(_Record):
    """What a model was made smaller or faster from, and how; its certificate is a file beside it.

    ``of`` is the hash of the bundle that it stands in for.
    """

    kind: Literal["pruned", "distilled", "quantised", "onnx", "distilled-onnx"]
    of: Sha256
    parameters: dict[str, int | float | str]


class Manifest(_Record):
    """What ``manifest.json`` holds.

    ``feature_set`` is the document that all features come from (`fraudstream.feature_set`), with
    its hash. ``features`` are the definitions of those that are the model's columns, in their
    order, as `fraudstream.features.Feature.definition` gives them; the fallback model's columns are
    ``fallback_features``. ``reasons`` says for each of the columns what an alert calls it.
    ``quality`` is the mean over ``training.folds`` and ``quality_deviation`` the sample standard
    deviation between them; ``label_maturity`` says how final the labels behind them were.
    ``calibration`` is null where scores are no probabilities. ``engine_version`` is ONNX
    Runtime's where that computes the scores, null where XGBoost does.
    """

    layout: int
    name: Word
    version: Word
    files: dict[str, Sha256]
    engine: Engine
    engine_version: str | None
    xgboost_version: str
    platform: Platform
    feature_set: dict[str, JsonValue]
    feature_set_sha256: Sha256
    features: tuple[dict[str, JsonValue], ...] = Field(min_length=1)
    fallback_features: tuple[str, ...] = Field(min_length=1)
    reasons: dict[str, ReasonText]
    training: Training
    label_maturity: str
    quality: Quality
    quality_deviation: Quality
    fallback_quality: Quality
    calibration: CalibrationRecord | None
    variant: Variant | None


class Golden(_Record):
    """What ``golden.json`` holds: n vectors (null is NaN) and their scores by both models.

    Numbers are written with all digits of the float64 that equals the float32.
    """

    vectors: tuple[tuple[float | None, ...], ...] = Field(min_length=1)
    scores: tuple[float, ...]
    fallback_scores: tuple[float, ...]


class Latencies(_Record):
    """Median microseconds a call of so many rows."""

    rows_1: Finite
    rows_16: Finite
    rows_128: Finite
    rows_1024: Finite


class Certificate(_Record):
    """What ``certificate.json`` of a smaller or faster model holds: what that changed.

    All is about this model and the one that it stands in for (``before``). Scores are those that
    decisions are made of, so after any calibration. ``is_of_training`` says that ``evaluated_on``
    lies in the days that the teacher learnt from, which flatters both. ``rows_on_splits`` vectors
    hold, for every split of either model, one that lies exactly on it, one that lies a float32
    below and one that lacks its feature. ``flips`` are the transactions of the evaluation set that
    get another outcome under ``thresholds``; ``flipped_transactions`` names the first of them;
    ``flips_beyond_difference`` counts those whose score was further from a crossed threshold than
    the greatest difference, which cannot be and is checked. Model bytes are those of the files that
    make the scores. Latencies were taken in turns in the same run on ``machine``.
    """

    evaluated_on: Period
    is_of_training: bool
    rows_on_splits: Count
    score_difference_max: Share
    score_difference_max_on_splits: Share
    thresholds: tuple[Share, ...]
    flips: Count
    flips_beyond_difference: Count
    flipped_transactions: tuple[str, ...]
    average_precision: Share
    average_precision_before: Share
    card_precision_100: Share
    card_precision_100_before: Share
    model_bytes: Count
    model_bytes_before: Count
    latency_us: Latencies
    latency_us_before: Latencies
    machine: str
