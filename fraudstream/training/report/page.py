"""The page that an evaluation's tables and pictures stand on.

One file without scripts and addresses: its security policy forbids it to load anything. Every text
that comes from data is escaped here, in `cell` or in what calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from fraudstream.training.report.tables import Table

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1917; --soft: #57534e; --paper: #ffffff;
  --panel: #f7f6f4; --line: #d6d3d1; --grid: #dedbd8; --fraud: #c2410c; --genuine: #1d6fb8;
  --third: #57534e; --warn: #fff4e5; --warn-line: #b45309; }
@media (prefers-color-scheme: dark) { :root { --ink: #f5f5f4; --soft: #b8b2ac; --paper: #1a1816;
  --panel: #24211f; --line: #44403c; --grid: #3f3b38; --fraud: #fb923c; --genuine: #6cb2f5;
  --third: #b8b2ac; --warn: #33240f; --warn-line: #f0a94a; } }
@media print { :root { --ink: #000; --soft: #333; --paper: #fff; --panel: #fff; --line: #999;
  --grid: #ccc; --fraud: #c2410c; --genuine: #1d6fb8; --third: #333; --warn: #fff;
  --warn-line: #b45309; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, nav, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.soft, caption, .note { color: var(--soft); }
.warning { border-left: 4px solid var(--warn-line); background: var(--warn); padding: .6rem 1rem;
  margin: .75rem 0; max-width: 46rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: 1rem 0 0;
  list-style: none; }
a { color: var(--genuine); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid currentColor;
  outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.tiles span { display: block; }
.tiles small { color: var(--soft); font-size: .85rem; }
.pair { display: grid; gap: 0 2rem; align-items: start;
  grid-template-columns: minmax(0, 28rem) minmax(0, 1fr); }
@media (max-width: 60rem) { .pair { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 1rem 0; max-width: 34rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; }
caption span { display: block; position: sticky; left: 0; width: fit-content;
  max-width: min(46rem, 100vw - 2rem); }
caption b { color: var(--ink); }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); font-weight: 600; }
tbody th { font-weight: 400; }
tbody th, td { white-space: nowrap; }
.text { text-align: left; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.facts tbody th { color: var(--soft); }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--genuine); }
footer { padding-bottom: 3rem; }
@media (max-width: 40rem) { header, nav, main, footer { padding-left: .9rem; padding-right: .9rem; }
  th, td { padding: .3rem .5rem; } .tiles { grid-template-columns: 1fr 1fr; } }
@media print { body { font-size: 10pt; } nav, details { display: none; }
  table { font-size: 8pt; } th, td { padding: .15rem .35rem; } .scroll { overflow: visible; }
  .scroll, figure, .tiles { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
</header>
<nav aria-label="Sections"><ul>
{links}
</ul></nav>
<main>
{sections}
</main>
</body>
</html>
"""


def page(title: str, lead: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """Put a page together.

    Parameters
    ----------
    title
        Text.
    lead
        What stands below it, as HTML.
    sections
        Of each its id, its heading (text) and its content (HTML).
    """
    listed = list(sections)
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        lead=lead,
        links="\n".join(
            f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in listed
        ),
        sections="\n".join(
            f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
            for name, heading, content in listed
        ),
    )


def paragraph(text: str, kind: str = "") -> str:
    """Write a paragraph; ``kind`` is a class of the style sheet."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def warning(text: str) -> str:
    """Write what must not be overlooked; not by its colour alone."""
    return f'<p class="warning" role="note"><strong>Warning:</strong> {escape(text)}</p>'


def figure(svg: str, caption: str) -> str:
    """Put a picture, whose texts are escaped already, above its caption."""
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def table(content: Table, kind: str = "") -> str:
    """Write a table; on a narrow screen it scrolls by itself."""
    attribute = f' class="{kind}"' if kind else ""
    head = "".join(
        f'<th scope="col"{_side(content, column)}>{escape(text)}</th>'
        for column, text in enumerate(content.columns)
    )
    has_head = any(content.columns)
    note = f" {escape(content.note)}" if content.note else ""
    body = "\n".join(_row(content, cells) for cells in content.rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(content.title)}">\n'
        f"<table{attribute}>\n<caption><span><b>{escape(content.title)}.</b>{note}</span></caption>\n"
        + (f"<thead><tr>{head}</tr></thead>\n" if has_head else "")
        + f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def pair(left: str, right: str) -> str:
    """Put two things side by side, where the screen is wide enough."""
    return f'<div class="pair">\n{left}\n<div>{right}</div>\n</div>'


def folded(summary: str, content: str) -> str:
    """Fold something away until it is asked for."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Show some figures large: of each its name, its value and what to know of it."""
    items = "\n".join(
        f"<li><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></li>"
        for name, value, note in facts
    )
    return f'<ul class="tiles">\n{items}\n</ul>'


def _row(content: Table, cells: tuple[str, ...]) -> str:
    first, *others = cells
    written = "".join(
        f"<td{_side(content, column)}>{escape(text)}</td>"
        for column, text in enumerate(others, start=1)
    )
    return f'<tr><th scope="row"{_side(content, 0)}>{escape(first)}</th>{written}</tr>'


def _side(content: Table, column: int) -> str:
    return ' class="text"' if column < content.text_columns else ""
