"""``fraudstream simulate``, ``train`` and ``model check``: from a stream to a frozen model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from fraudstream.bundle import Bundle
    from fraudstream.event import EventRules
    from fraudstream.manifest import Period, Quality
    from fraudstream.training.stream_file import LabelledStream

    ModelT = TypeVar("ModelT", bound=BaseModel)

model_app = typer.Typer(help="Look at model bundles.", no_args_is_help=True, rich_markup_mode=None)


def simulate(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A .parquet, .csv or .jsonl file.")
    ],
    cards: Annotated[int, typer.Option(help="How many cards pay.")] = 5_000,
    terminals: Annotated[
        int | None, typer.Option(help="How many terminals they pay at (default: two a card).")
    ] = None,
    days: Annotated[int, typer.Option(help="How many days; a card pays about twice a day.")] = 90,
    start: Annotated[str, typer.Option(metavar="DATE", help="The first day, UTC.")] = "2026-01-01",
    seed: Annotated[int, typer.Option(help="The same seed gives the same stream.")] = 42,
) -> None:
    """Make a stream of card payments with labels, to train on and to replay.

    \b
    About 1 % are fraud, of three kinds: an amount above 220.00, a terminal
    compromised for 28 days, and a card whose amounts are five times the
    usual for 14 days. Good for trying things out; it is simulated, so a
    model that is good at it may be bad at real fraud.
    \b
    Examples:
      fraudstream simulate --out stream.parquet
      fraudstream simulate --cards 300 --days 30 --seed 7 --out small.jsonl
    \b
    Next:
      fraudstream train stream.parquet --out models/mine
      fraudstream replay small.jsonl --speed 60x
    """
    from fraudstream.training.simulate import SimulationSpec
    from fraudstream.training.simulate import simulate as make_stream
    from fraudstream.training.stream_file import check_suffix, write_stream

    check_suffix(out)
    spec = SimulationSpec(
        cards=cards,
        terminals=2 * cards if terminals is None else terminals,
        days=days,
        start=_parse_date(start),
        seed=seed,
    )
    stream = make_stream(spec)
    write_stream(stream, out)
    typer.echo(
        f"{out}: {len(stream):,} payments of {spec.cards:,} cards at {spec.terminals:,} terminals "
        f"in {spec.days} days, {stream.is_fraud.mean():.2%} fraud",
        err=True,
    )


def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled payments: .parquet, .csv or .jsonl.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The bundle's folder, and its name.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Periods and parameters (YAML)."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="Names of foreign columns (YAML)."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a bundle that is there already.")
    ] = False,
) -> None:
    """Train a model on labelled payments and freeze it into a bundle.

    \b
    Rows need our event fields and is_fraud, true or false. Features are made
    by the same code as online, in event-time order, with every label known
    only after its delay. The stream is cut by time: training, label delay,
    validation. A fallback model for when profiles are away is trained too.
    The same data and settings give the same bundle, byte for byte.
    \b
    Examples:
      fraudstream train stream.parquet --out models/mine
      fraudstream train stream.parquet --config configs/training/default.yaml \\
        --out models/default --replace
      fraudstream train foreign.csv --mapping configs/mappings/handbook.yaml \\
        --out models/handbook
    \b
    Next:
      fraudstream model check models/mine
      FRAUDSTREAM_MODEL__BUNDLE=models/mine fraudstream run
    """
    from fraudstream.bundle import write_bundle
    from fraudstream.event import EventRules
    from fraudstream.feature_files import chosen_feature_set
    from fraudstream.training.train import TrainingSettings
    from fraudstream.training.train import train as make_draft

    _check_place(out, replace=replace)
    settings = read_yaml(config, TrainingSettings) if config else TrainingSettings()
    feature_set = chosen_feature_set(settings.feature_set)
    rules = EventRules(currency=settings.currency, extra_fields=feature_set.extra_fields)
    stream = _read_stream(data, rules, mapping)
    with _progress(f"{len(stream.transactions):,} vectors", len(stream.transactions)) as advance:
        draft = make_draft(stream, out.resolve().name, settings, feature_set, advance)
    _show(write_bundle(out, draft))


@model_app.command()
def check(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")],
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
        _show(loaded)


@model_app.callback()
def _model() -> None:
    """Keep `check` a command of its own while it is the only one."""


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start {text}: write a date as 2026-01-31") from None


def _check_place(out: Path, *, replace: bool) -> None:
    """Refuse before the work begins what would be refused after it."""
    name = out.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise UsageError(f"--out {out}: a bundle's name has 1 to 64 of A-Z a-z 0-9 . _ -")
    if out.exists() and not replace:
        raise UsageError(f"--out {out} is there already; --replace trains it anew")


def _read_stream(data: Path, rules: EventRules, mapping: Path | None) -> LabelledStream:
    from fraudstream.mapping import EventMapping
    from fraudstream.training.stream_file import read_stream

    meaning = read_yaml(mapping, EventMapping) if mapping is not None else None
    return read_stream(data, rules, meaning)


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


@contextmanager
def _progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=total)
        yield lambda done: progress.advance(task, done)


def _show(bundle: Bundle) -> None:
    manifest = bundle.manifest
    training = manifest.training
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
        ("validated", _period(training.validation)),
        ("quality", _quality(manifest.quality)),
        ("fallback", _quality(manifest.fallback_quality)),
        ("data", training.data.strip()),
    ):
        typer.echo(f"{name:11}{value}")


def _period(period: Period) -> str:
    return (
        f"{period.start[:10]} to {period.end[:10]}, {period.transactions:,} payments, "
        f"{period.frauds:,} frauds"
    )


def _quality(quality: Quality) -> str:
    return (
        f"AUC {quality.auc:.3f}, average precision {quality.average_precision:.3f}, card "
        f"precision@100 {quality.card_precision_100:.3f} of {quality.card_precision_100_best:.3f}"
    )
