"""``fraudstream evaluate``: how good a bundle's model is on labelled payments."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fraudstream.cli.config import ConfigFile
from fraudstream.cli.reading import read_mapping
from fraudstream.errors import UsageError

if TYPE_CHECKING:
    from fraudstream.bundle import Bundle
    from fraudstream.mapping import EventMapping
    from fraudstream.training.dataset import LabelledVectors
    from fraudstream.training.evaluation import Evaluation
    from fraudstream.training.report.tables import Table

#: Wide enough for every column where nobody says how wide the paper is.
_WIDTH: Final = 160
_DURATION: Final = re.compile(r"\d+[dhms]", re.ASCII)


def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Its folder or address.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled payments: .parquet, .csv or .jsonl.")
    ],
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="Names of foreign columns (YAML)."),
    ] = None,
    labels_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="A fraud's label is known so long after it (default: as in the training).",
        ),
    ] = None,
    from_day: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="The first day (UTC) that is measured (default: after training and label delay).",
        ),
    ] = None,
    until_day: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="DAY", help="The last day that is measured (default: all)."
        ),
    ] = None,
    fold_days: Annotated[int, typer.Option(min=1, max=3650, help="How long a fold is.")] = 7,
    segment: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Give the figures by the values of this field, too."),
    ] = None,
    cards_per_day: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="How many cards a team looks at each day.")
    ] = 100,
    maturity: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="How final the labels are, in words; or a duration, as 30d: younger payments are "
            "not measured.",
        ),
    ] = None,
    config: ConfigFile = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows that break the contract.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="An .html file to write, too.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a report that is there already.")
    ] = False,
) -> None:
    """Measure a bundle's model on labelled payments.

    \b
    Rows need our event fields and is_fraud, true or false. Features are the
    live consumer's, to the last bit, with every label known only after its
    delay. What is measured is cut into folds, one after the other; on each
    day the cards on which a fraud is known by then are left out. Payments
    before --from are past: windows and known frauds come from them. By default
    the measured days begin where the bundle's training period and the label
    delay are over; days that it learnt from are measured with a warning.
    \b
    Thresholds are the policy's (--config, or the environment). The report is
    one HTML file that loads nothing.
    \b
    Examples:
      fraudstream evaluate models/mine later.parquet
      fraudstream evaluate models/mine later.parquet --report report.html
      fraudstream evaluate models/mine stream.parquet --from 2026-03-01 \\
        --segment currency --json
      fraudstream evaluate models/handbook foreign.parquet \\
        --mapping configs/mappings/handbook.yaml --maturity 30d
    \b
    Next:
      docs/evaluation.md says how to read the figures
      FRAUDSTREAM_POLICY__REVIEW_THRESHOLD=0.4 fraudstream evaluate ...
    """
    from fraudstream.bundle import load_bundle
    from fraudstream.decision import Policy
    from fraudstream.settings import load_settings
    from fraudstream.training.evaluation import EvaluationPlan
    from fraudstream.training.evaluation import evaluate as measure

    settings = load_settings(config)
    wish = _Wish(data, read_mapping(mapping), labels_after, until_day, maturity, segment)
    from_ms = _start_of_day(from_day)
    if report is not None:
        _check_place(report, (data, mapping, config), replace=replace)
        from fraudstream.training.report.document import write_report  # needs an extra
    loaded = load_bundle(bundle)
    found = _read(loaded, wish, settings.profiles.currency, is_lenient=skip_invalid)
    policy = settings.policy
    plan = EvaluationPlan(
        Policy(
            policy.review_threshold,
            policy.decline_threshold,
            policy.fallback_review_threshold,
            policy.name,
        ),
        labels_after_ms=found.labels_after_ms,
        data=data.name,
        data_end_ms=found.end_ms,
        currency=settings.profiles.currency,
        from_ms=from_ms,
        fold_days=fold_days,
        cards_per_day=cards_per_day,
        segment=segment,
        maturity=None if wish.is_minimum_age else maturity,
        invalid_rows=found.invalid_rows,
    )
    evaluation = measure(loaded, found.rows, plan)
    if report is not None:
        write_report(evaluation, report)
        typer.echo(f"{report}: written", err=True)
    _show(evaluation, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What of which file is measured, as it was said.

    Raises
    ------
    UsageError
        The segment is no text.
    """

    data: Path
    mapping: EventMapping | None
    labels_after: str | None
    until_day: str | None
    maturity: str | None
    segment: str | None

    def __post_init__(self) -> None:
        from fraudstream.event import CONTRACT_FIELDS, TEXT_FIELDS

        if self.segment in {"is_fraud", *CONTRACT_FIELDS} - set(TEXT_FIELDS):
            raise UsageError(
                f"--segment {self.segment}: its values are no text; give a field such as currency, "
                "or one of the file's own"
            )

    @property
    def is_minimum_age(self) -> bool:
        """Whether the maturity says how old a payment must be to be measured."""
        return self.maturity is not None and _DURATION.fullmatch(self.maturity) is not None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The rows of a file, where the file ends, and what else was found out while reading."""

    rows: LabelledVectors
    end_ms: int
    labels_after_ms: int
    invalid_rows: int


def _read(bundle: Bundle, wish: _Wish, currency: str, *, is_lenient: bool) -> _Found:
    from fraudstream.cli.progress import rows_progress
    from fraudstream.profile import DAY_MS
    from fraudstream.replay.span import parse_duration
    from fraudstream.training.dataset import Reading, open_labelled, read_labelled

    labels_after_ms = bundle.manifest.training.label_delay_days * DAY_MS
    if wish.labels_after is not None:
        labels_after_ms = parse_duration(wish.labels_after, "--labels-after")
    reading = Reading(
        bundle.feature_set,
        tuple(feature.name for feature in bundle.features),
        currency,
        labels_after_ms,
        wish.mapping,
        segment=wish.segment,
        is_lenient=is_lenient,
    )
    source = open_labelled(wish.data, reading)
    if not len(source):
        raise UsageError(f"{wish.data.name} holds no rows")
    end_ms = (int(source.times_ms[-1]) // DAY_MS + 1) * DAY_MS
    until_ms = _until_ms(wish, int(source.times_ms[0]), end_ms)
    looked_at = int(source.times_ms.searchsorted(until_ms))
    with rows_progress(wish.data.name, looked_at) as advance:
        rows = read_labelled(
            source, wish.data.name, dataclasses.replace(reading, until_ms=until_ms), advance
        )
    return _Found(rows, end_ms, labels_after_ms, looked_at - len(rows))


def _until_ms(wish: _Wish, first_ms: int, end_ms: int) -> int:
    """Say where what is measured ends: at --until, and at what is old enough."""
    from fraudstream.cli.training import end_of_day
    from fraudstream.event import format_time
    from fraudstream.profile import DAY_MS
    from fraudstream.replay.span import parse_duration

    until_ms = end_of_day(wish.until_day) or end_ms
    if wish.maturity is not None and wish.is_minimum_age:
        oldest_ms = end_ms - parse_duration(wish.maturity, "--maturity")
        until_ms = min(until_ms, oldest_ms // DAY_MS * DAY_MS)
    if until_ms <= first_ms:
        raise UsageError(
            f"{wish.data.name}: nothing is left to measure; the data go from "
            f"{format_time(first_ms)[:10]} to {format_time(end_ms - 1)[:10]}: look at --until and "
            "--maturity"
        )
    return until_ms


def _start_of_day(text: str | None) -> int | None:
    """Read ``--from``, a day; epoch milliseconds of its beginning."""
    if text is None:
        return None
    from fraudstream.profile import DAY_MS
    from fraudstream.replay.span import parse_time

    time_ms = parse_time(text, "--from")
    if time_ms % DAY_MS:
        raise UsageError(f"--from {text}: write the first day that counts, as 2018-07-25")
    return time_ms


def _check_place(report: Path, inputs: Iterable[Path | None], *, replace: bool) -> None:
    """Refuse before the work begins a place that could not be written to, or would be lost."""
    if report.suffix != ".html" or report.is_dir():
        raise UsageError(f"--report {report}: give the name of an .html file")
    if report.exists() and any(
        file is not None and file.exists() and file.samefile(report) for file in inputs
    ):
        raise UsageError(f"--report {report} is one of the files that are read: give another name")
    if report.exists() and not replace:
        raise UsageError(f"--report {report} is there already; --replace writes it anew")
    folder = next(parent for parent in report.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--report {report}: nothing can be written to {folder}")


def _show(evaluation: Evaluation, *, as_json: bool) -> None:
    from fraudstream.training.report.tables import for_terminal

    if as_json:
        import orjson

        for warning in evaluation.warnings:
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(orjson.dumps(evaluation.as_json(), option=orjson.OPT_INDENT_2).decode())
        return
    for warning in evaluation.warnings:
        typer.echo(f"warning: {warning}")
    for table in for_terminal(evaluation):
        typer.echo(_drawn(table))


def _drawn(table: Table) -> str:
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as Drawing

    drawing = Drawing(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=any(table.columns),
    )
    for column, name in enumerate(table.columns):
        is_text = column < table.text_columns
        longest = max(len(text) for text in [*name.split(), *(row[column] for row in table.rows)])
        drawing.add_column(
            # A head is no wider than what stands below it, as far as its words allow.
            textwrap.fill(name, longest) if longest else "",
            justify="left" if is_text else "right",
            no_wrap=not (is_text and column),
        )
    for row in table.rows:
        drawing.add_row(*row)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False, emoji=False)
    # Rather lines that a terminal breaks than figures that are cut off.
    unbounded = console.options.update(max_width=sys.maxsize)
    console.width = max(width, Measurement.get(console, unbounded, drawing).minimum)
    console.print(f"\n{table.title}")
    console.print(drawing)
    if table.note:
        console.print(f"\n{table.note}")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
