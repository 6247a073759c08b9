"""Faults of what comes in, and of what goes out: bad records, refused outputs, odd times (20–26).

Clocks (24) and offsets (25) have modules of their own.
"""

from __future__ import annotations

import itertools
import string
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import numpy as np
import orjson
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import BEGIN_MS, DAY_MS, PATIENCE_S, Outgoing, Partition, Position, Row, wait_for
from hostile import Hostile
from load import Mixture, make_payments
from registry import Scale, fault
from stage import FaultStack, Outcome, Plan, Stage, now_ms

from fraudstream.errors import ExitCode, Reason

#: Compressed, a decision alone takes 1.0 to 1.3 kB at the broker, a large one takes 1.75 kB.
DECISION_BYTES = 1_550
LETTER_BYTES = 20_000
#: 256 records are halved eight times; then two dead letters may be refused, too; the rest is that
#: batches grow again before the next one is found.
ABORTS_MAX = 14
_REQUEST_TIMEOUT_S = 15.0
_TICK_S = 0.1


class Bad(NamedTuple):
    """A bad record as it is published, and what its dead letter must say."""

    kind: str
    value: bytes | None
    reason: Reason
    field: str


def bad_records(seed: int) -> list[Bad]:
    """Give the corpus in random order, what is one of a kind first.

    Its times that are too late are so for a record of 2018; these here are for one of today.
    """
    corpus = [("transactions", case) for case in hostile.PAYMENTS]
    corpus += [("labels", case) for case in hostile.LABELS]
    kept = [(kind, case) for kind, case in corpus if case.reason is not Reason.TIME_IN_FUTURE]
    order = np.random.default_rng(seed).permutation(len(kept)).tolist()
    ahead_ms = (now_ms() + DAY_MS, 2**53, 2**63 - 1, 2**63)
    future = [
        Bad("transactions", hostile.payment(event_time=at), Reason.TIME_IN_FUTURE, "event_time")
        for at in ahead_ms
    ]
    rest = [_bad(*kept[n]) for n in order]
    firsts = {(bad.reason, bad.field): bad for bad in reversed(rest)}
    chosen = [*future, *(_bad("transactions", case) for case in _SPECIAL), *firsts.values()]
    return [*chosen, *(bad for bad in rest if bad not in chosen)]


def _bad(kind: str, case: Hostile) -> Bad:
    return Bad(kind, case.value, case.reason, case.field)


#: What every run has: 10 MB, no value, the schemas of others.
_SPECIAL = (
    *(case for case in hostile.PAYMENTS if case.name in {"10 MB of array", "null"}),
    *hostile.ENVELOPES,
)


def _require_letters(
    outcome: Outcome, letters: Sequence[Row], expected: Mapping[Position, tuple[str, str]]
) -> None:
    """See that each bad record has one dead letter with its reason and field, and no other has."""
    found = Counter(row.source for row in letters)
    for source in expected:
        outcome.require(found[source] == 1, f"{source} has {found[source]} dead letters")
    outcome.require(not found.keys() - expected.keys(), "a good record has a dead letter")
    wrong = [
        f"{row.source}: {said}, not {expected[row.source]}"
        for row in letters
        if (said := (row.headers["fs_reason"], row.headers["fs_field"]))
        != expected.get(row.source, said)
    ]
    outcome.require(not wrong, f"{len(wrong)} dead letters say something else: {wrong[:3]}")


# ------------------------------------------------------------------ 20, 22: bad records


@fault(20, "5 % hostile records, a 10 MB record, a null value, unknown schema", limit_s=300.0)
def hostile_records(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Mix the corpus into the load: one bad record in twenty."""
    rate, seconds = (300.0, 8.0) if scale == "short" else (300.0, 60.0)
    bad = bad_records(seed)[: int(rate * seconds / 19)]
    with Stage(stack, folder, seed, Plan(rate=rate)) as stage:
        with stage.fault("hostile records") as window:
            places = list(_spread(stage, bad, seconds))
        stage.await_recovery(window.start_ms)
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, bad, strict=True)}
    _require_letters(outcome, letters, expected)
    outcome.require(outcome.figures.degraded == 0, "decisions were degraded by bad records")
    outcome.extra |= {
        "bad_records": len(bad),
        "reasons": len({b.reason for b in bad}),
        "percent": round(100 * len(bad) / outcome.figures.events, 1),
    }
    return outcome


def _spread(stage: Stage, bad: Sequence[Bad], seconds: float) -> Iterator[Position]:
    """Publish bad records over some time, to all partitions; give their places."""
    ticks = int(seconds / _TICK_S)
    started_s = time.monotonic()
    for tick in range(ticks):
        part = range(len(bad) * tick // ticks, len(bad) * (tick + 1) // ticks)
        yield from stage.deployment.publish_records(_outgoing(bad[n], n) for n in part)
        time.sleep(max(started_s + (tick + 1) * _TICK_S - time.monotonic(), 0.0))


def _outgoing(bad: Bad, number: int) -> Outgoing:
    return bad.kind, f"c{number % 97}".encode(), bad.value, ()


@fault(22, "100 % bad input for 30 s", limit_s=300.0)
def nothing_but_bad(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Publish nothing but bad records: a fault of the deployment, which a person has to judge."""
    limit, seconds = (200, 4.0) if scale == "short" else (1_000, 30.0)
    small = [b for b in bad_records(seed) if b.value is None or len(b.value) < 2_000]
    bad = [b for b, _ in zip(itertools.cycle(small), range(int(300 * seconds)), strict=False)]
    plan = Plan(
        settings={"DEAD_LETTERS__CONSECUTIVE_MAX": limit, "DEAD_LETTERS__RATIO_RECORDS": limit},
        exit_codes=frozenset({int(ExitCode.DEAD_LETTER_LIMIT)}),
    )
    with Stage(stack, folder, seed, plan) as stage:
        stage.load.pause()
        with stage.fault("nothing but bad records"):
            workers = [stage.crew.worker(slot) for slot in stage.crew.slots]
            places = list(_spread(stage, bad, seconds))
            wait_for(lambda: len(stage.crew.exits) == len(workers), "the workers to stop")
            stopped = _undecided(stage)
            said = [worker.text() for worker in workers]
        stage.load.resume()
        resumed_ms = now_ms()
        for slot in stage.crew.slots:  # a person looked, and takes it as it is
            stage.crew.start(
                slot,
                FRAUDSTREAM_DEAD_LETTERS__CONSECUTIVE_MAX=str(10**9),
                FRAUDSTREAM_DEAD_LETTERS__RATIO_MAX="1.0",
            )
        stage.await_recovery(resumed_ms)
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, bad, strict=True)}
    _require_letters(outcome, letters, expected)
    for text in said:
        outcome.require("dead_letters.*" in text, "a worker did not say which limit it met")
    outcome.require(stopped > 0, "the limit stopped nothing: everything was decided before")
    outcome.extra |= {"bad_records": len(bad), "undecided_at_the_stop": stopped}
    return outcome


def _undecided(stage: Stage) -> int:
    committed = stage.deployment.committed()
    return sum(end - committed.get(place, 0) for place, end in stage.deployment.ends().items())


# ------------------------------------------------------------------ 21: refused outputs


@fault(21, "an output the broker always refuses", limit_s=300.0)
def refused_outputs(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Have the broker take no large dead letters, then no large decisions, and call for both."""
    count = 5 if scale == "short" else 40
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
    _require_letters(outcome, letters, expected)
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
    wait_for(
        lambda: len(stage.deployment.drain("dead_letters")) >= count, "the dead letters", PATIENCE_S
    )


# ------------------------------------------------------------------ 23: duplicates, odd times


@fault(23, "duplicates, shuffles within 60 s; +1 day, 1970, 2^63", limit_s=300.0)
def odd_times(stack: FaultStack, folder: Path, seed: int, scale: Scale) -> Outcome:
    """Publish a stream out of order, one payment in ten twice, with times that cannot be."""
    count = 2_500 if scale == "short" else 20_000
    stream = _shuffled(seed, count)
    odd = [_odd_payment(number) for number in range(count // 100)]
    with Stage(stack, folder, seed, Plan(rate=0.0)) as stage:
        with stage.fault("odd times"):
            places = list(_publish_evenly(stage, stream, odd))
        stage.settle()
        outcome = stage.finish()
        letters = stage.deployment.drain("dead_letters")
    expected = {p: (b.reason.value, b.field) for p, b in zip(places, odd, strict=True)}
    _require_letters(outcome, letters, expected)
    ids = Counter(event["transaction_id"] for kind, event in stream if kind == "transactions")
    copies = sum(ids.values()) - len(ids)
    figures = outcome.figures
    outcome.require(copies > count // 20, f"only {copies} copies were published")
    outcome.require(figures.duplicates == copies, f"{figures.duplicates} of {copies} are flagged")
    outcome.require(figures.late > 0, "nothing came late")
    outcome.require(figures.degraded == 0, "decisions were degraded")
    outcome.extra |= {"copies": copies, "late": figures.late, "odd": len(odd)}
    return outcome


def _shuffled(seed: int, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Make a stream in which a payment comes up to a minute after its time; with copies."""
    mixture = Mixture(cards=count // 12, terminals=count // 25, duplicates=0.1, step_ms=1_000)
    events = list(itertools.islice(make_payments(seed, mixture), count))
    delays_ms = np.random.default_rng(seed).uniform(0.0, 60_000.0, count).tolist()
    now = BEGIN_MS
    due: list[tuple[float, int]] = []
    for number, (kind, event) in enumerate(events):
        now = max(now, int(str(event["event_time" if kind == "transactions" else "reported_at"])))
        due.append((now + delays_ms[number], number))
    return [events[number] for _, number in sorted(due)]


def _odd_payment(number: int) -> Bad:
    """Make a payment of no time that it can be of."""
    times = (now_ms() + DAY_MS, "1970-01-01T00:00:00Z", 2**63, 0, "9999-12-31T23:59:59.999Z")
    time_ms = times[number % len(times)]
    is_early = number % len(times) in {1, 3}
    value = hostile.payment(transaction_id=f"odd{number}", event_time=time_ms)
    reason = Reason.TIME_TOO_EARLY if is_early else Reason.TIME_IN_FUTURE
    return Bad("transactions", value, reason, "event_time")


def _publish_evenly(
    stage: Stage, stream: Sequence[tuple[str, Mapping[str, Any]]], odd: Sequence[Bad]
) -> Iterator[Position]:
    """Publish a stream at 500 records a second, odd payments among it; give their places."""
    ticks = len(stream) // 50
    for tick in range(ticks):
        part = stream[len(stream) * tick // ticks : len(stream) * (tick + 1) // ticks]
        stage.deployment.publish_records(_keyed(kind, event) for kind, event in part)
        numbers = range(len(odd) * tick // ticks, len(odd) * (tick + 1) // ticks)
        yield from stage.deployment.publish_records(_outgoing(odd[n], n) for n in numbers)
        time.sleep(_TICK_S)


def _keyed(kind: str, event: Mapping[str, Any]) -> Outgoing:
    name = "card_id" if kind == "transactions" else "terminal_id"
    return kind, str(event[name]).encode(), event, ()


# ------------------------------------------------------------------ 26: transactional input


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
