"""What leaves the worker: the bytes of decisions, alerts and dead letters, and never a card number.

The pipeline here is the real one, over the twin in memory and a model of five trees.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hostile
import jsonschema
import numpy as np
import pytest
import xgboost
from feature_names import DEFAULT_DEFINITION, DEFAULT_FEATURES, FALLBACK_FEATURES
from hostile import CARD_NUMBER, PAYMENT, RECORD_TIME_MS, Hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.alert import Encoder, ModelIdentity, OutputRecord, OutputTopics
from fraudstream.card_number import tokenize
from fraudstream.decision import Decision, Flag, Outcome, Policy, find_reasons, identity
from fraudstream.decision import Reason as AlertReason
from fraudstream.errors import InvalidEventError, Reason, StoreUnavailableError
from fraudstream.event import EVENT_BYTES_MAX, EventRules, Record, Transaction
from fraudstream.pipeline import InputBatch, InputTopics, Models, Pipeline, Processed
from fraudstream.profile import (
    DAY_MS,
    InputPartition,
    ProfileAnswers,
    ProfileBatch,
    ProfileDefinition,
    Stretch,
)
from fraudstream.schemas import all_schemas
from fraudstream.score import Model

NAMES = tuple(feature.name for feature in DEFAULT_FEATURES)
REASONS = {f.name: (f.reason_code, f.meaning) for f in DEFAULT_FEATURES}
DEFINITION = DEFAULT_DEFINITION
INPUTS = InputTopics("in.transactions", "in.labels")
TOPICS = OutputTopics("out.decisions", "out.alerts", "out.dead-letters")


def encoder(policy_version: str) -> Encoder:
    return Encoder(TOPICS, ModelIdentity("tiny", "7", "ab" * 32), policy_version, NAMES)


ENCODER = encoder("default@01234567")
TRANSACTION = Transaction("tx1", RECORD_TIME_MS, "c1", "t1", 5716, "EUR", 5716)
RECORD = Record("in.transactions", 3, 42, RECORD_TIME_MS + 5, b"c1", b"{}")
VECTOR = np.arange(15, dtype=np.float32)
EVERYTHING = Policy(0.0, 1.1, 0.0)
NOTHING = Policy(1.1, 1.1, 1.1)
HMAC = EventRules(card_number="hmac", hmac_key=b"0123456789abcdef0123456789abcdef")

COMMON = {
    "decision_id",
    "transaction_id",
    "event_time",
    "card_id",
    "terminal_id",
    "amount_minor",
    "currency",
    "score",
    "outcome",
    "reasons",
    "model",
    "policy",
    "flags",
    "missing_features",
    "source",
}
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def decision_of(
    transaction: Transaction = TRANSACTION,
    score: float = 0.75,
    outcome: Outcome = Outcome.REVIEW,
    flags: tuple[Flag, ...] = (),
    reasons: tuple[AlertReason, ...] = (),
) -> Decision:
    return Decision(transaction, np.float32(score), outcome, reasons, flags)


def body(output: OutputRecord) -> dict[str, Any]:
    assert output.value is not None
    decoded: dict[str, Any] = json.loads(output.value)
    return decoded


def headers(output: OutputRecord) -> dict[str, str | bytes | None]:
    found = dict(output.headers)
    assert len(found) == len(output.headers)
    return found


def encode_decision(
    decision: Decision, vector: NDArray[np.float32] = VECTOR, record: Record = RECORD
) -> OutputRecord:
    (output,) = ENCODER.decisions([decision], vector[None], [record], [0], {"parse": 0.05})
    return output


# ------------------------------------------------------------------ a decision


def test_a_decision_has_exactly_the_fields_of_the_contract() -> None:
    reason = AlertReason("AMOUNT", "Amount: 57.16.", "amount", np.float32(57.16), np.float32(0.5))
    made = decision_of(flags=(Flag.LATE, Flag.REPLAYED), reasons=(reason,))
    output = encode_decision(made)
    found = body(output)
    assert set(found) == COMMON | {"features", "timings_ms"}
    assert found["decision_id"] == f"d-{identity(TRANSACTION)}"
    assert found["transaction_id"] == "tx1"
    assert found["event_time"] == "2018-07-25T10:11:12.500Z"
    assert (found["card_id"], found["terminal_id"]) == ("c1", "t1")
    assert (found["amount_minor"], found["currency"]) == (5716, "EUR")
    assert (found["score"], found["outcome"]) == (0.75, "REVIEW")
    assert found["model"] == {"name": "tiny", "version": "7", "sha256": "ab" * 32}
    assert found["policy"] == "default@01234567"
    assert found["flags"] == ["late", "replayed"]
    assert found["missing_features"] == []
    assert found["source"] == {"topic": "in.transactions", "partition": 3, "offset": 42}
    assert found["timings_ms"] == {"parse": 0.05}
    assert found["features"] == dict(zip(NAMES, VECTOR.tolist(), strict=True))
    assert found["reasons"] == [
        {
            "code": "AMOUNT",
            "text": "Amount: 57.16.",
            "feature": "amount",
            "value": 57.16,
            "contribution": 0.5,
        }
    ]
    assert (output.topic, output.key, output.is_dead_letter) == ("out.decisions", b"c1", False)


def test_a_vector_of_another_length_is_never_published() -> None:
    with pytest.raises(ValueError, match="of shape"):
        encode_decision(decision_of(), VECTOR[:14])


def test_what_is_unknown_is_null() -> None:
    reason = AlertReason("AMOUNT", "Not known.", "amount", np.float32("nan"), np.float32(0.5))
    vector = VECTOR.copy()
    vector[[0, 14]] = np.nan
    output = encode_decision(decision_of(reasons=(reason,)), vector)
    found = body(output)
    unknown = [name for name, value in found["features"].items() if value is None]
    assert unknown == [NAMES[0], NAMES[14]]
    assert found["reasons"][0]["value"] is None
    assert b"NaN" not in (output.value or b"")


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=15, max_size=15),
    st.floats(0, 1, width=32),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_numbers_are_written_in_their_shortest_form_and_read_back_bit_by_bit(
    values: list[float], score: float
) -> None:
    vector = np.array(values, np.float32)
    output = encode_decision(decision_of(score=score), vector)
    written: dict[str, Any] = json.loads(output.value or b"", parse_float=str, parse_int=str)
    texts = [*written["features"].values(), written["score"]]
    for text, number in zip(texts, [*vector, np.float32(score)], strict=True):
        assert np.float32(text).tobytes() == number.tobytes()
        assert significant_digits(text) == significant_digits(
            np.format_float_scientific(number, unique=True)
        )


def significant_digits(text: str) -> str:
    return re.sub(r"[eE].*|[-.]", "", text).strip("0")


def test_ids_depend_on_nothing_but_the_payments_id_and_time() -> None:
    other = Transaction("tx1", RECORD_TIME_MS, "c2", "t2", 1, "JPY", None, 4)
    elsewhere = Record("elsewhere", 9, 1, RECORD_TIME_MS + DAY_MS, None, b"[]")
    made = [decision_of(), decision_of(other, 0.1, Outcome.DECLINE, (Flag.DEGRADED,))]
    decisions = [encode_decision(made[0]), encode_decision(made[1], -VECTOR, elsewhere)]
    alerts = [ENCODER.alert(made[0], RECORD, 0), ENCODER.alert(made[1], elsewhere, 1)]
    assert len({body(output)["decision_id"] for output in (*decisions, *alerts)}) == 1
    assert len({body(output)["alert_id"] for output in alerts}) == 1
    for changes in ({"transaction_id": "tx2"}, {"event_time_ms": RECORD_TIME_MS + 1}):
        fields = {name: getattr(TRANSACTION, name) for name in TRANSACTION.__struct_fields__}
        another = encode_decision(decision_of(Transaction(**(fields | changes))))
        assert body(another)["decision_id"] != body(decisions[0])["decision_id"]


# ------------------------------------------------------------------ an alert


def test_an_alert_is_the_decision_without_its_vector_and_with_the_amount_for_people() -> None:
    made = decision_of(flags=(Flag.LATE,))
    output, decision = ENCODER.alert(made, RECORD, 5), body(encode_decision(made))
    found = body(output)
    assert set(found) == COMMON | {"alert_id", "amount"}
    assert {name: found[name] for name in COMMON} == {name: decision[name] for name in COMMON}
    assert found["alert_id"] == f"a-{identity(TRANSACTION)}"
    assert found["amount"] == "57.16"
    assert (output.topic, output.key, output.source_index) == ("out.alerts", b"c1", 5)


@pytest.mark.parametrize(("currency", "amount"), [("JPY", "5716"), ("KWD", "5.716")])
def test_the_amount_for_people_has_its_own_currencys_decimals(currency: str, amount: str) -> None:
    foreign = Transaction("tx1", RECORD_TIME_MS, "c1", "t1", 5716, currency, None)
    assert body(ENCODER.alert(decision_of(foreign), RECORD, 0))["amount"] == amount


# ------------------------------------------------------------------ headers


def outputs_of(record: Record) -> list[tuple[str, str, OutputRecord]]:
    """Encode all three kinds for one record, with the type and the id each must carry."""
    decision, alert = (
        encode_decision(decision_of(), record=record),
        ENCODER.alert(decision_of(), record, 0),
    )
    letter = ENCODER.dead_letter(InvalidEventError(Reason.EMPTY), record, 0)
    return [
        ("fraudstream.decision.v1", body(decision)["decision_id"], decision),
        ("fraudstream.alert.v1", body(alert)["alert_id"], alert),
        ("fraudstream.dead-letter.v1", "in.transactions-3-42", letter),
    ]


def test_every_output_is_a_cloud_event_that_names_its_source() -> None:
    times = ["2018-07-25T10:11:12.500Z"] * 2 + ["2018-07-25T10:11:12.505Z"]
    for (kind, identifier, output), time in zip(outputs_of(RECORD), times, strict=True):
        found = headers(output)
        assert found["ce_specversion"] == b"1.0"
        assert found["ce_type"] == kind.encode()
        assert found["ce_source"] == b"/fraudstream/in.transactions/3"
        assert found["ce_id"] == identifier.encode()
        assert found["ce_time"] == time.encode()
        assert found["content-type"] == b"application/json"
        assert found["fs_source_topic"] == b"in.transactions"
        assert found["fs_source_partition"] == b"3"
        assert found["fs_source_offset"] == b"42"


def test_a_trace_context_is_passed_through() -> None:
    state = b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    junk = ("note", b"x")
    record = RECORD._replace(headers=(junk, ("traceparent", TRACE), junk, ("tracestate", state)))
    for _, _, output in outputs_of(record):
        assert headers(output)["traceparent"] == TRACE
        assert headers(output)["tracestate"] == state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("traceparent", b""),
        ("traceparent", None),
        ("traceparent", b"hello"),
        ("traceparent", TRACE.upper()),
        ("traceparent", TRACE + b"\n"),
        ("traceparent", TRACE + b"-more"),
        ("traceparent", TRACE[:-1]),
        ("traceparent", CARD_NUMBER.encode()),
        ("traceparent", b"00-" + CARD_NUMBER.encode() * 2 + b"-" + CARD_NUMBER.encode() + b"-01"),
        ("Traceparent", TRACE),
        ("tracestate", b""),
        ("tracestate", b"x" * 513),
        ("tracestate", b"a=1\n"),
        ("tracestate", "a=é".encode()),
        ("tracestate", b"card=" + CARD_NUMBER.encode()),
        ("authorization", b"Bearer x"),
        ("ce_id", b"forged"),
        ("fs_reason", b"forged"),
        ("fs_replay_run", b"run-1"),
    ],
)
def test_no_other_header_is(name: str, value: bytes | None) -> None:
    record = RECORD._replace(headers=((name, value),))
    for (_, _, with_junk), (_, _, without) in zip(
        outputs_of(record), outputs_of(RECORD), strict=True
    ):
        assert with_junk == without


# ------------------------------------------------------------------ a dead letter


def letter(
    value: bytes | None, key: bytes | None = b"c1", reason: Reason = Reason.INVALID_JSON
) -> OutputRecord:
    record = RECORD._replace(key=key, value=value)
    output = ENCODER.dead_letter(InvalidEventError(reason, "card_id"), record, 9)
    assert (output.topic, output.source_index, output.is_dead_letter) == (
        "out.dead-letters",
        9,
        True,
    )
    return output


@pytest.mark.parametrize("reason", list(Reason))
def test_a_dead_letter_says_why_in_its_headers(reason: Reason) -> None:
    found = headers(letter(b"x", reason=reason))
    assert found["fs_reason"] == reason.value.encode()
    assert found["fs_field"] == b"card_id"


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b"x" * EVENT_BYTES_MAX])
def test_a_dead_letter_keeps_key_and_payload_as_they_came(value: bytes | None) -> None:
    output = letter(value, b"\x00any key\xff")
    assert (output.key, output.value) == (b"\x00any key\xff", value)


def test_a_payload_or_a_key_beyond_64_kibibytes_is_not_kept() -> None:
    assert letter(b"x" * (EVENT_BYTES_MAX + 1)).value is None
    assert letter(b"x", b"k" * EVENT_BYTES_MAX).key == b"k" * EVENT_BYTES_MAX
    assert letter(b"x", b"k" * (EVENT_BYTES_MAX + 1)).key is None


@pytest.mark.parametrize(
    "value",
    [
        CARD_NUMBER.encode(),
        b'{"pan": 4111111111111111, "amount',
        b"tx1;4111-1111-1111-1111;12/27",
        b"4111 1111 1111 1111 12/27",
        b"\xff\xfe4111111111111111",
        CARD_NUMBER.encode("utf-16"),
    ],
)
def test_a_payload_with_a_card_number_is_not_kept_whatever_it_was_refused_for(
    value: bytes,
) -> None:
    assert letter(value).value is None
    assert letter(value).key == b"c1"
    assert letter(b"x", key=value).key is None


def test_of_a_record_refused_for_its_card_number_not_even_the_key_is_kept() -> None:
    assert letter(b"x", b"c1", Reason.CARD_NUMBER).key is None


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**62])
def test_a_dead_letter_can_be_written_whatever_time_its_record_has(timestamp_ms: int) -> None:
    record = RECORD._replace(timestamp_ms=timestamp_ms)
    output = ENCODER.dead_letter(InvalidEventError(Reason.EMPTY), record, 0)
    time = headers(output)["ce_time"]
    assert isinstance(time, bytes)
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)


# ------------------------------------------------------------------ the pipeline


@pytest.fixture(scope="module")
def models() -> Models:
    """Train two models of five trees."""
    rng = np.random.default_rng(5)
    vectors = rng.uniform(0, 100, (600, 15)).astype(np.float32)
    vectors[rng.random(vectors.shape) < 0.2] = np.nan
    is_fraud = (np.nan_to_num(vectors[:, 0]) > 60) | (np.nan_to_num(vectors[:, 3]) > 80)
    return Models(
        trained(vectors, is_fraud, NAMES),
        trained(vectors[:, :3], is_fraud, [feature.name for feature in FALLBACK_FEATURES]),
        DEFAULT_FEATURES,
        REASONS,
    )


def trained(
    vectors: NDArray[np.float32], is_fraud: NDArray[np.bool_], names: Sequence[str]
) -> Model:
    matrix = xgboost.DMatrix(vectors, label=is_fraud, feature_names=list(names), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": 1}
    return Model(bytes(xgboost.train(parameters, matrix, 5).save_raw("ubj")), names)


@dataclass
class AwayStore:
    """A profile store that does not answer."""

    definition: ProfileDefinition = DEFINITION

    def apply(self, batch: ProfileBatch) -> ProfileAnswers:
        raise StoreUnavailableError("Valkey: TimeoutError")


@dataclass
class Run:
    """A pipeline over empty profiles, and the topics it reads."""

    models: Models
    policy: Policy = EVERYTHING
    rules: EventRules = field(default_factory=EventRules)
    is_away: bool = False
    known_from_ms: int = 0

    def __post_init__(self) -> None:
        self.backend = MemoryBackend(DEFINITION, known_from_ms=self.known_from_ms)
        store = BucketedProfileStore(DEFINITION, self.backend)
        store.attach({InputPartition(n, 0): AttachPoint(0, 0) for n in (1, 2)})
        self.ends = {"in.transactions": 0, "in.labels": 0}
        self.pipeline = Pipeline(
            topics=INPUTS,
            rules=self.rules,
            store=AwayStore() if self.is_away else store,
            models=self.models,
            policy=self.policy,
            encoder=encoder(self.policy.version),
            stopwatch=itertools.count(0.0, 0.0123456).__next__,
        )

    def record(
        self,
        value: bytes | None,
        topic: str = "in.transactions",
        key: bytes | None = b"c1",
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> Record:
        """Put a record into a topic."""
        offset = self.ends[topic]
        self.ends[topic] += 1
        return Record(topic, 0, offset, RECORD_TIME_MS, key, value, headers)

    def process(self, records: Sequence[Record], *, is_degradable: bool = True) -> Processed:
        stretches = {}
        for topic in dict.fromkeys(record.topic for record in records):
            offsets = [record.offset for record in records if record.topic == topic]
            stretches[INPUTS.partition(topic, 0)] = Stretch(min(offsets), max(offsets) + 1)
        return self.pipeline.process(InputBatch(records, stretches), is_degradable=is_degradable)

    def pay(self, **changes: object) -> Processed:
        return self.process([self.record(hostile.payment(**changes))])


def on(topic: str, outputs: Iterable[OutputRecord]) -> list[dict[str, Any]]:
    return [body(output) for output in outputs if output.topic == topic]


def test_outputs_come_in_the_order_of_their_records_and_an_alert_after_its_decision(
    models: Models,
) -> None:
    run = Run(models)
    records = [
        run.record(hostile.payment(transaction_id="a")),
        run.record(b"junk"),
        run.record(hostile.label(), "in.labels"),
        run.record(b"junk too", "in.labels"),
        run.record(hostile.payment(transaction_id="b")),
    ]
    processed = run.process(records)
    assert [(output.topic, output.source_index) for output in processed.outputs] == [
        ("out.decisions", 0),
        ("out.alerts", 0),
        ("out.dead-letters", 1),
        ("out.dead-letters", 3),
        ("out.decisions", 4),
        ("out.alerts", 4),
    ]
    assert processed.are_bad(len(records)) == [False, True, False, True, False]
    assert processed.counts["transactions"] == processed.counts["alerts"] == 2
    assert processed.counts["labels"] == 1
    assert processed.counts["dead_letters"] == processed.counts["dead_letter_invalid_json"] == 2
    assert processed.store_error is None


def test_decisions_and_alerts_keep_to_their_published_schemas(models: Models) -> None:
    schemas = all_schemas()
    for run in (Run(models), Run(models, is_away=True), Run(models, replace(EVERYTHING))):
        outputs = run.pay().outputs
        for topic, title in (("out.decisions", "decision"), ("out.alerts", "alert")):
            (found,) = on(topic, outputs)
            jsonschema.validate(found, schemas[title])
            assert set(found) == set(schemas[title]["properties"])


def test_a_logged_vector_reproduces_its_logged_score_bit_by_bit(models: Models) -> None:
    run = Run(models)
    for number in range(30):
        processed = run.pay(
            transaction_id=f"x{number}",
            event_time=RECORD_TIME_MS - 10**7 * (30 - number),
            amount_minor=37 * number**3,
            currency="EUR" if number % 3 else "JPY",
        )
        (found,) = on("out.decisions", processed.outputs)
        assert list(found["features"]) == list(NAMES)
        vector = np.array([list(found["features"].values())], np.float32)
        assert models.model.score(vector)[0] == np.float32(found["score"])


def test_a_payment_is_approved_or_alerted_by_the_policy(models: Models) -> None:
    (found,) = on("out.decisions", Run(models).pay().outputs)
    score = float(np.float32(found["score"]))
    expected = {
        Policy(float(np.nextafter(np.float32(score), np.float32(2))), 1.1, 1.1): "APPROVE",
        Policy(score, 1.1, 1.1): "REVIEW",
        Policy(0.0, float(np.nextafter(np.float32(score), np.float32(2))), 1.1): "REVIEW",
        Policy(0.0, score, 1.1): "DECLINE",
    }
    for policy, outcome in expected.items():
        processed = Run(models, policy).pay()
        (decided,) = on("out.decisions", processed.outputs)
        assert (decided["outcome"], decided["policy"]) == (outcome, policy.version)
        assert len(on("out.alerts", processed.outputs)) == (outcome != "APPROVE")
        assert processed.counts[f"outcome_{outcome}"] == 1


def test_only_alerts_are_explained_and_by_what_pushed_their_score_up(models: Models) -> None:
    (found,) = on("out.decisions", Run(models, NOTHING).pay().outputs)
    assert found["reasons"] == []
    (found,) = on("out.alerts", Run(models).pay(amount_minor=10_000).outputs)
    contributions = [reason["contribution"] for reason in found["reasons"]]
    assert 0 < len(contributions) <= 4
    assert contributions == sorted(contributions, reverse=True)
    assert contributions[-1] > 0
    assert found["reasons"][0]["code"] == "AMOUNT"
    assert found["reasons"][0]["value"] == 100.0


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("is_approximate", [False, True])
def test_reasons_are_those_of_the_models_own_contributions_in_the_bundles_words(
    models: Models, *, is_approximate: bool, is_away: bool
) -> None:
    words = {name: (f"CODE_{place % 4}", f"word {place}") for place, name in enumerate(NAMES)}
    chosen = replace(models, reasons=words, is_approximate=is_approximate)
    run = Run(chosen, Policy(0.0, 0.0, 0.0), is_away=is_away)
    (found,) = on("out.alerts", run.pay(amount_minor=10_000).outputs)
    (decided,) = on("out.decisions", Run(models, is_away=is_away).pay(amount_minor=10_000).outputs)
    model, features = models.model, DEFAULT_FEATURES
    if is_away:
        model, features = models.fallback, FALLBACK_FEATURES
    values = [decided["features"][feature.name] for feature in features]
    vector = np.array([[np.nan if value is None else value for value in values]], np.float32)
    contributions = model.contributions(vector, is_approximate=is_approximate)
    other = model.contributions(vector, is_approximate=not is_approximate)
    assert is_away or (contributions != other).any()
    expected = find_reasons(features, words, vector[0], contributions[0])
    assert [
        (reason["code"], reason["text"], reason["feature"], np.float32(reason["contribution"]))
        for reason in found["reasons"]
    ] == [(reason.code, reason.text, reason.feature, reason.contribution) for reason in expected]
    assert expected


def test_a_batch_read_again_gives_the_same_outputs(models: Models) -> None:
    run = Run(models)
    records = [
        run.record(hostile.payment(transaction_id="a")),
        run.record(hostile.payment(transaction_id="b")),
        run.record(hostile.payment(transaction_id="a")),
        run.record(b"junk"),
    ]
    first = run.process(records).outputs
    assert run.process(records).outputs == first
    # And a log read into empty profiles gives what it gave at first.
    assert Run(models).process(records).outputs == first


def test_a_late_payment_is_decided_the_same_when_its_batch_is_read_again(models: Models) -> None:
    """Not so the one that came ahead of it, in whose windows it lies from now on."""
    run = Run(models)
    ahead = run.record(hostile.payment(transaction_id="ahead"))
    late = run.record(hostile.payment(transaction_id="late", event_time=RECORD_TIME_MS - 1))
    first = run.process([ahead, late]).outputs
    again = run.process([ahead, late]).outputs
    assert again[2:] == first[2:]
    assert body(first[2])["flags"] == ["late"]
    counts = [body(o[0])["features"]["card_tx_count_1d"] for o in (first, again)]
    assert counts == [1, 2]


def test_a_duplicate_is_decided_and_flagged_and_not_alerted(models: Models) -> None:
    run = Run(models)
    run.pay()
    processed = run.pay()
    (found,) = on("out.decisions", processed.outputs)
    assert (found["outcome"], found["flags"]) == ("REVIEW", ["duplicate"])
    assert not on("out.alerts", processed.outputs)
    assert (processed.counts["alerts"], processed.counts["flag_duplicate"]) == (0, 1)
    assert processed.counts["conflicts"] == 0
    assert run.pay(amount_minor=1).counts["conflicts"] == 1


def test_a_payment_earlier_than_its_cards_newest_is_flagged_late(models: Models) -> None:
    run = Run(models)
    run.pay()
    (found,) = on("out.alerts", run.pay(event_time=RECORD_TIME_MS - 1).outputs)
    assert found["flags"] == ["late"]


def test_a_payment_older_than_what_is_kept_is_flagged_too_late_and_alerted(models: Models) -> None:
    run = Run(models)
    run.pay()
    processed = run.pay(event_time=RECORD_TIME_MS - DEFINITION.horizon_ms)
    (found,) = on("out.alerts", processed.outputs)
    assert found["flags"] == ["too_late"]
    (found,) = on("out.decisions", processed.outputs)
    known = {name for name, value in found["features"].items() if value is not None}
    # The terminal's own record is too late, too; its labels were never any.
    assert known == {"amount", "is_weekend", "is_night"}


def test_a_window_that_reaches_back_before_what_is_known_is_flagged_incomplete(
    models: Models,
) -> None:
    (found,) = on(
        "out.decisions", Run(models, known_from_ms=RECORD_TIME_MS - 10 * DAY_MS).pay().outputs
    )
    assert found["flags"] == ["incomplete"]
    assert found["features"]["card_tx_count_7d"] == 1
    assert found["features"]["card_tx_count_30d"] is None


def test_a_replayed_record_is_flagged_whatever_its_run_is_called(models: Models) -> None:
    run = Run(models)
    record = run.record(hostile.payment(), headers=(("fs_replay_run", CARD_NUMBER.encode()),))
    processed = run.process([record])
    (found,) = on("out.alerts", processed.outputs)
    assert found["flags"] == ["replayed"]
    assert CARD_NUMBER not in str(processed.outputs)


def test_without_profiles_the_fallback_model_decides_and_says_what_is_missing(
    models: Models,
) -> None:
    run = Run(models, Policy(0.0, 0.0, 0.0), is_away=True)
    processed = run.pay(amount_minor=10_000)
    (found,) = on("out.decisions", processed.outputs)
    assert (found["outcome"], found["flags"]) == ("REVIEW", ["degraded"])
    assert found["missing_features"] == list(NAMES[3:])
    known = {name: value for name, value in found["features"].items() if value is not None}
    assert known == {"amount": 100.0, "is_weekend": 0.0, "is_night": 0.0}
    score = models.fallback.score(np.array([[100, 0, 0]], np.float32))[0]
    assert np.float32(found["score"]) == score
    assert {reason["feature"] for reason in found["reasons"]} <= set(NAMES[:3])
    assert isinstance(processed.store_error, StoreUnavailableError)
    (approved,) = on("out.decisions", Run(models, NOTHING, is_away=True).pay().outputs)
    assert approved["outcome"] == "APPROVE"


def test_without_profiles_nothing_is_decided_where_that_is_not_wanted(models: Models) -> None:
    run = Run(models, is_away=True)
    with pytest.raises(StoreUnavailableError):
        run.process([run.record(hostile.payment())], is_degradable=False)


def test_what_is_odd_about_a_good_payment_is_counted(models: Models) -> None:
    run = Run(models)
    odd = run.record(hostile.payment(currency="JPY", note="x", also="y"), key=b"another")
    keyless = run.record(hostile.payment(transaction_id="k"), key=None)
    processed = run.process([odd, keyless])
    assert processed.counts["unknown_fields"] == 2
    assert processed.counts["key_mismatch"] == 2
    assert processed.counts["amount_unknown"] == 1
    (first, _) = on("out.decisions", processed.outputs)
    assert first["features"]["amount"] is None
    assert first["features"]["card_amount_mean_1d"] is None
    assert first["features"]["card_tx_count_1d"] == 1


def test_every_stage_is_timed_and_a_decision_says_how_long_its_batch_took(models: Models) -> None:
    processed = Run(models).pay()
    assert list(processed.stage_seconds) == ["parse", "profile", "score", "decide", "encode"]
    (found,) = on("out.decisions", processed.outputs)
    stages = ("parse", "profile", "score", "decide")
    assert found["timings_ms"] == dict.fromkeys(stages, 12.346)


def test_a_partition_has_a_number_and_the_number_a_topic() -> None:
    for topic, number in (("in.transactions", 1), ("in.labels", 2)):
        assert INPUTS.partition(topic, 7) == InputPartition(number, 7)
        assert INPUTS.topic(InputPartition(number, 7)) == topic


def test_a_record_whose_output_is_refused_becomes_a_dead_letter(models: Models) -> None:
    run = Run(models)
    output = run.pipeline.refuse(RECORD, InvalidEventError(Reason.OUTPUT_REFUSED))
    assert (output.is_dead_letter, output.value, output.source_index) == (True, b"{}", 0)
    assert headers(output)["fs_reason"] == b"output_refused"


def test_a_batch_is_parsed_for_its_profiles_as_it_is_for_its_decisions(models: Models) -> None:
    run = Run(models)
    records = [
        run.record(hostile.payment()),
        run.record(b"junk"),
        run.record(hostile.label(), "in.labels"),
    ]
    stretches = {INPUTS.partition("in.transactions", 0): Stretch(0, 2)}
    parsed = run.pipeline.parse(InputBatch(records, stretches))
    assert [located.offset for located in parsed.transactions] == [0]
    assert [located.partition for located in parsed.labels] == [InputPartition(2, 0)]
    assert parsed.stretches == stretches


def test_a_batch_without_a_single_payment_is_fine(models: Models) -> None:
    run = Run(models)
    assert run.process([run.record(hostile.label(), "in.labels")]).outputs == []
    assert len(run.process([run.record(b"junk")]).outputs) == 1


# ------------------------------------------------------------------ hostile records


def without_source(outputs: Iterable[OutputRecord]) -> list[dict[str, Any]]:
    """Give what was decided, leaving out where the record lay."""
    return [body(o) | {"source": None} for o in outputs if not o.is_dead_letter]


def test_a_bad_record_harms_nobody_but_itself(models: Models) -> None:
    calm, beset = Run(models), Run(models)
    good = [hostile.payment(transaction_id=f"x{n}", amount_minor=n) for n in range(5)]
    undisturbed = calm.process([calm.record(value) for value in good])
    records: list[Record] = []
    for value in good:
        records += [beset.record(case.value) for case in hostile.PAYMENTS[len(records) :: 5]]
        records.append(beset.record(value))
    disturbed = beset.process(records)
    assert without_source(disturbed.outputs) == without_source(undisturbed.outputs)
    assert sum(disturbed.are_bad(len(records))) == len(records) - len(good)


@pytest.mark.parametrize("topic", ["in.transactions", "in.labels"])
def test_every_hostile_record_ends_in_exactly_one_dead_letter_with_its_reason(
    models: Models, topic: str
) -> None:
    cases = hostile.PAYMENTS if topic == "in.transactions" else hostile.LABELS
    run = Run(models)
    processed = run.process([run.record(case.value, topic) for case in cases])
    assert len(processed.outputs) == len(cases)
    for case, output in zip(cases, processed.outputs, strict=True):
        found = headers(output)
        assert output.is_dead_letter, case.name
        assert found["fs_reason"] == case.reason.value.encode(), case.name
        assert found["fs_field"] == case.field.encode(), case.name
    assert not run.backend.all_series()


# ------------------------------------------------------------------ no card number comes out


def leaks(processed: Processed, run: Run) -> list[str]:
    """Look for the card number, however it is written, in all that was published and kept."""
    found = []
    for output in processed.outputs:
        parts = [output.topic, output.key, output.value]
        parts += [part for header in output.headers for part in header]
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part or b""
            plain = re.sub(rb"\\u00(..)", lambda m: bytes([int(m[1], 16)]), raw)
            if CARD_NUMBER.encode() in re.sub(rb"[ \0-]", b"", plain):
                found.append(f"{output.topic}: {raw!r}")
    found += [str(name) for name in run.backend.all_series() if CARD_NUMBER in str(name)]
    return found


WRITINGS: dict[str, object] = {
    "plain": CARD_NUMBER,
    "spaced": "4111 1111 1111 1111",
    "hyphenated": "4111-1111-1111-1111",
    "a number": int(CARD_NUMBER),
    "in a sentence": f"paid with {CARD_NUMBER} 12/27",
    "on a second line": f"card:\n{CARD_NUMBER}",
    "in an array": [CARD_NUMBER],
    "in an object": {"pan": {"number": CARD_NUMBER}},
    "a name": {CARD_NUMBER: 1},
}
#: The contract looks for card numbers in card_id and in unknown fields; the other ids are free.
ID_FIELDS = ("transaction_id", "terminal_id")
PLACES = [
    *(name for name in PAYMENT if name not in ID_FIELDS),
    "amount_base_minor",
    "pan",
    "is_fraud",
]


@pytest.mark.parametrize("rules", [EventRules(), HMAC], ids=["refuse", "hmac"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("written", WRITINGS.values(), ids=WRITINGS)
def test_a_card_number_in_a_field_of_a_payment_never_comes_out(
    models: Models, place: str, written: object, rules: EventRules
) -> None:
    run = Run(models, rules=rules)
    processed = run.process([run.record(hostile.payment(**{place: written}))])
    assert len(processed.outputs) in {1, 2}
    assert not leaks(processed, run)


@pytest.mark.parametrize("place", ID_FIELDS)
@pytest.mark.parametrize("written", WRITINGS.values(), ids=WRITINGS)
def test_a_card_number_in_another_id_comes_out_only_where_it_is_a_valid_id(
    models: Models, place: str, written: object
) -> None:
    """Networks number payments with 13 digits and more, of which one in ten passes Luhn."""
    run = Run(models)
    processed = run.process([run.record(hostile.payment(**{place: written}))])
    is_valid_id = (
        written in {CARD_NUMBER, "4111-1111-1111-1111"} if isinstance(written, str) else False
    )
    assert bool(leaks(processed, run)) == is_valid_id


@pytest.mark.parametrize("place", ["card_id", "event_time", "is_fraud", "reported_at", "note"])
@pytest.mark.parametrize("written", WRITINGS.values(), ids=WRITINGS)
def test_a_card_number_in_a_field_of_a_label_never_comes_out(
    models: Models, place: str, written: object
) -> None:
    run = Run(models)
    processed = run.process([run.record(hostile.label(**{place: written}), "in.labels")])
    assert len(processed.outputs) <= 1
    assert not leaks(processed, run)


@pytest.mark.parametrize("rules", [EventRules(), HMAC], ids=["refuse", "hmac"])
@pytest.mark.parametrize(
    "key", [CARD_NUMBER, "4111-1111-1111-1111", "4111 1111 1111 1111", f"card:{CARD_NUMBER}"]
)
@pytest.mark.parametrize("value", [hostile.payment(), b"junk", hostile.payment(pan=CARD_NUMBER)])
def test_a_card_number_in_the_key_never_comes_out(
    models: Models, key: str, value: bytes, rules: EventRules
) -> None:
    run = Run(models, rules=rules)
    processed = run.process([run.record(value, key=key.encode())])
    assert processed.outputs
    assert not leaks(processed, run)


@pytest.mark.parametrize("value", [hostile.payment(), b"junk"])
@pytest.mark.parametrize("name", ["traceparent", "tracestate", "note", "ce_id", "fs_replay_run"])
def test_a_card_number_in_a_header_never_comes_out(models: Models, name: str, value: bytes) -> None:
    run = Run(models)
    for text in (CARD_NUMBER, f"pan={CARD_NUMBER},x=1", "4111-1111-1111-1111 12/27"):
        record = run.record(value, headers=((name, text.encode()), (text, b"1")))
        assert not leaks(run.process([record]), run)


@pytest.mark.parametrize("case", hostile.CARD_NUMBERS, ids=lambda case: case.name)
def test_no_refused_card_number_comes_out(models: Models, case: Hostile) -> None:
    run = Run(models)
    processed = run.process([run.record(case.value)])
    (output,) = processed.outputs
    assert (output.is_dead_letter, output.key, output.value) == (True, None, None)
    assert not leaks(processed, run)


def test_where_tokens_are_made_the_token_is_the_card_everywhere(models: Models) -> None:
    run = Run(models, rules=HMAC)
    token = tokenize(CARD_NUMBER, HMAC.hmac_key)
    value = hostile.payment(card_id=CARD_NUMBER)
    processed = run.process([run.record(value, key=CARD_NUMBER.encode())])
    assert [output.key for output in processed.outputs] == [token.encode()] * 2
    assert {body(output)["card_id"] for output in processed.outputs} == {token}
    assert ("card_tx", token) in run.backend.all_series()
