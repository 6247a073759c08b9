"""The payments of the benchmarks: uniform over cards and terminals, in order of event time.

Uniform, so that every key has about as many records as any other: with 17.28 s between two
payments, 5,000 cards and 10,000 terminals, a window of 30 days holds 30 payments of a card and 15
of a terminal. What many keys, or long ones, cost is the subject of ``benchmarks.scale``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DAY_MS = 86_400_000
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What stream it is.

    Parameters
    ----------
    events
        How many payments.
    cards, terminals
        Among how many they are drawn.
    step_ms
        How much event time lies between two of them.
    seed
        Of all that is drawn.
    first_ms
        The event time of the first one, epoch milliseconds. Fixed, so that a stream is the same
        whenever it is made.
    """

    events: int
    cards: int = 5_000
    terminals: int = 10_000
    step_ms: int = 17_280
    seed: int = 1
    first_ms: int = 1_704_067_200_000  # 2024-01-01


def payments(plan: StreamPlan) -> Iterator[tuple[bytes, bytes]]:
    """Yield key (the card id) and value (the event as JSON) of each payment, in order.

    The number of a payment is its ``transaction_id``.
    """
    rng = np.random.default_rng(plan.seed)
    for first in range(0, plan.events, _CHUNK):
        count = min(_CHUNK, plan.events - first)
        cards = rng.integers(0, plan.cards, count).tolist()
        terminals = rng.integers(0, plan.terminals, count).tolist()
        amounts = (rng.gamma(2.0, 2_500.0, count).astype(np.int64) + 1).tolist()
        for i in range(count):
            number = first + i
            card = b"c%d" % cards[i]
            yield (
                card,
                b'{"transaction_id":"%d","event_time":%d,"card_id":"%b","terminal_id":"t%d",'
                b'"amount_minor":%d,"currency":"EUR"}'
                % (number, plan.first_ms + number * plan.step_ms, card, terminals[i], amounts[i]),
            )
