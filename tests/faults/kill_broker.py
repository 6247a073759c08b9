"""The broker killed with −9 right after a commit, and a look at whether the commit still stands.

    python tests/faults/kill_broker.py --times 40

A transaction that the broker said was committed has to become readable once the broker is back,
while others that were open stay open until they time out. None of our code takes part: what fails
here fails under every exactly-once program, and no checker of ours could tell it from a loss of
our own (docs/adr/0015).
"""

from __future__ import annotations

import argparse
import sys
import uuid
from pathlib import Path

if __name__ == "__main__":  # as a program there is no pytest to set up the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Producer

from fraudstream.adapters.kafka import KafkaAccess, producer_config
from fraudstream.errors import ServiceAwayError
from fraudstream.export.drain import TopicDrain
from fraudstream.local.ready import wait_until
from fraudstream.local.stack import LocalStack, local_stack
from fraudstream.topics import TopicAdmin, plan_topics

OPEN_TRANSACTIONS = 3
CALL_TIMEOUT_S = 15.0
#: A commit marker that is still to come is there within a second of the broker's return.
READABLE_TIMEOUT_S = 15.0


def main() -> None:
    """Kill the broker again and again, and say how often a commit was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=40)
    arguments = parser.parse_args()
    lost = 0
    with local_stack() as stack:
        for number in range(1, arguments.times + 1):
            lost += not is_commit_kept(stack)
            sys.stdout.write(f"{number} of {arguments.times}: {lost} commits lost\n")
            sys.stdout.flush()
    sys.exit(lost > 0)


def is_commit_kept(stack: LocalStack) -> bool:
    """Commit, kill the broker at once, start it again, and read."""
    access = KafkaAccess(stack.bootstrap_servers)
    topic = f"commit-{uuid.uuid4().hex[:8]}"
    others = f"{topic}-open"
    TopicAdmin(access).create(plan_topics([], [topic, others], partitions=1, horizon_ms=1))
    open_ones = [_write(access, others, f"{others}-{n}") for n in range(OPEN_TRANSACTIONS)]
    _write(access, topic, topic).commit_transaction(CALL_TIMEOUT_S)
    stack.kill_kafka()
    stack.start_kafka()
    try:
        return wait_until(lambda: _is_readable(access, topic), READABLE_TIMEOUT_S)
    finally:
        del open_ones


def _write(access: KafkaAccess, topic: str, transactional_id: str) -> Producer:
    producer = Producer(producer_config(access) | {"transactional.id": transactional_id})
    producer.init_transactions(CALL_TIMEOUT_S)
    producer.begin_transaction()
    producer.produce(topic, b"paid")
    producer.flush(CALL_TIMEOUT_S)
    return producer


def _is_readable(access: KafkaAccess, topic: str) -> bool:
    """Tell whether a `read_committed` reader gets past the record."""
    try:
        return TopicDrain(access, topic).offsets_total > 0
    except ServiceAwayError:
        return False  # it has only just come back


if __name__ == "__main__":
    main()
