"""Random streams of payments and findings, and the twin of the store driven through them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.event import Label, Transaction
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.features import EventColumns, VectorBuilder
from fraudstream.profile import (
    LABELS_TOPIC_NUMBER,
    TRANSACTIONS_TOPIC_NUMBER,
    InputPartition,
    Located,
    ProfileAnswers,
    ProfileBatch,
    Stretch,
)

START_MS = 1_532_476_800_000
HOUR_MS = 3_600_000
TRANSACTIONS = InputPartition(TRANSACTIONS_TOPIC_NUMBER, 0)
LABELS = InputPartition(LABELS_TOPIC_NUMBER, 0)
_WINDOWED = ("sum", "mean", "std", "ratio_to_mean", "seconds_since_last")


def every_aggregate() -> FeatureSet:
    """Make a feature set of all aggregates, with and without the present payment, and lags."""
    lines: list[dict[str, Any]] = [
        {"aggregate": "amount"},
        {"aggregate": "is_weekend"},
        {"aggregate": "is_night"},
        {"aggregate": "hour"},
        {"aggregate": "hash", "field": "terminal_id", "buckets": 16},
        {"aggregate": "hash", "field": "device_id", "buckets": 16},
        {"aggregate": "frequency", "field": "currency", "shares": {"EUR": 0.9, "JPY": 0.1}},
    ]
    for series in ("card_tx", "device_tx"):
        for aggregate in ("count", *_WINDOWED):
            line: dict[str, Any] = {"aggregate": aggregate, "series": series}
            lines.append(line | {"windows": ["1h", "5h"]})
            if aggregate != "seconds_since_last":
                name = f"{series}_{aggregate}_before"
                lines.append(line | {"counts_present": False, "windows": ["5h"], "name": name})
        for per_mille in (1, 500, 900, 1000):
            line = {"aggregate": "quantile", "series": series, "quantile": per_mille / 1000}
            lines.append(line | {"windows": ["5h"], "counts_present": per_mille != 900})
    lines += [
        {
            "aggregate": "distinct_count",
            "series": "card_tx",
            "field": field,
            "windows": ["1h", "5h"],
        }
        for field in ("terminal_id", "device_id")
    ]
    for lag in ("0d", "2h"):
        both: dict[str, Any] = {"windows": ["1h", "5h"], "lag": lag}
        lines += [
            {"aggregate": "rate", "series": "terminal_label", "against": "terminal_tx"} | both,
            {"aggregate": "count", "series": "terminal_label"} | both,
            {"aggregate": "sum", "series": "card_label"} | both,
            {"aggregate": "count", "series": "terminal_tx"} | both,
            {"aggregate": "seconds_since_last", "series": "terminal_tx"} | both,
            {
                "aggregate": "distinct_count",
                "series": "terminal_tx",
                "field": "card_id",
                "windows": ["5h"],
                "lag": lag,
            },
        ]
    document = {
        "version": 1,
        "name": "every",
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
            "device_tx": {
                "entity": "device",
                "records": "transactions",
                "keeps": ["amount", "amount_squares"],
                "allowed_lateness": "0d",
            },
            "terminal_tx": {"entity": "terminal", "records": "transactions", "keeps": ["card_id"]},
            "terminal_label": {
                "entity": "terminal",
                "records": "labels",
                "allowed_lateness": "0d",
            },
            "card_label": {"entity": "card", "records": "labels"},
        },
        "features": lines,
    }
    return parse_feature_set(document)


@st.composite
def payments(draw: st.DrawFn) -> list[Transaction]:
    """Draw payments in the order of their stream, with ties and copies, some with other content."""
    count = draw(st.integers(1, 60))
    found: list[Transaction] = []
    for number in range(count):
        # Whole hours, so that edges of windows and ties are met often.
        time_ms = START_MS + draw(st.integers(0, 24)) * HOUR_MS + draw(st.sampled_from((0, 0, 1)))
        amount = draw(st.one_of(st.none(), st.integers(0, 9), st.just(10**12)))
        made = Transaction(
            f"t{number}",
            time_ms,
            draw(st.sampled_from(("c1", "c2", "c3"))),
            draw(st.sampled_from(("m1", "m2"))),
            amount or 0,
            draw(st.sampled_from(("EUR", "JPY"))),
            amount,
            extra=(("device_id", draw(st.sampled_from((None, "d1", "d2")))),),
        )
        if found and draw(st.integers(0, 5)) == 0:
            first = draw(st.sampled_from(found))
            made = Transaction(
                first.transaction_id,
                first.event_time_ms,
                first.card_id,
                *(made.terminal_id, made.amount_minor, made.currency, made.amount_base_minor),
                extra=made.extra,
            )
        found.append(made)
    return sorted(found, key=lambda payment: payment.event_time_ms)


@st.composite
def findings(draw: st.DrawFn, about: Sequence[Transaction]) -> list[Label]:
    """Draw findings, some late, some withdrawn, some about payments that never came."""
    found = []
    for number in range(draw(st.integers(0, 25))):
        payment = draw(st.sampled_from(about))
        is_stray = draw(st.integers(0, 9)) == 0
        found.append(
            Label(
                f"x{number}" if is_stray else payment.transaction_id,
                payment.event_time_ms,
                payment.card_id,
                payment.terminal_id,
                is_fraud=draw(st.booleans()),
                reported_at_ms=payment.event_time_ms + draw(st.integers(-1, 20)) * HOUR_MS,
                source="test",
            )
        )
    return found


def known_rows(stream: Sequence[Transaction], labels: Sequence[Label]) -> list[int]:
    """Say which row of the stream is the first to know each label."""
    times_ms = [payment.event_time_ms for payment in stream]
    own: dict[tuple[str, int], int] = {}
    for row, payment in enumerate(stream):
        own.setdefault((payment.transaction_id, payment.event_time_ms), row)
    return [
        max(
            bisect_left(times_ms, max(label.reported_at_ms, label.event_time_ms)),
            own.get((label.transaction_id, label.event_time_ms), -1) + 1,
        )
        for label in labels
    ]


def through_the_twin(
    feature_set: FeatureSet, stream: Sequence[Transaction], labels: Sequence[Label]
) -> tuple[list[ProfileAnswers], NDArray[np.float32]]:
    """Send a stream through the store's twin, payment by payment, each label when it is known."""
    definition = feature_set.profile_definition("EUR")
    store = BucketedProfileStore(definition, MemoryBackend(definition))
    store.attach({TRANSACTIONS: AttachPoint(0, 0), LABELS: AttachPoint(0, 0)})
    builder = VectorBuilder(feature_set.features, definition)
    rows = known_rows(stream, labels)
    order = sorted(range(len(labels)), key=lambda i: (rows[i], labels[i].reported_at_ms))
    due = [rows[i] for i in order]
    answers, vectors, known = [], [], 0
    for row, payment in enumerate(stream):
        start, known = known, bisect_right(due, row)
        batch = ProfileBatch(
            labels=[Located(labels[order[i]], LABELS, i) for i in range(start, known)],
            transactions=[Located(payment, TRANSACTIONS, row)],
            stretches={LABELS: Stretch(start, known), TRANSACTIONS: Stretch(row, row + 1)},
        )
        answers.append(store.apply(batch))
        events = EventColumns.of([payment], builder.text_fields)
        vectors.append(builder.build(events, answers[-1]))
    return answers, np.concatenate(vectors)
