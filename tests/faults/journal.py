"""A worker's own account of its transactions: a line for each step, which survives ``kill -9``.

    {"event": "begun", "attempt": "<transactional id>/<run>/<n>", "slot": 0, "at_ms": …, "pid": …}

``begun`` comes again with ``records`` before they are produced, and with ``ends`` (topic,
partition, offset) before they are sent. Then one of ``committed``, ``aborted`` and ``unknown``;
the last is followed by ``resolved`` with ``was_committed``, once the worker has found out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import TopicPartition

from fraudstream.adapters.kafka_publisher import KafkaPublisher
from fraudstream.alert import OutputRecord
from fraudstream.errors import UnavailableError, UnknownOutcomeError
from fraudstream.profile import InputPartition, Stretch
from fraudstream.runtime import Worker


class Journal:
    """The file.

    Parameters
    ----------
    path
        Appended to, also by those that follow in the slot.
    slot
        Whose it is.
    """

    def __init__(self, path: Path, slot: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._slot = slot
        self._attempt = ""

    def begin(self, attempt: str) -> None:
        """Note that an attempt has begun; what follows is about it."""
        self._attempt = attempt
        self.write("begun")

    def write(self, event: str, **details: object) -> None:
        """Append a line about the attempt."""
        line = {
            "event": event,
            "attempt": self._attempt,
            "slot": self._slot,
            "at_ms": time.time_ns() // 1_000_000,
            "pid": os.getpid(),
        }
        os.write(self._fd, json.dumps(line | details).encode() + b"\n")


def keep_journal(journal: Journal) -> None:
    """Wrap the product's methods in this process."""
    _note_steps(journal)
    _note_ends(journal)
    _note_answers(journal)


def _note_steps(journal: Journal) -> None:
    begin, produce = KafkaPublisher._begin, KafkaPublisher._produce
    send_offsets = KafkaPublisher._send_offsets

    def noted_begin(self: KafkaPublisher) -> None:
        try:
            begin(self)
        finally:
            journal.begin(self.attempt)

    def noted_produce(self: KafkaPublisher, outputs: Sequence[OutputRecord]) -> None:
        journal.write("begun", records=len(outputs))
        produce(self, outputs)

    def noted_offsets(self: KafkaPublisher, offsets: list[TopicPartition], group: object) -> None:
        journal.write("begun", ends=[(o.topic, o.partition, o.offset) for o in offsets])
        send_offsets(self, offsets, group)

    KafkaPublisher._begin = noted_begin  # type: ignore[method-assign]
    KafkaPublisher._produce = noted_produce  # type: ignore[method-assign]
    KafkaPublisher._send_offsets = noted_offsets  # type: ignore[method-assign]


def _note_ends(journal: Journal) -> None:
    commit, publish = KafkaPublisher._commit, KafkaPublisher.publish

    def noted_commit(self: KafkaPublisher) -> None:
        commit(self)
        journal.write("committed")

    def noted_publish(
        self: KafkaPublisher,
        outputs: Sequence[OutputRecord],
        offsets: Sequence[TopicPartition],
        group: object,
    ) -> None:
        before = self.attempt
        try:
            publish(self, outputs, offsets, group)
        except UnavailableError as error:
            if self.attempt != before:  # else the producer was not even ready
                journal.write("unknown" if isinstance(error, UnknownOutcomeError) else "aborted")
            raise

    KafkaPublisher._commit = noted_commit  # type: ignore[method-assign]
    KafkaPublisher.publish = noted_publish  # type: ignore[method-assign]


def _note_answers(journal: Journal) -> None:
    ask = Worker._was_committed

    def noted_answer(self: Worker, stretches: Mapping[InputPartition, Stretch]) -> bool:
        answer = ask(self, stretches)
        if answer or not self._stopping.is_set():  # else it gave up asking
            journal.write("resolved", was_committed=answer)
        return answer

    Worker._was_committed = noted_answer  # type: ignore[method-assign]
