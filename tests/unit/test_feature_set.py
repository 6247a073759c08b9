"""Definitions of features: what they mean, and what a mistake in one is told."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from feature_names import DEFAULT, DEFAULT_FEATURES, feature_set_of

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.errors import FeatureSetError, InvalidEventError, Reason
from fraudstream.event import EventRules, Record, Transaction, parse_transaction
from fraudstream.feature_document import parse_duration
from fraudstream.feature_files import chosen_feature_set, default_feature_set, load_feature_set
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.features import (
    FUNCTIONS,
    STATELESS_AGGREGATES,
    EventColumns,
    Feature,
    VectorBuilder,
)
from fraudstream.profile import DAY_MS, InputPartition, Located, ProfileBatch, Scan, Stretch, Window

ROOT = Path(__file__).parents[2]
T = 1_532_513_472_000
PAYMENTS = InputPartition(1, 0)

#: Every aggregate, over a card and over an optional device.
RICH: dict[str, Any] = {
    "version": 1,
    "name": "rich",
    "entities": {
        "card": {"field": "card_id"},
        "terminal": {"field": "terminal_id"},
        "device": {"field": "device_id", "optional": True},
    },
    "series": {
        "card_tx": {
            "entity": "card",
            "records": "transactions",
            "keeps": ["amount", "amount_squares", "terminal_id", "device_id"],
        },
        "device_tx": {"entity": "device", "records": "transactions"},
        "card_label": {"entity": "card", "records": "labels"},
    },
    "features": [
        {"aggregate": "hour"},
        {"aggregate": "hash", "field": "mcc", "buckets": 64},
        {"aggregate": "frequency", "field": "currency", "shares": {"EUR": 0.9}, "when_empty": 0},
        {"aggregate": "count", "series": "card_tx", "windows": ["5m", "1d"]},
        {
            "aggregate": "count",
            "series": "card_tx",
            "windows": ["1d"],
            "counts_present": False,
            "name": "card_tx_before_1d",
        },
        {"aggregate": "sum", "series": "card_tx", "windows": ["1h"]},
        {"aggregate": "mean", "series": "card_tx", "windows": ["1d"]},
        {"aggregate": "std", "series": "card_tx", "windows": ["1d"]},
        {"aggregate": "ratio_to_mean", "series": "card_tx", "windows": ["1d"]},
        {"aggregate": "seconds_since_last", "series": "card_tx", "windows": ["1d"]},
        {
            "aggregate": "distinct_count",
            "series": "card_tx",
            "field": "terminal_id",
            "windows": ["1d"],
        },
        {"aggregate": "quantile", "quantile": 0.5, "series": "card_tx", "windows": ["1d"]},
        {"aggregate": "quantile", "quantile": 0.9, "series": "card_tx", "windows": ["1d"]},
        {"aggregate": "count", "series": "device_tx", "windows": ["1d"], "when_unknown": -1},
        {"aggregate": "sum", "series": "card_label", "windows": ["90d"], "lag": "1d"},
    ],
}


def payment(
    number: int, at_s: float, amount: int | None = 1000, terminal: str = "t1", **extra: str
) -> Transaction:
    fields = tuple((name, extra.get(name)) for name in ("device_id", "mcc"))
    time_ms = T + int(at_s * 1000)
    return Transaction(f"x{number}", time_ms, "c1", terminal, 0, "EUR", amount, 0, fields)


def values_of(feature_set: FeatureSet, payments: list[Transaction]) -> list[dict[str, float]]:
    """Run payments through the store in memory, one by one, and build their vectors."""
    definition = feature_set.profile_definition("EUR")
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({PAYMENTS: AttachPoint(0, 0)})
    builder = VectorBuilder(feature_set.features, definition)
    rows = []
    for offset, transaction in enumerate(payments):
        located = [Located(transaction, PAYMENTS, offset)]
        answers = store.apply(ProfileBatch([], located, {PAYMENTS: Stretch(offset, offset + 1)}))
        vector = builder.build(EventColumns.of([transaction], builder.text_fields), answers)[0]
        names = [feature.name for feature in feature_set.features]
        rows.append(dict(zip(names, vector.tolist(), strict=True)))
    return rows


# ------------------------------------------------------------------ what they mean


def test_every_aggregate_gives_what_a_pencil_gives() -> None:
    rows = values_of(
        parse_feature_set(RICH),
        [
            payment(1, 0, 1000, "t1", mcc="5411"),
            payment(2, 60, 2000, "t2", device_id="d1"),
            payment(3, 120, 3000, "t1", device_id="d1"),
            payment(4, 600, None, "t3", device_id="d2"),
            payment(5, 600.5, 6000, "t3"),
        ],
    )
    first, _, third, fourth, fifth = rows
    assert first["hour"] == 10
    assert first["currency_frequency"] == np.float32(0.9)
    assert 0 <= first["mcc_hash"] < 64
    assert np.isnan(third["mcc_hash"])
    assert [row["card_tx_count_5m"] for row in rows] == [1, 2, 3, 1, 2]
    assert [row["card_tx_before_1d"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["card_amount_sum_1h"] for row in rows] == [10, 30, 60, 60, 120]
    assert [row["card_amount_mean_1d"] for row in rows] == [10, 15, 20, 20, 30]
    assert np.isnan(first["card_amount_std_1d"])
    assert third["card_amount_std_1d"] == fourth["card_amount_std_1d"] == 10
    assert fifth["card_amount_std_1d"] == np.float32(np.std([10, 20, 30, 60], ddof=1))
    assert third["card_amount_ratio_to_mean_1d"] == 1.5
    assert np.isnan(fourth["card_amount_ratio_to_mean_1d"])
    assert np.isnan(first["card_tx_seconds_since_last_1d"])
    assert [row["card_tx_seconds_since_last_1d"] for row in rows[1:]] == [60, 60, 480, 0.5]
    assert [row["card_terminal_distinct_count_1d"] for row in rows] == [1, 2, 2, 3, 3]
    assert [row["card_amount_median_1d"] for row in rows] == [10, 10, 20, 20, 20]
    assert fifth["card_amount_q90_1d"] == 60
    assert [row["device_tx_count_1d"] for row in rows] == [-1, 1, 2, 1, -1]
    assert first["card_fraud_sum_90d_lag1d"] == 0


def test_a_set_says_what_must_be_kept_and_what_must_be_read_of_events() -> None:
    feature_set = parse_feature_set(RICH)
    assert feature_set.extra_fields == ("device_id", "mcc")
    label, card, device = feature_set.series
    assert card.attributes == ("terminal_id", "device_id")
    assert card.measures[:2] == ("amount_minor", "amount_known")
    assert len(card.measures) == 5
    assert Window(DAY_MS, 0, counts_present=False) in card.windows
    assert Scan("quantile", Window(DAY_MS), "", 900) in card.scans
    assert (device.entity, device.measures) == ("device_id", ())
    assert label.windows == (Window(90 * DAY_MS, DAY_MS),)
    assert label.horizon_ms == 92 * DAY_MS
    assert feature_set.reads_labels
    assert not feature_set_of("amount", "card_tx_count_1d").reads_labels


def test_the_default_set_is_the_file_in_configs() -> None:
    shown = ROOT / "configs" / "features" / "default.yaml"
    assert load_feature_set(shown) == default_feature_set() == chosen_feature_set(None) == DEFAULT


def test_a_set_survives_json_and_its_hash_changes_with_every_word() -> None:
    for document in (yaml.safe_load((ROOT / "configs/features/default.yaml").read_text()), RICH):
        found = parse_feature_set(document)
        again = parse_feature_set(json.loads(json.dumps(found.document)))
        assert again == found
        assert again.sha256 == found.sha256
    hashes = {parse_feature_set(RICH).sha256}
    for number in range(len(RICH["features"])):
        fewer = copy.deepcopy(RICH)
        del fewer["features"][number]
        hashes.add(parse_feature_set(fewer).sha256)
    assert len(hashes) == 1 + len(RICH["features"])


@pytest.mark.parametrize("feature", DEFAULT_FEATURES, ids=lambda feature: feature.name)
def test_every_default_feature_is_explained_by_a_worked_example(feature: Feature) -> None:
    text = inspect.getdoc(FUNCTIONS[feature.aggregate]) or ""
    assert ">>>" in text
    base = feature.name.split("_1d")[0].split("_7d")[0].split("_30d")[0]
    assert f"``{base}" in text


def test_every_aggregate_has_a_function_and_a_name() -> None:
    used = {feature.aggregate for feature in (*DEFAULT_FEATURES, *parse_feature_set(RICH).features)}
    assert used == set(FUNCTIONS)
    assert set(STATELESS_AGGREGATES) < set(FUNCTIONS)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("1m", 60_000), ("90m", 5_400_000), ("6h", 21_600_000), ("7d", 604_800_000)],
)
def test_durations(text: str, duration_ms: int) -> None:
    assert parse_duration(text) == duration_ms


@pytest.mark.parametrize("text", ["", "7", "7s", "d", "07d", "1.5d", "-1d", "7d ", "7d\n", "1w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write 30m, 6h or 7d"):
        parse_duration(text)


# ------------------------------------------------------------------ mistakes


def line(number: int, **words: object) -> dict[str, object]:
    """Change the words of one feature's line."""
    return {f"features.{number}.{word}": value for word, value in words.items()}


def edited(words: dict[str, object]) -> dict[str, Any]:
    """Change words of the rich document, each by its place; None takes one away."""
    document = copy.deepcopy(RICH)
    for place, value in words.items():
        *path, last = place.split(".")
        target: Any = document
        for step in path:
            target = target[int(step)] if isinstance(target, list) else target[step]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return document


MISTAKES = [
    ({"version": 2}, "version: Input should be 1"),
    ({"colour": "red"}, "colour: there is no such word here"),
    ({"features": []}, "features: Tuple should have at least 1 item"),
    ({"entities.card.field": "amount_minor"}, "amount_minor names nobody"),
    ({"entities.card.field": "transaction_id"}, "transaction_id names nobody"),
    ({"entities.device.optional": False}, "device_id is not in the event contract"),
    ({"series.card_tx.entity": "kard"}, "there is no entity 'kard'; the entities are"),
    (
        {"series.card_tx.entity": "device"},
        "its name must begin with its entity's",
    ),
    ({"series.card_tx.records": "refunds"}, "series.card_tx.records: Input should be"),
    ({"series.card_tx.allowed_lateness": "1w"}, "'1w' is no duration"),
    ({"series.card_tx.keeps": ["amount_minor"]}, "amount_minor is no text"),
    ({"series.card_tx.keeps": ["amount_squares"]}, "amount_squares need amount"),
    ({"series.card_tx.keeps": ["amount", "amount"]}, "something is named twice"),
    ({"series.card_label.keeps": ["amount"]}, "of a label nothing else is kept"),
    ({"series.device_tx.records": "labels"}, "labels do not carry device_id"),
    (
        {"series.card_tx.records": "labels", "series.card_tx.keeps": []},
        "none records the transactions",
    ),
    (line(3, aggregate="velocity"), "there is no such aggregate; there are amount, "),
    (line(3, series="cards"), "`series` must name a series: card_tx, device_tx, card_label"),
    (line(4, series=None), "`series` must name a series"),
    (line(3, windows=[]), "count needs `windows`, such as"),
    (line(3, windows=["0d"]), "0d is out of range: one minute"),
    (line(3, windows=["91d"]), "91d is out of range: one minute"),
    (line(3, windows=["1m", "1m"]), "there are two features card_tx_count_1m"),
    (line(3, windows=["7 days"]), "'7 days' is no duration"),
    (line(3, lag="100d"), "100d is out of range"),
    (line(13, lag="7d"), "no labels of a device are recorded: add a series with `records: labels`"),
    (line(3, lag="1d", counts_present=True), "cannot count in a window that ends before it"),
    (line(3, name="mine"), "a name of your own goes with a single window"),
    (line(3, field="mcc"), "count takes no `field`"),
    (line(3, buckets=8), "`buckets` and `shares` belong to hash and frequency"),
    (line(3, quantile=0.5), "`quantile` belongs to quantile"),
    (line(3, against="card_tx"), "`against` belongs to rate"),
    (line(3, when_empty=float("nan")), "leave them out for NaN"),
    (line(4, name="card_tx_count_1d"), "there are two features card_tx_count_1d (the other at"),
    (line(5, series="device_tx"), "sum needs amount of every record: write `keeps: [amount]`"),
    (line(7, series="device_tx"), "std needs amount_squares of every record"),
    (line(6, series="card_label"), "mean cannot be made of labels; use rate, count or sum"),
    (line(6, aggregate="rate", against="card_tx"), "a rate is of a series of labels `against` one"),
    (line(6, aggregate="rate"), "which needs it: the series that is counted"),
    (
        line(14, aggregate="rate", against="device_tx"),
        "a rate's two series must be of the same entity",
    ),
    (line(10, field=None), "distinct_count needs a `field`"),
    (line(10, field="mcc"), "distinct_count needs mcc of every record: write `keeps: ["),
    (line(11, quantile=None), "which needs it: 0.5 is the median"),
    (line(11, quantile=1.5), "less than or equal to 1"),
    (line(1, buckets=None), "`buckets` belongs to hash, which needs it"),
    (line(1, field=None), "hash needs a `field`"),
    (line(1, series="card_tx"), "hash is of the payment alone: leave out `series`"),
    (line(0, lag="1d"), "hour is of the payment alone: leave out `lag`"),
    (line(0, field="mcc"), "hour takes no `field`"),
    (line(2, shares=None), "`shares` belongs to frequency, which needs it"),
    (line(2, shares={"EUR": 2.0}), "less than or equal to 1"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[told for _, told in MISTAKES])
def test_a_mistake_is_told_with_what_to_write_instead(
    words: dict[str, object], sentence: str
) -> None:
    with pytest.raises(FeatureSetError) as caught:
        parse_feature_set(edited(words))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "x", 3, {}, {"version": 1}])
def test_what_is_no_feature_set_is_a_sentence(document: object) -> None:
    with pytest.raises(FeatureSetError):
        parse_feature_set(document)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FeatureSetError, match="cannot be read"):
        load_feature_set(tmp_path / "missing.yaml")
    for content, words in ((b"a: [", "this is not YAML"), (b"\xff\xfe\x00", "it is no text")):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(FeatureSetError, match=words):
            load_feature_set(tmp_path / "bad.yaml")


def test_a_feature_that_there_is_not_is_named() -> None:
    with pytest.raises(FeatureSetError, match="has no feature 'card_tx_count_2d'; it has amount"):
        DEFAULT.select(["amount", "card_tx_count_2d"])


# ------------------------------------------------------------------ fields beyond the contract


def parsed(rules: EventRules, **fields: object) -> Transaction:
    value = {
        "transaction_id": "x",
        "event_time": T,
        "card_id": "c1",
        "terminal_id": "t1",
        "amount_minor": 1,
        "currency": "EUR",
    } | fields
    return parse_transaction(Record("t", 0, 0, T, b"c1", json.dumps(value).encode()), rules)


RULES = EventRules(extra_fields=("device_id", "mcc"))


def test_fields_that_the_feature_set_names_are_read_and_not_unknown() -> None:
    found = parsed(RULES, device_id="d1", note="x")
    assert found.extra == (("device_id", "d1"), ("mcc", None))
    assert (found.text("device_id"), found.text("mcc")) == ("d1", None)
    assert found.unknown_fields == 1
    assert parsed(RULES, device_id=None).text("device_id") is None
    assert parsed(EventRules(), device_id="d1").unknown_fields == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (17, Reason.WRONG_TYPE),
        (["d1"], Reason.WRONG_TYPE),
        ("", Reason.BAD_FORMAT),
        ("d 1", Reason.BAD_FORMAT),
        ("d" * 65, Reason.BAD_FORMAT),
        ("d1\n", Reason.BAD_FORMAT),
        ("4111111111111111", Reason.CARD_NUMBER),
    ],
)
def test_a_wrong_field_makes_the_event_a_dead_letter(value: object, reason: Reason) -> None:
    with pytest.raises(InvalidEventError) as caught:
        parsed(RULES, device_id=value)
    assert caught.value.reason is reason


def test_a_card_number_beyond_the_contract_becomes_a_token_where_card_ids_do() -> None:
    rules = EventRules(card_number="hmac", hmac_key=b"k" * 32, extra_fields=("device_id",))
    found = parsed(rules, device_id="4111111111111111").text("device_id")
    assert found is not None
    assert "4111" not in found
