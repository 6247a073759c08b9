"""The command line: names, help, and how errors end a process.

Data goes to stdout; progress and messages to stderr. Every command imports what it needs when it
runs, so that ``--help`` is quick and works without the extras that a command needs.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from fraudstream import __version__
from fraudstream.cli import local, streams, training
from fraudstream.cli.config import app as config_app
from fraudstream.cli.demo import demo
from fraudstream.cli.evaluate import evaluate
from fraudstream.cli.feature_set import app as feature_set_app
from fraudstream.cli.features import features
from fraudstream.cli.model import model_app
from fraudstream.cli.profiles import profiles_app, rebuild
from fraudstream.cli.run import run
from fraudstream.cli.score_batch import score_batch
from fraudstream.cli.stop import show_stop
from fraudstream.errors import ExitCode, StopError, UsageError

app = typer.Typer(
    name="fraudstream",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False,
        "--version",
        callback=_show_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
) -> None:
    """Decide card payments in real time: Kafka in, decisions and alerts out.

    \b
    Try it:       fraudstream demo
    Run it:       fraudstream topics create && fraudstream run
    Feed it:      fraudstream replay FILE
    Its model:    fraudstream simulate, train, evaluate, model check
    """


app.command()(demo)
app.add_typer(local.app, name="local")
app.add_typer(streams.topics_app, name="topics")
app.command()(run)
app.command()(streams.replay)
app.command()(streams.export)
app.command()(rebuild)
app.add_typer(profiles_app, name="profiles")
app.command()(features)
app.command()(score_batch)
app.add_typer(feature_set_app, name="feature-set")
app.command()(training.simulate)
app.command()(training.train)
app.command()(evaluate)
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the command line; turn errors raised on purpose into a sentence and an exit code."""
    try:
        app()
    except StopError as error:
        sys.exit(int(show_stop(error)))
    except ModuleNotFoundError as error:
        needs = f"this command needs {error.name}: pip install 'fraudstream[all]'"
        sys.exit(int(show_stop(UsageError(needs))))
    except OSError as error:
        if not _is_of_output(error):
            raise
        reason = error.strerror or "closed"
        show_stop(StopError(f"the output cannot be written ({reason}): send it elsewhere"))
        _drop_unwritten_output()
        sys.exit(int(ExitCode.INTERNAL))
    except KeyboardInterrupt:
        sys.exit(130)


def _is_of_output(error: OSError) -> bool:
    """Tell whether it was printing itself that failed: any other such error is a bug."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_code is typer.echo.__code__


def _drop_unwritten_output() -> None:
    """Keep Python from trying once more at its end, with a code and words of its own."""
    nowhere_fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere_fd, sys.stdout.fileno())
    os.close(nowhere_fd)
