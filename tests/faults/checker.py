"""The checker: what a run left behind against what was promised.

    History ──RunView──▶ C1 … C11 ──▶ Verdict: anomalies by check, and figures (C12, C13)

A check gives one sentence for each thing that must not be. None of them trusts the workers: inputs
and outputs are read from the topics, profiles from Valkey, features come from an oracle of our own.
That each check can fail is shown by `damaged` and ``test_checker.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from checks_features import check_features, check_scores
from checks_records import (
    check_aborted_reads,
    check_alerts,
    check_counts,
    check_order,
    check_phantoms,
    check_whole,
)
from checks_state import check_degraded, check_hanging, check_profiles
from figures import Figures, figures_of
from history import History
from run_view import RunView

__all__ = ["CHECKS", "KINDS", "Figures", "Verdict", "check"]

Check: TypeAlias = Callable[[RunView], Iterator[str]]
#: C12 and C13 are the figures.
CHECKS: Mapping[str, Check] = {
    "C1": check_counts,
    "C2": check_phantoms,
    "C3": check_aborted_reads,
    "C4": check_whole,
    "C5": check_order,
    "C6": check_alerts,
    "C7": check_features,
    "C8": check_scores,
    "C9": check_profiles,
    "C10": check_hanging,
    "C11": check_degraded,
}
#: The kinds of anomaly, as their sentences begin, and how the result calls them.
KINDS = {
    "lost": "lost",
    "doubled": "doubled",
    "phantom": "phantom",
    "payload": "altered",
    "aborted read": "aborted reads",
    "torn": "torn",
    "reordered": "reordered",
    "alert lost": "alerts lost",
    "alert doubled": "alerts doubled",
    "feature": "feature mismatches",
    "flag": "wrong flags",
    "score": "score mismatches",
    "outcome": "wrong outcomes",
    "state": "state differences",
    "hanging": "hanging",
    "outside": "degraded outside faults",
}


@dataclass(frozen=True)
class Verdict:
    """What the checks found.

    Attributes
    ----------
    anomalies
        By check, a sentence for each thing that must not be.
    figures
        How much was checked.
    """

    anomalies: Mapping[str, list[str]]
    figures: Figures

    @property
    def problems(self) -> list[str]:
        """Every sentence, with its check."""
        return [f"{name} {text}" for name, found in self.anomalies.items() for text in found]

    @property
    def failed(self) -> set[str]:
        """The checks that found something."""
        return {name for name, found in self.anomalies.items() if found}

    def counts(self) -> dict[str, int]:
        """Count the anomalies by kind, those that there are none of too."""
        found = Counter(
            text.partition(":")[0] for texts in self.anomalies.values() for text in texts
        )
        return {words: found[kind] for kind, words in KINDS.items()}

    def sentence(self) -> str:
        """Sum it up."""
        counts = ", ".join(f"{count} {words}" for words, count in self.counts().items())
        figures = self.figures
        return (
            f"{counts} over {figures.events} events, {figures.transactions} transactions, "
            f"{figures.faults} faults"
        )


def check(history: History) -> Verdict:
    """Check a history in every respect."""
    view = RunView(history)
    anomalies = {name: list(find(view)) for name, find in CHECKS.items()}
    return Verdict(anomalies, figures_of(view))
