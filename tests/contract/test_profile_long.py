"""Long series: on Valkey they lie in chunks, and nothing of that is to be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from feeds import (
    CARD_TX,
    LONG,
    PAYMENTS,
    RICH,
    TERMINAL_LABEL,
    TERMINAL_TX,
    Feed,
    T,
    all_answers,
    entry,
    in_batches,
    random_events,
    run_of,
)
from histories import run_histories
from places import (  # noqa: F401
    KeptRecord,
    MemoryPlace,
    SmallChunksPlace,
    ValkeyPlace,
    small_chunks_fixture,
    valkey_fixture,
)

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import (
    CALL_ENTRIES_MAX,
    BucketRequest,
    Entry,
    pack_position,
)
from fraudstream.profile import DAY_MS, NO_ATTRIBUTE, Located, ProfileAnswers, id_hash

NO_ATTRIBUTES = (NO_ATTRIBUTE, NO_ATTRIBUTE)


@pytest.mark.services
def test_every_history_is_answered_as_a_plain_list_would_of_many_small_chunks(
    small_chunks: SmallChunksPlace,
) -> None:
    """Chunks of five records: every history runs over their edges."""
    run_histories(small_chunks, examples=150)


@pytest.mark.services
def test_a_series_of_many_small_chunks_answers_as_the_twin(small_chunks: SmallChunksPlace) -> None:
    ours = Feed(small_chunks.open(RICH), RICH)
    theirs = Feed(MemoryBackend(RICH), RICH)
    for batch in in_batches([ours.read(event) for event in random_events(9, 600)], 41):
        assert all_answers(ours.apply(*batch)) == all_answers(theirs_apply(theirs, batch))
    assert small_chunks.kept(ours.backend) == MemoryPlace().kept(theirs.backend)


@pytest.mark.services
def test_merged_records_are_cut_into_chunks_too(small_chunks: SmallChunksPlace) -> None:
    rng = np.random.default_rng(3)
    records = [
        KeptRecord(T + n // 2, id_hash(f"x{n}"), n.to_bytes(8, "big"), 0, (n, 1), NO_ATTRIBUTES)
        for n in range(1, 200)
    ]
    real, twin = small_chunks.open(RICH), MemoryBackend(RICH)
    cuts = [0, 13, 14, 90, 150, 199]
    for index in rng.permutation(len(cuts) - 1).tolist():
        run = run_of(RICH, CARD_TX, "c1", records[cuts[index] : cuts[index + 1]])
        for backend in (real, twin):
            backend.merge([run])
    kept = small_chunks.kept(real)
    assert kept == MemoryPlace().kept(twin)
    assert sorted(kept["card_tx", "c1"].records) == sorted(records)
    assert len([key for key in small_chunks.keys(real) if b"#" in key]) > 20
    for until_ms in (T + 3, T + 50, T + 98, T + 200):
        dropped = {backend.forget(CARD_TX, "c1", until_ms) for backend in (real, twin)}
        assert len(dropped) == 1
        assert small_chunks.kept(real) == MemoryPlace().kept(twin)
    assert [key for key in small_chunks.keys(real) if b"#" in key] == []


def theirs_apply(feed: Feed, batch: Sequence[Located]) -> ProfileAnswers:
    """Apply another feed's events, as if they had been read here."""
    for located in batch:
        feed.ends[located.partition] = located.offset + 1
    return feed.apply(*batch)


@pytest.mark.services
def test_series_of_megabytes_are_as_the_twins(valkey: ValkeyPlace) -> None:
    rng = np.random.default_rng(11)
    real, twin = valkey.open(LONG), MemoryBackend(LONG)

    def apply(entries: Sequence[Entry], *, is_record_only: bool = False) -> None:
        requests = [
            BucketRequest(0, {}, entries[i : i + CALL_ENTRIES_MAX], is_record_only=is_record_only)
            for i in range(0, len(entries), CALL_ENTRIES_MAX)
        ]
        for ours, theirs in zip(real.apply(requests), twin.apply(requests), strict=True):
            for number in range(3):
                assert (number in ours.rows) == (number in theirs.rows)
                if number in ours.rows:
                    assert np.array_equal(ours.rows[number], theirs.rows[number])

    cards = [entry(f"x{i}", T + 1_000 * i, i, (i % 97,)) for i in range(80_000)]
    frauds = [
        entry(f"x{i}", T + 1_000 * i, i, (i % 2,), series=TERMINAL_LABEL, version_ms=T)
        for i in range(2_000)
    ]
    stops = [entry(f"x{i}", T + 1_000 * i, i, (), series=TERMINAL_TX) for i in range(2_000)]
    apply([*cards, *frauds, *stops], is_record_only=True)
    chunks = [key for key in valkey.keys(real) if b":card_tx:c1#" in key]
    assert sum(valkey.client.strlen(key) for key in chunks) > 2_400_000

    def some(entries: Sequence[Entry], count: int) -> list[Entry]:
        return [entries[i] for i in rng.choice(len(entries), count, replace=False)]

    late = [
        e._replace(event_time_ms=e.event_time_ms + 500, position=pack_position(PAYMENTS, 90_000))
        for entries, count in ((cards, 12), (stops, 12), (frauds, 12))
        for e in some(entries, count)
    ]
    apply(late)
    apply([e._replace(version_ms=T + 1, values=(1 - e.values[0],)) for e in some(frauds, 30)])
    again = [*some(cards, 60), *some(stops, 30)]
    apply(again)
    apply([e._replace(position=pack_position(PAYMENTS, 95_000)) for e in again])
    # And one so much later that nearly all of it goes.
    apply([cards[-1]._replace(event_time_ms=T + 81_000_000 + 2 * DAY_MS, id_hash=id_hash("end"))])
    kept = valkey.kept(real)
    assert kept == MemoryPlace().kept(twin)
    assert kept["card_tx", "c1"].base_count > 70_000
