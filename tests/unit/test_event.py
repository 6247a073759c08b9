"""Bytes → events: every hostile record is one error with the right reason, and tells nothing."""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import replace

import hostile
import msgspec
import pytest
from hostile import CARD_NUMBER, LABEL, PAYMENT, RECORD_TIME_MS, Hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudstream.card_number import tokenize
from fraudstream.errors import InvalidEventError, Reason
from fraudstream.event import (
    AMOUNT_MINOR_MAX,
    EVENT_BYTES_MAX,
    EVENT_TIME_MAX_MS,
    EVENT_TIME_MIN_MS,
    EventRules,
    Label,
    Record,
    Transaction,
    format_time,
    parse_label,
    parse_transaction,
)
from fraudstream.mapping import EventMapping, compile_mapping

PLAIN = EventRules()
CONFLUENT = EventRules(framing="confluent")
HMAC = EventRules(card_number="hmac", hmac_key=b"0123456789abcdef0123456789abcdef")
MAPPED = EventRules(
    mapping=compile_mapping(
        EventMapping.model_validate(
            {
                "fields": {
                    "transaction_id": {"from": "id", "prefix": "tx"},
                    "event_time": {"from": "at", "unit": "s", "zone": "Europe/Berlin"},
                    "card_id": {"from": "customer", "prefix": "c"},
                    "amount_minor": {"from": "amount", "unit": "major"},
                    "is_fraud": {"from": "fraud"},
                }
            }
        )
    )
)
FIELDS = {*PAYMENT, *LABEL, "amount_base_minor", ""}
CANARY = "canary7316"


def record(value: bytes | None, timestamp_ms: int = RECORD_TIME_MS) -> Record:
    return Record("transactions", 0, 7, timestamp_ms, b"c1", value)


def parse(rules: EventRules = PLAIN, **changes: object) -> Transaction:
    return parse_transaction(record(hostile.payment(**changes)), rules)


def refusal(
    value: bytes | None, rules: EventRules = PLAIN, *, is_label: bool = False
) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as caught:
        (parse_label if is_label else parse_transaction)(record(value), rules)
    return caught.value


# ------------------------------------------------------------------ hostile records


def case_names(cases: tuple[Hostile, ...]) -> list[str]:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return names


def test_the_corpus_is_large_and_has_every_reason_an_event_can_be_refused_for() -> None:
    cases = [*hostile.PAYMENTS, *hostile.LABELS, *hostile.FRAMED]
    assert len(hostile.PAYMENTS) >= 60
    assert {case.reason for case in cases} == set(Reason) - {Reason.OUTPUT_REFUSED}


@pytest.mark.parametrize("case", hostile.PAYMENTS, ids=case_names(hostile.PAYMENTS))
def test_a_hostile_payment_is_refused_for_its_reason(case: Hostile) -> None:
    error = refusal(case.value)
    assert (error.reason, error.field) == (case.reason, case.field)


@pytest.mark.parametrize("case", hostile.LABELS, ids=case_names(hostile.LABELS))
def test_a_hostile_label_is_refused_for_its_reason(case: Hostile) -> None:
    error = refusal(case.value, is_label=True)
    assert (error.reason, error.field) == (case.reason, case.field)


@pytest.mark.parametrize("case", hostile.FRAMED, ids=case_names(hostile.FRAMED))
def test_a_frame_is_required_where_one_is_configured(case: Hostile) -> None:
    error = refusal(case.value, CONFLUENT)
    assert (error.reason, error.field) == (case.reason, case.field)


@pytest.mark.parametrize(
    "case",
    [case for case in hostile.PAYMENTS if case.reason is not Reason.FRAMING and case.value],
    ids=lambda case: case.name,
)
def test_a_hostile_payment_is_refused_for_the_same_reason_inside_a_frame(case: Hostile) -> None:
    assert case.value
    if case.reason is Reason.TOO_LARGE or len(case.value) + 5 > EVENT_BYTES_MAX:
        return
    error = refusal(b"\0\0\0\0\x01" + case.value, CONFLUENT)
    assert (error.reason, error.field) == (case.reason, case.field)


@pytest.mark.parametrize("case", hostile.CARD_NUMBERS, ids=lambda case: case.name)
def test_no_error_shows_a_card_number_or_holds_one(case: Hostile) -> None:
    error = refusal(case.value)
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert "4111" not in re.sub(r"[ -]", "", shown)


# ------------------------------------------------------------------ good ones


GOOD_TIMES = [
    (RECORD_TIME_MS, RECORD_TIME_MS),
    ("2018-07-25T10:11:12.500Z", RECORD_TIME_MS),
    ("2018-07-25T10:11:12.5Z", RECORD_TIME_MS),
    ("2018-07-25T10:11:12.500999Z", RECORD_TIME_MS),
    ("2018-07-25t10:11:12.500z", RECORD_TIME_MS),
    ("2018-07-25T12:11:12.500+02:00", RECORD_TIME_MS),
    ("2018-07-25T04:41:12.500-05:30", RECORD_TIME_MS),
    ("2018-07-26T00:11:12.500+14:00", RECORD_TIME_MS),
    ("2018-07-25T10:11:12Z", RECORD_TIME_MS - 500),
    ("2000-01-01T00:00:00Z", EVENT_TIME_MIN_MS),
    (EVENT_TIME_MIN_MS, EVENT_TIME_MIN_MS),
    (RECORD_TIME_MS + 300_000, RECORD_TIME_MS + 300_000),
]


@pytest.mark.parametrize(("written", "time_ms"), GOOD_TIMES)
def test_a_time_is_rfc_3339_with_a_zone_or_epoch_milliseconds(
    written: str | int, time_ms: int
) -> None:
    assert parse(event_time=written).event_time_ms == time_ms


def test_a_payment_becomes_a_transaction_with_all_that_it_says() -> None:
    assert parse(amount_base_minor=4) == Transaction(
        "tx1", RECORD_TIME_MS, "c1", "t1", 5716, "EUR", 5716
    )
    assert parse(currency="JPY", amount_base_minor=4).amount_base_minor == 4
    assert parse(currency="JPY").amount_base_minor is None
    assert parse(currency="JPY", amount_base_minor=None).amount_base_minor is None
    assert parse(replace(PLAIN, currency="JPY"), currency="JPY").amount_base_minor == 5716


def test_a_label_becomes_a_label_with_all_that_it_says() -> None:
    found = parse_label(record(hostile.label(note="seen twice")), PLAIN)
    assert found == Label(
        "tx1", RECORD_TIME_MS - 1_000, "c1", "t1", True, RECORD_TIME_MS, "chargeback", 1
    )
    assert not parse_label(record(hostile.label(is_fraud=False)), PLAIN).is_fraud


@pytest.mark.parametrize("amount_minor", [0, 1, AMOUNT_MINOR_MAX])
def test_an_amount_is_accepted_up_to_its_bounds(amount_minor: int) -> None:
    assert parse(amount_minor=amount_minor).amount_minor == amount_minor


@pytest.mark.parametrize("name", ["x", "x" * 64, "aZ09._:-", "-", "..", "0"])
def test_an_id_is_accepted_up_to_its_bounds(name: str) -> None:
    found = parse(transaction_id=name, card_id=name, terminal_id=name)
    assert (found.transaction_id, found.card_id, found.terminal_id) == (name, name, name)


def test_a_record_of_exactly_the_greatest_size_is_read() -> None:
    value = hostile.payment().ljust(EVENT_BYTES_MAX)
    assert parse_transaction(record(value), PLAIN).transaction_id == "tx1"


def test_the_last_of_duplicate_keys_wins() -> None:
    good, bad = b'"currency": "EUR"', b'"currency": 978'
    others = hostile.without(PAYMENT, "currency")[1:]
    value = b"{" + bad + b", " + good + b", " + others
    assert parse_transaction(record(value), PLAIN).currency == "EUR"
    error = refusal(b"{" + good + b", " + bad + b", " + others)
    assert (error.reason, error.field) == (Reason.WRONG_TYPE, "currency")


def test_unknown_fields_are_ignored_and_counted() -> None:
    assert parse().unknown_fields == 0
    found = parse(note="x", basket={"items": [1, 2]}, ünïcode=None)
    assert found == msgspec.structs.replace(parse(), unknown_fields=3)
    # A label's field is none of a payment's.
    assert parse(is_fraud=True).unknown_fields == 1


def test_a_frame_is_stripped() -> None:
    framed = b"\0\0\0\0\x01" + hostile.payment()
    assert parse_transaction(record(framed), CONFLUENT) == parse()


@pytest.mark.parametrize(
    "changes",
    [
        {"at_ms": 1_532_513_472_345},
        {"at_ms": "1532513472345"},
        {"reference": int(CARD_NUMBER)},
        {"items": [int(CARD_NUMBER), {"n": int(CARD_NUMBER)}]},
        {"reference": "4111111111111112"},
        {"reference": f"x{CARD_NUMBER}"},
        {"reference": f"0{CARD_NUMBER}"},
        {"card_id": "c4111111111111111"},
    ],
    ids=str,
)
def test_what_is_no_card_number_is_not_taken_for_one(changes: dict[str, object]) -> None:
    assert parse(PLAIN, **changes).transaction_id == "tx1"


def test_a_numeric_transaction_id_is_no_card_number() -> None:
    """Networks number payments with 15 digits and more; one in ten of them passes Luhn."""
    assert parse(transaction_id="483297487231504").transaction_id == "483297487231504"


@pytest.mark.parametrize("time_ms", [EVENT_TIME_MIN_MS, RECORD_TIME_MS, EVENT_TIME_MAX_MS])
def test_a_time_that_was_written_is_read_as_the_same(time_ms: int) -> None:
    found = parse_transaction(
        record(hostile.payment(event_time=format_time(time_ms)), EVENT_TIME_MAX_MS), PLAIN
    )
    assert found.event_time_ms == time_ms


def test_no_time_beyond_year_9999_is_accepted_whatever_the_record_says() -> None:
    late = record(hostile.payment(event_time=EVENT_TIME_MAX_MS + 1), EVENT_TIME_MAX_MS)
    with pytest.raises(InvalidEventError) as caught:
        parse_transaction(late, PLAIN)
    assert caught.value.reason is Reason.TIME_IN_FUTURE


def test_how_far_ahead_a_time_may_be_is_a_setting() -> None:
    rules = replace(PLAIN, max_future_skew_ms=0)
    assert parse(rules, event_time=RECORD_TIME_MS).event_time_ms == RECORD_TIME_MS
    error = refusal(hostile.payment(event_time=RECORD_TIME_MS + 1), rules)
    assert (error.reason, error.field) == (Reason.TIME_IN_FUTURE, "event_time")


# ------------------------------------------------------------------ tokens


WRITINGS = [CARD_NUMBER, "4111-1111-1111-1111", "4111 1111 1111 1111", f"card:{CARD_NUMBER}"]


@pytest.mark.parametrize("written", WRITINGS)
def test_a_card_number_becomes_one_token_however_it_is_written(written: str) -> None:
    found = parse(HMAC, card_id=written)
    assert found.card_id == tokenize(CARD_NUMBER, HMAC.hmac_key)
    assert re.fullmatch(r"pan:[0-9a-f]{60}", found.card_id)
    assert CARD_NUMBER not in repr(found)


def test_a_token_depends_on_its_key_and_on_its_number() -> None:
    tokens = {
        parse(HMAC, card_id=CARD_NUMBER).card_id,
        parse(HMAC, card_id="5555555555554444").card_id,
        parse(replace(HMAC, hmac_key=b"another key"), card_id=CARD_NUMBER).card_id,
    }
    assert len(tokens) == 3


def test_what_is_no_card_number_stays_as_it_is_where_tokens_are_made() -> None:
    assert parse(HMAC, card_id="c1").card_id == "c1"
    assert parse(HMAC, note=CARD_NUMBER).unknown_fields == 1


def test_a_label_and_a_payment_of_one_card_get_one_token() -> None:
    found = parse_label(record(hostile.label(card_id=WRITINGS[1])), HMAC)
    assert found.card_id == parse(HMAC, card_id=WRITINGS[2]).card_id


# ------------------------------------------------------------------ whatever else may come


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([CANARY, f"{CANARY}\n", CARD_NUMBER, "2018-07-25T10:11:12Z", "EUR"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(FIELDS | {"id", "at", "customer", "amount", "fraud", CANARY}))
OBJECTS = st.builds(
    lambda base, changes, dropped: {
        name: value for name, value in (base | changes).items() if name not in dropped
    },
    st.sampled_from([PAYMENT, LABEL, {}]),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.sets(NAMES, max_size=1),
)
RULES = st.sampled_from([PLAIN, HMAC, CONFLUENT, MAPPED])


def outcome(value: bytes | None, rules: EventRules, timestamp_ms: int) -> list[InvalidEventError]:
    """Parse as payment and as label: nothing but an event or an `InvalidEventError` may come."""
    errors = []
    for parser in (parse_transaction, parse_label):
        try:
            parser(record(value, timestamp_ms), rules)
        except InvalidEventError as error:
            errors.append(error)
    return errors


@given(value=st.binary(max_size=200), rules=RULES)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_bytes_lead_to_another_error(value: bytes, rules: EventRules) -> None:
    assert len(outcome(value, rules, RECORD_TIME_MS)) == 2


@given(
    at=st.integers(0, len(hostile.payment())),
    cut=st.integers(0, 3),
    put=st.binary(max_size=3),
    rules=RULES,
)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_damage_to_a_good_payment_leads_to_another_error(
    at: int, cut: int, put: bytes, rules: EventRules
) -> None:
    good = hostile.payment()
    outcome(good[:at] + put + good[at + cut :], rules, RECORD_TIME_MS)


@given(
    fields=OBJECTS | VALUES,
    rules=RULES,
    is_framed=st.booleans(),
    timestamp_ms=st.integers(-1, 2**62),
)
@settings(max_examples=700, deadline=None, derandomize=True)
def test_no_json_leads_to_another_error_or_to_one_that_tells_what_was_in_it(
    fields: object, rules: EventRules, is_framed: bool, timestamp_ms: int
) -> None:
    value = b"\0\0\0\0\x01" * is_framed + json.dumps(fields).encode()
    for error in outcome(value, rules, timestamp_ms):
        shown = "".join(traceback.format_exception(error)) + repr(error)
        assert CANARY not in shown
        assert error.field in FIELDS


@pytest.mark.parametrize("field", [*PAYMENT, "amount_base_minor"])
@pytest.mark.parametrize(
    "wrong", [CANARY + "\n", [CANARY], {CANARY: CANARY}, f"{CANARY} 2018", f"{CANARY}{'x' * 64}"]
)
def test_no_error_tells_a_value(field: str, wrong: object) -> None:
    error = refusal(hostile.payment(**{field: wrong}))
    assert error.field == field
    assert CANARY not in "".join(traceback.format_exception(error)) + repr(vars(error))
