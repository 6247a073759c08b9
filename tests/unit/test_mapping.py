"""Foreign names, units and ids → the contract's; what does not fit is left for validation."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fraudstream.card_number import holds_card_number
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import EventRules, Record, Transaction, parse_label, parse_transaction
from fraudstream.mapping import EventMapping, compile_mapping

TIME_MS = 1_532_513_472_000
CARD_NUMBER = "4111111111111111"
HANDBOOK: dict[str, Any] = {
    "transaction_id": {"from": "TRANSACTION_ID", "prefix": "tx"},
    "event_time": {"from": "TX_DATETIME", "zone": "UTC"},
    "card_id": {"from": "CUSTOMER_ID", "prefix": "c"},
    "terminal_id": {"from": "TERMINAL_ID", "prefix": "t"},
    "amount_minor": {"from": "TX_AMOUNT", "unit": "major"},
    "currency": {"value": "EUR"},
    "is_fraud": {"from": "TX_FRAUD"},
}
ROW: dict[str, Any] = {
    "TRANSACTION_ID": 1,
    "TX_DATETIME": "2018-07-25 10:11:12",
    "CUSTOMER_ID": 17,
    "TERMINAL_ID": 17,
    "TX_AMOUNT": 57.16,
    "TX_FRAUD": 1,
}


def mapping(fields: dict[str, Any]) -> EventMapping:
    return EventMapping.model_validate({"fields": fields})


def convert(field: str, value: object, **how: object) -> object:
    """Convert one value as a mapping of one field does."""
    apply = compile_mapping(mapping({field: {"from": "foreign", **how}}))
    return apply({"foreign": value})[field]


def parse(fields: dict[str, Any], row: object) -> Transaction:
    rules = EventRules(mapping=compile_mapping(mapping(fields)))
    value = json.dumps(row).encode()
    return parse_transaction(Record("t", 0, 0, TIME_MS, None, value), rules)


def refusal(fields: dict[str, Any], row: object) -> tuple[Reason, str]:
    with pytest.raises(InvalidEventError) as caught:
        parse(fields, row)
    return caught.value.reason, caught.value.field


# ------------------------------------------------------------------ whole events


def test_a_foreign_row_becomes_a_valid_event() -> None:
    found = parse(HANDBOOK, ROW)
    assert found == Transaction("tx1", TIME_MS, "c17", "t17", 5716, "EUR", 5716, unknown_fields=1)


def test_card_17_and_terminal_17_stay_apart() -> None:
    found = parse(HANDBOOK, ROW)
    assert found.card_id != found.terminal_id


def test_a_foreign_row_becomes_a_valid_label() -> None:
    fields = HANDBOOK | {"reported_at": {"from": "SEEN", "unit": "s"}, "source": {"value": "desk"}}
    rules = EventRules(mapping=compile_mapping(mapping(fields)))
    value = json.dumps(ROW | {"SEEN": TIME_MS // 1000}).encode()
    found = parse_label(Record("l", 0, 0, TIME_MS, None, value), rules)
    assert (found.is_fraud, found.reported_at_ms, found.source) == (True, TIME_MS, "desk")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"TX_DATETIME": "yesterday"}, Reason.BAD_FORMAT, "event_time"),
        ({"TX_DATETIME": "2018-02-30 10:11:12"}, Reason.BAD_FORMAT, "event_time"),
        ({"TX_DATETIME": None}, Reason.WRONG_TYPE, "event_time"),
        ({"TX_DATETIME": [1]}, Reason.WRONG_TYPE, "event_time"),
        ({"TX_DATETIME": "0001-01-01 00:00:00"}, Reason.TIME_TOO_EARLY, "event_time"),
        ({"TX_DATETIME": "9999-12-31 23:59:59"}, Reason.TIME_IN_FUTURE, "event_time"),
        ({"TX_AMOUNT": 57.164}, Reason.WRONG_TYPE, "amount_minor"),
        ({"TX_AMOUNT": "57.16"}, Reason.WRONG_TYPE, "amount_minor"),
        ({"TX_AMOUNT": -0.01}, Reason.OUT_OF_RANGE, "amount_minor"),
        ({"TX_AMOUNT": 10_000_000_000.01}, Reason.OUT_OF_RANGE, "amount_minor"),
        ({"TX_AMOUNT": True}, Reason.WRONG_TYPE, "amount_minor"),
        ({"TX_AMOUNT": None}, Reason.WRONG_TYPE, "amount_minor"),
        ({"CUSTOMER_ID": 1.5}, Reason.WRONG_TYPE, "card_id"),
        ({"CUSTOMER_ID": True}, Reason.WRONG_TYPE, "card_id"),
        ({"CUSTOMER_ID": None}, Reason.WRONG_TYPE, "card_id"),
        ({"CUSTOMER_ID": {"id": 1}}, Reason.WRONG_TYPE, "card_id"),
        ({"CUSTOMER_ID": "x" * 64}, Reason.BAD_FORMAT, "card_id"),
        ({"CUSTOMER_ID": CARD_NUMBER}, Reason.CARD_NUMBER, "card_id"),
        ({"CUSTOMER_ID": int(CARD_NUMBER)}, Reason.CARD_NUMBER, "card_id"),
        ({"note": CARD_NUMBER}, Reason.CARD_NUMBER, ""),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_contracts_own_reason(
    changes: dict[str, Any], reason: Reason, field: str
) -> None:
    assert refusal(HANDBOOK, ROW | changes) == (reason, field)


@pytest.mark.parametrize("source", ["TRANSACTION_ID", "TX_DATETIME", "TX_AMOUNT"])
def test_a_missing_foreign_field_is_our_field_missing(source: str) -> None:
    row = {name: value for name, value in ROW.items() if name != source}
    field = next(name for name, how in HANDBOOK.items() if how.get("from") == source)
    assert refusal(HANDBOOK, row) == (Reason.MISSING_FIELD, field)


@pytest.mark.parametrize(
    "currency", [[], {}, ["EUR"], {"code": "EUR"}, None, 978, True, "eur", "€"]
)
def test_a_currency_that_is_none_is_refused_and_stops_nobody(currency: object) -> None:
    """The amount's unit depends on the currency, which is a publisher's free value until then."""
    fields = {name: how for name, how in HANDBOOK.items() if name != "currency"}
    reason, _ = refusal(fields, ROW | {"currency": currency})
    assert reason in {Reason.WRONG_TYPE, Reason.BAD_FORMAT}
    by_name = fields | {"currency": {"from": "CURRENCY"}}
    assert refusal(by_name, ROW | {"CURRENCY": currency})[0] is reason


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([CARD_NUMBER, "2018-07-25", "9999-12-31 23:59:59", "EUR", "0001-01-01"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"])


@given(
    changes=st.dictionaries(st.sampled_from([*ROW, "currency", "card_id"]), JSON_VALUES),
    unit=st.sampled_from(["s", "ms", "us"]),
    zone=ZONES,
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_no_foreign_value_leads_to_another_error_than_the_contracts(
    changes: dict[str, Any], unit: str, zone: str
) -> None:
    fields = {name: how for name, how in HANDBOOK.items() if name != "currency"}
    fields["event_time"] = {"from": "TX_DATETIME", "unit": unit, "zone": zone}
    row = ROW | {"currency": "EUR"} | changes
    try:
        found = parse(fields, row)
    except InvalidEventError:
        return
    assert found.card_id == f"c{row['CUSTOMER_ID']}"


# ------------------------------------------------------------------ which field goes where


def test_fields_that_are_not_named_are_passed_on() -> None:
    apply = compile_mapping(mapping({"card_id": {"from": "CUSTOMER_ID"}}))
    assert apply({"CUSTOMER_ID": "c1", "note": "x", "terminal_id": "t1"}) == {
        "card_id": "c1",
        "note": "x",
        "terminal_id": "t1",
    }


def test_a_row_is_not_changed() -> None:
    row = dict(ROW)
    compile_mapping(mapping(HANDBOOK))(row)
    assert row == ROW


def test_one_foreign_field_may_be_two_of_ours() -> None:
    apply = compile_mapping(mapping({"event_time": {"from": "AT"}, "reported_at": {"from": "AT"}}))
    assert apply({"AT": TIME_MS}) == {"event_time": TIME_MS, "reported_at": TIME_MS}


def test_a_foreign_field_wins_over_one_that_happens_to_have_our_name() -> None:
    apply = compile_mapping(mapping({"card_id": {"from": "token"}, "currency": {"value": "EUR"}}))
    assert apply({"card_id": CARD_NUMBER, "token": "c1", "currency": "USD"}) == {
        "card_id": "c1",
        "currency": "EUR",
    }


def test_two_fields_may_change_places() -> None:
    apply = compile_mapping(
        mapping({"card_id": {"from": "terminal_id"}, "terminal_id": {"from": "card_id"}})
    )
    assert apply({"card_id": "a", "terminal_id": "b"}) == {"card_id": "b", "terminal_id": "a"}


# ------------------------------------------------------------------ ids


@pytest.mark.parametrize(("value", "expected"), [(17, "c17"), ("17", "c17"), (-1, "c-1")])
def test_an_id_gets_its_prefix(value: object, expected: str) -> None:
    assert convert("card_id", value, prefix="c") == expected


@pytest.mark.parametrize("value", [1.5, True, None, ["c1"], {"id": 1}])
def test_what_is_no_id_gets_no_prefix(value: object) -> None:
    assert convert("card_id", value, prefix="c") is value


def test_a_prefix_hides_no_card_number() -> None:
    for value in (CARD_NUMBER, int(CARD_NUMBER), "4111-1111-1111-1111"):
        assert holds_card_number(str(convert("card_id", value, prefix="c")))


# ------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("value", "how", "expected"),
    [
        (1_532_513_472, {"unit": "s"}, TIME_MS),
        (1_532_513_472.5, {"unit": "s"}, TIME_MS + 500),
        (1_532_513_472.0015, {"unit": "s"}, TIME_MS + 1),
        (TIME_MS, {"unit": "ms"}, TIME_MS),
        (TIME_MS, {}, TIME_MS),
        (TIME_MS * 1000 + 999, {"unit": "us"}, TIME_MS),
        ("2018-07-25 10:11:12", {"zone": "UTC"}, TIME_MS),
        ("2018-07-25T12:11:12", {"zone": "Europe/Berlin"}, TIME_MS),
        ("2018-07-25T12:11:12+02:00", {"zone": "UTC"}, TIME_MS),
        ("2018-07-25T10:11:12Z", {"zone": "Asia/Tokyo"}, TIME_MS),
        ("2018-07-25T10:11:12Z", {}, "2018-07-25T10:11:12Z"),
        ("2018-07-25 10:11:12", {}, "2018-07-25 10:11:12"),
        ("yesterday", {"zone": "UTC"}, "yesterday"),
        (datetime(2018, 7, 25, 10, 11, 12, tzinfo=UTC), {}, TIME_MS),
        (datetime(2018, 7, 25, 12, 11, 12, tzinfo=timezone(timedelta(hours=2))), {}, TIME_MS),
        (datetime(2018, 7, 25, 10, 11, 12), {"zone": "UTC"}, TIME_MS),  # noqa: DTZ001 - as data frames have it
        (datetime(2018, 7, 25, 10, 11, 12), {}, "2018-07-25T10:11:12"),  # noqa: DTZ001 - the same
        (True, {"unit": "s"}, True),
        (None, {"unit": "s"}, None),
    ],
)
def test_a_time_becomes_epoch_milliseconds_where_that_is_plain(
    value: object, how: dict[str, object], expected: object
) -> None:
    assert convert("event_time", value, **how) == expected


def test_the_hour_that_comes_twice_is_taken_for_its_first_coming() -> None:
    first_ms = 1_540_686_600_000  # 2018-10-28T00:30:00Z
    assert convert("event_time", "2018-10-28 02:30:00", zone="Europe/Berlin") == first_ms


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_left_for_validation(value: float) -> None:
    """A data frame has NaN where a time is missing."""
    assert convert("event_time", value, unit="s") is value


def test_a_day_of_a_data_frame_is_left_for_validation() -> None:
    day = date(2018, 7, 25)
    assert convert("event_time", day, zone="UTC") is day


# ------------------------------------------------------------------ amounts


@pytest.mark.parametrize(
    ("value", "currency", "expected"),
    [
        (57.16, "EUR", 5716),
        (57, "EUR", 5700),
        (0.1 + 0.2, "EUR", 30),
        (444.79999999999995, "EUR", 44480),
        (57.1600001, "EUR", 57.1600001),
        (0.3, "EUR", 30),
        (57.164, "EUR", 57.164),
        (0, "EUR", 0),
        (500, "JPY", 500),
        (500.5, "JPY", 500.5),
        (1.005, "KWD", 1005),
        (1.0001, "CLF", 10001),
        (9_999_999_999.99, "EUR", 999_999_999_999),
        (1e300, "EUR", 10**302),
        ("57.16", "EUR", "57.16"),
        (True, "EUR", True),
        (57.16, "XXX", 57.16),
    ],
)
def test_an_amount_in_major_units_becomes_minor_ones_if_it_does_exactly(
    value: object, currency: str, expected: object
) -> None:
    apply = compile_mapping(mapping({"amount_minor": {"from": "AMOUNT", "unit": "major"}}))
    found = apply({"AMOUNT": value, "currency": currency})["amount_minor"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_amount_that_is_no_number_is_left_for_validation(value: float) -> None:
    apply = compile_mapping(mapping({"amount_minor": {"from": "AMOUNT", "unit": "major"}}))
    assert apply({"AMOUNT": value, "currency": "EUR"})["amount_minor"] is value


def test_the_unit_of_an_amount_is_that_of_the_currency_whatever_the_order_of_the_fields() -> None:
    fields = {
        "amount_minor": {"from": "AMOUNT", "unit": "major"},
        "amount_base_minor": {"from": "AMOUNT", "unit": "minor"},
        "currency": {"from": "CURRENCY"},
    }
    apply = compile_mapping(mapping(fields))
    assert apply({"AMOUNT": 500, "CURRENCY": "JPY"}) == {
        "amount_minor": 500,
        "amount_base_minor": 500,
        "currency": "JPY",
    }


def test_an_amount_in_minor_units_stays_as_it_is() -> None:
    for how in ({}, {"unit": "minor"}):
        apply = compile_mapping(mapping({"amount_minor": {"from": "AMOUNT", **how}}))
        assert apply({"AMOUNT": 5716, "currency": "EUR"})["amount_minor"] == 5716


@given(st.integers(0, 10**12), st.sampled_from(["EUR", "JPY", "KWD", "CLF"]))
@settings(deadline=None, derandomize=True)
def test_every_amount_survives_its_way_through_major_units(minor: int, currency: str) -> None:
    """Up to the contract's greatest amount a double still names the minor unit."""
    decimals = {"EUR": 2, "JPY": 0, "KWD": 3, "CLF": 4}[currency]
    apply = compile_mapping(mapping({"amount_minor": {"from": "AMOUNT", "unit": "major"}}))
    found = apply({"AMOUNT": minor / 10**decimals, "currency": currency})
    assert found["amount_minor"] == minor


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (0, False), (True, True), (2, 2), ("1", "1"), (1.0, 1.0)]
)
def test_a_label_of_zero_or_one_becomes_a_boolean(value: object, expected: object) -> None:
    found = convert("is_fraud", value)
    assert (found, type(found)) == (expected, type(expected))


# ------------------------------------------------------------------ mappings that are wrong


@pytest.mark.parametrize(
    "fields",
    [
        {"card": {"from": "CUSTOMER_ID"}},
        {"card_id": {}},
        {"card_id": {"from": "a", "value": "b"}},
        {"card_id": {"from": ""}},
        {"card_id": {"form": "CUSTOMER_ID"}},
        {"card_id": "CUSTOMER_ID"},
        {"event_time": {"from": "AT", "zone": "Middle/Earth"}},
        {"event_time": {"from": "AT", "zone": "../../etc/passwd"}},
        {"event_time": {"from": "AT", "unit": "hours"}},
        {"amount_minor": {"from": "AMOUNT", "unit": "cents"}},
    ],
    ids=str,
)
def test_a_mapping_with_a_wrong_word_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mapping(fields)


def test_a_field_of_the_feature_sets_is_mapped_as_an_id_once_it_is_named() -> None:
    words = {"fields": {"device_id": {"from": "DEVICE", "prefix": "d"}}}
    with pytest.raises(ValidationError, match="if `extra_fields` lists it here"):
        EventMapping.model_validate(words)
    apply = compile_mapping(EventMapping.model_validate(words | {"extra_fields": ["device_id"]}))
    assert apply({"DEVICE": 17}) == {"device_id": "d17"}
    assert apply({"DEVICE": 4111111111111111}) == {"device_id": "4111111111111111"}
    assert apply({}) == {}
