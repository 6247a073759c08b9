"""Records whose outputs Kafka refuses: cutting a batch, and what becomes of outputs and counts."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from fraudstream.alert import OutputRecord
from fraudstream.errors import InvalidEventError
from fraudstream.event import Record
from fraudstream.halving import Refusals, halve
from fraudstream.pipeline import InputBatch, InputTopics, Processed
from fraudstream.profile import InputPartition, Stretch

TOPICS = InputTopics("in", "labels")
P0, P1 = InputPartition(1, 0), InputPartition(1, 1)


def record(partition: int, offset: int) -> Record:
    return Record("in", partition, offset, 0, b"c1", b"payload", ())


def partition_of(one: Record) -> InputPartition:
    return TOPICS.partition(one.topic, one.partition)


def test_halves_cover_the_batch_without_a_gap_and_skip_what_nobody_was_given() -> None:
    # Offsets 5 and 6 are a marker and an aborted record.
    records = [record(0, 3), record(1, 0), record(0, 4), record(0, 7)]
    batch = InputBatch(records, {P0: Stretch(2, 8), P1: Stretch(0, 1)})
    first, second = halve(batch, partition_of)
    assert [*first.records, *second.records] == records
    assert first.stretches == {P0: Stretch(2, 4), P1: Stretch(0, 1)}
    assert second.stretches == {P0: Stretch(4, 8)}


def output(index: int, **body: object) -> OutputRecord:
    return OutputRecord("out", b"c1", orjson.dumps(body), [], index)


def letter(one: Record, error: InvalidEventError) -> OutputRecord:
    headers: list[tuple[str, str | bytes | None]] = [("fs_reason", error.reason.value.encode())]
    return OutputRecord("dead", one.key, one.value, headers, 0, is_dead_letter=True)


def decided() -> Processed:
    decision = {"outcome": "REVIEW", "flags": ["late"]}
    outputs = [output(0, outcome="APPROVE", flags=[]), output(1, **decision)]
    outputs += [output(1, alert_id="a-1", **decision), output(2, outcome="APPROVE", flags=[])]
    counts = Counter(transactions=3, outcome_APPROVE=2, outcome_REVIEW=1, flag_late=1, alerts=1)
    return Processed(outputs, counts)


@pytest.mark.parametrize(("times", "payload"), [(1, b"payload"), (2, None)])
def test_only_the_refused_record_is_given_up(times: int, payload: bytes | None) -> None:
    records = [record(0, n) for n in range(3)]
    refusals, processed = Refusals(), decided()
    for _ in range(times):
        assert refusals.note(records[1])
    refusals.replace(InputBatch(records, {}), processed, letter)
    assert [o.source_index for o in processed.outputs] == [0, 1, 2]
    assert processed.outputs[1].value == payload
    assert +processed.counts == Counter(
        transactions=2, outcome_APPROVE=2, dead_letters=1, dead_letter_output_refused=1
    )


def test_there_is_nothing_less_than_a_dead_letter_without_payload() -> None:
    refusals = Refusals()
    assert [refusals.note(record(0, 1)) for _ in range(3)] == [True, True, False]
    refusals.forget(InputBatch([record(0, 1)], {}))
    assert refusals.note(record(0, 1))
