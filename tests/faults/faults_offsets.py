"""Offsets that are gone or moved, and a log that is shorter than a window (25)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from confluent_kafka import TopicPartition
from crew import Crew
from harness import Deployment, Partition, Position, Row, wait_for
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage, now_ms

from fraudstream.errors import ExitCode

_REQUEST_TIMEOUT_S = 15.0
#: By partition, from where to where records were given back.
Rewound: TypeAlias = "dict[Partition, list[tuple[int, int]]]"


@fault(25, "group offsets deleted or moved back; the log shorter than a window", limit_s=300.0)
def lost_offsets(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Delete the group, move its offsets back, and cut the log short while Valkey is emptied.

    A worker that began at the end of the log would lose what was published meanwhile.
    """
    rate = 200.0 if scale == "short" else 400.0
    with ExitStack() as exits:
        stage = exits.enter_context(Stage(stack, folder, seed, Plan(rate=rate)))
        with stage.fault("offsets deleted"):
            refusals = _delete_offsets(stage)
        # From here on a person has told the workers where to begin.
        told = Crew(stage.deployment, folder, stage.crew.slots, arguments=("--from", "watermark"))
        stage.crew = exits.enter_context(told)
        stage.await_recovery(now_ms())
        with stage.fault("offsets moved back"):
            rewound = _move_offsets_back(stage)
        stage.await_recovery(now_ms())
        stage.load.pause()
        wait_for(lambda: _lag(stage) == 0, "the workers to catch up")
        earlier = [*stage.deployment.drain("transactions"), *stage.deployment.drain("labels")]
        with stage.fault("log cut short, Valkey emptied"):
            ends = _cut_log_short(stage)
            stage.load.resume()
            wait_for(lambda: _are_reached(stage.deployment, ends), "the profiles to be repaired")
        stage.await_recovery(now_ms())
        time.sleep(2.0)  # of decisions on what is left of the past
        stage.settle()
        outcome = stage.finish(earlier_inputs=earlier, rewound=rewound)
        decisions = stage.deployment.drain("decisions")
    for code, text in refusals:
        outcome.require(code == ExitCode.OFFSETS_MISSING, f"a worker ended with {code}")
        outcome.require("--from watermark" in text, "a worker did not say what to do")
    _judge_repeats(outcome, decisions, rewound)
    outcome.require(outcome.figures.incomplete > 0, "no decision is flagged incomplete")
    outcome.extra["incomplete"] = outcome.figures.incomplete
    return outcome


def _delete_offsets(stage: Stage) -> list[tuple[int, str]]:
    """Delete the group, and start its workers; give the codes they end with, and their words."""
    for slot in stage.crew.slots:
        stage.crew.stop_one(slot)
    deployment = stage.deployment

    def is_deleted() -> bool:  # a static member stays until its session times out
        (future,) = deployment.admin.delete_consumer_groups([deployment.name]).values()
        return future.exception(_REQUEST_TIMEOUT_S) is None

    wait_for(is_deleted, "the group to be deleted")
    workers = [stage.crew.start(slot) for slot in stage.crew.slots]
    return [(worker.wait(), worker.text()) for worker in workers]


def _move_offsets_back(stage: Stage) -> Rewound:
    """Give back the second half of what was decided; give the stretches."""
    for slot in stage.crew.slots:
        stage.crew.stop_one(slot)
    committed = stage.deployment.committed()
    moved = {partition: end - end // 2 for partition, end in committed.items()}
    stage.deployment.set_offsets(moved)
    for slot in stage.crew.slots:
        stage.crew.start(slot)
    stage.crew.await_ready()
    return {place: [(moved[place], end)] for place, end in committed.items() if moved[place] < end}


def _cut_log_short(stage: Stage) -> dict[Partition, int]:
    """Delete the first half of each partition's records, and all profiles; give the ends."""
    deployment = stage.deployment
    ends = deployment.ends()
    places = [TopicPartition(*partition, end // 2) for partition, end in ends.items() if end // 2]
    for future in deployment.admin.delete_records(places).values():
        future.result(_REQUEST_TIMEOUT_S)
    with deployment.valkey() as client:
        client.flushall()
    return ends


def _are_reached(deployment: Deployment, ends: Mapping[Partition, int]) -> bool:
    marks = deployment.watermarks()
    return all(marks.get(partition, 0) >= end for partition, end in ends.items())


def _lag(stage: Stage) -> int:
    committed = stage.deployment.committed()
    return sum(end - committed.get(place, 0) for place, end in stage.deployment.ends().items())


def _judge_repeats(outcome: Outcome, decisions: Sequence[Row], rewound: Rewound) -> None:
    """See that what was given back was decided twice, what else once, and both times alike."""
    by_source: dict[Position, list[dict[str, Any]]] = {}
    for row in decisions:
        by_source.setdefault(row.source, []).append(row.json())
    topic = {row.source[0] for row in decisions}
    expected = {
        (*place, offset)
        for place, stretches in rewound.items()
        if place[0] in topic
        for start, end in stretches
        for offset in range(start, end)
    }
    repeated = {source for source, found in by_source.items() if len(found) > 1}
    outcome.require(repeated == expected, f"{len(repeated)} of {len(expected)} are decided again")
    counts = Counter(len(found) for found in by_source.values())
    outcome.require(counts.keys() <= {1, 2}, f"decisions of one payment: {dict(counts)}")
    others = [source for source in repeated if not _are_alike(*by_source[source][:2])]
    outcome.require(not others, f"{len(others)} payments are decided otherwise the second time")
    outcome.extra["decided_again"] = len(repeated)


def _are_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    names = ("decision_id", "card_id", "amount_minor", "source")
    if "degraded" in {*first["flags"], *second["flags"]}:
        return all(first[name] == second[name] for name in names)
    cards = [name for name in first["features"] if name.startswith("card_")]
    return all(first[name] == second[name] for name in names) and all(
        first["features"][name] == second["features"][name] for name in cards
    )
