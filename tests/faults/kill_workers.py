"""Workers killed with −9 at random instants, and a count of what a `read_committed` reader sees.

    python tests/faults/kill_workers.py --seeds 10 --events 100000

Two worker processes read a stream at full speed. At random instants, while there is lag, one of
them is killed; its parent starts it again. Afterwards the topics are drained, and every promise is
checked on what lies in them:

* each transaction has exactly one decision, known by its source position; no dead letters;
* an alert exactly where the decision calls for one, and for no other;
* decisions in the order of the offsets that they answer;
* no decision is flagged: least of all ``duplicate``, which is what a retry must not be taken for;
* every attempt that is visible is visible as a whole;
* card features equal, to the bit, a plain Python fold over the log; scores equal the model's.

A *retried* event is one that was in the profiles when its worker died, and was decided afterwards
by the worker's successor. Its alert would be lost if the retry were taken for a duplicate.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # as a program there is no pytest to set up the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import (
    BEGIN_MS,
    BUNDLE,
    DAY_MS,
    Deployment,
    Partition,
    Position,
    Row,
    WorkerProcess,
    card_features,
    wait_for,
)
from numpy.typing import NDArray
from services import Services, running_services

from fraudstream.bundle import load_bundle

CARDS, TERMINALS = 2_000, 4_000
#: Longer than the longest window, shorter than the horizon: no order of partitions is too late.
SPAN_MS = 36 * DAY_MS
FRAUDS = 0.02
LABEL_DELAY_MS = 3 * DAY_MS
KILLS_MIN, KILLS_MAX = 3, 10
#: Kills that hit a batch after it was recorded and before it was committed.
TELLING_KILLS_MIN = 2
SLOTS = (0, 1)
SETTINGS = {
    # A machine that is busy with something else must not make this a test of degraded decisions.
    "VALKEY__ON_DEADLINE": "wait",
    "VALKEY__DEADLINE_MS": 2_000,
    # Many alerts, so that many of the retried events have one.
    "POLICY__REVIEW_THRESHOLD": 0.05,
}


@dataclass(frozen=True)
class Kill:
    """A worker's end: when it was certain, and what the profiles held then."""

    slot: int
    dead_at_ms: int
    watermarks: Mapping[Partition, int]


@dataclass
class Report:
    """What a run came to."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    events: int = 0
    decisions: int = 0
    alerts: int = 0
    lost: int = 0
    doubled: int = 0
    retried: int = 0
    retried_alerts: int = 0
    seconds: float = 0.0
    #: Everything that must not be, in words.
    problems: list[str] = field(default_factory=list)


def make_stream(seed: int, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Make payments in event-time order, and labels of some among them as they become known."""
    rng = np.random.default_rng(seed)
    times = BEGIN_MS + np.sort(rng.integers(0, SPAN_MS, count))
    cards, terminals = rng.integers(0, CARDS, count), rng.integers(0, TERMINALS, count)
    amounts = np.minimum(rng.lognormal(8.3, 1.0, count), 1e7).astype(np.int64)
    is_fraud = rng.random(count) < FRAUDS
    reported: list[tuple[int, dict[str, object]]] = []
    for n in range(count):
        event: dict[str, object] = {
            "transaction_id": f"k{n}",
            "event_time": int(times[n]),
            "card_id": f"c{cards[n]}",
            "terminal_id": f"t{terminals[n]}",
        }
        while reported and reported[0][0] <= times[n]:
            yield "labels", reported.pop(0)[1]
        yield "transactions", event | {"amount_minor": int(amounts[n]), "currency": "EUR"}
        if is_fraud[n]:
            at = int(times[n]) + LABEL_DELAY_MS
            finding = {"is_fraud": True, "reported_at": at, "source": "test"}
            reported.append((at, event | finding))


def run(services: Services, folder: Path, seed: int, events: int) -> Report:
    """Let two workers decide a stream, kill them now and then, and check what came out."""
    report = Report(seed)
    with Deployment(services, folder, partitions=6, settings=SETTINGS) as deployment:
        deployment.create_topics()
        parent = deployment.start("--workers", str(len(SLOTS))).await_ready(SLOTS)
        started_s = time.monotonic()
        feeding = _feed(deployment, seed, events)
        _kill_now_and_then(deployment, parent, report, np.random.default_rng(seed), events)
        feeding.join()
        deployment.await_done(timeout_s=300)
        report.seconds = time.monotonic() - started_s
        code = parent.stop()
        if code != 0:
            report.problems.append(f"the parent ended with {code}")
        _check(deployment, report)
        if report.events != events:
            report.problems.append("not all of the stream was published")
    return report


def _feed(deployment: Deployment, seed: int, events: int) -> threading.Thread:
    """Publish the stream as fast as it goes, beside the workers."""

    def feed() -> None:
        deployment.publish_records(
            (
                kind,
                str(event["card_id" if kind == "transactions" else "terminal_id"]).encode(),
                event,
                (),
            )
            for kind, event in make_stream(seed, events)
        )

    thread = threading.Thread(target=feed, name="feed")
    thread.start()
    return thread


# ------------------------------------------------------------------ killing


def _kill_now_and_then(
    deployment: Deployment,
    parent: WorkerProcess,
    report: Report,
    rng: np.random.Generator,
    events: int,
) -> None:
    """Kill now and then, and until enough kills hit a batch between profiles and commit."""
    progress, telling = 0.0, 0
    while progress < 0.6 or len(report.kills) < KILLS_MIN or telling < TELLING_KILLS_MIN:
        if len(report.kills) == KILLS_MAX:
            return
        progress += rng.uniform(0.1, 0.35) * (0.9 - progress)
        _await_progress(deployment, int(progress * events))
        time.sleep(rng.uniform(0.0, 0.05))  # a random instant of a batch, not a wait
        slot = _slot_with_lag(deployment, parent, rng, events)
        if slot is None:
            return
        owned = _assignment(deployment)
        kill = _kill(deployment, parent, slot)
        report.kills.append(kill)
        telling += _is_telling(deployment, kill, owned[slot])


def _is_telling(deployment: Deployment, kill: Kill, owned: Sequence[Partition]) -> bool:
    """Say whether payments of the dead worker were in the profiles and not committed.

    The broker answers once it is certain what became of the transaction that was open.
    """
    committed, topic = deployment.committed(), deployment.topics["transactions"]
    return any(
        kill.watermarks.get(place, 0) > committed.get(place, 0)
        for place in owned
        if place[0] == topic
    )


def _await_progress(deployment: Deployment, transactions: int) -> None:
    topic = deployment.topics["transactions"]

    def is_there() -> bool:
        return sum(o for (t, _), o in deployment.committed().items() if t == topic) >= transactions

    wait_for(is_there, f"{transactions} decisions")


def _slot_with_lag(
    deployment: Deployment, parent: WorkerProcess, rng: np.random.Generator, events: int
) -> int | None:
    """Choose a live worker with something left to decide; None once everything is decided."""
    found: list[int] = []

    def is_found() -> bool:
        committed, ends = deployment.committed(), deployment.ends()
        lags = {p: end - committed.get(p, 0) for p, end in ends.items()}
        if not sum(lags.values()):
            # The workers may have caught up with the feed for a moment.
            topic = deployment.topics["transactions"]
            return sum(o for (t, _), o in committed.items() if t == topic) >= events
        owned = _assignment(deployment)
        alive = _live_pids(parent)
        found.extend(s for s in SLOTS if s in alive and any(lags[p] for p in owned.get(s, ())))
        return bool(found)

    wait_for(is_found, "a live worker with lag")
    return int(rng.choice(found)) if found else None


def _assignment(deployment: Deployment) -> dict[int, list[Partition]]:
    """Ask which slot has which partitions: members are static, so their names tell their slots."""
    futures = deployment.admin.describe_consumer_groups([deployment.name], request_timeout=15)
    members = futures[deployment.name].result(15).members
    return {
        int(member.group_instance_id.rpartition("-")[2]): [
            (p.topic, p.partition) for p in member.assignment.topic_partitions
        ]
        for member in members
    }


def _live_pids(parent: WorkerProcess) -> dict[int, int]:
    """Read from the parent's log which process is in which slot."""
    pids: dict[int, int] = {}
    for line in parent.log():
        if line["event"] == "worker_started":
            pids[line["slot"]] = line["pid"]
        elif line["event"] == "worker_ended":
            pids.pop(line["slot"], None)
    return pids


def _kill(deployment: Deployment, parent: WorkerProcess, slot: int) -> Kill:
    ended = len(parent.log("worker_ended"))
    os.kill(_live_pids(parent)[slot], signal.SIGKILL)
    wait_for(lambda: len(parent.log("worker_ended")) > ended, "the parent to notice")
    # The process is gone, and its successor is still being started.
    return Kill(slot, int(time.time() * 1000), deployment.watermarks())


# ------------------------------------------------------------------ checking


class Decided(NamedTuple):
    """What is looked at of a decision."""

    decision_id: str
    outcome: str
    flags: tuple[str, ...]
    score: float
    vector: NDArray[np.float32]


def _decided(row: Row, names: Sequence[str]) -> Decided:
    body = row.json()
    features = body["features"]
    vector = np.array([features[name] for name in names], dtype=np.float32)
    flags = tuple(body["flags"])
    return Decided(body["decision_id"], body["outcome"], flags, body["score"], vector)


def _check(deployment: Deployment, report: Report) -> None:
    payments = deployment.drain("transactions")
    decisions, alerts = deployment.drain("decisions"), deployment.drain("alerts")
    letters = deployment.drain("dead_letters")
    report.events, report.decisions, report.alerts = len(payments), len(decisions), len(alerts)
    if letters:
        report.problems.append(f"{len(letters)} dead letters")
    names = [feature.name for feature in load_bundle(BUNDLE).features]
    decided = {row.source: _decided(row, names) for row in decisions}
    report.problems += [
        *_check_counts(report, payments, decisions),
        *_check_order(decisions),
        *_check_whole([*decisions, *alerts, *letters]),
        *_check_alerts(decided, alerts),
        *_check_flags(decided),
        *_check_features(payments, decided, names),
        *_check_scores(decided),
        *_check_retries(report, decisions, decided, {row.source for row in alerts}),
    ]


def _check_counts(report: Report, payments: list[Row], decisions: list[Row]) -> Iterator[str]:
    decided = Counter(row.source for row in decisions)
    wanted = {row.place for row in payments}
    report.lost = len(wanted - decided.keys())
    report.doubled = sum(count - 1 for count in decided.values())
    if report.lost or report.doubled:
        yield f"{report.lost} lost, {report.doubled} doubled"
    if phantoms := decided.keys() - wanted:
        yield f"{len(phantoms)} decisions without input"


def _check_order(decisions: list[Row]) -> Iterator[str]:
    newest: dict[Partition, int] = {}
    for row in decisions:  # in the order of the log of each output partition
        topic, partition, offset = row.source
        if offset <= newest.get((topic, partition), -1):
            yield f"decision of {partition}@{offset} comes after a later one"
        newest[topic, partition] = offset


def _check_whole(rows: list[Row]) -> Iterator[str]:
    """Compare how many records of each attempt are there with how many it says it has."""
    visible = Counter(row.headers["fs_attempt"] for row in rows)
    said = {row.headers["fs_attempt"]: int(row.headers["fs_attempt_records"]) for row in rows}
    if torn := [attempt for attempt, count in visible.items() if count != said[attempt]]:
        yield f"{len(torn)} attempts are torn, e.g. {torn[0]}"


def _check_alerts(decided: Mapping[Position, Decided], alerts: list[Row]) -> Iterator[str]:
    called_for = {source for source, d in decided.items() if d.outcome != "APPROVE"}
    raised = Counter(row.source for row in alerts)
    if missing := called_for - raised.keys():
        yield f"{len(missing)} alerts lost"
    if extra := raised.keys() - called_for:
        yield f"{len(extra)} alerts without a decision that calls for one"
    if doubled := [source for source, count in raised.items() if count > 1]:
        yield f"{len(doubled)} alerts doubled"
    for row in alerts:
        if row.source in decided and row.json()["decision_id"] != decided[row.source].decision_id:
            yield f"the alert at {row.place} is of another decision"


def _check_flags(decided: Mapping[Position, Decided]) -> Iterator[str]:
    flags = Counter(flag for decision in decided.values() for flag in decision.flags)
    if flags:
        yield f"flagged: {dict(flags)}"


def _check_features(
    payments: list[Row], decided: Mapping[Position, Decided], names: Sequence[str]
) -> Iterator[str]:
    for place, expected in card_features(payments).items():
        if place not in decided:
            continue
        found = dict(zip(names, decided[place].vector, strict=True))
        for name, value in expected.items():
            if found[name] != value:
                yield f"{place[1]}@{place[2]}: {name} is {found[name]}, not {value}"


def _check_scores(decided: Mapping[Position, Decided]) -> Iterator[str]:
    if not decided:
        return
    vectors = np.stack([decision.vector for decision in decided.values()])
    logged = np.array([decision.score for decision in decided.values()], dtype=np.float32)
    different = int((load_bundle(BUNDLE).model.score(vectors) != logged).sum())
    if different:
        yield f"{different} scores are not those of the logged vectors"


def _check_retries(
    report: Report,
    decisions: Sequence[Row],
    decided: Mapping[Position, Decided],
    alerted: set[Position],
) -> Iterator[str]:
    """Find the events that an attempt which died had recorded, and look for their alerts."""
    retried = {row.source for row in decisions if _is_retried(row, report.kills)}
    called_for = {source for source in retried if decided[source].outcome != "APPROVE"}
    report.retried, report.retried_alerts = len(retried), len(called_for & alerted)
    if called_for - alerted:
        yield f"{len(called_for - alerted)} alerts of retried events lost"
    if len(report.kills) < KILLS_MIN:
        yield f"only {len(report.kills)} kills while there was lag"
    if not report.retried_alerts:
        yield "no kill hit a batch with an alert: nothing was shown"


def _is_retried(decision: Row, kills: Sequence[Kill]) -> bool:
    """Say whether it was written after a kill, of an event that was recorded before it."""
    topic, partition, offset = decision.source
    slot = int(decision.headers["fs_attempt"].split("/")[0].split("-")[-2])
    return any(
        slot == kill.slot
        and decision.timestamp_ms > kill.dead_at_ms
        and offset < kill.watermarks.get((topic, partition), 0)
        for kill in kills
    )


# ------------------------------------------------------------------ the program

_COLUMNS = (
    "seed", "kills", "events", "decisions", "alerts", "lost", "doubled", "retried",
    "retried alerts", "seconds", "result",
)  # fmt: skip


def _line(report: Report) -> str:
    values = (
        report.seed, len(report.kills), report.events, report.decisions, report.alerts,
        report.lost, report.doubled, report.retried, report.retried_alerts,
        f"{report.seconds:.1f}", "; ".join(report.problems[:3]) or "ok",
    )  # fmt: skip
    return _row_of(values)


def _row_of(values: Sequence[object]) -> str:
    widths = [len(name) + 2 for name in _COLUMNS[:-1]]
    cells = [f"{value!s:>{width}}" for value, width in zip(values, widths, strict=False)]
    return " ".join([*cells, f" {values[-1]}"])


def main() -> int:
    """Run the seeds one after the other; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the workers end with us
    sys.stdout.write(_row_of(_COLUMNS) + "\n")
    is_good = True
    with running_services() as services:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            with tempfile.TemporaryDirectory(prefix="fraudstream-kill-") as folder:
                report = run(services, Path(folder), seed, options.events)
            sys.stdout.write(_line(report) + "\n")
            sys.stdout.flush()
            is_good = is_good and not report.problems
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
