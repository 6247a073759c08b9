"""What a model bundle says of itself: the fields of ``manifest.json`` and ``golden.json``.

`fraudstream.bundle` reads and writes the folder; this module only says what belongs in it.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

#: Version of the folder's layout and of the manifest's fields.
LAYOUT_VERSION: Final = 2

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Platform(_Record):
    """Where scores are promised to be equal to the last bit, with the same XGBoost."""

    system: str
    machine: str


class Period(_Record):
    """A stretch of event time ``[start, end)``, RFC 3339, and what lies in it."""

    start: str
    end: str
    transactions: Count
    frauds: Count


class Training(_Record):
    """What the model was made from, and how.

    ``label_delay_days`` lies between the two periods, and so long after a payment its label
    reached the profiles. ``data_sha256`` is over all vectors and labels of the stream.
    ``forgotten_share`` of the training rows was shown again without longer windows.
    """

    data: str
    data_sha256: Sha256
    train: Period
    validation: Period
    label_delay_days: Count
    forgotten_share: Share
    seed: Count
    parameters: dict[str, int | float | str]
    rounds: Count
    fallback_rounds: Count


class Quality(_Record):
    """Figures on the validation period.

    ``card_precision_100`` is the share of frauds among the 100 cards a day that the model ranks
    highest, ``card_precision_100_best`` what a ranking without a mistake would reach: with few
    frauds a day that is far below 1.
    """

    auc: Share
    average_precision: Share
    card_precision_100: Share
    card_precision_100_best: Share


class Manifest(_Record):
    """What ``manifest.json`` holds.

    ``feature_set`` is the document that all features come from (`fraudstream.feature_set`), with
    its hash. ``features`` are the definitions of those that are the model's columns, in their
    order, as `fraudstream.features.Feature.definition` gives them; the fallback model's columns are
    ``fallback_features``. ``label_maturity`` says how final the labels behind ``quality`` were.
    ``calibration`` is null: scores are no probabilities.
    """

    layout: int
    name: Word
    version: Word
    files: dict[str, Sha256]
    xgboost_version: str
    platform: Platform
    feature_set: dict[str, JsonValue]
    feature_set_sha256: Sha256
    features: tuple[dict[str, JsonValue], ...] = Field(min_length=1)
    fallback_features: tuple[str, ...] = Field(min_length=1)
    training: Training
    label_maturity: str
    quality: Quality
    fallback_quality: Quality
    calibration: None


class Golden(_Record):
    """What ``golden.json`` holds: n vectors (null is NaN) and their scores by both models.

    Numbers are written with all digits of the float64 that equals the float32.
    """

    vectors: tuple[tuple[float | None, ...], ...] = Field(min_length=1)
    scores: tuple[float, ...]
    fallback_scores: tuple[float, ...]
