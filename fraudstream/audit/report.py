"""What an audit found: counts by feature and verdict, and some differences to begin with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fraudstream.audit.compare import Comparison, Verdict

_EXAMPLES_MAX: Final = 12
_EXAMPLES_PER_FEATURE_MAX: Final = 3


@dataclass(slots=True)
class Report:
    """Counts of verdicts.

    Attributes
    ----------
    seen
        How many decisions there were.
    decisions
        How many were recomputed.
    left_out
        Why drawn ones were not, or records that passed were no decisions of ours.
    by_feature
        Verdicts of each feature.
    examples
        The first differences.
    """

    seen: int = 0
    decisions: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    by_feature: dict[str, Counter[Verdict]] = field(default_factory=dict)
    examples: list[Comparison] = field(default_factory=list)

    @classmethod
    def of(cls, names: Sequence[str]) -> Report:
        """Begin with nothing of some features."""
        return cls(by_feature={name: Counter() for name in names})

    def add(self, comparisons: Iterable[Comparison]) -> None:
        """Add one decision."""
        self.decisions += 1
        for found in comparisons:
            self.by_feature[found.feature][found.verdict] += 1
            if found.verdict is Verdict.MISMATCH and self._is_new(found.feature):
                self.examples.append(found)

    def _is_new(self, feature: str) -> bool:
        known = sum(example.feature == feature for example in self.examples)
        return known < _EXAMPLES_PER_FEATURE_MAX and len(self.examples) < _EXAMPLES_MAX

    @property
    def mismatches(self) -> int:
        """How many features are not what the log gives."""
        return self.total(Verdict.MISMATCH)

    def total(self, verdict: Verdict) -> int:
        """Count a verdict over all features."""
        return sum(counts[verdict] for counts in self.by_feature.values())

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "decisions_seen": self.seen,
            "decisions": self.decisions,
            "left_out": dict(self.left_out),
            "totals": {verdict.value: self.total(verdict) for verdict in Verdict},
            "features": {
                name: {verdict.value: counts[verdict] for verdict in Verdict}
                for name, counts in self.by_feature.items()
            },
            "examples": [
                {
                    "decision_id": found.decision_id,
                    "feature": found.feature,
                    "online": _number(found.online),
                    "recomputed": _number(found.recomputed),
                }
                for found in self.examples
            ],
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
