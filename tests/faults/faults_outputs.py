"""Outputs that the broker always refuses (21)."""

from __future__ import annotations

import string
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bad_records import require_letters
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import BEGIN_MS, Outgoing, Position, Row, wait_for
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage

from fraudstream.errors import Reason

#: Compressed, a decision alone takes 1.0 to 1.3 kB at the broker, a large one takes 1.75 kB.
DECISION_BYTES = 1_550
LETTER_BYTES = 20_000
#: 512 records are halved nine times; then two dead letters may be refused, too; the rest is that
#: batches grow again before the next one is found.
ABORTS_MAX = 15
_PATIENCE_S = 300.0
_REQUEST_TIMEOUT_S = 15.0


@fault(21, "an output the broker always refuses", limit_s=900.0)
def refused_outputs(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Have the broker take no large dead letters, then no large decisions, and call for both."""
    count = 3 if scale == "short" else 15
    rng = np.random.default_rng(seed)
    refused: list[Position] = []
    innocent: list[Position] = []
    with Stage(stack, folder, seed, Plan(rate=100.0)) as stage:
        with stage.fault("dead letters are refused") as window:
            _limit_batches(stage, "dead_letters", LETTER_BYTES)
            for _ in range(count):
                small, large, other = b"no JSON", _characters(rng, 2 * LETTER_BYTES).encode(), b"{}"
                places = stage.deployment.publish(value for value in (small, large, other))
                refused.append(places.pop(1))
                innocent += places
                time.sleep(0.5)
            _await_letters(stage, 3 * count)
        stage.await_recovery(window.end_ms)
        _send_one_by_one(stage)
        with stage.fault("decisions are refused") as window:
            _limit_batches(stage, "decisions", DECISION_BYTES)
            for number in range(count):
                refused += stage.deployment.publish_records([_large_payment(rng, number)])
                time.sleep(0.5)
            _await_letters(stage, 4 * count)
        stage.await_recovery(window.end_ms)
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    _judge_refused(outcome, letters, refused, innocent)
    return outcome


def _judge_refused(
    outcome: Outcome,
    letters: Sequence[Row],
    refused: Sequence[Position],
    innocent: Sequence[Position],
) -> None:
    """See that what was refused was given up, and nothing else; and that it took few tries."""
    expected = dict.fromkeys(refused, (Reason.OUTPUT_REFUSED.value, ""))
    expected |= dict.fromkeys(innocent[::2], (Reason.INVALID_JSON.value, ""))
    expected |= dict.fromkeys(innocent[1::2], (Reason.MISSING_FIELD.value, "transaction_id"))
    require_letters(outcome, letters, expected)
    large = [row for row in letters if len(row.value or b"") > LETTER_BYTES]
    outcome.require(not large, "a dead letter was taken that is larger than the limit")
    aborted, count = outcome.figures.aborted, len(refused)
    outcome.require(aborted >= count, f"{aborted} aborts: not all of {count} outputs were refused")
    outcome.require(aborted <= ABORTS_MAX * count, f"{aborted} aborts for {count} refused outputs")
    outcome.extra |= {"refused": count, "aborts_each": round(aborted / count, 1)}


def _send_one_by_one(stage: Stage) -> None:
    """Start the workers again so that each record is a batch: limits are those of batches."""
    for slot in stage.crew.slots:
        stage.crew.stop_one(slot)
        stage.crew.start(slot, FRAUDSTREAM_KAFKA__PROPERTIES='{"batch.num.messages": "1"}')
    stage.crew.await_ready()


def _characters(rng: np.random.Generator, count: int) -> str:
    """Draw characters of which no two records have many in common: they do not compress."""
    return "".join(rng.choice(_CHARACTERS, count))


_CHARACTERS = np.array(list(string.ascii_letters + string.digits))


def _large_payment(rng: np.random.Generator, number: int) -> Outgoing:
    """Make a good payment whose decision is as large as any: long ids, and a trace to pass on."""
    event = {
        "transaction_id": f"{number:03d}-{_characters(rng, 60)}",
        "event_time": BEGIN_MS + number,
        "card_id": _characters(rng, 60),
        "terminal_id": _characters(rng, 60),
        "amount_minor": 4_711,
        "currency": "EUR",
    }
    key = str(event["card_id"]).encode()
    return "transactions", key, event, [("tracestate", _characters(rng, 500))]


def _limit_batches(stage: Stage, kind: str, size: int) -> None:
    """Set the size in bytes of what the broker takes at once for a partition of a topic."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ResourceType.TOPIC, stage.deployment.topics[kind], incremental_configs=[entry]
    )
    for future in stage.deployment.admin.incremental_alter_configs([resource]).values():
        future.result(_REQUEST_TIMEOUT_S)


def _await_letters(stage: Stage, count: int) -> None:
    def are_there() -> bool:
        return len(stage.deployment.drain("dead_letters")) >= count

    wait_for(are_there, "the dead letters", _PATIENCE_S)
