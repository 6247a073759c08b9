"""C7 and C8: each decision's vector is what the log says, and its score what the vector says.

C7 allows for three things, and for no more. A decision without profiles has no features that need
them. A window that begins before what is kept may be unknown, if the decision is flagged. Of what
came late, an attempt that failed may have recorded more than had been decided (`card_fold`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from card_fold import CARD_AGGREGATES, CardFold, Expected, own_value
from checks_records import at
from harness import Partition, Position
from numpy.typing import NDArray
from run_view import Answer, RunView
from terminal_fold import TERMINAL_AGGREGATES, Newest, TerminalFold

from fraudstream.event import Transaction
from fraudstream.features import Feature

_UNKNOWN_FLAGS = frozenset({"too_late", "incomplete"})
_SCORED_AT_ONCE = 50_000


class Mismatch(NamedTuple):
    """A decision that does not say what was expected at first sight."""

    answer: Answer
    event: Transaction
    expected: Expected


class FeatureOracle:
    """The features of a bundle, and who can say what they must be.

    Parameters
    ----------
    view
        Of the history that is checked.
    """

    def __init__(self, view: RunView) -> None:
        self.view = view
        features = view.history.bundle.features
        self.own = [n for n, f in enumerate(features) if f.is_stateless and not f.field]
        self.windowed = [n for n, f in enumerate(features) if not f.is_stateless]
        self.card = [n for n in self.windowed if _is_of(features[n], "card_tx", CARD_AGGREGATES)]
        self.terminal = [
            n for n in self.windowed if _is_of(features[n], "terminal_tx", TERMINAL_AGGREGATES)
        ]
        self.features = features
        self.horizons_ms = {s.name: s.horizon_ms for s in view.history.definition.series}

    def named(self, columns: Sequence[int]) -> list[Feature]:
        """Give the features of some columns."""
        return [self.features[column] for column in columns]

    @property
    def are_terminals_known(self) -> bool:
        """Whether there is an oracle of the terminals: one worker did all, and all is there."""
        return self.view.history.workers == 1 and not self.view.history.log_starts

    @cached_property
    def decided(self) -> list[tuple[Position, Transaction, Answer]]:
        """The decided transactions, partition by partition, in order of offset."""
        found = self.view.decided
        return [(p, e, found[p]) for p, e in self.view.transactions if p in found]

    @cached_property
    def scattered_cards(self) -> set[str]:
        """Cards whose payments lie in more than one partition: nothing says in which order."""
        first: dict[str, Partition] = {}
        return {
            event.card_id
            for place, event in self.view.transactions
            if first.setdefault(event.card_id, place[:2]) != place[:2]
        }

    @cached_property
    def _newest(self) -> Newest:
        return Newest(self.view)

    def terminal_floor_ms(self, event: Transaction, answer: Answer) -> float:
        """Give the time before which a terminal's records may have been gone at a decision."""
        seen_ms = self.view.history.seen_at_ms.get(answer.source, answer.timestamp_ms)
        newest_ms = self._newest.of(event.terminal_id, max(seen_ms, answer.timestamp_ms))
        return newest_ms - self.horizons_ms["terminal_tx"]


def _is_of(feature: Feature, series: str, aggregates: frozenset[str]) -> bool:
    window = feature.window
    if window is None or feature.aggregate not in aggregates or feature.series[0] != series:
        return False
    return series == "terminal_tx" or (window.lag_ms == 0 and window.counts_present)


def check_features(view: RunView) -> Iterator[str]:
    """C7: features are bit-equal to an oracle's, and flags say what is missing."""
    oracle = FeatureOracle(view)
    yield from _check_own(oracle)
    yield from _check_cards(oracle)
    if oracle.are_terminals_known:
        yield from _check_terminals(oracle)
    yield from _check_nulls(oracle)


# ------------------------------------------------------------------ the payment itself, its card


def _check_own(oracle: FeatureOracle) -> Iterator[str]:
    features = oracle.named(oracle.own)
    logged = _columns(oracle, oracle.own)
    for place, event, answer in oracle.decided:
        expected = [own_value(feature, event) for feature in features]
        yield from _differences(place, features, logged[answer.row], expected)


def _check_cards(oracle: FeatureOracle) -> Iterator[str]:
    view, features = oracle.view, oracle.named(oracle.card)
    logged = _columns(oracle, oracle.card)
    folds: dict[str, CardFold] = {}
    mismatches: list[Mismatch] = []
    for place, event in view.transactions:
        if event.card_id in oracle.scattered_cards:
            continue
        fold = folds.get(event.card_id)
        if fold is None:
            fold = folds[event.card_id] = CardFold(features, oracle.horizons_ms["card_tx"])
        expected = fold.meet(place[2], event)
        answer = view.decided.get(place)
        if answer is None or answer.is_degraded:
            continue
        yield from _check_lateness(oracle, answer, event, expected)
        if logged[answer.row].tobytes() != _float32(expected.values).tobytes():
            mismatches.append(Mismatch(answer, event, expected))
    for mismatch in mismatches:
        row = logged[mismatch.answer.row]
        yield from _judge(oracle, folds[mismatch.event.card_id], mismatch, row)


def _check_lateness(
    oracle: FeatureOracle, answer: Answer, event: Transaction, expected: Expected
) -> Iterator[str]:
    """Compare the flags that tell of time."""
    if oracle.view.history.log_starts:
        return  # what came before is not all there
    place, flags = answer.source, answer.flags
    if expected.is_late is not None and ("late" in flags) != expected.is_late:
        yield f"flag: {at(place)} is {'' if expected.is_late else 'not '}late"
    if expected.is_too_late and "too_late" not in flags:
        yield f"flag: {at(place)} is too late for its card"
    may_be_late = event.event_time_ms <= oracle.terminal_floor_ms(event, answer)
    if "too_late" in flags and expected.is_too_late is False and not may_be_late:
        yield f"flag: {at(place)} is not too late"


def _judge(
    oracle: FeatureOracle, fold: CardFold, mismatch: Mismatch, logged: NDArray[np.float32]
) -> Iterator[str]:
    """See whether a decision may be right after all."""
    answer, event, expected = mismatch
    features = oracle.named(oracle.card)
    floor_ms = max(expected.floor_ms, oracle.view.history.known_from_ms)
    if expected.is_too_late is None:
        floor_ms = math.inf  # a copy of a payment that may be gone by then
    if not answer.flags & _UNKNOWN_FLAGS:
        floor_ms = -math.inf
    views = [expected.values]
    if oracle.view.is_disturbed:
        views += fold.later_views(answer.source[2], event)
    for values in views:
        allowed = _with_unknown(features, event, floor_ms, values, logged)
        if logged.tobytes() == _float32(allowed).tobytes():
            return
    allowed = _with_unknown(features, event, floor_ms, expected.values, logged)
    yield from _differences(answer.source, features, logged, allowed)


def _with_unknown(
    features: Sequence[Feature],
    event: Transaction,
    floor_ms: float,
    values: Sequence[float],
    logged: NDArray[np.float32],
) -> list[float]:
    """Expect nothing where nothing is said, and where nothing need be known."""
    return [
        math.nan if is_nothing and _start_ms(feature, event) < floor_ms else value
        for feature, value, is_nothing in zip(
            features, values, np.isnan(logged).tolist(), strict=True
        )
    ]


# ------------------------------------------------------------------ terminals


def _check_terminals(oracle: FeatureOracle) -> Iterator[str]:
    features = oracle.named(oracle.terminal)
    horizons_ms = {
        "transactions": oracle.horizons_ms["terminal_tx"],
        "labels": oracle.horizons_ms["terminal_label"],
    }
    terminals = TerminalFold(oracle.view, features, horizons_ms)
    logged = _columns(oracle, oracle.terminal)
    for place, event, answer in oracle.decided:
        if answer.is_degraded:
            continue
        exact = terminals.exact(place, event)
        if exact is None or logged[answer.row].tobytes() != _float32(exact).tobytes():
            for feature, found, wanted in terminals.wrong(place, event, list(logged[answer.row])):
                # `_check_nulls` looks at what is said to be missing.
                if not (np.isnan(found) and answer.flags & _UNKNOWN_FLAGS):
                    yield f"feature: {at(place)} {feature.name} is {found}, not {wanted}"


# ------------------------------------------------------------------ nothing


def _check_nulls(oracle: FeatureOracle) -> Iterator[str]:
    """See that what is missing is said to be missing, and may be."""
    names = tuple(feature.name for feature in oracle.named(oracle.windowed))
    are_missing = np.isnan(_columns(oracle, oracle.windowed))
    for place, event, answer in oracle.decided:
        are_own_missing = are_missing[answer.row]
        if answer.missing != (names if answer.is_degraded else ()):
            yield f"flag: {at(place)} names the wrong features as missing"
        if answer.is_degraded:
            if not are_own_missing.all():
                yield f"feature: {at(place)} has features of profiles and is flagged degraded"
        elif answer.flags & _UNKNOWN_FLAGS:
            if not are_own_missing.any():
                yield f"flag: {at(place)} lacks nothing"
            yield from _check_terminal_nulls(oracle, event, answer)
        elif not oracle.are_terminals_known:
            yield from _check_unflagged(oracle, answer)


def _check_terminal_nulls(
    oracle: FeatureOracle, event: Transaction, answer: Answer
) -> Iterator[str]:
    known_from_ms = oracle.view.history.known_from_ms
    floor_ms = max(oracle.terminal_floor_ms(event, answer), known_from_ms)
    logged = oracle.view.vectors[answer.row]
    for column, feature in zip(oracle.terminal, oracle.named(oracle.terminal), strict=True):
        if np.isnan(logged[column]) and _start_ms(feature, event) >= floor_ms:
            yield f"feature: {at(answer.source)} {feature.name} is missing and must be known"


def _check_unflagged(oracle: FeatureOracle, answer: Answer) -> Iterator[str]:
    logged = oracle.view.vectors[answer.row]
    for column, feature in zip(oracle.terminal, oracle.named(oracle.terminal), strict=True):
        if np.isnan(logged[column]):
            yield f"feature: {at(answer.source)} {feature.name} is missing, without a flag"


# ------------------------------------------------------------------ C8


def check_scores(view: RunView) -> Iterator[str]:
    """C8: scores are bit-equal to an offline prediction; outcomes follow them."""
    bundle, vectors = view.history.bundle, view.vectors
    columns = [view.names.index(name) for name in bundle.fallback.columns]
    are_degraded = np.array([answer.is_degraded for answer in view.decisions], dtype=bool)
    logged = np.array([answer.score for answer in view.decisions], dtype=np.float32)
    scores = np.empty(len(logged), dtype=np.float32)
    for model, rows, own in (
        (bundle.model, np.flatnonzero(~are_degraded), list(range(len(view.names)))),
        (bundle.fallback, np.flatnonzero(are_degraded), columns),
    ):
        for first in range(0, len(rows), _SCORED_AT_ONCE):
            some = rows[first : first + _SCORED_AT_ONCE]
            scores[some] = model.score(np.ascontiguousarray(vectors[some][:, own]))
    for row in np.flatnonzero(scores.view(np.uint32) != logged.view(np.uint32)).tolist():
        answer = view.decisions[row]
        yield f"score: {at(answer.source)} says {logged[row]}, its vector {scores[row]}"
    yield from _check_outcomes(view)


def _check_outcomes(view: RunView) -> Iterator[str]:
    """See that a higher score never has a milder outcome, whatever the thresholds are."""
    for is_degraded in (False, True):
        own = [answer for answer in view.decisions if answer.is_degraded is is_degraded]
        by_outcome = {
            outcome: [answer.score for answer in own if answer.outcome == outcome]
            for outcome in ("APPROVE", "REVIEW", "DECLINE")
        }
        if is_degraded and by_outcome["DECLINE"]:
            yield f"outcome: {len(by_outcome['DECLINE'])} are declined without profiles"
        highest = -math.inf
        for outcome, scores in by_outcome.items():
            if scores and min(scores) <= highest:
                yield f"outcome: a score of {min(scores)} has {outcome}, and a higher one does not"
            highest = max([highest, *scores])


# ------------------------------------------------------------------ comparing


def _columns(oracle: FeatureOracle, columns: Sequence[int]) -> NDArray[np.float32]:
    return np.ascontiguousarray(oracle.view.vectors[:, columns])


def _float32(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float64).astype(np.float32)


def _start_ms(feature: Feature, event: Transaction) -> float:
    """Give the time at which a feature's window begins."""
    assert feature.window is not None
    return event.event_time_ms - feature.window.lag_ms - feature.window.length_ms


def _differences(
    place: Position,
    features: Sequence[Feature],
    logged: NDArray[np.float32],
    expected: Sequence[float],
) -> Iterator[str]:
    wanted = _float32(expected)
    if logged.tobytes() == wanted.tobytes():
        return
    for feature, found, value in zip(features, logged, wanted, strict=True):
        if found.tobytes() != value.tobytes():
            yield f"feature: {at(place)} {feature.name} is {found}, not {value}"
