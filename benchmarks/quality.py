"""How good models are, against the published figures: ``python -m benchmarks.quality``.

    reference file ─┬─ recipes ───────────────▶ per fold and mean, beside the book's
                    ├─ settings, days, features ▶ what each is worth
                    └─ fraudstream train ───────▶ seconds
    models/default ────────────────────────────▶ its own figures

Writes the tables into docs/model-quality.md, between their marks (``--print`` only prints them).
Needs the reference transactions (FRAUDSTREAM_REFERENCE_DATA names their folder), and some minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from fraudstream.bundle import load_bundle
from fraudstream.cli.reading import read_recipe, read_yaml
from fraudstream.feature_set import FeatureSet
from fraudstream.manifest import FoldQuality, Quality
from fraudstream.mapping import EventMapping
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import (
    LabelledVectors,
    Reading,
    open_labelled,
    read_labelled,
)
from fraudstream.training.quality import summarise
from fraudstream.training.recipe import Recipe
from fraudstream.training.train import Trainer

_ROOT: Final = Path(__file__).resolve().parents[1]
_FILE: Final = "transactions-2018-04-01_2018-07-31.parquet"
_MAPPING: Final = _ROOT / "configs" / "mappings" / "handbook.yaml"
_RECIPES: Final = _ROOT / "configs" / "training"
_DOCUMENT: Final = _ROOT / "docs" / "model-quality.md"
_MAPPED: Final = ("--mapping", str(_MAPPING))
#: The variants' model learns up to here, and is judged after a week of label delay.
_UNTIL: Final = "2018-07-17"
_FOLDS: Final = 4
_DAYS: Final = (7, 14, 28, 56, 84)
_TIMED_DAYS: Final = 28
#: What the book publishes of its best model on the validation folds, as a mean.
_BOOK: Final = ("the book: 15 features, 7 days (published)", ".878", ".705", ".288")


@dataclass(frozen=True, slots=True)
class Study:
    """The reference rows with the columns of one recipe.

    Parameters
    ----------
    recipe, feature_set
        What is made.
    rows
        The whole reference file.
    """

    recipe: Recipe
    feature_set: FeatureSet
    rows: LabelledVectors

    @classmethod
    def of(cls, name: str, data: Path) -> Study:
        """Read a recipe, and the data with its features."""
        recipe, feature_set = read_recipe(_RECIPES / name)
        reading = Reading(feature_set, recipe.features, mapping=read_yaml(_MAPPING, EventMapping))
        rows = read_labelled(open_labelled(data, reading), data.name, reading)
        return cls(recipe, feature_set, rows)

    def judge(self, days_before_end: int = 0, **changes: Any) -> tuple[FoldQuality, ...]:  # noqa: ANN401 - whatever a recipe holds
        """Measure the recipe, changed, on its folds; on earlier ones if the end is cut off."""
        end_ms = self.rows.end_ms - days_before_end * DAY_MS
        recipe = Recipe.model_validate(_merged(self.recipe.model_dump(), changes))
        return Trainer(recipe, self.feature_set).judge(self.rows.between(0, end_ms)).folds

    def judge_without(self, names: Sequence[str]) -> tuple[FoldQuality, ...]:
        """Measure the recipe without some features."""
        feature_set = self.feature_set
        kept = tuple(f.name for f in feature_set.features if f.name not in names)
        columns = [i for i, f in enumerate(feature_set.features) if f.name in kept]
        rows = LabelledVectors(
            self.rows.columns(columns),
            *(getattr(self.rows, name) for name in LabelledVectors.__slots__[1:]),
        )
        recipe = self.recipe.model_copy(update={"features": kept})
        return Trainer(recipe, feature_set).judge(rows).folds


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base,
        **{
            name: {**base[name], **value} if isinstance(value, Mapping) else value
            for name, value in changes.items()
        },
    }


def main() -> None:
    """Measure, print, and write the document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    parser.add_argument("--only", nargs="*", metavar="TABLE", help="some of the tables")
    options = parser.parse_args()
    default = _ROOT.parent / "shared" / "data" / "handbook"
    data = Path(os.environ.get("FRAUDSTREAM_REFERENCE_DATA", default)) / _FILE
    if not data.is_file():
        raise SystemExit(f"no file {data.name}: FRAUDSTREAM_REFERENCE_DATA names its folder")
    book, ours = Study.of("handbook15.yaml", data), Study.of("reference.yaml", data)
    tables: dict[str, Callable[[], Iterator[str]]] = {
        "folds": lambda: folds_table(book, ours),
        "shipped": shipped_table,
        "settings": lambda: settings_table(book),
        "days": lambda: days_table(book, ours),
        "features": lambda: features_table(ours),
        "seconds": lambda: seconds_table(data),
        "variants": lambda: variants_table(data),
    }
    for name, make in tables.items():
        if options.only and name not in options.only:
            continue
        text = "\n".join(make())
        print(f"\n{name}\n\n{text}", flush=True)
        if not options.print:
            write_block(_DOCUMENT, name, text)


def write_block(document: Path, name: str, text: str) -> None:
    """Put a table into a document, between its marks."""
    begin, end = f"<!-- {name}: written by make quality -->", f"<!-- end of {name} -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    whole, count = block.subn(lambda _: f"{begin}\n{text}\n{end}", document.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{document.name} needs the marks {begin} and {end} once")
    document.write_text(whole, "utf-8")


def folds_table(book: Study, ours: Study) -> Iterator[str]:
    """Compare the recipes with the published figures, fold by fold."""
    yield from _head("model, training week from", "AUC", "AP", "CP@100")
    yield _row(*_BOOK)
    for name, study in (("handbook15", book), ("reference", ours)):
        folds = study.judge()
        for fold in folds:
            week = _day(fold.train.end, before_days=7)
            yield _row(f"`{name}`, {week}", *_figures(fold.quality))
        yield _row(f"**`{name}`, mean (deviation)**", *_summary(folds))
    # Nothing was chosen on what lies before the validation folds.
    for name, study in (("handbook15", book), ("reference", ours)):
        folds = study.judge(days_before_end=7 * _FOLDS)
        since = _day(folds[0].train.end, before_days=7)
        yield _row(f"`{name}`, mean of the four weeks before (from {since})", *_summary(folds))


def shipped_table() -> Iterator[str]:
    """Say what the shipped bundle's manifest says."""
    manifest = load_bundle(_ROOT / "models" / "default").manifest
    yield from _head("`models/default`, simulated stream, judged from", "AUC", "AP", "CP@100")
    for fold in manifest.training.folds:
        yield _row(fold.test.start[:10], *_figures(fold.quality))
    yield _row("**mean (deviation)**", *_summary(manifest.training.folds))


def settings_table(book: Study) -> Iterator[str]:
    """Show what XGBoost's defaults cost, at the same rounds, rate and depth."""
    yield from _head("15 features, 7 days, 100 trees, rate .3, depth 6", "AUC", "AP", "CP@100")
    deep = {"learning_rate": 0.3, "max_depth": 6}
    for words, booster in (
        (
            "today's defaults: 256 bins, `base_score` fitted",
            {"tree_method": "hist", "max_bin": 256, "base_score": None},
        ),
        ("256 bins, `base_score` 0.5", {"tree_method": "hist", "max_bin": 256}),
        (
            "4,096 bins, `base_score` fitted",
            {"tree_method": "hist", "max_bin": 4096, "base_score": None},
        ),
        ("4,096 bins, `base_score` 0.5", {"tree_method": "hist", "max_bin": 4096}),
        ("exact splits, `base_score` 0.5", {"tree_method": "exact"}),
    ):
        yield _row(words, *_summary(book.judge(booster=deep | booster)))


def days_table(book: Study, ours: Study) -> Iterator[str]:
    """Show what longer training is worth."""
    yield from _head("training", "`handbook15` (4,096 bins) AP", "`reference` AP")
    # Exact splits would take a quarter of an hour over so many days.
    bins = {"tree_method": "hist", "max_bin": 4096}
    for days in _DAYS:
        folds = {"train_days": days}
        found = [book.judge(folds=folds, booster=bins), ours.judge(folds=folds)]
        yield _row(f"{days} days", *(_summary(judged)[1] for judged in found))


def features_table(ours: Study) -> Iterator[str]:
    """Leave out what the reference set has beyond the fifteen, group by group."""
    yield from _head("`reference` without", "AUC", "AP", "CP@100")
    yield _row("nothing", *_summary(ours.judge()))
    card = ["card_amount_ratio_to_mean_30d", "card_amount_max_14d", "card_amount_mean_14d"]
    rates = [f"terminal_fraud_rate_{days}d_lag7d" for days in (3, 14, 18, 21, 24)]
    for words, names in (
        ("`card_amount_ratio_to_mean_30d`", card[:1]),
        ("`card_amount_max_14d`", card[1:2]),
        ("`card_amount_mean_14d`", card[2:]),
        ("all three of the card", card),
        ("the five further terminal rates", rates),
        ("all eight: the fifteen alone", card + rates),
    ):
        yield _row(words, *_summary(ours.judge_without(names)))


def seconds_table(data: Path) -> Iterator[str]:
    """Time the command as a user gives it."""
    yield from _head("`fraudstream train` on the reference file, two cores", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        for name, days in (
            ("handbook15.yaml", None),
            ("reference.yaml", _TIMED_DAYS),
            ("reference.yaml", None),
        ):
            recipe = read_yaml(_RECIPES / name, Recipe).model_dump(mode="json")
            if recipe["feature_set"] is not None:
                recipe["feature_set"] = str(_RECIPES / recipe["feature_set"])
            if days is not None:
                recipe["folds"]["train_days"] = days
            file = Path(folder) / "recipe.yaml"
            file.write_text(yaml.safe_dump(recipe))
            words = f"`{name}`, {recipe['folds']['train_days']} days, {_FOLDS} folds"
            yield _row(words, f"{_timed(data, file, Path(folder) / 'bundle'):.0f}")


def variants_table(data: Path) -> Iterator[str]:
    """Make the variants of a model that has not seen the last week, as its user would."""
    with tempfile.TemporaryDirectory() as folder:
        teacher, out = Path(folder) / "reference", Path(folder) / "variants"
        recipe = _RECIPES / "reference.yaml"
        _run(
            "train",
            str(data),
            "--recipe",
            str(recipe),
            *_MAPPED,
            "--until",
            _UNTIL,
            "--out",
            str(teacher),
        )
        shown = _run("model", "optimize", str(teacher), str(data), *_MAPPED, "--out", str(out))
    yield "```"
    yield from (line.rstrip() for line in shown.strip().splitlines())
    yield "```"


def _timed(data: Path, recipe: Path, out: Path) -> float:
    started_s = time.monotonic()
    _run("train", str(data), "--recipe", str(recipe), *_MAPPED, "--out", str(out), "--replace")
    return time.monotonic() - started_s


def _run(*words: str) -> str:
    command = [sys.executable, "-m", "fraudstream", *words]
    done = subprocess.run(command, cwd=_ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fraudstream {words[0]}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _head(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield _row(*("---" for _ in titles))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figures(quality: Quality) -> tuple[str, ...]:
    figures = (quality.auc, quality.average_precision, quality.card_precision_100)
    return tuple(f"{figure:.3f}".lstrip("0") for figure in figures)


def _summary(folds: Sequence[FoldQuality]) -> tuple[str, ...]:
    means, deviations = summarise([fold.quality for fold in folds])
    pairs = zip(_figures(means), _figures(deviations), strict=True)
    return tuple(f"{mean} ({deviation})" for mean, deviation in pairs)


def _day(time: str, *, before_days: int) -> str:
    return str(date.fromisoformat(time[:10]) - timedelta(days=before_days))


if __name__ == "__main__":
    main()
