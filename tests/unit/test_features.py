"""Each default feature against cases worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from feature_names import (
    DEFAULT,
    DEFAULT_DEFINITION,
    DEFAULT_FEATURES,
    FALLBACK_FEATURES,
    feature_named,
    feature_set_of,
)
from numpy.typing import NDArray

from fraudstream import aggregates
from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.event import Label, Transaction
from fraudstream.features import EventColumns, VectorBuilder
from fraudstream.profile import (
    DAY_MS,
    InputPartition,
    Located,
    ProfileAnswers,
    ProfileBatch,
    SeriesAnswers,
    Stretch,
    Window,
)

DEFINITION = DEFAULT_DEFINITION
BUILDER = VectorBuilder(DEFAULT_FEATURES, DEFINITION)
NAMES = [feature.name for feature in DEFAULT_FEATURES]
SERIES = {series.name: series for series in DEFINITION.series}
NAN = float("nan")


def at_ms(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def payment(
    text: str = "2018-07-25 10:11:12", amount: int | None = 5716, name: str = "x"
) -> Transaction:
    return Transaction(name, at_ms(text), "c1", "t1", amount or 0, "EUR", amount)


def answers(**series: tuple[list[int], list[list[int]]]) -> ProfileAnswers:
    """Make the answers for one transaction; a series that is not given has seen nothing."""
    found = {}
    for name, definition in SERIES.items():
        windows, measures = len(definition.windows), len(definition.measures)
        counts, sums = series.get(name, ([0] * windows, [[0] * measures] * windows))
        found[name] = SeriesAnswers(
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            np.array([counts], np.int64),
            np.array([sums], np.int64).reshape(1, windows, measures),
            np.zeros((1, 0), np.int64),
            np.zeros(1, bool),
        )
    return ProfileAnswers(found)


def built(
    transaction: Transaction, found: ProfileAnswers | None, builder: VectorBuilder = BUILDER
) -> dict[str, float]:
    vectors = builder.build(EventColumns.of([transaction]), found)
    assert vectors.shape == (1, len(builder.features))
    names = [feature.name for feature in builder.features]
    return dict(zip(names, vectors[0].tolist(), strict=True))


# ------------------------------------------------------------------ of the payment alone


@pytest.mark.parametrize(
    ("text", "is_weekend"),
    [
        ("2018-07-27 23:59:59.999", 0),  # Friday
        ("2018-07-28 00:00:00", 1),
        ("2018-07-29 12:00:00", 1),
        ("2018-07-29 23:59:59.999", 1),
        ("2018-07-30 00:00:00", 0),  # Monday
        ("2018-07-26 12:00:00", 0),
        ("2000-01-01 00:00:00", 1),  # Saturday
        ("2024-02-29 12:00:00", 0),  # Thursday
        ("2100-02-28 12:00:00", 1),  # Sunday
    ],
)
def test_the_weekend_is_saturday_and_sunday_in_utc(text: str, is_weekend: int) -> None:
    assert built(payment(text), None)["is_weekend"] == is_weekend
    assert (datetime.fromisoformat(text).weekday() >= 5) == is_weekend


@pytest.mark.parametrize(
    ("text", "is_night"),
    [
        ("2018-07-25 23:59:59.999", 0),
        ("2018-07-26 00:00:00", 1),
        ("2018-07-26 06:00:00", 1),
        ("2018-07-26 06:59:59.999", 1),
        ("2018-07-26 07:00:00", 0),
        ("2018-07-26 12:00:00", 0),
    ],
)
def test_the_night_is_from_midnight_to_the_last_millisecond_before_seven_in_utc(
    text: str, is_night: int
) -> None:
    assert built(payment(text), None)["is_night"] == is_night


@pytest.mark.parametrize(
    ("amount_minor", "minor_per_major", "amount"),
    [
        (5716, 100, np.float32(57.16)),
        (0, 100, 0.0),
        (1, 100, np.float32(0.01)),
        (500, 1, 500.0),  # JPY has no minor unit
        (1_234, 1000, np.float32(1.234)),  # KWD
        (10**12, 100, np.float32(10**10)),
    ],
)
def test_the_amount_is_in_major_units(
    amount_minor: int, minor_per_major: int, amount: float
) -> None:
    builder = VectorBuilder(DEFAULT_FEATURES, DEFINITION, minor_per_major)
    assert built(payment(amount=amount_minor), None, builder)["amount"] == amount


def test_an_amount_in_a_currency_without_base_amount_is_unknown() -> None:
    foreign = Transaction("x", at_ms("2018-07-25"), "c1", "t1", 500, "JPY", None)
    assert np.isnan(built(foreign, None)["amount"])


# ------------------------------------------------------------------ of the profiles


#: What the payment's amount and time give on their own.
ALONE = {"amount": np.float32(57.16), "is_weekend": 0, "is_night": 0}


def test_every_default_feature_of_one_case_worked_out_by_hand() -> None:
    found = answers(
        card_tx=(
            [2, 9, 31],
            # cents of known amounts, and how many are known
            [[10_000, 2], [45_050, 9], [100_000, 16]],
        ),
        terminal_tx=([4, 20, 100], []),
        terminal_label=([1, 5, 12], [[1], [3], [4]]),
    )
    expected = ALONE | {
        "card_tx_count_1d": 2,
        "card_tx_count_7d": 9,
        "card_tx_count_30d": 31,
        "card_amount_mean_1d": 50.0,
        "card_amount_mean_7d": np.float32(450.50 / 9),
        "card_amount_mean_30d": 62.5,
        "terminal_tx_count_1d_lag7d": 4,
        "terminal_tx_count_7d_lag7d": 20,
        "terminal_tx_count_30d_lag7d": 100,
        "terminal_fraud_rate_1d_lag7d": 0.25,
        "terminal_fraud_rate_7d_lag7d": np.float32(3 / 20),
        "terminal_fraud_rate_30d_lag7d": np.float32(0.04),
    }
    assert built(payment(), found) == expected


def test_over_nothing_a_count_and_a_rate_are_zero_and_a_mean_is_unknown() -> None:
    found = built(payment(), answers())
    for name in NAMES[3:]:
        assert np.isnan(found[name]) if "mean" in name else found[name] == 0.0


def test_frauds_over_no_payments_are_a_rate_of_zero() -> None:
    """The labels of payments that the terminal's profile never saw."""
    found = answers(terminal_label=([3, 3, 3], [[3], [3], [3]]))
    assert built(payment(), found)["terminal_fraud_rate_7d_lag7d"] == 0.0


def test_a_mean_is_over_the_known_amounts_only() -> None:
    found = answers(card_tx=([3, 3, 3], [[100, 1], [0, 0], [250, 2]]))
    vector = built(payment(), found)
    assert vector["card_amount_mean_1d"] == 1.0
    assert np.isnan(vector["card_amount_mean_7d"])
    assert vector["card_amount_mean_30d"] == 1.25


def test_a_mean_is_in_major_units_of_the_profiles_currency() -> None:
    found = answers(card_tx=([1, 1, 1], [[500, 1], [500, 1], [500, 1]]))
    builder = VectorBuilder(DEFAULT_FEATURES, DEFINITION, minor_per_major=1)
    assert built(payment(), found, builder)["card_amount_mean_1d"] == 500


def test_a_window_that_reaches_back_too_far_makes_its_features_unknown_and_no_others() -> None:
    found = answers(
        card_tx=([1, 1, -1], [[100, 1], [100, 1], [0, 0]]),
        terminal_tx=([5, -1, -1], []),
        terminal_label=([-1, 2, -1], [[0], [1], [0]]),
    )
    vector = built(payment(), found)
    unknown = {name for name, value in vector.items() if np.isnan(value)}
    assert unknown == {
        "card_tx_count_30d",
        "card_amount_mean_30d",
        "terminal_tx_count_7d_lag7d",
        "terminal_tx_count_30d_lag7d",
        "terminal_fraud_rate_1d_lag7d",
        "terminal_fraud_rate_7d_lag7d",
        "terminal_fraud_rate_30d_lag7d",
    }


def test_without_profiles_all_that_needs_them_is_unknown() -> None:
    vector = built(payment(), None)
    assert {name for name, value in vector.items() if np.isnan(value)} == set(NAMES[3:])
    assert [feature.name for feature in FALLBACK_FEATURES] == NAMES[:3]
    assert all(not feature.is_stateless for feature in DEFAULT_FEATURES[3:])


def test_the_payment_itself_counts_in_windows_without_a_lag_and_not_in_others() -> None:
    store = BucketedProfileStore(DEFINITION, MemoryBackend(DEFINITION))
    partition, labels = InputPartition(1, 0), InputPartition(2, 0)
    store.attach({partition: AttachPoint(0, 0), labels: AttachPoint(0, 0)})
    week_ago = payment("2018-07-18 10:11:12", 300, "a week ago")
    fraud = Label("a week ago", week_ago.event_time_ms, "c1", "t1", True, at_ms("2018-07-20"), "x")
    now = payment("2018-07-25 10:11:12", 100, "now")

    def apply(offset: int, transaction: Transaction, found: list[Located]) -> dict[str, float]:
        stretches = {partition: Stretch(offset, offset + 1)}
        if found:
            stretches[labels] = Stretch(0, 1)
        located = [Located(transaction, partition, offset)]
        return built(transaction, store.apply(ProfileBatch(found, located, stretches)))

    first = apply(0, week_ago, [])
    assert (first["card_tx_count_1d"], first["card_amount_mean_1d"]) == (1, 3.0)
    assert (first["terminal_tx_count_1d_lag7d"], first["terminal_fraud_rate_1d_lag7d"]) == (0, 0)
    second = apply(1, now, [Located(fraud, labels, 0)])
    # Exactly seven days ago is out of the window of seven days, and in the one that lags as much.
    assert (second["card_tx_count_7d"], second["card_tx_count_30d"]) == (1, 2)
    assert (second["card_amount_mean_7d"], second["card_amount_mean_30d"]) == (1.0, 2.0)
    assert (second["terminal_tx_count_1d_lag7d"], second["terminal_fraud_rate_1d_lag7d"]) == (1, 1)


def test_a_vector_does_not_depend_on_the_others_of_its_batch_nor_on_the_order_of_columns() -> None:
    rng = np.random.default_rng(3)
    transactions = [
        payment(f"2018-07-{1 + i % 28:02d} {i % 24:02d}:00", int(rng.integers(1, 10**6)))
        for i in range(50)
    ]
    found = {}
    for name, series in SERIES.items():
        windows, measures = len(series.windows), len(series.measures)
        counts = rng.integers(-1, 9, (50, windows))
        sums = rng.integers(0, 9, (50, windows, measures))
        found[name] = SeriesAnswers(
            counts[:, 0],
            counts[:, 0],
            counts,
            sums,
            np.zeros((50, 0), np.int64),
            np.zeros(50, bool),
        )
    events = EventColumns.of(transactions)
    together = BUILDER.build(events, ProfileAnswers(found))
    assert together.dtype == np.float32
    assert together.flags["C_CONTIGUOUS"]
    for i in range(50):
        alone = {
            name: SeriesAnswers(
                s.outcomes[i : i + 1],
                s.marks[i : i + 1],
                s.counts[i : i + 1],
                s.sums[i : i + 1],
                s.scans[i : i + 1],
                s.absent[i : i + 1],
            )
            for name, s in found.items()
        }
        event = EventColumns.of(transactions[i : i + 1])
        assert same(BUILDER.build(event, ProfileAnswers(alone))[0], together[i])
    backwards = VectorBuilder(DEFAULT_FEATURES[::-1], DEFINITION)
    assert same(backwards.build(events, ProfileAnswers(found)), together[:, ::-1])


def same(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    return np.array_equal(left, right, equal_nan=True)


def test_no_transactions_make_an_empty_matrix() -> None:
    assert BUILDER.build(EventColumns.of([]), None).shape == (0, 15)


# ------------------------------------------------------------------ names and definitions


@pytest.mark.parametrize(
    ("name", "aggregate", "window", "meaning"),
    [
        ("amount", "amount", None, "amount of this payment"),
        (
            "card_tx_count_1d",
            "count",
            Window(DAY_MS),
            "payments with this card within 1 day",
        ),
        (
            "card_amount_mean_90d",
            "mean",
            Window(90 * DAY_MS),
            "mean amount of this card within 90 days",
        ),
        (
            "terminal_fraud_rate_7d_lag1d",
            "rate",
            Window(7 * DAY_MS, DAY_MS),
            "share of frauds at this terminal within 7 days, up to 1 day ago",
        ),
    ],
)
def test_a_name_says_what_a_feature_is(
    name: str, aggregate: str, window: Window | None, meaning: str
) -> None:
    feature = feature_named(name)
    assert (feature.name, feature.aggregate, feature.window, feature.meaning) == (
        name,
        aggregate,
        window,
        meaning,
    )


def test_a_definition_changes_with_all_that_fixes_a_value() -> None:
    definition = feature_named("terminal_fraud_rate_7d_lag7d").definition()
    assert definition == {
        "name": "terminal_fraud_rate_7d_lag7d",
        "aggregate": "rate",
        "series": ["terminal_tx", "terminal_label"],
        "window_ms": 7 * DAY_MS,
        "lag_ms": 7 * DAY_MS,
        "counts_present": False,
        "when_empty": 0.0,
        "when_unknown": None,
        "field": "",
        "per_mille": 0,
        "buckets": 0,
        "shares": [],
    }
    assert feature_named("card_amount_mean_7d").definition()["when_empty"] is None
    assert feature_named("card_tx_count_7d").definition()["counts_present"] is True


def test_what_is_recorded_is_read_as_far_as_the_features_need() -> None:
    definition = feature_set_of("card_tx_count_7d_lag1d").profile_definition("EUR")
    series = next(series for series in definition.series if series.name == "card_tx")
    assert series.windows == (Window(7 * DAY_MS, DAY_MS),)
    assert series.horizon_ms == definition.horizon_ms == 9 * DAY_MS
    assert all(other.windows == () for other in definition.series if other is not series)
    assert DEFINITION.horizon_ms == 38 * DAY_MS


def test_the_keys_name_changes_with_what_is_recorded_and_not_with_what_is_read() -> None:
    def digest(*names: str) -> str:
        return feature_set_of(*names).profile_definition("EUR").digest

    assert digest("card_tx_count_7d") == digest("card_tx_count_7d", "card_amount_mean_1d")
    assert digest("card_tx_count_7d") != digest("card_tx_count_8d")
    assert digest("card_tx_count_7d") != digest("card_tx_count_7d", "terminal_tx_count_7d")
    assert DEFAULT.profile_definition("USD").digest != DEFINITION.digest


def test_a_deviation_of_large_amounts_keeps_its_digits() -> None:
    amounts = [10**12, 10**12 - 2]
    squares = [amount * amount for amount in amounts]
    limbs = [
        np.array([sum(square >> 27 * i & (1 << 27) - 1 for square in squares)]) for i in range(2)
    ]
    limbs.append(np.array([sum(square >> 54 for square in squares)]))
    found = aggregates.deviation(np.array([sum(amounts)]), limbs, np.array([2]), 1)
    assert found[0] == 2**0.5
