"""What the cards and terminals of some decisions had done: one pass over the log, filtered.

Nothing is kept of an entity that no decision names, nor of a time that none of its decisions looks
back on. So memory grows with the sample, not with the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from fraudstream.audit.sample import SampledDecision, Source
from fraudstream.event import LABEL_ENTITY_FIELDS, Label, Transaction
from fraudstream.profile import ProfileDefinition, Series

EventT = TypeVar("EventT", Transaction, Label)


@dataclass(frozen=True, slots=True)
class Arrival(Generic[EventT]):
    """An event, and the place and time of its record in the log."""

    event: EventT
    partition: int
    offset: int
    timestamp_ms: int


class Question(NamedTuple):
    """A decision, and the payment that it answers."""

    decision: SampledDecision
    own: Arrival[Transaction]


class _Look(NamedTuple):
    """Between which event times somebody looks at an entity: ``(after, until]``."""

    after_ms: int
    until_ms: int


#: An entity: the event field that names it, and its id.
_Entity = tuple[str, str]


class Past(Generic[EventT]):
    """The events of one kind that some decisions look back on.

    Parameters
    ----------
    series
        The series that such events are recorded in.
    subjects
        Each decision's payment time, and the entities that it names, by event field.
    """

    def __init__(
        self, series: Iterable[Series], subjects: Iterable[tuple[int, Mapping[str, str]]]
    ) -> None:
        reach_ms: dict[str, int] = {}
        for one in series:
            reach_ms[one.entity] = max(reach_ms.get(one.entity, 0), reach_of(one))
        self._looks: dict[_Entity, _Look] = {}
        self._kept: defaultdict[_Entity, list[Arrival[EventT]]] = defaultdict(list)
        self._fields = tuple(reach_ms)
        self._reach_ms = max(reach_ms.values(), default=0)
        for time_ms, entities in subjects:
            for field in self._fields:
                if field in entities:
                    self._widen((field, entities[field]), time_ms, reach_ms[field])

    def _widen(self, entity: _Entity, time_ms: int, reach_ms: int) -> None:
        look = self._looks.get(entity, _Look(time_ms - reach_ms, time_ms))
        self._looks[entity] = _Look(
            min(look.after_ms, time_ms - reach_ms), max(look.until_ms, time_ms)
        )

    @property
    def reach_ms(self) -> int:
        """How far before a decision's payment it looks; 0: not at all."""
        return self._reach_ms

    def take(self, arrival: Arrival[EventT]) -> None:
        """Let an event of the log pass."""
        event = arrival.event
        for field in self._fields:
            entity = entity_of(event, field)
            look = None if entity is None else self._looks.get((field, entity))
            if look is not None and look.after_ms < event.event_time_ms <= look.until_ms:
                assert entity is not None
                self._kept[field, entity].append(arrival)

    def of(self, own: Transaction) -> list[Arrival[EventT]]:
        """Give what was kept of the entities that a payment names, each event once, unsorted."""
        found: dict[tuple[int, int], Arrival[EventT]] = {}
        for field in self._fields:
            entity = entity_of(own, field)
            if entity is not None:
                for arrival in self._kept.get((field, entity), ()):
                    found[arrival.partition, arrival.offset] = arrival
        return list(found.values())


class Owns:
    """The payments that decisions answer, found by their places.

    Parameters
    ----------
    places
        Where they lie.
    """

    def __init__(self, places: Iterable[Source]) -> None:
        self._places = frozenset(places)
        self.found: dict[Source, Arrival[Transaction]] = {}

    def take(self, arrival: Arrival[Transaction]) -> None:
        """Let a payment of the log pass."""
        place = Source(arrival.partition, arrival.offset)
        if place in self._places:
            self.found[place] = arrival


def entity_of(event: Transaction | Label, field: str) -> str | None:
    """Name the entity that an event is about; None where it does not say."""
    if isinstance(event, Transaction):
        return event.text(field)
    return str(getattr(event, field)) if field in LABEL_ENTITY_FIELDS else None


def reach_of(series: Series) -> int:
    """Say how far back a series is looked at, milliseconds."""
    windows = (*series.windows, *(scan.window for scan in series.scans))
    return max((window.reach_ms for window in windows), default=0)


def series_of(definition: ProfileDefinition, kind: str) -> Sequence[Series]:
    """Give the series that are looked at and record events of a kind."""
    return [s for s in definition.series if s.kind == kind and (s.windows or s.scans)]


def entities_of(transaction: Transaction, fields: Iterable[str]) -> dict[str, str]:
    """Name the entities that a payment is about, by event field."""
    found = {field: transaction.text(field) for field in fields}
    return {field: entity for field, entity in found.items() if entity is not None}
