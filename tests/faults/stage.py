"""Where a fault happens: a stack with proxies in it, and a run of workers under load on it.

    FaultStack   Kafka, Valkey, a proxy before each; shared by many faults
    Stage        one run on it: topics of its own, workers, load, watcher; ends in an `Outcome`

    load ──▶ Kafka ◀──proxy── workers ──proxy──▶ Valkey
               ▲
    watcher ───┘

Workers know the proxies' addresses alone; the test itself goes past them. Usage::

    with FaultStack() as faults, Stage(faults, folder, seed, Plan(slots=2, rate=300)) as stage:
        with stage.fault("kill"):
            at_ms = stage.crew.kill(0)
        stage.await_recovery(at_ms, timeout_s=30)   # noted in the outcome, too
        stage.settle()                              # load stopped, everything decided
        outcome = stage.finish()                    # workers stopped, history checked
    assert outcome.problems == []
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from checker import Verdict, check
from crew import Crew
from figures import Figures
from harness import PATIENCE_S, Deployment, Partition, wait_for
from history import RECOVERY_MS, FaultWindow, collect
from load import Load, Mixture
from profiles_whole import are_profiles_whole
from proxy import KafkaProxy, TcpProxy
from services import BROKER_PROPERTIES, Services, refuse
from watcher import Watcher

from fraudstream.errors import LocalStackError
from fraudstream.local.ready import HOST, find_free_port
from fraudstream.local.stack import LocalStack, local_stack

#: Settings of the workers that every fault starts from.
SETTINGS: Mapping[str, object] = MappingProxyType(
    {
        # A busy machine is no fault; where the deadline matters a fault sets it.
        "VALKEY__DEADLINE_MS": 2_000,
        # Many alerts, so that many events that are tried again have one.
        "POLICY__REVIEW_THRESHOLD": 0.05,
    }
)


class FaultStack:
    """Kafka and Valkey of our own, each behind a proxy.

    Parameters
    ----------
    broker_properties
        Besides those of the tests' broker.

    Attributes
    ----------
    stack
        The servers, to kill and pause.
    proxy, valkey_proxy
        What workers connect to.
    services
        The servers without the proxies.
    """

    stack: LocalStack
    proxy: KafkaProxy
    valkey_proxy: TcpProxy
    services: Services

    def __init__(self, broker_properties: Mapping[str, str] | None = None) -> None:
        self._properties = {**BROKER_PROPERTIES, **(broker_properties or {})}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with ExitStack() as exits:
            port = find_free_port()
            self.proxy = exits.enter_context(KafkaProxy((HOST, port)))
            # A broker tells its clients where it is: whoever comes by the proxy is sent back to it.
            listener = {
                "listeners": f"PROXIED://{HOST}:{port}",
                "advertised.listeners": f"PROXIED://{HOST}:{self.proxy.port}",
                "listener.security.protocol.map": "PROXIED:PLAINTEXT",
            }
            try:
                self.stack = exits.enter_context(
                    local_stack(kafka_properties=self._properties | listener)
                )
            except LocalStackError as error:
                refuse("services", str(error))
            valkey_port = int(self.stack.valkey_url.rpartition(":")[2].partition("/")[0])
            self.valkey_proxy = exits.enter_context(TcpProxy((HOST, valkey_port)))
            self.services = Services(
                self.stack.bootstrap_servers, self.stack.valkey_url, self.stack
            )
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._exits.close()

    def renew(self) -> None:
        """Undo what a fault left behind: servers live, proxies pass."""
        self.proxy.clear()
        self.valkey_proxy.clear()
        self.stack.revive()

    @property
    def worker_settings(self) -> dict[str, object]:
        """Where workers find Kafka and Valkey."""
        return {
            "KAFKA__BOOTSTRAP_SERVERS": f"{HOST}:{self.proxy.port}",
            "VALKEY__URL": f"redis://{HOST}:{self.valkey_proxy.port}/0",
        }


@dataclass(frozen=True)
class Plan:
    """What a run is made of.

    Attributes
    ----------
    slots
        How many workers.
    partitions
        Of each topic.
    rate
        Payments a second; 0 leaves it to the fault to publish.
    settings
        Of the workers, besides `SETTINGS` and `FaultStack.worker_settings`.
    mixture
        What the load is made of.
    arguments, variables
        Of ``fraudstream run``: words after it, and variables of its environment by their full names
        (``fault_worker.py`` has those for tests).
    exit_codes
        With which a worker may end that was not told to stop; one that was ends with 0.
    recovery_ms
        How long after a fault ``degraded`` is still allowed.
    """

    slots: int = 2
    partitions: int = 6
    rate: float = 300.0
    settings: Mapping[str, object] = field(default_factory=dict)
    mixture: Mixture = field(default_factory=Mixture)
    arguments: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    exit_codes: frozenset[int] = frozenset({-9})
    recovery_ms: int = RECOVERY_MS


@dataclass
class Outcome:
    """What a fault came to.

    Attributes
    ----------
    verdict
        The checker's.
    recoveries_s
        Of each `Stage.await_recovery`.
    exit_codes
        Of the workers at the end, by slot.
    seed
        Of the run.
    extra
        Figures of this fault alone, with their unit in the name.
    failures
        What must hold besides the checker and did not, in sentences.
    """

    verdict: Verdict
    recoveries_s: list[float]
    exit_codes: dict[int, int]
    seed: int
    extra: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def figures(self) -> Figures:
        """The checker's."""
        return self.verdict.figures

    @property
    def problems(self) -> list[str]:
        """Everything that must not be, in sentences; empty if all is well."""
        return [*self.failures, *self.verdict.problems]

    def require(self, condition: bool, otherwise: str) -> None:
        """Note a failure unless something holds."""
        if not condition:
            self.failures.append(otherwise)


@dataclass
class OpenWindow:
    """A fault that is going on, or has been; ``end_ms`` is 0 as long as it lasts."""

    name: str
    start_ms: int
    end_ms: int = 0


class Stage:
    """One run on a stack.

    Parameters
    ----------
    faults
        The stack; renewed before and after.
    folder
        For logs and journals; empty.
    seed
        Of the load.
    plan
        What the run is made of.
    """

    deployment: Deployment
    crew: Crew
    load: Load
    watcher: Watcher

    def __init__(
        self, faults: FaultStack, folder: Path, seed: int, plan: Plan | None = None
    ) -> None:
        self.faults = faults
        self.stack = faults.stack
        self.proxy = faults.proxy
        self.valkey_proxy = faults.valkey_proxy
        self.seed = seed
        self.plan = plan or Plan()
        self.recoveries_s: list[float] = []
        self.windows: list[FaultWindow] = []
        self._folder = folder
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        """Start everything; every partition has seen decisions then, if there is load."""
        self.faults.renew()
        plan, services = self.plan, self.faults.services
        settings = {**SETTINGS, **self.faults.worker_settings, **plan.settings}
        servers = services.bootstrap_servers
        with ExitStack() as exits:
            exits.callback(self.faults.renew)
            self.deployment = exits.enter_context(
                Deployment(services, self._folder, plan.partitions, settings)
            )
            self.deployment.create_topics()
            with self.deployment.valkey() as client:
                client.flushall()  # what earlier runs left
            self.watcher = exits.enter_context(Watcher(self.deployment, servers))
            crew = Crew(
                self.deployment,
                self._folder,
                range(plan.slots),
                arguments=plan.arguments,
                variables=plan.variables,
            )
            self.crew = exits.enter_context(crew)
            self.load = exits.enter_context(
                Load(self.deployment, servers, rate=plan.rate, seed=self.seed, mixture=plan.mixture)
            )
            if plan.rate:
                self._await_recovery(0, PATIENCE_S)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End whatever is left."""
        self._exits.close()

    @contextmanager
    def fault(self, name: str) -> Iterator[OpenWindow]:
        """Note from when to when the cause of trouble lasts."""
        window = OpenWindow(name, now_ms())
        try:
            yield window
        finally:
            window.end_ms = now_ms()
            self.windows.append(FaultWindow(name, window.start_ms, window.end_ms))

    def await_recovery(self, since_ms: int, timeout_s: float = PATIENCE_S) -> float:
        """Wait until every partition has decided a payment that was appended since.

        Returns
        -------
        recovery_s
            From ``since_ms`` to when the last of these decisions was seen.
        """
        recovery_s = self._await_recovery(since_ms, timeout_s)
        self.recoveries_s.append(recovery_s)
        return recovery_s

    def _await_recovery(self, since_ms: int, timeout_s: float) -> float:
        waiting: dict[Partition, int] = {}

        def is_recovered() -> bool:
            firsts = self.load.first_after(since_ms)
            if len(firsts) < self.plan.partitions:
                return False
            waiting.clear()
            for partition, first in firsts.items():
                if first is None or self.watcher.newest(partition) < first[0]:
                    waiting[partition] = -1 if first is None else first[0]
            return not waiting

        try:
            wait_for(is_recovered, "every partition to be decided again", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; missing: {waiting}") from error
        seen_at_ms = self.watcher.seen_at_ms()
        places = [(*p, first[0]) for p, first in self.load.first_after(since_ms).items() if first]
        times_ms = [seen_at_ms[place] for place in places if place in seen_at_ms]
        return (max(times_ms) - since_ms) / 1000

    def settle(self, timeout_s: float = 180.0, ends: Mapping[Partition, int] | None = None) -> None:
        """Stop the load; wait until everything is decided and in the profiles.

        Parameters
        ----------
        timeout_s
            For all of it.
        ends
            Up to where the group must come, for each partition; by default to the end of the log.
            An input that was written by transactions ends in control records, which are not read.
        """
        self.load.stop()
        wanted = dict(self.deployment.ends() if ends is None else ends)
        deadline_s = time.monotonic() + timeout_s
        try:
            self.deployment.await_done(timeout_s, wanted)
        except AssertionError as error:
            lines = [line for line in self.crew.log() if line.get("level") != "info"][-10:]
            raise AssertionError(f"{error}; {lines}") from error
        left_s = max(deadline_s - time.monotonic(), 10.0)
        url = self.faults.services.valkey_url
        what = "the profiles to be whole"
        wait_for(lambda: are_profiles_whole(self.deployment, url, wanted), what, left_s)

    def finish(self, **more: Any) -> Outcome:  # noqa: ANN401 - collect() knows their types
        """Stop the workers, and check what they left behind.

        Parameters
        ----------
        more
            For `history.collect`: ``earlier_inputs``, ``rewound``.
        """
        plan, codes = self.plan, self.crew.stop()
        self.watcher.stop()
        history = collect(
            self.deployment,
            self.faults.services,
            journals=self.crew.journals,
            faults=self.windows,
            seen_at_ms=self.watcher.seen_at_ms(),
            workers=plan.slots,
            recovery_ms=plan.recovery_ms,
            **more,
        )
        outcome = Outcome(check(history), self.recoveries_s, codes, self.seed)
        for ended in self.crew.exits:
            is_expected = ended.code == 0 if ended.was_asked else ended.code in plan.exit_codes
            how = "when told to stop" if ended.was_asked else "by itself"
            outcome.require(is_expected, f"worker {ended.slot} ended with {ended.code} {how}")
        return outcome


def now_ms() -> int:
    """Give the wall clock's time."""
    return time.time_ns() // 1_000_000
