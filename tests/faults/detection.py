"""The detection matrix: what the checker finds in histories and workers that are wrong on purpose.

Every row is a history that was damaged, or a worker that is broken; every column a check. A row
counts when the check that it belongs to finds something. What is as it should be has rows, too:
there nothing may be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from checker import check
from damaged import DAMAGES
from exposures import DEFECTS, EXPOSURES, expose
from good_run import good_history
from history import History
from matrix_state import Entry, anomaly_counts
from stage import FaultStack

Tell = Callable[[str], None]


@dataclass(frozen=True)
class DetectionRow:
    """One thing that the checker was shown.

    Attributes
    ----------
    group, name
        What it is.
    expected
        The checks that must find something; none if there is nothing to find.
    counts
        How much each check found.
    failures
        What else was noticed, in sentences.
    """

    group: str
    name: str
    expected: list[str]
    counts: dict[str, int]
    failures: list[str]

    @property
    def is_right(self) -> bool:
        """Whether what had to be found was, and nothing where there is nothing."""
        found = {name for name, count in self.counts.items() if count}
        return set(self.expected) <= found if self.expected else not found and not self.failures


def damaged_rows(tell: Tell) -> list[DetectionRow]:
    """Check every damaged history, and the one that they were made of."""
    good = good_history()
    rows = [_history_row("sound history", "as it was", [], good)]
    for name, damage in DAMAGES.items():
        tell(name)
        rows.append(_history_row("damaged history", name, [damage.check], damage.change(good)))
    return rows


def _history_row(group: str, name: str, expected: list[str], history: History) -> DetectionRow:
    counts = anomaly_counts(check(history).anomalies)
    return DetectionRow(group, name, expected, counts, [])


def broken_rows(faults: FaultStack, folder: Path, seed: int, tell: Tell) -> list[DetectionRow]:
    """Run every broken worker through its fault, and one that is whole through each of them."""
    rows = []
    for number, (name, exposure) in enumerate(EXPOSURES.items()):
        tell(f"{name}, whole")
        outcome = expose(faults, _new(folder, f"whole-{number}"), exposure, None, seed)
        counts = anomaly_counts(outcome.verdict.anomalies)
        rows.append(DetectionRow("whole worker", name, [], counts, outcome.failures))
    for defect, expectation in DEFECTS.items():
        tell(defect)
        exposure = EXPOSURES[expectation.exposure]
        outcome = expose(faults, _new(folder, defect), exposure, defect, seed)
        counts = anomaly_counts(outcome.verdict.anomalies)
        name = f"{defect} ({expectation.exposure})"
        expected = sorted(expectation.checks)
        rows.append(DetectionRow("broken worker", name, expected, counts, outcome.failures))
    return rows


def _new(folder: Path, name: str) -> Path:
    own = folder / name
    own.mkdir(parents=True)
    return own


def detection_entry(faults: FaultStack, folder: Path, seed: int, tell: Tell) -> Entry:
    """Make the whole matrix, for the state file."""
    rows = broken_rows(faults, folder, seed, tell) + damaged_rows(tell)
    return {"seed": seed, "rows": [asdict(row) | {"is_right": row.is_right} for row in rows]}
