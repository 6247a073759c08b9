"""A replay's pure parts: words, order, labels, pacing, books; and rows of files as payments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudstream.errors import BrokerUnavailableError, ServiceAwayError, UsageError
from fraudstream.event import EventRules, Record, format_time, parse_label, parse_transaction
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.replay.backlog import Backlog, GroupWatch, Patience
from fraudstream.replay.source import CONFLUENT_FRAMING, PaymentFile, RowForm
from fraudstream.replay.span import TimeSpan, parse_duration, parse_span, parse_time
from fraudstream.replay.speed import Speed, parse_speed
from fraudstream.replay.stream import (
    Finding,
    LabelledStream,
    Payment,
    ReplayEvent,
    stream_of_columns,
)
from fraudstream.training.simulate import SimulationSpec, simulate

DAY_MS = 86_400_000
T0_MS = 1_530_403_200_000  # 2018-07-01T00:00:00Z
SAME = {"transaction_id": "tx1", "event_time": "t", "card_id": "c", "terminal_id": "t1"}
FINDING = Finding("t1", SAME)
MAPPING = EventMapping.model_validate(
    {
        "fields": {
            "transaction_id": {"from": "ID", "prefix": "tx"},
            "event_time": {"from": "WHEN", "zone": "UTC"},
            "card_id": {"from": "CARD", "prefix": "c"},
            "terminal_id": {"from": "TERMINAL", "prefix": "t"},
            "amount_minor": {"from": "AMOUNT", "unit": "major"},
            "currency": {"value": "EUR"},
            "is_fraud": {"from": "FRAUD"},
        }
    }
)


# Words of the command


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("1x", Speed(event_time_factor=1)),
        ("60x", Speed(event_time_factor=60)),
        ("0.5x", Speed(event_time_factor=0.5)),
        ("500/s", Speed(rate_per_s=500)),
        ("0.1/s", Speed(rate_per_s=0.1)),
        ("max", Speed()),
    ],
)
def test_speeds_are_read(text: str, speed: Speed) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "0x", "0/s", "-1x", "60", "x", "1e3x", "500/m", "٣x"])
def test_what_is_no_speed_is_answered_by_all_that_are(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_speed(text)
    assert all(word in str(refused.value) for word in ("1x", "60x", "500/s", "max"))


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2018-07-01", T0_MS),
        ("2018-07-01T00:00:00Z", T0_MS),
        ("2018-07-01T00:00:00", T0_MS),
        ("2018-07-01T02:00:00.250+02:00", T0_MS + 250),
    ],
)
def test_times_are_read(text: str, time_ms: int) -> None:
    assert parse_time(text, "--from") == time_ms


def test_what_is_no_time_is_answered_by_an_example() -> None:
    with pytest.raises(UsageError, match="--until yesterday: write a date like 2018-07-01"):
        parse_span(None, "yesterday")


def test_a_span_holds_its_beginning_and_not_its_end() -> None:
    span = parse_span("2018-07-01", "2018-07-02")
    assert [ms in span for ms in (T0_MS - 1, T0_MS, T0_MS + DAY_MS - 1, T0_MS + DAY_MS)] == [
        False,
        True,
        True,
        False,
    ]
    assert 0 in TimeSpan()


@pytest.mark.parametrize("until", ["2018-07-01", "2018-06-30"])
def test_a_span_that_holds_nothing_is_refused(until: str) -> None:
    with pytest.raises(UsageError, match="the second time must be the later one"):
        parse_span("2018-07-01", until)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("7d", 7 * DAY_MS), ("12h", DAY_MS // 2), ("30m", 1_800_000), ("45s", 45_000), ("0d", 0)],
)
def test_durations_are_read(text: str, duration_ms: int) -> None:
    assert parse_duration(text, "--labels-after") == duration_ms


@pytest.mark.parametrize("text", ["7", "d", "-7d", "7 days", "1.5d"])
def test_what_is_no_duration_is_answered_by_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"--labels-after .*7d"):
        parse_duration(text, "--labels-after")


# Pacing


def test_a_rate_is_kept_from_the_start_and_not_from_event_to_event() -> None:
    speed = parse_speed("500/s")
    assert speed.due_s(0, 0) == 0
    assert speed.due_s(100_000, 5) == 200.0
    # However far the clock is behind, the next one is due where it always was.
    assert speed.due_s(100_001, 5) - speed.due_s(100_000, 5) == pytest.approx(0.002)


def test_event_time_passes_by_the_factor() -> None:
    assert parse_speed("1x").due_s(7, 90_000) == 90.0
    assert parse_speed("60x").due_s(7, 90_000) == 1.5
    assert parse_speed("max").due_s(7, 90_000) == 0.0


# Labels among payments


def merged(times_ms: Sequence[int], frauds: Sequence[bool], after_ms: int | None) -> list[Any]:
    payments = [
        Payment(time_ms, b"c", b"{}", FINDING if fraud else None)
        for time_ms, fraud in zip(times_ms, frauds, strict=True)
    ]
    return [(event.time_ms, event.is_label) for event in LabelledStream(payments, after_ms)]


def test_a_label_goes_before_the_payments_of_its_moment() -> None:
    assert merged([0, 5, 10, 10, 11], [True, False, False, True, False], 10) == [
        (0, False),
        (5, False),
        (10, True),
        (10, False),
        (10, False),
        (11, False),
    ]


def test_a_label_without_delay_follows_its_payment() -> None:
    assert merged([3, 3, 4], [True, False, False], 0) == [
        (3, False),
        (3, True),
        (3, False),
        (4, False),
    ]


def test_genuine_payments_have_no_labels_and_none_are_made_unasked() -> None:
    assert not any(is_label for _, is_label in merged([0, 100], [False, False], 1))
    assert not any(is_label for _, is_label in merged([0, 100], [True, True], None))


def test_labels_after_the_end_are_made_and_not_given_out() -> None:
    stream = LabelledStream([Payment(0, None, b"", FINDING), Payment(9, None, b"", FINDING)], 5)
    assert sum(event.is_label for event in stream) == 1
    assert stream.labels_made == 2


@given(
    payments=st.lists(st.tuples(st.integers(0, 50), st.booleans())),
    after_ms=st.integers(0, 30),
)
def test_the_stream_is_in_order_and_whole(payments: list[tuple[int, bool]], after_ms: int) -> None:
    payments.sort(key=lambda payment: payment[0])
    times_ms = [time_ms for time_ms, _ in payments]
    events = merged(times_ms, [fraud for _, fraud in payments], after_ms)
    assert [time_ms for time_ms, is_label in events if not is_label] == times_ms
    assert [time_ms for time_ms, _ in events] == sorted(time_ms for time_ms, _ in events)
    reported_ms = [time_ms + after_ms for time_ms, fraud in payments if fraud]
    found_ms = [time_ms for time_ms, is_label in events if is_label]
    end_ms = times_ms[-1] if times_ms else 0
    certain_ms = [time_ms for time_ms in reported_ms if time_ms < end_ms]
    assert found_ms[: len(certain_ms)] == certain_ms
    assert all(time_ms == end_ms for time_ms in found_ms[len(certain_ms) :])


def test_a_simulated_world_becomes_events_that_the_contract_accepts() -> None:
    world = simulate(SimulationSpec(cards=30, terminals=60, days=60, seed=3))
    stream = stream_of_columns(world, 7 * DAY_MS)
    events = list(stream)
    transactions = [
        parse_transaction(record(event, number), EventRules())
        for number, event in enumerate(events)
        if not event.is_label
    ]
    assert [t.transaction_id for t in transactions] == world.transaction_id.tolist()
    assert [t.event_time_ms for t in transactions] == world.event_time_ms.tolist()
    assert [t.amount_minor for t in transactions] == world.amount_minor.tolist()
    assert {t.unknown_fields for t in transactions} == {0}
    labels = [parse_label(record(event, 0), EventRules()) for event in events if event.is_label]
    frauds = dict(
        zip(
            world.transaction_id[world.is_fraud].tolist(),
            world.event_time_ms[world.is_fraud].tolist(),
            strict=True,
        )
    )
    assert stream.labels_made == len(frauds) > len(labels) > 0
    for label in labels:
        assert label.reported_at_ms == label.event_time_ms + 7 * DAY_MS
        assert frauds[label.transaction_id] == label.event_time_ms
        assert (label.is_fraud, label.source) == (True, "replay")
    keys = {event.key for event in events if event.is_label}
    assert keys == {label.terminal_id.encode() for label in labels}


def test_a_span_cuts_a_simulated_world() -> None:
    world = simulate(SimulationSpec(cards=30, terminals=60, days=5, seed=3))
    first_ms, end_ms = int(world.event_time_ms[10]), int(world.event_time_ms[20])
    events = list(stream_of_columns(world, None, TimeSpan(first_ms, end_ms)))
    inside = (world.event_time_ms >= first_ms) & (world.event_time_ms < end_ms)
    assert [event.time_ms for event in events] == world.event_time_ms[inside].tolist()


def record(event: ReplayEvent, offset: int) -> Record:
    return Record("topic", 0, offset, 2**42, event.key, event.value)


# Books


def test_what_is_sent_counts_until_it_is_committed() -> None:
    backlog = Backlog()
    for time_ms in range(5):
        backlog.note_sent(time_ms)
    assert (backlog.records, backlog.undelivered) == (5, 5)
    for time_ms, (partition, offset) in enumerate(((0, 7), (0, 8), (1, 100), (1, 101))):
        backlog.note_delivered("t", partition, offset, time_ms)
    assert backlog.undelivered == 1
    backlog.note_committed({("t", 0): 8})
    assert backlog.records == 1 + 1 + 2
    backlog.note_committed({("t", 0): 9, ("t", 1): 102})
    assert backlog.records == 1
    backlog.note_sent(5)
    assert backlog.records == 2


def test_records_of_others_in_between_are_not_ours() -> None:
    backlog = Backlog()
    for offset in (10, 5_000):
        backlog.note_sent(offset)
        backlog.note_delivered("t", 0, offset, offset)
    backlog.note_committed({("t", 0): 4_999})
    assert backlog.records == 1
    backlog.note_committed({("t", 0): 5_001})
    assert backlog.records == 0


def test_event_time_in_flight_counts_from_the_oldest_that_is_not_committed() -> None:
    backlog = Backlog()
    assert backlog.span_ms(99) == 0
    for time_ms, partition in ((10, 0), (20, 1), (30, 0), (40, 1)):
        backlog.note_sent(time_ms)
        assert backlog.span_ms(time_ms) == time_ms - 10
        backlog.note_delivered("t", partition, time_ms, time_ms)
    # The one partition is done, the other has not begun: it is the slowest that counts.
    backlog.note_committed({("t", 0): 31})
    assert backlog.span_ms(50) == 30
    backlog.note_committed({("t", 0): 31, ("t", 1): 21})
    assert backlog.span_ms(50) == 10
    backlog.note_sent(50)
    backlog.note_committed({("t", 0): 31, ("t", 1): 41})
    assert backlog.span_ms(50) == 10  # as far as the books know, until Kafka has taken it
    backlog.note_delivered("t", 2, 7, 50)
    backlog.note_committed({("t", 0): 31, ("t", 1): 41})
    assert backlog.span_ms(60) == 10
    backlog.note_committed({("t", 0): 31, ("t", 1): 41, ("t", 2): 8})
    assert (backlog.span_ms(10**9), backlog.records) == (0, 0)


class Group(GroupWatch):
    """A group as the test says, and no Kafka."""

    def __init__(self, members: Sequence[bool | None]) -> None:
        self.group_id = "g"
        self._members = iter(members)

    def has_members(self) -> bool:
        answer = next(self._members)
        if answer is None:
            raise BrokerUnavailableError("no answer")
        return answer


def seconds_of_patience(members: Sequence[bool | None]) -> int | None:
    now_s = 0
    patience = Patience(Group(members), limit_s=60, clock=lambda: now_s)
    for now_s in range(len(members) + 1):
        try:
            patience.check(T0_MS)
        except ServiceAwayError:
            return now_s
    return None


def test_a_worker_that_comes_back_is_waited_for() -> None:
    assert seconds_of_patience([True, *[False] * 50, None, True, *[False] * 50, True]) is None


@pytest.mark.parametrize("nobody", [False, None])
def test_an_empty_group_is_not_waited_for_without_end(nobody: bool | None) -> None:
    assert seconds_of_patience([True] * 10 + [nobody] * 100) == 70


# Files


def rows(count: int = 6) -> list[dict[str, object]]:
    return [
        {
            "transaction_id": f"tx{number}",
            "event_time": format_time(T0_MS + 1_000 * number),
            "card_id": f"0{number}",
            "terminal_id": f"t{number % 2}",
            "amount_minor": 100 + number,
            "currency": "EUR",
            "is_fraud": number == 1,
            "fraud_kind": int(number == 1),
            "note": "x",
        }
        for number in range(count)
    ]


def write(folder: Path, suffix: str, content: list[dict[str, object]]) -> Path:
    file = folder / f"stream{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
        return file
    frame = pl.DataFrame(content)
    if suffix == ".parquet":
        frame.with_columns(pl.col("event_time").str.to_datetime("%+")).write_parquet(file)
    else:
        frame.write_csv(file)
    return file


def opened(file: Path, form: RowForm | None = None, span: TimeSpan | None = None) -> PaymentFile:
    return PaymentFile(file, form or RowForm(), span or TimeSpan(), labels_after_ms=0)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_each_kind_of_file_gives_the_same_payments(tmp_path: Path, suffix: str) -> None:
    payments = list(opened(write(tmp_path, suffix, rows())))
    for row, payment in zip(rows(), payments, strict=True):
        is_fraud = row.pop("is_fraud")
        del row["fraud_kind"]  # the truth stays here
        assert json.loads(payment.value or b"") == row
        assert payment.key == str(row["card_id"]).encode()
        assert (payment.finding is not None) is is_fraud
        assert format_time(payment.time_ms) == row["event_time"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_in_disorder_is_sorted_and_equal_times_stay(tmp_path: Path, suffix: str) -> None:
    content = rows()
    for number, second in enumerate((3, 1, 1, 2, 0, 1)):
        content[number]["event_time"] = format_time(T0_MS + 1_000 * second)
    file = opened(write(tmp_path, suffix, content))
    assert not file.is_in_order
    order = [json.loads(payment.value or b"")["transaction_id"] for payment in file]
    assert order == ["tx4", "tx1", "tx2", "tx5", "tx3", "tx0"]
    assert opened(write(tmp_path, suffix, rows())).is_in_order


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_is_cut_to_a_span(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path, suffix, rows())
    cut = opened(file, span=TimeSpan(T0_MS + 2_000, T0_MS + 4_000))
    assert (len(cut), cut.first_ms, cut.last_ms) == (2, T0_MS + 2_000, T0_MS + 3_000)
    assert [payment.time_ms for payment in cut] == [T0_MS + 2_000, T0_MS + 3_000]
    with pytest.raises(UsageError, match=r"go from 2018-07-01T00:00:00\.000Z to"):
        opened(file, span=TimeSpan(T0_MS + DAY_MS, None))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_a_replay_in_two_parts_sends_what_one_in_whole_sends(
    tmp_path: Path, suffix: str, is_sorted: bool
) -> None:
    content = [{**row, "is_fraud": number % 2 == 0} for number, row in enumerate(rows(20))]
    file = write(tmp_path, suffix, content if is_sorted else content[::-1])
    after_ms, cut_ms = 5_000, T0_MS + 11_000

    def sent(span: TimeSpan) -> list[ReplayEvent]:
        payments = PaymentFile(file, RowForm(), span, labels_after_ms=after_ms)
        events = list(LabelledStream(payments, after_ms))
        assert len(payments) == sum(not event.is_label for event in events)
        assert payments.first_ms == min(e.time_ms for e in events if not e.is_label)
        return events

    whole = sent(TimeSpan())
    # Labels of the frauds at 6, 8 and 10 seconds are due after the cut, before which they lie.
    assert sent(TimeSpan(None, cut_ms)) + sent(TimeSpan(cut_ms)) == whole
    assert sum(event.is_label for event in whole) == 8


def test_only_rows_before_the_span_are_no_replay(tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl", rows())
    with pytest.raises(UsageError, match="no row lies between --from and --until"):
        PaymentFile(file, RowForm(), TimeSpan(T0_MS + DAY_MS), labels_after_ms=2 * DAY_MS)


def test_more_rows_than_a_slice_keep_their_order(tmp_path: Path) -> None:
    count = 20_000
    frame = pl.DataFrame(
        {
            "transaction_id": [f"tx{number}" for number in range(count)],
            "event_time": np.arange(count)[::-1] + T0_MS,
            "card_id": "c",
            "terminal_id": "t",
            "amount_minor": 1,
            "currency": "EUR",
            "is_fraud": False,
        }
    )
    frame.write_parquet(tmp_path / "big.parquet")
    payments = list(opened(tmp_path / "big.parquet"))
    assert [payment.time_ms for payment in payments] == list(range(T0_MS, T0_MS + count))
    assert json.loads(payments[0].value or b"")["transaction_id"] == "tx19999"
    assert json.loads(payments[0].value or b"")["event_time"] == "2018-07-01T00:00:00.000Z"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_foreign_columns_are_mapped(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(
        {
            "ID": [7, 8],
            "WHEN": [datetime(2018, 7, 1), datetime(2018, 7, 1, 0, 0, 5)],  # noqa: DTZ001
            "CARD": [1, 2],
            "TERMINAL": [3, 4],
            "AMOUNT": [57.16, 1.1],
            "FRAUD": [0, 1],
            "SHOP": ["a", "b"],
        }
    )
    file = tmp_path / f"foreign{suffix}"
    frame.write_parquet(file) if suffix == ".parquet" else frame.write_csv(file)
    first, second = opened(file, RowForm(MAPPING))
    assert json.loads(second.value or b"") == {
        "transaction_id": "tx8",
        "event_time": "2018-07-01T00:00:05.000Z",
        "card_id": "c2",
        "terminal_id": "t4",
        "amount_minor": 110,
        "currency": "EUR",
        "SHOP": "b",
    }
    assert (first.finding, second.key, second.time_ms) == (None, b"c2", T0_MS + 5_000)
    assert second.finding is not None
    assert second.finding.terminal_id == "t4"
    assert second.finding.fields == {
        "transaction_id": "tx8",
        "event_time": "2018-07-01T00:00:05.000Z",
        "card_id": "c2",
        "terminal_id": "t4",
    }
    with pytest.raises(UsageError) as refused:
        opened(file)
    assert "lacks transaction_id, event_time" in str(refused.value)
    assert "ID, WHEN, CARD, TERMINAL, AMOUNT, FRAUD, SHOP" in str(refused.value)
    assert "--mapping FILE" in str(refused.value)


def test_where_workers_map_rows_keep_their_own_names(tmp_path: Path) -> None:
    row = {"ID": 1, "WHEN": "2018-07-01T00:00:00", "CARD": 2, "TERMINAL": 3, "AMOUNT": 1.5}
    file = tmp_path / "foreign.jsonl"
    file.write_text(json.dumps({**row, "FRAUD": 1}))
    form = RowForm(MAPPING, is_mapped_by_worker=True, framing=CONFLUENT_FRAMING)
    (payment,) = opened(file, form)
    assert payment.value is not None
    assert payment.value[:5] == CONFLUENT_FRAMING
    assert json.loads(payment.value[5:]) == row
    assert payment.key == b"c2"
    assert payment.finding is not None
    label, *_ = (
        event for event in LabelledStream([payment, payment], 0, form.framing) if event.is_label
    )
    rules = EventRules(framing="confluent", mapping=compile_mapping(MAPPING))
    assert parse_label(record(label, 0), rules).transaction_id == "tx1"


def mapping_of(**fields: dict[str, str]) -> EventMapping:
    return EventMapping.model_validate({"fields": fields})


PREFIXES = mapping_of(
    transaction_id={"from": "transaction_id", "prefix": "x"},
    event_time={"from": "event_time", "unit": "s"},
    card_id={"from": "card_id", "prefix": "c"},
    terminal_id={"from": "terminal_id", "prefix": "t"},
)
OWN_NAMES = {"transaction_id": "7", "event_time": 1_530_403_200, "card_id": "17"}
OWN_NAMES |= {"terminal_id": "5", "amount_minor": 1, "currency": "EUR", "is_fraud": True}
FOREIGN = {"ID": 7, "WHEN": "2018-07-01T02:00:00", "CARD": 17, "TERMINAL": 5, "AMOUNT": 1.5}
FOREIGN |= {"FRAUD": 1}


@pytest.mark.parametrize(
    ("mapping", "row"),
    [
        (PREFIXES, OWN_NAMES),
        (MAPPING, FOREIGN),
        (MAPPING, {"card_id": "c1", **{n: v for n, v in FOREIGN.items() if n != "CARD"}}),
        (mapping_of(terminal_id={"value": "only-one"}), {**OWN_NAMES, "event_time": T0_MS}),
        (
            mapping_of(
                reported_at={"from": "SAID_AT", "unit": "s", "zone": "Europe/Berlin"},
                is_fraud={"from": "FRAUD"},
                source={"from": "BY"},
            ),
            {**OWN_NAMES, "event_time": "2018-07-01T00:00:00Z", "FRAUD": 1},
        ),
        (None, {**OWN_NAMES, "event_time": T0_MS}),
    ],
)
@pytest.mark.parametrize("is_mapped_by_worker", [True, False])
def test_a_worker_reads_the_same_payment_in_a_transaction_and_in_its_label(
    tmp_path: Path,
    mapping: EventMapping | None,
    row: dict[str, object],
    is_mapped_by_worker: bool,
) -> None:
    file = tmp_path / "stream.jsonl"
    file.write_text(json.dumps(row))
    form = RowForm(mapping, is_mapped_by_worker=is_mapped_by_worker and mapping is not None)
    payment, label, *_ = LabelledStream(list(opened(file, form)) * 2, 0)
    rules = EventRules(
        mapping=compile_mapping(mapping) if form.is_mapped_by_worker and mapping else None
    )
    paid, found = parse_transaction(record(payment, 0), rules), parse_label(record(label, 0), rules)
    names = ("transaction_id", "event_time_ms", "card_id", "terminal_id")
    assert [getattr(found, name) for name in names] == [getattr(paid, name) for name in names]
    assert (found.is_fraud, found.source) == (True, "replay")
    assert found.reported_at_ms == payment.time_ms
    assert label.key == paid.terminal_id.encode()


def test_a_mapping_that_misses_a_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "foreign.csv"
    file.write_text("ID,WHEN,CARD,TERMINAL\n1,2018-07-01,1,2\n")
    with pytest.raises(
        UsageError, match=r"lacks amount_minor, is_fraud .*the mapping does not say"
    ):
        opened(file, RowForm(MAPPING))


def test_truth_is_asked_for_only_where_there_are_labels(tmp_path: Path) -> None:
    content = [{n: v for n, v in row.items() if n != "is_fraud"} for row in rows()]
    file = write(tmp_path, ".csv", content)
    assert len(PaymentFile(file, RowForm(), TimeSpan())) == 6
    with pytest.raises(UsageError, match=r"lacks is_fraud \(for --labels-after\)"):
        opened(file)


def test_times_without_a_zone_are_refused_with_the_mapping_that_gives_one(tmp_path: Path) -> None:
    frame = pl.DataFrame(rows()).with_columns(event_time=datetime(2018, 7, 1))  # noqa: DTZ001
    frame.write_parquet(tmp_path / "naive.parquet")
    with pytest.raises(UsageError, match="zone: UTC"):
        opened(tmp_path / "naive.parquet")


def test_bad_rows_go_on_as_they_are_in_their_places(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in rows(4)]
    bad = {**rows(1)[0], "event_time": "soon", "amount_minor": "12"}
    file = tmp_path / "stream.jsonl"
    file.write_text("\n".join([good[0], "{broken", good[1], json.dumps(bad), "[1]", "", good[2]]))
    found = opened(file)
    assert (len(found), found.without_time, found.is_in_order) == (6, 3, True)
    payments = list(found)
    assert [payment.time_ms - T0_MS for payment in payments] == [0, 0, 1_000, 1_000, 1_000, 2_000]
    assert (payments[1].value, payments[4].value) == (b"{broken", b"[1]")
    assert json.loads(payments[3].value or b"")["amount_minor"] == "12"
    assert json.loads(payments[3].value or b"")["event_time"] == "soon"


@pytest.mark.parametrize("absurd_ms", [-5, 10**15, 2**62])
def test_absurd_times_move_nothing(tmp_path: Path, absurd_ms: int) -> None:
    content = rows(3)
    content[1]["event_time"] = absurd_ms
    found = opened(write(tmp_path, ".jsonl", content))
    assert (found.without_time, found.is_in_order) == (1, True)
    assert [payment.time_ms - T0_MS for payment in found] == [0, 0, 2_000]
    assert [json.loads(payment.value or b"")["event_time"] for payment in found][1] == absurd_ms
    assert len([event for event in LabelledStream(found, 1_000) if event.is_label]) == 1


def test_a_bad_cell_of_csv_spoils_its_own_row_only(tmp_path: Path) -> None:
    file = write(tmp_path, ".csv", rows(3))
    file.write_text(file.read_text().replace(",101,", ",a lot,"))
    amounts = [json.loads(payment.value or b"")["amount_minor"] for payment in opened(file)]
    assert amounts == [100, "a lot", 102]


def test_epoch_milliseconds_in_csv_are_times(tmp_path: Path) -> None:
    content = [{**row, "event_time": T0_MS + n} for n, row in enumerate(rows(2))]
    payments = list(opened(write(tmp_path, ".csv", content)))
    assert [payment.time_ms for payment in payments] == [T0_MS, T0_MS + 1]
    assert json.loads(payments[1].value or b"")["event_time"] == format_time(T0_MS + 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("stream.parquet", "not parquet", "cannot be read as parquet"),
        ("stream.xlsx", "", "must end in .parquet, .csv or .jsonl"),
        ("stream.jsonl", "", "lacks"),
        ("stream.csv", "", "cannot be read as csv"),
        ("missing.jsonl", None, "no such file"),
        ("missing.csv", None, "no such file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=words):
        opened(tmp_path / name)


def test_a_file_without_rows_or_times_is_refused(tmp_path: Path) -> None:
    pl.DataFrame(rows()).clear().write_csv(tmp_path / "empty.csv")
    with pytest.raises(UsageError, match="holds no rows"):
        opened(tmp_path / "empty.csv")
    content = [{**row, "event_time": "later"} for row in rows()]
    with pytest.raises(UsageError, match="no row has an event time that can be read"):
        opened(write(tmp_path, ".csv", content))


def test_a_label_beyond_the_last_time_is_not_made() -> None:
    payment = Payment(int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000, None, b"")
    stream = LabelledStream([payment._replace(finding=FINDING)], 7 * DAY_MS)
    assert [event.is_label for event in stream] == [False]
    assert stream.labels_made == 0
