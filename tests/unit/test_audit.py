"""The parity meter on small logs: a real pipeline over profiles in memory, then the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import BucketRequest, Entry
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.app import build_pipeline, event_rules, profile_definition
from fraudstream.audit.compare import Verdict
from fraudstream.audit.decided import EVER_MS, NEVER_MS, DecidedTimes
from fraudstream.audit.parity import Plan, Subject, audit
from fraudstream.audit.report import Report
from fraudstream.audit.sample import DecisionSample
from fraudstream.bundle import Bundle, load_bundle
from fraudstream.event import Record
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.pipeline import InputBatch
from fraudstream.profile import InputPartition, Stretch, id_hash
from fraudstream.replay.span import TimeSpan
from fraudstream.score import Model
from fraudstream.settings import Settings

BUNDLE = load_bundle(Path(__file__).resolve().parents[2] / "models" / "default")
SETTINGS = Settings()
TOPICS = SETTINGS.topics
DEFINITION = profile_definition(SETTINGS, BUNDLE)
DAY_MS = 86_400_000
#: 2024-01-01.
BEGIN_MS = 1_704_067_200_000
PARTITIONS = 2
ALL = Plan(1.0, 1_000, TimeSpan())
KINDS = {TOPICS.transactions: "transactions", TOPICS.labels: "labels"}


@dataclass
class _Topic:
    """A topic in memory."""

    records: Sequence[Record]
    cut_partitions: frozenset[int] = frozenset()

    def slices(self) -> Iterator[Sequence[Record]]:
        for start in range(0, len(self.records), 7):
            yield self.records[start : start + 7]


class _Indifferent(Model):
    """A model that scores nothing, for features that no trained model has."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros(len(vectors), dtype=np.float32)


def bundle_of(feature_set: FeatureSet) -> Bundle:
    names = [feature.name for feature in feature_set.features]
    return replace(
        BUNDLE,
        feature_set=feature_set,
        features=feature_set.features,
        reasons={f.name: (f.reason_code, f.meaning) for f in feature_set.features},
        model=_Indifferent(names),
        fallback=_Indifferent([f.name for f in feature_set.features if f.is_stateless]),
    )


@dataclass
class Deployment:
    """A worker with its profiles, and the topics that it reads and writes."""

    bundle: Bundle = BUNDLE
    log: dict[str, list[Record]] = field(
        default_factory=lambda: {"transactions": [], "labels": [], "decisions": []}
    )
    cut: dict[str, frozenset[int]] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.definition = profile_definition(SETTINGS, self.bundle)
        self.backend = MemoryBackend(self.definition)
        store = BucketedProfileStore(self.definition, self.backend)
        points = {
            InputPartition(t, p): AttachPoint(0, 0) for t in (1, 2) for p in range(PARTITIONS)
        }
        store.attach(points)
        self.pipeline = build_pipeline(SETTINGS, self.bundle, store)
        self._pending: list[Record] = []

    def pay(self, number: int, at_ms: int, partition: int = 0, **fields: object) -> None:
        """Publish a payment; its record is stamped a moment after its time."""
        body = {
            "transaction_id": f"p{number}",
            "event_time": at_ms,
            "card_id": "c1",
            "terminal_id": "t1",
            "amount_minor": 1_000 + number,
            "currency": "EUR",
        } | fields
        self.publish(TOPICS.transactions, partition, at_ms + 5, body)

    def find(self, number: int, at_ms: int, reported_ms: int, *, is_fraud: bool = True) -> None:
        """Publish a finding about a payment at t1 at the time that it is reported."""
        body = {
            "transaction_id": f"p{number}",
            "event_time": at_ms,
            "card_id": "c1",
            "terminal_id": "t1",
            "is_fraud": is_fraud,
            "reported_at": reported_ms,
            "source": "test",
        }
        self.publish(TOPICS.labels, 0, reported_ms, body)

    def publish(self, topic: str, partition: int, at_ms: int, body: Mapping[str, object]) -> None:
        records = self.log[KINDS[topic]]
        offset = sum(record.partition == partition for record in records)
        record = Record(topic, partition, offset, at_ms, b"", orjson.dumps(body))
        records.append(record)
        self._pending.append(record)

    def decide(self, at_ms: int | None = None) -> None:
        """Let the worker take all that waits as one batch."""
        records, self._pending = self._pending, []
        stretches: dict[InputPartition, Stretch] = {}
        for record in records:
            source = InputPartition(
                1 if record.topic == TOPICS.transactions else 2, record.partition
            )
            start = stretches.get(source, Stretch(record.offset, 0)).start
            stretches[source] = Stretch(start, record.offset + 1)
        processed = self.pipeline.process(InputBatch(records, stretches), is_degradable=False)
        now_ms = max(record.timestamp_ms for record in records) + 5 if at_ms is None else at_ms
        for output in processed.outputs:
            if output.topic == TOPICS.decisions:
                headers = tuple(
                    (name, value.encode() if isinstance(value, str) else value)
                    for name, value in output.headers
                )
                place = len(self.log["decisions"])
                self.log["decisions"].append(
                    Record(output.topic, 0, place, now_ms, output.key, output.value, headers)
                )

    def open_topic(self, kind: str, span: TimeSpan) -> _Topic:
        self.reads[kind] += 1
        found = [record for record in self.log[kind] if record.timestamp_ms in span]
        return _Topic(found, self.cut.get(kind, frozenset()))

    def audit(self, plan: Plan = ALL, model_sha256: str = BUNDLE.sha256) -> Report:
        extra_fields = self.bundle.feature_set.extra_fields
        rules = event_rules(SETTINGS, extra_fields)
        subject = Subject(
            TOPICS.transactions, model_sha256, self.bundle.features, self.definition, rules, 100
        )
        return audit(self.open_topic, subject, plan)


def verdicts(report: Report, feature: str) -> dict[str, int]:
    return {verdict.value: n for verdict, n in report.by_feature[feature].items() if n}


def run_a_month(deployment: Deployment) -> Deployment:
    """Payments of three cards at two terminals in two partitions, with findings a week later."""
    for number in range(240):
        at_ms = BEGIN_MS + number * DAY_MS // 8
        card = number % 3
        fields: dict[str, object] = {"card_id": f"c{card}", "terminal_id": f"t{number % 2}"}
        if number % 4:
            fields |= {"device_id": f"d{number % 7}", "mcc": f"{number % 5}"}
        deployment.pay(number, at_ms, card % PARTITIONS, **fields)
        deployment.decide()
        if number >= 56 and number % 5 == 0:
            old = number - 56
            body = {
                "transaction_id": f"p{old}",
                "event_time": BEGIN_MS + old * DAY_MS // 8,
                "card_id": f"c{old % 3}",
                "terminal_id": f"t{old % 2}",
                "is_fraud": old % 10 == 4,
                "reported_at": at_ms + 60_000,
                "source": "test",
            }
            deployment.publish(TOPICS.labels, 0, at_ms + 60_000, body)
            deployment.decide()
    return deployment


# ------------------------------------------------------------------ all is well


def test_a_month_of_payments_and_findings_is_what_the_log_gives() -> None:
    deployment = run_a_month(Deployment())
    report = deployment.audit()
    assert report.seen == report.decisions == 240
    assert report.total(Verdict.MATCH) == 240 * len(BUNDLE.features)
    assert report.mismatches == 0
    assert deployment.reads == {"decisions": 1, "transactions": 1, "labels": 1}
    # The findings mattered: a rate above nothing was decided on.
    rates = [
        orjson.loads(record.value or b"")["features"]["terminal_fraud_rate_30d_lag7d"]
        for record in deployment.log["decisions"]
    ]
    assert max(rates) > 0


def test_copies_ties_and_late_arrivals_are_taken_as_the_stream_took_them() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.pay(2, BEGIN_MS + DAY_MS)
    deployment.pay(3, BEGIN_MS + DAY_MS)
    deployment.decide()
    deployment.pay(1, BEGIN_MS)  # a copy
    deployment.pay(4, BEGIN_MS + DAY_MS // 2)  # late: the two before it never saw it
    deployment.pay(5, BEGIN_MS + DAY_MS // 2, amount_minor=5)
    deployment.pay(6, BEGIN_MS + 2 * DAY_MS)
    deployment.decide()
    report = deployment.audit()
    assert report.decisions == 7
    assert report.total(Verdict.MATCH) == 7 * len(BUNDLE.features)


def test_a_copy_elsewhere_with_another_content_counts_once() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS, amount_minor=100)
    deployment.decide()
    deployment.pay(1, BEGIN_MS, amount_minor=900)
    deployment.pay(2, BEGIN_MS + 60_000, amount_minor=300)
    deployment.decide()
    report = deployment.audit()
    assert report.mismatches == 0
    assert verdicts(report, "card_amount_mean_1d") == {"match": 3}


def test_an_event_beyond_the_contract_never_was_in_a_profile() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS, currency="XXY")
    deployment.pay(2, BEGIN_MS + 60_000)
    deployment.decide()
    assert verdicts(deployment.audit(), "card_tx_count_1d") == {"match": 1}


def test_a_finding_is_known_from_its_record_on_and_not_by_what_it_says() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.pay(2, BEGIN_MS + 8 * DAY_MS)
    deployment.decide(BEGIN_MS + 8 * DAY_MS + 10)
    # It claims to have been known for days, but reached the log only now.
    late = {
        "transaction_id": "p1", "event_time": BEGIN_MS, "card_id": "c1", "terminal_id": "t1",
        "is_fraud": True, "reported_at": BEGIN_MS + DAY_MS, "source": "test",
    }  # fmt: skip
    deployment.publish(TOPICS.labels, 0, BEGIN_MS + 8 * DAY_MS + 60_000, late)
    deployment.decide()
    deployment.pay(3, BEGIN_MS + 8 * DAY_MS + 120_000)
    deployment.decide()
    report = deployment.audit()
    assert report.total(Verdict.MATCH) == 3 * len(BUNDLE.features)
    values = [
        orjson.loads(record.value or b"")["features"]["terminal_fraud_rate_30d_lag7d"]
        for record in deployment.log["decisions"]
    ]
    assert values == [0, 0, 1]


def test_every_aggregate_and_entities_beyond_the_contract_are_compared() -> None:
    feature_set = parse_feature_set(
        {
            "version": 1,
            "name": "all",
            "entities": {
                "card": {"field": "card_id"},
                "terminal": {"field": "terminal_id"},
                "device": {"field": "device_id", "optional": True},
            },
            "series": {
                "card_tx": {
                    "entity": "card",
                    "records": "transactions",
                    "keeps": ["amount", "amount_squares", "terminal_id"],
                },
                "device_tx": {"entity": "device", "records": "transactions", "keeps": ["card_id"]},
                "terminal_tx": {"entity": "terminal", "records": "transactions"},
                "terminal_label": {"entity": "terminal", "records": "labels"},
            },
            "features": [
                {"aggregate": "amount"},
                {"aggregate": "hash", "field": "mcc", "buckets": 16},
                *(
                    {"aggregate": name, "series": "card_tx", "windows": ["1d", "9d"]}
                    for name in ("count", "sum", "mean", "std", "ratio_to_mean")
                ),
                {
                    "aggregate": "count",
                    "series": "card_tx",
                    "windows": ["1d"],
                    "counts_present": False,
                    "name": "card_tx_count_before_1d",
                },
                {"aggregate": "seconds_since_last", "series": "card_tx", "windows": ["2d"]},
                {"aggregate": "seconds_since_last", "series": "device_tx", "windows": ["90d"]},
                {
                    "aggregate": "distinct_count",
                    "field": "terminal_id",
                    "series": "card_tx",
                    "windows": ["9d"],
                },
                {
                    "aggregate": "distinct_count",
                    "field": "card_id",
                    "series": "device_tx",
                    "windows": ["9d"],
                },
                {"aggregate": "quantile", "quantile": 0.9, "series": "card_tx", "windows": ["9d"]},
                {
                    "aggregate": "rate",
                    "series": "terminal_label",
                    "against": "terminal_tx",
                    "windows": ["7d"],
                    "lag": "7d",
                },
            ],
        }
    )
    deployment = run_a_month(Deployment(bundle_of(feature_set)))
    report = deployment.audit()
    assert report.decisions == 240
    assert report.total(Verdict.MATCH) == 240 * len(feature_set.features)
    # A decision does not name its device: its payment is looked up first.
    assert deployment.reads["transactions"] == 2
    told = [orjson.loads(record.value or b"") for record in deployment.log["decisions"]]
    for name in report.by_feature:
        values = {body["features"][name] for body in told}
        assert len(values) > 1, f"{name} is the same for all: nothing was compared"


# ------------------------------------------------------------------ skews are found


def test_one_more_record_in_a_profile_is_found() -> None:
    deployment = Deployment()
    for number in range(5):
        deployment.pay(number, BEGIN_MS + number * 60_000)
    deployment.decide()
    number = next(n for n, s in enumerate(DEFINITION.series) if s.name == "card_tx")
    stranger = Entry(number, "c1", True, BEGIN_MS + 1, id_hash("stranger"), b"\0" * 8, 0, (700, 1))
    deployment.backend.apply([BucketRequest(0, {}, [stranger], is_record_only=True)])
    for number in range(5, 8):
        deployment.pay(number, BEGIN_MS + number * 60_000)
    deployment.decide()
    report = deployment.audit()
    assert verdicts(report, "card_tx_count_1d") == {"match": 5, "mismatch": 3}
    assert verdicts(report, "card_amount_mean_7d") == {"match": 5, "mismatch": 3}
    assert verdicts(report, "terminal_tx_count_1d_lag7d") == {"match": 8}
    counts = [e for e in report.examples if e.feature == "card_tx_count_1d"]
    assert [(e.online, e.recomputed) for e in counts] == [(7, 6), (8, 7)]


@pytest.mark.parametrize("change", [lambda n: n + 1, lambda n: n - 1])
def test_a_count_off_by_one_is_found(change: object) -> None:
    """The two deliberate skews: counted twice, or the present event left out."""
    deployment = run_a_month(Deployment())
    falsify(deployment, "card_tx_count_7d", change)
    assert verdicts(deployment.audit(), "card_tx_count_7d") == {"mismatch": 240}


def test_the_last_bit_counts() -> None:
    deployment = run_a_month(Deployment())
    falsify(deployment, "card_amount_mean_7d", lambda mean: mean * (1 + 1e-7))
    assert verdicts(deployment.audit(), "card_amount_mean_7d") == {"mismatch": 240}


def test_unknown_online_where_the_log_knows_is_a_mismatch() -> None:
    deployment = run_a_month(Deployment())
    falsify(deployment, "card_tx_count_1d", lambda _: None)
    assert verdicts(deployment.audit(), "card_tx_count_1d") == {"mismatch": 240}


def falsify(deployment: Deployment, feature: str, change: object) -> None:
    assert callable(change)
    changed = []
    for record in deployment.log["decisions"]:
        body = orjson.loads(record.value or b"")
        body["features"][feature] = change(body["features"][feature])
        changed.append(record._replace(value=orjson.dumps(body)))
    deployment.log["decisions"] = changed


# ------------------------------------------------------------------ what the log cannot tell


def in_two_partitions(decided_apart_ms: int) -> Deployment:
    """Two payments at one terminal, eight days before the one in question; then one in between.

    The record of partition 1 is applied after the one in question, and is decided so much later.
    """
    deployment = Deployment()
    at_ms = BEGIN_MS + 8 * DAY_MS
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    deployment.pay(2, at_ms)
    deployment.decide(at_ms + 100)
    # An old payment that lay in another partition all the time.
    deployment.pay(3, BEGIN_MS + 60_000, 1, card_id="c2")
    deployment.decide(at_ms + 100 + decided_apart_ms)
    return deployment


def test_an_order_that_cannot_be_told_is_uncertain_and_neither_match_nor_mismatch() -> None:
    report = in_two_partitions(500).audit()
    assert verdicts(report, "terminal_tx_count_30d_lag7d") == {"match": 2, "uncertain": 1}
    assert verdicts(report, "card_tx_count_30d") == {"match": 3}
    assert report.mismatches == 0


def test_an_order_that_decisions_tell_is_certain() -> None:
    report = in_two_partitions(5_000).audit()
    assert verdicts(report, "terminal_tx_count_30d_lag7d") == {"match": 3}


def test_doubtful_records_do_not_excuse_what_they_cannot_explain() -> None:
    deployment = in_two_partitions(500)
    falsify(deployment, "terminal_tx_count_30d_lag7d", lambda count: count + 5)
    falsify(deployment, "card_tx_count_30d", lambda count: count + 1)
    report = deployment.audit()
    assert verdicts(report, "terminal_tx_count_30d_lag7d") == {"mismatch": 3}
    assert verdicts(report, "card_tx_count_30d") == {"mismatch": 3}


def test_a_finding_at_the_moment_of_the_decision_is_uncertain() -> None:
    deployment = Deployment()
    at_ms = BEGIN_MS + 8 * DAY_MS
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    deployment.pay(2, at_ms)
    deployment.decide()
    deployment.find(1, BEGIN_MS, at_ms - 1_000)  # stamped before, but read after
    deployment.decide()
    report = deployment.audit()
    assert verdicts(report, "terminal_fraud_rate_30d_lag7d") == {"match": 1, "uncertain": 1}
    assert verdicts(report, "terminal_tx_count_30d_lag7d") == {"match": 2}
    sharp = deployment.audit(replace(ALL, tolerance_ms=100))
    assert verdicts(sharp, "terminal_fraud_rate_30d_lag7d") == {"match": 1, "mismatch": 1}


def test_a_finding_that_surely_came_later_explains_nothing() -> None:
    deployment = Deployment()
    at_ms = BEGIN_MS + 8 * DAY_MS
    deployment.pay(1, BEGIN_MS)
    deployment.pay(2, at_ms)
    deployment.decide(at_ms + 10)
    deployment.find(1, BEGIN_MS, at_ms + 60_000)
    deployment.decide()
    falsify(deployment, "terminal_fraud_rate_30d_lag7d", lambda rate: rate + 1)
    assert verdicts(deployment.audit(), "terminal_fraud_rate_30d_lag7d") == {"mismatch": 2}


def test_behind_a_backlog_findings_may_have_waited_as_long_as_the_payment() -> None:
    deployment = Deployment()
    at_ms = BEGIN_MS + 8 * DAY_MS
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    deployment.pay(2, at_ms)
    deployment.decide(at_ms + 3_600_000)  # an hour in the backlog
    deployment.find(1, BEGIN_MS, at_ms - 1_800_000)  # and so was this, which was read after it
    deployment.decide()
    found = verdicts(deployment.audit(), "terminal_fraud_rate_30d_lag7d")
    assert found == {"match": 1, "uncertain": 1}


@pytest.mark.parametrize(("age_ms", "count"), [(30 * DAY_MS - 1, 2), (30 * DAY_MS, 1)])
def test_the_past_is_read_as_far_back_as_the_longest_window(age_ms: int, count: int) -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS, terminal_id="t2")  # so that the card alone looks back on it
    deployment.decide()
    deployment.pay(2, BEGIN_MS + age_ms)
    deployment.decide()
    report = deployment.audit(replace(ALL, span=TimeSpan(BEGIN_MS + DAY_MS)))
    assert report.decisions == 1
    assert report.total(Verdict.MATCH) == len(BUNDLE.features)
    last = orjson.loads(deployment.log["decisions"][-1].value or b"")
    assert last["features"]["card_tx_count_30d"] == count


# ------------------------------------------------------------------ nothing to compare


@pytest.mark.parametrize("flag", ["degraded", "incomplete", "too_late"])
def test_what_was_decided_without_whole_profiles_is_missing(flag: str) -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    (record,) = deployment.log["decisions"]
    body = orjson.loads(record.value or b"")
    body["flags"] = [flag]
    body["features"]["card_tx_count_1d"] = None
    deployment.log["decisions"] = [record._replace(value=orjson.dumps(body))]
    report = deployment.audit()
    assert verdicts(report, "card_tx_count_1d") == {"missing": 1}
    assert verdicts(report, "amount") == {"match": 1}


def test_windows_that_begin_before_the_log_are_missing() -> None:
    deployment = run_a_month(Deployment())
    cut_ms = BEGIN_MS + 20 * DAY_MS
    records = deployment.log["transactions"]
    deployment.log["transactions"] = [r for r in records if r.timestamp_ms >= cut_ms]
    deployment.cut["transactions"] = frozenset(range(PARTITIONS))
    report = deployment.audit()
    assert report.mismatches == 0
    # Of the last ten days; the payments before them are gone themselves.
    assert verdicts(report, "amount") == {"match": 80, "missing": 160}
    assert verdicts(report, "card_tx_count_30d") == {"missing": 240}
    assert verdicts(report, "card_tx_count_1d") == {"match": 70, "missing": 170}
    # The labels' log is whole, but what they are counted against is not.
    assert verdicts(report, "terminal_fraud_rate_1d_lag7d") == {"match": 14, "missing": 226}


def test_another_record_at_the_place_is_nothing_to_compare_with() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    (record,) = deployment.log["transactions"]
    body = orjson.loads(record.value or b"") | {"transaction_id": "another"}
    deployment.log["transactions"] = [record._replace(value=orjson.dumps(body))]
    report = deployment.audit()
    assert report.total(Verdict.MISSING) == len(BUNDLE.features)


# ------------------------------------------------------------------ which decisions


def test_a_sample_is_the_same_whoever_draws_it_and_bounded() -> None:
    deployment = run_a_month(Deployment())
    quarter = deployment.audit(replace(ALL, share=0.25))
    again = deployment.audit(replace(ALL, share=0.25))
    assert quarter.as_json() == again.as_json()
    assert 30 < quarter.decisions < 90
    few = deployment.audit(replace(ALL, decisions_max=10))
    assert few.decisions == 10
    assert few.total(Verdict.MATCH) == 10 * len(BUNDLE.features)


def test_drawing_more_draws_those_too() -> None:
    deployment = run_a_month(Deployment())
    ids = []
    for share in (0.1, 0.5):
        sample = DecisionSample(TOPICS.transactions, BUNDLE.sha256, share, 1_000)
        sample.take(deployment.log["decisions"])
        ids.append({decision.decision_id for decision in sample.decisions()})
    assert ids[0] < ids[1]


def test_decisions_of_another_model_are_left_out() -> None:
    deployment = run_a_month(Deployment())
    report = deployment.audit(model_sha256="0" * 64)
    assert (report.seen, report.decisions) == (240, 0)
    assert report.left_out == {"other_model": 240}


def test_of_a_payment_decided_again_the_first_decision_counts() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    (record,) = deployment.log["decisions"]
    body = orjson.loads(record.value or b"")
    body["features"]["card_tx_count_1d"] = 7
    again = record._replace(
        offset=1, timestamp_ms=record.timestamp_ms + DAY_MS, value=orjson.dumps(body)
    )
    for order in ([record, again], [again, record]):
        deployment.log["decisions"] = order
        report = deployment.audit()
        assert report.left_out == {"decided_again": 1}
        assert verdicts(report, "card_tx_count_1d") == {"match": 1}


def test_what_is_no_decision_of_ours_is_left_out() -> None:
    deployment = Deployment()
    deployment.pay(1, BEGIN_MS)
    deployment.decide()
    (record,) = deployment.log["decisions"]
    others = [
        record._replace(headers=()),
        record._replace(headers=tuple((n, b"x") for n, _ in record.headers)),
        record._replace(value=b"no JSON"),
        record._replace(value=None),
    ]
    deployment.log["decisions"] += others
    report = deployment.audit()
    assert report.left_out == {"not_of_this_deployment": 2, "unreadable": 2}
    assert report.decisions == 1


# ------------------------------------------------------------------ when things were decided


def test_times_stay_true_when_blocks_are_joined() -> None:
    exact, coarse = DecidedTimes(), DecidedTimes(blocks_max=10)
    for offset in range(0, 4_000, 3):
        for times in (exact, coarse):
            times.note(offset % 2, offset, 1_000 * offset)
    for offset in range(4_000):
        for partition in (0, 1):
            first_ms, last_ms = exact.when(partition, offset)
            wide = coarse.when(partition, offset)
            assert wide[0] <= first_ms <= last_ms <= wide[1]
    assert sum(len(own.blocks) for own in coarse._partitions.values()) <= 10
    assert coarse.when(7, 0) == (EVER_MS, NEVER_MS)
    assert coarse.when(0, 5_000)[1] == NEVER_MS
