"""``fraudstream run``: the consumer."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated, Literal, NoReturn

import typer

from fraudstream.cli.config import ConfigFile
from fraudstream.cli.stop import show_stop
from fraudstream.errors import ExitCode, StopError, UsageError


def _end(code: ExitCode) -> NoReturn:
    """End this process without closing the clients.

    Closing a consumer that is just joining its group has been seen to block for ever, with every
    thread of the process. Nothing is lost without it: a static member does not leave its group,
    the last transaction was committed or aborted, and no delivery is waited for.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def run(
    config: ConfigFile = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="How many worker processes, in slots from 0.")
    ] = 1,
    slot: Annotated[
        int | None,
        typer.Option(min=0, max=999, help="This worker's slot (default: worker_slot, 0)."),
    ] = None,
    from_: Annotated[
        Literal["earliest", "watermark", "committed"] | None,
        typer.Option(
            "--from",
            help="Where to begin when the group's offsets are gone but profiles exist; or believe "
            "committed offsets that were put back on purpose. For one start.",
        ),
    ] = None,
    accept_short_retention: Annotated[
        bool,
        typer.Option(
            "--accept-short-retention",
            help="Go on although the topics forget sooner than profiles need them.",
        ),
    ] = False,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(help="How much to log.")
    ] = "INFO",
    stop_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Decide what arrives on the transactions topic, until stopped.

    \b
    Reads transactions and labels, keeps profiles in Valkey, and publishes
    decisions, alerts and dead letters, each exactly once, together with the
    group's offsets. SIGTERM or Ctrl-C finishes the batch in hand and ends
    with exit code 0. When Kafka or Valkey is away it waits, or decides
    without profiles and says so; it does not end.
    \b
    Example:
      fraudstream run --config configs/fraudstream.yaml --workers 2
    \b
    Next:
      curl localhost:9464/readyz          is it deciding? (worker n: port + n)
      curl localhost:9464/metrics         how much, how fast
      fraudstream export decisions --out decisions.parquet
    """
    from fraudstream.logs import configure_logs
    from fraudstream.settings import load_settings

    settings = load_settings(config)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if workers > 1:
        if slot is not None or settings.worker_slot:
            raise UsageError(
                "--workers N runs the slots 0 to N-1: leave out --slot and worker_slot, or "
                "start each worker by itself with a slot of its own"
            )
        from fraudstream.supervisor import Supervisor

        configure_logs(log_level, process="supervisor")
        arguments = ["--log-level", log_level]
        arguments += ["--config", str(config)] if config else []
        arguments += ["--from", from_] if from_ else []
        arguments += ["--accept-short-retention"] if accept_short_retention else []
        raise typer.Exit(Supervisor(range(workers), arguments, stopping).run())

    from fraudstream.app import RunOptions, run_worker
    from fraudstream.supervisor import stop_with_parent as watch_parent

    if stop_with_parent:
        watch_parent(stopping)
    own_slot = settings.worker_slot if slot is None else slot
    configure_logs(log_level, slot=own_slot)
    options = RunOptions(own_slot, from_, accept_short_retention, config)
    try:
        run_worker(settings, options, stopping)
    except StopError as error:
        _end(show_stop(error))
    _end(ExitCode.OK)
