"""From a labelled file to vectors: no label known too soon, no row taken that a worker refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace as replaced
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from feature_names import DEFAULT, DEFAULT_FEATURES, feature_set_of
from labelled import NOON_MS, Case, case_of, payment, read, rows_of
from msgspec.structs import replace
from numpy.typing import NDArray

from fraudstream.errors import InvalidEventError, UsageError
from fraudstream.event import EventRules, Record, Transaction, format_time, parse_transaction
from fraudstream.mapping import EventMapping
from fraudstream.profile import DAY_MS
from fraudstream.replay.source import PaymentFile, RowForm
from fraudstream.replay.span import TimeSpan
from fraudstream.replay.stream import Finding, LabelledStream, Payment
from fraudstream.training.dataset import LabelledVectors, Reading
from fraudstream.training.simulate import SimulationSpec, Transactions, simulate
from fraudstream.training.stream_file import write_stream

ROOT = Path(__file__).resolve().parents[2]
RATE_LAG = feature_set_of("terminal_fraud_rate_30d_lag7d")
RATE = feature_set_of("terminal_fraud_rate_30d")
AMOUNT = feature_set_of("amount")


def rates(folder: Path, days: list[float], frauds: list[bool], delay_days: int) -> list[float]:
    rows = rows_of(case_of(days, frauds), folder, RATE_LAG, delay_ms=delay_days * DAY_MS)
    return [float(rate) for rate in rows.vectors[:, 0]]


def test_a_fraud_is_seen_when_its_label_is_known_and_not_before(tmp_path: Path) -> None:
    assert rates(tmp_path, [0, 6.9, 7, 8], [True, False, False, False], 7) == [0, 0, 1, 1]
    # The payment is in the window from day 7 on; what it was is known from day 10 on.
    days = [0, 7, 8, 9.99, 10]
    assert rates(tmp_path, days, [True, *[False] * 4], 10)[:4] == [0, 0, 0, 0]
    assert rates(tmp_path, days, [True, *[False] * 4], 10)[4] > 0


def test_no_vector_knows_its_own_label(tmp_path: Path) -> None:
    payments = [payment(i, i / 10) for i in range(20)]
    if_all, if_none = (
        rows_of(Case(payments, [is_fraud] * 20), tmp_path, delay_ms=DAY_MS).vectors
        for is_fraud in (True, False)
    )
    np.testing.assert_array_equal(if_all, if_none)


@pytest.mark.parametrize("delay_days", [0, 0.5, 1])
def test_what_one_payment_turned_out_to_be_changes_later_vectors_alone(
    tmp_path: Path, delay_days: float
) -> None:
    """Some payments share a moment; without a delay the next in the stream knows already."""
    days = [0, 0, 0, 1, 1, 1.5, 1.5, 2, 2, 3]
    delay_ms = int(delay_days * DAY_MS)
    genuine = rows_of(case_of(days, [False] * 10), tmp_path, RATE, delay_ms=delay_ms)
    for fraud in range(9):
        is_fraud = [number == fraud for number in range(10)]
        rows = rows_of(case_of(days, is_fraud), tmp_path, RATE, delay_ms=delay_ms)
        is_changed = (rows.vectors != genuine.vectors).any(axis=1)
        known_from = days[fraud] + delay_days
        assert is_changed.tolist() == [
            number > fraud and day >= known_from for number, day in enumerate(days)
        ]


@pytest.mark.parametrize(
    ("days", "frauds", "expected"),
    [
        ([0, 1, 2], [True, False, False], [0, 1 / 2, 1 / 3]),
        # All at one moment: what comes later in the stream knows what came earlier.
        ([0, 0, 0, 0], [True, False, True, False], [0, 1 / 2, 1 / 3, 2 / 4]),
        ([0, 0, 1], [False, True, True], [0, 0, 1 / 3]),
        ([0, *[1] * 600], [False] * 600 + [True], [0.0] * 601),
        ([0] * 600, [True] * 600, [n / (n + 1) for n in range(600)]),
    ],
)
def test_without_a_delay_a_label_is_known_after_its_payment_only(
    tmp_path: Path, days: list[float], frauds: list[bool], expected: list[float]
) -> None:
    rows = rows_of(case_of(days, frauds), tmp_path, RATE, delay_ms=0)
    np.testing.assert_array_equal(rows.vectors[:, 0], np.array(expected, np.float32))


def test_training_knows_labels_in_the_order_in_which_a_replay_sends_them(tmp_path: Path) -> None:
    """A few times for many payments: who comes first within a millisecond matters."""
    rng = np.random.default_rng(5)
    times_ms = np.sort(rng.integers(NOON_MS, NOON_MS + 40, 300))
    payments = [replace(payment(i, 0), event_time_ms=int(t)) for i, t in enumerate(times_ms)]
    is_fraud = rng.random(300) < 0.5
    for delay_ms in (0, 1, 3):
        rows = rows_of(Case(payments, is_fraud), tmp_path, RATE, delay_ms=delay_ms)
        told = LabelledStream(
            [
                Payment(int(t), b"c", b"", Finding("t1", {}) if fraud else None)
                for t, fraud in zip(times_ms, is_fraud, strict=True)
            ],
            delay_ms,
        )
        seen, known, expected = 0, 0, []
        for event in told:
            known += event.is_label
            if not event.is_label:
                seen += 1
                expected.append(known / seen)
        np.testing.assert_array_equal(rows.vectors[:, 0], np.array(expected, np.float32))


def oracle_rates(
    world: Transactions, is_fraud: NDArray[np.bool_], delay_ms: int
) -> NDArray[np.float32]:
    """terminal_fraud_rate_7d_lag7d by counting, payment by payment."""
    times_ms, terminals = world.event_time_ms, world.terminal_id
    found = []
    for time_ms, terminal in zip(times_ms, terminals, strict=True):
        age_ms = time_ms - times_ms
        is_inside = (terminals == terminal) & (age_ms >= 7 * DAY_MS) & (age_ms < 14 * DAY_MS)
        frauds = (is_inside & is_fraud & (age_ms >= delay_ms)).sum()
        found.append(frauds / max(is_inside.sum(), 1))
    return np.array(found, np.float32)


@pytest.mark.parametrize("delay_days", [0, 7, 10])
def test_rates_are_those_of_a_plain_count(tmp_path: Path, delay_days: int) -> None:
    world = simulate(SimulationSpec(cards=40, terminals=6, days=30, seed=21))
    # Half of all payments: the more labels, the more moments at which something becomes known.
    is_fraud = np.arange(len(world)) % 2 == 0
    features = feature_set_of("terminal_fraud_rate_7d_lag7d")
    rows = rows_of(
        replaced(world, is_fraud=is_fraud), tmp_path, features, delay_ms=delay_days * DAY_MS
    )
    expected = oracle_rates(world, is_fraud, delay_days * DAY_MS)
    np.testing.assert_array_equal(rows.vectors[:, 0], expected)
    assert expected.max() > 0.4


# ------------------------------------------------------------------ rows


@pytest.fixture(scope="module")
def world() -> Transactions:
    return simulate(SimulationSpec(cards=80, terminals=160, days=30, seed=2))


@pytest.fixture(scope="module")
def file(world: Transactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "world.parquet"
    write_stream(world, file)
    return file


def require_rows_of(rows: LabelledVectors, world: Transactions) -> None:
    assert rows.transaction_id.tolist() == world.transaction_id.tolist()
    assert rows.card_id.tolist() == world.card_id.tolist()
    np.testing.assert_array_equal(rows.event_time_ms, world.event_time_ms)
    np.testing.assert_array_equal(rows.amount_minor, world.amount_minor)
    np.testing.assert_array_equal(rows.is_fraud, world.is_fraud)
    assert rows.vectors.dtype == np.float32
    assert rows.is_fraud.dtype == np.bool_


def test_every_payment_gets_a_vector_in_its_order(world: Transactions, file: Path) -> None:
    told: list[int] = []
    rows = read(file, on_progress=told.append)
    assert sum(told) == len(rows) == len(world)
    require_rows_of(rows, world)
    amounts = world.amount_minor / 100
    np.testing.assert_array_equal(rows.vectors[:, 0], amounts.astype(np.float32))
    assert not np.isnan(rows.vectors).any()


def test_columns_come_in_the_order_that_is_asked_for(file: Path) -> None:
    names = ("terminal_fraud_rate_7d_lag7d", "amount")
    all_rows, some = read(file), read(file, reading=Reading(DEFAULT, names))
    places = [[f.name for f in DEFAULT_FEATURES].index(name) for name in names]
    np.testing.assert_array_equal(some.vectors, all_rows.vectors[:, places])
    np.testing.assert_array_equal(all_rows.columns(places), some.vectors)


def test_what_comes_after_the_last_day_is_as_if_it_were_not_there(
    world: Transactions, file: Path, tmp_path: Path
) -> None:
    """Neither its payments nor what became known in it change what was before."""
    until_ms = int(world.event_time_ms[0]) // DAY_MS * DAY_MS + 21 * DAY_MS
    rows = read(file, reading=Reading(DEFAULT, until_ms=until_ms))
    assert rows.event_time_ms[-1] < until_ms
    assert rows.end_ms == until_ms
    pl.read_parquet(file)[: len(rows)].write_parquet(tmp_path / "short.parquet")
    assert rows.sha256() == read(tmp_path / "short.parquet").sha256()


def test_days_are_whole_days_of_utc(tmp_path: Path) -> None:
    rows = rows_of(case_of([0, 0.6, 2.4], [False] * 3), tmp_path, AMOUNT)
    midnight_ms = NOON_MS - DAY_MS // 2
    assert (rows.start_ms, rows.end_ms) == (midnight_ms, midnight_ms + 3 * DAY_MS)
    assert [len(rows.between(rows.start_ms, rows.start_ms + n * DAY_MS)) for n in (0, 1, 2, 3)] == [
        *(0, 1, 2, 3)
    ]


def test_between_takes_its_start_and_leaves_its_end(tmp_path: Path) -> None:
    rows = rows_of(case_of([0, 1, 2], [False] * 3), tmp_path, AMOUNT)
    first, second, third = rows.event_time_ms.tolist()
    assert rows.between(first, third).transaction_id.tolist() == ["tx0", "tx1"]
    assert rows.between(first + 1, third + 1).transaction_id.tolist() == ["tx1", "tx2"]
    assert not len(rows.between(second + 1, third))


def test_the_hash_is_of_all_that_a_model_can_learn_from(file: Path) -> None:
    rows = read(file)
    changed = rows.vectors.copy()
    changed[-1, -1] += 1
    flipped = rows.is_fraud.copy()
    flipped[0] = ~flipped[0]
    hashes = {
        rows.sha256(),
        replaced(rows, vectors=changed).sha256(),
        replaced(rows, is_fraud=flipped).sha256(),
        rows.take(slice(1, None)).sha256(),
    }
    assert len(hashes) == 4
    assert replaced(rows, segment=rows.card_id).sha256() == rows.sha256()


def test_a_segment_is_a_field_of_the_file_whether_or_not_a_feature_reads_it(
    file: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(file)[:100].with_columns(
        channel=pl.Series(["shop", None] * 50), currency=pl.lit("EUR")
    )
    frame.write_parquet(tmp_path / "file.parquet")
    for segment, expected in (
        ("channel", ["shop", ""] * 50),
        ("currency", ["EUR"] * 100),
        ("terminal_id", frame["terminal_id"].to_list()),
        (None, [""] * 100),
    ):
        rows = read(tmp_path / "file.parquet", reading=Reading(DEFAULT, segment=segment))
        assert rows.segment.tolist() == expected


def test_amounts_of_another_currency_are_not_known(tmp_path: Path) -> None:
    foreign = replace(payment(1, 1), currency="USD", amount_base_minor=None)
    rows = rows_of(Case([payment(0, 0), foreign], [False, True]), tmp_path, AMOUNT)
    assert rows.amount_minor.tolist() == [1000, -1]
    assert np.isnan(rows.vectors[1, 0])


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_written_stream_is_read_back(tmp_path: Path, suffix: str) -> None:
    world = simulate(SimulationSpec(cards=10, terminals=20, days=4, seed=6))
    file = tmp_path / f"stream{suffix}"
    write_stream(world, file)
    require_rows_of(read(file), world)


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    world = simulate(SimulationSpec(cards=10, terminals=20, days=4, seed=6))
    write_stream(world, tmp_path / "a.parquet")
    pl.read_parquet(tmp_path / "a.parquet").reverse().write_parquet(tmp_path / "b.parquet")
    backwards = read(tmp_path / "b.parquet")
    require_rows_of(backwards, world)
    np.testing.assert_array_equal(backwards.vectors, read(tmp_path / "a.parquet").vectors)


def test_foreign_columns_need_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "foreign.csv"
    file.write_text(
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n"
        "7,2018-07-25 10:11:12,17,3,57.16,1\n"
    )
    with pytest.raises(UsageError, match=r"lacks .* card_id, .* is_fraud .*--mapping FILE") as told:
        read(file)
    assert "--labels-after" not in str(told.value)
    fields = yaml.safe_load((ROOT / "configs" / "mappings" / "handbook.yaml").read_text())
    mapping = EventMapping.model_validate(fields)
    rows = read(file, reading=Reading(DEFAULT, mapping=mapping))
    assert (rows.card_id.tolist(), rows.amount_minor.tolist()) == (["17"], [5716])
    assert rows.event_time_ms.tolist() == [1_532_513_472_000]
    assert rows.is_fraud.tolist() == [True]


def bad_file(folder: Path, column: str, value: object, suffix: str = ".jsonl") -> Path:
    """Three payments, the second of which is bad."""
    rows: list[dict[str, object]] = [
        {
            "transaction_id": f"tx{number}",
            "event_time": "2026-01-01T12:00:00Z",
            "card_id": "c1",
            "terminal_id": "t1",
            "amount_minor": 100,
            "currency": "EUR",
            "is_fraud": False,
        }
        for number in range(3)
    ]
    rows[1][column] = value
    file = folder / f"bad{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pl.DataFrame(rows).write_csv(file)
    return file


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("card_id", "4111111111111111", "row 2: card_id: card_number"),
        ("amount_minor", -5, "row 2: amount_minor: out_of_range"),
        ("event_time", "yesterday", "row 2: event_time: "),
        ("is_fraud", None, "row 2: is_fraud: wrong_type"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_bad_row_is_named_by_number_and_never_by_value(
    tmp_path: Path, column: str, value: object, words: str, suffix: str
) -> None:
    file = bad_file(tmp_path, column, value, suffix)
    with pytest.raises(UsageError, match=words) as caught:
        read(file)
    assert str(value) not in str(caught.value)
    assert "--skip-invalid leaves them out" in str(caught.value)
    rows = read(file, reading=Reading(DEFAULT, is_lenient=True))
    assert rows.transaction_id.tolist() == ["tx0", "tx2"]


def test_a_bad_row_is_named_by_its_place_in_a_file_that_is_out_of_order(tmp_path: Path) -> None:
    file = bad_file(tmp_path, "amount_minor", -5)
    lines = file.read_text().replace("12:00:00", "{}").splitlines()
    times = ("14:00:00", "13:00:00", "12:00:00")
    file.write_text(
        "".join(line.replace("{}", time) + "\n" for line, time in zip(lines, times, strict=True))
    )
    with pytest.raises(UsageError, match="row 2: amount_minor: out_of_range"):
        read(file)


def test_a_file_of_bad_rows_alone_is_refused_even_if_they_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    foreign_rows(amount_minor=[-1, -2]).write_parquet(file)
    with pytest.raises(UsageError, match="no row is left: all of them break the event contract"):
        read(file, reading=Reading(DEFAULT, is_lenient=True))


def foreign_rows(**columns: list[object]) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    return pl.DataFrame(
        {
            "transaction_id": [f"tx{number}" for number in range(count)],
            "event_time": [format_time(NOON_MS + number) for number in range(count)],
            "card_id": "c1",
            "terminal_id": "t1",
            "amount_minor": 100,
            "currency": "EUR",
            "is_fraud": False,
        }
    ).with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def of(**fields: dict[str, str]) -> EventMapping:
    return EventMapping.model_validate({"fields": fields})


@pytest.mark.parametrize(
    ("suffix", "frame", "mapping"),
    [
        (".parquet", foreign_rows(fee=[Decimal("1.50"), None]), None),
        (".parquet", foreign_rows(fees=[[Decimal("1.50")], []], blob=[b"x", None]), None),
        (
            ".csv",
            foreign_rows(CARD=["0017", "0018"]),
            of(card_id={"from": "CARD", "prefix": "c"}),
        ),
        (
            ".csv",
            foreign_rows(PAID=[*["7"] * 200, "5.5"]),
            of(amount_minor={"from": "PAID", "unit": "major"}),
        ),
        (".csv", foreign_rows(is_fraud=["1", "0"]), None),
        (".csv", foreign_rows(is_fraud=["True", "false"]), None),
        (".csv", foreign_rows(note=["x", None], amount_base_minor=["", "3"]), None),
        (".ndjson", foreign_rows(is_fraud=[True, False]), None),
        (".csv", foreign_rows(amount_minor=["12", "a lot"]), None),
        (".csv", foreign_rows(amount_minor=["1" + "0" * 30, "a lot"]), None),
        (
            ".csv",
            foreign_rows(PAID=["1e40", "1"]),
            of(amount_minor={"from": "PAID", "unit": "major"}),
        ),
        (".csv", foreign_rows(event_time=["1e40", "1"]), of(event_time={"from": "event_time"})),
        (
            ".csv",
            foreign_rows(event_time=["1e40", "1767268800"], is_fraud=["1", "1"]),
            of(event_time={"from": "event_time", "unit": "s"}),
        ),
    ],
)
def test_training_reads_a_file_as_a_replay_does(
    tmp_path: Path, suffix: str, frame: pl.DataFrame, mapping: EventMapping | None
) -> None:
    """Accepted by both, as the same payments; or refused, by the row that a worker would refuse."""
    file = tmp_path / f"stream{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(file)
    elif suffix == ".csv":
        frame.write_csv(file)
    else:
        frame.write_ndjson(file)
    source = PaymentFile(file, RowForm(mapping), TimeSpan(), labels_after_ms=0)
    replayed: list[Transaction] = []
    refused: set[str] = set()
    for event in LabelledStream(source, None):
        try:
            record = Record("t", 0, 0, 2**53, event.key, event.value)
            replayed.append(parse_transaction(record, EventRules()))
        except InvalidEventError as error:
            refused.add(error.field)
    reading = Reading(DEFAULT, mapping=mapping, segment="terminal_id")
    if refused:
        with pytest.raises(UsageError) as caught:
            read(file, reading=reading)
        if replayed or refused != {"event_time"}:
            assert any(f": {field}: " in str(caught.value) for field in refused)
            assert re.search(r"row \d+: ", str(caught.value))
        else:
            assert "no row has an event time that can be read" in str(caught.value)
        return
    frauds = [paid.finding is not None for paid in source]
    rows = read(file, reading=reading)
    found = [
        (
            *(rows.transaction_id[i], int(rows.event_time_ms[i]), rows.card_id[i]),
            *(rows.segment[i], int(rows.amount_minor[i])),
        )
        for i in range(len(rows))
    ]
    assert found == [
        (
            *(t.transaction_id, t.event_time_ms, t.card_id, t.terminal_id),
            -1 if t.amount_base_minor is None else t.amount_base_minor,
        )
        for t in replayed
    ]
    assert rows.is_fraud.tolist() == frauds


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{broken", "row 2: record: invalid_json"),
        ("[1]", "row 2: record: not_an_object"),
        ('{"is_fraud": true}', "row 2: "),
    ],
)
def test_a_line_that_is_no_payment_is_named_by_number(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "stream.jsonl"
    foreign_rows(card_id=["c1"]).write_ndjson(file)
    file.write_text(file.read_text() + content)
    with pytest.raises(UsageError, match=words):
        read(file)


def test_times_without_a_zone_are_refused_with_the_mapping_that_gives_one(tmp_path: Path) -> None:
    file = tmp_path / "naive.parquet"
    foreign_rows(event_time=[datetime(2026, 1, 1)]).write_parquet(file)  # noqa: DTZ001
    with pytest.raises(UsageError, match="zone: UTC"):
        read(file)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_without_rows_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"empty{suffix}"
    nothing = foreign_rows(card_id=["c1"]).clear()
    nothing.write_parquet(file) if suffix == ".parquet" else nothing.write_csv(file)
    with pytest.raises(UsageError, match="holds no rows"):
        read(file)


def test_a_file_that_ends_before_the_days_that_are_asked_for_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="no row lies between"):
        read(file, reading=Reading(DEFAULT, until_ms=DAY_MS))


@pytest.mark.parametrize("name", ["missing.parquet", "missing.csv", "stream.xlsx"])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no such file|must end in"):
        read(tmp_path / name)
