"""Faults that take profiles away: 15 and 16."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import redis
from load import Mixture
from outage import WHOLE_TIMEOUT_S, Repair, await_whole, look, plan, require_noticed, snapshot_path
from registry import Scale, fault
from stage import FaultStack, Outcome, Stage, now_ms

#: So few that each of them has been seen since the state that is put back: to decide anything
#: from that would show.
FEW = Mixture(cards=150, terminals=60)
#: For how long decisions may be flagged after a loss; how long they were is in the figures.
REBUILD_MS = int(WHOLE_TIMEOUT_S * 1000)
_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
    found[#found + 1] = key
    found[#found + 1] = redis.call('DUMP', key)
end
return found
"""


class Losses:
    """Takes profiles from live workers, and notes when they can be missed.

    Parameters
    ----------
    stage
        Where.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._noted: list[tuple[str, int]] = []
        self._repairs: list[Repair] = []

    def take(self, what: str, do: Callable[[], None]) -> None:
        """Do it, and wait until the profiles are whole again."""
        with self._stage.fault(what) as window:
            do()
        lost_ms = window.end_ms
        self._noted.append((what, lost_ms))
        self._repairs.append(await_whole(self._stage, window.start_ms, lost_ms))

    def finish(self) -> Outcome:
        """End the run: every loss was noticed at once."""
        stage = self._stage
        stage.settle()
        found = look(stage)
        outcome = stage.finish()
        for what, lost_ms in self._noted:
            require_noticed(outcome, found, lost_ms, what)
        longest = max(self._repairs, key=lambda repair: repair.seconds)
        longest.report(outcome)
        outcome.extra["losses"] = len(self._noted)
        return outcome


@fault(15, "Valkey restarted from a snapshot 10 s old", limit_s=300)
def snapshot_put_back(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Noticed in the first batch, with and without a cut connection."""
    times, age_s = (1, 2.5) if scale == "short" else (3, 10.0)
    with Stage(faults, folder, seed, plan(mixture=FEW, recovery_ms=REBUILD_MS)) as stage:
        losses = Losses(stage)
        for _ in range(times):
            snapshot = _save(stage, folder)
            time.sleep(age_s)

            def restart(snapshot: Path = snapshot) -> None:
                stage.stack.kill_valkey()
                stage.stack.start_valkey(snapshot=snapshot)

            losses.take("Valkey restarted from a snapshot", restart)
            with stage.deployment.valkey() as client:
                kept = _dump(client)
                time.sleep(age_s)
                # A replica that lagged behind, or a slot that was moved, looks like this.
                losses.take("earlier state put back", lambda: _put_back(client, kept))  # noqa: B023
        return losses.finish()


@fault(16, "FLUSHALL without a disconnect; empty restart", limit_s=300)
def all_lost(faults: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Noticed in the first batch; rebuilt from the log, flagged until that is done."""
    times, between_s = (1, 2.5) if scale == "short" else (3, 10.0)
    with Stage(faults, folder, seed, plan(mixture=FEW, recovery_ms=REBUILD_MS)) as stage:
        losses = Losses(stage)
        for _ in range(times):
            time.sleep(between_s)
            losses.take("FLUSHALL", lambda: _flush(stage))
            time.sleep(between_s)
            losses.take("empty restart", lambda: _restart_empty(stage))
        rebuilds = len(stage.crew.log("profiles_lost"))
        outcome = losses.finish()
    wanted = 2 * times * stage.plan.slots
    outcome.require(rebuilds >= wanted, f"{rebuilds} rebuilds were begun, not {wanted}")
    return outcome


def _save(stage: Stage, folder: Path) -> Path:
    """Keep a snapshot of what Valkey holds."""
    with stage.deployment.valkey() as client:
        client.save()
        written = snapshot_path(client)
    kept = folder / f"{now_ms()}.rdb"
    shutil.copyfile(written, kept)
    return kept


def _flush(stage: Stage) -> None:
    with stage.deployment.valkey() as client:
        client.flushall()


def _restart_empty(stage: Stage) -> None:
    stage.stack.kill_valkey()
    stage.stack.start_valkey()


def _dump(client: redis.Redis) -> dict[bytes, bytes]:
    """Read all keys at one instant.

    From a list that was made before, a key that came since would be missing, under a watermark
    that has it.
    """
    answer: list[bytes] = client.eval(_DUMP, 0)
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _put_back(client: redis.Redis, kept: dict[bytes, bytes]) -> None:
    """Replace all keys at one instant; connections and functions stay."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.flushall()
        for key, content in kept.items():
            pipeline.restore(key, 0, content)
        pipeline.execute()
