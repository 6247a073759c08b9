"""Bad records are diverted; a bad deployment is stopped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudstream.dead_letters import DeadLetterGuard, DeadLetterLimits
from fraudstream.errors import DeadLetterLimitError, ExitCode

LIMITS = DeadLetterLimits(ratio_max=0.5, ratio_records=10, consecutive_max=100)
GOOD, BAD = False, True


def guard(limits: DeadLetterLimits = LIMITS) -> DeadLetterGuard:
    return DeadLetterGuard(limits)


def test_at_the_ratio_the_worker_goes_on_and_above_it_it_stops() -> None:
    at_limit = guard().after([GOOD, BAD] * 5)
    with pytest.raises(DeadLetterLimitError, match="6 of the last 10 records are bad"):
        at_limit.after([GOOD, BAD, BAD])


def test_fewer_records_than_the_ratio_asks_for_are_never_judged_by_it() -> None:
    still_few = guard().after([BAD] * 9)
    with pytest.raises(DeadLetterLimitError, match="10 of the last 10"):
        still_few.after([BAD])


def test_only_the_last_records_count() -> None:
    found = guard().after([GOOD] * 1_000).after([BAD] * 5)
    found = found.after([GOOD] * 5).after([BAD] * 5)
    with pytest.raises(DeadLetterLimitError):
        found.after([BAD])


def test_as_many_bad_records_in_a_row_as_allowed_are_borne_and_one_more_is_not() -> None:
    limits = DeadLetterLimits(ratio_max=1.0, ratio_records=10, consecutive_max=3)
    at_limit = guard(limits).after([GOOD, BAD]).after([BAD, BAD])
    with pytest.raises(DeadLetterLimitError, match="more than 3 bad records in a row"):
        at_limit.after([BAD])
    at_limit.after([GOOD, BAD, BAD, BAD])


def test_a_run_inside_a_batch_is_noticed_even_if_good_ones_follow() -> None:
    limits = DeadLetterLimits(ratio_max=1.0, ratio_records=10, consecutive_max=3)
    with pytest.raises(DeadLetterLimitError):
        guard(limits).after([BAD] * 4 + [GOOD] * 10)


def test_a_batch_that_is_read_again_is_not_counted_twice() -> None:
    before = guard().after([GOOD, BAD] * 4)
    for _ in range(5):
        before.after([BAD])
    before.after([GOOD, BAD])


def test_a_batch_that_was_refused_leaves_the_guard_as_it_was() -> None:
    before = guard().after([BAD] * 5)
    with pytest.raises(DeadLetterLimitError):
        before.after([BAD] * 5)
    before.after([GOOD] * 5)


def test_an_empty_batch_changes_nothing() -> None:
    found = guard().after([BAD] * 5).after([]).after([GOOD] * 5)
    with pytest.raises(DeadLetterLimitError):
        found.after([BAD] * 6)


def test_by_default_half_of_a_thousand_or_a_thousand_in_a_row() -> None:
    limits = DeadLetterLimits()
    assert (limits.ratio_max, limits.ratio_records, limits.consecutive_max) == (0.5, 1_000, 1_000)


def test_the_sentence_says_what_to_do_and_the_process_is_not_restarted() -> None:
    with pytest.raises(DeadLetterLimitError, match="put it right and start again") as caught:
        guard().after([BAD] * 10)
    assert caught.value.exit_code is ExitCode.DEAD_LETTER_LIMIT


@given(
    st.lists(st.booleans(), max_size=60), st.integers(1, 7), st.integers(1, 6), st.integers(1, 9)
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_record_by_record_it_stops_exactly_where_the_definition_says(
    records: list[bool], ratio_records: int, consecutive_max: int, tenths: int
) -> None:
    limits = DeadLetterLimits(tenths / 10, ratio_records, consecutive_max)
    found = guard(limits)
    for end in range(1, len(records) + 1):
        last, run = records[:end][-ratio_records:], records[:end][-consecutive_max - 1 :]
        is_ratio = len(last) == ratio_records and sum(last) / ratio_records > tenths / 10
        is_run = len(run) == consecutive_max + 1 and all(run)
        if is_ratio or is_run:
            with pytest.raises(DeadLetterLimitError):
                found.after([records[end - 1]])
            return
        found = found.after([records[end - 1]])
