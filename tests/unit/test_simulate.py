"""The simulator: repeatable, within our contract, and alike in small worlds and large ones."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date

import numpy as np
import pytest

from fraudstream.errors import UsageError
from fraudstream.training.simulate import (
    COMPROMISED_DAYS,
    DAY_MS,
    FRAUD_AMOUNT_MINOR,
    LEAKED_DAYS,
    LEAKED_FACTOR,
    SimulationSpec,
    Transactions,
    simulate,
)

ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@pytest.fixture(scope="module")
def world() -> Transactions:
    return simulate(SimulationSpec(cards=1_000, terminals=2_000, days=60, seed=3))


def test_the_same_seed_gives_the_same_stream_and_another_does_not() -> None:
    spec = SimulationSpec(cards=50, terminals=100, days=5, seed=1)
    first, again = simulate(spec), simulate(spec)
    for name in Transactions.__slots__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = simulate(SimulationSpec(cards=50, terminals=100, days=5, seed=2))
    assert len(other) != len(first) or (other.amount_minor != first.amount_minor).any()


def test_columns_are_of_one_length_and_in_event_time_order(world: Transactions) -> None:
    assert {len(getattr(world, name)) for name in Transactions.__slots__} == {len(world)}
    assert (np.diff(world.event_time_ms) >= 0).all()
    start_ms = SimulationSpec().start_ms
    assert start_ms <= world.event_time_ms[0]
    assert world.event_time_ms[-1] < start_ms + 60 * DAY_MS


def test_values_keep_the_event_contract(world: Transactions) -> None:
    for column in (world.transaction_id, world.card_id, world.terminal_id):
        assert all(ID.fullmatch(value) for value in np.unique(column).tolist())
    assert len(np.unique(world.transaction_id)) == len(world)
    assert (world.transaction_id[0], world.transaction_id[-1]) == (
        "tx00000001",
        f"tx{len(world):08d}",
    )
    assert set(np.unique(world.currency).tolist()) == {"EUR"}
    assert world.event_time_ms.dtype == world.amount_minor.dtype == np.int64
    assert world.is_fraud.dtype == np.bool_
    assert world.fraud_kind.dtype == np.int8
    assert world.amount_minor.min() > 0


def test_cards_and_terminals_are_numbered_from_one_with_four_digits(world: Transactions) -> None:
    assert np.unique(world.card_id)[0] == "c0001"
    assert np.unique(world.card_id)[-1] == "c1000"
    assert np.unique(world.terminal_id)[0] == "t0001"


def test_more_than_9999_get_longer_ids() -> None:
    world = simulate(SimulationSpec(cards=20, terminals=12_000, days=40, seed=1))
    assert world.terminal_id.dtype == np.dtype("<U6")
    assert all(len(terminal) == 6 for terminal in world.terminal_id.tolist())


@pytest.mark.parametrize(
    ("cards", "days", "seeds", "low", "high"),
    [(300, 30, 12, 0.008, 0.012), (1_000, 60, 4, 0.009, 0.011), (5_000, 30, 1, 0.008, 0.012)],
)
def test_fraud_share_is_alike_in_worlds_of_every_size(
    cards: int, days: int, seeds: int, low: float, high: float
) -> None:
    shares = [
        simulate(SimulationSpec(cards, 2 * cards, days, seed=seed)).is_fraud.mean()
        for seed in range(seeds)
    ]
    assert low < np.mean(shares) < high
    assert 0.005 < min(shares) <= max(shares) < 0.016


def test_all_three_kinds_occur_and_kind_says_fraud(world: Transactions) -> None:
    assert set(np.unique(world.fraud_kind).tolist()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(world.fraud_kind > 0, world.is_fraud)


def test_every_amount_above_220_is_fraud_and_kind_1_is_nothing_else(world: Transactions) -> None:
    is_high = world.amount_minor > FRAUD_AMOUNT_MINOR
    assert world.is_fraud[is_high].all()
    assert is_high[world.fraud_kind == 1].all()


def test_everything_at_a_compromised_terminal_is_fraud_for_28_days(world: Transactions) -> None:
    day = (world.event_time_ms - world.event_time_ms[0] // DAY_MS * DAY_MS) // DAY_MS
    terminals = np.unique(world.terminal_id[world.fraud_kind == 2])
    assert len(terminals) > 10
    for terminal in terminals:
        here = world.terminal_id == terminal
        frauds = day[here & (world.fraud_kind == 2)]
        assert frauds.max() - frauds.min() < COMPROMISED_DAYS
        during = here & (day >= frauds.min()) & (day <= frauds.max())
        assert world.is_fraud[during].all()


def test_a_leaked_card_pays_five_times_as_much_on_a_third_of_its_payments(
    world: Transactions,
) -> None:
    day = (world.event_time_ms - world.event_time_ms[0] // DAY_MS * DAY_MS) // DAY_MS
    shares, factors = [], []
    for card in np.unique(world.card_id[world.fraud_kind == 3]):
        of_card = world.card_id == card
        abused = of_card & (world.fraud_kind == 3)
        assert day[abused].max() - day[abused].min() < LEAKED_DAYS
        genuine = of_card & ~world.is_fraud
        factors.append(world.amount_minor[abused].mean() / world.amount_minor[genuine].mean())
        during = of_card & (day >= day[abused].min()) & (day <= day[abused].max())
        shares.append(abused.sum() / during.sum())
    assert len(factors) > 10
    assert abs(np.mean(factors) - LEAKED_FACTOR) < 0.5
    # Counted from its first abused payment to its last, so a little above a third.
    assert 0.3 < np.mean(shares) < 0.55


def test_people_sleep_at_night_and_pay_twice_a_day(world: Transactions) -> None:
    is_night = world.event_time_ms % DAY_MS < 7 * 3_600_000
    assert 0.03 < is_night.mean() < 0.1
    assert 1.9 < len(world) / (1_000 * 60) < 2.1


def test_a_card_pays_at_terminals_within_reach_only() -> None:
    world = simulate(SimulationSpec(cards=50, terminals=2_000, days=60, seed=5))
    for card in np.unique(world.card_id)[:10]:
        used = np.unique(world.terminal_id[world.card_id == card])
        assert 10 < len(used) < 150


def test_the_smallest_world_works() -> None:
    spec = SimulationSpec(cards=1, terminals=1, days=1, start=date(2024, 2, 29), seed=4)
    world = simulate(spec)
    assert set(world.terminal_id.tolist()) <= {"t0001"}
    assert (world.event_time_ms // DAY_MS == 19_782).all()


@pytest.mark.parametrize("field", ["cards", "terminals", "days", "seed"])
def test_sizes_that_make_no_sense_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"--{field}"):
        SimulationSpec(**{field: -1})  # type: ignore[arg-type]


def test_nothing_but_numpy_is_needed() -> None:
    """The demo imports the simulator on an install without the training extra."""
    code = (
        "import sys\n"
        "for name in ('polars', 'pandas', 'pyarrow', 'xgboost', 'sklearn', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from fraudstream.training.simulate import SimulationSpec, simulate\n"
        "assert len(simulate(SimulationSpec(cards=10, terminals=20, days=3))) > 10\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
