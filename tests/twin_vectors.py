"""The store's twin in memory, driven through a stream in the order of event time.

The online code itself makes the vectors, payment by payment, and with `decide` the decisions: what
the offline evaluator and whatever is built on it are compared with.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.alert import Encoder, ModelIdentity, OutputRecord, OutputTopics
from fraudstream.bundle import Bundle
from fraudstream.decision import Policy
from fraudstream.event import EventRules, Label, Record, Transaction
from fraudstream.features import EventColumns, Feature, VectorBuilder
from fraudstream.pipeline import InputBatch, InputTopics, Models, Pipeline
from fraudstream.profile import (
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileBatch,
    ProfileDefinition,
    Stretch,
)
from fraudstream.replay.stream import ReplayEvent

TRANSACTIONS = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
LABELS = InputPartition(LABELS_TOPIC_NUMBER, 0)
INPUTS = InputTopics("in.transactions", "in.labels")
OUTPUTS = OutputTopics("out.decisions", "out.alerts", "out.dead-letters")
_BATCH_MAX = 512


@dataclass(frozen=True, slots=True, eq=False)
class TrueStream:
    """Payments in event-time order, with the truth about them, shape (n,), bool."""

    transactions: list[Transaction]
    is_fraud: NDArray[np.bool_]


def build_vectors(
    stream: TrueStream,
    features: Sequence[Feature],
    definition: ProfileDefinition,
    *,
    label_delay_ms: int,
) -> NDArray[np.float32]:
    """Build every payment's vector as it would have been online, shape (n, features)."""
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({TRANSACTIONS: AttachPoint(0, 0), LABELS: AttachPoint(0, 0)})
    builder = VectorBuilder(features, definition)
    vectors = np.empty((len(stream.transactions), len(features)), dtype=np.float32)
    done = 0
    for batch in _batches(stream, label_delay_ms):
        answers = store.apply(batch)
        transactions = stream.transactions[done : done + len(batch.transactions)]
        vectors[done : done + len(transactions)] = builder.build(
            EventColumns.of(transactions, builder.text_fields), answers
        )
        done += len(transactions)
    return vectors


def _batches(stream: TrueStream, label_delay_ms: int) -> Iterator[ProfileBatch]:
    """Cut the stream so that labels, which a batch applies first, are never applied too soon.

    A batch ends where the next label becomes known. A payment of that very millisecond comes
    after it, if it also comes after the label's own payment: without a delay nothing else would
    keep a payment from knowing what it turned out to be. A replay sends them in the same order.
    """
    frauds = np.flatnonzero(stream.is_fraud).tolist()
    labels = [_label(stream.transactions[number], label_delay_ms) for number in frauds]
    times_ms = [transaction.event_time_ms for transaction in stream.transactions]
    known_at = [
        max(bisect_left(times_ms, label.reported_at_ms), number + 1)
        for number, label in zip(frauds, labels, strict=True)
    ]
    known, first = 0, 0
    while first < len(times_ms):
        start, known = known, bisect_right(known_at, first, known)
        last = min(first + _BATCH_MAX, len(times_ms), *known_at[known : known + 1])
        yield ProfileBatch(
            labels=[Located(labels[i], LABELS, i) for i in range(start, known)],
            transactions=[
                Located(stream.transactions[i], TRANSACTIONS, i) for i in range(first, last)
            ],
            stretches={LABELS: Stretch(start, known), TRANSACTIONS: Stretch(first, last)},
        )
        first = last


def _label(transaction: Transaction, label_delay_ms: int) -> Label:
    return Label(
        transaction.transaction_id,
        transaction.event_time_ms,
        transaction.card_id,
        transaction.terminal_id,
        is_fraud=True,
        reported_at_ms=transaction.event_time_ms + label_delay_ms,
        source="training",
    )


def decide(
    bundle: Bundle, policy: Policy, events: Iterable[ReplayEvent]
) -> tuple[list[OutputRecord], list[Record]]:
    """Send what a replay would send through the whole pipeline, with a bundle's models.

    Returns
    -------
    outputs, labels
        All that would be published, in order; and the records of the labels topic.
    """
    definition = bundle.feature_set.profile_definition("EUR")
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({TRANSACTIONS: AttachPoint(0, 0), LABELS: AttachPoint(0, 0)})
    pipeline = Pipeline(
        topics=INPUTS,
        rules=EventRules(extra_fields=bundle.feature_set.extra_fields),
        store=store,
        models=Models(bundle.model, bundle.fallback, bundle.features, bundle.reasons),
        policy=policy,
        encoder=Encoder(
            OUTPUTS,
            ModelIdentity(bundle.name, bundle.version, bundle.sha256),
            policy.version,
            tuple(feature.name for feature in bundle.features),
        ),
        stopwatch=lambda: 0.0,
    )
    outputs: list[OutputRecord] = []
    labels: list[Record] = []
    for batch in _input_batches(events):
        outputs += pipeline.process(batch, is_degradable=False).outputs
        labels += [record for record in batch.records if record.topic == INPUTS.labels]
    return outputs, labels


def as_records(outputs: Iterable[OutputRecord], topic: str) -> list[Record]:
    """Give what lies in an output topic afterwards."""
    found = [output for output in outputs if output.topic == topic]
    return [
        Record(topic, 0, offset, 0, output.key, output.value) for offset, output in enumerate(found)
    ]


def _input_batches(events: Iterable[ReplayEvent]) -> Iterator[InputBatch]:
    """Cut the stream before every label: a batch applies its labels first."""
    offsets = {TRANSACTIONS: 0, LABELS: 0}
    records: list[Record] = []
    stretches: dict[InputPartition, Stretch] = {}
    for event in events:
        if records and (event.is_label or len(records) == _BATCH_MAX):
            yield InputBatch(records, stretches)
            records, stretches = [], {}
        partition = LABELS if event.is_label else TRANSACTIONS
        offset = offsets[partition]
        offsets[partition] = offset + 1
        begun = stretches.get(partition, Stretch(offset, offset))
        stretches[partition] = begun._replace(end=offset + 1)
        topic = INPUTS.topic(partition)
        records.append(Record(topic, 0, offset, event.time_ms, event.key, event.value))
    if records:
        yield InputBatch(records, stretches)
