"""Score → outcome and reasons. Fifth stage of the data's way.

The model gives a score; deciding is the policy's business. A score equal to a threshold takes the
stricter outcome. Reasons are what pushed this score up the most, from the model's own
contributions, so they say what really moved it. Which features make up a reason, and its words, are
the bundle's: a model that is made anew brings its own.

A decision made without profiles (``degraded``) comes from the fallback model under a threshold of
its own, and never goes beyond ``REVIEW``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudstream.event import Transaction
from fraudstream.features import Feature

REASONS_MAX = 4
#: By feature: the reason's code and its words. Several features may share a code.
ReasonMap: TypeAlias = Mapping[str, tuple[str, str]]


class Outcome(StrEnum):
    """What becomes of the payment."""

    APPROVE = "APPROVE"
    REVIEW = "REVIEW"
    DECLINE = "DECLINE"

    @property
    def is_alert(self) -> bool:
        """Whether somebody is told."""
        return self is not Outcome.APPROVE


class Flag(StrEnum):
    """What a reader of a decision should know about how it was made."""

    #: Decided by the fallback model, without profiles.
    DEGRADED = "degraded"
    #: The card's profile already held a later payment.
    LATE = "late"
    #: Older than what its series still keep: not recorded, windows unknown.
    TOO_LATE = "too_late"
    #: A window reaches further back than what is known.
    INCOMPLETE = "incomplete"
    #: Another record already brought this payment. No alert.
    DUPLICATE = "duplicate"
    #: The record came from a replay.
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds on the score, each in [0, 1].

    Parameters
    ----------
    review_threshold, decline_threshold
        From here on a person looks at the payment; from here on it is declined.
    fallback_review_threshold
        For the fallback model, whose scores mean something else.
    name
        For people, in every decision.
    """

    review_threshold: float
    decline_threshold: float
    fallback_review_threshold: float
    name: str = "default"

    @property
    def version(self) -> str:
        """Name and a hash of the thresholds: which policy made a decision."""
        thresholds = (
            f"{self.review_threshold!r} {self.decline_threshold!r} "
            f"{self.fallback_review_threshold!r}"
        )
        return f"{self.name}@{hashlib.sha256(thresholds.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an alert was raised: how much all features of one code pushed the score up.

    ``feature`` is the one of them that pushed the most, ``value`` its value. ``contribution`` is
    their sum, signed and in log-odds (the model's margin): SHAP values, Lundberg et al. 2020, as
    XGBoost computes them. Only what is above 0 is a reason.
    """

    code: str
    text: str
    feature: str
    value: np.float32
    contribution: np.float32


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What was decided on one transaction, and everything that is needed to decide it again."""

    transaction: Transaction
    score: np.float32
    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    flags: tuple[Flag, ...] = ()
    missing_features: tuple[str, ...] = ()

    @property
    def is_alerted(self) -> bool:
        """Whether an alert is published: for a duplicate one already was."""
        return self.outcome.is_alert and Flag.DUPLICATE not in self.flags


def number_outcomes(scores: NDArray[np.float32], policy: Policy) -> NDArray[np.int64]:
    """Decide on many scores at once.

    Thresholds are compared as float32, which scores are: one that is written 0.7 reaches a
    threshold of 0.7.

    Returns
    -------
    numbers
        Shape (n,): 0 for ``APPROVE``, 1 for ``REVIEW``, 2 for ``DECLINE``.

    Examples
    --------
    >>> scores = np.array([0.49, 0.5, 0.9], dtype=np.float32)
    >>> number_outcomes(scores, Policy(0.5, 0.9, 0.7)).tolist()
    [0, 1, 2]
    """
    reviewed = scores >= np.float32(policy.review_threshold)
    declined = scores >= np.float32(policy.decline_threshold)
    return np.where(declined, 2, reviewed.astype(np.int64))


def decide(scores: NDArray[np.float32], policy: Policy) -> list[Outcome]:
    """Turn the model's n scores into outcomes.

    Examples
    --------
    >>> scores = np.array([0.49, 0.5, 0.9], dtype=np.float32)
    >>> [outcome.value for outcome in decide(scores, Policy(0.5, 0.9, 0.7))]
    ['APPROVE', 'REVIEW', 'DECLINE']
    """
    return [_OUTCOMES[number] for number in number_outcomes(scores, policy).tolist()]


def decide_degraded(scores: NDArray[np.float32], policy: Policy) -> list[Outcome]:
    """Turn the fallback model's n scores into outcomes, at most ``REVIEW``.

    Examples
    --------
    >>> decide_degraded(np.array([0.99], dtype=np.float32), Policy(0.5, 0.9, 0.7))[0].value
    'REVIEW'
    """
    reviewed = scores >= np.float32(policy.fallback_review_threshold)
    return [_OUTCOMES[number] for number in reviewed.tolist()]


#: In order of strictness, as `number_outcomes` numbers them.
_OUTCOMES = (Outcome.APPROVE, Outcome.REVIEW, Outcome.DECLINE)


def identity(transaction: Transaction) -> str:
    """Give 128 bits, in hex, that stand for a payment whoever decides on it, and how often.

    Decision and alert ids are made of it, so a consumer can drop what it has already seen.
    """
    text = f"{transaction.transaction_id}\n{transaction.event_time_ms}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def find_reasons(
    features: Sequence[Feature],
    reasons: ReasonMap,
    vector: NDArray[np.float32],
    contributions: NDArray[np.float32],
) -> tuple[Reason, ...]:
    """Name what pushed a score up the most: at most `REASONS_MAX`, strongest first.

    Parameters
    ----------
    features
        The k columns.
    reasons
        What an alert calls each of them.
    vector, contributions
        Shape (k,), float32: the transaction's features and their parts of the margin.
    """
    columns_of: dict[str, list[int]] = {}
    for index, feature in enumerate(features):
        columns_of.setdefault(reasons[feature.name][0], []).append(index)
    totals = {code: contributions[columns].sum() for code, columns in columns_of.items()}
    strongest = sorted(totals, key=lambda code: -totals[code])[:REASONS_MAX]
    found = []
    for code in strongest:
        if totals[code] <= 0:
            break
        index = max(columns_of[code], key=lambda column: contributions[column])
        feature = features[index]
        words = _sentence(feature, reasons[feature.name][1], vector[index])
        found.append(Reason(code, words, feature.name, vector[index], totals[code]))
    return tuple(found)


def _sentence(feature: Feature, text: str, value: np.float32) -> str:
    words = text[0].upper() + text[1:]
    if np.isnan(value):
        return f"{words}: not known."
    if feature.aggregate in {"is_weekend", "is_night"}:
        return f"{words}." if value else f"Not a {words[0].lower()}{words[1:]}."
    if feature.aggregate == "rate":
        return f"{words}: {value:.1%}."
    if feature.aggregate in {"count", "distinct_count", "hour", "hash"}:
        return f"{words}: {value:.0f}."
    return f"{words}: {value:.2f}."
