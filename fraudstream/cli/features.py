"""``fraudstream features``: what the stream would have made of the payments in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.reading import check_place, label_rule, read_mapping, tell_left_out
from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.feature_set import FeatureSet


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
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", metavar="DIR", help="Make the columns of this bundle's model."),
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
      fraudstream features stream.parquet --bundle models/default \\
        --labels-after 7d --out features.parquet
    \b
    Next:
      fraudstream train stream.parquet --out models/mine
    """
    from fraudstream.cli.progress import rows_progress
    from fraudstream.currency import MINOR_UNIT_DECIMALS
    from fraudstream.offline.contract import Rules
    from fraudstream.offline.evaluator import Evaluator
    from fraudstream.offline.sources import PaymentSource
    from fraudstream.offline.stretches import Plan
    from fraudstream.offline.writing import write_features
    from fraudstream.replay.span import parse_span

    started_s = time.monotonic()
    check_place(out, (data, labels, mapping, feature_set), replace=replace)
    if currency not in MINOR_UNIT_DECIMALS:
        raise UsageError(f"--currency {currency}: write an ISO 4217 code, as EUR")
    span = parse_span(from_time, until_time)
    chosen, names = _chosen(feature_set, bundle)
    meaning = read_mapping(mapping)
    rule, left_out = label_rule(labels, labels_after, meaning, is_lenient=skip_invalid)
    evaluator = Evaluator(chosen, currency, rule, names)
    rules = Rules(currency, meaning, chosen.extra_fields, needs_truth=labels_after is not None)
    source = PaymentSource(data, rules)
    plan = Plan(evaluator, chosen.extra_fields, span.from_ms, span.until_ms, skip_invalid)
    with rows_progress(data.name, len(source)) as advance:
        written = write_features(source, data.name, out, plan, advance)
    tell_left_out(data.name, written.faults)
    tell_left_out(labels.name if labels is not None else "", left_out)
    typer.echo(
        f"{out}: {len(evaluator.names)} features of {written.rows:,} payments in "
        f"{time.monotonic() - started_s:.1f} s, feature set {chosen.name} {chosen.sha256[:12]}",
        err=True,
    )


def _chosen(feature_set: Path | None, bundle: str | None) -> tuple[FeatureSet, list[str] | None]:
    """Say which features are made: a set, and which of them; all if None."""
    from fraudstream.feature_files import chosen_feature_set

    if bundle is None:
        return chosen_feature_set(feature_set), None
    if feature_set is not None:
        raise UsageError("--feature-set and --bundle both say which features: give one of them")
    from fraudstream.bundle import load_bundle

    loaded = load_bundle(bundle)
    return loaded.feature_set, [feature.name for feature in loaded.features]
