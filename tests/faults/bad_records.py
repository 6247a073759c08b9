"""The hostile corpus for the fault tests: as records of today, and what their dead letters say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import hostile
import numpy as np
from harness import DAY_MS, Outgoing, Position, Row
from hostile import Hostile
from stage import Outcome, now_ms

from fraudstream.errors import Reason


class Bad(NamedTuple):
    """A bad record as it is published, and what its dead letter must say."""

    kind: str
    value: bytes | None
    reason: Reason
    field: str


def bad_records(seed: int) -> list[Bad]:
    """Give the corpus in random order, what is one of a kind first.

    Its times that are too late are so for a record of 2018; these here are for one of today.
    """
    corpus = [("transactions", case) for case in hostile.PAYMENTS]
    corpus += [("labels", case) for case in hostile.LABELS]
    kept = [(kind, case) for kind, case in corpus if case.reason is not Reason.TIME_IN_FUTURE]
    order = np.random.default_rng(seed).permutation(len(kept)).tolist()
    ahead_ms = (now_ms() + DAY_MS, 2**53, 2**63 - 1, 2**63)
    future = [
        Bad("transactions", hostile.payment(event_time=at), Reason.TIME_IN_FUTURE, "event_time")
        for at in ahead_ms
    ]
    rest = [_bad(*kept[n]) for n in order]
    firsts = {(bad.reason, bad.field): bad for bad in reversed(rest)}
    chosen = [*future, *(_bad("transactions", case) for case in _SPECIAL), *firsts.values()]
    return [*chosen, *(bad for bad in rest if bad not in chosen)]


def _bad(kind: str, case: Hostile) -> Bad:
    return Bad(kind, case.value, case.reason, case.field)


#: What every run has: 10 MB, no value, the schemas of others.
_SPECIAL = (
    *(case for case in hostile.PAYMENTS if case.name in {"10 MB of array", "null"}),
    *hostile.ENVELOPES,
)


def require_letters(
    outcome: Outcome, letters: Sequence[Row], expected: Mapping[Position, tuple[str, str]]
) -> None:
    """See that each bad record has one dead letter with its reason and field, and no other has."""
    found = Counter(row.source for row in letters)
    for source in expected:
        outcome.require(found[source] == 1, f"{source} has {found[source]} dead letters")
    outcome.require(not found.keys() - expected.keys(), "a good record has a dead letter")
    wrong = [
        f"{row.source}: {said}, not {expected[row.source]}"
        for row in letters
        if (said := (row.headers["fs_reason"], row.headers["fs_field"]))
        != expected.get(row.source, said)
    ]
    outcome.require(not wrong, f"{len(wrong)} dead letters say something else: {wrong[:3]}")


def outgoing(bad: Bad, number: int) -> Outgoing:
    return bad.kind, f"c{number % 97}".encode(), bad.value, ()
