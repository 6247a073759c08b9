"""``fraudstream local``: the embedded Kafka and Valkey, alone."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudstream.errors import LocalStackError, UsageError

if TYPE_CHECKING:
    from fraudstream.local.ready import Progress
    from fraudstream.local.status import StackStatus

app = typer.Typer(
    help="Run a real Kafka and a real Valkey on this machine, without Docker.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# Lines stay below 78 columns and blocks begin with \\b, so that a help page keeps them as they are.
_UP_HELP = """Start Kafka and Valkey, and leave them running in the background.

\b
Both are the real servers, Apache Kafka 4.2 and Valkey 9, on free ports of
127.0.0.1, with nothing to install. The first time downloads 45 MB; after
that they are up in a few seconds. Topics are kept from one run to the next
unless you say --fresh; Valkey always starts empty.
\b
Example, which also points this shell's commands at them:
  eval "$(fraudstream local up --env)"
\b
Next:
  fraudstream topics create     make the topics
  fraudstream run               decide what arrives
  fraudstream local down        stop both again
"""

_DOWN_HELP = """Stop the Kafka and the Valkey that `up` started.

Topics stay in the state folder for the next `up`. That nothing runs is no
error.

\b
Example:
  fraudstream local down
\b
Next:
  fraudstream local up          start them again, with their topics
  rm -r .fraudstream/local      forget everything
"""

_STATUS_HELP = """Show where Kafka and Valkey are and whether they answer.

The exit code is 0 only if both do, so a script can wait for them.

\b
Examples, of which the second points this shell's commands at them:
  fraudstream local status --json
  eval "$(fraudstream local status --env)"
\b
Next, should the broker not answer:
  tail .fraudstream/local/kafka.log
"""

StateDir = Annotated[
    Path, typer.Option(help="Folder for data and log files; holds one stack at a time.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the status as one JSON object.")]
AsEnv = Annotated[bool, typer.Option("--env", help="Print the addresses as shell exports.")]
# The same as in fraudstream.local.folder, which imports more than a --help needs.
_DEFAULT_STATE_DIR = Path(".fraudstream/local")


@app.command(help=_UP_HELP)
def up(
    state_dir: StateDir = _DEFAULT_STATE_DIR,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget topics of earlier runs.")] = False,
    kafka_property: Annotated[
        list[str] | None,
        typer.Option(help="A broker setting NAME=VALUE; may be given several times."),
    ] = None,
    as_json: AsJson = False,
    as_env: AsEnv = False,
) -> None:
    """Start a detached stack and print its addresses."""
    from fraudstream.local.stack import start_detached

    properties = _parse_properties(kafka_property or [])
    _refuse_both(as_json, as_env)
    with _progress() as progress:
        status = start_detached(
            state_dir, kafka_properties=properties, fresh=fresh, progress=progress
        )
    _show(status, as_json=as_json, as_env=as_env)
    typer.echo(f"stop both with: fraudstream local down{_state_dir_words(state_dir)}", err=True)


@app.command(help=_DOWN_HELP)
def down(state_dir: StateDir = _DEFAULT_STATE_DIR) -> None:
    """Stop a stack from outside."""
    from fraudstream.local.folder import StateFolder
    from fraudstream.local.status import stop_from_outside

    folder = StateFolder(state_dir.resolve())
    with _progress() as progress:
        if folder.is_taken():
            progress("stopping Kafka and Valkey")
        was_running = stop_from_outside(folder)
    typer.echo("stopped" if was_running else f"nothing runs in {state_dir}", err=True)


@app.command(help=_STATUS_HELP)
def status(
    state_dir: StateDir = _DEFAULT_STATE_DIR, as_json: AsJson = False, as_env: AsEnv = False
) -> None:
    """Print what runs in a state folder."""
    from fraudstream.local.folder import StateFolder
    from fraudstream.local.status import stack_status

    _refuse_both(as_json, as_env)
    found = stack_status(StateFolder(state_dir.resolve()))
    if found.is_running or not as_env:
        _show(found, as_json=as_json, as_env=as_env)
    if not (found.is_kafka_answering and found.is_valkey_answering):
        silent = "Valkey does not" if found.is_kafka_answering else "Kafka does not"
        message = (
            f"{silent} answer; its log file is in {found.state_dir}"
            if found.is_running
            else f"nothing runs in {found.state_dir}: `fraudstream local up"
            f"{_state_dir_words(state_dir)}` starts both"
        )
        raise LocalStackError(message)


def _show(status: StackStatus, *, as_json: bool, as_env: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**asdict(status), "state_dir": str(status.state_dir)}))
    elif as_env:
        for name, value in (
            ("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", status.bootstrap_servers),
            ("FRAUDSTREAM_VALKEY__URL", status.valkey_url),
        ):
            typer.echo(f"export {name}={shlex.quote(value)}")
    else:
        for name, address, pid, is_answering in (
            ("Kafka", status.bootstrap_servers, status.kafka_pid, status.is_kafka_answering),
            ("Valkey", status.valkey_url, status.valkey_pid, status.is_valkey_answering),
        ):
            state = f"answers, process {pid}" if is_answering else "does not answer"
            typer.echo(f"{name:7}{address:32}{state}")
        typer.echo(f"{'Folder':7}{status.state_dir}")


def _parse_properties(words: list[str]) -> Mapping[str, str]:
    properties = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            message = f"--kafka-property {word}: write NAME=VALUE, as message.max.bytes=12582912"
            raise UsageError(message)
        properties[name.strip()] = value.strip()
    return properties


def _refuse_both(as_json: bool, as_env: bool) -> None:
    if as_json and as_env:
        raise UsageError("--json and --env exclude each other: each has standard output to itself")


def _state_dir_words(state_dir: Path) -> str:
    is_default = state_dir == _DEFAULT_STATE_DIR
    return "" if is_default else f" --state-dir {shlex.quote(str(state_dir))}"


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show what is going on: one changing line on a terminal, plain lines in a log."""
    if not sys.stderr.isatty():
        yield lambda sentence: typer.echo(sentence, err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("") as line:
        yield line.update
