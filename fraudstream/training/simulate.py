"""Labelled streams of simulated card payments, the same for the same seed.

A world of cards and terminals on a map. Each card has habits: how often it pays, how much, how
widely that varies, where it lives; it pays at terminals within reach of its home. People pay
mostly in their waking hours. Three kinds of fraud are laid over it, after the ideas of the
Fraud-Detection-Handbook (chapter 3, "Transaction data simulator"; the code and the
distributions here are our own):

1. any amount above 220.00;
2. a compromised terminal: every payment there for 28 days;
3. a card whose details leaked: for 14 days a third of its payments are five times as high.

Rates are per card and per terminal, and the reach grows as a map gets emptier, so that a small
world looks to the model like a large one. At the first day as many frauds are under way as on
any other.

Needs numpy only, so that the demo can import it. All of it is simulated: quality measured on it
says that the parts work together, nothing about real fraud.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.errors import UsageError

DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000

#: Kind 1: everything above this is fraud.
FRAUD_AMOUNT_MINOR: Final = 22_000
#: Kind 2: how long a terminal stays compromised, and which share of them is newly so each day.
COMPROMISED_DAYS: Final = 28
_COMPROMISED_PER_TERMINAL_DAY: Final = 2.3e-4
#: Kind 3: how long a leaked card is abused, which share of cards is newly so each day, which share
#: of such a card's payments is abused, and by what factor the amounts grow.
LEAKED_DAYS: Final = 14
_LEAKED_PER_CARD_DAY: Final = 7e-4
_LEAKED_SHARE: Final = 1 / 3
LEAKED_FACTOR: Final = 5

#: A card's mean amount in minor units, its coefficient of variation and its payments a day.
_MEAN_AMOUNT_MINOR: Final = (500, 9_500)
_AMOUNT_VARIATION: Final = (0.25, 0.5)
_TX_PER_DAY: Final = (0.5, 3.5)

#: How many terminals a card finds within reach, whatever the size of the world (at most all).
_TERMINALS_IN_REACH: Final = 80
#: Rows of the card × terminal distance matrix held at once: 10 MB at 10,000 terminals.
_CARDS_PER_BLOCK: Final = 256

#: Payments by hour of the day, UTC, in relative numbers: few at night, most at noon and evening.
_HOUR_WEIGHTS: Final = (2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 13, 14, 12, 10, 10, 12, 14, 15, 13)
_LATE_HOUR_WEIGHTS: Final = (10, 7, 5, 3)


@dataclass(frozen=True, slots=True)
class SimulationSpec:
    """The size of a simulated world, and its seed.

    Parameters
    ----------
    cards, terminals
        How many of each. Two terminals a card is the density that the default model knows.
    days
        How long the stream is. A card pays about twice a day.
    start
        The first day (UTC).
    seed
        The same seed and sizes give the same stream.

    Raises
    ------
    UsageError
        A size below 1, or above what the ids can number.
    """

    cards: int = 5_000
    terminals: int = 10_000
    days: int = 90
    start: date = field(default=date(2026, 1, 1))
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("cards", "terminals", "days"):
            if not 1 <= getattr(self, name) <= 10**6:
                msg = f"--{name} must be between 1 and 1000000"
                raise UsageError(msg)
        if self.seed < 0:
            msg = "--seed must not be negative"
            raise UsageError(msg)

    @property
    def start_ms(self) -> int:
        """The first day's midnight, epoch milliseconds."""
        midnight = datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Transactions:
    """A labelled stream as columns of equal length n, in event-time order.

    Attributes
    ----------
    transaction_id, card_id, terminal_id, currency
        Strings. Ids are of ``[A-Za-z0-9._:-]{1,64}``; transaction ids count up in stream order.
    event_time_ms
        int64, epoch milliseconds, never falling.
    amount_minor
        int64, minor units of the currency.
    is_fraud
        bool: the truth, known to the world only after a label delay.
    fraud_kind
        int8: 0 genuine, else the kind of the module's list. Where several apply, the highest.
    """

    transaction_id: NDArray[np.str_]
    event_time_ms: NDArray[np.int64]
    card_id: NDArray[np.str_]
    terminal_id: NDArray[np.str_]
    amount_minor: NDArray[np.int64]
    currency: NDArray[np.str_]
    is_fraud: NDArray[np.bool_]
    fraud_kind: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of transactions."""
        return len(self.event_time_ms)


@dataclass(frozen=True, slots=True, eq=False)
class _Payments:
    """Payments by number of card, terminal and day, before ids are written."""

    card: NDArray[np.int64]
    terminal: NDArray[np.int64]
    day: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    amount_minor: NDArray[np.int64]


def simulate(spec: SimulationSpec) -> Transactions:
    """Make a labelled stream.

    Parameters
    ----------
    spec
        The world's size and seed.

    Returns
    -------
    stream
        About ``2 × cards × days`` transactions in event-time order, about 1 % of them fraud.

    Examples
    --------
    >>> stream = simulate(SimulationSpec(cards=20, terminals=40, days=3, seed=7))
    >>> stream.transaction_id[0].item(), stream.card_id[0].item()[0]
    ('tx00000001', 'c')
    >>> bool((np.diff(stream.event_time_ms) >= 0).all())
    True
    """
    # One generator for each part: a change to one leaves the random numbers of the others.
    habits, places, frauds = np.random.default_rng(spec.seed).spawn(3)
    genuine = _pay(spec, habits, places)
    payments, kinds = _defraud(spec, genuine, frauds)
    return _as_stream(spec, payments, kinds)


def _pay(
    spec: SimulationSpec, habits: np.random.Generator, places: np.random.Generator
) -> _Payments:
    """Let every card follow its habits, card by card and day by day."""
    tx_per_day = habits.uniform(*_TX_PER_DAY, spec.cards)
    tx_counts = habits.poisson(np.repeat(tx_per_day, spec.days))
    card_day = np.repeat(np.arange(spec.cards * spec.days), tx_counts)
    card, day = np.divmod(card_day, spec.days)
    time_ms = spec.start_ms + day * DAY_MS + _times_of_day_ms(len(day), habits)
    return _Payments(
        card=card,
        terminal=_terminals(spec, card, places),
        day=day,
        time_ms=time_ms,
        amount_minor=_amounts_minor(spec.cards, card, habits),
    )


def _times_of_day_ms(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    weights = np.array(_HOUR_WEIGHTS + _LATE_HOUR_WEIGHTS, dtype=np.float64)
    share_before = np.concatenate(([0.0], np.cumsum(weights / weights.sum())))
    hours = np.interp(rng.random(count), share_before, np.arange(25.0))
    time_ms: NDArray[np.int64] = np.minimum((hours * _HOUR_MS).astype(np.int64), DAY_MS - 1)
    return time_ms


def _amounts_minor(
    cards: int, card: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    mean = rng.uniform(*_MEAN_AMOUNT_MINOR, cards)
    shape = rng.uniform(*_AMOUNT_VARIATION, cards) ** -2
    amounts = rng.standard_gamma(shape[card]) * (mean / shape)[card]
    amount_minor: NDArray[np.int64] = np.maximum(np.rint(amounts).astype(np.int64), 1)
    return amount_minor


def _terminals(
    spec: SimulationSpec, card: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose a terminal within reach for every payment."""
    reachable, start, count = _reach(spec, rng)
    choice = (rng.random(len(card)) * count[card]).astype(np.int64)
    terminal: NDArray[np.int64] = reachable[start[card] + choice]
    return terminal


def _reach(
    spec: SimulationSpec, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the terminals near each card's home.

    Returns
    -------
    reachable, start, count
        Terminals of all cards one after the other; where each card's begin; how many it has.
    """
    homes = rng.random((spec.cards, 2), dtype=np.float32)
    sites = rng.random((spec.terminals, 2), dtype=np.float32)
    # A circle on the unit square that holds as many terminals as wanted, on the average.
    radius_squared = np.float32(_TERMINALS_IN_REACH / (spec.terminals * np.pi))
    found, counts = [], []
    for first in range(0, spec.cards, _CARDS_PER_BLOCK):
        block = homes[first : first + _CARDS_PER_BLOCK]
        apart = _torus_distance_squared(block, sites)
        near = apart <= np.maximum(radius_squared, apart.min(axis=1))[:, None]
        found.append(np.nonzero(near)[1])
        counts.append(np.count_nonzero(near, axis=1))
    count = np.concatenate(counts).astype(np.int64)
    return np.concatenate(found), np.cumsum(count) - count, count


def _torus_distance_squared(
    block: NDArray[np.float32], sites: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Measure on a map without edges, so that nobody lives where terminals are few."""
    across = np.abs(block[:, None, 0] - sites[None, :, 0])
    along = np.abs(block[:, None, 1] - sites[None, :, 1])
    np.minimum(across, 1 - across, out=across)
    np.minimum(along, 1 - along, out=along)
    squared: NDArray[np.float32] = across * across + along * along
    return squared


def _defraud(
    spec: SimulationSpec, genuine: _Payments, rng: np.random.Generator
) -> tuple[_Payments, NDArray[np.int8]]:
    """Lay the three kinds of fraud over genuine payments."""
    compromised = _afflicted(
        (spec.terminals, spec.days), _COMPROMISED_PER_TERMINAL_DAY, COMPROMISED_DAYS, rng
    )
    leaked = _afflicted((spec.cards, spec.days), _LEAKED_PER_CARD_DAY, LEAKED_DAYS, rng)
    is_abused = leaked[genuine.card, genuine.day] & (rng.random(len(genuine.card)) < _LEAKED_SHARE)
    amount_minor = np.where(is_abused, genuine.amount_minor * LEAKED_FACTOR, genuine.amount_minor)
    kinds = np.zeros(len(amount_minor), dtype=np.int8)
    kinds[amount_minor > FRAUD_AMOUNT_MINOR] = 1
    kinds[compromised[genuine.terminal, genuine.day]] = 2
    kinds[is_abused] = 3
    payments = _Payments(genuine.card, genuine.terminal, genuine.day, genuine.time_ms, amount_minor)
    return payments, kinds


def _afflicted(
    shape: tuple[int, int], rate_per_day: float, lasting_days: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Say which of some entities are afflicted on which days.

    Cases begin evenly over time, from `lasting_days` before the first day on, and take all
    entities in turn: chance decides which and when, but hardly how many, so that the share of
    fraud is nearly the same in small worlds and in large ones.

    Returns
    -------
    afflicted
        Shape (entities, days).
    """
    entities, days = shape
    days_before = lasting_days - 1
    cases_by_day = np.floor(
        rate_per_day * entities * np.arange(days_before + days + 1) + rng.random()
    ).astype(np.int64)
    first_day = np.repeat(np.arange(days_before + days) - days_before, np.diff(cases_by_day))
    turn = rng.permutation(entities)
    entity = turn[np.arange(len(first_day)) % entities]
    afflicted = np.zeros(shape, dtype=np.bool_)
    for day_of_case in range(lasting_days):
        day = first_day + day_of_case
        is_inside = (day >= 0) & (day < days)
        afflicted[entity[is_inside], day[is_inside]] = True
    return afflicted


def _as_stream(spec: SimulationSpec, payments: _Payments, kinds: NDArray[np.int8]) -> Transactions:
    order = np.argsort(payments.time_ms, kind="stable")
    count = len(order)
    cards = _ids("c", np.arange(1, spec.cards + 1), digits=4)
    terminals = _ids("t", np.arange(1, spec.terminals + 1), digits=4)
    kinds = kinds[order]
    return Transactions(
        transaction_id=_ids("tx", np.arange(1, count + 1), digits=8),
        event_time_ms=payments.time_ms[order],
        card_id=cards[payments.card[order]],
        terminal_id=terminals[payments.terminal[order]],
        amount_minor=payments.amount_minor[order],
        currency=np.full(count, "EUR"),
        is_fraud=kinds > 0,
        fraud_kind=kinds,
    )


def _ids(prefix: str, numbers: NDArray[np.int64], *, digits: int) -> NDArray[np.str_]:
    """Write numbers with leading zeros behind a prefix: digit by digit, a column at a time."""
    digits = max(digits, len(str(numbers[-1]))) if len(numbers) else digits
    letters = np.empty((len(numbers), len(prefix) + digits), dtype=np.uint32)
    letters[:, : len(prefix)] = [ord(letter) for letter in prefix]
    rest = numbers.astype(np.uint32)
    for column in range(letters.shape[1] - 1, len(prefix) - 1, -1):
        rest, letters[:, column] = np.divmod(rest, np.uint32(10))
    letters[:, len(prefix) :] += ord("0")
    return letters.view(f"<U{letters.shape[1]}").reshape(-1)
