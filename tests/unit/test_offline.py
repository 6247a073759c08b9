"""Files of payments in, features out: verdicts on rows, order, labels, mistakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fraudstream.cli import app
from fraudstream.errors import InvalidEventError, UsageError
from fraudstream.event import EventRules, Record, Transaction, parse_transaction
from fraudstream.feature_files import default_feature_set
from fraudstream.mapping import EventMapping, compile_mapping
from fraudstream.offline.columns import Payments
from fraudstream.offline.contract import Rules, check_payments
from fraudstream.offline.evaluator import Evaluator, answers
from fraudstream.offline.labels import LabelsAfter
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Plan
from fraudstream.offline.writing import write_features
from fraudstream.profile import MEASURES, ProfileDefinition, Series, Window, transaction_values
from fraudstream.rows import encode_row

DAY_MS = 86_400_000
START_MS = 1_532_476_800_000
GOOD: dict[str, Any] = {
    "transaction_id": "t1",
    "event_time": START_MS,
    "card_id": "c1",
    "terminal_id": "m1",
    "amount_minor": 5716,
    "currency": "EUR",
    "amount_base_minor": None,
}
FOREIGN = EventMapping.model_validate(
    {
        "fields": {
            "transaction_id": {"from": "ID"},
            "event_time": {"from": "AT", "zone": "Europe/Berlin"},
            "card_id": {"from": "CARD", "prefix": "c"},
            "terminal_id": {"from": "SHOP"},
            "amount_minor": {"from": "AMOUNT", "unit": "major"},
            "currency": {"from": "CURRENCY"},
        }
    }
)
FOREIGN_GOOD: dict[str, Any] = {
    "ID": 1,
    "AT": datetime(2018, 7, 25, 2),  # noqa: DTZ001 - a time without a zone is what is mapped
    "CARD": 17,
    "SHOP": 3,
    "AMOUNT": 57.16,
    "CURRENCY": "EUR",
}


def verdict(row: dict[str, Any], rules: Rules) -> tuple[str | None, Transaction | None]:
    """Give a worker's verdict on a row."""
    apply = compile_mapping(rules.mapping) if rules.mapping else dict
    record = Record("file", 0, 0, 2**53, None, encode_row(apply(row)))
    try:
        reading = EventRules(currency=rules.currency, extra_fields=rules.extra_fields)
        return None, parse_transaction(record, reading)
    except InvalidEventError as error:
        return str(error), None


def require_same_verdict(frame: pl.DataFrame, rules: Rules) -> None:
    checked = check_payments(frame, rules)
    assert len(checked) == len(frame)
    for row, found in zip(frame.iter_rows(named=True), checked.iter_rows(named=True), strict=True):
        fault, payment = verdict(row, rules)
        assert found["fault"] == fault, row
        if payment is not None:
            expected = {
                name: payment.text(name) for name in ("transaction_id", *rules.extra_fields)
            }
            expected |= {"card_id": payment.card_id, "terminal_id": payment.terminal_id}
            assert {name: found[name] for name in expected} == expected
            assert found["event_time_ms"] == payment.event_time_ms, row
            amount = payment.amount_base_minor
            assert found["amount_base_minor"] == (-1 if amount is None else amount), row


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("transaction_id", ["t2", "", "a b", "a" * 64, "a" * 65, "é", "a\n", None]),
        ("transaction_id", [17, 18]),
        ("card_id", ["c", "4111111111111111", "card 4111-1111-1111-1111", "4111111111111112"]),
        ("terminal_id", [None, "m1"]),
        ("terminal_id", [1.5, 2.5]),
        ("amount_minor", [0, -1, 10**12, 10**12 + 1, None]),
        ("amount_minor", [5.0, 5.5]),
        ("amount_minor", ["5"]),
        ("amount_base_minor", [5, None, -3]),
        ("currency", ["USD", "eur", "XXX", "EURO", "EUR\n", "", None]),
        ("event_time", [START_MS, 5, 2**53, 946_684_800_000, None]),
        ("event_time", [1.5e12]),
        (
            "event_time",
            [
                "2018-07-25T10:11:12.5Z",
                "2018-07-25T10:11:12+02:00",
                "2018-07-25T10:11:12.123456789Z",
                "2018-07-25t10:11:12z",
                "2018-07-25 10:11:12Z",
                "2018-07-25T10:11:12",
                "2018-02-30T10:11:12Z",
                "1999-12-31T23:59:59.999Z",
                "2018-07-25T24:00:00Z",
                "2018-07-25T23:59:60Z",
                "yesterday",
                "",
                None,
            ],
        ),
        ("event_time", [datetime(2018, 7, 25, 10, 11, 12, 999_999, UTC), None]),
        ("device_id", ["d1", None, "a b", "4111111111111111"]),
        ("device_id", [5, None]),
        ("note", ["", "card 4111 1111 1111 1111", "1234567890123", None]),
        ("note", [["4111111111111111"], ["x"]]),
        ("note", [4111111111111111]),
    ],
)
def test_columns_are_judged_as_records_are(field: str, values: list[Any]) -> None:
    frame = pl.DataFrame({name: [value] * len(values) for name, value in GOOD.items()})
    frame = frame.with_columns(pl.Series(field, values, strict=False))
    require_same_verdict(frame, Rules(extra_fields=("device_id",) if field == "device_id" else ()))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ID", [1, None, -3]),
        ("ID", ["x", "a b"]),
        ("CARD", [4111111111111111, 17]),
        ("CARD", ["4111111111111111", "x y"]),
        ("AMOUNT", [444.79999999999995, 57.161, 0.0, -0.01, 1e10, 1e10 + 0.01, float("nan")]),
        ("AMOUNT", [0.1 + 0.2, 1e-7, 9_999_999_999.99, 123_456_789.015, float("inf"), None]),
        ("AMOUNT", [5, -1, 10**10, 10**11]),
        ("CURRENCY", ["JPY", "KWD", "XXX", None]),
        (
            "AT",
            [
                datetime(2018, 10, 28, 2, 30),  # noqa: DTZ001 - twice in Berlin
                datetime(2018, 3, 25, 2, 30),  # noqa: DTZ001 - never in Berlin
                None,
            ],
        ),
        ("AT", ["2018-07-25T10:11:12", "2018-07-25T10:11:12Z", "x"]),
        ("AT", [START_MS, 3]),
    ],
)
def test_mapped_columns_are_judged_as_mapped_records_are(field: str, values: list[Any]) -> None:
    frame = pl.DataFrame({name: [value] * len(values) for name, value in FOREIGN_GOOD.items()})
    frame = frame.with_columns(pl.Series(field, values, strict=False))
    require_same_verdict(frame, Rules(mapping=FOREIGN))


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_of_any_unit_are_read_to_the_millisecond(unit: str) -> None:
    factor = {"s": 1e-3, "ms": 1.0, "us": 1e3}[unit]
    times = [(START_MS + offset) * factor for offset in range(2_000)]
    fields = {"event_time": {"from": "event_time", "unit": unit}}
    mapping = EventMapping.model_validate({"fields": fields})
    frame = pl.DataFrame([{**GOOD, "event_time": time} for time in times])
    require_same_verdict(frame, Rules(mapping=mapping))


def test_squares_are_summed_in_the_limbs_of_the_stream() -> None:
    amounts = [0, 1, 2**27 - 1, 2**27, 2**27 + 1, 10**12, 999_999_999_999, None]
    stream = [
        Transaction(f"t{n}", START_MS + n, f"c{n}", "m1", a or 0, "EUR", a)
        for n, a in enumerate(amounts)
    ]
    measures = MEASURES["transactions"]
    series = Series("card_tx", "card_id", "transactions", measures, (Window(DAY_MS),))
    found = answers(ProfileDefinition((series,)), Payments.of(stream), None)
    expected = [transaction_values(series, payment) for payment in stream]
    np.testing.assert_array_equal(found.series["card_tx"].sums[:, 0], expected)


def test_features_that_read_labels_need_a_rule() -> None:
    with pytest.raises(UsageError, match=r"terminal_fraud_rate_1d_lag7d.*--labels-after 7d"):
        Evaluator(default_feature_set())
    assert Evaluator(default_feature_set(), names=["amount", "card_tx_count_1d"]).names


def test_the_present_payments_own_truth_never_enters_its_features() -> None:
    """Not even when frauds are known at once."""
    rng = np.random.default_rng(1)
    stream = [
        Transaction(f"t{n}", START_MS + n * 3_600_000 * 11, "c1", "m1", n, "EUR", n)
        for n in range(60)
    ]
    is_fraud = rng.random(60) < 0.4
    evaluator = Evaluator(default_feature_set(), labels=LabelsAfter(0))
    before = evaluator.build(Payments.of(stream, is_fraud=is_fraud))
    for row in range(60):
        other = is_fraud.copy()
        other[row] = not other[row]
        after = evaluator.build(Payments.of(stream, is_fraud=other))
        np.testing.assert_array_equal(before[: row + 1], after[: row + 1])
    assert before[:, evaluator.names.index("terminal_fraud_rate_7d_lag7d")].max() > 0


# --- the command ---


def rows(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"t{n}",
            "event_time": START_MS + n * 6 * 3_600_000,
            "card_id": f"c{n % 2}",
            "terminal_id": "m1",
            "amount_minor": 100 * n,
            "currency": "EUR",
            "is_fraud": n % 3 == 0,
        }
        for n in range(count)
    ]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["features", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, UsageError), result.exception
        return 2, str(result.exception)
    return result.exit_code, result.output


def write(file: Path, made: list[dict[str, Any]]) -> Path:
    if file.suffix == ".parquet":
        pl.DataFrame(made).write_parquet(file)
    elif file.suffix == ".csv":
        pl.DataFrame(made).write_csv(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_file_gives_the_same_features(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "out.parquet"
    source = write(tmp_path / f"in{suffix}", rows())
    code, output = run(source, "--out", out, "--labels-after", "7d")
    assert code == 0, output
    found = pl.read_parquet(out)
    stream = [
        Transaction(
            row["transaction_id"],
            row["event_time"],
            row["card_id"],
            row["terminal_id"],
            *(row["amount_minor"], "EUR", row["amount_minor"]),
        )
        for row in rows()
    ]
    is_fraud = np.array([row["is_fraud"] for row in rows()])
    evaluator = Evaluator(default_feature_set(), labels=LabelsAfter(7 * DAY_MS))
    expected = evaluator.build(Payments.of(stream, is_fraud=is_fraud))
    np.testing.assert_array_equal(found.select(evaluator.names).to_numpy(), expected)
    ids = ["transaction_id", "event_time", "card_id", "terminal_id"]
    assert found.columns == ids + evaluator.names
    assert found.schema["event_time"] == pl.Datetime("ms", "UTC")
    assert set(found.select(evaluator.names).dtypes) == {pl.Float32}
    metadata = pq.read_schema(out).metadata
    assert default_feature_set().sha256 in metadata[b"fraudstream.feature_set"].decode()
    assert b"604800000" in metadata[b"fraudstream.labels"]


def test_rows_come_out_in_the_order_they_came_in(tmp_path: Path) -> None:
    made = rows()
    shuffled = [made[i] for i in np.random.default_rng(3).permutation(len(made))]
    outs = []
    for name, content in (("sorted", made), ("shuffled", shuffled)):
        outs.append(tmp_path / f"{name}.out.parquet")
        source = write(tmp_path / f"{name}.parquet", content)
        assert run(source, "--out", outs[-1], "--labels-after", "7d")[0] == 0
    in_order, as_given = (pl.read_parquet(out) for out in outs)
    assert as_given["transaction_id"].to_list() == [row["transaction_id"] for row in shuffled]
    assert as_given.sort("event_time").equals(in_order)


@pytest.mark.parametrize("stretch_rows", [1, 2, 7])
def test_stretches_do_not_part_copies(tmp_path: Path, stretch_rows: int) -> None:
    """Each payment comes three times in a row, and stretches would end between the copies."""
    made = [row for row in rows() for _ in range(3)]
    file = write(tmp_path / "in.parquet", made)
    evaluator = Evaluator(default_feature_set(), labels=LabelsAfter(0))
    outs = []
    for count in (stretch_rows, 1_000):
        outs.append(tmp_path / f"{count}.parquet")
        source = PaymentSource(file, Rules(needs_truth=True))
        plan = Plan(evaluator, stretch_rows=count)
        assert write_features(source, "in", outs[-1], plan, lambda _: None).rows == len(made)
    short, whole = (pl.read_parquet(out) for out in outs)
    assert short.equals(whole)
    assert whole["card_tx_count_30d"].max() == 20


def test_labels_of_a_file_count_from_when_they_were_reported(tmp_path: Path) -> None:
    """The same findings, by a file and by --labels-after; and one that is withdrawn later."""
    source = write(tmp_path / "in.parquet", rows())
    ids = ("transaction_id", "card_id", "terminal_id", "event_time")
    labels = [
        {name: row[name] for name in ids}
        | {"is_fraud": True, "reported_at": row["event_time"] + 3 * DAY_MS, "source": "bank"}
        for row in rows()
        if row["is_fraud"]
    ]
    withdrawn = {**labels[0], "is_fraud": False, "reported_at": START_MS + 8 * DAY_MS}
    outs = {}
    rules: dict[str, list[object]] = {
        "after": ["--labels-after", "3d"],
        "jsonl": ["--labels", write(tmp_path / "l.jsonl", labels)],
        "parquet": ["--labels", write(tmp_path / "l.parquet", labels[::-1])],
        "withdrawn": ["--labels", write(tmp_path / "w.csv", [*labels, withdrawn])],
    }
    for name, arguments in rules.items():
        out = tmp_path / f"{name}.out.parquet"
        code, output = run(source, "--out", out, *arguments)
        assert code == 0, output
        outs[name] = pl.read_parquet(out)
    assert outs["after"].equals(outs["jsonl"])
    assert outs["after"].equals(outs["parquet"])
    rates = "terminal_fraud_rate_30d_lag7d"
    times = outs["after"]["event_time"].dt.epoch("ms").to_numpy()
    differs = outs["after"][rates].to_numpy() != outs["withdrawn"][rates].to_numpy()
    np.testing.assert_array_equal(differs, times >= START_MS + 8 * DAY_MS)


def test_a_span_is_written_with_its_past_seen(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.parquet", rows()), tmp_path / "out.parquet"
    whole, part = tmp_path / "whole.parquet", ["--from", "2018-07-28", "--until", "2018-07-30"]
    assert run(source, "--out", whole, "--labels-after", "1d")[0] == 0
    assert run(source, "--out", out, "--labels-after", "1d", *part)[0] == 0
    first = datetime(2018, 7, 28, tzinfo=UTC)
    last = datetime(2018, 7, 30, tzinfo=UTC)
    expected = pl.read_parquet(whole).filter(
        pl.col("event_time").is_between(first, last, closed="left")
    )
    assert pl.read_parquet(out).equals(expected)
    assert len(expected) == 8


def test_bad_rows_are_counted_and_refused_and_nothing_is_written(tmp_path: Path) -> None:
    made = rows()
    made[7]["currency"] = "XXX"
    made[9]["amount_minor"] = made[11]["amount_minor"] = -5
    source, out = write(tmp_path / "in.parquet", made), tmp_path / "out.parquet"
    code, output = run(source, "--out", out, "--labels-after", "7d")
    assert code == 2
    assert "in.parquet: row 8: currency: unknown_currency" in output
    assert "amount_minor: out_of_range (2)" in output
    assert "-5" not in output
    assert sorted(tmp_path.iterdir()) == [source]
    code, output = run(source, "--out", out, "--labels-after", "7d", "--skip-invalid")
    assert code == 0
    assert "left out 3 rows" in output
    good = [row["transaction_id"] for n, row in enumerate(made) if n not in (7, 9, 11)]
    assert pl.read_parquet(out)["transaction_id"].to_list() == good


def test_a_file_of_bad_rows_alone_gives_an_empty_file(tmp_path: Path) -> None:
    made = [row | {"currency": "XXX"} for row in rows()]
    source, out = write(tmp_path / "in.parquet", made), tmp_path / "out.parquet"
    assert run(source, "--out", out, "--labels-after", "7d", "--skip-invalid")[0] == 0
    assert pl.read_parquet(out).shape == (0, 19)


def test_a_damaged_file_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", rows(5_000))
    content = bytearray(source.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    source.write_bytes(content)
    code, output = run(source, "--out", tmp_path / "out.parquet", "--labels-after", "7d")
    assert code == 2
    assert "cannot be read" in output
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "when that was known"),
        (["--labels-after", "7d", "--labels", "x.csv"], "give one of them"),
        (["--labels-after", "soon"], "7d"),
        (["--labels", "missing.parquet"], "there is no such file"),
        (["--labels-after", "7d", "--from", "2030-01-01"], "no row lies between"),
        (["--labels-after", "7d", "--currency", "EURO"], "ISO 4217"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    source, out = write(tmp_path / "in.parquet", rows()), tmp_path / "out.parquet"
    code, output = run(source, "--out", out, *arguments)
    assert code == 2
    assert sentence in output
    assert not out.exists()


def test_a_file_without_truth_is_refused_for_labels_after(tmp_path: Path) -> None:
    made = [{k: v for k, v in row.items() if k != "is_fraud"} for row in rows()]
    source = write(tmp_path / "in.parquet", made)
    code, output = run(source, "--out", tmp_path / "out.parquet", "--labels-after", "7d")
    assert code == 2
    assert "lacks is_fraud (for --labels-after)" in output


@pytest.mark.parametrize("name", ["out.csv", "folder.parquet"])
def test_only_a_parquet_file_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    source = write(tmp_path / "in.parquet", rows())
    code, output = run(source, "--out", tmp_path / name, "--labels-after", "7d")
    assert code == 2
    assert ".parquet file" in output


def test_no_file_is_lost_to_the_features(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", rows())
    before = source.read_bytes()
    for words in ((), ("--replace",)):
        code, told = run(source, "--out", source, "--labels-after", "7d", *words)
        assert code == 2
        assert "is one of the files that are read" in told
    assert source.read_bytes() == before
    out = tmp_path / "out.parquet"
    assert run(source, "--out", out, "--labels-after", "7d")[0] == 0
    code, told = run(source, "--out", out, "--labels-after", "7d")
    assert code == 2
    assert "--replace writes it anew" in told
    assert run(source, "--out", out, "--labels-after", "7d", "--replace")[0] == 0
