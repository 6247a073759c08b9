"""A made-up stream of payments and labels for the benchmark of profiles, and what they go into."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    DAY_MS,
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Series,
    Stretch,
    Window,
)

START_MS = 1_532_513_472_000
PAYMENTS = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
LABELS = InputPartition(LABELS_TOPIC_NUMBER, 0)
PLAIN = tuple(Window(days * DAY_MS) for days in (1, 7, 30))
LAGGED = tuple(Window(days * DAY_MS, 7 * DAY_MS) for days in (1, 7, 30))
DEFINITION = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", ("amount_minor", "amount_known"), PLAIN),
        Series("terminal_tx", "terminal_id", "transactions", (), LAGGED),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), LAGGED),
    )
)
CARD_TX, TERMINAL_TX, TERMINAL_LABEL = 0, 1, 2
CARD_RECORDS = 30
#: 1,200 cards and 180 terminals, whose windows reach back 30 and 37 days: at one payment in 72 s
#: a card has 30 records in its longest window, and a terminal 200.
CARDS, TERMINALS, STEP_MS = 1_200, 180, 72_000
#: Payments in a micro-batch, and in one call.
BATCH, CALL = 252, 42


class Stream:
    """A made-up stream of payments and labels, and the store that it goes into."""

    def __init__(self, store: BucketedProfileStore, seed: int = 7) -> None:
        self._store = store
        self._rng = np.random.default_rng(seed)
        self._offsets = {PAYMENTS: 0, LABELS: 0}
        self._past: list[Transaction] = []
        store.attach({partition: AttachPoint(0, 0) for partition in self._offsets})

    def batches(self, events: int, size: int) -> list[ProfileBatch]:
        """Make batches, before any clock runs."""
        return [self._batch(size) for _ in range(events // size)]

    def apply(self, batches: Sequence[ProfileBatch]) -> NDArray[np.float64]:
        """Apply batches; give the seconds that each took."""
        seconds = np.empty(len(batches))
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            self._store.apply(batch)
            seconds[index] = time.perf_counter() - start
        return seconds

    def _batch(self, size: int) -> ProfileBatch:
        starts = dict(self._offsets)
        cards = self._rng.integers(CARDS, size=size).tolist()
        terminals = self._rng.integers(TERMINALS, size=size).tolist()
        amounts = self._rng.integers(100, 50_000, size=size).tolist()
        payments = [
            self._locate(PAYMENTS, self._payment(*fields))
            for fields in zip(cards, terminals, amounts, strict=True)
        ]
        labels = [
            self._locate(LABELS, self._label(transaction))
            for transaction in self._past[-4 * 3_600 :: 100][: size // 100 + (size % 100 > 0)]
            if len(self._past) > 4 * 3_600
        ]
        stretches = {p: Stretch(starts[p], end) for p, end in self._offsets.items()}
        return ProfileBatch(labels, payments, stretches)

    def _locate(self, partition: InputPartition, event: Transaction | Label) -> Located:
        offset = self._offsets[partition]
        self._offsets[partition] += 1
        return Located(event, partition, offset)

    def _payment(self, card: int, terminal: int, amount: int) -> Transaction:
        number = self._offsets[PAYMENTS]
        payment = Transaction(
            f"tx{number:010d}",
            START_MS + number * STEP_MS,
            f"c{card:07d}",
            f"t{terminal:07d}",
            amount,
            "EUR",
            amount,
        )
        self._past.append(payment)
        return payment

    def _label(self, payment: Transaction) -> Label:
        return Label(
            payment.transaction_id,
            payment.event_time_ms,
            payment.card_id,
            payment.terminal_id,
            bool(self._rng.random() < 0.5),
            self._past[-1].event_time_ms,
            "analyst",
        )
