"""``fraudstream model optimize``: smaller and faster variants of a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.config import ConfigFile
from fraudstream.cli.reading import read_mapping
from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.training.dataset import LabelledVectors, Reading
    from fraudstream.training.optimize.comparison import Comparison
    from fraudstream.training.optimize.days import Days
    from fraudstream.training.optimize.variants import Kind, Teacher


def optimize(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Its folder or address.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled payments: .parquet, .csv or .jsonl.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the variants' folders go.")
    ],
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="Names of foreign columns (YAML)."),
    ] = None,
    labels_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="A fraud's label is known so long after it (default: as in the training).",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="The last day (UTC) that may be used (default: all)."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS", help="Some of pruned,distilled,quantised,onnx,distilled-onnx."
        ),
    ] = None,
    ap_loss_max: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="How much average precision a variant may lose."),
    ] = 0.005,
    config: ConfigFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace variants that are there already.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows that break the contract.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make smaller and faster variants of a model, each with a certificate.

    \b
    pruned          fewer trees, and branches that change little cut off
    distilled       a small model that learnt the other's scores
    quantised       the same trees in coarser numbers, which pack better
    onnx            the same trees for ONNX Runtime, fast for single rows
    distilled-onnx  the distilled model for ONNX Runtime
    \b
    DATA are what the model was trained on, better with the weeks after. A
    student learns from days of the model's own training, and all are judged on
    days after it and the label delay; where DATA end too soon, on their last
    week, with a warning. Each variant is a bundle of its own, DIR/NAME-KIND,
    with the same features and fallback model. Its certificate.json says what
    it changed: scores, also exactly on every split; decisions under the policy
    (--config, or the environment); quality, size and latency. The table
    compares them, and says by its figures which serves what.
    \b
    Examples:
      fraudstream model optimize models/mine stream.parquet --out models
      fraudstream model optimize models/mine stream.parquet --out models \\
        --only distilled,onnx --ap-loss-max 0.002 --replace
      fraudstream model optimize models/handbook foreign.parquet --out models \\
        --mapping configs/mappings/handbook.yaml
    \b
    Next:
      fraudstream model check models/mine-distilled
      FRAUDSTREAM_MODEL__BUNDLE=models/mine-onnx fraudstream run
    """
    import orjson

    from fraudstream.cli.model_tables import show_variants, variants_as_json
    from fraudstream.cli.training import check_bundle_place, end_of_day
    from fraudstream.profile import DAY_MS
    from fraudstream.replay.span import parse_duration
    from fraudstream.settings import load_settings
    from fraudstream.training.dataset import Reading
    from fraudstream.training.optimize.days import divide
    from fraudstream.training.optimize.variants import Teacher, name_of

    kinds = _kinds(only)
    settings = load_settings(config)
    teacher = Teacher.load(bundle)
    for kind in kinds:
        check_bundle_place(out / name_of(teacher, kind), replace=replace)
    training = teacher.bundle.manifest.training
    delay_ms = training.label_delay_days * DAY_MS
    reading = Reading(
        teacher.bundle.feature_set,
        tuple(feature.name for feature in teacher.bundle.features),
        settings.profiles.currency,
        delay_ms if labels_after is None else parse_duration(labels_after, "--labels-after"),
        read_mapping(mapping),
        end_of_day(until),
        is_lenient=skip_invalid,
    )
    days = divide(_read(data, reading), training)
    if days.is_of_training:
        typer.echo(
            "the data end before there are frauds to judge by that the model did not learn from: "
            "their last week is judged, which flatters all; give data that go on for longer",
            err=True,
        )
    policy = settings.policy
    job = _Job(out, kinds, ap_loss_max, (policy.review_threshold, policy.decline_threshold))
    comparison = _make(teacher, days, job)
    for each in comparison.too_lossy:
        typer.echo(
            f"{each.name} loses {each.loss:.4f} of average precision, more than {ap_loss_max:g}: "
            "read its certificate before you use it",
            err=True,
        )
    if as_json:
        shown = orjson.dumps(variants_as_json(comparison), option=orjson.OPT_INDENT_2)
        typer.echo(shown.decode())
    else:
        show_variants(comparison, sys.stdout)


def _kinds(only: str | None) -> tuple[Kind, ...]:
    from fraudstream.training.optimize.variants import KINDS

    if only is None:
        return KINDS
    wanted = {word.strip() for word in only.split(",")}
    if odd := sorted(wanted.difference(KINDS)):
        raise UsageError(f"--only {only}: there is no {odd[0]!r}; there are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted)


def _read(data: Path, reading: Reading) -> LabelledVectors:
    from fraudstream.cli.progress import rows_progress
    from fraudstream.training.dataset import open_labelled, read_labelled

    source = open_labelled(data, reading)
    with rows_progress(data.name, len(source)) as advance:
        return read_labelled(source, data.name, reading, advance)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be made, and where it goes."""

    out: Path
    kinds: tuple[Kind, ...]
    loss_max: float
    thresholds: tuple[float, float]


def _make(teacher: Teacher, days: Days, job: _Job) -> Comparison:
    """Make, certify and write the variants."""
    from fraudstream.cli.progress import steps_progress
    from fraudstream.training.optimize.variants import (
        Limits,
        Workshop,
        compare_written,
        steps_of,
        write_variants,
    )

    with steps_progress("optimising", steps_of(job.kinds), "steps") as advance:
        workshop = Workshop(teacher, days, Limits(job.loss_max), lambda: advance(1))
        made = [workshop.make(kind) for kind in job.kinds]
        written = write_variants(workshop, made, job.out, job.thresholds)
    return compare_written(teacher, written, job.out, job.loss_max)
