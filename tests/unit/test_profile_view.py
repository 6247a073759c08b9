"""What a look at a profile says, against a count by hand."""

from __future__ import annotations

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_runs import RunCollector
from fraudstream.event import Label, Transaction
from fraudstream.feature_set import parse_feature_set
from fraudstream.profile import DAY_MS, id_hash
from fraudstream.profile_view import SeriesView, view_series

T = 1_600_000_000_000
HOUR_MS = 3_600_000
FEATURES = parse_feature_set(
    {
        "version": 1,
        "name": "looked-at",
        "entities": {"card": {"field": "card_id"}, "terminal": {"field": "terminal_id"}},
        "series": {
            "card_tx": {"entity": "card", "records": "transactions", "keeps": ["amount"]},
            "terminal_label": {"entity": "terminal", "records": "labels"},
            "terminal_tx": {"entity": "terminal", "records": "transactions"},
        },
        "features": [
            {"aggregate": "count", "series": "card_tx", "windows": ["1d"]},
            {"aggregate": "mean", "series": "card_tx", "windows": ["1d", "2h"]},
            {"aggregate": "seconds_since_last", "series": "card_tx", "windows": ["7d"]},
            {
                "aggregate": "rate",
                "series": "terminal_label",
                "against": "terminal_tx",
                "windows": ["1d"],
                "lag": "1h",
            },
        ],
    }
)
DEFINITION = FEATURES.profile_definition("EUR")
NUMBERS = {series.name: number for number, series in enumerate(DEFINITION.series)}


def kept() -> MemoryBackend:
    backend = MemoryBackend(DEFINITION)
    collector = RunCollector(DEFINITION)
    payments = [
        Transaction(f"x{n}", T + n * HOUR_MS, "c1", "t1", 1, "EUR", 100 * n) for n in range(10)
    ]
    collector.add_transactions(payments, [0x01_0003_0000000000 + n + 1 for n in range(10)])
    collector.add_labels([Label("x2", T + 2 * HOUR_MS, "c1", "t1", True, T + DAY_MS, "s")], [0])
    backend.merge(list(collector.take()))
    return backend


def look(
    backend: MemoryBackend, name: str, entity: str, at_ms: int, floor_ms: int = 0
) -> SeriesView:
    content = backend.content(NUMBERS[name], entity)
    assert content is not None
    series = DEFINITION.series[NUMBERS[name]]
    return view_series(series, content, at_ms, floor_ms, FEATURES.features)


def test_windows_hold_what_lies_in_them_as_of_the_time() -> None:
    view = look(kept(), "card_tx", "c1", T + 5 * HOUR_MS + 1)
    by_name = {window.name: window for window in view.windows}
    assert by_name["2h"].count == 2  # hours 4 and 5
    assert by_name["2h"].sums == {"amount_minor": 900, "amount_known": 2}
    assert by_name["2h"].features == ("card_amount_mean_2h",)
    assert by_name["1d"].count == 6
    assert by_name["1d"].features == ("card_tx_count_1d", "card_amount_mean_1d")
    (last,) = (window for window in view.windows if window.name.startswith("last"))
    assert last.value == 1
    assert (view.records, view.first_ms, view.last_ms) == (10, T, T + 9 * HOUR_MS)


def test_the_latest_records_come_first_with_their_source() -> None:
    view = look(kept(), "card_tx", "c1", T)
    assert [record.time_ms for record in view.latest] == [T + n * HOUR_MS for n in range(9, 4, -1)]
    newest = view.latest[0]
    assert newest.source == (1, 3, 9)
    assert newest.id_hash == id_hash("x9").hex()
    assert newest.values == {"amount_minor": 900, "amount_known": 1}
    assert newest.reported_at_ms is None


def test_a_finding_tells_when_it_was_made_and_that_kafka_has_no_record() -> None:
    (record,) = look(kept(), "terminal_label", "t1", T + DAY_MS).latest
    assert (record.source, record.reported_at_ms) == (None, T + DAY_MS)
    assert record.values == {"fraud": 1}


def test_what_cannot_be_known_is_said_to_be_unknown() -> None:
    backend = kept()
    at_ms = T + 5 * HOUR_MS
    assert look(backend, "card_tx", "c1", at_ms, floor_ms=T).windows[0].name == "2h"
    by_name = {w.name: w for w in look(backend, "card_tx", "c1", at_ms, floor_ms=T).windows}
    assert (by_name["1d"].count, by_name["1d"].sums) == (None, {})
    assert by_name["2h"].count == 2
    backend.forget(NUMBERS["card_tx"], "c1", T + 4 * HOUR_MS)
    forgotten = look(backend, "card_tx", "c1", at_ms)
    assert forgotten.known_from_ms == T + 4 * HOUR_MS
    assert all(window.count is None for window in forgotten.windows)
    assert forgotten.records == 5
