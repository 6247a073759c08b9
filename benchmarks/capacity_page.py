"""The words of ``docs/capacity.md`` around the figures of `benchmarks.capacity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = """# Capacity

What a deployment needs. Written by `{command}`; do not edit: run it again, with your own
prices in [configs/prices.yaml](../configs/prices.yaml).

*Measured* was on one machine ({cores} cores, {processor}, {memory_gb} GB; load before: {load}):
one worker, one broker without replicas and without TLS, one Valkey, all on it. The job is the one
of the [benchmarks](benchmarks.md): two series, windows of 1, 7 and 30 days, twelve features, 200
trees. Everything under *computed* is arithmetic on it. **No deployment of these sizes was run**:
more than one broker, replication, TLS and a network cost more than is shown here, and hot keys do
not spread.

## Measured

| of one payment | |
| --- | --- |
| worker's processor time | {worker_us:.1f} µs |
| broker's processor time | {broker_us:.1f} µs |
| Valkey's processor time | {valkey_us:.1f} µs |
| memory in Valkey, for as long as the windows reach back | {valkey_bytes:.0f} B |
| disk in Kafka, the payment and its decision | {kafka_bytes:.0f} B |

One worker decided {events_per_s:,.0f} payments a second beside the other two. On a core of its own
it has the processor for {per_core:,.0f}; what it waits for, the broker and Valkey, comes on top.

## Computed: sizes

{percent:.0%} of each core is used; {valkey_node_gb:g} GB a Valkey node, half of it filled;
{retention:g} days of retention, {copies} copies on Kafka's disks.

| payments/s | workers | partitions | Valkey primaries | profiles | brokers' cores | Kafka's disks |
| --- | --- | --- | --- | --- | --- | --- |
"""

_COST = """
## Computed: cost of a million decisions

At a steady rate it is the same at any size, in {currency} with the prices of the file:

| | {currency} |
| --- | --- |
"""

_TAIL = """
A payment lies in Valkey for thirty days: shorter windows, or fewer series, save in proportion.
Profiles at the rate of the peak are a bound: reckon memory by the mean rate.

## Reading it

* **Workers** have a core each. Brokers' cores are those of one copy of the data.
* **Partitions** bound how many workers can share the load; they can be added, but a card then moves
  to another one, so begin with some to spare. The order of a card's payments is that of its
  partition.
* **Valkey**: a node runs functions on one core. `valkey.cluster: true` spreads entities over
  `profiles.buckets` (64): with more than some 30 primaries choose more buckets before the first
  payment.
* **Latency**: at half the processor it is what [benchmarks.md](benchmarks.md) shows at 50 % of the
  maximum. Nearer to it, batches grow, and with them the wait.
"""


def page(results: Mapping[str, Any]) -> str:
    """Write the page from what `benchmarks.capacity` found."""
    measured, prices, machine = results["measured"], results["prices"], results["machine"]
    text = _HEAD.format(
        **measured,
        command=results["command"],
        load=results["load_before"],
        cores=machine["cores"],
        processor=machine["processor"],
        memory_gb=machine["memory_gb"],
        per_core=1e6 / measured["worker_us"],
        percent=prices["core_use_max"],
        valkey_node_gb=prices["valkey_node_gb"],
        retention=prices["kafka_retention_days"],
        copies=prices["kafka_copies"],
    )
    text += "".join(_row(sizing) for sizing in results["computed"])
    costs = results["computed"][0]["cost_per_million"]
    text += _COST.format(currency=prices["currency"])
    text += "".join(f"| {name} | {cost:.3f} |\n" for name, cost in costs.items())
    return text + f"| **together** | **{sum(costs.values()):.3f}** |\n" + _TAIL


def _row(sizing: Mapping[str, Any]) -> str:
    cells = (
        f"{sizing['rate_per_s']:,}",
        f"{sizing['workers']:,}",
        f"{sizing['partitions']:,}",
        f"{sizing['valkey_nodes']:,}",
        _gigabytes(sizing["valkey_gb"]),
        f"{sizing['broker_cores']:,.1f}",
        _gigabytes(sizing["kafka_gb"]),
    )
    return f"| {' | '.join(cells)} |\n"


def _gigabytes(size: float) -> str:
    return f"{size:,.0f} GB" if size < 10_000 else f"{size / 1e3:,.0f} TB"
