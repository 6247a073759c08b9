"""Scores → outcomes and reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from feature_names import DEFAULT_FEATURES, feature_named
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudstream.decision import (
    REASONS_MAX,
    Decision,
    Flag,
    Outcome,
    Policy,
    Reason,
    ReasonMap,
    decide,
    decide_degraded,
    find_reasons,
    identity,
)
from fraudstream.event import Transaction

POLICY = Policy(review_threshold=0.5, decline_threshold=0.875, fallback_review_threshold=0.75)
TRANSACTION = Transaction("tx1", 1_532_513_472_500, "c1", "t1", 5716, "EUR", 5716)


def one(
    choose: Callable[[NDArray[np.float32], Policy], list[Outcome]], score: float, policy: Policy
) -> Outcome:
    (outcome,) = choose(np.array([score], dtype=np.float32), policy)
    return outcome


STRICTNESS = [Outcome.APPROVE, Outcome.REVIEW, Outcome.DECLINE]


@pytest.mark.parametrize(
    ("score", "outcome"),
    [
        (0.0, Outcome.APPROVE),
        (float(np.nextafter(np.float32(0.5), np.float32(0))), Outcome.APPROVE),
        (0.5, Outcome.REVIEW),
        (float(np.nextafter(np.float32(0.875), np.float32(0))), Outcome.REVIEW),
        (0.875, Outcome.DECLINE),
        (1.0, Outcome.DECLINE),
    ],
)
def test_a_score_equal_to_a_threshold_takes_the_stricter_outcome(
    score: float, outcome: Outcome
) -> None:
    assert one(decide, score, POLICY) is outcome


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9, 0.95])
def test_a_score_that_is_written_like_the_threshold_is_equal_to_it(threshold: float) -> None:
    """Scores are float32: the one that a decision shows as 0.9 is a little below the double 0.9."""
    score = float(np.float32(threshold))
    assert str(np.float32(threshold)) == str(threshold)
    assert one(decide, score, Policy(0.0, threshold, 0.0)) is Outcome.DECLINE
    assert one(decide, score, Policy(threshold, 1.0, 0.0)) is Outcome.REVIEW
    assert one(decide_degraded, score, Policy(0.0, 1.0, threshold)) is Outcome.REVIEW


def test_where_both_thresholds_are_one_there_is_no_review() -> None:
    policy = Policy(0.5, 0.5, 0.5)
    assert [one(decide, score, policy) for score in (0.4, 0.5)] == [
        Outcome.APPROVE,
        Outcome.DECLINE,
    ]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(deadline=None, derandomize=True)
def test_many_scores_are_decided_on_each_by_itself(
    scores: list[float], review: float, decline: float
) -> None:
    review, decline = sorted((review, decline))
    edges = [np.float32(edge) for edge in (review, decline)]
    scores += [float(edge) for edge in edges] + [
        float(np.nextafter(e, np.float32(0))) for e in edges
    ]
    expected = [STRICTNESS[sum(score >= float(edge) for edge in edges)] for score in scores]
    assert decide(np.array(scores, np.float32), Policy(review, decline, 0.0)) == expected


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, derandomize=True)
def test_a_higher_score_is_never_treated_more_gently(
    low: float, high: float, review: float, decline: float
) -> None:
    low, high = sorted((low, high))
    review, decline = sorted((review, decline))
    policy = Policy(review, decline, review)
    for choose in (decide, decide_degraded):
        outcomes = [STRICTNESS.index(one(choose, score, policy)) for score in (low, high)]
        assert outcomes == sorted(outcomes)


@pytest.mark.parametrize(
    ("score", "outcome"),
    [
        (float(np.nextafter(np.float32(0.75), np.float32(0))), Outcome.APPROVE),
        (0.75, Outcome.REVIEW),
        (0.875, Outcome.REVIEW),
        (1.0, Outcome.REVIEW),
    ],
)
def test_without_profiles_nothing_is_declined(score: float, outcome: Outcome) -> None:
    assert one(decide_degraded, score, POLICY) is outcome


def test_the_outcomes_of_which_somebody_is_told() -> None:
    assert [outcome.is_alert for outcome in STRICTNESS] == [False, True, True]


@pytest.mark.parametrize("outcome", STRICTNESS)
@pytest.mark.parametrize("flags", [(), (Flag.DEGRADED,), (Flag.LATE, Flag.REPLAYED)])
def test_an_alert_is_raised_for_every_outcome_but_approve(
    outcome: Outcome, flags: tuple[Flag, ...]
) -> None:
    decision = Decision(TRANSACTION, np.float32(0.9), outcome, (), flags)
    assert decision.is_alerted == (outcome is not Outcome.APPROVE)


def test_no_alert_is_raised_for_a_duplicate() -> None:
    for outcome in STRICTNESS:
        flags = (Flag.LATE, Flag.DUPLICATE)
        assert not Decision(TRANSACTION, np.float32(0.9), outcome, (), flags).is_alerted


def test_a_policys_version_changes_with_each_threshold_and_with_its_name() -> None:
    policies = [
        POLICY,
        Policy(0.51, 0.875, 0.75),
        Policy(0.5, 0.876, 0.75),
        Policy(0.5, 0.875, 0.76),
        Policy(0.5, 0.875, 0.75, "strict"),
    ]
    assert len({policy.version for policy in policies}) == len(policies)
    assert POLICY.version == Policy(0.5, 0.875, 0.75).version
    assert POLICY.version.startswith("default@")


def test_an_identity_is_of_the_payment_and_of_nothing_else() -> None:
    same = Transaction("tx1", 1_532_513_472_500, "c2", "t2", 1, "USD", None, 7)
    others = [
        Transaction("tx2", 1_532_513_472_500, "c1", "t1", 5716, "EUR", 5716),
        Transaction("tx1", 1_532_513_472_501, "c1", "t1", 5716, "EUR", 5716),
        Transaction("tx11", 532_513_472_500, "c1", "t1", 5716, "EUR", 5716),
    ]
    assert identity(same) == identity(TRANSACTION)
    assert len(identity(TRANSACTION)) == 32
    assert identity(TRANSACTION) not in {identity(other) for other in others}
    # Written down, because consumers drop what they have seen by it: it must never change.
    assert identity(TRANSACTION) == "96ab3361877db02d15d77d1d267f6067"


# ------------------------------------------------------------------ reasons


NAMES = [feature.name for feature in DEFAULT_FEATURES]
#: Each feature a reason of its own.
SINGLE = {name: (name.upper(), name) for name in NAMES}


def grouped(codes: Sequence[str]) -> ReasonMap:
    """Say which reason each of the first features belongs to."""
    return {name: (code, f"{name} of {code}") for name, code in zip(NAMES, codes, strict=False)}


def found_reasons(contributions: Sequence[float], reasons: ReasonMap = SINGLE) -> list[Reason]:
    vector = np.arange(len(contributions), dtype=np.float32)
    found = find_reasons(
        DEFAULT_FEATURES[: len(contributions)], reasons, vector, np.array(contributions, np.float32)
    )
    for reason in found:
        assert reason.value == vector[NAMES.index(reason.feature)]
        assert reasons[reason.feature][0] == reason.code
        assert reason.contribution.dtype == np.float32
    return list(found)


def reasons_of(contributions: list[float]) -> list[tuple[str, float]]:
    return [(reason.feature, float(reason.contribution)) for reason in found_reasons(contributions)]


def test_reasons_are_the_strongest_contributions_first() -> None:
    assert reasons_of([0.25, 4.0, -9.0, 1.0]) == [
        (NAMES[1], 4.0),
        (NAMES[3], 1.0),
        (NAMES[0], 0.25),
    ]


def test_reasons_are_at_most_four() -> None:
    assert REASONS_MAX == 4
    assert reasons_of([1, 2, 3, 4, 5, 6]) == [(NAMES[i], float(i + 1)) for i in (5, 4, 3, 2)]


def test_only_what_pushed_the_score_up_is_a_reason() -> None:
    assert reasons_of([0.0, -1.0, -0.5]) == []
    assert reasons_of([0.0, 1.0, -0.5]) == [(NAMES[1], 1.0)]


def test_of_equal_contributions_the_models_first_column_comes_first() -> None:
    assert [name for name, _ in reasons_of([1, 1, 1, 1, 1])] == NAMES[:4]


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=15))
@settings(deadline=None, derandomize=True)
def test_whatever_the_contributions_reasons_are_few_positive_and_sorted(
    contributions: list[float],
) -> None:
    found = reasons_of(contributions)
    strengths = [strength for _, strength in found]
    assert len(found) == min(4, sum(contribution > 0 for contribution in contributions))
    assert strengths == sorted(strengths, reverse=True)
    assert all(strength > 0 for strength in strengths)


def test_features_of_one_code_are_one_reason_and_their_parts_are_summed() -> None:
    found = found_reasons([1.0, 0.5, 2.0, -0.25], grouped(["A", "B", "A", "A"]))
    assert [(r.code, float(r.contribution)) for r in found] == [("A", 2.75), ("B", 0.5)]


def test_the_feature_that_is_named_is_the_one_of_its_reason_that_pushed_the_most() -> None:
    found = found_reasons([1.0, -3.0, 2.5, 0.5], grouped(["A", "A", "A", "B"]))
    assert [(r.feature, float(r.contribution)) for r in found] == [(NAMES[2], 0.5), (NAMES[3], 0.5)]
    assert found[0].text.lower().startswith(f"{NAMES[2]} of a")
    # Even where it is not the first, and where another pulled more strongly the other way.
    (one,) = found_reasons([-9.0, 4.0, 6.0], grouped(["A", "A", "A"]))
    assert (one.feature, float(one.contribution)) == (NAMES[2], 1.0)


def test_a_code_that_pulled_the_score_down_on_the_whole_is_no_reason() -> None:
    """Although one of its features pushed harder than any other."""
    assert found_reasons([5.0, -5.5, 0.25], grouped(["A", "A", "B"]))[0].code == "B"
    assert len(found_reasons([5.0, -5.5, 0.25], grouped(["A", "A", "B"]))) == 1
    assert found_reasons([5.0, -5.0, -1.0], grouped(["A", "A", "B"])) == []


def test_reasons_are_ranked_by_what_their_features_do_together() -> None:
    found = found_reasons([3.0, 1.25, 1.25, 1.25], grouped(["ONE", "MANY", "MANY", "MANY"]))
    assert [(r.code, float(r.contribution)) for r in found] == [("MANY", 3.75), ("ONE", 3.0)]


def test_ties_are_decided_by_the_order_of_the_models_columns() -> None:
    found = found_reasons([1.0, 1.0, 0.5, 0.5], grouped(["B", "A", "C", "C"]))
    assert [(r.code, r.feature) for r in found] == [
        ("B", NAMES[0]),
        ("A", NAMES[1]),
        ("C", NAMES[2]),
    ]
    assert found == found_reasons([1.0, 1.0, 0.5, 0.5], grouped(["B", "A", "C", "C"]))


def test_a_reason_is_called_what_the_bundle_calls_it_and_not_what_the_feature_set_does() -> None:
    features = [feature_named("amount")]
    reasons = {"amount": ("HIGH_AMOUNT", "what was paid"), "is_night": ("NIGHT", "night")}
    (reason,) = find_reasons(features, reasons, np.ones(1, np.float32), np.ones(1, np.float32))
    assert (reason.code, reason.text) == ("HIGH_AMOUNT", "What was paid: 1.00.")


@given(
    st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(-40, 40)), min_size=1, max_size=15)
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_grouped_reasons_are_those_of_a_plain_sum(parts: list[tuple[str, int]]) -> None:
    """In quarters, which float32 adds up without rounding."""
    codes = [code for code, _ in parts]
    sums = {code: sum(n for c, n in parts if c == code) / 4 for code in codes}
    expected = sorted(
        ((code, total) for code, total in sums.items() if total > 0),
        key=lambda item: (-item[1], codes.index(item[0])),
    )
    found = found_reasons([number / 4 for _, number in parts], grouped(codes))
    assert [(r.code, float(r.contribution)) for r in found] == expected[:REASONS_MAX]
    for reason in found:
        strongest = max(number for code, number in parts if code == reason.code)
        assert NAMES.index(reason.feature) == parts.index((reason.code, strongest))


@pytest.mark.parametrize(
    ("name", "value", "code", "text"),
    [
        ("amount", 57.16, "AMOUNT", "Amount of this payment: 57.16."),
        ("amount", np.nan, "AMOUNT", "Amount of this payment: not known."),
        ("is_night", 1, "NIGHT", "Payment made between 00:00 and 06:59 (UTC)."),
        ("is_night", 0, "NIGHT", "Not a payment made between 00:00 and 06:59 (UTC)."),
        (
            "card_tx_count_1d",
            12,
            "CARD_VELOCITY",
            "Payments with this card within 1 day: 12.",
        ),
        (
            "card_amount_mean_7d",
            99.995,
            "CARD_SPENDING",
            "Mean amount of this card within 7 days: 100.00.",
        ),
        (
            "terminal_fraud_rate_7d_lag7d",
            0.125,
            "TERMINAL_FRAUD",
            "Share of frauds at this terminal within 7 days, up to 7 days ago: 12.5%.",
        ),
    ],
)
def test_a_reason_is_a_sentence(name: str, value: float, code: str, text: str) -> None:
    feature = feature_named(name)
    (reason,) = find_reasons(
        [feature],
        {name: (feature.reason_code, feature.meaning)},
        np.array([value], np.float32),
        np.array([0.5], np.float32),
    )
    assert (reason.code, reason.text) == (code, text)
