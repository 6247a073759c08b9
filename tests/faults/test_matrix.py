"""The matrix goes on where it stopped, calls a miss a miss, and its report says what is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checker import CHECKS
from matrix import Wanted, choose, is_good_detection, read_explained, read_options, run_one
from matrix_report import Explained, report
from matrix_state import Entry, State, anomaly_counts, is_miss, raised, scrub
from registry import Fault

NAMES = {1: "killed", 2: "frozen", 3: "asleep"}


def _no_run(*_: object) -> None:
    raise AssertionError


FAULTS = {n: Fault(n, name, _no_run, 60.0) for n, name in NAMES.items()}  # type: ignore[arg-type]


def _entry(number: int, **changes: object) -> Entry:
    figures = {
        "events": 1_000, "transactions": 50, "committed": 46, "aborted": 3, "unknown": 1,
        "faults": 20, "degraded": 7, "longest_stall_ms": 2_500, "latency_ms_p99": 12.0,
        "fault_latency_ms_p99": None,
    }  # fmt: skip
    entry: Entry = raised("") | {
        "figures": figures,
        "counts": {"lost": 0, "doubled": 0},
        "failures": [],
        "recovery_s_max": 3.25,
        "recovery_s_median": 1.5,
        "extra": {"producers_remade": 4.0},
        "seconds": 61.0,
        "scale": "full",
        "seed": 5,
        "name": NAMES[number],
        "also": "Nobody exits.",
        "commit": "0123456789",
        "machine": "2 cores",
        "versions": {"Kafka": "4.2.2"},
    }
    return entry | changes


def _state(tmp_path: Path, **runs: Entry) -> State:
    state = State(tmp_path / "faults.json")
    state.runs = {int(name.removeprefix("run")): run for name, run in runs.items()}
    return state


def _cells(text: str, number: int) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {number} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# ------------------------------------------------------------------ the report


def test_a_good_run_gives_totals_and_a_bound(tmp_path: Path) -> None:
    state = _state(tmp_path, run1=_entry(1), run2=_entry(2))
    text = report(state, NAMES, Explained(), "make faults")
    assert "**0 lost, 0 doubled** over 2,000 events, 100 transactions" in text
    assert "0 in 40 faults bounds the chance per fault below 7.50%" in text
    assert _cells(text, 1) == [
        "1", "killed", "20", "1,000", "50", "3, 1", "0", "3.2 (1.5)", "2.5", "–", "12", "7", "ok",
    ]  # fmt: skip
    assert "* 1: Nobody exits. (producers remade 4; seed 5, 61 s)" in text
    assert "\n## Misses\n\nNone.\n" in text
    assert "* 3, asleep" in text
    assert "Kafka 4.2.2" in text


def test_an_anomaly_is_a_miss_and_ends_the_bound(tmp_path: Path) -> None:
    examples = {"C1": ["lost: a/0@1", "lost: a/0@2"]}
    lossy = _entry(2, anomalies=anomaly_counts({"C1": ["x"] * 12}), examples=examples)
    lossy["counts"] = {"lost": 12, "doubled": 0}
    text = report(_state(tmp_path, run1=_entry(1), run2=lossy), NAMES, Explained(), "x")
    assert "**12 lost, 0 doubled**" in text
    assert "bounds" not in text
    assert _cells(text, 2)[6] == "C1: 12"
    assert _cells(text, 2)[-1] == "**miss**"
    assert "* 2, frozen: not explained yet.\n  * `C1 lost: a/0@1`" in text
    assert "`C1, 10 more`" in text


def test_a_fault_that_raised_is_a_miss_with_its_sentence(tmp_path: Path) -> None:
    broken = _entry(3) | raised("AssertionError: waited 90 s")
    state = _state(tmp_path, run3=broken)
    text = report(state, NAMES, Explained({3: "A bug of the test."}), "x")
    assert _cells(text, 3)[2:] == ["–"] * 10 + ["**miss**"]
    assert "* 3, asleep: A bug of the test.\n  * `AssertionError: waited 90 s`" in text


def test_short_runs_and_reasons_not_to_run_are_named(tmp_path: Path) -> None:
    state = _state(tmp_path, run1=_entry(1, scale="short"))
    text = report(state, NAMES, Explained({}, {2: "No clock to turn.", 1: "One broker."}), "x")
    assert "* 2, frozen: No clock to turn." in text
    assert "* Of 1: One broker." in text
    assert "* Only at the short scale of `make test`: 1" in text
    assert "killed (short)" in text


def test_the_detection_matrix_shows_what_was_not_noticed(tmp_path: Path) -> None:
    state = _state(tmp_path, run1=_entry(1))
    counts = anomaly_counts({"C1": ["x"] * 3})
    noticed = {"group": "broken worker", "name": "a", "expected": ["C1"], "counts": counts}
    missed = {"group": "damaged history", "name": "b", "expected": ["C2"], "counts": counts}
    state.detection = {
        "rows": [noticed | {"is_right": True}, missed | {"is_right": False}], "seed": 1
    }  # fmt: skip
    text = report(state, NAMES, Explained(), "x")
    assert f"| broken worker | a | **3** |{'  |' * (len(CHECKS) - 1)}\n" in text
    assert "| damaged history | b | 3 | **0** |" in text
    assert "Not as it must be: b." in text
    assert not is_good_detection(state.detection)
    assert not is_good_detection(raised("it raised"))


def test_every_table_is_one(tmp_path: Path) -> None:
    """A row with too few cells is shown as something else."""
    state = _state(tmp_path, run1=_entry(1, name="a | b"), run2=_entry(2) | raised("x"))
    text = report(state, NAMES, Explained(), "x")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


# ------------------------------------------------------------------ state and choice


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = _state(tmp_path, run1=_entry(1), run2=_entry(2))
    state.detection = {"rows": [], "seed": 3}
    state.save()
    again = State(tmp_path / "faults.json")
    assert again.runs == state.runs
    assert again.detection == state.detection


def _chosen(state: State, *words: str) -> list[str]:
    return [wanted.what for wanted in choose(read_options(words), FAULTS, state)]


def test_what_is_known_is_not_run_again_unless_asked(tmp_path: Path) -> None:
    missed = _entry(2) | raised("x")
    state = _state(tmp_path, run1=_entry(1), run2=missed)
    state.detection = {"rows": []}
    assert _chosen(state) == ["3"]
    assert _chosen(state, "--again", "1") == ["1", "3"]
    assert _chosen(state, "--again", "missed,detection") == ["2", "3", "detection"]
    assert _chosen(state, "--faults", "1-2", "--scale", "short") == ["1", "2"]
    state.detection = {}
    assert _chosen(state) == ["3", "detection"]
    assert _chosen(state, "--no-detection") == ["3"]
    assert _chosen(state, "--only-detection") == ["detection"]
    with pytest.raises(SystemExit, match="no fault 9"):
        _chosen(state, "--faults", "9")


def test_a_process_that_dies_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dies.py"
    program.write_text("import sys; sys.exit('no such luck')")
    monkeypatch.setattr("matrix._ONE", program)
    options = read_options(["--state", str(tmp_path / "faults.json")])
    entry = run_one(Wanted("1", "killed", 30.0), options)
    assert is_miss(entry)
    assert entry["failures"] == ["its process ended with 1: no such luck"]


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "hangs.py"
    program.write_text("import time; time.sleep(600)")
    monkeypatch.setattr("matrix._ONE", program)
    options = read_options(["--state", str(tmp_path / "faults.json")])
    entry = run_one(Wanted("1", "killed", 0.5), options)
    assert entry["failures"] == ["it took longer than 0 s"]
    assert entry["seconds"] < 30


def test_sentences_lose_this_machines_paths(tmp_path: Path) -> None:
    text = f"no file {tmp_path}/a.log\nand more"
    assert scrub(text, tmp_path) == "no file …/a.log"
    assert len(scrub("x" * 9_000, tmp_path)) < 1_000


def test_explanations_are_about_faults_by_number(tmp_path: Path) -> None:
    path = tmp_path / "explained.toml"
    assert read_explained(path) == Explained()
    path.write_text('[misses]\n5 = "Why."\n[not_run]\n24 = "No clock."\n')
    assert read_explained(path) == Explained({5: "Why."}, {24: "No clock."})
    read_explained()  # the committed one, if there is one
