"""Documentation is held to the code: commands, settings, metrics, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fraudstream.cli import app
from fraudstream.errors import ExitCode
from fraudstream.metrics import WorkerMetrics
from fraudstream.pipeline import InputTopics
from fraudstream.settings import PREFIX, known_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _commands(
    group: Any,  # noqa: ANN401 - typer carries a click of its own
    path: tuple[str, ...] = (),
) -> Iterator[tuple[str, ...]]:
    if not hasattr(group, "commands"):
        yield path
        return
    for name, command in group.commands.items():
        yield from _commands(command, (*path, name))


_NAMES = ("operations.md", "features.md", "settings.md")
ROOT_COMMAND = typer.main.get_command(app)
COMMANDS = sorted(_commands(ROOT_COMMAND))


def _command(path: tuple[str, ...]) -> Any:  # noqa: ANN401 - the same
    found: Any = ROOT_COMMAND
    for name in path:
        found = found.commands[name]
    return found


def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_teaches(path: tuple[str, ...]) -> None:
    help_text = _command(path).help or ""
    assert "Example" in help_text
    assert f"fraudstream {' '.join(path)}" in help_text


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_a_help(path: tuple[str, ...]) -> None:
    for parameter in _command(path).params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert parameter.help, parameter.name


def test_readme_is_short_and_names_only_commands_that_exist() -> None:
    readme = _text("README.md")
    assert len(readme.splitlines()) <= 150
    named = re.findall(r"^\$ (?:eval \"\$\()?fraudstream ([a-z-]+)(?: ([a-z-]+))?", readme, re.M)
    assert named
    for first, second in named:
        assert any(path[0] == first for path in COMMANDS), first
        if (first,) not in COMMANDS:
            assert (first, second) in COMMANDS


def test_readme_names_only_make_targets_that_exist() -> None:
    makefile = _text("Makefile")
    for target in re.findall(r"^\$ make ([a-z]+)", _text("README.md"), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_readme_names_only_tests_that_exist() -> None:
    for name in re.findall(r"`(tests/[a-z_/]+\.py)`", _text("README.md")):
        assert (ROOT / name).exists(), name


def _written_commands(text: str) -> Iterator[str]:
    """Find commands of ours in blocks and spans of code, without what is behind them."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in "\n".join([*blocks, *(" ".join(span.split()) for span in spans)]).splitlines():
        yield from re.findall(r"(?:^|\$ |\$\(|&& |[A-Z]=\S+ )fraudstream ([a-z][^#|;)\"]*)", line)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_documents_write_only_commands_and_options_that_exist(file: Path) -> None:
    for written in _written_commands(file.read_text("utf-8")):
        words = written.split()
        paths = [path for path in COMMANDS if words[: len(path)] == list(path)]
        if not paths:
            assert any(path[: len(words)] == tuple(words) for path in COMMANDS), written
            continue
        known = {name for parameter in _command(paths[0]).params for name in parameter.opts}
        options = {word.partition("=")[0].strip("[],.") for word in words if "--" in word}
        assert options <= known | {"--help"}, written


def test_commands_in_documents_are_found() -> None:
    """Otherwise the test above would pass for the wrong reason."""
    text = "Use `fraudstream run\n--slot 1`.\n```\n$ fraudstream train a \\\n  --out b   # c\n```\n"
    assert [found.split() for found in _written_commands(text)] == [
        ["train", "a", "--out", "b"],
        ["run", "--slot", "1"],
    ]
    assert sum(len(list(_written_commands(_text(f"docs/{name}")))) for name in _NAMES) > 10


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", _text("docs/settings.md"), re.M))
    known = {n.removeprefix(PREFIX).lower().replace("__", ".") for n in known_names()}
    assert documented == known


def test_every_exit_code_is_in_the_run_book() -> None:
    operations = _text("docs/operations.md")
    for code in ExitCode:
        assert re.search(rf"\b{code.value}\b.*`?{code.name}`?", operations, re.I), code


def test_every_metric_of_the_dashboard_exists() -> None:
    metrics = WorkerMetrics(InputTopics("transactions", "labels"))
    known = {metric.name for metric in metrics.registry.collect()}
    for file in [*ROOT.glob("deploy/**/*.json"), *ROOT.glob("deploy/**/*.yml")]:
        for name in re.findall(r"\bfraudstream_[a-z_]+", file.read_text("utf-8")):
            stem = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert {name, stem} & known, f"{file.name}: {name}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text("utf-8")):
        assert (file.parent / target).exists(), target
