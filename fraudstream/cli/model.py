"""``fraudstream model check``: what a bundle is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fraudstream.bundle import Bundle
    from fraudstream.manifest import Period, Quality

model_app = typer.Typer(help="Look at model bundles.", no_args_is_help=True, rich_markup_mode=None)


@model_app.callback()
def _model() -> None:
    """Keep `check` a command of its own while it is the only one."""


@model_app.command()
def check(
    bundle: Annotated[str, typer.Argument(metavar="DIR", help="The bundle's folder or address.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check a bundle as a worker would at its start, and say what it is.

    \b
    Hashes of all files, feature definitions against this code, XGBoost's
    version, and the golden vectors through both models. Exit code 0 when all
    is well, 11 when it is not.
    \b
    Examples:
      fraudstream model check models/default
      fraudstream model check models/default --json
      fraudstream model check s3://bucket/models/mine
    \b
    Next:
      FRAUDSTREAM_MODEL__BUNDLE=models/default fraudstream run
    """
    from fraudstream.bundle import load_bundle

    loaded = load_bundle(bundle)
    if as_json:
        import orjson

        shown = loaded.manifest.model_dump() | {"sha256": loaded.sha256}
        typer.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        show_bundle(loaded)


def show_bundle(bundle: Bundle) -> None:
    """Print what a bundle is, a line each."""
    manifest = bundle.manifest
    training = manifest.training
    folds = f"mean of {len(training.folds)} folds, to before {training.folds[-1].test.end[:10]}"
    calibration = manifest.calibration
    for name, value in (
        ("model", f"{bundle.name} {bundle.version}, sha256 {bundle.sha256}"),
        ("made with", f"xgboost {manifest.xgboost_version}, bundle layout {manifest.layout}"),
        (
            "features",
            f"{len(bundle.features)}, of which the fallback model uses "
            f"{len(manifest.fallback_features)}",
        ),
        ("trees", f"{training.rounds}, fallback {training.fallback_rounds}"),
        ("trained", _period(training.train)),
        ("quality", f"{_quality(manifest.quality)}, {folds}"),
        ("fallback", _quality(manifest.fallback_quality)),
        ("score", "no probability" if calibration is None else f"{calibration.method} probability"),
        ("data", training.data.strip()),
    ):
        typer.echo(f"{name:11}{value}")


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
