"""``fraudstream model check``, ``diff`` and ``optimize``: what bundles are, and smaller ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.config import ConfigFile
from fraudstream.cli.optimize import optimize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fraudstream.bundle import Bundle
    from fraudstream.manifest import Certificate, Manifest, Period, Quality, Variant

model_app = typer.Typer(
    help="Look at model bundles, and make them smaller or faster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@model_app.command()
def check(
    bundle: Annotated[str, typer.Argument(metavar="DIR", help="The bundle's folder or address.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check a bundle as a worker would at its start, and say what it is.

    \b
    Hashes of all files, feature definitions against this code, XGBoost's
    version, and the golden vectors through both models. Exit code 0 when all
    is well, 11 when it is not. Of a variant (model optimize) it also prints
    what its certificate says.
    \b
    Examples:
      fraudstream model check models/default
      fraudstream model check models/default --json
      fraudstream model check s3://bucket/models/mine
    \b
    Next:
      fraudstream evaluate models/default stream.parquet
      FRAUDSTREAM_MODEL__BUNDLE=models/default fraudstream run
    """
    from fraudstream.bundle import load_bundle

    loaded = load_bundle(bundle)
    if as_json:
        import orjson

        certificate = loaded.certificate
        shown = loaded.manifest.model_dump() | {
            "sha256": loaded.sha256,
            "certificate": None if certificate is None else certificate.model_dump(),
        }
        typer.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        show_bundle(loaded)


@model_app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The bundle in use: folder or address.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one that might replace it.")],
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    tell_by_exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 when they differ.")
    ] = False,
) -> None:
    """Say how two bundles differ: features, profiles, training, quality, scores.

    \b
    Profiles are shared when both record the same series: then B can take
    over with A's profiles, and otherwise its own have to be filled first
    (docs/features.md). Scores are compared on the golden vectors of both, as
    far as each model's columns are there, under the policy's thresholds
    (--config, or the environment).
    \b
    Examples:
      fraudstream model diff models/default models/next
      fraudstream model diff models/default models/next --json
    \b
    Next:
      fraudstream evaluate models/next later.parquet
    """
    from fraudstream.bundle import load_bundle
    from fraudstream.bundle_diff import diff_bundles
    from fraudstream.settings import load_settings

    policy = load_settings(config).policy
    found = diff_bundles(
        load_bundle(a), load_bundle(b), (policy.review_threshold, policy.decline_threshold)
    )
    if as_json:
        import orjson

        typer.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        import sys

        from fraudstream.cli.model_tables import show_diff

        show_diff(found, sys.stdout)
    if tell_by_exit_code and not found.is_same:
        raise typer.Exit(1)


model_app.command()(optimize)


def show_bundle(bundle: Bundle) -> None:
    """Print what a bundle is, a line each."""
    manifest = bundle.manifest
    training = manifest.training
    folds = f"mean of {len(training.folds)} folds, to before {training.folds[-1].test.end[:10]}"
    calibration = manifest.calibration
    variant, certificate = manifest.variant, bundle.certificate
    for name, value in (
        ("model", f"{bundle.name} {bundle.version}, sha256 {bundle.sha256}"),
        ("made with", f"xgboost {manifest.xgboost_version}, bundle layout {manifest.layout}"),
        (
            "features",
            f"{len(bundle.features)}, of which the fallback model uses "
            f"{len(manifest.fallback_features)}",
        ),
        ("trees", f"{_trees(manifest)}, fallback {training.fallback_rounds}"),
        ("trained", _period(training.train)),
        ("quality", f"{_quality(manifest.quality)}, {folds}"),
        ("fallback", _quality(manifest.fallback_quality)),
        ("score", "no probability" if calibration is None else f"{calibration.method} probability"),
        ("data", training.data.strip()),
        *(() if variant is None or certificate is None else _certified(variant, certificate)),
    ):
        typer.echo(f"{name:11}{value}")


def _trees(manifest: Manifest) -> str:
    variant = manifest.variant
    trees = None if variant is None else variant.parameters.get("trees")
    rounds = manifest.training.rounds
    return str(rounds) if trees in (None, rounds) else f"{trees} of {rounds}"


def _certified(variant: Variant, certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Say what a variant changed."""
    c = certificate
    yield "variant", f"{variant.kind}, stands in for {variant.of}, whose quality is above"
    learnt = ", of which it learnt" if c.is_of_training else ""
    yield "certified", f"{_period(c.evaluated_on)}{learnt}"
    yield (
        "",
        f"average precision {c.average_precision:.4f}, before {c.average_precision_before:.4f}; "
        f"card precision@100 {c.card_precision_100:.4f}, before {c.card_precision_100_before:.4f}",
    )
    yield (
        "",
        f"scores differ by up to {c.score_difference_max:.2g}, on {c.rows_on_splits:,} rows on "
        f"splits by up to {c.score_difference_max_on_splits:.2g}; {c.flips:,} decisions flipped",
    )
    latencies = (
        f"{name.removeprefix('rows_')}: {us:,.0f} ({us_before:,.0f})"
        for (name, us), (_, us_before) in zip(c.latency_us, c.latency_us_before, strict=True)
    )
    yield (
        "",
        f"{c.model_bytes:,} bytes, before {c.model_bytes_before:,}; microseconds by rows "
        f"(before): {', '.join(latencies)}",
    )


def _period(period: Period) -> str:
    return (
        f"{period.start[:10]} to before {period.end[:10]}, {period.transactions:,} payments, "
        f"{period.frauds:,} frauds"
    )


def _quality(quality: Quality) -> str:
    return (
        f"AUC {quality.auc:.3f}, average precision {quality.average_precision:.3f}, card "
        f"precision@100 {quality.card_precision_100:.3f} of {quality.card_precision_100_best:.3f}"
    )
