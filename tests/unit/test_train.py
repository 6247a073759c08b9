"""From a labelled file to a bundle: no label known too soon, nothing left to chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from feature_names import DEFAULT, DEFAULT_FEATURES, definition_of, feature_named
from msgspec.structs import replace
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]
from typer.testing import CliRunner

from fraudstream.bundle import load_bundle, write_bundle
from fraudstream.errors import (
    FeatureSetError,
    InvalidEventError,
    RetentionError,
    UsageError,
)
from fraudstream.event import EventRules, Record, Transaction, format_time, parse_transaction
from fraudstream.features import Feature
from fraudstream.mapping import EventMapping
from fraudstream.profile import DAY_MS
from fraudstream.replay.source import PaymentFile, RowForm
from fraudstream.replay.span import TimeSpan
from fraudstream.replay.stream import Finding, Payment
from fraudstream.replay.stream import LabelledStream as ReplayStream
from fraudstream.topics import plan_topics, require_retention
from fraudstream.training.dataset import LabelledVectors, build_vectors, split_periods
from fraudstream.training.quality import card_precision, measure
from fraudstream.training.simulate import SimulationSpec, Transactions, simulate
from fraudstream.training.stream_file import LabelledStream, read_stream, write_stream
from fraudstream.training.train import TrainingSettings, train, with_forgotten_windows

ROOT = Path(__file__).resolve().parents[2]
NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
SMALL = TrainingSettings(rounds_max=30, patience_rounds=5, max_bin=64, validation_days=7)


def as_stream(world: Transactions) -> LabelledStream:
    columns = (
        world.transaction_id,
        world.event_time_ms,
        world.card_id,
        world.terminal_id,
        world.amount_minor,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    # One field that the contract does not name: a written stream also says the kind of fraud.
    transactions = [
        Transaction(tx, time_ms, card, terminal, amount, "EUR", amount, unknown_fields=1)
        for tx, time_ms, card, terminal, amount in rows
    ]
    return LabelledStream(transactions, world.is_fraud)


@pytest.fixture(scope="module")
def stream() -> LabelledStream:
    return as_stream(simulate(SimulationSpec(cards=80, terminals=160, days=30, seed=2)))


def vectors_of(
    stream: LabelledStream,
    features: Sequence[Feature],
    *,
    label_delay_ms: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelledVectors:
    return build_vectors(
        stream,
        features,
        definition_of(features),
        label_delay_ms=label_delay_ms,
        on_progress=on_progress,
    )


def payment(number: int, day: float, terminal: str = "t1") -> Transaction:
    time_ms = NOON_MS + int(day * DAY_MS)
    return Transaction(f"tx{number}", time_ms, f"c{number}", terminal, 1000, "EUR", 1000)


def rates(days: list[float], frauds: list[bool], delay_days: int) -> list[float]:
    built = vectors_of(
        LabelledStream([payment(i, day) for i, day in enumerate(days)], np.array(frauds)),
        [feature_named("terminal_fraud_rate_30d_lag7d")],
        label_delay_ms=delay_days * DAY_MS,
    )
    return [float(rate) for rate in built.vectors[:, 0]]


def test_a_fraud_is_seen_when_its_label_is_known_and_not_before() -> None:
    assert rates([0, 6.9, 7, 8], [True, False, False, False], delay_days=7) == [0, 0, 1, 1]
    # The payment is in the window from day 7 on; what it was is known from day 10 on.
    days = [0, 7, 8, 9.99, 10]
    assert rates(days, [True, *[False] * 4], delay_days=10)[:4] == [0, 0, 0, 0]
    assert rates(days, [True, *[False] * 4], delay_days=10)[4] > 0


def test_no_vector_knows_its_own_label() -> None:
    payments = [payment(i, i / 10) for i in range(20)]
    if_all, if_none = (
        vectors_of(
            LabelledStream(payments, np.full(20, is_fraud)),
            DEFAULT_FEATURES,
            label_delay_ms=DAY_MS,
        ).vectors
        for is_fraud in (True, False)
    )
    np.testing.assert_array_equal(if_all, if_none)


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
    days: list[float], frauds: list[bool], expected: list[float]
) -> None:
    built = vectors_of(
        LabelledStream([payment(i, day) for i, day in enumerate(days)], np.array(frauds)),
        [feature_named("terminal_fraud_rate_30d")],
        label_delay_ms=0,
    )
    np.testing.assert_array_equal(built.vectors[:, 0], np.array(expected, np.float32))


def test_training_knows_labels_in_the_order_in_which_a_replay_sends_them() -> None:
    """A few times for many payments: who comes first within a millisecond matters."""
    rng = np.random.default_rng(5)
    times_ms = np.sort(rng.integers(NOON_MS, NOON_MS + 40, 300))
    payments = [replace(payment(i, 0), event_time_ms=int(t)) for i, t in enumerate(times_ms)]
    is_fraud = rng.random(300) < 0.5
    for delay_ms in (0, 1, 3):
        rates = vectors_of(
            LabelledStream(payments, is_fraud),
            [feature_named("terminal_fraud_rate_30d")],
            label_delay_ms=delay_ms,
        ).vectors[:, 0]
        told = ReplayStream(
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
        np.testing.assert_array_equal(rates, np.array(expected, np.float32))


def oracle_rates(stream: LabelledStream, delay_ms: int) -> NDArray[np.float32]:
    """terminal_fraud_rate_7d_lag7d by counting, payment by payment."""
    times_ms = np.array([t.event_time_ms for t in stream.transactions])
    terminals = np.array([t.terminal_id for t in stream.transactions])
    found = []
    for time_ms, terminal in zip(times_ms, terminals, strict=True):
        age_ms = time_ms - times_ms
        is_inside = (terminals == terminal) & (age_ms >= 7 * DAY_MS) & (age_ms < 14 * DAY_MS)
        frauds = (is_inside & stream.is_fraud & (age_ms >= delay_ms)).sum()
        found.append(frauds / max(is_inside.sum(), 1))
    return np.array(found, np.float32)


@pytest.mark.parametrize("delay_days", [0, 7, 10])
def test_rates_are_those_of_a_plain_count(delay_days: int) -> None:
    stream = as_stream(simulate(SimulationSpec(cards=40, terminals=6, days=30, seed=21)))
    # Half of all payments: the more labels, the more places where a batch must end.
    stream = LabelledStream(stream.transactions, np.arange(len(stream.transactions)) % 2 == 0)
    features = [feature_named("terminal_fraud_rate_7d_lag7d")]
    built = vectors_of(stream, features, label_delay_ms=delay_days * DAY_MS)
    expected = oracle_rates(stream, delay_days * DAY_MS)
    np.testing.assert_array_equal(built.vectors[:, 0], expected)
    assert expected.max() > 0.4


def test_every_payment_gets_a_vector_in_its_order(stream: LabelledStream) -> None:
    told: list[int] = []
    rows = vectors_of(stream, DEFAULT_FEATURES, label_delay_ms=7 * DAY_MS, on_progress=told.append)
    assert sum(told) == len(rows) == len(stream.transactions)
    amounts = [t.amount_minor / 100 for t in stream.transactions]
    np.testing.assert_array_equal(rows.vectors[:, 0], np.array(amounts, np.float32))
    assert not np.isnan(rows.vectors).any()


def test_periods_are_cut_by_whole_days_with_the_delay_between(stream: LabelledStream) -> None:
    rows = vectors_of(stream, DEFAULT_FEATURES[:1], label_delay_ms=0)
    periods = split_periods(
        rows.event_time_ms, warm_up_days=3, label_delay_days=7, validation_days=5
    )
    days = [(ms - SimulationSpec().start_ms) / DAY_MS for ms in periods.train_ms]
    assert days == [3, 18]
    learnt, judged = rows.between(*periods.train_ms), rows.between(*periods.validation_ms)
    assert judged.event_time_ms[0] - learnt.event_time_ms[-1] >= 7 * DAY_MS
    assert judged.event_time_ms[-1] == rows.event_time_ms[-1]


def test_a_stream_too_short_is_refused_with_the_days_it_needs(stream: LabelledStream) -> None:
    with pytest.raises(UsageError, match="covers 30 days and at least 38 are needed"):
        train(stream, "x", TrainingSettings(validation_days=30))


@pytest.fixture(scope="module")
def trained(stream: LabelledStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_bundle(folder, train(stream, "small", SMALL))
    return folder


def test_the_same_stream_and_settings_give_the_same_bundle(
    stream: LabelledStream, trained: Path, tmp_path: Path
) -> None:
    again = write_bundle(tmp_path / "elsewhere", train(stream, "small", SMALL))
    assert again.sha256 == load_bundle(trained).sha256


def test_another_seed_or_depth_gives_another_bundle(
    stream: LabelledStream, trained: Path, tmp_path: Path
) -> None:
    for change in ({"seed": 2}, {"max_depth": 2}):
        other = write_bundle(
            tmp_path / "other", train(stream, "small", SMALL.model_copy(update=change))
        )
        assert other.sha256 != load_bundle(trained).sha256


def test_the_bundle_says_what_it_was_made_from(trained: Path) -> None:
    manifest = load_bundle(trained).manifest
    training = manifest.training
    assert (training.train.start, training.train.end) == (
        "2026-01-01T00:00:00.000Z",
        "2026-01-17T00:00:00.000Z",
    )
    assert training.validation.start == "2026-01-24T00:00:00.000Z"
    assert training.train.transactions > 1_000
    assert training.parameters["nthread"] == 1
    assert manifest.calibration is None
    card = (trained / "MODEL_CARD.md").read_text()
    assert f"{manifest.quality.average_precision:.3f}" in card
    assert "says that the parts work together and nothing about real" in card


def test_golden_vectors_hold_known_and_missing_values(trained: Path) -> None:
    golden = json.loads((trained / "golden.json").read_text())
    vectors = np.array(golden["vectors"], np.float64)
    assert len(vectors) > 60
    assert np.isnan(vectors).all(axis=1).any()
    assert (~np.isnan(vectors)).all(axis=1).sum() > 40
    assert np.isnan(vectors).any(axis=0).all()


def test_features_and_periods_come_from_the_settings(stream: LabelledStream) -> None:
    settings = SMALL.model_copy(
        update={"features": ("card_tx_count_7d", "amount"), "version": "2-rc1"}
    )
    draft = train(stream, "mine", settings)
    assert [definition["name"] for definition in draft.about["features"]] == [
        "card_tx_count_7d",
        "amount",
    ]
    assert draft.about["fallback_features"] == ["amount"]
    assert draft.about["version"] == "2-rc1"


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        (("amount", "card_colour"), FeatureSetError, "has no feature 'card_colour'"),
        (("card_tx_count_1d",), UsageError, "add `amount`"),
    ],
)
def test_settings_that_make_no_model_are_refused(
    stream: LabelledStream, features: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(stream, "x", SMALL.model_copy(update={"features": features}))


def test_a_model_without_profiles_is_trained_checked_and_needs_no_past(
    stream: LabelledStream, tmp_path: Path
) -> None:
    settings = SMALL.model_copy(update={"features": ("amount", "is_night")})
    write_bundle(tmp_path / "simple", train(stream, "simple", settings))
    bundle = load_bundle(tmp_path / "simple")
    # Payments are remembered all the same, so that one that comes twice is noticed.
    assert bundle.feature_set == DEFAULT
    assert bundle.model.columns == ("amount", "is_night")


def test_a_feature_set_that_looks_back_on_nothing_needs_a_log_for_the_days_of_a_repair() -> None:
    horizon_ms = definition_of([feature_named("amount")]).horizon_ms
    assert horizon_ms == DAY_MS
    plans = plan_topics(["t"], [], partitions=1, horizon_ms=horizon_ms)
    require_retention({"t": int(plans[0].config["retention.ms"])}, horizon_ms)
    with pytest.raises(RetentionError):
        require_retention({"t": DAY_MS}, horizon_ms)


def test_nothing_to_learn_from_is_refused(stream: LabelledStream) -> None:
    genuine = LabelledStream(stream.transactions, np.zeros(len(stream.is_fraud), dtype=np.bool_))
    with pytest.raises(UsageError, match="no fraud in the training period"):
        train(genuine, "x", SMALL)


def labelled(vectors: NDArray[np.float32], features: int) -> LabelledVectors:
    rows = len(vectors)
    return LabelledVectors(
        vectors.reshape(rows, features),
        np.arange(rows) % 2 == 0,
        np.arange(rows, dtype=np.int64),
        np.array([f"c{i}" for i in range(rows)]),
    )


def test_what_is_forgotten_is_always_the_longer_windows() -> None:
    rows = labelled(np.ones((2_000, 15), np.float32), 15)
    more = with_forgotten_windows(rows, DEFAULT_FEATURES, share=0.5, seed=1)
    np.testing.assert_array_equal(more.vectors[:2_000], rows.vectors)
    copies = more.vectors[2_000:]
    assert 900 < len(copies) < 1_100
    reaches = [f.window.reach_ms if f.window else 0 for f in DEFAULT_FEATURES]
    by_reach = np.isnan(copies)[:, np.argsort(reaches, kind="stable")]
    assert (np.diff(by_reach.astype(np.int8), axis=1) >= 0).all()
    assert not by_reach[:, :3].any()
    assert by_reach[:, -1].all()
    assert len(np.unique(by_reach.sum(axis=1))) == 6


def test_nothing_is_forgotten_at_share_0_or_without_windows() -> None:
    rows = labelled(np.ones((50, 1), np.float32), 1)
    features: list[Feature] = [feature_named("amount")]
    assert len(with_forgotten_windows(rows, DEFAULT_FEATURES[:1], share=1, seed=1)) == 50
    assert len(with_forgotten_windows(rows, features, share=0, seed=1)) == 50


def test_card_precision_by_hand() -> None:
    """Two cards a day are looked at. b and c are found on the first day and leave."""
    rows = LabelledVectors(
        np.zeros((7, 1), np.float32),
        np.array([False, True, True, False, True, True, False]),
        np.array([0, 1, 2, 3, 0, 1, 2], np.int64) + DAY_MS * np.array([0, 0, 0, 0, 1, 1, 1]),
        np.array(["a", "b", "c", "b", "b", "d", "a"]),
    )
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.9, 0.5, 0.1], np.float32)
    assert card_precision(scores, rows, cards_per_day=2) == (2 / 2 + 1 / 2) / 2


def test_a_ranking_without_a_mistake_is_the_best_possible() -> None:
    rows = labelled(np.zeros((40, 1), np.float32), 1)
    quality = measure(rows.is_fraud.astype(np.float32), rows)
    assert quality.auc == quality.average_precision == 1
    assert quality.card_precision_100 == quality.card_precision_100_best == 0.2


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_written_stream_is_read_back(tmp_path: Path, suffix: str) -> None:
    world = simulate(SimulationSpec(cards=10, terminals=20, days=4, seed=6))
    file = tmp_path / f"stream{suffix}"
    write_stream(world, file)
    read = read_stream(file, EventRules())
    assert read.transactions == as_stream(world).transactions
    np.testing.assert_array_equal(read.is_fraud, world.is_fraud)


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    world = simulate(SimulationSpec(cards=10, terminals=20, days=4, seed=6))
    write_stream(world, tmp_path / "a.parquet")
    pl.read_parquet(tmp_path / "a.parquet").reverse().write_parquet(tmp_path / "b.parquet")
    read = read_stream(tmp_path / "b.parquet", EventRules())
    assert read.transactions == as_stream(world).transactions


def test_foreign_columns_need_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "foreign.csv"
    file.write_text(
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n"
        "7,2018-07-25 10:11:12,17,3,57.16,1\n"
    )
    with pytest.raises(UsageError, match=r"lacks .* card_id, .* is_fraud .*--mapping FILE"):
        read_stream(file, EventRules())
    mapping = yaml.safe_load((ROOT / "configs" / "mappings" / "handbook.yaml").read_text())
    read = read_stream(file, EventRules(), EventMapping.model_validate(mapping))
    (transaction,) = read.transactions
    assert (transaction.card_id, transaction.amount_minor) == ("17", 5716)
    assert transaction.event_time_ms == 1_532_513_472_000
    assert read.is_fraud.tolist() == [True]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("card_id", "4111111111111111", "row 2: card_id: card_number"),
        ("amount_minor", -5, "row 2: amount_minor: out_of_range"),
        ("event_time", "yesterday", "row 2: event_time: "),
        ("is_fraud", None, "row 2: is_fraud must be true or false"),
    ],
)
def test_a_bad_row_is_named_by_number_and_never_by_value(
    tmp_path: Path, column: str, value: object, words: str
) -> None:
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
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=words) as caught:
        read_stream(file, EventRules())
    assert str(value) not in str(caught.value)


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
    for event in ReplayStream(source, None):
        try:
            record = Record("t", 0, 0, 2**53, event.key, event.value)
            replayed.append(parse_transaction(record, EventRules()))
        except InvalidEventError as error:
            refused.add(error.field)
    if refused:
        with pytest.raises(UsageError, match=r"row \d+: ") as caught:
            read_stream(file, EventRules(), mapping)
        assert any(f" {field}: " in str(caught.value) for field in refused)
        return
    frauds = [paid.finding is not None for paid in source]
    read = read_stream(file, EventRules(), mapping)
    # What tells of fraud stays behind in a replay, and is a field too many in training.
    assert [replace(t, unknown_fields=0) for t in read.transactions] == [
        replace(t, unknown_fields=0) for t in replayed
    ]
    assert read.is_fraud.tolist() == frauds


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
        read_stream(file, EventRules())


def test_times_without_a_zone_are_refused_with_the_mapping_that_gives_one(tmp_path: Path) -> None:
    file = tmp_path / "naive.parquet"
    foreign_rows(event_time=[datetime(2026, 1, 1)]).write_parquet(file)  # noqa: DTZ001
    with pytest.raises(UsageError, match="zone: UTC"):
        read_stream(file, EventRules())


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.parquet"
    foreign_rows(card_id=["c1"]).clear().write_parquet(file)
    with pytest.raises(UsageError, match="holds no transactions"):
        read_stream(file, EventRules())


@pytest.mark.parametrize("name", ["missing.parquet", "missing.csv", "stream.xlsx"])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no such file|must end in"):
        read_stream(tmp_path / name, EventRules())


def test_the_shipped_model_is_good_on_a_small_world_it_has_never_seen() -> None:
    """A new deployment: 30 days from empty profiles. Half of the frauds need labels to be seen."""
    stream = as_stream(simulate(SimulationSpec(cards=300, terminals=600, days=30, seed=900)))
    rows = vectors_of(stream, DEFAULT_FEATURES, label_delay_ms=7 * DAY_MS)
    bundle = load_bundle(ROOT / "models" / "default")
    scores = bundle.model.score(rows.vectors)
    assert average_precision_score(rows.is_fraud, scores) > 0.45
    second_half = rows.event_time_ms >= rows.event_time_ms[0] + 15 * DAY_MS
    assert average_precision_score(rows.is_fraud[second_half], scores[second_half]) > 0.55
    assert rows.is_fraud[scores >= 0.8].mean() > 0.85


def test_the_shipped_model_does_not_flood_when_windows_are_missing() -> None:
    """Vectors with missing windows: still few alerts, not one in eight payments."""
    stream = as_stream(simulate(SimulationSpec(cards=300, terminals=600, days=30, seed=901)))
    rows = vectors_of(stream, DEFAULT_FEATURES, label_delay_ms=7 * DAY_MS)
    bundle = load_bundle(ROOT / "models" / "default")
    for days_known in (0, 1, 7, 14, 30):
        forgotten = rows.vectors.copy()
        for column, feature in enumerate(DEFAULT_FEATURES):
            if feature.window and feature.window.reach_ms > days_known * DAY_MS:
                forgotten[:, column] = np.nan
        assert (bundle.model.score(forgotten) >= 0.5).mean() < 0.015


def test_the_shipped_model_was_made_with_the_shipped_settings() -> None:
    text = (ROOT / "configs" / "training" / "default.yaml").read_text()
    settings = TrainingSettings.model_validate(yaml.safe_load(text))
    manifest = load_bundle(ROOT / "models" / "default").manifest
    assert manifest.training.parameters == settings.parameters()
    assert manifest.training.data == settings.data
    assert manifest.version == settings.version


def test_the_commands_work_together(tmp_path: Path) -> None:
    from typer import Typer

    from fraudstream.cli import training

    app = Typer()
    app.command()(training.simulate)
    app.command()(training.train)
    app.add_typer(training.model_app, name="model")
    runner = CliRunner()

    def run(*words: str) -> str:
        result = runner.invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    data, out, config = tmp_path / "s.parquet", tmp_path / "mine", tmp_path / "fast.yaml"
    config.write_text("rounds_max: 10\nmax_bin: 64\nvalidation_days: 7\ndata: made up\n")
    run("simulate", "--out", str(data), "--cards", "60", "--days", "30")
    shown = run("train", str(data), "--out", str(out), "--config", str(config))
    assert run("model", "check", str(out)) == shown
    assert "made up" in shown
    manifest = json.loads(run("model", "check", str(out), "--json"))
    assert manifest["sha256"] == load_bundle(out).sha256
    with pytest.raises(UsageError, match="is there already; --replace"):
        run("train", str(data), "--out", str(out))
    with pytest.raises(UsageError, match="name has 1 to 64 of"):
        run("train", str(data), "--out", str(tmp_path / "no name"))
    config.write_text("rounds_maximum: 10\n")
    with pytest.raises(UsageError, match="rounds_maximum: Extra inputs"):
        run("train", str(data), "--out", str(out), "--config", str(config), "--replace")
    with pytest.raises(UsageError, match="write a date as 2026-01-31"):
        run("simulate", "--out", str(data), "--start", "soon")
