"""Files that commands read: mappings, recipes, findings; what is wrong with one, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from fraudstream.feature_set import FeatureSet
    from fraudstream.mapping import EventMapping
    from fraudstream.offline.labels import LabelRule
    from fraudstream.training.recipe import Recipe

    ModelT = TypeVar("ModelT", bound=BaseModel)


def read_yaml(file: Path, kind: type[ModelT]) -> ModelT:
    """Read a file of settings or of meanings; what is wrong with it is said as a sentence."""
    import yaml
    from pydantic import ValidationError

    try:
        return kind.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read as YAML") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "its top"
        raise UsageError(f"{file}: {place}: {fault['msg']}") from error


def read_recipe(file: Path | None) -> tuple[Recipe, FeatureSet]:
    """Read a recipe, and the feature set that it names from its own folder; or the defaults."""
    from fraudstream.feature_files import chosen_feature_set
    from fraudstream.training.recipe import Recipe

    if file is None:
        return Recipe(), chosen_feature_set(None)
    recipe = read_yaml(file, Recipe)
    place = recipe.feature_set
    return recipe, chosen_feature_set(None if place is None else file.parent / place)


def read_mapping(file: Path | None) -> EventMapping | None:
    """Read what a file's columns mean, if that was said."""
    from fraudstream.mapping import EventMapping

    return None if file is None else read_yaml(file, EventMapping)


def label_rule(
    labels: Path | None, labels_after: str | None, mapping: EventMapping | None, *, is_lenient: bool
) -> tuple[LabelRule | None, dict[str, int]]:
    """Say when findings become known; and how many rows of their file were left out, by fault."""
    from fraudstream.offline.labels import LabelsAfter, LabelsReported
    from fraudstream.offline.sources import read_labels
    from fraudstream.offline.stretches import count_faults
    from fraudstream.offline.writing import take_findings
    from fraudstream.replay.span import parse_duration

    if labels is not None and labels_after is not None:
        raise UsageError(
            "--labels and --labels-after both say when findings became known: give one of them"
        )
    if labels_after is not None:
        return LabelsAfter(parse_duration(labels_after, "--labels-after")), {}
    if labels is None:
        return None, {}
    checked = read_labels(labels, mapping)
    findings = take_findings(checked, labels.name, is_lenient=is_lenient)
    return LabelsReported(findings), count_faults(checked)


def check_place(out: Path, inputs: Sequence[Path | None], *, replace: bool) -> None:
    """Refuse before the work begins a place that something else would be lost from."""
    if out.suffix != ".parquet" or out.is_dir():
        raise UsageError(f"--out {out}: give the name of a .parquet file")
    if any(
        file is not None and file.exists() and out.exists() and file.samefile(out)
        for file in inputs
    ):
        raise UsageError(f"--out {out} is one of the files that are read: give another name")
    if out.exists() and not replace:
        raise UsageError(f"--out {out} is there already; --replace writes it anew")


def tell_left_out(name: str, faults: Mapping[str, int]) -> None:
    """Say on stderr how many of a file's rows were left out, by fault."""
    if faults:
        counted = ", ".join(f"{fault} ({count:,})" for fault, count in faults.items())
        typer.echo(f"{name}: left out {sum(faults.values()):,} rows: {counted}", err=True)
