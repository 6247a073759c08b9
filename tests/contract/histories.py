"""Random histories of a store, each answer of which is compared with a plain list's.

Hypothesis chooses what comes next: a payment, in order or late, the same again in several ways,
findings and looks at them, an erasure, a rebuild of a lost store, a new process. It shortens a
history that fails until nothing in it can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from feeds import CARD_TX, PAYMENTS, RICH, TERMINAL_LABEL, TERMINAL_TX, T, rows, run_of
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from oracle import NO_POSITION, Oracle
from places import Kept, Place

from fraudstream.adapters.profile_backend import BucketRequest, Entry, SeriesRun, pack_position
from fraudstream.profile import NO_ATTRIBUTE, id_hash

ENTITIES = st.integers(0, 1)
ACTS = st.sampled_from(["again", "copy", "conflict", "served", "older", "newer"])
NOT_KEPT = Kept(0, 0, (), [])


class Histories(RuleBasedStateMachine):
    """Whatever comes, in whatever order, the oracle must agree."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.place.open(RICH)
        self.oracle = Oracle(RICH)
        self.seen: list[Entry] = []
        self.waiting: list[Entry] = []
        self.offset = 0
        self.newest_ms = T

    @rule(
        entity=ENTITIES,
        step_ms=st.sampled_from([0, 1, 400, 500, 1_000, 2_100]),
        amount=st.integers(0, 9),
    )
    def new_payment(self, entity: int, step_ms: int, amount: int) -> None:
        self.newest_ms += step_ms
        self._pay(entity, self.newest_ms, amount)

    @rule(
        entity=ENTITIES,
        age_ms=st.sampled_from([1, 499, 500, 501, 999, 1_000, 1_500, 1_999, 2_000, 2_001, 3_000]),
        amount=st.integers(0, 9),
    )
    def late_payment(self, entity: int, age_ms: int, amount: int) -> None:
        self._pay(entity, self.newest_ms - age_ms, amount)

    @rule(entity=ENTITIES, age_ms=st.integers(0, 2_200), is_fraud=st.booleans())
    def new_label(self, entity: int, age_ms: int, is_fraud: bool) -> None:
        time_ms = self.newest_ms - age_ms
        self._queue(TERMINAL_LABEL, entity, time_ms, (int(is_fraud),), version_ms=T + 100)

    @rule(entity=ENTITIES, series=st.sampled_from([CARD_TX, TERMINAL_LABEL]))
    def look(self, entity: int, series: int) -> None:
        values = (0,) * len(RICH.series[series].measures)
        attributes = (NO_ATTRIBUTE,) * len(RICH.series[series].attributes)
        look = self._entry(series, entity, self.newest_ms, values)
        self.waiting.append(look._replace(is_recorded=False, attributes=attributes))

    @rule(pick=st.integers(0, 30), act=ACTS, is_fraud=st.booleans())
    def meet_again(self, pick: int, act: str, is_fraud: bool) -> None:
        if not self.seen:
            return
        known = self.seen[-1 - pick % len(self.seen)]
        is_label = known.series == TERMINAL_LABEL
        if act == "copy":
            known = known._replace(position=self._position())
        elif act == "served" and not is_label:
            known = known._replace(position=NO_POSITION)
        elif act == "conflict" and known.series == CARD_TX and is_fraud:
            known = known._replace(values=(77, 1), position=self._position())
        elif act == "conflict" and known.series == CARD_TX:
            attributes = (known.attributes[0], id_hash("another"))
            known = known._replace(attributes=attributes, position=self._position())
        elif act in {"older", "newer"} and is_label:
            version_ms = known.version_ms + (1 if act == "newer" else -1)
            known = known._replace(version_ms=version_ms, values=(int(is_fraud),))
        self.waiting.append(known)
        self.seen.append(known)

    @rule()
    def send(self) -> None:
        entries, self.waiting = self.waiting, []
        (reply,) = self.backend.apply([BucketRequest(0, {}, entries)])
        found: dict[int, list[list[int]]] = {n: rows(reply, n) for n in reply.rows}
        for one in entries:
            expected, row = self.oracle.expect(one), found[one.series].pop(0)
            assert expected.admits(row), f"{one}: {row} is not {expected}"

    @rule(
        series=st.sampled_from([CARD_TX, TERMINAL_TX, TERMINAL_LABEL]),
        entity=ENTITIES,
        age_ms=st.sampled_from([-1, 0, 1, 500, 1_500, 5_000]),
    )
    def forget(self, series: int, entity: int, age_ms: int) -> None:
        self.send()
        until_ms = self.newest_ms - age_ms
        known = self.oracle.of(series, f"e{entity}").records
        dropped = self.backend.forget(series, f"e{entity}", until_ms)
        assert dropped <= sum(record.time_ms <= until_ms for record in known)
        self.oracle.of(series, f"e{entity}").forget(until_ms)

    @rule(seed=st.integers(0, 1_000), is_lost=st.booleans())
    def rebuild(self, seed: int, is_lost: bool) -> None:
        """Merge the whole history, some of it twice, into what is there or into nothing."""
        self.send()
        if is_lost:
            self.place.wipe(self.backend)
            for (series, entity), known in self.oracle.series.items():
                if known.erased_to_ms > 0:
                    self.backend.forget(series, entity, int(known.erased_to_ms))
                known.rebuild()
        rng = np.random.default_rng(seed)
        runs = list(self._runs(rng))
        order = rng.permutation(len(runs)).tolist()
        self.backend.merge([runs[index] for index in [*order, *order[:2]]])

    @rule()
    def start_again(self) -> None:
        self.backend = self.place.reopen(self.backend)

    def teardown(self) -> None:
        """Compare what is kept and can be read with what the oracle has of the same time."""
        self.send()
        kept = self.place.kept(self.backend)
        for series, entity in self.oracle.series:
            found = kept.get((RICH.series[series].name, entity), NOT_KEPT)
            after_ms = found.trimmed_to_ms
            records = [record for record in found.records if record.time_ms > after_ms]
            expected = self.oracle.records(series, entity, after_ms)
            assert records == expected, f"series {series} of {entity}: {records} is not {expected}"

    def _runs(self, rng: np.random.Generator) -> Iterator[SeriesRun]:
        """Cut every series into a few runs; records of one time stay in one."""
        for series, entity in self.oracle.series:
            records = self.oracle.records(series, entity, -1)
            times_ms = sorted({record.time_ms for record in records})
            cuts = sorted(rng.choice(times_ms, size=min(2, len(times_ms)), replace=False).tolist())
            for first_ms, last_ms in pairwise([0, *cuts, 2**53]):
                part = [record for record in records if first_ms <= record.time_ms < last_ms]
                yield run_of(RICH, series, entity, part)

    def _pay(self, entity: int, time_ms: int, amount: int) -> None:
        """Pay 1 to 9, or of an amount and with a category code that nobody knows."""
        mcc = id_hash(f"m{amount % 3}") if amount else NO_ATTRIBUTE
        attributes = (id_hash(f"t{amount % 4}"), mcc)
        values = (amount, 1) if amount else (0, 0)
        self._queue(CARD_TX, entity, time_ms, values, attributes=attributes)
        self._queue(TERMINAL_TX, entity, time_ms, ())

    def _queue(
        self,
        series: int,
        entity: int,
        time_ms: int,
        values: tuple[int, ...],
        *,
        version_ms: int = 0,
        attributes: tuple[bytes, ...] = (),
    ) -> None:
        new = self._entry(series, entity, time_ms, values)
        new = new._replace(version_ms=version_ms, attributes=attributes)
        self.waiting.append(new)
        self.seen.append(new)

    def _entry(self, series: int, entity: int, time_ms: int, values: tuple[int, ...]) -> Entry:
        hashed, position = id_hash(f"x{self.offset}"), self._position()
        return Entry(series, f"e{entity}", True, time_ms, hashed, position, 0, values)

    def _position(self) -> bytes:
        self.offset += 1
        return pack_position(PAYMENTS, self.offset)


def run_histories(place: Place, *, examples: int = 300, is_shortened: bool = True) -> None:
    """Run so many random histories at a place; a wrong answer is an AssertionError."""
    phases = [Phase.generate, *([Phase.shrink] if is_shortened else [])]
    run_state_machine_as_test(
        type("PlacedHistories", (Histories,), {"place": place}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
        ),
    )
