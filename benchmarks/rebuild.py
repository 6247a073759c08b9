"""How fast profiles come back from Kafka: ``python -m benchmarks.rebuild``.

A stream of simulated payments, with a label for each fraud after seven days, is written to a local
Kafka once. Then, some times over: Valkey is emptied and everything is read, validated, sorted and
merged by `fraudstream.rebuild`. Broker and Valkey share the machine. One line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path

import redis
from confluent_kafka import Producer

from fraudstream.adapters.kafka import KafkaAccess, producer_config
from fraudstream.app import build_rebuilder
from fraudstream.bundle import load_bundle
from fraudstream.local.stack import local_stack
from fraudstream.profile import DAY_MS
from fraudstream.rebuild import RebuildSummary
from fraudstream.replay.stream import ReplayEvent, stream_of_columns
from fraudstream.settings import Settings
from fraudstream.topics import TopicAdmin, plan_topics
from fraudstream.training.simulate import SimulationSpec, simulate

_BUNDLE = Path(__file__).parent.parent / "models" / "default"
_PARTITIONS = 6
_INPUTS = ["fraudstream.transactions", "fraudstream.labels"]


def main() -> None:
    """Measure, and print one line of JSON."""
    arguments = _arguments()
    world = simulate(SimulationSpec(cards=arguments.cards, terminals=2 * arguments.cards, days=90))
    with local_stack() as stack:
        access = KafkaAccess(stack.bootstrap_servers)
        plans = plan_topics(_INPUTS, [], partitions=_PARTITIONS, horizon_ms=0, is_unlimited=True)
        TopicAdmin(access).create(plans)
        _publish(access, stream_of_columns(world, 7 * DAY_MS))
        settings = Settings.model_validate(
            {
                "kafka": {"bootstrap_servers": stack.bootstrap_servers},
                "valkey": {"url": stack.valkey_url},
                "model": {"bundle": str(_BUNDLE)},
            }
        )
        rounds = [_round(settings) for _ in range(arguments.rounds)]
        with redis.Redis.from_url(stack.valkey_url) as client:
            keys, used_bytes = client.dbsize(), client.info("memory")["used_memory"]
    rates = [round(summary.events_per_s) for summary in rounds]
    shown = {
        "events": rounds[0].events,
        "labels": rounds[0].labels,
        "events_per_s_median": statistics.median(rates),
        "events_per_s": rates,
        "keys": keys,
        "valkey_mb": round(used_bytes / 1e6),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
    }
    print(json.dumps(shown))


def _round(settings: Settings) -> RebuildSummary:
    with redis.Redis.from_url(settings.valkey.url.get_secret_value()) as client:
        client.flushall()
    return build_rebuilder(settings, load_bundle(settings.model.bundle)).run()


def _publish(access: KafkaAccess, events: Iterable[ReplayEvent]) -> None:
    settings = {"linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    producer = Producer(producer_config(access) | settings)
    for number, event in enumerate(events):
        topic = _INPUTS[1] if event.is_label else _INPUTS[0]
        while True:
            try:
                producer.produce(topic, event.value, event.key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1_000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=5_000, help="each pays some 170 times")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
