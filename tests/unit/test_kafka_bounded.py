"""A call that never returns does not hold the caller."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from fraudstream.adapters.kafka_bounded import BoundedCaller


def test_a_call_is_made_and_its_error_is_raised_here() -> None:
    caller = BoundedCaller()
    made: list[int] = []
    caller(lambda: made.append(1), 5.0)
    assert made == [1]

    def fail() -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    with pytest.raises(KafkaException):
        caller(fail, 5.0)
    caller(lambda: made.append(2), 5.0)
    assert made == [1, 2]


def test_a_call_that_does_not_return_is_given_up() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError):
        BoundedCaller()(released.wait, 0.05)
    released.set()
