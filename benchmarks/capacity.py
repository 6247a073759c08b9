"""What one core carries, and what a deployment would need: ``python -m benchmarks.capacity``.

One worker decides the payments of `benchmarks.contest` on a broker and a Valkey of its own. What
each of the three used of the processor, what a payment occupies in Valkey, and what it and its
decision take on Kafka's disk, are measured. Sizes and costs at higher rates are arithmetic on these
(`Sizing`), with the prices and habits of ``configs/prices.yaml``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import redis
import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from benchmarks.capacity_page import page
from benchmarks.contestants.field import clear, fill, new_run
from benchmarks.contestants.measuring import Clocking, Measured, measure, warm
from benchmarks.contestants.programs import BUILD, Fraudstream, Run
from benchmarks.job.model import make_bundle
from benchmarks.job.stream import DAY_MS, StreamPlan
from benchmarks.machine import describe_run
from benchmarks.open_loop import PARTITIONS
from benchmarks.readable import counting
from benchmarks.subjects import benchmark_stack
from fraudstream.local.stack import LocalStack

RATES_PER_S = (1_000, 10_000, 100_000, 1_000_000)
_PRICES = Path(__file__).parent.parent / "configs" / "prices.yaml"
_WINDOW_DAYS = 30
_HOURS_PER_MONTH = 730
_SECONDS_PER_DAY = 86_400
#: Of a node's memory that profiles may fill: a copy for a new replica needs the other half.
_MEMORY_USE_MAX = 0.5
_TOPIC = "capacity"

_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class Prices(BaseModel):
    """The content of ``configs/prices.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str
    core_hour: _Positive
    memory_gb_hour: _Positive
    disk_gb_month: _Positive
    carried_gb: _Positive
    core_use_max: Annotated[float, Field(gt=0, le=1)]
    kafka_copies: _Count
    kafka_retention_days: _Positive
    valkey_copies: _Count
    valkey_node_gb: _Positive


@dataclass(frozen=True, slots=True)
class Costs:
    """What a payment costs in parts, as measured.

    Attributes
    ----------
    events_per_s
        Of the one worker, beside its broker and Valkey.
    worker_us, broker_us, valkey_us
        Processor time an event.
    valkey_bytes
        In Valkey for as long as a window reaches back, keys and all.
    kafka_bytes
        On the broker's disk: the payment, compressed as our load generator sends it, and its
        decision, as a worker does.
    """

    events_per_s: float
    worker_us: float
    broker_us: float
    valkey_us: float
    valkey_bytes: float
    kafka_bytes: float


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a rate would need, and what a million decisions would cost: computed.

    Attributes
    ----------
    workers
        Processes, a core each.
    partitions
        Of the transactions topic: two for each worker, so that those of a lost one spread.
    valkey_nodes
        Primaries: by processor time or by memory, whichever asks for more.
    valkey_gb
        Of profiles, one copy.
    broker_cores
        Of all brokers, copies not counted.
    kafka_gb
        On all disks, copies counted.
    cost_per_million
        By what is paid: cores, memory, disk and carrying.
    """

    rate_per_s: int
    workers: int
    partitions: int
    valkey_nodes: int
    valkey_gb: float
    broker_cores: float
    kafka_gb: float
    cost_per_million: dict[str, float]


def main() -> None:
    """Measure, compute, and write the page."""
    arguments = _arguments()
    prices = Prices.model_validate(yaml.safe_load(arguments.prices.read_text("utf-8")))
    bundle = make_bundle(BUILD)
    head = describe_run("benchmarks.capacity")
    Console(stderr=True).print(f"one worker, {arguments.seconds:g} s after the warm-up")
    with benchmark_stack() as stack:
        warm(stack, bundle)
        costs = measure_costs(stack, bundle, arguments)
    sizings = [size(costs, prices, rate) for rate in RATES_PER_S]
    results = {
        **head,
        "measured": asdict(costs),
        "prices": prices.model_dump(),
        "computed": [asdict(sizing) for sizing in sizings],
    }
    arguments.out.write_text(json.dumps(results, indent=1), "utf-8")
    text = page(results)
    if arguments.page is None:
        print(text)
    else:
        arguments.page.write_text(text, "utf-8")


def measure_costs(stack: LocalStack, bundle: Path, arguments: argparse.Namespace) -> Costs:
    """Let one worker decide until its windows are full and the seconds are over."""
    plan = StreamPlan(arguments.events)
    fill(stack, _TOPIC, plan)
    run = new_run(stack, f"{_TOPIC}.run", _TOPIC, bundle)
    clocking = Clocking(arguments.warm_up_seconds, arguments.seconds, plan.events)
    window_records = _WINDOW_DAYS * DAY_MS // plan.step_ms
    with closing(redis.Redis.from_url(stack.valkey_url, protocol=2)) as client:
        empty_bytes = client.info("memory")["used_memory"]
        measured = measure(Fraudstream(), run, clocking)
        full_bytes = client.info("memory")["used_memory"]
    decided = _records(run)
    if decided < window_records:
        sys.exit(f"only {decided} payments were decided, the windows hold {window_records}: longer")
    kafka_bytes = _disk_bytes(stack, run.input) / plan.events
    kafka_bytes += _disk_bytes(stack, run.output) / decided
    clear(run)
    return _costs(measured, (full_bytes - empty_bytes) / window_records, kafka_bytes)


def _costs(measured: Measured, valkey_bytes: float, kafka_bytes: float) -> Costs:
    cpu_us = measured.cpu_us
    parts_us = (cpu_us["own"], cpu_us["broker"], cpu_us["valkey"])
    return Costs(measured.events_per_s, *parts_us, valkey_bytes, kafka_bytes)


def size(costs: Costs, prices: Prices, rate_per_s: int) -> Sizing:
    """Compute what a rate would need.

    Examples
    --------
    >>> prices = Prices.model_validate(yaml.safe_load(_PRICES.read_text("utf-8")))
    >>> sizing = size(Costs(5_000, 80, 40, 20, 100, 500), prices, 10_000)
    >>> sizing.workers, sizing.partitions, round(sizing.valkey_gb)
    (2, 4, 2592)
    """
    per_core = rate_per_s / 1e6 / prices.core_use_max
    workers = math.ceil(per_core * costs.worker_us)
    valkey_gb = rate_per_s * _SECONDS_PER_DAY * _WINDOW_DAYS * costs.valkey_bytes / 1e9
    by_memory = valkey_gb / (prices.valkey_node_gb * _MEMORY_USE_MAX)
    kafka_gb_per_day = rate_per_s * _SECONDS_PER_DAY * costs.kafka_bytes / 1e9
    return Sizing(
        rate_per_s,
        workers,
        2 * workers,
        math.ceil(max(per_core * costs.valkey_us, by_memory)),
        valkey_gb,
        per_core * costs.broker_us,
        kafka_gb_per_day * prices.kafka_retention_days * prices.kafka_copies,
        _cost_per_million(costs, prices),
    )


def _cost_per_million(costs: Costs, prices: Prices) -> dict[str, float]:
    """Add up what a million decisions use: the same at any rate, as long as it is steady."""
    processor_us = costs.worker_us + prices.kafka_copies * costs.broker_us
    processor_us += prices.valkey_copies * costs.valkey_us
    core_hours = processor_us / prices.core_use_max / 3_600
    memory_gb = costs.valkey_bytes * prices.valkey_copies / _MEMORY_USE_MAX / 1e3
    kafka_gb = costs.kafka_bytes / 1e3
    stored_months = prices.kafka_retention_days * 24 / _HOURS_PER_MONTH
    return {
        "cores": core_hours * prices.core_hour,
        "memory": memory_gb * _WINDOW_DAYS * 24 * prices.memory_gb_hour,
        "disk": kafka_gb * prices.kafka_copies * stored_months * prices.disk_gb_month,
        # To the other brokers, and to and from a worker.
        "carrying": kafka_gb * prices.kafka_copies * prices.carried_gb,
    }


def _records(run: Run) -> int:
    """Count the decisions, by reading them: offsets count the markers of transactions, too."""
    with counting(run.stack.bootstrap_servers, run.output, PARTITIONS) as count:
        before = -1
        while count() > before:
            before = count()
            time.sleep(1.0)
        return count()


def _disk_bytes(stack: LocalStack, topic: str) -> int:
    """Add up a topic's segments on disk, without indexes, which are made in advance."""
    data = stack.state_dir / "kafka" / "data"
    return sum(f.stat().st_size for f in data.glob(f"{topic}-[0-9]*/*.log"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--warm-up-seconds", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--prices", type=Path, default=_PRICES)
    parser.add_argument("--page", type=Path, help="write it here, as docs/capacity.md")
    parser.add_argument("--out", type=Path, default=BUILD / "capacity.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
