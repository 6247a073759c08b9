"""The report is one file that loads nothing, says what speaks against it, and can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluated import DAYS, START_MS, World, make_world
from typer.testing import CliRunner, Result

from fraudstream.cli import app
from fraudstream.decision import Policy
from fraudstream.errors import UsageError
from fraudstream.profile import DAY_MS
from fraudstream.training.evaluation import Evaluation, EvaluationPlan, evaluate
from fraudstream.training.report import charts, tables
from fraudstream.training.report.document import render, write_report

HOSTILE = "<script>alert('&\"')</script>"
#: Elements of HTML that have no end.
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def evaluation(world: World) -> Evaluation:
    plan = EvaluationPlan(
        *(Policy(0.3, 0.8, 0.3), 7 * DAY_MS, "world.parquet", START_MS + DAYS * DAY_MS),
        fold_days=6,
        segment="channel",
        maturity="complete",
    )
    return evaluate(world.bundle, world.rows, plan)


@pytest.fixture(scope="module")
def report(evaluation: Evaluation) -> str:
    return render(evaluation)


class Reader(HTMLParser):
    """Reads a page, sees that it is nested well, and keeps what it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute is given twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)

    def count(self, tag: str) -> int:
        return len(list(self.named(tag)))

    def text(self, tag: str) -> str:
        return "".join(self.texts.get(tag, []))


# ------------------------------------------------------------------ the page


def test_it_is_a_page_with_everything_in_its_place(report: str) -> None:
    page = Reader(report)
    assert page.text("title") == page.text("h1") == "Evaluation of model small, version 1"
    assert page.count("table") == page.count("caption") == 12
    assert page.count("figure") == page.count("figcaption") == page.count("svg") == 5
    headings = page.texts["h2"]
    assert headings == [
        *("What was evaluated", "Summary", "Folds", "Precision and recall", "Detection by work"),
        *("By threshold", "Scores", "Calibration", "By channel", "Importance", "Limits"),
    ]
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = [str(link["href"]) for link in page.named("a")]
    assert linked == [f"#{section['id']}" for section in page.named("section")]
    assert [root["lang"] for root in page.named("html")] == ["en"]
    assert all(cell["scope"] in {"row", "col"} for cell in page.named("th"))


def test_it_loads_nothing(report: str) -> None:
    page = Reader(report)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {
        tag for tag, _ in page.elements
    }
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href"}:
                assert str(value).startswith("#"), tag
            assert not name.startswith("on"), tag
    # Not even a name space: inside a page, pictures need none.
    assert "http:" not in report
    assert "https:" not in report
    assert "@import" not in report
    assert "url(" not in report
    policy = next(m for m in page.named("meta") if m.get("http-equiv") is not None)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert len(report.encode()) < 300_000


def test_pictures_say_what_they_show_and_how_it_is_measured(report: str) -> None:
    page = Reader(report)
    for picture in page.named("svg"):
        assert picture["role"] == "img"
        assert len(str(picture["aria-label"])) > 40
        assert "viewbox" in picture
        assert "width" not in picture
    words = page.text("text")
    for title in (
        *("recall (alerts among frauds)", "precision (frauds among alerts)"),
        *("payments (logarithmic)", "score (middle of a bin of 0.05)", "mean score of a bin"),
        *("cards looked at each day (logarithmic)", "mean contribution by size (log-odds)"),
    ):
        assert title in words
    # Every amount of work has its label, and the policy's thresholds their marks.
    assert {"10", "20", "50", "100", "200", "500"} <= set(page.texts["text"])
    assert {"review 0.3", "decline 0.8"} <= set(page.texts["text"])


def test_series_do_not_differ_by_colour_alone(evaluation: Evaluation) -> None:
    for picture in (charts.distribution(evaluation), charts.work(evaluation)):
        lines = re.findall(r'stroke="(var\(--\w+\))"[^>]*stroke-dasharray="([^"]+)"', picture)
        assert len(lines) == len({dash for _, dash in lines}) == len(dict(lines)) > 1
    # The page gives each colour that pictures use a value for light, dark and paper.
    page = render(evaluation)
    for colour in set(re.findall(r"var\((--\w+)\)", page)):
        declared = len(re.findall(rf"{colour}: #", page))
        assert declared == 3, colour


def test_the_same_evaluation_gives_the_same_bytes(evaluation: Evaluation, report: str) -> None:
    charts.distribution(evaluation)  # what was drawn before leaves no trace
    assert render(evaluation) == report


def test_figures_are_those_of_the_evaluation(evaluation: Evaluation, report: str) -> None:
    cells = Reader(report).texts["td"]
    for fold in evaluation.folds:
        assert f"{fold.figures.payments:,}" in cells
        assert f"{fold.figures.average_precision:.3f}" in cells
    mean = evaluation.mean["average_precision"]
    assert f"{mean:.3f}" in Reader(report).texts["b"]
    assert f"{evaluation.data.payments:,} payments, {evaluation.data.frauds:,} of them" in report


def test_texts_of_the_data_stay_texts(evaluation: Evaluation) -> None:
    segment = replace(evaluation.by_segment[0], value=HOSTILE)
    hostile = replace(
        evaluation,
        model=replace(evaluation.model, label_maturity=HOSTILE),
        data=replace(evaluation.data, file=f"{HOSTILE}.parquet"),
        labels=replace(evaluation.labels, statement=HOSTILE),
        warnings=(HOSTILE,),
        segment_field=HOSTILE,
        by_segment=(segment,),
    )
    page = Reader(render(hostile))
    assert page.count("script") == 0
    assert HOSTILE in page.texts["th"]
    assert f"By {HOSTILE}" in page.texts["h2"]
    assert HOSTILE in page.text("p")
    assert page.texts["td"].count(HOSTILE) == 2


def test_what_speaks_against_the_figures_comes_first(evaluation: Evaluation) -> None:
    told = replace(evaluation, is_in_sample=True, warnings=("The model learnt from these.",))
    page = render(told)
    warning = page.index("<strong>Warning:</strong> The model learnt from these.")
    assert page.index("<h1>") < warning < page.index("<h2>")
    assert "yes: see the warning" in page
    assert evaluation.labels.statement in page
    assert "simulated" in page[page.index('id="limits"') :]


def test_a_score_that_is_a_probability_is_called_one(evaluation: Evaluation, report: str) -> None:
    assert "The bundle says that its score is no probability" in report
    model = replace(evaluation.model, is_probability=True, calibration="sigmoid")
    page = render(replace(evaluation, model=model))
    assert "The bundle says that its score is a probability" in page
    assert "a probability, says the bundle (sigmoid calibration)" in page


def test_figures_that_there_are_not_are_not_drawn_as_zeros(evaluation: Evaluation) -> None:
    nothing = dict.fromkeys(evaluation.mean)
    unknown = replace(
        evaluation,
        deviation=nothing,
        by_segment=(),
        segment_field=None,
        by_cards_per_day=tuple(
            replace(at, value_detected_share=None) for at in evaluation.by_cards_per_day
        ),
    )
    page = Reader(render(unknown))
    assert "By channel" not in page.texts["h2"]
    assert page.texts["td"].count(tables.UNKNOWN) > 9
    # The line of the value detected, by its dash.
    assert 'stroke-dasharray="5,3"' in charts.work(evaluation)
    assert 'stroke-dasharray="5,3"' not in charts.work(unknown)


# ------------------------------------------------------------------ its place


def run(world: World, *words: str | Path) -> Result:
    arguments = ["evaluate", str(world.folder), str(world.file), *(str(word) for word in words)]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_command_writes_it_where_it_was_told(world: World, tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.html"
    result = run(world, "--report", file, "--fold-days", "6")
    assert result.exit_code == 0
    assert f"{file}: written" in result.stderr
    assert Reader(file.read_text(encoding="utf-8")).count("svg") == 5
    assert [found.name for found in file.parent.iterdir()] == ["report.html"]
    with pytest.raises(UsageError, match="is there already; --replace writes it anew"):
        run(world, "--report", file)


def test_places_that_cannot_be_written_to_are_refused_before_the_work(
    world: World, tmp_path: Path
) -> None:
    for name, words in (
        ("report.txt", "give the name of an .html file"),
        ("folder.html", "give the name of an .html file"),
        ("file/report.html", "nothing can be written to"),
        ("mapping.html", "is one of the files that are read"),
    ):
        (tmp_path / "folder.html").mkdir(exist_ok=True)
        (tmp_path / "file").write_text("")
        (tmp_path / "mapping.html").write_text("fields: {}")
        mapping = ("--mapping", tmp_path / "mapping.html")
        with pytest.raises(UsageError, match=words):
            run(world, "--report", tmp_path / name, *mapping)


def test_a_place_that_is_lost_meanwhile_is_a_sentence(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    (tmp_path / "gone").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written .*: give another place to --report"):
        write_report(evaluation, tmp_path / "gone" / "report.html")


def test_cells_are_short_and_never_round_a_share_to_nothing() -> None:
    assert [tables.percent(share) for share in (0.5, 0.0123, 0.00012, 0.0, 1.0, None)] == [
        *("50.0%", "1.23%", "0.012%", "0%", "100%", "n/a"),
    ]
