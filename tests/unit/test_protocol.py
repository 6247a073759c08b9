"""How a stream is cut into folds, and whose payments are not judged any more.

The brute force below is written from the handbook's words, payment by payment, and knows nothing of
how the package does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import made_rows

from fraudstream.errors import UsageError
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.protocol import (
    Fold,
    FoldPlan,
    cut_folds,
    cut_training,
    each_fold,
    judged_rows,
)

#: Day, card, and whether it is fraud.
Payments: TypeAlias = Sequence[tuple[float, str, bool]]
#: A Thursday in 2026; nothing depends on it.
FIRST_DAY = 20_454
DELAY = 7


def day_ms(day: float) -> int:
    return int((FIRST_DAY + day) * DAY_MS)


def rows_of(payments: Payments) -> LabelledVectors:
    """Rows from (day, card, is fraud), put in order of time."""
    payments = sorted(payments, key=lambda payment: payment[0])
    return made_rows(
        np.arange(len(payments), dtype=np.float32)[:, None],
        np.array([is_fraud for _, _, is_fraud in payments], dtype=np.bool_),
        np.array([day_ms(day) for day, _, _ in payments], dtype=np.int64),
        [card for _, card, _ in payments],
    )


def fold_of(first_test_day: int, test_days: int = 7, delay: int = DELAY) -> Fold:
    """Learn from the 14 days before the delay; judge after it."""
    end = first_test_day - delay
    return Fold(
        (day_ms(end - 14), day_ms(end)),
        (day_ms(first_test_day), day_ms(first_test_day + test_days)),
    )


def judged_days(payments: Payments, fold: Fold, delay: int = DELAY) -> list[float]:
    """Give the days of the genuine payments of card a that are judged."""
    judged = judged_rows(rows_of(payments), fold, delay)
    return [
        float(time_ms / DAY_MS - FIRST_DAY)
        for time_ms, card, is_fraud in zip(
            judged.event_time_ms, judged.card_id, judged.is_fraud, strict=True
        )
        if card == "a" and not is_fraud
    ]


# ------------------------------------------------------------------ which cards are known


def test_a_card_is_known_a_day_after_the_label_delay_of_its_fraud() -> None:
    """A fraud on day 22 is known on day 30 and not on day 29: seven days and one."""
    every_day = [(day, "a", False) for day in range(28, 35)]
    fold = fold_of(28)
    assert judged_days([(22, "a", True), *every_day], fold) == [28, 29]
    # Whole days count: neither the hour of the fraud nor that of the payment matters.
    assert judged_days([(22.999, "a", True), *every_day], fold) == [28, 29]
    late = [(day + 0.75, "a", False) for day in range(28, 35)]
    assert judged_days([(22, "a", True), *late], fold) == [28.75, 29.75]


@pytest.mark.parametrize("delay", [0, 1, 7, 30])
def test_the_delay_is_the_one_that_is_given(delay: int) -> None:
    fold = fold_of(40, test_days=5, delay=delay)
    payments = [(42 - delay - 1, "a", True), *((day, "a", False) for day in range(40, 45))]
    assert judged_days(payments, fold, delay) == [40, 41]


def test_a_fraud_of_the_week_before_the_delay_makes_a_card_known_from_the_first_test_day() -> None:
    for day in range(14, 21):
        assert judged_days([(day, "a", True), (28, "a", False)], fold_of(28)) == []


def test_a_fraud_that_is_older_than_that_week_is_forgotten() -> None:
    """Its card was blocked, got a new number, and is another card."""
    payments = [(13.999, "a", True), (28, "a", False), (34, "a", False)]
    assert judged_days(payments, fold_of(28)) == [28, 34]
    assert judged_days([(14, "a", True), *payments], fold_of(28)) == []


def test_a_fraud_on_a_test_day_makes_its_card_known_within_a_long_period_alone() -> None:
    every_day = [(29, "a", True), *((day, "a", False) for day in range(28, 42))]
    assert judged_days(every_day, fold_of(28)) == list(range(28, 35))
    assert judged_days(every_day, fold_of(28, test_days=14)) == list(range(28, 37))


def test_a_known_cards_frauds_are_left_out_like_its_other_payments() -> None:
    payments = [(15, "a", True), (28, "a", True), (29, "a", False), (29, "b", True)]
    judged = judged_rows(rows_of(payments), fold_of(28), DELAY)
    assert judged.card_id.tolist() == ["b"]
    assert judged.is_fraud.tolist() == [True]


def test_other_cards_and_payments_outside_of_the_period_change_nothing() -> None:
    payments = [
        *((day, "a", False) for day in range(60)),
        *((day, "b", True) for day in range(60)),
        (27.999, "a", True),
    ]
    judged = judged_rows(rows_of(payments), fold_of(28), DELAY)
    assert judged.card_id.tolist() == ["a"] * 7
    assert judged.event_time_ms.tolist() == [day_ms(day) for day in range(28, 35)]


def test_judged_rows_keep_all_that_is_known_of_them_and_their_order() -> None:
    rows = rows_of([(28 + day / 10, f"c{day % 7}", day % 3 == 0) for day in range(60)])
    rows = replace(rows, segment=np.array([f"s{i}" for i in range(60)], dtype=object))
    judged = judged_rows(rows, fold_of(28, test_days=3), DELAY)
    assert len(judged) == 30
    np.testing.assert_array_equal(judged.vectors, rows.vectors[:30])
    assert judged.segment.tolist() == rows.segment[:30].tolist()
    assert judged.transaction_id.tolist() == rows.transaction_id[:30].tolist()


def test_a_period_without_payments_has_nothing_to_judge() -> None:
    assert not len(judged_rows(rows_of([(3, "a", True)]), fold_of(28), DELAY))
    assert not len(judged_rows(rows_of([]), fold_of(28), DELAY))


def brute_force(payments: Payments, first: int, end: int, delay: int) -> list[int]:
    """Go through the test days as the handbook does; give the numbers of what is judged."""
    known = {
        card
        for day, card, is_fraud in payments
        if is_fraud and first - delay - 7 <= int(day) < first - delay
    }
    judged = []
    for test_day in range(first, end):
        just_known = test_day - delay - 1
        known |= {card for day, card, is_fraud in payments if is_fraud and int(day) == just_known}
        judged += [
            number
            for number, (day, card, _) in enumerate(payments)
            if int(day) == test_day and card not in known
        ]
    return judged


@given(
    st.lists(
        st.tuples(
            st.sampled_from([day + hour for day in range(40) for hour in (0.0, 0.5, 0.999)]),
            st.sampled_from("abcde"),
            st.booleans(),
        ),
        max_size=80,
    ),
    st.integers(10, 35),
    st.integers(1, 14),
    st.integers(0, 12),
)
@settings(deadline=None, derandomize=True, max_examples=400)
def test_judged_rows_are_those_of_the_handbooks_loop(
    payments: Payments, first: int, test_days: int, delay: int
) -> None:
    payments = sorted(payments, key=lambda payment: payment[0])
    judged = judged_rows(rows_of(payments), fold_of(first, test_days, delay), delay)
    numbers = judged.vectors[:, 0].astype(int).tolist()
    assert numbers == brute_force(payments, first, first + test_days, delay)


# ------------------------------------------------------------------ where a stream is cut


def in_days(folds: tuple[Fold, ...]) -> list[list[int]]:
    return [[ms // DAY_MS - FIRST_DAY for ms in (*f.train_ms, *f.test_ms)] for f in folds]


def test_folds_by_hand() -> None:
    """The handbook's: a week each, test weeks one after the other up to the end."""
    plan = FoldPlan(count=4, train_days=7, label_delay_days=7, test_days=7)
    assert in_days(cut_folds(day_ms(0), day_ms(60), plan)) == [
        [18, 25, 32, 39],
        [25, 32, 39, 46],
        [32, 39, 46, 53],
        [39, 46, 53, 60],
    ]


def test_where_the_stream_is_short_earlier_folds_learn_from_less() -> None:
    plan = FoldPlan(count=3, train_days=30, label_delay_days=7, test_days=7)
    assert in_days(cut_folds(day_ms(0), day_ms(45), plan)) == [
        [0, 17, 24, 31],
        [0, 24, 31, 38],
        [1, 31, 38, 45],
    ]


def test_one_day_to_learn_from_is_enough_and_none_is_refused() -> None:
    plan = FoldPlan(count=2, train_days=56, label_delay_days=7, test_days=7)
    assert in_days(cut_folds(day_ms(0), day_ms(22), plan))[0] == [0, 1, 8, 15]
    with pytest.raises(UsageError) as caught:
        cut_folds(day_ms(0), day_ms(21), plan)
    assert "covers 21 days and at least 22 are needed (2 test periods of 7 days" in str(
        caught.value
    )
    assert "the recipe's `folds`" in str(caught.value)


def test_the_model_itself_learns_from_as_much_up_to_the_end() -> None:
    plan = FoldPlan(train_days=30)
    assert cut_training(day_ms(0), day_ms(100), plan) == (day_ms(70), day_ms(100))
    assert cut_training(day_ms(0), day_ms(20), plan) == (day_ms(0), day_ms(20))


@given(
    st.integers(1, 300),
    st.builds(
        FoldPlan,
        count=st.integers(1, 8),
        train_days=st.integers(1, 80),
        label_delay_days=st.integers(0, 40),
        test_days=st.integers(1, 20),
    ),
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_folds_are_what_the_words_say_or_are_refused(days: int, plan: FoldPlan) -> None:
    tested = plan.count * plan.test_days
    if days - tested - plan.label_delay_days < 1:
        with pytest.raises(UsageError, match=f"at least {tested + plan.label_delay_days + 1} are"):
            cut_folds(day_ms(0), day_ms(days), plan)
        return
    folds = in_days(cut_folds(day_ms(0), day_ms(days), plan))
    assert len(folds) == plan.count
    # Together the test periods are the last days, each of which is judged once.
    judged = [day for *_, first, end in folds for day in range(first, end)]
    assert judged == list(range(days - tested, days))
    for train_start, train_end, test_start, test_end in folds:
        assert test_end - test_start == plan.test_days
        assert test_start - train_end == plan.label_delay_days
        assert train_start == max(0, train_end - plan.train_days)
        assert train_start < train_end


def test_each_fold_gives_training_rows_whole_and_test_rows_without_known_cards() -> None:
    rows = rows_of([(day + 0.5, f"c{day % 5}", day % 9 == 0) for day in range(60)])
    plan = FoldPlan(count=2, train_days=14, label_delay_days=7, test_days=7)
    folds = cut_folds(rows.start_ms, rows.end_ms, plan)
    for fold, (train, test) in zip(folds, each_fold(rows, folds, 7), strict=True):
        np.testing.assert_array_equal(train.vectors, rows.between(*fold.train_ms).vectors)
        assert len(train) == 14
        np.testing.assert_array_equal(test.vectors, judged_rows(rows, fold, 7).vectors)
        assert len(test) < len(rows.between(*fold.test_ms))
