"""``fraudstream features``: what the stream would have made of the payments in a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.mapping import EventMapping
    from fraudstream.offline.labels import LabelRule


def features(
    data: Annotated[Path, typer.Argument(metavar="IN", help="Payments: .parquet, .csv or .jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="A .parquet file.")],
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="Names of foreign columns (YAML)."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Findings, each with its reported_at."),
    ] = None,
    labels_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="The file's own frauds become known so long after, as 7d."
        ),
    ] = None,
    feature_set: Annotated[
        Path | None,
        typer.Option("--feature-set", metavar="FILE", help="What to make (default: the default)."),
    ] = None,
    from_time: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Write only from this time on.")
    ] = None,
    until_time: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Write only what is before it.")
    ] = None,
    currency: Annotated[str, typer.Option(help="The currency of the profiles' amounts.")] = "EUR",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file that is there already.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows that break the contract.")
    ] = False,
) -> None:
    """Make the features of payments in a file, the same numbers as the stream's.

    \b
    Windows see what lies before a payment in the file, and findings only once
    they were known: is_fraud enters a feature in no other way than by
    --labels-after (so long after its payment) or --labels (a file of findings
    with transaction_id, event_time, card_id, terminal_id, is_fraud and
    reported_at). Payments before --from are past, and not written.
    OUT has the ids, the event time and a float32 column a feature (NaN: not
    known), in the order of IN.
    \b
    Examples:
      fraudstream features stream.parquet --out features.parquet --labels-after 7d
      fraudstream features foreign.parquet --mapping configs/mappings/handbook.yaml \\
        --labels-after 7d --from 2018-07-25 --out week.parquet
      fraudstream features stream.csv --labels findings.jsonl --out features.parquet
    \b
    Next:
      fraudstream train stream.parquet --out models/mine
    """
    from fraudstream.cli.progress import rows_progress
    from fraudstream.currency import MINOR_UNIT_DECIMALS
    from fraudstream.feature_files import chosen_feature_set
    from fraudstream.offline.contract import Rules
    from fraudstream.offline.evaluator import Evaluator
    from fraudstream.offline.sources import PaymentSource
    from fraudstream.offline.writing import Plan, write_features
    from fraudstream.replay.span import parse_span

    started_s = time.monotonic()
    _check_place(out, (data, labels, mapping, feature_set), replace=replace)
    if currency not in MINOR_UNIT_DECIMALS:
        raise UsageError(f"--currency {currency}: write an ISO 4217 code, as EUR")
    span = parse_span(from_time, until_time)
    chosen = chosen_feature_set(feature_set)
    meaning = _read_mapping(mapping)
    rule, left_out = _label_rule(labels, labels_after, meaning, is_lenient=skip_invalid)
    evaluator = Evaluator(chosen, currency, rule)
    rules = Rules(currency, meaning, chosen.extra_fields, needs_truth=labels_after is not None)
    source = PaymentSource(data, rules)
    plan = Plan(evaluator, chosen.extra_fields, span.from_ms, span.until_ms, skip_invalid)
    with rows_progress(data.name, len(source)) as advance:
        written = write_features(source, data.name, out, plan, advance)
    for name, faults in ((data.name, written.faults), (labels and labels.name, left_out)):
        if faults:
            counted = ", ".join(f"{fault} ({count:,})" for fault, count in faults.items())
            typer.echo(f"{name}: left out {sum(faults.values()):,} rows: {counted}", err=True)
    typer.echo(
        f"{out}: {len(evaluator.names)} features of {written.rows:,} payments in "
        f"{time.monotonic() - started_s:.1f} s, feature set {chosen.name} {chosen.sha256[:12]}",
        err=True,
    )


def _check_place(out: Path, inputs: Sequence[Path | None], *, replace: bool) -> None:
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


def _read_mapping(file: Path | None) -> EventMapping | None:
    from fraudstream.cli.training import read_yaml
    from fraudstream.mapping import EventMapping

    return None if file is None else read_yaml(file, EventMapping)


def _label_rule(
    labels: Path | None, labels_after: str | None, mapping: EventMapping | None, *, is_lenient: bool
) -> tuple[LabelRule | None, dict[str, int]]:
    """Say when findings become known; and which rows of their file were left out."""
    from fraudstream.offline.labels import LabelsAfter, LabelsReported
    from fraudstream.offline.sources import read_labels
    from fraudstream.offline.writing import count_faults, take_findings
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
