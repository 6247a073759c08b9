"""Events in bulk become the same records as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_runs import RunCollector, add_batch, portions, square_limbs
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.event import Label, Transaction
from fraudstream.profile import (
    DAY_MS,
    MEASURES,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Series,
    Stretch,
    Window,
    transaction_values,
)

T = 1_600_000_000_000
PAYMENTS, LABELS = InputPartition(1, 0), InputPartition(2, 0)
DAY = (Window(DAY_MS),)
DEFINITION = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", MEASURES["transactions"], DAY,
               attributes=("terminal_id", "mcc")),
        Series("device_tx", "device_id", "transactions", ("amount_minor", "amount_known"), DAY),
        Series("terminal_tx", "terminal_id", "transactions", (), DAY),
        Series("terminal_label", "terminal_id", "labels", ("fraud",), DAY),
    )
)  # fmt: skip


def payment(rng: np.random.Generator, number: int) -> Transaction:
    amount = None if rng.random() < 0.2 else int(rng.integers(0, 10**12, endpoint=True))
    device, mcc = (f"{n}{rng.integers(3)}" if rng.random() < 0.7 else None for n in "dm")
    return Transaction(
        f"x{number}",
        T + int(rng.integers(50)),  # many at the same time
        f"c{rng.integers(4)}",
        f"t{rng.integers(5)}",
        100,
        "EUR",
        amount,
        extra=(("device_id", device), ("mcc", mcc)),
    )


def label(rng: np.random.Generator, of: Transaction) -> Label:
    is_fraud, reported_at_ms = bool(rng.random() < 0.5), T + int(rng.integers(3))
    return Label(
        of.transaction_id,
        of.event_time_ms,
        of.card_id,
        of.terminal_id,
        is_fraud,
        reported_at_ms,
        "s",
    )


def history(seed: int) -> ProfileBatch:
    """Give payments, copies of some, and findings that contradict each other."""
    rng = np.random.default_rng(seed)
    payments = [payment(rng, number) for number in range(300)]
    payments += [payments[index] for index in rng.integers(0, 300, 40)]
    findings = [label(rng, payments[index]) for index in rng.integers(0, 60, 200)]
    return ProfileBatch(
        [Located(event, LABELS, offset) for offset, event in enumerate(findings)],
        [Located(event, PAYMENTS, offset) for offset, event in enumerate(payments)],
        {PAYMENTS: Stretch(0, len(payments)), LABELS: Stretch(0, len(findings))},
    )


def recorded(batch: ProfileBatch) -> MemoryBackend:
    backend = MemoryBackend(DEFINITION)
    store = BucketedProfileStore(DEFINITION, backend)
    store.attach({PAYMENTS: AttachPoint(0, 0), LABELS: AttachPoint(0, 0)})
    store.repair(batch)
    return backend


def contents(backend: MemoryBackend) -> dict[tuple[str, str], list[object]]:
    """Give all that is kept, by series and entity."""
    numbers = {series.name: number for number, series in enumerate(DEFINITION.series)}
    found = {}
    for name, entity in backend.all_series():
        content = backend.content(numbers[name], entity)
        assert content is not None
        run = content.run
        columns = (run.times_ms, run.hashes, run.positions, run.versions_ms, run.values,
                   run.attributes)  # fmt: skip
        rows = [np.asarray(column).tolist() for column in columns]
        found[name, entity] = rows
    return found


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_merged_runs_are_what_recording_each_event_makes(pieces: int) -> None:
    batch = history(pieces)
    merged = MemoryBackend(DEFINITION)
    collector = RunCollector(DEFINITION)
    for piece in range(pieces):
        part = slice(piece * 400 // pieces, (piece + 1) * 400 // pieces)
        add_batch(collector, ProfileBatch(batch.labels[part], batch.transactions[part], {}))
        merged.merge(list(collector.take()))
    assert contents(merged) == contents(recorded(batch))


def test_every_entity_is_announced_once_before_it_is_taken() -> None:
    batch = history(1)
    announced: list[tuple[str, str]] = []
    collector = RunCollector(DEFINITION, lambda *entity: announced.append(entity))
    add_batch(collector, batch)
    fields = {series.name: series.entity for series in DEFINITION.series}
    expected = {(fields[name], entity) for name, entity in contents(recorded(batch))}
    assert len(announced) == len(set(announced))
    assert set(announced) == expected
    collector.take()
    assert len(collector) == 0
    assert list(collector.take()) == []


def test_limbs_of_a_square_are_those_of_the_record() -> None:
    amounts = [0, 1, 2**27 - 1, 2**27, 10**12 - 1, 10**12]
    limbs = np.array(square_limbs(np.array(amounts))).T.tolist()
    for amount, found in zip(amounts, limbs, strict=True):
        one = Transaction("x", T, "c", "t", amount, "EUR", amount)
        assert transaction_values(DEFINITION.series[0], one)[2:] == tuple(found)


def test_portions_keep_all_runs_and_their_bound() -> None:
    collector = RunCollector(DEFINITION)
    add_batch(collector, history(3))
    runs = list(collector.take())
    cut = list(portions(runs, 60))
    assert [run for portion in cut for run in portion] == runs
    assert all(len(portion) == 1 or sum(map(len, portion)) <= 60 for portion in cut)
    assert len(cut) > 1
