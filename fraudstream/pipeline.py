"""The six stages as one function: records in, outputs out.

    records ─▶ parse ─▶ profiles ─▶ features ─▶ score ─▶ decide ─▶ encode ─▶ outputs
                 └ bad: dead letter    └ away: fallback model, flagged `degraded`

A micro-batch goes through together: one round trip to the profile store, one prediction. One
event's failure never leaves its event. There is no I/O here but through the profile store that
is passed in, and no clock but the stopwatch that is passed in for the stage timings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from fraudstream.alert import Encoder, OutputRecord
from fraudstream.decision import (
    Decision,
    Flag,
    Outcome,
    Policy,
    Reason,
    ReasonMap,
    decide,
    decide_degraded,
    find_reasons,
)
from fraudstream.errors import InvalidEventError, StoreUnavailableError
from fraudstream.event import EventRules, Label, Record, Transaction, parse_label, parse_transaction
from fraudstream.features import EventColumns, Feature, VectorBuilder
from fraudstream.profile import (
    LABELS_TOPIC_NUMBER,
    SCAN_UNKNOWN,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    Mark,
    ProfileAnswers,
    ProfileBatch,
    ProfileStore,
    Recording,
    Stretch,
)
from fraudstream.score import Model

_REPLAY_HEADER = "fs_replay_run"


@dataclass(frozen=True, slots=True)
class InputTopics:
    """Where transactions and labels come from."""

    transactions: str
    labels: str

    def partition(self, topic: str, partition: int) -> InputPartition:
        """Give the number under which profiles know a partition."""
        is_transactions = topic == self.transactions
        number = TRANSACTIONS_TOPIC_NUMBER if is_transactions else LABELS_TOPIC_NUMBER
        return InputPartition(number, partition)

    def topic(self, partition: InputPartition) -> str:
        """Name the topic of a numbered partition."""
        is_transactions = partition.topic_number == TRANSACTIONS_TOPIC_NUMBER
        return self.transactions if is_transactions else self.labels


@dataclass(frozen=True, slots=True)
class InputBatch:
    """Records of one poll, and the offsets they cover in each partition they come from."""

    records: Sequence[Record]
    stretches: Mapping[InputPartition, Stretch]


@dataclass(frozen=True, slots=True)
class Models:
    """The model that decides, and the one that stands in when profiles are away.

    ``features`` are the columns of ``model``; the fallback model's columns are among them.
    ``reasons`` is what alerts call them; ``is_approximate`` finds these at a fraction of the cost.
    """

    model: Model
    fallback: Model
    features: tuple[Feature, ...]
    reasons: ReasonMap
    is_approximate: bool = False


@dataclass(slots=True)
class Processed:
    """What became of a batch.

    Attributes
    ----------
    outputs
        In the order of the input records.
    counts
        By name: how often things happened (the metrics' raw material).
    stage_seconds
        How long each stage took.
    store_error
        Why the batch was decided without profiles; None when it was not.
    """

    outputs: list[OutputRecord] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    store_error: StoreUnavailableError | None = None

    def are_bad(self, records: int) -> list[bool]:
        """Say of each input record whether it was dead-lettered."""
        bad = {o.source_index for o in self.outputs if o.is_dead_letter}
        return [index in bad for index in range(records)]


@dataclass(slots=True)
class _Parsed:
    """A batch's records, sorted by what they turned out to be."""

    labels: list[Located] = field(default_factory=list)
    transactions: list[Located] = field(default_factory=list)
    #: Index in the batch of each transaction, and its record.
    indices: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    dead_letters: list[tuple[int, InvalidEventError]] = field(default_factory=list)


class Pipeline:
    """Decides micro-batches.

    Parameters
    ----------
    topics, rules
        What records are, and how they are read.
    store
        Where profiles live. It is the only thing here that leaves the process.
    models, policy
        What scores and what decides.
    encoder
        Writes the outputs.
    stopwatch
        Seconds from an arbitrary start; for stage timings only.
    """

    def __init__(  # noqa: PLR0913 - one collaborator a stage
        self,
        *,
        topics: InputTopics,
        rules: EventRules,
        store: ProfileStore,
        models: Models,
        policy: Policy,
        encoder: Encoder,
        stopwatch: Callable[[], float],
        minor_per_major: int = 100,
    ) -> None:
        self._topics = topics
        self._rules = rules
        self._store = store
        self._models = models
        self._policy = policy
        self._encoder = encoder
        self._stopwatch = stopwatch
        self._vectors = VectorBuilder(models.features, store.definition, minor_per_major)
        names = [feature.name for feature in models.features]
        self._fallback_columns = [names.index(name) for name in models.fallback.columns]
        self._missing_features = tuple(f.name for f in models.features if not f.is_stateless)

    def process(self, batch: InputBatch, *, is_degradable: bool = True) -> Processed:
        """Turn a batch of records into its outputs.

        Parameters
        ----------
        batch
            Records of any mixture of the input topics.
        is_degradable
            Decide without profiles when they are away. Otherwise the error is raised.

        Raises
        ------
        StoreUnavailableError
            Profiles are away, and ``is_degradable`` is False.
        """
        processed = Processed()
        lap = _Lap(self._stopwatch, processed.stage_seconds)
        parsed = self._parse(batch, processed.counts)
        lap.done("parse")
        answers = self._consult(batch, parsed, processed, is_degradable=is_degradable)
        lap.done("profile")
        transactions = [_transaction(located) for located in parsed.transactions]
        vectors = self._vectors.build(
            EventColumns.of(transactions, self._vectors.text_fields), answers
        )
        scores = self._score(vectors, is_degraded=answers is None)
        lap.done("score")
        decisions = self._decide(parsed, answers, vectors, scores)
        lap.done("decide")
        self._encode(batch, parsed, decisions, vectors, processed)
        lap.done("encode")
        return processed

    def parse(self, batch: InputBatch) -> ProfileBatch:
        """Read a batch for its effect on the profiles alone, as a repair does."""
        parsed = self._parse(batch, Counter())
        return ProfileBatch(parsed.labels, parsed.transactions, batch.stretches)

    def refuse(self, record: Record, error: InvalidEventError) -> OutputRecord:
        """Give the dead letter of a record whose outputs cannot be published."""
        return self._encoder.dead_letter(error, record, 0)

    def _parse(self, batch: InputBatch, counts: Counter[str]) -> _Parsed:
        parsed = _Parsed()
        unknown_fields = mismatches = unknown_amounts = 0
        for index, record in enumerate(batch.records):
            partition = self._topics.partition(record.topic, record.partition)
            try:
                event = self._parse_record(record, partition)
            except InvalidEventError as error:
                parsed.dead_letters.append((index, error))
                continue
            unknown_fields += event.unknown_fields
            located = Located(event, partition, record.offset)
            if isinstance(event, Label):
                parsed.labels.append(located)
            else:
                mismatches += record.key != event.card_id.encode()
                unknown_amounts += event.amount_base_minor is None
                parsed.transactions.append(located)
                parsed.indices.append(index)
                parsed.records.append(record)
        counts["unknown_fields"] += unknown_fields
        counts["key_mismatch"] += mismatches
        counts["amount_unknown"] += unknown_amounts
        counts["labels"] += len(parsed.labels)
        counts["transactions"] += len(parsed.transactions)
        return parsed

    def _parse_record(self, record: Record, partition: InputPartition) -> Transaction | Label:
        if partition.topic_number == LABELS_TOPIC_NUMBER:
            return parse_label(record, self._rules)
        return parse_transaction(record, self._rules)

    def _consult(
        self, batch: InputBatch, parsed: _Parsed, processed: Processed, *, is_degradable: bool
    ) -> ProfileAnswers | None:
        """Record the batch in the profiles and read them; None when they are away."""
        profile_batch = ProfileBatch(parsed.labels, parsed.transactions, batch.stretches)
        try:
            answers = self._store.apply(profile_batch)
        except StoreUnavailableError as error:
            if not is_degradable:
                raise
            processed.store_error = error
            return None
        processed.counts["labels_too_late"] += answers.labels_too_late
        processed.counts["labels_superseded"] += answers.labels_superseded
        for series in answers.series.values():
            processed.counts["conflicts"] += int((series.marks & Mark.CONFLICT > 0).sum())
            processed.counts["entity_missing"] += int(series.absent.sum())
        return answers

    def _score(self, vectors: NDArray[np.float32], *, is_degraded: bool) -> NDArray[np.float32]:
        if not len(vectors):
            return np.empty(0, dtype=np.float32)
        if is_degraded:
            return self._models.fallback.score(self._fallback(vectors))
        return self._models.model.score(vectors)

    def _fallback(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(vectors[:, self._fallback_columns])

    def _decide(
        self,
        parsed: _Parsed,
        answers: ProfileAnswers | None,
        vectors: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> list[Decision]:
        choose = decide if answers is not None else decide_degraded
        outcomes = choose(scores, self._policy)
        flags = _flags(answers, parsed.records)
        reasons = self._reasons(vectors, outcomes, is_degraded=answers is None)
        missing = () if answers is not None else self._missing_features
        return [
            Decision(
                _transaction(located), scores[i], outcomes[i], reasons.get(i, ()), flags[i], missing
            )
            for i, located in enumerate(parsed.transactions)
        ]

    def _reasons(
        self, vectors: NDArray[np.float32], outcomes: Sequence[Outcome], *, is_degraded: bool
    ) -> dict[int, tuple[Reason, ...]]:
        """Explain the alerts only: contributions cost far more than scores."""
        alerts = [i for i, outcome in enumerate(outcomes) if outcome.is_alert]
        if not alerts:
            return {}
        features, model, rows = self._models.features, self._models.model, vectors[alerts]
        if is_degraded:
            features = tuple(features[column] for column in self._fallback_columns)
            model, rows = self._models.fallback, self._fallback(rows)
        contributions = model.contributions(rows, is_approximate=self._models.is_approximate)
        return {
            i: find_reasons(features, self._models.reasons, rows[row], contributions[row])
            for row, i in enumerate(alerts)
        }

    def _encode(
        self,
        batch: InputBatch,
        parsed: _Parsed,
        decisions: Sequence[Decision],
        vectors: NDArray[np.float32],
        processed: Processed,
    ) -> None:
        timings_ms = {s: round(1000 * t, 3) for s, t in processed.stage_seconds.items()}
        counts, outputs = processed.counts, processed.outputs
        encoded = self._encoder.decisions(
            decisions, vectors, parsed.records, parsed.indices, timings_ms
        )
        for decision, record, output in zip(decisions, parsed.records, encoded, strict=True):
            outputs.append(output)
            if decision.flags:
                counts.update(f"flag_{flag.value}" for flag in decision.flags)
            if decision.is_alerted:
                outputs.append(self._encoder.alert(decision, record, output.source_index))
                counts["alerts"] += 1
        outcomes = [decision.outcome for decision in decisions]
        counts.update({f"outcome_{outcome.value}": outcomes.count(outcome) for outcome in Outcome})
        for index, error in parsed.dead_letters:
            outputs.append(self._encoder.dead_letter(error, batch.records[index], index))
            counts[f"dead_letter_{error.reason.value}"] += 1
        counts["dead_letters"] += len(parsed.dead_letters)
        outputs.sort(key=attrgetter("source_index"))


class _Lap:
    """Times one stage after the other."""

    def __init__(self, stopwatch: Callable[[], float], seconds: dict[str, float]) -> None:
        self._stopwatch = stopwatch
        self._seconds = seconds
        self._started_s = stopwatch()

    def done(self, stage: str) -> None:
        now_s = self._stopwatch()
        self._seconds[stage] = now_s - self._started_s
        self._started_s = now_s


def _transaction(located: Located) -> Transaction:
    assert isinstance(located.event, Transaction)
    return located.event


def _flags(answers: ProfileAnswers | None, records: Sequence[Record]) -> list[tuple[Flag, ...]]:
    """Say how each transaction's decision was made."""
    usual = (Flag.DEGRADED,) if answers is None else ()
    flags: list[tuple[Flag, ...]] = [usual] * len(records)
    if answers is not None:
        _add_profile_flags(flags, answers)
    for row, record in enumerate(records):
        if record.headers and any(name == _REPLAY_HEADER for name, _ in record.headers):
            flags[row] += (Flag.REPLAYED,)
    return flags


def _add_profile_flags(flags: list[tuple[Flag, ...]], answers: ProfileAnswers) -> None:
    card = answers.series.get("card_tx")
    rows = len(flags)
    too_late, incomplete, duplicate = (np.zeros(rows, dtype=bool) for _ in range(3))
    for series in answers.series.values():
        too_late |= series.outcomes == Recording.TOO_LATE
        # An event that does not name an entity is no sign of a loss.
        unknown = (series.counts < 0).any(axis=1) | (series.scans == SCAN_UNKNOWN).any(axis=1)
        incomplete |= unknown & ~series.absent
        # A copy that names another card is still one at the same terminal.
        duplicate |= series.outcomes == Recording.DUPLICATE
    marks: list[tuple[NDArray[np.bool_], Flag]] = [
        (too_late, Flag.TOO_LATE),
        (incomplete & ~too_late, Flag.INCOMPLETE),
    ]
    if card is not None:
        marks.append((card.marks & Mark.LATE > 0, Flag.LATE))
    marks.append((duplicate, Flag.DUPLICATE))
    for mask, flag in marks:
        for row in np.flatnonzero(mask).tolist():
            flags[row] += (flag,)
