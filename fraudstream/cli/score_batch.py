"""``fraudstream score-batch``: what a model would have said of the payments in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fraudstream.cli.config import ConfigFile
from fraudstream.cli.reading import check_place, label_rule, read_mapping, tell_left_out


def score_batch(
    data: Annotated[Path, typer.Argument(metavar="IN", help="Payments: .parquet, .csv or .jsonl.")],
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="DIR", help="The model's folder or address.")
    ],
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
    from_time: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Score only from this time on.")
    ] = None,
    until_time: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Score only what is before it.")
    ] = None,
    config: ConfigFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file that is there already.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows that break the contract.")
    ] = False,
) -> None:
    """Score the payments in a file, as a worker with whole profiles would have.

    \b
    The features are made as `fraudstream features` makes them, and findings
    count only once they were known (--labels-after or --labels). The settings
    (--config and the environment) say the thresholds and the profiles'
    currency; they need neither Kafka nor Valkey. Payments before --from are
    past, and not scored.
    OUT has transaction_id, score (float32) and outcome, in the order of IN, and
    says in its metadata which model, policy and features it was made with.
    \b
    Examples:
      fraudstream score-batch stream.parquet --bundle models/default \\
        --labels-after 7d --out scores.parquet
      fraudstream score-batch foreign.csv --mapping configs/mappings/handbook.yaml \\
        --bundle s3://bucket/models/mine --labels findings.jsonl --out scores.parquet
    \b
    Next:
      fraudstream evaluate models/default stream.parquet
    """
    from fraudstream.bundle import load_bundle
    from fraudstream.cli.progress import rows_progress
    from fraudstream.decision import Policy
    from fraudstream.offline.contract import Rules
    from fraudstream.offline.scoring import Scorer, write_scores
    from fraudstream.offline.sources import PaymentSource
    from fraudstream.offline.stretches import Plan
    from fraudstream.replay.span import parse_span
    from fraudstream.settings import load_settings

    started_s = time.monotonic()
    check_place(out, (data, labels, mapping, config), replace=replace)
    span = parse_span(from_time, until_time)
    settings = load_settings(config)
    currency = settings.profiles.currency
    loaded = load_bundle(bundle)
    meaning = read_mapping(mapping)
    rule, left_out = label_rule(labels, labels_after, meaning, is_lenient=skip_invalid)
    scorer = Scorer(loaded, Policy(**settings.policy.model_dump()), currency, rule)
    extra_fields = loaded.feature_set.extra_fields
    rules = Rules(currency, meaning, extra_fields, needs_truth=labels_after is not None)
    source = PaymentSource(data, rules)
    plan = Plan(scorer.evaluator, extra_fields, span.from_ms, span.until_ms, skip_invalid)
    with rows_progress(data.name, len(source)) as advance:
        written = write_scores(source, data.name, out, plan, scorer, advance)
    tell_left_out(data.name, written.faults)
    tell_left_out(labels.name if labels is not None else "", left_out)
    seconds = time.monotonic() - started_s
    counted = ", ".join(f"{outcome} {count:,}" for outcome, count in scorer.counts.items())
    typer.echo(
        f"{out}: {written.rows:,} payments in {seconds:.1f} s ({written.rows / seconds:,.0f}/s), "
        f"model {loaded.name} {loaded.version} {loaded.sha256[:12]}: {counted}",
        err=True,
    )
