"""What a contestant has to show before it is timed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.contestants.field import clear, fill, new_run
from benchmarks.contestants.programs import BUILD, Contestant
from benchmarks.job.stream import StreamPlan, payments
from benchmarks.open_loop import PARTITIONS
from benchmarks.readable import counting, read_scores
from benchmarks.subjects import Processes
from fraudstream.bundle import load_bundle
from fraudstream.local.stack import LocalStack

TOLERANCE = 1e-6
PLAN = StreamPlan(20_000)
_TOPIC = "trial"
_VECTORS = 10_000
_TIMEOUT_S = 180.0
_SAMPLE_S = 0.1


def require_same_scores(contestant: Contestant, bundle: Path) -> None:
    """See that a contestant scores as we do, within 1e-6, or end."""
    loaded = load_bundle(str(bundle))
    rng = np.random.default_rng(7)
    vectors = rng.gamma(1.0, 20.0, (_VECTORS, len(loaded.features))).astype(np.float32)
    vectors[rng.random(vectors.shape) < 0.05] = np.nan
    found, ours = contestant.score(bundle, vectors), loaded.model.score(vectors)
    if len(found) != len(ours) or not np.abs(found - ours).max() <= TOLERANCE:
        sys.exit(f"{contestant.name} scores otherwise than we do: it is not timed")


class Trials:
    """Lets each contestant run a short stream to its end.

    Parameters
    ----------
    stack, bundle
        Where, and by which model.
    """

    def __init__(self, stack: LocalStack, bundle: Path) -> None:
        self._stack = stack
        self._bundle = bundle
        self._expected = _offline_scores(bundle)
        fill(stack, _TOPIC, PLAN)

    def hold(self, contestant: Contestant, number: int) -> dict[str, float]:
        """See that nothing is lost or doubled, or end; say how many scores are as expected.

        A score may be another one where payments of several partitions come to a terminal in
        another order than that of their event times. Nobody does it by event time here.
        """
        run = new_run(self._stack, f"trial{number}", _TOPIC, self._bundle)
        servers = self._stack.bootstrap_servers
        with Processes() as processes, counting(servers, run.output, PARTITIONS) as count:
            contestant.start(run, processes)
            deadline_s = time.monotonic() + _TIMEOUT_S
            while count() < PLAN.events and time.monotonic() < deadline_s:
                processes.check()
                time.sleep(_SAMPLE_S)
        found = read_scores(servers, run.output, PARTITIONS)
        clear(run)
        scores = dict(found)
        lost, doubled = PLAN.events - len(scores), len(found) - len(scores)
        if lost or doubled:
            sys.exit(f"{contestant.name} lost {lost} and doubled {doubled}: it is not timed")
        same = sum(abs(score - self._expected[n]) <= TOLERANCE for n, score in scores.items())
        return {"payments": len(found), "same_scores": same / len(found)}


def _offline_scores(bundle: Path) -> list[float]:
    """Score the stream by event time, as ``fraudstream score-batch`` does."""
    stream, scored = BUILD / "trial.jsonl", BUILD / "trial-scores.parquet"
    stream.write_bytes(b"\n".join(value for _, value in payments(PLAN)))
    command = [sys.executable, "-m", "fraudstream", "score-batch", str(stream)]
    command += ["--bundle", str(bundle), "--out", str(scored), "--replace"]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        sys.exit("the stream could not be scored offline")
    scores: list[float] = pl.read_parquet(scored)["score"].to_list()
    return scores
