"""A history, read once for all checks: events parsed, decisions decoded, vectors in one array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson
from harness import Partition, Position, Row
from history import OUTPUT_KINDS, Attempt, History, read_event
from numpy.typing import NDArray

from fraudstream.errors import Reason
from fraudstream.event import Label, Transaction

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_MILLISECOND = timedelta(milliseconds=1)
Payload: TypeAlias = "tuple[str, int, str, str, int, str]"


class Answer(NamedTuple):
    """What is looked at of a decision or an alert; `Decided.row` is the row of its vector."""

    place: Position
    source: Position
    attempt: str
    timestamp_ms: int
    decision_id: str
    #: transaction_id, event time (ms), card_id, terminal_id, amount_minor, currency.
    payload: Payload
    body_source: Position
    outcome: str
    flags: frozenset[str]
    score: float
    missing: tuple[str, ...]
    row: int

    @property
    def calls_for_alert(self) -> bool:
        """Whether an alert has to be there."""
        return self.outcome != "APPROVE" and "duplicate" not in self.flags

    @property
    def is_degraded(self) -> bool:
        """Whether it was made without profiles."""
        return "degraded" in self.flags


@dataclass(frozen=True, slots=True)
class _Visible:
    """The visible records of one attempt: how many, and how many it says there are."""

    records: int
    said: frozenset[str]


def source_of(row: Row) -> Position | None:
    """Give the place of the input record that an output answers; None if it does not say."""
    try:
        return row.source
    except (KeyError, ValueError):
        return None


class RunView:
    """What the checks look at.

    Parameters
    ----------
    history
        What a run left behind. Decisions that were made again because offsets were given back on
        purpose (`History.rewound`) are left out: the first of each counts.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        #: What counts of the outputs.
        self.outputs = _without_repeats(history)
        self.names = [feature.name for feature in history.bundle.features]

    # -------------------------------------------------------------- inputs

    @cached_property
    def rows(self) -> dict[Position, Row]:
        """The input records by place, in order."""
        return {row.place: row for row in self.history.inputs}

    @cached_property
    def events(self) -> dict[Position, Transaction | Label | Reason]:
        """What each input record is, or why it is nothing."""
        history = self.history
        topic, rules = history.labels_topic, history.rules
        return {place: read_event(row, topic, rules) for place, row in self.rows.items()}

    @cached_property
    def transactions(self) -> list[tuple[Position, Transaction]]:
        """The transactions that are events, partition by partition, in order of offset."""
        return [(p, e) for p, e in self.events.items() if isinstance(e, Transaction)]

    @cached_property
    def labels(self) -> list[tuple[Position, Label]]:
        """The labels that are events, partition by partition, in order of offset."""
        return [(p, e) for p, e in self.events.items() if isinstance(e, Label)]

    # -------------------------------------------------------------- outputs

    @cached_property
    def decisions(self) -> list[Answer]:
        """Every visible decision that says what it answers, in log order."""
        return self._decoded[0]

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The logged vectors, shape (decisions, features): row n is decision n's."""
        return self._decoded[1]

    @cached_property
    def alerts(self) -> list[Answer]:
        """Every visible alert that says what it answers, in log order."""
        return [
            _answer(row, body, source, number)
            for number, (row, source, body) in enumerate(self._bodies("alerts"))
        ]

    @cached_property
    def _decoded(self) -> tuple[list[Answer], NDArray[np.float32]]:
        answers: list[Answer] = []
        vectors = np.full((len(self.outputs["decisions"]), len(self.names)), np.nan, np.float32)
        for number, (row, source, body) in enumerate(self._bodies("decisions")):
            features = body["features"]
            vectors[number] = [np.nan if (v := features[n]) is None else v for n in self.names]
            answers.append(_answer(row, body, source, number))
        return answers, vectors[: len(answers)]

    def _bodies(self, kind: str) -> Iterator[tuple[Row, Position, dict[str, Any]]]:
        for row in self.outputs[kind]:
            source = source_of(row)
            if source is not None and row.value is not None:
                yield row, source, orjson.loads(row.value)

    @cached_property
    def decided(self) -> dict[Position, Answer]:
        """The first decision on each input record."""
        found: dict[Position, Answer] = {}
        for answer in self.decisions:
            found.setdefault(answer.source, answer)
        return found

    @cached_property
    def dead(self) -> dict[Position, Row]:
        """The first dead letter of each input record."""
        found: dict[Position, Row] = {}
        for row in self.outputs["dead_letters"]:
            source = source_of(row)
            if source is not None:
                found.setdefault(source, row)
        return found

    # -------------------------------------------------------------- attempts

    @cached_property
    def visible_attempts(self) -> dict[str, _Visible]:
        """By attempt, what of it is visible."""
        said: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        for row in every_output(self.history.outputs):
            attempt = row.headers.get("fs_attempt", "")
            counts[attempt] += 1
            said.setdefault(attempt, set()).add(row.headers.get("fs_attempt_records", "none"))
        return {name: _Visible(count, frozenset(said[name])) for name, count in counts.items()}

    @cached_property
    def journal(self) -> dict[str, Attempt]:
        """The journaled attempts by name."""
        return {attempt.attempt: attempt for attempt in self.history.attempts}

    @cached_property
    def is_disturbed(self) -> bool:
        """Whether something may have been recorded in the profiles before its last attempt."""
        history = self.history
        if history.faults or history.rewound or not history.attempts:
            return True
        return any(attempt.state != "committed" for attempt in history.attempts)


def every_output(outputs: dict[str, list[Row]]) -> Iterator[Row]:
    """Go through the records of all output topics."""
    for kind in OUTPUT_KINDS:
        yield from outputs[kind]


def _without_repeats(history: History) -> dict[str, list[Row]]:
    if not history.rewound:
        return history.outputs
    return {kind: list(_firsts(rows, history.rewound)) for kind, rows in history.outputs.items()}


def _firsts(rows: Iterable[Row], rewound: dict[Partition, list[tuple[int, int]]]) -> Iterator[Row]:
    seen: set[Position] = set()
    for row in rows:
        source = source_of(row)
        if source is not None and any(
            start <= source[2] < end for start, end in rewound.get(source[:2], ())
        ):
            if source in seen:
                continue
            seen.add(source)
        yield row


def _answer(row: Row, body: dict[str, Any], source: Position, number: int) -> Answer:
    said = body["source"]
    return Answer(
        row.place,
        source,
        row.headers.get("fs_attempt", ""),
        row.timestamp_ms,
        body["decision_id"],
        (
            body["transaction_id"],
            (datetime.fromisoformat(body["event_time"]) - _EPOCH) // _MILLISECOND,
            body["card_id"],
            body["terminal_id"],
            body["amount_minor"],
            body["currency"],
        ),
        (said["topic"], said["partition"], said["offset"]),
        body["outcome"],
        frozenset(body["flags"]),
        body["score"],
        tuple(body["missing_features"]),
        number,
    )
