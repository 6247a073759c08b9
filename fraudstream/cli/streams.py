"""``fraudstream topics``, ``replay`` and ``export``: streams in and out."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.config import AsJson, ConfigFile, FeatureSetFile
from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.export.columns import TopicKind
    from fraudstream.feature_set import FeatureSet
    from fraudstream.replay.replayer import ReplaySummary
    from fraudstream.replay.source import PaymentFile, RowForm
    from fraudstream.settings import Settings, TopicsSettings

topics_app = typer.Typer(
    help="Make the topics with the settings they need.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_RUN_ID_CHARACTERS_MAX = 64


@topics_app.callback()
def _topics() -> None:
    """Make the topics with the settings they need."""


@topics_app.command()
def create(
    config: ConfigFile = None,
    replication: Annotated[
        int,
        typer.Option(min=-1, max=9, help="Copies of each partition; -1 is the broker's default."),
    ] = -1,
    unlimited_retention: Annotated[
        bool, typer.Option("--unlimited-retention", help="Keep all records for ever.")
    ] = False,
    feature_set: FeatureSetFile = None,
) -> None:
    """Create the six topics, where they are missing.

    \b
    Transactions and labels are kept for as long as profiles look back, and a
    week: profiles can be rebuilt from nothing else. A topic that is there is
    never changed; if it is not as it should be, that is an error which says
    what differs.
    \b
    Example:
      fraudstream topics create --replication 3
    \b
    Next:
      fraudstream run               decide what arrives
      fraudstream replay FILE       let something arrive
    """
    from fraudstream.app import kafka_access
    from fraudstream.settings import load_settings
    from fraudstream.topics import TopicAdmin, plan_erasures, plan_topics

    if replication == 0:
        raise UsageError("--replication 0: a partition has at least one copy")
    settings = load_settings(config)
    names = settings.topics
    plans = plan_topics(
        [names.transactions, names.labels],
        [names.decisions, names.alerts, names.dead_letters],
        partitions=names.partitions,
        horizon_ms=_looked_back_on(settings, feature_set)
        .profile_definition(settings.profiles.currency)
        .horizon_ms,
        is_unlimited=unlimited_retention,
    )
    plans.append(plan_erasures(names.erasures))
    quiet_client()
    created = TopicAdmin(kafka_access(settings)).create(plans, replication)
    for plan in plans:
        verb = "created" if created[plan.name] else "was there"
        retention_ms = int(plan.config["retention.ms"])
        kept = "for ever" if retention_ms < 0 else f"for {retention_ms / 86_400_000:.0f} days"
        typer.echo(f"{plan.name}: {verb}, {plan.partitions} partitions, kept {kept}")


def replay(
    source: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines, by its suffix.")],
    speed: Annotated[
        str,
        typer.Option(
            metavar="1x|60x|500/s|max",
            help="As it happened, so many times as fast, at a steady rate, or as fast as it goes.",
        ),
    ] = "max",
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="First event time, a date or RFC 3339 (UTC)."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Event time before which it ends.")
    ] = None,
    labels_after: Annotated[
        str | None,
        typer.Option(
            metavar="7d",
            help="Report each fraud so long after its payment; also those before --from, if due.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the file's columns mean (YAML).")
    ] = None,
    max_ahead: Annotated[
        int,
        typer.Option(min=0, help="Records sent and not committed, at most; 0 waits for nobody."),
    ] = 20_000,
    max_ahead_time: Annotated[
        str,
        typer.Option(
            metavar="1d", help="Event time sent and not committed, at most; 0 is without limit."
        ),
    ] = "1d",
    run_id: Annotated[
        str | None, typer.Option(help="Name of this run, in each record's headers.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish a stream of payments from a file, as if they happened now.

    \b
    Columns are named as in the events themselves, and is_fraud says which
    are frauds; --mapping gives files with other names. The records' Kafka
    timestamps are of now; the events keep their own times.
    \b
    Unless --max-ahead is 0 it stays near what the workers have committed, and
    around each label it waits for them, so that even at full speed every
    decision knows the labels of its time and no later ones. Partitions are
    read at their own pace: without --max-ahead-time, those of a small file
    drift months apart, and decisions are flagged incomplete or too_late.
    \b
    Replayed again into empty profiles, the same payments are decided, with
    the same labels and the same past of each card. Terminals are shared by
    partitions: payments of other cards that are close in time may be counted
    once and not the next time, so a score may differ a little.
    \b
    Examples:
      fraudstream replay payments.parquet --speed 60x --labels-after 7d
      fraudstream replay payments.csv --mapping configs/mappings/handbook.yaml \\
        --from 2018-07-01 --until 2018-07-16
    \b
    Next:
      fraudstream export decisions --out decisions.parquet
    """
    from fraudstream.app import input_topics, kafka_access
    from fraudstream.cli.progress import replay_progress
    from fraudstream.replay.replayer import HoldBack, Replayer, Surroundings
    from fraudstream.replay.source import PaymentFile
    from fraudstream.replay.span import parse_duration, parse_span
    from fraudstream.replay.speed import parse_speed
    from fraudstream.replay.stream import LabelledStream
    from fraudstream.settings import load_settings

    settings = load_settings(config)
    pace, span = parse_speed(speed), parse_span(from_, until)
    delay_ms = None if labels_after is None else parse_duration(labels_after, "--labels-after")
    name = _checked_run_id(run_id)
    form = row_form(settings, mapping)
    payments = PaymentFile(source, form, span, labels_after_ms=delay_ms)
    _note_irregularities(payments)
    stream = LabelledStream(payments, delay_ms, form.framing)
    ahead_ms = 0 if max_ahead_time == "0" else parse_duration(max_ahead_time, "--max-ahead-time")
    hold_back = HoldBack(settings.kafka.group_id, max_ahead, ahead_ms) if max_ahead else None
    quiet_client()
    with _stop_on_signals() as stop, replay_progress(payments, pace) as on_progress:
        replayer = Replayer(
            kafka_access(settings),
            input_topics(settings),
            run_id=name,
            hold_back=hold_back,
            surroundings=Surroundings(stop, on_progress),
        )
        summary = replayer.run(stream, pace)
    _show_replay(summary, stream.labels_made - summary.labels, as_json=as_json)


def export(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            help="decisions, alerts, dead-letters, transactions, labels, or a topic's full name.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A .parquet, .csv or .jsonl file.")
    ],
    from_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="First Kafka timestamp, a date or RFC 3339 (UTC)."),
    ] = None,
    until_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Kafka timestamp before which it ends.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a topic's committed records to a file, one row a record.

    \b
    Reads from the beginning to the present end. Columns are the record's
    place, key, timestamp and headers, and the fields of its JSON; of a
    decision also feature.<name> and timing_ms.<stage>. What is nested, or
    fits no column, is JSON text.
    \b
    Example:
      fraudstream export decisions --out decisions.parquet
    \b
    Next:
      python -c "import polars; print(polars.read_parquet('decisions.parquet'))"
    """
    from fraudstream.app import kafka_access
    from fraudstream.cli.progress import export_progress
    from fraudstream.export.drain import TopicDrain
    from fraudstream.export.files import require_suffix, write_file
    from fraudstream.replay.span import parse_span
    from fraudstream.settings import load_settings

    settings = load_settings(config)
    require_suffix(out)
    span = parse_span(from_time, until_time, "-time")
    name, kind = _find_topic(topic, settings.topics)
    quiet_client()
    drain = TopicDrain(kafka_access(settings), name, span)
    with export_progress(name, drain.offsets_total) as on_progress:
        summary = write_file(drain.slices(on_progress), name, kind, out)
    if as_json:
        shown = {"topic": name, "file": str(out), "records": summary.records}
        typer.echo(json.dumps(shown | {"seconds": round(summary.seconds, 3)}))
    else:
        typer.echo(
            f"{out}: {summary.records:,} records of {name} in {summary.columns} columns, "
            f"{summary.seconds:.1f} s"
        )


def _looked_back_on(settings: Settings, file: Path | None) -> FeatureSet:
    """Give the feature set that says for how long topics are kept: the model's, if it is there."""
    from fraudstream.bundle import load_bundle
    from fraudstream.feature_files import chosen_feature_set

    bundle = settings.model.bundle
    if file is None and ("://" in bundle or Path(bundle).is_dir()):
        return load_bundle(settings.model.bundle).feature_set
    return chosen_feature_set(file)


def row_form(settings: Settings, mapping: Path | None) -> RowForm:
    """Say how rows are read; where the workers map, the topic carries the file's own names."""
    from fraudstream.app import load_mapping
    from fraudstream.replay.source import CONFLUENT_FRAMING, RowForm

    file = mapping or settings.events.mapping
    return RowForm(
        load_mapping(file) if file else None,
        is_mapped_by_worker=mapping is None and file is not None,
        framing=CONFLUENT_FRAMING if settings.events.framing == "confluent" else b"",
    )


def _checked_run_id(given: str | None) -> str:
    if given is None:
        import secrets

        return secrets.token_hex(4)
    if not given.isascii() or not given.isprintable() or len(given) > _RUN_ID_CHARACTERS_MAX:
        raise UsageError(f"--run-id: at most {_RUN_ID_CHARACTERS_MAX} plain characters, as july-2")
    return given


def _note_irregularities(payments: PaymentFile) -> None:
    if not payments.is_in_order:
        typer.echo("the file is not in the order of its event times; it was sorted", err=True)
    if payments.without_time:
        typer.echo(
            f"{payments.without_time:,} rows have no event time that can be read; they go along "
            "with the row before them",
            err=True,
        )


def _show_replay(summary: ReplaySummary, labels_unsent: int, *, as_json: bool) -> None:
    from fraudstream.event import format_time

    first, last = (
        None if time_ms is None else format_time(time_ms)
        for time_ms in (summary.first_time_ms, summary.last_time_ms)
    )
    if as_json:
        shown = {
            "run_id": summary.run_id,
            "transactions": summary.transactions,
            "labels": summary.labels,
            "labels_unsent": labels_unsent,
            "undelivered": summary.undelivered,
            "seconds": round(summary.seconds, 3),
            "records_per_s": round(summary.records_per_s, 1),
            "first_event_time": first,
            "last_event_time": last,
            "is_complete": summary.is_complete,
        }
        typer.echo(json.dumps(shown))
        return
    typer.echo(
        f"replay {summary.run_id}: {summary.transactions:,} transactions and {summary.labels:,} "
        f"labels in {summary.seconds:.1f} s ({summary.records_per_s:,.0f} records/s), event time "
        f"{first} to {last}"
    )
    if not summary.is_complete:
        lost = f", {summary.undelivered:,} records undelivered" if summary.undelivered else ""
        rest = f"; the rest: the same command with --from {last}" if last else ""
        typer.echo(f"stopped before the end{lost}{rest}")
    if labels_unsent:
        typer.echo(f"{labels_unsent:,} labels were not sent: they were reported after the end")


def _find_topic(name: str, topics: TopicsSettings) -> tuple[str, TopicKind]:
    """Give the full name and the kind of a topic, from either its kind or its name."""
    from fraudstream.export.columns import TopicKind

    names = {
        TopicKind.TRANSACTIONS: topics.transactions,
        TopicKind.LABELS: topics.labels,
        TopicKind.DECISIONS: topics.decisions,
        TopicKind.ALERTS: topics.alerts,
        TopicKind.DEAD_LETTERS: topics.dead_letters,
    }
    for kind, full_name in names.items():
        if name in (kind.value, full_name):
            return full_name, kind
    return name, TopicKind.OTHER


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM ask for an end instead of making one."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def quiet_client() -> None:
    """Keep the client library's own lines off the screen: errors are told in our words."""
    import logging

    from fraudstream.adapters.kafka import kafka_logger

    kafka_logger().addHandler(logging.NullHandler())
