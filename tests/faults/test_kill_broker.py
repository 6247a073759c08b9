"""The short form of `kill_broker`: what the broker committed stands after its death."""

from __future__ import annotations

import pytest
from kill_broker import is_commit_kept

from fraudstream.local.stack import LocalStack

#: With a broker that forgets, every second commit was lost.
TIMES = 3


@pytest.mark.services
def test_what_the_broker_committed_outlives_it(stack: LocalStack) -> None:
    assert all(is_commit_kept(stack) for _ in range(TIMES))
