"""What a run of the demo consists of: its world, its topics, its workers' settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import Final

from fraudstream.alert import OutputTopics
from fraudstream.errors import UsageError
from fraudstream.local.ready import HOST, find_free_port, is_listening
from fraudstream.pipeline import InputTopics
from fraudstream.training.simulate import DAY_MS, SimulationSpec, Transactions, simulate

INPUTS: Final = InputTopics("fraudstream.transactions", "fraudstream.labels")
OUTPUTS: Final = OutputTopics(
    "fraudstream.decisions", "fraudstream.alerts", "fraudstream.dead-letters"
)
TOPICS: Final = (
    INPUTS.transactions,
    INPUTS.labels,
    OUTPUTS.decisions,
    OUTPUTS.alerts,
    OUTPUTS.dead_letters,
)
PARTITIONS: Final = 6
GROUP_ID: Final = "fraudstream-demo"
#: A fraud is reported that long after its payment, in event time.
LABEL_DELAY_MS: Final = 7 * DAY_MS
#: How long Valkey stays away.
VALKEY_AWAY_S: Final = 5.0

#: Simulated days; the stream is cut at the wanted number of payments, after 33 to 36 of them: long
#: enough for the terminals' fraud rates, which know nothing for 7 days, to mean something.
_DAYS: Final = 40
#: A card pays twice a day: with one card for 70 payments some are left over to be cut off.
_PAYMENTS_PER_CARD: Final = 70
_METRICS_PORT_TRIES: Final = 50

#: Measured with models/default on worlds of 18,000 payments (seeds 2, 7 and 42): alerts on 0.8 to
#: 0.9 % of the payments, which catch 60-70 % of the frauds, and seven of ten alerts are right. At
#: the default 0.3 it is 0.7 % and 54-68 %. Of the fallback's alerts, three of four are right.
POLICY: Final[Mapping[str, str]] = {
    "FRAUDSTREAM_POLICY__NAME": "demo",
    "FRAUDSTREAM_POLICY__REVIEW_THRESHOLD": "0.1",
    "FRAUDSTREAM_POLICY__DECLINE_THRESHOLD": "0.9",
    "FRAUDSTREAM_POLICY__FALLBACK_REVIEW_THRESHOLD": "0.15",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What is asked for.

    Parameters
    ----------
    seconds
        How long payments are sent.
    rate_per_s
        How many a second.
    workers
        How many processes decide.
    seed
        Of the world, and of which worker is killed.
    has_faults
        Whether things are broken on the way.
    bundle
        The model.
    """

    bundle: Path
    seconds: int = 60
    rate_per_s: float = 300.0
    workers: int = 2
    seed: int = 42
    has_faults: bool = True

    @property
    def payments(self) -> int:
        """How many are sent."""
        return max(1, round(self.seconds * self.rate_per_s))

    def fault_times_s(self) -> tuple[float, float, float]:
        """Say when a worker is killed, Valkey is killed, and bad records are sent.

        Examples
        --------
        >>> DemoPlan(bundle=Path(), seconds=60).fault_times_s()
        (20.0, 30.0, 40.0)
        """
        return self.seconds / 3, self.seconds / 2, self.seconds * 2 / 3


def default_bundle() -> Path:
    """Find the bundle that is committed beside the package."""
    return Path(__file__).resolve().parents[2] / "models" / "default"


def require_bundle(bundle: Path) -> None:
    """Refuse a place without a bundle before anything is started.

    Raises
    ------
    UsageError
        There is none.
    """
    if not bundle.is_dir():
        raise UsageError(
            f"there is no model bundle at {bundle}: run the demo from a clone of the repository, "
            "or say where one is with --bundle"
        )


def make_world(plan: DemoPlan) -> Transactions:
    """Simulate as many payments as the plan asks for, over some 35 days.

    Examples
    --------
    >>> len(make_world(DemoPlan(bundle=Path(), seconds=2, rate_per_s=100)))
    200
    """
    cards = ceil(plan.payments / _PAYMENTS_PER_CARD)
    while True:
        world = simulate(
            SimulationSpec(cards=cards, terminals=2 * cards, days=_DAYS, seed=plan.seed)
        )
        if len(world) >= plan.payments:
            return _first(world, plan.payments)
        cards += ceil(cards / 4)  # few cards may all happen to pay seldom


def worker_environment(plan: DemoPlan, bootstrap_servers: str, valkey_url: str) -> dict[str, str]:
    """Give the workers their settings, and nothing of ours that the shell happens to hold."""
    environ = {n: v for n, v in os.environ.items() if not n.upper().startswith("FRAUDSTREAM_")}
    return environ | {
        "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
        "FRAUDSTREAM_KAFKA__GROUP_ID": GROUP_ID,
        "FRAUDSTREAM_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "FRAUDSTREAM_VALKEY__URL": valkey_url,
        "FRAUDSTREAM_MODEL__BUNDLE": str(plan.bundle.resolve()),
        "FRAUDSTREAM_METRICS__HOST": HOST,
        "FRAUDSTREAM_METRICS__PORT": str(_find_free_ports(plan.workers)),
        **POLICY,
    }


def _first(world: Transactions, count: int) -> Transactions:
    return Transactions(**{f.name: getattr(world, f.name)[:count] for f in fields(world)})


def _find_free_ports(count: int) -> int:
    """Find the first of several free ports in a row: worker n serves its metrics on port + n."""
    for _ in range(_METRICS_PORT_TRIES):
        first = find_free_port()
        if not any(is_listening(port) for port in range(first, first + count)):
            return first
    raise UsageError("there are no free ports in a row for the workers' metrics")
