"""The model card: what a bundle's manifest says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fraudstream.manifest import Period, Quality, Training

_CARD: Final = """\
# Model card: {name}, version {version}

A frozen gradient-boosted model (XGBoost, {rounds} trees) that scores card payments between 0 and
1: higher is more like fraud. The score is not calibrated, so it is no probability; a policy
decides what becomes of it. Beside it lies a fallback model ({fallback_rounds} trees) for payments
whose profiles cannot be read; its scores mean something else and need thresholds of their own.

## Data

{data}

Label maturity: {label_maturity}

| period | from | to (not included) | payments | frauds |
| --- | --- | --- | --- | --- |
| training | {train} |
| validation | {validation} |

Between the two lie {label_delay_days} days: a label is known that long after its payment, in the
profiles as well as to the training. Features are computed in event-time order by the code that
computes them online.

## Quality on the validation period

| model | AUC | average precision | card precision@100 | best possible |
| --- | --- | --- | --- | --- |
| model | {quality} |
| fallback | {fallback_quality} |

Training stopped where the average precision on this same period was best, so the figures are a
little too good. "Best possible" is what a ranking without a mistake would reach: with few
defrauded cards a day, it is far below 1.

## Features

Model, in this order: {features}.

Fallback: {fallback_features}.

## Limits

* Where the data are simulated, quality says that the parts work together and nothing about real
  fraud: the authors of the reference simulator report an average precision of 0.095 on their
  real data for the method that reaches 0.69 on their simulated ones.
* {forgotten_share:.0%} of the training rows were shown twice, the second time without their longer
  windows, so that vectors with missing windows are scored sensibly, if less well.
* Fraud changes and a frozen model does not. Watch the quality on fresh labels.

## Parameters

{parameters}
"""


def write_card(about: Mapping[str, Any]) -> str:
    """Write a bundle's model card.

    Parameters
    ----------
    about
        The manifest's fields, as in `fraudstream.bundle.BundleDraft`.
    """
    training = Training.model_validate(about["training"])
    return _CARD.format(
        name=about["name"],
        version=about["version"],
        rounds=training.rounds,
        fallback_rounds=training.fallback_rounds,
        data=training.data.strip(),
        label_maturity=about["label_maturity"].strip(),
        label_delay_days=training.label_delay_days,
        train=_period(training.train),
        validation=_period(training.validation),
        quality=_quality(Quality.model_validate(about["quality"])),
        fallback_quality=_quality(Quality.model_validate(about["fallback_quality"])),
        features=", ".join(f"`{definition['name']}`" for definition in about["features"]),
        fallback_features=", ".join(f"`{name}`" for name in about["fallback_features"]),
        forgotten_share=training.forgotten_share,
        parameters="\n".join(
            f"* `{name}`: {value}" for name, value in sorted(training.parameters.items())
        ),
    )


def _period(period: Period) -> str:
    days = f"{period.start[:10]} | {period.end[:10]}"
    return f"{days} | {period.transactions:,} | {period.frauds:,}"


def _quality(quality: Quality) -> str:
    figures = (
        quality.auc,
        quality.average_precision,
        quality.card_precision_100,
        quality.card_precision_100_best,
    )
    return " | ".join(f"{figure:.3f}" for figure in figures)
