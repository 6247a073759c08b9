"""Variants of a model, and differences of two bundles, as tables for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from fraudstream.bundle_diff import BundleDiff
    from fraudstream.training.optimize.comparison import Comparison, Figures

#: Wide enough for every column where nobody says how wide the paper is.
_WIDTH: Final = 180
_HEADS: Final = (
    *("bundle", "model kB", "bundle kB", "share", "AP", "CP@100", "difference", "on splits"),
    *("flips", "1 row µs", "16", "128", "1024"),
)
_EPILOG: Final = """
AP and CP@100: average precision and card precision at 100 on the judged payments. Difference: the
greatest of any score there, and on vectors made to lie on splits. Flips: payments with another
outcome. Medians, in turns in the same run.
"""


def show_variants(comparison: Comparison, file: TextIO) -> None:
    """Print a model and its variants side by side, and which serves what."""
    model = comparison.figures[0]
    lines = [_line(each, model) for each in comparison.figures]
    _print(file, _HEADS, lines, right_from=1)
    file.write(_EPILOG)
    purposes = [(p.purpose, p.name, p.reason) for p in comparison.purposes()]
    _print(file, ("for", "take", "because"), purposes)


def variants_as_json(comparison: Comparison) -> dict[str, Any]:
    """Give the same as plain values."""
    figures = []
    for each in comparison.figures:
        line = {name: getattr(each, name) for name in ("name", "bundle_bytes", "model_bytes")}
        certificate = each.certificate
        line["certificate"] = None if certificate is None else certificate.model_dump()
        figures.append(line)
    return {"bundles": figures, "purposes": [asdict(p) for p in comparison.purposes()]}


def show_diff(found: BundleDiff, file: TextIO) -> None:
    """Print how two bundles differ."""
    if found.is_same:
        file.write("the same bundle, byte for byte\n")
    lines = [(line.what, _short(line.a), _short(line.b)) for line in found.lines]
    _print(file, ("", "A", "B"), lines)
    features = found.features
    for words, names in (
        ("features added", features.added),
        ("features removed", features.removed),
        ("features that mean something else", features.redefined),
        ("features whose alerts say something else", found.reasons),
    ):
        file.write(f"{words}: {', '.join(names) or 'none'}\n")
    if features.is_reordered:
        file.write("features come in another order\n")
    file.write(
        "profiles: the same series, B can take them over\n"
        if found.are_profiles_shared
        else "profiles: other series, B's have to be filled before it decides\n"
    )
    scores = found.scores
    file.write(
        "scores: not comparable, neither has all columns of the other\n"
        if scores is None
        else f"scores: on {scores.rows:,} golden vectors they differ by up to "
        f"{scores.difference_max:.4g}, and {scores.flips:,} get another outcome\n"
    )


def _short(text: str) -> str:
    """Keep the first digits of hashes."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def _line(figures: Figures, model: Figures) -> tuple[str, ...]:
    certificate = figures.certificate
    changed = ("", "", "")
    if certificate is not None:
        changed = (
            f"{certificate.score_difference_max:.2g}",
            f"{certificate.score_difference_max_on_splits:.2g}",
            f"{certificate.flips:,}",
        )
    return (
        figures.name,
        f"{figures.model_bytes / 1e3:,.0f}",
        f"{figures.bundle_bytes / 1e3:,.0f}",
        f"{figures.bundle_bytes / model.bundle_bytes:.0%}",
        f"{figures.average_precision:.4f}",
        f"{figures.card_precision_100:.4f}",
        *changed,
        *(f"{us:,.0f}" for _, us in figures.latency_us),
    )


def _print(
    file: TextIO,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    right_from: int | None = None,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        is_figure = right_from is not None and number >= right_from
        table.add_column(
            name, justify="right" if is_figure else "left", overflow="fold", no_wrap=is_figure
        )
    for row in rows:
        table.add_row(*row)
    width = None if file.isatty() else _WIDTH
    Console(file=file, width=width, markup=False, highlight=False).print(table)
