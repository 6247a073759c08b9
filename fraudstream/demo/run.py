"""One run, from nothing to the summary: start, play, settle, stop, count."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from fraudstream.adapters.kafka import KafkaAccess
from fraudstream.bundle import load_bundle
from fraudstream.demo.count import body, count
from fraudstream.demo.crew import Crew
from fraudstream.demo.drain import drain
from fraudstream.demo.faults import Faults
from fraudstream.demo.keys import Keys, pressed_keys
from fraudstream.demo.live import Live, percentiles_ms
from fraudstream.demo.observer import Observer
from fraudstream.demo.plan import (
    INPUTS,
    LABEL_DELAY_MS,
    OUTPUTS,
    PARTITIONS,
    TOPICS,
    DemoPlan,
    make_world,
    worker_environment,
)
from fraudstream.demo.quiet import output_into
from fraudstream.demo.show import Screen, View, open_screen
from fraudstream.demo.summary import (
    Summary,
    calm_latency_ms,
    degraded_stretches_s,
    fault_figures,
    judge,
    reasons_of,
)
from fraudstream.local.stack import LocalStack, local_stack
from fraudstream.logs import configure_logs
from fraudstream.replay.replayer import Replayer, ReplaySummary, Surroundings
from fraudstream.replay.speed import Speed
from fraudstream.replay.stream import stream_of_columns
from fraudstream.topics import TopicAdmin, plan_topics
from fraudstream.training.simulate import Transactions

LOG_NAME: Final = "workers.log"
_TICK_S: Final = 0.05
#: How long everything that was sent may take to be answered once nothing more is sent.
_SETTLE_TIMEOUT_S: Final = 60.0

BeforeCount = Callable[[KafkaAccess], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's summary, and its last panel."""

    summary: Summary
    view: View


def make_folder() -> Path:
    """Make the folder of a run; what is in it is worth keeping only if something fails."""
    return Path(tempfile.mkdtemp(prefix="fraudstream-demo-"))


def run_demo(plan: DemoPlan, folder: Path, before_count: BeforeCount | None = None) -> Finished:
    """Run the demo.

    Parameters
    ----------
    plan
        What is asked for.
    folder
        The workers' log goes there.
    before_count
        Called with everything stopped but Kafka. Tests tamper with the topics here.

    Raises
    ------
    StopError
        It could not be run to its end. A count that does not come out is not raised: it is in the
        summary.
    """
    with ExitStack() as exits:
        output = exits.enter_context(output_into(folder / LOG_NAME))
        configure_logs("INFO", process="demo")
        keys = exits.enter_context(pressed_keys()) if output.isatty() else Keys()
        screen = exits.enter_context(open_screen(output))
        session = _start(plan, folder, screen, exits)
        session.hint(output)
        summary = session.play(keys, before_count)
        return Finished(summary, session.view)


def _start(plan: DemoPlan, folder: Path, screen: Screen, exits: ExitStack) -> _Session:
    """Start everything, the streams last; what was started ends with `exits`."""
    screen.progress("making the payments, and checking the model")
    model = load_bundle(plan.bundle)
    world = make_world(plan)
    stack = exits.enter_context(local_stack(progress=screen.progress))
    access = KafkaAccess(stack.bootstrap_servers)
    screen.progress("making the topics")
    plans = plan_topics(
        [INPUTS.transactions, INPUTS.labels],
        [OUTPUTS.decisions, OUTPUTS.alerts, OUTPUTS.dead_letters],
        partitions=PARTITIONS,
        horizon_ms=0,
        is_unlimited=True,
    )
    TopicAdmin(access).create(plans)
    screen.progress(f"starting {plan.workers} workers with the model {model.name}")
    environ = worker_environment(plan, stack.bootstrap_servers, stack.valkey_url)
    crew = Crew(plan.workers, environ, folder / LOG_NAME)
    exits.callback(crew.stop)
    crew.start()
    live = Live()
    observer = Observer(access, live)
    exits.callback(observer.stop)
    observer.start()
    return _Session(plan, world, screen, _Services(stack, crew, access, live))


@dataclass(frozen=True, slots=True)
class _Services:
    stack: LocalStack
    crew: Crew
    access: KafkaAccess
    live: Live


class _Session:
    """A run whose services are up."""

    def __init__(
        self, plan: DemoPlan, world: Transactions, screen: Screen, services: _Services
    ) -> None:
        self._plan = plan
        self._world = world
        self._screen = screen
        self._crew, self._live = services.crew, services.live
        self._access = services.access
        self._started_at_s = time.time()
        self._faults = Faults(
            plan, services.stack, services.crew, services.access, services.live, self._say
        )
        days = (world.event_time_ms[-1] - world.event_time_ms[0]) / 86_400_000
        self.view = View(
            title=f"fraudstream: {days:.0f} days of payments in {plan.seconds} s, "
            f"{plan.rate_per_s:g}/s, {plan.workers} workers, Kafka and Valkey",
            seconds=plan.seconds,
            figures=services.live.figures(self._started_at_s),
        )

    def hint(self, output: TextIO) -> None:
        """Say which keys do something, where there are keys."""
        if output.isatty():
            self.view.hint = "k kills a worker, v kills Valkey, b sends bad records, Ctrl-C ends"

    def play(self, keys: Keys, before_count: BeforeCount | None) -> Summary:
        """Send the stream, break things, wait for the answers, stop, and count."""
        stop = threading.Event()
        self._started_at_s = time.time()
        with ThreadPoolExecutor(1, "replay") as executor:
            replay = executor.submit(self._replay, stop)
            try:
                self._look_on(keys, replay)
            finally:
                stop.set()
        sent = replay.result()
        is_settled = self._settle(sent)
        self._crew.stop()
        if before_count is not None:
            before_count(self._access)
        self._phase("counting")
        summary = self._count(sent, is_settled=is_settled)
        self._phase("done")
        return summary

    def _replay(self, stop: threading.Event) -> ReplaySummary:
        # Without holding back: a rate that waits for those who read would hide their stalls.
        replayer = Replayer(
            self._access,
            INPUTS,
            run_id=f"demo-{self._plan.seed}",
            surroundings=Surroundings(stop=stop),
        )
        stream = stream_of_columns(self._world, LABEL_DELAY_MS)
        return replayer.run(stream, Speed(rate_per_s=self._plan.rate_per_s))

    def _look_on(self, keys: Keys, replay: Future[ReplaySummary]) -> None:
        """Show the stream, and do what is due, until all is sent and nothing is broken."""
        while not replay.done() or not self._faults.is_done:
            self._crew.require_alive()
            self._turn(keys)
            if replay.done() and replay.exception() is not None:
                return

    def _turn(self, keys: Keys | None) -> None:
        while keys is not None and not keys.empty():
            self._faults.press(keys.get())
        self._faults.tick(time.time() - self._started_at_s)
        self._refresh()
        self._screen.update(self.view)
        time.sleep(_TICK_S)

    def _settle(self, sent: ReplaySummary) -> bool:
        """Wait until everything is answered; False if that takes too long."""
        self._faults.revive()
        self._phase("waiting for the last answers")
        deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
        while self._live.answered() < sent.transactions + self._faults.delivered:
            self._crew.require_alive()
            if time.monotonic() > deadline_s:
                return False
            self._turn(None)
        self._turn(None)
        self._faults.end()
        return True

    def _count(self, sent: ReplaySummary, *, is_settled: bool) -> Summary:
        found = drain(self._access, TOPICS, PARTITIONS)
        transactions, labels = found[INPUTS.transactions], found[INPUTS.labels]
        decisions, letters = found[OUTPUTS.decisions], found[OUTPUTS.dead_letters]
        bodies = [body(record) for record in decisions]
        answers = self._live.answers()
        late = f"not everything was answered {_SETTLE_TIMEOUT_S:.0f} s after the last payment"
        return Summary(
            seconds=round(sent.seconds, 3),
            sent=sent.transactions + sent.labels - sent.undelivered + self._faults.delivered,
            found=len(transactions) + len(labels),
            counted=count(transactions, decisions, found[OUTPUTS.alerts], letters, labels),
            outcomes=dict(sorted(Counter(b["outcome"] for b in bodies).items())),
            dead_letters=reasons_of(letters),
            degraded=sum("degraded" in b["flags"] for b in bodies),
            degraded_s=degraded_stretches_s(answers, self._started_at_s),
            fraud=judge(decisions, self._world),
            faults=[fault_figures(fault, self._started_at_s) for fault in self._faults.list],
            latency_ms=percentiles_ms([answer.latency_ms for answer in answers]),
            latency_calm_ms=calm_latency_ms(answers, self._faults.list),
            missing=() if is_settled else (late,),
        )

    def _refresh(self) -> None:
        now_s = time.time()
        self.view.elapsed_s = now_s - self._started_at_s
        self.view.figures = self._live.figures(now_s)
        self.view.ongoing = [fault.what for fault in self._faults.ongoing]

    def _phase(self, phase: str) -> None:
        # The figures stay as they were when there still was something to measure.
        self.view.elapsed_s = time.time() - self._started_at_s
        self.view.phase = phase
        self._screen.turn_to(self.view)

    def _say(self, sentence: str) -> None:
        self._refresh()
        self.view.sentences.append((self.view.elapsed_s, sentence))
        self._screen.say(self.view, sentence)
