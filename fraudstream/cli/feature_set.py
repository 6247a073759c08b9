"""``fraudstream feature-set``: what features there are, and whether they are what the log gives."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.config import AsJson, ConfigFile
from fraudstream.errors import ExitCode, ParityError, UsageError

if TYPE_CHECKING:
    from fraudstream.adapters.kafka import KafkaAccess
    from fraudstream.audit.parity import OpenTopic, Subject
    from fraudstream.event import Record
    from fraudstream.export.drain import TopicDrain
    from fraudstream.replay.span import TimeSpan
    from fraudstream.settings import Settings

app = typer.Typer(
    help="Look at features: what they mean, and whether they are right.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_features(
    feature_set: Annotated[
        Path | None,
        typer.Option("--feature-set", metavar="FILE", help="A feature set (YAML)."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", metavar="DIR", help="The one inside a model bundle, or address."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is remembered of whom, and every feature with its meaning.

    \b
    Without FILE or DIR it is the feature set that comes with fraudstream. A
    window of length w and lag l at time t is (t - l - w, t - l], to the
    millisecond. A mistake in FILE is told in one sentence, with exit code 10.
    \b
    Examples:
      fraudstream feature-set list
      fraudstream feature-set list --feature-set configs/features/default.yaml
      fraudstream feature-set list --bundle models/default --json
    \b
    Next:
      fraudstream features FILE --out features.parquet     made of a file
      fraudstream feature-set audit                        compared with the log
    """
    from fraudstream.cli.feature_tables import as_plain_values, show_feature_set
    from fraudstream.feature_files import chosen_feature_set

    if feature_set is not None and bundle is not None:
        raise UsageError("--feature-set and --bundle both say which features: give one of them")
    if bundle is None:
        chosen = chosen_feature_set(feature_set)
    else:
        from fraudstream.bundle import load_bundle

        chosen = load_bundle(bundle).feature_set
    if as_json:
        typer.echo(json.dumps(as_plain_values(chosen), indent=2))
    else:
        show_feature_set(chosen, sys.stdout)


@app.command()
def audit(
    config: ConfigFile = None,
    sample: Annotated[
        float, typer.Option(help="The share of decisions, above 0, up to 1.")
    ] = 0.001,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only decisions made from then on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only decisions made before then.")
    ] = None,
    decisions: Annotated[
        int, typer.Option(min=1, max=100_000, help="At most so many decisions.")
    ] = 1_000,
    tolerance: Annotated[
        str, typer.Option(metavar="DURATION", help="Time stamps closer than this tell no order.")
    ] = "2s",
    as_json: AsJson = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Recompute the features of some decisions from the log, and compare bit for bit.

    \b
    Draws decisions by the hash of their ids, so the same ones every time, reads
    what their cards and terminals had done before out of the transactions and
    labels topics, and lets the offline evaluator make the features again.
      match      the same float32, or not known in both
      mismatch   another number than the log gives: exit code 20
      missing    decided without whole profiles, or the log does not go back far enough
      uncertain  different, but records that came within --tolerance of the
                 decision, by other partitions, may be the reason
    Memory grows with --decisions, not with the topics.
    \b
    Examples:
      fraudstream feature-set audit --config configs/fraudstream.yaml
      fraudstream feature-set audit --sample 1 --decisions 200 --since 2026-01-31
    \b
    Next:
      set audit.interval_s, and a running worker does this beside its work
    """
    if background:
        _stay_in_the_background()
    from fraudstream.audit.parity import Plan
    from fraudstream.audit.parity import audit as run_audit
    from fraudstream.cli.feature_tables import show_report
    from fraudstream.replay.span import TimeSpan, parse_duration, parse_time
    from fraudstream.settings import load_settings

    if not 0 < sample <= 1:
        raise UsageError(f"--sample {sample:g}: write a share above 0, up to 1, as 0.001")
    span = TimeSpan(
        None if since is None else parse_time(since, "--since"),
        None if until is None else parse_time(until, "--until"),
    )
    plan = Plan(sample, decisions, span, parse_duration(tolerance, "--tolerance"))
    settings = load_settings(config)
    report = run_audit(_open_topic(settings), _subject(settings), plan)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        show_report(report, sys.stdout)
    if mismatches := report.mismatches:
        raise ParityError(
            f"{mismatches:,} features of {report.decisions:,} decisions are not what the log "
            "gives; docs/operations.md says where to look"
        )


def _stay_in_the_background() -> None:
    """Leave the processor to everybody else, and end when standard input does."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(int(ExitCode.OK))

    os.nice(19)
    threading.Thread(target=watch, name="parent", daemon=True).start()


def _subject(settings: Settings) -> Subject:
    from fraudstream.app import event_rules, profile_definition
    from fraudstream.audit.parity import Subject
    from fraudstream.bundle import load_bundle
    from fraudstream.currency import minor_units_per_major

    bundle = load_bundle(settings.model.bundle)
    return Subject(
        settings.topics.transactions,
        bundle.sha256,
        bundle.features,
        profile_definition(settings, bundle),
        event_rules(settings, bundle.feature_set.extra_fields),
        minor_units_per_major(settings.profiles.currency),
    )


def _open_topic(settings: Settings) -> OpenTopic:
    import logging

    from fraudstream.adapters.kafka import kafka_logger
    from fraudstream.app import kafka_access

    access = kafka_access(settings)
    names = {
        "decisions": settings.topics.decisions,
        "transactions": settings.topics.transactions,
        "labels": settings.topics.labels,
    }
    # Errors are told in our words.
    kafka_logger().addHandler(logging.NullHandler())
    return lambda kind, span: _Reading(access, names[kind], span)


class _Reading:
    """A topic that is read with a progress bar."""

    def __init__(self, access: KafkaAccess, name: str, span: TimeSpan) -> None:
        from fraudstream.export.drain import TopicDrain

        self._name = name
        self._drain: TopicDrain = TopicDrain(access, name, span)

    @property
    def cut_partitions(self) -> frozenset[int]:
        """The partitions that are read from where Kafka has deleted what came before."""
        return self._drain.cut_partitions

    def slices(self) -> Iterator[Sequence[Record]]:
        """Give the records."""
        from fraudstream.cli.progress import export_progress

        with export_progress(self._name, self._drain.offsets_total) as on_progress:
            yield from self._drain.slices(on_progress)
