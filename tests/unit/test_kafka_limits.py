"""What is borne, and what is logged, when Kafka complains again and again."""

from __future__ import annotations

import logging

import pytest

from fraudstream.adapters.kafka import Fences, Throttle, kafka_logger

HOUR_S = 3_600.0


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def fenced(fences: Fences, clock: Clock, times: int, every_s: float = 2.0) -> list[bool]:
    answers = []
    for _ in range(times):
        clock.now_s += every_s
        answers.append(fences.are_too_many())
    return answers


def test_the_worker_that_came_last_gives_way_first() -> None:
    clock = Clock()
    incumbent = Fences(clock)
    clock.now_s = HOUR_S
    newcomer = Fences(clock)
    for _ in range(2):
        assert fenced(incumbent, clock, 1) == [False]
        assert fenced(newcomer, clock, 1) == [False]
    assert fenced(incumbent, clock, 1) == [False]
    assert fenced(newcomer, clock, 1) == [True]


def test_a_worker_is_not_fenced_for_ever() -> None:
    clock = Clock()
    fences = Fences(clock)
    clock.now_s = HOUR_S
    assert fenced(fences, clock, 5) == [False] * 4 + [True]


@pytest.mark.parametrize("age_s", [0.0, HOUR_S])
def test_mishaps_now_and_then_are_borne(age_s: float) -> None:
    clock = Clock()
    fences = Fences(clock)
    clock.now_s = age_s
    assert not any(fenced(fences, clock, 20, every_s=31.0))


def test_one_line_of_a_kind_is_logged_in_ten_seconds() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert [throttle.may_log("FAIL") for _ in range(3)] == [True, False, False]
    assert throttle.may_log("TXNERR")
    clock.now_s = 10.0
    assert [throttle.may_log("FAIL") for _ in range(2)] == [True, False]


def test_the_client_librarys_lines_are_throttled_by_their_first_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = kafka_logger()
    assert kafka_logger() is logger
    assert len(logger.filters) == 1
    with caplog.at_level(logging.INFO, logger.name):
        for number in range(300):
            logger.error("%s [%s] %s", "NOISE", f"rdkafka#consumer-{number}", "Connection refused")
    assert len(caplog.records) == 1
