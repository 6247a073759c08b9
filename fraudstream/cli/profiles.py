"""``fraudstream rebuild`` and ``fraudstream profiles``: what is remembered, and forgetting it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.config import AsJson, ConfigFile
from fraudstream.errors import ServiceAwayError, UsageError

if TYPE_CHECKING:
    from fraudstream.bundle import Bundle
    from fraudstream.profile_view import RecordView, SeriesView, WindowView
    from fraudstream.rebuild import RebuildSummary
    from fraudstream.replay.past import Past
    from fraudstream.settings import Settings

profiles_app = typer.Typer(
    help="Show what is remembered of a card or terminal, or forget it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_ENTITY_HELP = "Whose: card:ID or terminal:ID, or another entity of the feature set."
Entity = Annotated[str, typer.Argument(metavar="ENTITY", help=_ENTITY_HELP)]


def rebuild(
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Payments from before the log begins."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the file's columns mean (YAML).")
    ] = None,
    labels_after: Annotated[
        str | None,
        typer.Option(metavar="7d", help="How long after its payment each fraud was reported."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the profiles anew out of the log, whatever is there already.

    \b
    Reads all transactions and labels that Kafka still has, and merges them
    into the profiles of the model in the settings. Nothing counts twice, so
    it may be run again, and while workers run: they decide without profiles
    until those are whole, and say so.
    \b
    What the log has forgotten can come from a file, read as `fraudstream
    replay` reads it: windows that reach back into it are known again.
    Entities that were forgotten on purpose stay forgotten.
    \b
    Examples:
      fraudstream rebuild --config configs/fraudstream.yaml
      fraudstream rebuild --from payments.parquet --labels-after 7d
    \b
    Next:
      fraudstream profiles show card:ID     look at what came of it
      fraudstream run                       decide; after another group id,
                                            begin with --from watermark
    """
    from fraudstream.app import build_rebuilder
    from fraudstream.cli.progress import rebuild_progress

    if from_ is None and (mapping is not None or labels_after is not None):
        raise UsageError("--mapping and --labels-after say how the file of --from is read")
    settings, bundle = _load(config)
    if from_ is not None and labels_after is None and bundle.feature_set.reads_labels:
        raise UsageError(
            "--from needs --labels-after, as 7d: this model's features look back on frauds, and "
            "without labels the file's time would count as one without any"
        )
    past = None if from_ is None else _past(settings, from_, mapping, labels_after)
    with rebuild_progress() as on_progress:
        summary = build_rebuilder(settings, bundle, past, on_progress).run()
    _show_rebuild(summary, as_json=as_json)


@profiles_app.callback()
def _profiles() -> None:
    """Show what is remembered of a card or terminal, or forget it."""


@profiles_app.command()
def show(
    entity: Entity,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When windows are read; by default at the last record."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what is remembered of an entity, and what its windows hold at a time.

    \b
    For each series: how many records, since when everything is known, the
    latest records, and each window's count and sums, amounts in minor units.
    Ids of payments are kept as hashes only.
    \b
    Examples:
      fraudstream profiles show card:c0000123
      fraudstream profiles show terminal:t0000456 --at 2018-07-25T12:00:00Z
    \b
    Next:
      fraudstream profiles forget card:c0000123
    """
    from fraudstream.app import build_store, profile_definition
    from fraudstream.profile_view import view_series
    from fraudstream.rebuild import patiently
    from fraudstream.replay.span import parse_time

    settings, bundle = _load(config)
    field, name = _parse_entity(settings, bundle, entity)
    store = build_store(settings, profile_definition(settings, bundle), is_patient=True)
    series = [s for s in store.definition.series if s.entity == field]
    contents = [(s, patiently(lambda s=s: store.content(s.name, name))) for s in series]  # type: ignore[misc]
    found = [(s, content) for s, content in contents if content is not None]
    if not found:
        raise UsageError(
            f"nothing is remembered of {field} {name} in the namespace "
            f"{settings.profiles.namespace}: it made no payments since profiles are kept, or the "
            "model in the settings keeps others; `fraudstream rebuild` reads the log again"
        )
    lasts_ms = [int(content.run.times_ms[-1]) for _, content in found if len(content.run)]
    at_ms = parse_time(at, "--at") if at is not None else max(lasts_ms, default=_now_ms())
    known_from = settings.profiles.known_from
    known_ms = max(
        patiently(store.floor_ms), int(known_from.timestamp() * 1000 if known_from else 0)
    )
    views = [view_series(s, content, at_ms, known_ms, bundle.features) for s, content in found]
    _show_views(f"{field} {name}", at_ms, views, as_json=as_json)


@profiles_app.command()
def forget(
    entity: Entity,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Event time up to which; by default all up to now."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Forget an entity: drop its records, and refuse them when they come again.

    \b
    It is written down first, in the topic fraudstream.erasures, as a hash
    without the id, so that no rebuild and no repair brings it back. Windows
    that reach back into the forgotten time are unknown from now on, not
    empty. Payments from then on are remembered.
    \b
    The topics of transactions, labels and decisions are not touched: Kafka
    deletes them by their retention. The other side of a payment keeps its
    record, with a hash of the transaction id: a terminal's count stays.
    \b
    Examples:
      fraudstream profiles forget card:c0000123
      fraudstream profiles forget card:c0000123 --until 2018-07-01 --yes
    \b
    Next:
      fraudstream profiles show card:c0000123
    """
    from fraudstream.app import build_store, erasure_log, profile_definition
    from fraudstream.erasures import forget_everywhere
    from fraudstream.event import format_time
    from fraudstream.rebuild import patiently
    from fraudstream.replay.span import parse_time

    settings, bundle = _load(config)
    field, name = _parse_entity(settings, bundle, entity)
    until_ms = _now_ms() if until is None else parse_time(until, "--until")
    if until_ms > _now_ms():
        raise UsageError(
            "--until lies in the future: payments that are still to come would be lost"
        )
    definition = profile_definition(settings, bundle)
    store = build_store(settings, definition, is_patient=True)
    # Looked up before anything is written: an erasure in the topic holds, whatever happens then.
    kept = [
        patiently(lambda s=s: store.content(s.name, name))  # type: ignore[misc]
        for s in definition.series
        if s.entity == field
    ]
    known = "" if any(kept) else ", of whom nothing is remembered,"
    if not yes:
        question = f"forget {field} {name}{known} up to {format_time(until_ms)} for good?"
        typer.confirm(question, abort=True, err=True)
    reaches_ms = erasure_log(settings).record(field, name, until_ms)
    try:
        dropped = patiently(lambda: forget_everywhere(store, field, name, reaches_ms))
    except ServiceAwayError as error:
        raise ServiceAwayError(
            "the erasure is written down and will hold at the next repair or rebuild, but the "
            "profile store did not answer: run the command again to drop the records now"
        ) from error
    if as_json:
        shown = {"field": field, "until": format_time(reaches_ms), "dropped": dropped}
        typer.echo(json.dumps(shown))
        return
    if known:
        typer.echo(f"nothing was remembered of {field} {name}: is the id right?", err=True)
    listed = ", ".join(f"{records:,} records of {series}" for series, records in dropped.items())
    typer.echo(f"{field} {name} is forgotten up to {format_time(reaches_ms)}: {listed}")


def _load(config: Path | None) -> tuple[Settings, Bundle]:
    from fraudstream.bundle import load_bundle
    from fraudstream.cli.streams import quiet_client
    from fraudstream.settings import load_settings

    settings = load_settings(config)
    quiet_client()
    return settings, load_bundle(settings.model.bundle)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _parse_entity(settings: Settings, bundle: Bundle, text: str) -> tuple[str, str]:
    """Read ``card:ID``; give the event field and the id under which profiles are kept."""
    from fraudstream.app import profile_definition
    from fraudstream.card_number import holds_card_number, tokenize

    kinds = {name: e["field"] for name, e in bundle.feature_set.document["entities"].items()}
    kept = {series.entity for series in profile_definition(settings, bundle).series}
    kind, colon, name = text.partition(":")
    field = kinds.get(kind, kind)
    if not colon or not name or field not in kept:
        names = sorted(kind for kind, field in kinds.items() if field in kept)
        # Without the words that were given: they may be a card number.
        raise UsageError(
            f"write whose profile is meant as {' or '.join(f'{kind}:ID' for kind in names)}"
            if names
            else "the model in the settings keeps no profiles"
        )
    if holds_card_number(name):
        if settings.events.card_number != "hmac":
            raise UsageError("the id looks like a card number; profiles are kept under tokens only")
        name = tokenize(name, settings.events.hmac_key.get_secret_value().encode())
    return field, name


def _past(settings: Settings, file: Path, mapping: Path | None, labels_after: str | None) -> Past:
    from fraudstream.cli.streams import row_form
    from fraudstream.replay.past import Past
    from fraudstream.replay.source import PaymentFile
    from fraudstream.replay.span import TimeSpan, parse_duration

    form = row_form(settings, mapping)
    delay_ms = None if labels_after is None else parse_duration(labels_after, "--labels-after")
    payments = PaymentFile(file, form, TimeSpan(), labels_after_ms=delay_ms)
    return Past(payments, delay_ms, form.framing)


def _show_rebuild(summary: RebuildSummary, *, as_json: bool) -> None:
    from dataclasses import asdict

    from fraudstream.event import format_time

    if as_json:
        rate = {"events_per_s": round(summary.events_per_s, 1)}
        typer.echo(json.dumps(asdict(summary) | rate))
        return
    typer.echo(
        f"rebuilt from {summary.transactions:,} transactions and {summary.labels:,} labels of the "
        f"log in {summary.seconds:.1f} s ({summary.events_per_s:,.0f} events/s)"
    )
    if summary.past_transactions:
        typer.echo(
            f"before them {summary.past_transactions:,} payments and {summary.past_labels:,} "
            "labels of the file"
        )
    if summary.refused:
        typer.echo(f"{summary.refused:,} records are no events and were passed over")
    if summary.erased:
        typer.echo(f"{summary.erased:,} times records of a forgotten entity were refused")
    if not summary.is_past_joined:
        typer.echo(
            "the file ends more than a day before the log begins: what lies before the log stays "
            "unknown",
            err=True,
        )
    if summary.known_from_ms is not None:
        typer.echo(f"profiles are known from {format_time(summary.known_from_ms)} on")


def _show_views(title: str, at_ms: int, views: list[SeriesView], *, as_json: bool) -> None:
    from dataclasses import asdict

    from fraudstream.event import format_time

    if as_json:
        shown = {"entity": title, "at": format_time(at_ms), "series": [asdict(v) for v in views]}
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{title} as of {format_time(at_ms)}")
    for view in views:
        _show_series(view)


def _show_series(view: SeriesView) -> None:
    from rich.console import Console
    from rich.table import Table

    from fraudstream.event import format_time

    span = ""
    if view.first_ms is not None and view.last_ms is not None:
        span = f", {format_time(view.first_ms)} to {format_time(view.last_ms)}"
    known = f", known from {format_time(view.known_from_ms)} on" if view.known_from_ms else ""
    typer.echo(f"\n{view.name}: {view.records:,} records{span}{known}")
    windows = Table("window", "count", "sums", "features", box=None, header_style="")
    for window in view.windows:
        windows.add_row(*_window_cells(window))
    latest = Table("latest records", "source", "id hash", "values", box=None, header_style="")
    for record in view.latest:
        latest.add_row(*_record_cells(record))
    console = Console(width=None if typer.get_text_stream("stdout").isatty() else 160)
    if view.windows:
        console.print(windows)
    if view.latest:
        console.print(latest)


def _window_cells(window: WindowView) -> tuple[str, str, str, str]:
    number = window.count if window.count is not None else window.value
    sums = ", ".join(f"{name} {value:,}" for name, value in window.sums.items())
    text = "unknown" if number is None else f"{number:,}"
    return window.name, text, sums, ", ".join(window.features)


def _record_cells(record: RecordView) -> tuple[str, str, str, str]:
    from fraudstream.event import format_time

    source = "no record of Kafka's"
    if record.source is not None:
        topic, partition, offset = record.source
        source = f"{'transactions' if topic == 1 else 'labels'} {partition}@{offset}"
    values = ", ".join(f"{name} {value:,}" for name, value in record.values.items())
    if record.reported_at_ms is not None:
        values += f", reported {format_time(record.reported_at_ms)}"
    return format_time(record.time_ms), source, record.id_hash, values
