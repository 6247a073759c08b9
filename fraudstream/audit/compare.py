"""Online and recomputed features side by side: one verdict for each.

nothing to compare with ─────────────────────────────▶ missing
the same float32, or both not known ─────────────────▶ match
what came at the same moment may be the reason ──────▶ uncertain
else ────────────────────────────────────────────────▶ mismatch
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.audit.order import Before, LogOrder, sort_out
from fraudstream.audit.past import Past, Question, entity_of
from fraudstream.audit.recompute import Recomputer
from fraudstream.decision import Flag, identity
from fraudstream.event import Label, Transaction
from fraudstream.features import Feature
from fraudstream.profile import ProfileDefinition, Series

#: Decisions whose windows were not known when they were made.
_UNKNOWING: Final = frozenset({Flag.DEGRADED, Flag.INCOMPLETE, Flag.TOO_LATE})
#: More records never make these smaller, so what lies outside their bounds has another reason.
_GROWING: Final = frozenset({"count", "sum"})


class Verdict(StrEnum):
    """What became of one feature of one decision."""

    #: The same float32, or not known in both.
    MATCH = "match"
    #: Another number than the log gives: online and offline differ.
    MISMATCH = "mismatch"
    #: Nothing to compare: decided without whole profiles, or the log no longer reaches back.
    MISSING = "missing"
    #: Different, but by records of which the log cannot tell whether they came before or after.
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One feature of one decision."""

    decision_id: str
    feature: str
    online: float
    recomputed: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class LogReach:
    """From which time on the log is whole, epoch milliseconds, by kind of event.

    Nothing that is not in it any more has an event time from there on. What is not named is whole
    from its beginning.
    """

    from_ms: Mapping[str, int]

    def covers(self, feature: Feature, series: Mapping[str, Series], time_ms: int) -> bool:
        """Say whether all that a feature looks at is still there."""
        assert feature.window is not None
        after_ms = time_ms - feature.window.reach_ms
        return all(
            after_ms >= self.from_ms.get(series[name].kind, after_ms) for name in feature.series
        )


class Comparer:
    """Recomputes and compares decisions.

    Parameters
    ----------
    features
        The columns of the model.
    definition
        The series that they are made of.
    recomputer
        Makes the numbers.
    order
        What the log tells of before and after.
    reach
        How far back the log goes.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        definition: ProfileDefinition,
        recomputer: Recomputer,
        order: LogOrder,
        reach: LogReach,
    ) -> None:
        self._features = tuple(features)
        self._series = {series.name: series for series in definition.series}
        self._recomputer = recomputer
        self._order = order
        self._reach = reach

    def compare(
        self, question: Question, payments: Past[Transaction], labels: Past[Label]
    ) -> list[Comparison]:
        """Compare one decision with what the log gives."""
        decision, own = question
        if decision.decision_id != f"d-{identity(own.event)}":
            return nothing_to_compare(decision.decision_id, self._features)
        arrivals = sorted(payments.of(own.event), key=self._order.place)
        before = sort_out(question, arrivals, self._order.of_payment)
        known = sort_out(question, labels.of(own.event), self._order.of_label)
        views = self._views(own.event, before, known)
        found = []
        for column, feature in enumerate(self._features):
            given = decision.features.get(feature.name)
            online = np.float32(np.nan if given is None else given)
            values = views[:, column]
            if self._is_missing(feature, question):
                verdict = Verdict.MISSING
            elif _are_same(online, values[0]):
                verdict = Verdict.MATCH
            elif self._may_explain(feature, own.event, (*before.doubtful, *known.doubtful)):
                verdict = _explained(feature, online, values)
            else:
                verdict = Verdict.MISMATCH
            found.append(
                Comparison(
                    decision.decision_id, feature.name, float(online), float(values[0]), verdict
                )
            )
        return found

    def _views(
        self, own: Transaction, before: Before[Transaction], known: Before[Label]
    ) -> NDArray[np.float32]:
        """Compute the features: as they probably were, with the least, and with the most.

        Returns
        -------
        views
            Shape (3, features); shape (1, features) where there is no doubt.
        """
        payments, labels = before.certain, known.certain
        ways = [((*payments, *before.likely), (*labels, *known.likely))]
        if before.doubtful or known.doubtful:
            ways += [
                (payments, labels),
                ((*payments, *before.doubtful), (*labels, *known.doubtful)),
            ]
        return np.stack([self._recomputer.vector(own, *way) for way in ways])

    def _is_missing(self, feature: Feature, question: Question) -> bool:
        if feature.is_stateless:
            return False
        if question.decision.flags & _UNKNOWING:
            return True
        return not self._reach.covers(feature, self._series, question.own.event.event_time_ms)

    def _may_explain(
        self, feature: Feature, own: Transaction, doubtful: Iterable[Transaction | Label]
    ) -> bool:
        """Say whether a feature would look at any of these, had they been there."""
        if feature.window is None:
            return False
        until_ms = own.event_time_ms - feature.window.lag_ms
        after_ms = until_ms - feature.window.length_ms
        read = [self._series[name] for name in feature.series]
        return any(
            after_ms < event.event_time_ms <= until_ms
            and (series.kind == "transactions") == isinstance(event, Transaction)
            and entity_of(event, series.entity) == entity_of(own, series.entity)
            for event in doubtful
            for series in read
        )


def nothing_to_compare(decision_id: str, features: Iterable[Feature]) -> list[Comparison]:
    """Say of every feature of a decision that there is nothing to compare it with."""
    nothing = float("nan")
    return [Comparison(decision_id, f.name, nothing, nothing, Verdict.MISSING) for f in features]


def _are_same(online: np.float32, recomputed: np.float32) -> bool:
    return bool(online == recomputed or (np.isnan(online) and np.isnan(recomputed)))


def _explained(feature: Feature, online: np.float32, views: NDArray[np.float32]) -> Verdict:
    """Believe that doubtful records are the reason, unless no number of them could be."""
    if feature.aggregate in _GROWING and not views[1] <= online <= views[2]:
        return Verdict.MISMATCH
    return Verdict.UNCERTAIN
