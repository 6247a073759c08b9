"""How a fault of Valkey looked from outside: what decisions said, and how long things took.

While it lasts, `await_whole` waits until every worker's profiles are whole again. Once the stage
has settled, `look` reads all decisions, and the functions that begin with ``require_`` hold against
them what must be besides the checker.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis
from harness import BUNDLE, Row, wait_for
from registry import Scale
from stage import Outcome, Plan, Stage, now_ms

from fraudstream.bundle import load_bundle

#: What decisions are promised to take while profiles are away. At short scale the machine runs
#: other tests too, and only what piles up is looked for.
P99_MAX_MS: Mapping[Scale, float] = {"short": 1_000.0, "full": 200.0}
#: How much longer than before the fault they may take on a machine that needs more without it.
SLOWER_MAX = 2.0
#: No worker may end for something that Valkey does.
NO_EXITS: frozenset[int] = frozenset()
#: The product's own deadline.
DEADLINE = {"VALKEY__DEADLINE_MS": 50}
#: A batch waits for Valkey once, for 50 ms; four times that is a busy machine.
WAIT_MAX_MS = 200.0
#: A rebuild from nothing goes on beside the stream, and decisions are flagged until it is done.
WHOLE_TIMEOUT_S = 120.0
_GAP = "fraudstream_profile_gap_records"
_PROFILE_FEATURES = [f.name for f in load_bundle(BUNDLE).features if not f.is_stateless]


class Phase(NamedTuple):
    """What lasted from a first millisecond until before a last one; wall clock."""

    name: str
    start_ms: int
    end_ms: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ms - self.start_ms) / 1000


class Made(NamedTuple):
    """A decision.

    ``worker`` is one run of a producer, ``attempt`` its transaction's number; ``profile_ms`` is how
    long its batch waited for Valkey.
    """

    appended_ms: int
    made_ms: int
    seen_ms: int | None
    profile_ms: float
    worker: str
    attempt: int
    is_degraded: bool
    names_all_missing: bool


@dataclass(frozen=True)
class Repair:
    """What it took to make profiles whole.

    Attributes
    ----------
    records
        The largest gap that the workers' metric showed, all workers together; it is renewed once a
        second.
    seconds
        From the end of the fault until the last worker decided with profiles again. The breaker's
        pause is part of it.
    """

    records: float
    seconds: float

    def report(self, outcome: Outcome) -> None:
        """Note it among an outcome's figures."""
        outcome.extra["gap_records"] = self.records
        outcome.extra["repair_s"] = self.seconds
        if self.records:
            outcome.extra["repaired_per_s"] = self.records / self.seconds


def plan(slots: int = 2, **more: Any) -> Plan:  # noqa: ANN401 - Plan knows their types
    """Give a plan whose workers must live through everything."""
    return Plan(slots=slots, exit_codes=NO_EXITS, **more)


# ------------------------------------------------------------------ while it runs


def wait(name: str, seconds: float) -> Phase:
    """Let the workers work for a while."""
    start_ms = now_ms()
    time.sleep(seconds)
    return Phase(name, start_ms, now_ms())


def await_whole(stage: Stage, since_ms: int, healed_ms: int) -> Repair:
    """Wait until every worker has missed its profiles and has decided with them again.

    Parameters
    ----------
    since_ms, healed_ms
        Beginning and end of the fault.
    """
    gaps = [0.0]

    def is_whole() -> bool:
        gaps.append(stage.crew.metric(_GAP))
        return len(_back_at_ms(stage, since_ms)) == stage.plan.slots

    try:
        wait_for(is_whole, "profiles that are missed and whole again", WHOLE_TIMEOUT_S)
    except AssertionError as error:
        lines = [line for line in stage.crew.log() if logged_at_ms(line) >= since_ms][:20]
        raise AssertionError(f"{error}; {lines}") from error
    last_ms = max(_back_at_ms(stage, since_ms).values())
    return Repair(max(gaps), max(last_ms - healed_ms, 1) / 1000)


def _back_at_ms(stage: Stage, since_ms: int) -> dict[int, int]:
    """Give, by slot, when workers had their profiles back; only those that still have them."""
    newest: dict[int, tuple[int, str]] = {}
    for line in stage.crew.log():
        if line["event"] in {"profiles_away", "profiles_back"}:
            newest[line["slot"]] = (logged_at_ms(line), line["event"])
    return {
        slot: at_ms
        for slot, (at_ms, event) in newest.items()
        if at_ms >= since_ms and event == "profiles_back"
    }


def logged_at_ms(line: dict[str, Any]) -> int:
    """Give the time of a log line."""
    return int(datetime.fromisoformat(line["timestamp"]).timestamp() * 1000)


def snapshot_path(client: redis.Redis) -> Path:
    """Give the file that Valkey writes its snapshots to."""
    folder: Any = client.config_get("dir")["dir"]
    return Path(folder) / "dump.rdb"


def await_degraded(stage: Stage, more_than: float = 0.0) -> None:
    """Wait until more decisions than so many were made without profiles."""
    wait_for(lambda: degraded(stage) > more_than, "a decision without profiles")


def degraded(stage: Stage) -> float:
    """Count the decisions that live workers made without profiles."""
    return stage.crew.metric("fraudstream_degraded_total")


def widen_to_start(stage: Stage) -> None:
    """Let the first fault begin with the run.

    Workers that start on a busy machine miss a deadline of 50 ms now and then, and flag what they
    decide: as they should, and without any fault.
    """
    stage.windows[0] = replace(stage.windows[0], start_ms=0)


# ------------------------------------------------------------------ afterwards


def look(stage: Stage) -> list[Made]:
    """Read all decisions of a stage that has settled."""
    appended_ms = {row.place: row.timestamp_ms for row in stage.deployment.drain("transactions")}
    seen_ms = stage.watcher.seen_at_ms()
    return [
        _made(row, appended_ms[row.source], seen_ms.get(row.source))
        for row in stage.deployment.drain("decisions")
    ]


def _made(row: Row, appended_ms: int, seen_ms: int | None) -> Made:
    worker, _, attempt = row.headers["fs_attempt"].rpartition("/")
    body = row.json()
    return Made(
        appended_ms,
        row.timestamp_ms,
        seen_ms,
        body["timings_ms"]["profile"],
        worker,
        int(attempt),
        "degraded" in body["flags"],
        body["missing_features"] == _PROFILE_FEATURES,
    )


def latencies_ms(found: Iterable[Made], phase: Phase) -> list[int]:
    """Give how long it took from append to reader, of payments that came in a phase.

    Those that were decided after it are among them.
    """
    return [
        made.seen_ms - made.appended_ms
        for made in found
        if phase.start_ms <= made.appended_ms < phase.end_ms and made.seen_ms is not None
    ]


def require_degraded(outcome: Outcome, found: Iterable[Made], phase: Phase) -> None:
    """Hold that everything that came and was decided in a phase says that it lacks profiles."""
    own = [m for m in found if phase.start_ms <= m.appended_ms and m.made_ms < phase.end_ms]
    unflagged = sum(not made.is_degraded for made in own)
    unnamed = sum(made.is_degraded and not made.names_all_missing for made in own)
    name = f"{phase.name}_decisions"
    outcome.extra[name] = outcome.extra.get(name, 0) + len(own)
    outcome.require(len(own) > 0, f"{phase.name}: nothing was decided")
    outcome.require(unflagged == 0, f"{phase.name}: {unflagged} of {len(own)} are not flagged")
    outcome.require(unnamed == 0, f"{phase.name}: {unnamed} do not name the features they lack")


def require_noticed(outcome: Outcome, found: Iterable[Made], since_ms: int, what: str) -> None:
    """Hold that each worker's first batch after a loss is flagged.

    A batch that was read before the loss may already have found it.
    """
    attempts: dict[str, dict[int, list[Made]]] = defaultdict(lambda: defaultdict(list))
    for made in found:
        if made.made_ms >= since_ms:
            attempts[made.worker][made.attempt].append(made)
    outcome.require(bool(attempts), f"{what}: nothing was decided")
    for worker, own in attempts.items():
        for _, batch in sorted(own.items()):
            if any(made.is_degraded for made in batch):
                break
            late = sum(made.appended_ms >= since_ms for made in batch)
            outcome.require(late == 0, f"{what}: {worker} decided {late} before it noticed")
        else:
            outcome.require(False, f"{what}: {worker} did not notice")


def require_prompt(
    outcome: Outcome, found: Sequence[Made], quiet: Phase, phase: Phase, scale: Scale
) -> None:
    """Hold that decisions are as prompt as promised while profiles are away, and report it.

    Parameters
    ----------
    quiet
        A time before the fault: where the machine itself takes long, twice as long may do.
    phase
        The fault. Lag that grows shows in the last quarter of it.
    scale
        Says how prompt.
    """
    before, during = latencies_ms(found, quiet), latencies_ms(found, phase)
    outcome.require(len(before) > 0 and len(during) > 0, f"{phase.name}: nothing was measured")
    if not before or not during:
        return
    quarter_ms = (phase.end_ms - phase.start_ms) // 4
    last = latencies_ms(found, phase._replace(start_ms=phase.end_ms - quarter_ms))
    before_ms, p99_ms = float(np.percentile(before, 99)), float(np.percentile(during, 99))
    at_end_ms = float(np.median(last or during))
    waits_ms = [m.profile_ms for m in found if phase.start_ms <= m.made_ms < phase.end_ms]
    _note_largest(outcome, "before_p99_ms", before_ms)
    _note_largest(outcome, f"{phase.name}_p50_ms", float(np.median(during)))
    _note_largest(outcome, f"{phase.name}_p99_ms", p99_ms)
    _note_largest(outcome, f"{phase.name}_at_end_p50_ms", at_end_ms)
    _note_largest(outcome, f"{phase.name}_longest_wait_for_valkey_ms", max(waits_ms, default=0.0))
    longest_ms = max(waits_ms, default=0.0)
    outcome.require(
        longest_ms < WAIT_MAX_MS, f"{phase.name}: waited {longest_ms:.0f} ms for Valkey"
    )
    limit_ms = max(P99_MAX_MS[scale], SLOWER_MAX * before_ms)
    outcome.require(p99_ms < limit_ms, f"{phase.name}: p99 is {p99_ms:.0f}, limit {limit_ms:.0f}")
    outcome.require(at_end_ms < limit_ms, f"{phase.name}: {at_end_ms:.0f} ms behind at its end")


def _note_largest(outcome: Outcome, name: str, value: float) -> None:
    outcome.extra[name] = max(value, outcome.extra.get(name, 0.0))
