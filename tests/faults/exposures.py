"""Which fault brings which broken worker to light, and by which check it must be named.

Each runs for a few seconds. A worker that is not broken is shown to the same faults, and the
checker must find nothing then: otherwise it would be the fault that is noticed, not the defect.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import orjson
from confluent_kafka import Producer
from harness import Partition
from load import Mixture, make_payments
from proxy import END_TXN
from stage import FaultStack, Outcome, Plan, Stage

#: The faults are let loose one after the other, on a stage that has load (or none, for inputs).
Scene: TypeAlias = Callable[[Stage], None]

_TIMES = 3
_PAUSE_S = 0.5
_AWAY_S = 1.5
_OPEN_S = 1.0
#: The first request of a producer reaches the broker within that.
_SENT_S = 0.2
_PATIENCE_S = 20.0
_BATCHES, _BATCH_RECORDS = 6, 60
#: Few cards, so that what is done to one event shows in the next ones.
_MIXTURE = Mixture(cards=200, terminals=100)


@dataclass(frozen=True)
class Exposure:
    """A fault, and what it needs.

    Attributes
    ----------
    scene
        What is done; everything is decided afterwards.
    rate
        Payments a second.
    settings
        Of the worker.
    """

    scene: Scene
    rate: float = 150.0
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Expectation:
    """How a broken worker is found out.

    Attributes
    ----------
    exposure
        By which fault (`EXPOSURES`).
    checks
        Which checks must find something.
    """

    exposure: str
    checks: frozenset[str]


def aborts(stage: Stage) -> None:
    """Abort a few transactions when everything of them is sent."""
    with stage.fault("aborts"):
        for _ in range(_TIMES):
            stage.crew.arm(0, "FP4", "abort").wait(_PATIENCE_S)
            time.sleep(_PAUSE_S)
    stage.settle()


def kill(stage: Stage) -> None:
    """Kill the worker when everything of a transaction is sent."""
    with stage.fault("kill") as window:
        stage.crew.arm(0, "FP4", "kill").wait(_PATIENCE_S)
    stage.await_recovery(window.end_ms)
    stage.settle()


def delayed_commit(stage: Stage) -> None:
    """Hold a commit, let it go while the next transaction is open, and abort that one."""
    with stage.fault("EndTxn held"):
        held = stage.proxy.hold(END_TXN, containing=f"{stage.deployment.name}-0-0")
        assert held.wait(_PATIENCE_S), "no transaction ended"
        held.reset_client()
        stage.crew.arm(0, "FP3", "sleep", seconds=_OPEN_S).wait(_PATIENCE_S)
        time.sleep(_SENT_S)
        held.release()
        # Without it there would be two transactions for one, and nothing to see at the end.
        stage.crew.arm(0, "FP4", "abort").wait(_PATIENCE_S)
        time.sleep(_PAUSE_S)
    stage.settle()


def profiles_away(stage: Stage) -> None:
    """Take Valkey away for a moment; its content stays."""
    with stage.fault("profiles away"):
        stage.valkey_proxy.black_hole()
        time.sleep(_AWAY_S)
        stage.valkey_proxy.heal()
    time.sleep(_AWAY_S)
    stage.settle()


def aborted_input(stage: Stage) -> None:
    """Publish payments by transactions, and abort every second of them."""
    deployment = stage.deployment
    producer = Producer(
        {
            "bootstrap.servers": stage.stack.bootstrap_servers,
            "transactional.id": f"{deployment.name}-publisher",
            "partitioner": "murmur2_random",
            "log_level": 0,
        }
    )
    producer.init_transactions(_PATIENCE_S)
    # The last one is committed: what follows it on the log is its marker alone.
    for number, payments in enumerate(_batches(stage.seed)):
        producer.begin_transaction()
        for payment in payments:
            key = str(payment["card_id"]).encode()
            producer.produce(deployment.topics["transactions"], orjson.dumps(payment), key)
        if number % 2:
            producer.commit_transaction(_PATIENCE_S)
        else:
            producer.flush(_PATIENCE_S)
            producer.abort_transaction(_PATIENCE_S)
    ends: Counter[Partition] = Counter()
    for row in deployment.drain("transactions"):
        ends[row.place[:2]] = max(ends[row.place[:2]], row.offset + 1)
    stage.settle(ends=ends)


def _batches(seed: int) -> Iterator[list[dict[str, object]]]:
    events = make_payments(seed, _MIXTURE)
    payments = (event for kind, event in events if kind == "transactions")
    for _ in range(_BATCHES):
        yield list(islice(payments, _BATCH_RECORDS))


EXPOSURES: Mapping[str, Exposure] = {
    "aborts": Exposure(aborts),
    "kill": Exposure(kill),
    "delayed commit": Exposure(delayed_commit),
    "aborted input": Exposure(aborted_input, rate=0),
    "profiles away": Exposure(profiles_away, settings={"VALKEY__DEADLINE_MS": 250}),
}

DEFECTS: Mapping[str, Expectation] = {
    "offsets_outside": Expectation("kill", frozenset({"C1"})),
    "no_rewind": Expectation("aborts", frozenset({"C1"})),
    "position_asked": Expectation("aborts", frozenset({"C1"})),
    "no_id_check": Expectation("aborts", frozenset({"C7", "C9"})),
    "retries_as_duplicates": Expectation("aborts", frozenset({"C6"})),
    "read_uncommitted": Expectation("aborted input", frozenset({"C2", "C9"})),
    "producer_kept": Expectation("delayed commit", frozenset({"C1", "C3"})),
    "gap_skipped": Expectation("profiles away", frozenset({"C7", "C9"})),
}


def expose(
    faults: FaultStack, folder: Path, exposure: Exposure, defect: str | None, seed: int = 1
) -> Outcome:
    """Run one worker through a fault.

    Parameters
    ----------
    faults
        Kafka and Valkey.
    folder
        For the run's files; empty.
    exposure
        What is done to it.
    defect
        How it is broken (`BROKEN`); None: not at all.
    seed
        Of its input.
    """
    plan = Plan(
        slots=1,
        partitions=2,
        rate=exposure.rate,
        settings=exposure.settings,
        mixture=_MIXTURE,
        variables={} if defect is None else {"FRAUDSTREAM_TEST_BROKEN": defect},
    )
    with Stage(faults, folder, seed, plan) as stage:
        exposure.scene(stage)
        return stage.finish()
