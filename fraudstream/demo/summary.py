"""What a run showed, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fraudstream.demo.count import Count, body
from fraudstream.demo.faults import AFTERMATH_S, Fault
from fraudstream.demo.live import Answer, percentiles_ms
from fraudstream.demo.plan import OUTPUTS
from fraudstream.event import Record
from fraudstream.training.simulate import Transactions

#: Degraded decisions further apart than this belong to two stretches.
_STRETCH_GAP_S: Final = 2.0
_STRETCHES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class FraudFigures:
    """Decisions against the simulator's truth.

    Attributes
    ----------
    frauds, caught
        Payments that were fraud, and those of them that were not approved.
    false_alarms
        Genuine payments that were not approved.
    """

    payments: int
    frauds: int
    caught: int
    false_alarms: int


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """One fault; times are seconds since the first payment.

    Attributes
    ----------
    partitions
        How many the killed worker had.
    recovered_s
        Worker: from the kill to the first decision, in the slowest of its partitions, on a
        payment that came after the kill. Valkey: from the kill to the last decision without
        profiles. Bad records: until all were dead letters.
    away_s
        How long Valkey was away.

    ``recovered_s`` is None where the stream ended before that could be seen.
    """

    kind: str
    what: str
    at_s: float
    recovered_s: float | None
    partitions: int | None = None
    away_s: float | None = None
    records: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything a run showed.

    Attributes
    ----------
    sent
        Records that Kafka took: payments, labels and bad records.
    found
        Records that the count found in the input topics.
    latency_ms, latency_calm_ms
        p50 and p99, from Kafka's time stamp to the decision in the hands of a ``read_committed``
        reader: of all payments, and of those that came outside the faults.
    degraded_s
        From when to when decisions were made without profiles, seconds since the first payment.
    """

    seconds: float
    sent: int
    found: int
    counted: Count
    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    degraded: int
    degraded_s: Sequence[tuple[float, float]]
    fraud: FraudFigures
    faults: Sequence[FaultFigures]
    latency_ms: tuple[float, float] | None
    latency_calm_ms: tuple[float, float] | None
    missing: Sequence[str] = field(default_factory=tuple)

    @property
    def problems(self) -> list[str]:
        """What is wrong, a sentence each."""
        problems = list(self.counted.problems)
        if self.found != self.sent:
            problems.append(
                f"Kafka took {self.sent:,} records but {self.found:,} are in the input topics"
            )
        return problems + list(self.missing)

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return {"is_right": not self.problems, "problems": self.problems} | asdict(self)


def judge(decisions: Sequence[Record], world: Transactions) -> FraudFigures:
    """Hold the decisions against the simulator's truth; a payment decided twice counts once."""
    outcomes = {found["transaction_id"]: found["outcome"] for found in map(body, decisions)}
    alerted = {name for name, outcome in outcomes.items() if outcome != "APPROVE"}
    frauds = set(world.transaction_id[world.is_fraud].tolist())
    return FraudFigures(len(world), len(frauds), len(alerted & frauds), len(alerted - frauds))


def reasons_of(dead_letters: Sequence[Record]) -> dict[str, int]:
    """Count dead letters by reason."""
    reasons = Counter(
        (dict(record.headers).get("fs_reason") or b"").decode() for record in dead_letters
    )
    return dict(sorted(reasons.items()))


def calm_latency_ms(
    answers: Sequence[Answer], faults: Sequence[Fault]
) -> tuple[float, float] | None:
    """Give p50 and p99 of the payments that came while nothing was broken.

    A fault begins to matter when it is made and ends `AFTERMATH_S` after its effects are over.
    """
    spans = [(f.started_at_s, (f.ended_at_s or f.started_at_s) + AFTERMATH_S) for f in faults]
    # A payment that came just before may have been in the hands of what was then killed.
    calm = [
        answer.latency_ms
        for answer in answers
        if not any(start_s - AFTERMATH_S <= answer.asked_at_s <= end_s for start_s, end_s in spans)
    ]
    return percentiles_ms(calm)


def degraded_stretches_s(
    answers: Sequence[Answer], started_at_s: float
) -> list[tuple[float, float]]:
    """Find from when to when decisions were made without profiles.

    Examples
    --------
    >>> answers = [Answer(0, t, True) for t in (10.0, 10.5, 11.0, 20.0)]
    >>> degraded_stretches_s(answers, 5.0)
    [(5.0, 6.0), (15.0, 15.0)]
    """
    times_s = np.sort([a.arrived_at_s for a in answers if a.is_degraded]) - started_at_s
    if not len(times_s):
        return []
    breaks = np.flatnonzero(np.diff(times_s) > _STRETCH_GAP_S) + 1
    return [
        (round(float(part[0]), 3), round(float(part[-1]), 3)) for part in np.split(times_s, breaks)
    ]


def fault_figures(fault: Fault, started_at_s: float) -> FaultFigures:
    """Say how a fault went."""
    recovered_s: float | None = None
    if fault.is_cut_off:
        recovered_s = None
    elif fault.recovery is not None:
        recovered_s = fault.recovery.seconds
    elif fault.ended_at_s is not None:
        recovered_s = fault.ended_at_s - fault.started_at_s
    away_s = None if fault.back_at_s is None else fault.back_at_s - fault.started_at_s
    return FaultFigures(
        kind=fault.kind,
        what=fault.what,
        at_s=round(fault.started_at_s - started_at_s, 3),
        recovered_s=None if recovered_s is None else round(recovered_s, 3),
        partitions=len(fault.recovery.partitions) if fault.recovery else None,
        away_s=None if away_s is None else round(away_s, 3),
        records=fault.records or None,
    )


def draw_summary(summary: Summary) -> RenderableType:
    """Put it into a table of names and words."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in _rows(summary):
        table.add_row(name, Text(words))
    verdict = (
        Text("The count is wrong: " + "; ".join(summary.problems) + ".", style="bold red")
        if summary.problems
        else Text("Every event was answered exactly once.", style="bold green")
    )
    head = Text(
        "Counted by an independent read_committed reader of all topics from their beginning:"
    )
    return Group(head, Text(), table, Text(), verdict)


def _rows(summary: Summary) -> list[tuple[str, str]]:
    found, fraud = summary.counted, summary.fraud
    sign = "=" if found.events == found.decisions + found.dead_letters else "≠"
    outcomes = ", ".join(f"{number:,} {name}" for name, number in summary.outcomes.items())
    rows = [
        (
            "events in",
            f"{found.events:,} {sign} {found.decisions:,} decisions + "
            f"{found.dead_letters:,} dead letters",
        ),
        ("lost", f"{found.lost:,}"),
        ("doubled", f"{found.doubled + found.invented:,}"),
        ("outcomes", outcomes),
        ("alerts", _alert_words(found)),
    ]
    rows += [(_FAULT_NAMES[fault.kind], _fault_words(fault)) for fault in summary.faults]
    if summary.dead_letters:
        reasons = ", ".join(f"{n} {reason}" for reason, n in summary.dead_letters.items())
        rows.append(("dead letters", reasons))
    rows += [
        ("degraded", _degraded_words(summary)),
        (
            "frauds caught",
            f"{fraud.caught:,} of {fraud.frauds:,}, with {fraud.false_alarms:,} false alarms in "
            f"{fraud.payments:,} payments",
        ),
        ("latency", _latency_words(summary)),
    ]
    return rows


_FAULT_NAMES: Final[Mapping[str, str]] = {
    "worker": "worker killed",
    "valkey": "Valkey killed",
    "bad records": "bad records",
}


def _alert_words(found: Count) -> str:
    is_right = not (found.alerts_missing or found.alerts_doubled or found.alerts_unfounded)
    if is_right:
        return f"{found.alerts:,} in {OUTPUTS.alerts}, one for each decision that calls for one"
    return (
        f"{found.alerts:,}: {found.alerts_missing:,} missing, {found.alerts_doubled:,} doubled, "
        f"{found.alerts_unfounded:,} without a decision that calls for one"
    )


def _fault_words(fault: FaultFigures) -> str:
    at = f"at {fault.at_s:.1f} s"
    if fault.recovered_s is None:
        return f"{at}: {fault.what}; the stream ended before it was over"
    if fault.kind == "worker":
        return (
            f"{at}, recovered in {fault.recovered_s:.1f} s: until a payment that came after the "
            f"kill was decided in each of its {fault.partitions} partitions"
        )
    if fault.kind == "valkey":
        return (
            f"{at}, empty back after {fault.away_s or 0:.1f} s; profiles rebuilt, and the last "
            f"decision without them, {fault.recovered_s:.1f} s after the kill"
        )
    return f"{at}: {fault.records} sent, all dead letters after {fault.recovered_s:.1f} s"


def _degraded_words(summary: Summary) -> str:
    if not summary.degraded:
        return "0 decisions"
    longest = sorted(summary.degraded_s, key=lambda span: span[0] - span[1])[:_STRETCHES_MAX]
    spans = ", ".join(f"from {a:.1f} to {b:.1f} s" for a, b in sorted(longest))
    others = len(summary.degraded_s) - len(longest)
    more = f", and {others} shorter stretches" if others else ""
    return f"{summary.degraded:,} decisions without profiles, {spans}{more}"


def _latency_words(summary: Summary) -> str:
    words = []
    for name, found in (("", summary.latency_ms), ("outside the faults ", summary.latency_calm_ms)):
        if found is not None:
            words.append(f"{name}p50 {found[0]:,.0f} ms, p99 {found[1]:,.0f} ms")
    return "; ".join(words) + " (Kafka's time stamp → readable decision)"
