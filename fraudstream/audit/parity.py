"""The audit from end to end: draw decisions, read their past out of the log, compare.

decisions topic ─▶ sample        once, headers only
transactions    ─▶ past, owns    once (twice, if an entity is a field beyond the contract)
labels          ─▶ past          once
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from fraudstream.audit.compare import (
    Comparer,
    LogReach,
    nothing_to_compare,
)
from fraudstream.audit.order import LogOrder
from fraudstream.audit.past import Arrival, Owns, Past, Question, entities_of, series_of
from fraudstream.audit.recompute import Recomputer
from fraudstream.audit.report import Report
from fraudstream.audit.sample import DecisionSample, SampledDecision, Source
from fraudstream.errors import InvalidEventError
from fraudstream.event import (
    LABEL_ENTITY_FIELDS,
    EventRules,
    Label,
    Record,
    Transaction,
    parse_label,
    parse_transaction,
)
from fraudstream.features import Feature
from fraudstream.profile import ProfileDefinition
from fraudstream.replay.span import TimeSpan

TOLERANCE_MS: Final = 2_000


class TopicReading(Protocol):
    """One reading of a topic, up to the end that it has at its beginning."""

    @property
    def cut_partitions(self) -> frozenset[int]:
        """The partitions that are read from where Kafka has deleted what came before."""
        ...

    def slices(self) -> Iterator[Sequence[Record]]:
        """Give the records, in order within each partition."""
        ...


#: Begins to read ``decisions``, ``transactions`` or ``labels`` in a span of Kafka timestamps.
OpenTopic = Callable[[str, TimeSpan], TopicReading]


@dataclass(frozen=True, slots=True)
class Subject:
    """The deployment that is audited.

    Parameters
    ----------
    transactions_topic
        The topic's name, as decisions give it.
    model_sha256
        The model whose decisions they are.
    features
        Its columns.
    definition
        The series that they are made of.
    rules
        How records are read, with the feature set's extra fields.
    minor_per_major
        Minor units in one major unit of the profiles' currency.
    """

    transactions_topic: str
    model_sha256: str
    features: tuple[Feature, ...]
    definition: ProfileDefinition
    rules: EventRules
    minor_per_major: int = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at.

    Parameters
    ----------
    share
        The share of decisions, in (0, 1].
    decisions_max
        At most so many. Memory and time grow with it: all that the windows of their cards and
        terminals hold is kept.
    span
        Decisions made when, by their Kafka timestamps.
    tolerance_ms
        How far apart two time stamps must be to tell which record came first.
    """

    share: float
    decisions_max: int
    span: TimeSpan
    tolerance_ms: int = TOLERANCE_MS


def audit(open_topic: OpenTopic, subject: Subject, plan: Plan) -> Report:
    """Recompute a sample of decisions from the log, and compare."""
    sample = DecisionSample(
        subject.transactions_topic, subject.model_sha256, plan.share, plan.decisions_max
    )
    for records in open_topic("decisions", plan.span).slices():
        sample.take(records)
    report = Report.of([feature.name for feature in subject.features])
    report.seen, report.left_out = sample.seen, sample.left_out
    drawn = sample.decisions()
    if drawn:
        past = _LogReader(open_topic, subject).read(drawn)
        order = LogOrder(sample.times, plan.tolerance_ms)
        _compare(past, subject, order, report)
    return report


def _compare(past: _LogPast, subject: Subject, order: LogOrder, report: Report) -> None:
    features, definition = subject.features, subject.definition
    recomputer = Recomputer(
        features, definition, subject.minor_per_major, subject.rules.extra_fields
    )
    comparer = Comparer(features, definition, recomputer, order, past.reach)
    for decision in past.decisions:
        own = past.owns.get(decision.source)
        if own is None:
            report.add(nothing_to_compare(decision.decision_id, features))
        else:
            question = Question(decision, own)
            report.add(comparer.compare(question, past.payments, past.labels))


@dataclass(frozen=True, slots=True)
class _LogPast:
    """What the log still has of the past of some decisions."""

    decisions: Sequence[SampledDecision]
    owns: Mapping[Source, Arrival[Transaction]]
    payments: Past[Transaction]
    labels: Past[Label]
    reach: LogReach


class _LogReader:
    """Reads the past of some decisions, each topic from where somebody looks at it."""

    def __init__(self, open_topic: OpenTopic, subject: Subject) -> None:
        self._open_topic = open_topic
        self._definition, self._rules = subject.definition, subject.rules
        self._whole_from_ms: dict[str, int] = {}

    def read(self, decisions: Sequence[SampledDecision]) -> _LogPast:
        """Read all that the decisions may have known."""
        own_series = series_of(self._definition, "transactions")
        owns = Owns(decision.source for decision in decisions)
        if any(series.entity not in LABEL_ENTITY_FIELDS for series in own_series):
            # A decision does not name these entities, so its payment is looked at first.
            for payment in self._transactions(decisions, reach_ms=0):
                owns.take(payment)
        fields = {series.entity for series in self._definition.series}
        subjects = [_subject(d, owns.found.get(d.source), fields) for d in decisions]
        payments: Past[Transaction] = Past(own_series, subjects)
        for payment in self._transactions(decisions, payments.reach_ms):
            owns.take(payment)
            payments.take(payment)
        labels: Past[Label] = Past(series_of(self._definition, "labels"), subjects)
        for label in self._labels(decisions, labels.reach_ms):
            labels.take(label)
        return _LogPast(decisions, owns.found, payments, labels, LogReach(self._whole_from_ms))

    def _transactions(
        self, decisions: Sequence[SampledDecision], reach_ms: int
    ) -> Iterator[Arrival[Transaction]]:
        for record in self._records("transactions", decisions, reach_ms):
            try:
                event = parse_transaction(record, self._rules)
            except InvalidEventError:
                continue  # a dead letter: it never was in a profile
            yield Arrival(event, record.partition, record.offset, record.timestamp_ms)

    def _labels(
        self, decisions: Sequence[SampledDecision], reach_ms: int
    ) -> Iterator[Arrival[Label]]:
        if not reach_ms:
            return
        for record in self._records("labels", decisions, reach_ms):
            try:
                event = parse_label(record, self._rules)
            except InvalidEventError:
                continue
            yield Arrival(event, record.partition, record.offset, record.timestamp_ms)

    def _records(
        self, kind: str, decisions: Sequence[SampledDecision], reach_ms: int
    ) -> Iterator[Record]:
        """Read a topic; note where its log begins, if something was before that."""
        # An event's time is at most so far ahead of its record's, so nothing older is needed.
        skew_ms = self._rules.max_future_skew_ms
        oldest_ms = min(decision.event_time_ms for decision in decisions)
        topic = self._open_topic(kind, TimeSpan(max(oldest_ms - reach_ms - skew_ms, 0)))
        cut = set(topic.cut_partitions)
        for records in topic.slices():
            for record in records:
                if record.partition in cut:
                    cut.discard(record.partition)
                    known_ms = self._whole_from_ms.get(kind, 0)
                    self._whole_from_ms[kind] = max(known_ms, record.timestamp_ms + skew_ms)
                yield record


def _subject(
    decision: SampledDecision, own: Arrival[Transaction] | None, fields: Iterable[str]
) -> tuple[int, dict[str, str]]:
    """Say when a decision's payment was made, and which entities it names."""
    entities = {"card_id": decision.card_id, "terminal_id": decision.terminal_id}
    if own is not None:
        entities |= entities_of(own.event, fields)
    return decision.event_time_ms, entities
