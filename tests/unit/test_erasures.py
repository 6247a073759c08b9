"""Who was forgotten is found again by a hash, under the same key only."""

from __future__ import annotations

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_runs import RunCollector
from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.erasures import EntityHasher, ErasureKeeper, ErasureList, forget_everywhere
from fraudstream.event import Transaction
from fraudstream.profile import DAY_MS, ProfileDefinition, Series, Window

T = 1_600_000_000_000
DEFINITION = ProfileDefinition(
    (
        Series("card_tx", "card_id", "transactions", (), (Window(DAY_MS),)),
        Series("card_two", "card_id", "transactions", (), (Window(DAY_MS),)),
        Series("terminal_tx", "terminal_id", "transactions", (), (Window(DAY_MS),)),
    )
)


def erased(hasher: EntityHasher, **until_ms: int) -> ErasureList:
    return ErasureList(hasher, {("card_id", hasher("card_id", c)): t for c, t in until_ms.items()})


def test_a_hash_depends_on_field_id_and_key() -> None:
    plain, keyed = EntityHasher(), EntityHasher(b"k" * 32)
    hashes = [plain("card_id", "c1"), plain("card_id", "c2"), plain("terminal_id", "c1"),
              keyed("card_id", "c1")]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert keyed("card_id", "c1") == EntityHasher(b"k" * 32)("card_id", "c1")
    assert plain.key_check != keyed.key_check
    # One long field and id must not be another pair.
    assert plain("card", "_id\0c1") != plain("card_id", "c1")


def test_only_the_erased_entity_is_found() -> None:
    erasures = erased(EntityHasher(b"k" * 32), c1=T)
    assert erasures.until_ms("card_id", "c1") == T
    assert erasures.until_ms("card_id", "c2") is None
    assert erasures.until_ms("terminal_id", "c1") is None


def test_what_comes_back_stays_forgotten_and_what_came_later_is_kept() -> None:
    backend = MemoryBackend(DEFINITION)
    store = BucketedProfileStore(DEFINITION, backend)
    keeper = ErasureKeeper(store, erased(EntityHasher(), c1=T))
    collector = RunCollector(DEFINITION, keeper.meet)
    payments = [
        Transaction(f"{card}{n}", T + n, card, "shop", 1, "EUR", 1)
        for card in ("c1", "c2")
        for n in (-5, 0, 5)
    ]
    collector.add_transactions(payments, range(1, 7))
    assert keeper.settle() == 1
    store.merge(list(collector.take()))
    times = {key: series.times_ms for key, series in backend.all_series().items()}
    assert times["card_tx", "c1"] == times["card_two", "c1"] == [T + 5]
    assert times["card_tx", "c2"] == [T - 5, T, T + 5]
    assert len(times["terminal_tx", "shop"]) == 6
    assert keeper.settle() == 0


def test_forgetting_counts_the_records_of_each_series() -> None:
    store = BucketedProfileStore(DEFINITION, MemoryBackend(DEFINITION))
    collector = RunCollector(DEFINITION)
    payments = [Transaction(f"x{n}", T + n, "c1", "s", 1, "EUR", 1) for n in range(3)]
    collector.add_transactions(payments, [0, 0, 0])
    store.merge(list(collector.take()))
    assert forget_everywhere(store, "card_id", "c1", T + 1) == {"card_tx": 2, "card_two": 2}
    assert forget_everywhere(store, "card_id", "c1", T + 1) == {"card_tx": 0, "card_two": 0}
