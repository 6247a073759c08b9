"""``fraudstream simulate`` and ``train``: from a stream to a frozen model."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.cli.reading import read_mapping, read_recipe
from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.training.dataset import LabelledVectors, Reading


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
        Path | None,
        typer.Argument(metavar="DATA", help="Labelled payments: .parquet, .csv or .jsonl."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The bundle's folder, and its name."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", "-r", metavar="FILE", help="Features, periods, parameters."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="Names of foreign columns (YAML)."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="The last day (UTC) that may be used (default: all)."),
    ] = None,
    from_decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Learn from exported decisions instead of DATA."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What became of those payments.")
    ] = None,
    maturity: Annotated[
        str, typer.Option(metavar="DURATION", help="Younger decisions are not judged yet.")
    ] = "30d",
    about: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the data are, for the model card."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a bundle that is there already.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows that break the contract.")
    ] = False,
) -> None:
    """Train a model on labelled payments and freeze it into a bundle.

    \b
    Rows need our event fields and is_fraud, true or false. Features are the
    live consumer's, to the last bit, with every label known only after its
    delay. Settings are chosen and quality is measured on folds: learnt on the
    past, judged after the label delay. The model itself then learns from the
    latest days up to --until. A fallback model for when profiles are away is
    trained beside it. The same data and recipe give the same bundle, byte for
    byte.
    \b
    With --from-decisions it learns from the vectors that were logged when
    payments were decided (fraudstream export decisions) and from --labels
    (fraudstream export labels). Payments younger than --maturity are left out,
    because what became of them is not known yet.
    \b
    Examples:
      fraudstream train stream.parquet --out models/mine
      fraudstream train stream.parquet --recipe configs/training/reference.yaml \\
        --out models/default --replace
      fraudstream train foreign.csv --mapping configs/mappings/handbook.yaml \\
        --until 2018-07-31 --out models/handbook
      fraudstream train --from-decisions decisions.parquet \\
        --labels labels.parquet --maturity 30d --out models/next
    \b
    Next:
      fraudstream model check models/mine
      fraudstream evaluate models/mine later.parquet --report report.html
      FRAUDSTREAM_MODEL__BUNDLE=models/mine fraudstream run
    """
    from fraudstream.bundle_writing import write_bundle
    from fraudstream.cli.model import show_bundle
    from fraudstream.cli.progress import steps_progress
    from fraudstream.profile import DAY_MS
    from fraudstream.training.dataset import Reading
    from fraudstream.training.train import Trainer

    if out is None:
        raise UsageError("--out DIR is missing: say where the bundle goes, as --out models/mine")
    check_bundle_place(out, replace=replace)
    chosen, feature_set = read_recipe(recipe)
    if about is not None:
        chosen = chosen.model_copy(update={"data": about})
    trainer = Trainer(chosen, feature_set)  # refuses a wrong recipe before the long work
    reading = Reading(
        feature_set,
        chosen.features,
        chosen.currency,
        chosen.label_delay_days * DAY_MS,
        read_mapping(mapping),
        end_of_day(until),
        is_lenient=skip_invalid,
    )
    if from_decisions is not None:
        if data is not None:
            raise UsageError("DATA and --from-decisions both say what to learn from: give one")
        rows = _logged_rows(from_decisions, labels, maturity, reading)
    elif data is None:
        raise UsageError("DATA is missing: a file of labelled payments, or --from-decisions FILE")
    else:
        rows = _file_rows(data, reading)
    with steps_progress("fitting", trainer.rounds, "rounds") as advance:
        draft = trainer.telling(lambda: advance(1)).train(rows, out.resolve().name)
    show_bundle(write_bundle(out, draft))


def check_bundle_place(out: Path, *, replace: bool) -> None:
    """Refuse before the work begins what would be refused after it."""
    name = out.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise UsageError(f"--out {out}: a bundle's name has 1 to 64 of A-Z a-z 0-9 . _ -")
    if out.exists() and not replace:
        raise UsageError(f"--out {out} is there already; --replace trains it anew")


def end_of_day(until: str | None) -> int | None:
    """Read ``--until``, a day that still counts; epoch milliseconds of its end."""
    if until is None:
        return None
    from fraudstream.profile import DAY_MS
    from fraudstream.replay.span import parse_time

    time_ms = parse_time(until, "--until")
    if time_ms % DAY_MS:
        raise UsageError(f"--until {until}: write the last day that counts, as 2018-07-31")
    return time_ms + DAY_MS


def _file_rows(data: Path, reading: Reading) -> LabelledVectors:
    from fraudstream.cli.progress import rows_progress
    from fraudstream.training.dataset import open_labelled, read_labelled

    source = open_labelled(data, reading)
    with rows_progress(data.name, len(source)) as advance:
        return read_labelled(source, data.name, reading, advance)


def _logged_rows(
    decisions: Path, labels: Path | None, maturity: str, reading: Reading
) -> LabelledVectors:
    from fraudstream.replay.span import parse_duration
    from fraudstream.training.logged import Logged, read_logged

    if labels is None:
        raise UsageError(
            "--from-decisions needs --labels FILE: what became of the payments "
            "(fraudstream export labels --out labels.parquet)"
        )
    columns = reading.feature_set.features
    if reading.names is not None:
        columns = reading.feature_set.select(reading.names)
    logged = read_logged(
        Logged(
            decisions,
            labels,
            tuple(feature.name for feature in columns),
            parse_duration(maturity, "--maturity"),
            reading.until_ms,
            reading.currency,
            reading.mapping,
            reading.is_lenient,
        )
    )
    typer.echo(logged.summary, err=True)
    return logged.rows


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start {text}: write a date as 2026-01-31") from None
