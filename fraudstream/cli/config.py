"""``fraudstream config``: the effective settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Show or check the effective settings.", no_args_is_help=True, rich_markup_mode=None
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings file (YAML)."),
]
FeatureSetFile = Annotated[
    Path | None,
    typer.Option(
        "--feature-set", metavar="FILE", help="Feature set (YAML) instead of the model's."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print every setting with its effective value; secrets are hidden.

    \b
    The environment wins over the file: FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS
    is kafka.bootstrap_servers.
    \b
    Example:
      fraudstream config show --config configs/fraudstream.yaml
    """
    import yaml

    from fraudstream.settings import load_settings

    shown = load_settings(config).shown()
    text = json.dumps(shown, indent=2) if as_json else yaml.safe_dump(shown, sort_keys=False)
    typer.echo(text.rstrip())


@app.command()
def check(config: ConfigFile = None) -> None:
    """Check settings, mapping, model bundle, and how long Kafka keeps the log.

    \b
    Exit code 0 when all is well, 10 for settings, 11 for the bundle, 12 when
    the input topics forget sooner than profiles need them. Without Kafka the
    last is left out, and said so.
    \b
    Example:
      fraudstream config check --config configs/fraudstream.yaml
    """
    from fraudstream.app import check_retention, event_rules, kafka_access
    from fraudstream.bundle import load_bundle
    from fraudstream.errors import ServiceAwayError
    from fraudstream.settings import load_settings

    settings = load_settings(config)
    event_rules(settings)
    kafka_access(settings)
    bundle = load_bundle(settings.model.bundle, settings.model.device)
    typer.echo(f"settings and bundle are valid: {bundle.name} {bundle.version}")
    try:
        check_retention(settings, bundle)
    except ServiceAwayError as error:
        typer.echo(f"retention was not checked: {error}", err=True)
    else:
        typer.echo("the input topics are kept for long enough")
