"""Which decisions are looked at: drawn by the hash of their ids, so the same for everybody.

Only headers are read of all decisions; the bodies of those that are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from fraudstream.audit.decided import DecidedTimes
from fraudstream.event import Record

_HASHES: Final = 2**64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Source(NamedTuple):
    """The place of the transaction that a decision answers."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class SampledDecision:
    """One decision, as it was published.

    Attributes
    ----------
    decision_id
        Its id; the hex behind ``d-`` stands for the payment.
    source
        Where its transaction lies.
    decided_ms
        The Kafka timestamp of the decision.
    event_time_ms
        When the payment was made.
    card_id, terminal_id
        Whom it is about.
    features
        By name; None is "not known".
    flags
        How it was made.
    """

    decision_id: str
    source: Source
    decided_ms: int
    event_time_ms: int
    card_id: str
    terminal_id: str
    features: Mapping[str, float | None]
    flags: frozenset[str]


class _Model(msgspec.Struct):
    """Which model decided."""

    sha256: str


class _Body(msgspec.Struct):
    """What is read of a decision's JSON."""

    decision_id: str
    event_time: datetime
    card_id: str
    terminal_id: str
    model: _Model
    features: dict[str, float | None]
    flags: list[str]


class DecisionSample:
    """Draws decisions out of all that pass.

    Parameters
    ----------
    topic
        The transactions topic that they answer.
    model_sha256
        Which model's: another may have had other features.
    share
        How many of them, in (0, 1].
    decisions_max
        At most so many: those with the lowest hashes.

    Attributes
    ----------
    times
        When everything that passed was decided.
    seen
        How many decisions passed.
    left_out
        How many of those drawn cannot be compared, by why.
    """

    def __init__(self, topic: str, model_sha256: str, share: float, decisions_max: int) -> None:
        self._topic = topic.encode()
        self._model_sha256 = model_sha256
        self._bound = int(share * _HASHES)
        self._decisions_max = decisions_max
        self._drawn: dict[Source, tuple[int, SampledDecision]] = {}
        self.times = DecidedTimes()
        self.seen = 0
        self.left_out: Counter[str] = Counter()

    def take(self, records: Sequence[Record]) -> None:
        """Let records of the decisions topic pass."""
        for record in records:
            headers = dict(record.headers)
            source = _source(headers, self._topic)
            identifier = headers.get("ce_id")
            if source is None or identifier is None:
                self.left_out["not_of_this_deployment"] += 1
                continue
            self.seen += 1
            self.times.note(*source, record.timestamp_ms)
            number = int.from_bytes(blake2b(identifier, digest_size=8).digest(), "big")
            if number < self._bound:
                self._draw(number, source, record)
        if len(self._drawn) > 2 * self._decisions_max:
            self._prune()

    def decisions(self) -> list[SampledDecision]:
        """Give those that were drawn, in the order in which they were made."""
        self._prune()
        drawn = (decision for _, decision in self._drawn.values())
        return sorted(drawn, key=lambda decision: (decision.decided_ms, decision.source))

    def _draw(self, number: int, source: Source, record: Record) -> None:
        try:
            body = msgspec.json.decode(record.value or b"", type=_Body)
        except msgspec.DecodeError:  # a wrong field, too
            self.left_out["unreadable"] += 1
            return
        if body.model.sha256 != self._model_sha256:
            self.left_out["other_model"] += 1
            return
        known = self._drawn.get(source)
        if known is not None:
            # The group was rewound: only the first time the past was the past.
            self.left_out["decided_again"] += 1
            if known[1].decided_ms <= record.timestamp_ms:
                return
        self._drawn[source] = (
            number,
            SampledDecision(
                body.decision_id,
                source,
                record.timestamp_ms,
                (body.event_time - _EPOCH) // timedelta(milliseconds=1),
                body.card_id,
                body.terminal_id,
                body.features,
                frozenset(body.flags),
            ),
        )

    def _prune(self) -> None:
        """Keep the lowest hashes; copies of one payment have the same, and are told by place."""
        kept = sorted(self._drawn.items(), key=lambda drawn: (drawn[1][0], drawn[0]))
        self._drawn = dict(kept[: self._decisions_max])


def _source(headers: Mapping[str, bytes | None], topic: bytes) -> Source | None:
    """Read which transaction a decision answers; None if it is of another topic, or none of ours.

    Examples
    --------
    >>> place = {"fs_source_partition": b"3", "fs_source_offset": b"41"}
    >>> _source({"fs_source_topic": b"payments", **place}, b"payments")
    Source(partition=3, offset=41)
    """
    if headers.get("fs_source_topic") != topic:
        return None
    partition, offset = headers.get("fs_source_partition"), headers.get("fs_source_offset")
    if not (partition and offset and partition.isdigit() and offset.isdigit()):
        return None
    return Source(int(partition), int(offset))
