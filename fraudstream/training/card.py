"""The model card: what a bundle's manifest says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fraudstream.manifest import Period, Quality, Training

_CARD: Final = """\
# Model card: {name}, version {version}

A frozen gradient-boosted model (XGBoost, {rounds} trees) that scores card payments between 0 and
1: higher is more like fraud. {calibration} A policy decides what becomes of a score. Beside it lies
a fallback model ({fallback_rounds} trees) for payments whose profiles cannot be read; its scores
mean something else and need thresholds of their own.

## Intended use

To rank card payments in real time, under a policy whose thresholds were chosen on its own scores,
with people who look at what it holds back. Not for decisions about credit or about persons, and
not for payments of another kind than it learnt from, or in another currency.

## Data

{data}

Label maturity: {label_maturity}

The model learnt from {train.transactions:,} payments ({train.frauds:,} frauds) from
{train_start} to before {train_end}. A label is known {label_delay_days} days after its payment, in
the profiles as well as to the training. Features are those of the live consumer, to the last bit.

## Quality

Measured on folds: models made alike, each judged on the days after its own training and the label
delay. Cards on which a fraud was known by then are left out.

Periods end before their second day. AP is the average precision, CP@100 the card precision@100.

| learnt | | judged | | payments | frauds | AUC | AP | CP@100 | best CP@100 | fallback's AP |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{folds}

Mean (deviation between folds): {quality}.

{chosen} The best CP@100 is what a ranking without a mistake would reach: with few defrauded cards a
day, it is far below 1.

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
        The manifest's fields, as in `fraudstream.bundle_writing.BundleDraft`.
    """
    training = Training.model_validate(about["training"])
    return _CARD.format(
        name=about["name"],
        version=about["version"],
        rounds=training.rounds,
        fallback_rounds=training.fallback_rounds,
        calibration=_calibration(about["calibration"]),
        data=training.data.strip(),
        label_maturity=about["label_maturity"].strip(),
        label_delay_days=training.label_delay_days,
        train=training.train,
        train_start=training.train.start[:10],
        train_end=training.train.end[:10],
        folds="\n".join(
            f"| {_days(fold.train)} | {_days(fold.test)} | {fold.test.transactions:,} | "
            f"{fold.test.frauds:,} | {_figures(fold.quality)} | "
            f"{fold.fallback_quality.average_precision:.3f} |"
            for fold in training.folds
        ),
        quality=_summary(
            Quality.model_validate(about["quality"]),
            Quality.model_validate(about["quality_deviation"]),
        ),
        chosen=_chosen(training.candidates),
        features=", ".join(f"`{definition['name']}`" for definition in about["features"]),
        fallback_features=", ".join(f"`{name}`" for name in about["fallback_features"]),
        forgotten_share=training.forgotten_share,
        parameters="\n".join(
            f"* `{name}`: {value}" for name, value in sorted(training.parameters.items())
        ),
    )


def _calibration(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "The score is not calibrated, so it is no probability."
    return f"The score is a probability: calibrated ({record['method']}) on {record['fitted_on']}."


def _chosen(candidates: int) -> str:
    if candidates == 1:
        return "Nothing was chosen on these folds in this run."
    return (
        f"The best of {candidates} settings and lengths on these same folds was taken, so the "
        "figures are a little too good."
    )


def _days(period: Period) -> str:
    return f"{period.start[:10]} | {period.end[:10]}"


def _figures(quality: Quality) -> str:
    figures = (
        quality.auc,
        quality.average_precision,
        quality.card_precision_100,
        quality.card_precision_100_best,
    )
    return " | ".join(f"{figure:.3f}" for figure in figures)


def _summary(mean: Quality, deviation: Quality) -> str:
    return (
        f"AUC {mean.auc:.3f} ({deviation.auc:.3f}), average precision "
        f"{mean.average_precision:.3f} ({deviation.average_precision:.3f}), card precision@100 "
        f"{mean.card_precision_100:.3f} ({deviation.card_precision_100:.3f}) of "
        f"{mean.card_precision_100_best:.3f}"
    )
