"""Decisions that were logged, and what became of them → labelled vectors, nothing computed again.

    decisions.parquet ─ vectors as they were decided on ─┐
    labels.parquet ──── the newest finding on each ──────┴─▶ LabelledVectors

A logged vector is the very one that the model saw, with whatever its profiles knew or lacked at
that moment, so nothing in it can be of a later time. A vector that no model should learn from is
left out: of a payment that was decided without profiles (``degraded``), that came too late to be
counted (``too_late``), or that had been decided before (``duplicate``).

What became of the youngest decisions is not known yet: taken as genuine, they would teach that the
latest frauds are none. A decision counts only when it is older than the labels' maturity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from fraudstream.decision import Flag
from fraudstream.errors import UsageError
from fraudstream.mapping import EventMapping
from fraudstream.offline.columns import UNKNOWN_AMOUNT
from fraudstream.offline.sources import read_labels
from fraudstream.offline.stretches import count_faults
from fraudstream.offline.writing import take_findings
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors

#: Of the columns of `fraudstream.export.columns` those that are read.
_COLUMNS: Final = {
    "transaction_id": pl.String,
    "event_time": pl.String,
    "card_id": pl.String,
    "amount_minor": pl.Int64,
    "currency": pl.String,
    "flags": pl.String,
    "model": pl.String,
}
_FEATURE: Final = "feature."
_TIME: Final = "%Y-%m-%dT%H:%M:%S%.3fZ"
#: A decision with one of these is not learnt from; with several it is counted under the first.
_UNFIT: Final = (Flag.DUPLICATE, Flag.DEGRADED, Flag.TOO_LATE)
_KEY: Final = ("transaction_id", "time_ms")


@dataclass(frozen=True, slots=True)
class Logged:
    """What is learnt from.

    Parameters
    ----------
    decisions
        A Parquet file that ``fraudstream export decisions`` wrote.
    labels
        What became of payments: a file that ``fraudstream export labels`` wrote, or any file of
        findings.
    names
        The features that are the columns, in order.
    maturity_ms
        How much older than the end of the data a decision must be.
    until_ms
        Decisions on payments from then on are not looked at; the data end there at the latest.
        A finding counts whenever it was made: later ones only know better.
    currency
        The profiles' currency; amounts in another are not known.
    mapping
        What the columns of the findings mean; None if they have our names.
    is_lenient
        Leave out findings that break the event contract.
    """

    decisions: Path
    labels: Path
    names: tuple[str, ...]
    maturity_ms: int
    until_ms: int | None = None
    currency: str = "EUR"
    mapping: EventMapping | None = None
    is_lenient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRows:
    """Labelled vectors, and in a sentence how many decisions they are of how many."""

    rows: LabelledVectors
    summary: str


def read_logged(logged: Logged) -> LoggedRows:
    """Read decisions and what became of them.

    A payment without a finding is genuine; of several findings on one the newest ``reported_at``
    stands, and of two at one time the one that says genuine. Of several decisions on one payment
    the first in the file stands. Equal event times keep the file's order.

    Raises
    ------
    UsageError
        A file cannot be read, holds something else, lacks a feature, or leaves nothing to learn
        from.
    """
    decisions = _read_decisions(logged)
    verdicts, left_out = _read_verdicts(logged)
    unmet = len(verdicts.join(decisions, on=_KEY, how="anti"))
    judged = _judge(decisions, logged)
    fit = judged.filter(pl.col("why_not").is_null()).join(
        verdicts, on=_KEY, how="left", maintain_order="left"
    )
    if fit.is_empty():
        raise UsageError(
            f"{logged.decisions.name}: there is no decision to learn from "
            f"({_counted(judged['why_not']) or 'it holds none'}): export more of them, or give a "
            "shorter --maturity"
        )
    _require_made_by_all(fit, logged)
    fit = fit.sort("time_ms", maintain_order=True)
    rows = LabelledVectors(
        np.ascontiguousarray(fit.select(_feature_columns(logged.names)).to_numpy()),
        fit["is_fraud"].fill_null(False).to_numpy(),
        fit["time_ms"].to_numpy(),
        _amounts(fit, logged.currency),
        fit["transaction_id"].to_numpy(),
        fit["card_id"].to_numpy(),
        pl.repeat("", len(fit), eager=True).to_numpy(),
    )
    return LoggedRows(rows, _summary(logged, judged, fit, _findings_words(unmet, left_out)))


def _feature_columns(names: Sequence[str]) -> list[str]:
    return [f"{_FEATURE}{name}" for name in names]


def _read_decisions(logged: Logged) -> pl.DataFrame:
    """Read the columns that are needed; add ``time_ms``, null where no time can be read."""
    file = logged.decisions
    if file.suffix != ".parquet":
        raise UsageError(
            f"{file.name}: decisions are read from Parquet alone, where every number has its type: "
            "fraudstream export decisions --out decisions.parquet"
        )
    features = _feature_columns(logged.names)
    try:
        lazy = pl.scan_parquet(file)
        _check_columns(lazy, file.name, features)
        frame = lazy.select(*_COLUMNS, *features).collect()
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{file}: cannot be read as parquet") from error
    time = pl.col("event_time").str.to_datetime(_TIME, time_unit="ms", strict=False)
    return frame.with_columns(pl.col(features).fill_null(float("nan")), time_ms=time.dt.epoch("ms"))


def _check_columns(lazy: pl.LazyFrame, name: str, features: Sequence[str]) -> None:
    schema = lazy.collect_schema()
    needed = _COLUMNS | {feature: pl.Float32 for feature in features if feature in schema}
    wrong = next((column for column, kind in needed.items() if schema.get(column) != kind), None)
    if wrong is not None:
        raise UsageError(
            f"{name}: its column {wrong} is not one of exported decisions: fraudstream export "
            "decisions --out decisions.parquet writes such a file"
        )
    missing = next((feature for feature in features if feature not in schema), None)
    if missing is None:
        return
    models = lazy.select(pl.col("model").drop_nulls().first()).collect()["model"]
    count = sum(column.startswith(_FEATURE) for column in schema)
    raise UsageError(
        f"{name} lacks {missing.removeprefix(_FEATURE)}: its decisions were made by "
        f"{_model_words(models[0])}, whose {count} features are others. Choose the recipe's "
        "`features` among those, or make all anew of the payments: fraudstream train DATA"
    )


def _model_words(model: str | None) -> str:
    """Say which model it was, out of a decision's JSON."""
    try:
        fields = orjson.loads(model or "")
        return f"the model {fields['name']} {fields['version']} ({fields['sha256'][:12]})"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "a model that does not say its name"


def _read_verdicts(logged: Logged) -> tuple[pl.DataFrame, int]:
    """Read the finding that stands on each payment; and how many were left out as invalid."""
    checked = read_labels(logged.labels, logged.mapping)
    findings = take_findings(checked, logged.labels.name, is_lenient=logged.is_lenient)
    frame = pl.DataFrame(
        [
            findings.ids["transaction_id"],
            pl.Series("time_ms", findings.event_time_ms),
            pl.Series("reported_at_ms", findings.reported_at_ms),
            pl.Series("is_fraud", findings.is_fraud),
        ]
    )
    newest = frame.sort("reported_at_ms", "is_fraud", descending=[True, False])
    verdicts = newest.unique(_KEY, keep="first").drop("reported_at_ms")
    return verdicts, sum(count_faults(checked).values())


def _judge(decisions: pl.DataFrame, logged: Logged) -> pl.DataFrame:
    """Leave out what lies beyond the end, and say in ``why_not`` what is not learnt from."""
    latest_ms = decisions["time_ms"].max()
    end_ms = int(latest_ms) if isinstance(latest_ms, int) else 0
    if logged.until_ms is not None:
        end_ms = min(end_ms, logged.until_ms)
        decisions = decisions.filter((pl.col("time_ms") < logged.until_ms).fill_null(True))
    unreadable = pl.any_horizontal(pl.col("transaction_id", "time_ms", "card_id").is_null())
    reasons = [pl.when(unreadable).then(pl.lit("unreadable"))]
    reasons += [pl.when(_has(flag)).then(pl.lit(flag.value)) for flag in _UNFIT]
    judged = decisions.with_columns(why_not=pl.coalesce(reasons))
    is_copy = ~pl.struct(_KEY).is_first_distinct().over(pl.col("why_not").is_null())
    is_young = pl.col("time_ms") > end_ms - logged.maturity_ms
    return judged.with_columns(
        why_not=pl.coalesce(
            "why_not",
            pl.when(is_copy).then(pl.lit("copied")),
            pl.when(is_young).then(pl.lit("too young to be judged")),
        )
    )


def _has(flag: Flag) -> pl.Expr:
    # Flags are a JSON list of fixed words, so a quoted word is found nowhere else.
    return pl.col("flags").str.contains(f'"{flag.value}"', literal=True).fill_null(False)


def _require_made_by_all(fit: pl.DataFrame, logged: Logged) -> None:
    """Refuse decisions of several models of which one did not make a feature.

    A file shows what a model did not make as what was not known: a model would learn of it which
    one decided. Windows that reach back too far are not known either, but flagged.
    """
    features = _feature_columns(logged.names)
    known = (
        fit.filter(~_has(Flag.INCOMPLETE))
        .group_by("model", maintain_order=True)
        .agg(pl.col(features).is_not_nan().any())
    )
    for feature in features:
        if known[feature].any() and not known[feature].all():
            model = known.filter(~pl.col(feature))["model"][0]
            raise UsageError(
                f"{logged.decisions.name}: no decision of {_model_words(model)} has "
                f"{feature.removeprefix(_FEATURE)}, and those of another model do: export the "
                "decisions of models that have it (fraudstream export decisions --from-time TIME), "
                "or leave it out of the recipe's `features`"
            )


def _amounts(fit: pl.DataFrame, currency: str) -> NDArray[np.int64]:
    is_ours = (pl.col("currency") == currency).fill_null(False)
    amount = pl.when(is_ours).then("amount_minor").fill_null(UNKNOWN_AMOUNT)
    return fit.select(amount.cast(pl.Int64)).to_series().to_numpy()


def _counted(reasons: pl.Series) -> str:
    counts = reasons.drop_nulls().value_counts(sort=True).rows()
    return ", ".join(f"{count:,} {reason}" for reason, count in counts)


def _summary(logged: Logged, judged: pl.DataFrame, fit: pl.DataFrame, findings: str) -> str:
    """Say in a sentence how many decisions there are, and what became of them."""
    frauds = int(fit["is_fraud"].fill_null(False).sum())
    models = fit["model"].n_unique()
    left_out = _counted(judged["why_not"])
    return (
        f"{logged.decisions.name}: {len(fit):,} of {len(judged):,} decisions are learnt from, by "
        f"{models:,} {'model' if models == 1 else 'models'}, {frauds:,} of them frauds and "
        f"{fit.select(_has(Flag.REPLAYED).sum()).item():,} replayed; left out are "
        f"{left_out or 'none'} (maturity {logged.maturity_ms / DAY_MS:g} d); {findings}"
    )


def _findings_words(unmet: int, left_out: int) -> str:
    words = f"{unmet:,} findings are on payments without a decision"
    return words if not left_out else f"{words}, and {left_out:,} were left out as invalid"
