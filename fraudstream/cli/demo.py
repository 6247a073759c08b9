"""``fraudstream demo``: everything at once, on this machine, and counted."""

from __future__ import annotations

import signal
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from types import FrameType

    from fraudstream.demo.plan import DemoPlan
    from fraudstream.demo.run import Finished

_INTERRUPTED = 130
_PLAIN_WIDTH = 110
_TEXT_WIDTH = 78
#: Starting, and counting.
_AROUND_S = 15


def demo(
    seconds: Annotated[int, typer.Option(min=6, max=3_600, help="How long to send payments.")] = 60,
    rate: Annotated[
        float, typer.Option(min=10, max=5_000, help="How many payments to send a second.")
    ] = 300.0,
    workers: Annotated[int, typer.Option(min=1, max=6, help="How many processes decide.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other cards and frauds.")] = 42,
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle (default: models/default of the repository).")
    ] = None,
    no_faults: Annotated[
        bool, typer.Option("--no-faults", help="Break nothing by itself; keys still do.")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw last panel and summary into an SVG.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object.")
    ] = False,
) -> None:
    """See it decide card payments, and survive what is done to it.

    \b
    Starts a real Kafka and a real Valkey on this machine (the first time
    fetches 45 MB), two workers with the frozen model, and sends simulated
    payments with their fraud reports: some 35 days in a minute. On the way
    it kills a worker with kill -9, kills Valkey and starts it empty 5 s
    later, and sends bad records. In a terminal you can do so too, with the
    keys k, v and b.
    \b
    In the end an independent reader counts all topics: every event must have
    been answered exactly once, or the exit code is 18. Everything started
    here ends with it, and nothing is left on the disk.
    \b
    Examples:
      fraudstream demo
      fraudstream demo --seconds 20 --rate 500
      fraudstream demo --json > summary.json
    \b
    Next:
      fraudstream local up          Kafka and Valkey that stay
      fraudstream topics create     the topics, for a stream of your own
      fraudstream run --workers 2   the consumer by itself
    """
    from fraudstream.demo.picture import require_writable
    from fraudstream.demo.plan import DemoPlan, default_bundle, require_bundle

    plan = DemoPlan(
        bundle=bundle or default_bundle(),
        seconds=seconds,
        rate_per_s=rate,
        workers=workers,
        seed=seed,
        has_faults=not no_faults,
    )
    require_bundle(plan.bundle)
    if svg is not None:
        require_writable(svg)
    typer.echo(_announcement(plan), err=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    finished = _run(plan)
    if svg is not None:
        from fraudstream.demo.picture import write_picture

        write_picture(svg, finished.view, finished.summary)
        typer.echo(f"drawn: {svg}", err=True)
    _show(finished, as_json=as_json)


def _announcement(plan: DemoPlan) -> str:
    from fraudstream.demo.plan import POLICY

    sentences = [
        "Starts a real Kafka and a real Valkey on this machine (the first time fetches 45 MB) "
        f"and {plan.workers} workers, sends {plan.payments:,} simulated payments with their fraud "
        f"reports in {plan.seconds} s, and counts whether each was decided exactly once."
    ]
    if plan.has_faults:
        worker_s, valkey_s, bad_s = plan.fault_times_s()
        sentences.append(
            f"At {worker_s:.0f} s it kills a worker with kill -9, at {valkey_s:.0f} s Valkey, "
            f"which comes back empty, and at {bad_s:.0f} s it sends bad records."
        )
    review, decline = (POLICY[f"FRAUDSTREAM_POLICY__{n}_THRESHOLD"] for n in ("REVIEW", "DECLINE"))
    sentences.append(
        f"A payment is reviewed from a score of {review} on, and declined from {decline} on."
    )
    sentences.append(
        f"Takes about {plan.seconds + _AROUND_S} s and leaves nothing behind; Ctrl-C ends it."
    )
    return textwrap.fill(" ".join(sentences), _TEXT_WIDTH, break_on_hyphens=False) + "\n"


def _run(plan: DemoPlan) -> Finished:
    """Run it; keep the workers' log if anything went wrong."""
    import shutil

    from fraudstream.demo.run import LOG_NAME, make_folder, run_demo

    folder = make_folder()
    is_kept = True
    try:
        finished = run_demo(plan, folder)
        is_kept = bool(finished.summary.problems)
    except KeyboardInterrupt:
        is_kept = False
        typer.echo("stopped: nothing is left running, and nothing was counted", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except SystemExit:  # a signal told us to end
        is_kept = False
        raise
    finally:
        if is_kept:
            typer.echo(f"the workers' log is kept: {folder / LOG_NAME}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return finished


def _show(finished: Finished, *, as_json: bool) -> None:
    from fraudstream.errors import CountError

    summary = finished.summary
    if as_json:
        import orjson

        typer.echo(orjson.dumps(summary.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        from rich.console import Console

        from fraudstream.demo.summary import draw_summary

        console = Console()
        if not console.is_terminal:
            console.width = _PLAIN_WIDTH
        with console.capture() as capture:
            console.print(draw_summary(summary))
        # A table fills its lines up with spaces, which nobody wants in a log.
        typer.echo("\n".join(line.rstrip() for line in f"\n{capture.get()}".splitlines()))
    if summary.problems:
        raise CountError("; ".join(summary.problems))


def _leave(number: int, _: FrameType | None) -> None:
    """End as on Ctrl-C: everything that was started is ended first."""
    sys.exit(128 + number)
