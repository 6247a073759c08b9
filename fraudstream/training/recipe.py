"""What a training run needs besides its data: the fields of a file in configs/training.

XGBoost's parameters are chosen knowingly (docs/model-quality.md has the measurements). Its 256
histogram bins cannot separate the 0.2 % of amounts above 220 from the rest, and a fitted
``base_score`` costs about as much: with both defaults the reference data lose 0.08 of their average
precision. So there are 4,096 bins and a fixed 0.5.
"""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.errors import UsageError
from fraudstream.manifest import ReasonText
from fraudstream.score import Device
from fraudstream.training.protocol import FoldPlan

Days = Annotated[int, Field(ge=1, le=3650)]
Share = Annotated[float, Field(gt=0, le=1)]
#: More would be a large search, and a large search finds what is good on the folds alone.
CANDIDATES_MAX = 64


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BoosterSettings(_Strict):
    """XGBoost's parameters, and how many rounds are tried."""

    #: Rounds are chosen among multiples of the step, by the folds.
    rounds_max: Annotated[int, Field(ge=1, le=10_000)] = 300
    rounds_step: Annotated[int, Field(ge=1, le=10_000)] = 20
    learning_rate: Share = 0.1
    max_depth: Annotated[int, Field(ge=1, le=12)] = 4
    min_child_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    reg_lambda: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    subsample: Share = 1.0
    colsample_bytree: Share = 1.0
    tree_method: Literal["hist", "exact"] = "hist"
    max_bin: Annotated[int, Field(ge=2, le=65_536)] = 4096
    #: Passed through to XGBoost; a model that was grown on a GPU is another one.
    device: Device = "cpu"
    #: None lets XGBoost fit it.
    base_score: Annotated[float, Field(gt=0, lt=1)] | None = 0.5

    def parameters(self, seed: int) -> dict[str, int | float | str]:
        """Give XGBoost's parameters.

        One thread: the order of sums, and so the model, does not depend on the machine's load.
        """
        chosen: dict[str, int | float | str] = self.model_dump(
            exclude={"rounds_max", "rounds_step"}, exclude_none=True
        )
        if self.tree_method == "exact":
            del chosen["max_bin"]
        return {"objective": "binary:logistic", **chosen, "nthread": 1, "seed": seed}


class FoldSettings(_Strict):
    """How the stream is cut: see `fraudstream.training.protocol`."""

    count: Annotated[int, Field(ge=1, le=52)] = 4
    train_days: Days = 56
    test_days: Days = 7


class Recipe(_Strict):
    """A training run's settings."""

    #: Written into the manifest and into every decision.
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "1"
    #: What the data are, and how final their labels, in words for the model card.
    data: str = "not stated"
    label_maturity: str = "not stated"
    #: The profiles' currency.
    currency: str = "EUR"
    #: The feature set (docs/features.md), from the recipe's own folder; the one that comes with
    #: the package if there is none.
    feature_set: Path | None = None
    #: Which of its features are the model's columns, in order; all of them if nothing is said. The
    #: fallback model gets those that need no profile.
    features: tuple[str, ...] | None = None
    #: How long after a payment its label is known.
    label_delay_days: Annotated[int, Field(ge=0, le=3650)] = 7
    folds: FoldSettings = FoldSettings()
    #: Share of training rows shown again with their longer windows forgotten.
    forgotten_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    booster: BoosterSettings = BoosterSettings()
    #: The same for the fallback model, which knows the payment alone.
    fallback: BoosterSettings = BoosterSettings(
        rounds_max=40, rounds_step=10, max_depth=3, learning_rate=0.2
    )
    #: By a booster setting's name, the values to try; all combinations are, on the folds.
    search: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    #: Make probabilities of scores. Thresholds that were chosen without it mean something else.
    calibration: Literal["none", "sigmoid", "isotonic"] = "none"
    #: What an alert calls features, where the feature set's own words will not do.
    reasons: dict[str, ReasonText] = Field(default_factory=dict)

    @field_validator("currency")
    @classmethod
    def _known_currency(cls, currency: str) -> str:
        if currency not in MINOR_UNIT_DECIMALS:
            msg = "write an ISO 4217 code, as EUR"
            raise ValueError(msg)
        return currency

    @field_validator("features")
    @classmethod
    def _each_once(cls, features: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if features is not None and len(set(features)) < len(features):
            msg = "name each feature once"
            raise ValueError(msg)
        return features

    @property
    def fold_plan(self) -> FoldPlan:
        """How the stream is cut."""
        folds = self.folds
        return FoldPlan(folds.count, folds.train_days, self.label_delay_days, folds.test_days)

    def candidates(self) -> tuple[BoosterSettings, ...]:
        """Give all settings that the folds choose among, the recipe's own where it names no other.

        Raises
        ------
        UsageError
            `search` names no setting, or a value that is none, or has too many combinations.

        Examples
        --------
        >>> recipe = Recipe(search={"max_depth": (3, 5), "learning_rate": (0.1,)})
        >>> [booster.max_depth for booster in recipe.candidates()]
        [3, 5]
        """
        count = prod(len(values) for values in self.search.values())
        if not 1 <= count <= CANDIDATES_MAX:
            raise UsageError(
                f"the recipe's `search` has {count:,} combinations: 1 to {CANDIDATES_MAX}"
            )
        found = []
        for values in product(*self.search.values()):
            changed = self.booster.model_dump() | dict(zip(self.search, values, strict=True))
            try:
                found.append(BoosterSettings.model_validate(changed))
            except ValidationError as error:
                fault = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(str(part) for part in fault["loc"])
                raise UsageError(f"the recipe's `search`: {place}: {fault['msg']}") from None
        return tuple(found)
