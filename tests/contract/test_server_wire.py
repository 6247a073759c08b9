"""The line to one server alone: more commands than are on their way at once, errors and hangs."""

from __future__ import annotations

from contextlib import closing

import pytest
import redis
from places import PATIENT, ValkeyPlace, own_valkey_fixture  # noqa: F401 - for the tests

from fraudstream.adapters.valkey_wire import ServerWire, ValkeyLimits
from fraudstream.local.ready import wait_until

pytestmark = pytest.mark.services

HASTY = ValkeyLimits(deadline_s=0.3, connect_timeout_s=5)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 12, 101])
def test_answers_come_back_in_the_order_of_the_commands(
    own_valkey: ValkeyPlace, count: int
) -> None:
    with closing(ServerWire(own_valkey.url, PATIENT)) as wire:
        for _ in range(2):  # nothing of the first is left on the line
            answers = wire.run([("ECHO", f"{number}") for number in range(count)])
            assert answers == [f"{number}".encode() for number in range(count)]


@pytest.mark.parametrize("place", range(7))
def test_an_error_is_the_answer_of_its_command_alone(own_valkey: ValkeyPlace, place: int) -> None:
    own_valkey.client.set("text", "x")
    commands = [("ECHO", f"{number}") for number in range(6)]
    commands.insert(place, ("INCR", "text"))
    with closing(ServerWire(own_valkey.url, PATIENT)) as wire:
        answers = wire.run(commands)
    assert "not an integer" in str(answers.pop(place))
    assert answers == [f"{number}".encode() for number in range(6)]


def test_late_answers_are_nobody_elses(own_valkey: ValkeyPlace) -> None:
    with closing(ServerWire(own_valkey.url, HASTY)) as wire:
        assert wire.run([("ECHO", "ready")]) == [b"ready"]
        own_valkey.client.client_pause(1_000)
        with pytest.raises(redis.TimeoutError):
            wire.run([("ECHO", "before")] * 9)

        def answers() -> list[object]:
            try:
                return wire.run([("ECHO", f"{number}") for number in range(9)])
            except redis.TimeoutError:
                return []

        assert wait_until(lambda: bool(answers()), timeout_s=20)
        assert answers() == [f"{number}".encode() for number in range(9)]
