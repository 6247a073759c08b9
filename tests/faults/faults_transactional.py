"""Input that is written in transactions, some of them aborted (26)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import orjson
from confluent_kafka import KafkaError, Message, Producer
from harness import PATIENCE_S, Partition, wait_for
from load import Mixture, make_payments
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage

_REQUEST_TIMEOUT_S = 15.0


@fault(26, "input written by transactions, some aborted", limit_s=300.0)
def transactional_input(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Write the input in transactions, abort every third, and leave one open for a while."""
    count = 60 if scale == "short" else 600
    with Stage(stack, folder, seed, Plan(rate=0.0)) as stage:
        writer = _TransactionalWriter(stage, seed)
        with stage.fault("aborted input"):
            for number in range(count):
                writer.write(20, is_aborted=number % 3 == 2)
                time.sleep(0.05)
            _await_lag(stage, writer.ends, 0)
            writer.begin(20)
            time.sleep(2.0)  # what cannot be read yet is no lag
            is_open_ignored = set(_lags(stage).values()) == {0.0}
            writer.end(is_aborted=False)
            writer.write(20, is_aborted=True)
            _await_lag(stage, writer.ends, 0)
        stage.settle(ends=writer.ends)
        outcome = stage.finish()
    outcome.require(is_open_ignored, "records of an open transaction were taken for lag")
    decided, written = outcome.figures.decisions, writer.committed
    outcome.require(decided == written, f"{decided} of {written} payments are decided")
    outcome.extra |= {"input_transactions": writer.transactions, "input_aborted": writer.aborted}
    return outcome


class _TransactionalWriter:
    """Writes payments in transactions, as another exactly-once program does.

    Parameters
    ----------
    stage
        Where to.
    seed
        Of the payments.

    Attributes
    ----------
    ends
        By partition, behind the last payment that was committed.
    committed, transactions, aborted
        How many payments can be read; how many transactions there were, and were aborted.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self._topic = stage.deployment.topics["transactions"]
        self._events = make_payments(seed, Mixture(frauds=0.0))
        self._open: dict[Partition, int] = {}
        self._written = 0
        self.ends: dict[Partition, int] = {}
        self.committed = self.transactions = self.aborted = 0
        self._producer = Producer(
            {
                "bootstrap.servers": stage.faults.services.bootstrap_servers,
                "transactional.id": f"{stage.deployment.name}-writer",
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(_REQUEST_TIMEOUT_S)

    def write(self, payments: int, *, is_aborted: bool) -> None:
        """Write one transaction."""
        self.begin(payments)
        self.end(is_aborted=is_aborted)

    def begin(self, payments: int) -> None:
        """Write what belongs to a transaction, and leave it open."""
        self._open, self._written = {}, payments
        self._producer.begin_transaction()
        for _ in range(payments):
            _, event = next(self._events)
            self._producer.produce(
                self._topic,
                orjson.dumps(event),
                str(event["card_id"]).encode(),
                on_delivery=self._on_delivery,
            )
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records were not delivered"

    def end(self, *, is_aborted: bool) -> None:
        """Commit or abort what is open."""
        self.transactions += 1
        self.aborted += is_aborted
        if is_aborted:
            self._producer.abort_transaction(_REQUEST_TIMEOUT_S)
            return
        self._producer.commit_transaction(_REQUEST_TIMEOUT_S)
        self.ends |= self._open
        self.committed += self._written

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self._open[topic, partition] = offset + 1


def _lags(stage: Stage) -> dict[Partition, float]:
    """Read the workers' lag, by input partition."""
    name = "fraudstream_lag_records{"
    found: dict[Partition, float] = {}
    for slot in stage.crew.slots:
        for line in stage.crew.worker(slot).get("/metrics")[1].splitlines():
            if line.startswith(name):
                labels, _, value = line.removeprefix(name).partition("} ")
                said = dict(label.split("=") for label in labels.replace('"', "").split(","))
                found[said["topic"], int(said["partition"])] = float(value)
    return found


def _await_lag(stage: Stage, partitions: Mapping[Partition, int], lag: float) -> None:
    """Wait until the workers show a lag in each of these partitions, and this one."""

    def is_there() -> bool:
        found = _lags(stage)
        return all(found.get(partition) == lag for partition in partitions)

    wait_for(is_there, f"a lag of {lag:.0f}: {_lags(stage)}", PATIENCE_S)
