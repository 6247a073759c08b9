"""The checker can fail: a good history passes it, and each damage is named by the right check."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest
from card_fold import CardFold
from checker import CHECKS, KINDS, Verdict, check
from checks_features import FeatureOracle
from damaged import DAMAGES
from good_run import good_history
from harness import card_features
from history import Attempt, FaultWindow, read_journals
from run_view import RunView

SEEDS = range(1, 7)


@cache
def verdict_of(name: str) -> Verdict:
    """Check a damaged history."""
    return check(DAMAGES[name].change(good_history()))


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_wrong_with_a_good_history(seed: int) -> None:
    verdict = check(good_history(seed))
    assert verdict.problems == []
    assert verdict.failed == set()
    assert set(verdict.anomalies) == set(CHECKS)


def test_a_good_history_holds_all_that_can_go_wrong() -> None:
    figures = check(good_history()).figures
    assert figures.events > 440
    assert figures.labels > 100
    assert figures.decisions + figures.dead_letters > figures.events  # labels are dead-lettered too
    for count in (
        figures.alerts, figures.dead_letters, figures.degraded, figures.duplicates, figures.late,
        figures.too_late, figures.incomplete, figures.committed, figures.aborted, figures.unknown,
        figures.unfinished, figures.aborted_records, figures.faults, figures.longest_stall_ms,
    ):  # fmt: skip
        assert count > 0
    assert figures.unchecked == 0
    assert figures.latency_ms_p50 < figures.latency_ms_p99


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_named_by_the_right_check_and_by_no_other(name: str) -> None:
    damage, verdict = DAMAGES[name], verdict_of(name)
    assert verdict.failed == {damage.check, *damage.also}, verdict.problems[:5]


def test_every_check_and_every_kind_of_anomaly_has_a_damage() -> None:
    assert {damage.check for damage in DAMAGES.values()} == set(CHECKS)
    counts = [verdict_of(name).counts() for name in DAMAGES]
    assert all(any(count[kind] for count in counts) for kind in KINDS.values())
    assert all(sum(verdict_of(name).counts().values()) for name in DAMAGES)
    assert check(good_history()).problems == []  # what was damaged were copies


def test_the_result_is_one_sentence() -> None:
    history = good_history()
    assert check(history).sentence().startswith("0 lost, 0 doubled, 0 phantom, ")
    damaged = verdict_of("drop decision")
    assert damaged.sentence().startswith("1 lost, 0 doubled, ")
    figures = damaged.figures
    assert damaged.sentence().endswith(
        f" over {figures.events} events, {figures.transactions} transactions, 1 faults"
    )
    assert damaged.problems[0].startswith("C1 lost: in.transactions/")


# ------------------------------------------------------------------ the oracles


def test_the_card_oracle_agrees_with_a_count_one_by_one() -> None:
    """Of payments that came once, in order and in the profiles' currency."""
    view = RunView(good_history())
    features = [f for f in view.history.bundle.features if f.series == ("card_tx",)]
    payments = {
        (event.transaction_id, event.event_time_ms): (place, event)
        for place, event in view.transactions
        if event.amount_base_minor is not None
    }
    ordered = sorted(payments.values(), key=lambda found: found[1].event_time_ms)
    expected = card_features([view.rows[place] for place, _ in ordered])
    folds: dict[str, CardFold] = {}
    for number, (place, event) in enumerate(ordered):
        fold = folds.setdefault(event.card_id, CardFold(features, 10**15))
        values = fold.meet(number, event).values
        found = dict(zip((f.name for f in features), values, strict=True))
        for name in expected[place].keys() & found.keys():
            assert np.float32(found[name]) == expected[place][name], (place, name)
    assert len(ordered) > 350


def test_terminals_are_checked_exactly_where_nothing_failed() -> None:
    """With one worker; with two nobody can say what had come before what."""
    history = good_history()
    oracle = FeatureOracle(RunView(history))
    assert len(oracle.own) + len(oracle.card) + len(oracle.terminal) == len(oracle.features)
    assert oracle.are_terminals_known
    nudged = DAMAGES["nudge terminal rate"].change(history)
    assert check(nudged).failed == {"C7"}
    assert check(replace(nudged, workers=2)).failed == set()


# ------------------------------------------------------------------ without a journal, with one


def test_a_history_without_a_journal_is_checked_too() -> None:
    history = replace(good_history(), attempts=[])
    verdict = check(history)
    assert verdict.problems == []
    assert verdict.figures.committed > 0
    assert verdict.figures.aborted > 0
    assert check(DAMAGES["tear attempt"].change(history)).failed == {"C1", "C4"}


def test_an_event_that_is_decided_again_on_purpose_is_not_doubled() -> None:
    history = good_history()
    doubled = DAMAGES["double decision"].change(history)
    assert check(doubled).failed == {"C1"}
    rewound = {place: [(0, offset)] for place, offset in history.committed.items()}
    assert check(replace(doubled, rewound=rewound)).failed == set()


def test_a_journal_may_stop_anywhere(tmp_path: Path) -> None:
    ends = [["in", 0, 7]]
    lines = [
        {"event": "begun", "attempt": "g-0-0/a/1", "slot": 0, "at_ms": 10},
        {"event": "begun", "attempt": "g-0-0/a/1", "slot": 0, "at_ms": 11, "records": 3},
        {"event": "begun", "attempt": "g-0-0/a/1", "slot": 0, "at_ms": 12, "ends": ends},
        {"event": "committed", "attempt": "g-0-0/a/1", "slot": 0, "at_ms": 13},
        {"event": "begun", "attempt": "g-0-0/a/2", "slot": 0, "at_ms": 20, "records": 1},
        {"event": "unknown", "attempt": "g-0-0/a/2", "slot": 0, "at_ms": 22},
        {"event": "resolved", "attempt": "g-0-0/a/2", "slot": 0, "at_ms": 23}
        | {"was_committed": True},
        {"event": "aborted", "attempt": "g-1-0/b/1", "slot": 1, "at_ms": 15},
    ]
    journals = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    text = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    journals[0].write_bytes(text + b'{"event": "begun", "attempt": "g-0-0/a/3", "sl')
    journals[1].write_bytes(b"")
    journals[2].write_bytes(
        orjson.dumps({"event": "begun", "attempt": "g-2-0/c/1", "slot": 2, "at_ms": 30}) + b"\n"
    )
    assert read_journals(journals) == [
        Attempt("g-0-0/a/1", 0, "committed", 3, {("in", 0): 7}, 10, 13),
        Attempt("g-1-0/b/1", 1, "aborted", 0, {}, 15, 15),
        Attempt("g-0-0/a/2", 0, "unknown", 1, {}, 20, 22, was_committed=True),
        Attempt("g-2-0/c/1", 2, "begun", 0, {}, 30, None),
    ]
    assert [attempt.is_committed for attempt in read_journals(journals)] == [
        True, False, True, None,
    ]  # fmt: skip


# ------------------------------------------------------------------ figures


def test_latencies_are_told_apart_by_fault_windows() -> None:
    history = good_history()
    first_ms = min(row.timestamp_ms for row in history.inputs)
    always = [FaultWindow("always", first_ms, first_ms + 10**9)]
    figures = check(replace(history, faults=always)).figures
    assert np.isnan(figures.latency_ms_p50)
    assert figures.fault_latency_ms_p50 > 0
