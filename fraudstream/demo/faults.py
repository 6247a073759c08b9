"""What is broken on the way, on purpose: a worker, Valkey, and the records themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

from fraudstream.adapters.kafka import KafkaAccess, kafka_logger, producer_config
from fraudstream.demo.bad_records import bad_records
from fraudstream.demo.crew import Crew
from fraudstream.demo.live import Live, Recovery
from fraudstream.demo.plan import VALKEY_AWAY_S, DemoPlan
from fraudstream.local.stack import LocalStack

Kind = Literal["worker", "valkey", "bad records"]

#: Without decisions made without profiles for so long, Valkey's absence is over.
_QUIET_S: Final = 1.5
_FLUSH_TIMEOUT_S: Final = 10.0
#: What a fault leaves behind for a moment: payments that waited are worked off.
AFTERMATH_S: Final = 1.0


@dataclass(slots=True)
class Fault:
    """One of them; times are epoch seconds.

    Attributes
    ----------
    what
        In words, for the panel.
    records
        How many bad records were sent.
    back_at_s
        When Valkey answered again.
    ended_at_s
        When its effects were over; None until then.
    is_cut_off
        The stream ended before that could be seen.
    """

    kind: Kind
    what: str
    started_at_s: float
    recovery: Recovery | None = None
    records: int = 0
    answered_before: int = 0
    back_at_s: float | None = None
    ended_at_s: float | None = None
    is_cut_off: bool = False


class Faults:
    """Breaks things when it is time, or when asked to, and notes when they are whole again.

    Parameters
    ----------
    plan
        When.
    stack, crew, access
        What is broken.
    live
        By which effects are seen to be over.
    say
        Told in a sentence what happens.
    """

    def __init__(
        self,
        plan: DemoPlan,
        stack: LocalStack,
        crew: Crew,
        access: KafkaAccess,
        live: Live,
        say: Callable[[str], None],
    ) -> None:
        self.list: list[Fault] = []
        self._stack = stack
        self._crew = crew
        self._live = live
        self._say = say
        self._rng = np.random.default_rng(plan.seed)
        config: dict[str, Any] = producer_config(access) | {"logger": kafka_logger()}
        self._producer = Producer(config | {"on_delivery": self._on_delivery})
        #: Bad records that Kafka took.
        self.delivered = 0
        actions = (self.kill_worker, self.kill_valkey, self.send_bad_records)
        self._keys = dict(zip("kvb", actions, strict=True))
        times_s = plan.fault_times_s() if plan.has_faults else ()
        self._due = list(zip(times_s, actions, strict=False))

    @property
    def ongoing(self) -> list[Fault]:
        """Faults whose effects are not over."""
        return [fault for fault in self.list if fault.ended_at_s is None]

    @property
    def is_done(self) -> bool:
        """Whether everything planned has happened, and Valkey is back."""
        return not self._due and not self._is_valkey_away()

    def press(self, key: str) -> None:
        """Do what a key asks for; other keys do nothing."""
        action = self._keys.get(key.lower())
        if action is not None:
            action()

    def tick(self, elapsed_s: float) -> None:
        """Do what is due, and look at what is over.

        Parameters
        ----------
        elapsed_s
            Since the first payment.
        """
        self._producer.poll(0)
        while self._due and self._due[0][0] <= elapsed_s:
            self._due.pop(0)[1]()
        now_s = time.time()
        for fault in self.ongoing:
            if fault.kind == "worker":
                self._look_at_worker(fault)
            elif fault.kind == "valkey":
                self._look_at_valkey(fault, now_s)
            elif self._live.dead_letters() >= fault.answered_before + fault.records:
                fault.ended_at_s = now_s
                self._say(f"the {fault.records} bad records are dead letters now")

    def end(self) -> None:
        """Note that nothing more will come to show whether what was broken is whole again."""
        for fault in self.ongoing:
            fault.ended_at_s = time.time()
            fault.is_cut_off = True

    def revive(self) -> None:
        """Start Valkey if it is away."""
        for fault in self.list:
            if fault.kind == "valkey" and fault.back_at_s is None:
                self._start_valkey(fault)

    def kill_worker(self) -> None:
        """Kill a worker with SIGKILL; the supervisor starts another in its slot."""
        killed_at_s = time.time()
        killed = self._crew.kill_one(self._rng)
        if killed is None:
            self._say("no worker is alive to be killed")
            return
        slot, pid = killed
        recovery = self._live.expect_recovery(slot, killed_at_s)
        what = f"worker {slot} (process {pid}) killed with kill -9"
        self._begin(Fault("worker", what, killed_at_s, recovery=recovery))

    def kill_valkey(self) -> None:
        """Kill Valkey; it comes back without anything that it knew."""
        if self._is_valkey_away():
            self._say("Valkey is away already")
            return
        started_at_s = time.time()
        self._stack.kill_valkey()
        what = f"Valkey killed; it comes back empty in {VALKEY_AWAY_S:.0f} s"
        self._begin(Fault("valkey", what, started_at_s))

    def send_bad_records(self) -> None:
        """Send one bad record of each kind."""
        started_at_s = time.time()
        records = bad_records(int(started_at_s * 1_000))
        before = self._live.dead_letters()
        for record in records:
            self._producer.produce(record.topic, record.value, b"bad")
        self._producer.flush(_FLUSH_TIMEOUT_S)
        kinds = ", ".join(record.kind for record in records)
        fault = Fault("bad records", f"{len(records)} bad records sent", started_at_s)
        fault.records, fault.answered_before = len(records), before
        self._begin(fault, f"{fault.what}: {kinds}")

    def _begin(self, fault: Fault, sentence: str = "") -> None:
        self.list.append(fault)
        self._say(sentence or fault.what)

    def _is_valkey_away(self) -> bool:
        return any(fault.kind == "valkey" and fault.back_at_s is None for fault in self.list)

    def _look_at_worker(self, fault: Fault) -> None:
        recovery = fault.recovery
        if recovery is not None and recovery.seconds is not None:
            fault.ended_at_s = recovery.killed_at_s + recovery.seconds
            self._say(f"its partitions are decided again, {recovery.seconds:.1f} s after the kill")

    def _look_at_valkey(self, fault: Fault, now_s: float) -> None:
        if fault.back_at_s is None:
            if now_s >= fault.started_at_s + VALKEY_AWAY_S:
                self._start_valkey(fault)
            return
        last_s = max(self._live.last_degraded_at_s(), fault.back_at_s)
        if now_s - last_s > _QUIET_S:
            fault.ended_at_s = last_s
            self._say(
                "the profiles are rebuilt from Kafka: the last decision without them came "
                f"{last_s - fault.started_at_s:.1f} s after the kill"
            )

    def _start_valkey(self, fault: Fault) -> None:
        self._stack.start_valkey()
        fault.back_at_s = time.time()
        self._say("Valkey is back, empty")

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self.delivered += error is None
