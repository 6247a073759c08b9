"""Who asked to be forgotten: written down in a topic of its own, without saying who.

    profiles forget ─1─▶ erasures topic (field, hash of the id, until)
                    └2─▶ profile store: records dropped, older ones refused from now on

    rebuild, repair ──meets an entity──▶ is its hash in the topic? ──▶ forget it again, then merge

The topic is written first: a store that is lost in between is brought back without what was
erased. Hashes are keyed by the deployment's secret if it has one, so that a list of card ids cannot
be tried against the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

import orjson
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraudstream.adapters.kafka import KafkaAccess, error_of, kafka_logger, producer_config
from fraudstream.adapters.kafka_bulk import KafkaBulk
from fraudstream.errors import BrokerUnavailableError, ServiceAwayError, SettingsError
from fraudstream.event import format_time
from fraudstream.profile import ProfileDefinition

_log = structlog.get_logger("erasures")

_PERSON = b"fs-erasure"
_HASH_BYTES = 16
_KEY_CHECK_BYTES = 4
_DELIVERY_TIMEOUT_S = 15.0


class EntityHasher:
    """Hashes ids, so that the topic does not hold them.

    Parameters
    ----------
    secret
        ``events.hmac_key``; empty if the deployment has none.

    Examples
    --------
    >>> hasher = EntityHasher(b"")
    >>> hasher("card_id", "c1") == hasher("terminal_id", "c1")
    False
    """

    def __init__(self, secret: bytes = b"") -> None:
        self._key = blake2b(secret, digest_size=32).digest() if secret else b""
        check = blake2b(b"", key=self._key, person=_PERSON, digest_size=_KEY_CHECK_BYTES)
        self.key_check = check.hexdigest()

    def __call__(self, entity_field: str, entity: str) -> str:
        """Give the hash of an entity, hexadecimal."""
        text = f"{entity_field}\0{entity}".encode()
        return blake2b(text, key=self._key, person=_PERSON, digest_size=_HASH_BYTES).hexdigest()


class ErasureList:
    """All erasures, to be asked about an entity at a time.

    Parameters
    ----------
    hasher
        As of the topic.
    until_ms
        By (event field, hash): up to which event time it is forgotten.
    """

    def __init__(
        self, hasher: EntityHasher, until_ms: dict[tuple[str, str], int] | None = None
    ) -> None:
        self._hasher = hasher
        self._until_ms = until_ms or {}

    def __len__(self) -> int:
        """Return the number of erased entities."""
        return len(self._until_ms)

    def until_ms(self, entity_field: str, entity: str) -> int | None:
        """Say up to which event time an entity is forgotten; None if it is not."""
        if not self._until_ms:
            return None
        return self._until_ms.get((entity_field, self._hasher(entity_field, entity)))


class Forgetting(Protocol):
    """A store that can forget."""

    @property
    def definition(self) -> ProfileDefinition:
        """The series it keeps."""
        ...

    def forget(self, series: str, entity: str, until_ms: int) -> int:
        """Drop an entity's records up to a time, and refuse such records from then on."""
        ...


def forget_everywhere(
    store: Forgetting, entity_field: str, entity: str, until_ms: int
) -> dict[str, int]:
    """Forget an entity in every series of its kind.

    Returns
    -------
    dropped
        By series name: how many records there were.
    """
    return {
        series.name: store.forget(series.name, entity, until_ms)
        for series in store.definition.series
        if series.entity == entity_field
    }


@dataclass(slots=True)
class ErasureKeeper:
    """Sees to it that what comes back from the log stays forgotten.

    Entities are announced as they are met; `settle` then forgets those that were erased. It must
    come before their records do: older ones are refused from then on, and windows that reach back
    to them are unknown and not empty.
    """

    store: Forgetting
    erasures: ErasureList
    _met: dict[tuple[str, str], int] = field(default_factory=dict)

    def meet(self, entity_field: str, entity: str) -> None:
        """Note that records of an entity are coming."""
        until_ms = self.erasures.until_ms(entity_field, entity)
        if until_ms is not None:
            self._met[entity_field, entity] = until_ms

    def take(self) -> dict[tuple[str, str], int]:
        """Give the erased entities that were met since the last time, with their times."""
        met, self._met = self._met, {}
        return met

    def settle(self, met: dict[tuple[str, str], int] | None = None) -> int:
        """Forget the erased entities that were met; return how many there were.

        Raises
        ------
        StoreUnavailableError
            The store does not answer; call again with the same.
        """
        chosen = self._met if met is None else met
        for (entity_field, entity), until_ms in chosen.items():
            forget_everywhere(self.store, entity_field, entity, until_ms)
        count = len(chosen)
        if met is None:
            self._met = {}
        return count


class ErasureLog:
    """The topic of erasures.

    Parameters
    ----------
    access, group_id
        Where, and under which name in the broker's logs; nothing is committed.
    topic
        Its name.
    hasher
        How ids are hashed.
    """

    def __init__(
        self, access: KafkaAccess, group_id: str, topic: str, hasher: EntityHasher
    ) -> None:
        self._access = access
        self._group_id = group_id
        self._topic = topic
        self._hasher = hasher

    def read(self, *, is_strict: bool = True) -> ErasureList:
        """Read all erasures. A deployment without the topic has none.

        Parameters
        ----------
        is_strict
            Refuse erasures made under another key; otherwise they are logged and left out.

        Raises
        ------
        ServiceAwayError
            Kafka does not answer.
        SettingsError
            Some were made under another ``events.hmac_key``: whom they name cannot be known.
        """
        bulk = KafkaBulk(self._access, self._group_id)
        try:
            ranges = bulk.survey([self._topic])
            values = [record.value for part in bulk.read(ranges) for record in part.records]
        finally:
            bulk.close()
        until_ms, foreign = self._sorted_out(value for value in values if value)
        if foreign and is_strict:
            raise SettingsError(
                f"{foreign} erasures in {self._topic} were made under another events.hmac_key: "
                "set that key again, or what was forgotten would come back"
            )
        if foreign:
            _log.error("erasures_under_another_key", erasures=foreign)
        return ErasureList(self._hasher, until_ms)

    def read_for_repair(self) -> ErasureList:
        """Read all erasures, as a worker that repairs profiles beside the stream.

        Raises
        ------
        BrokerUnavailableError
            Kafka does not answer; ask again.
        """
        try:
            return self.read(is_strict=False)
        except ServiceAwayError as error:
            raise BrokerUnavailableError(f"reading the erasures: {error}") from error

    def record(self, entity_field: str, entity: str, until_ms: int) -> int:
        """Write an erasure down; return up to when it reaches, with what was erased before.

        Raises
        ------
        ServiceAwayError
            Kafka did not take it, or there is no such topic.
        SettingsError
            As of `read`.
        """
        reaches_ms = max(until_ms, self.read().until_ms(entity_field, entity) or until_ms)
        hashed = self._hasher(entity_field, entity)
        value = {
            "field": entity_field,
            "id_hash": hashed,
            "until": format_time(reaches_ms),
            "until_ms": reaches_ms,
            "key_check": self._hasher.key_check,
        }
        self._send(f"{entity_field}:{hashed}".encode(), orjson.dumps(value))
        return reaches_ms

    def _sorted_out(self, values: Iterable[bytes]) -> tuple[dict[tuple[str, str], int], int]:
        until_ms: dict[tuple[str, str], int] = {}
        foreign = set()
        for value in values:
            erasure = orjson.loads(value)
            key = (erasure["field"], erasure["id_hash"])
            if erasure["key_check"] == self._hasher.key_check:
                until_ms[key] = max(erasure["until_ms"], until_ms.get(key, 0))
            else:
                foreign.add(key)
        return until_ms, len(foreign)

    def _send(self, key: bytes, value: bytes) -> None:
        # In words: the client's errors must not be compared with anything but errors.
        outcomes: list[str] = []

        def on_delivery(error: KafkaError | None, _: Message) -> None:
            outcomes.append("" if error is None else error.name())

        producer = Producer(
            producer_config(self._access)
            | {"delivery.timeout.ms": int(1000 * _DELIVERY_TIMEOUT_S), "logger": kafka_logger()}
        )
        try:
            producer.produce(self._topic, value, key, on_delivery=on_delivery)
            producer.flush(_DELIVERY_TIMEOUT_S + 1)
        except KafkaException as exception:
            outcomes.append(error_of(exception).name())
        outcome = outcomes[0] if outcomes else "no answer"
        if outcome:
            raise ServiceAwayError(
                f"the erasure could not be written to {self._topic} ({outcome}), so nothing was "
                "forgotten; `fraudstream topics create` makes the topic"
            )


#: Reads all erasures, when a repair needs them.
ErasureReader = Callable[[], ErasureList]
