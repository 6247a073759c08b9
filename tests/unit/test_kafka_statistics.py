"""How far a partition can be read and was read, from the client's own report."""

from __future__ import annotations

import json

from fraudstream.adapters.kafka_statistics import PartitionEnd, read_statistics


def test_a_partition_of_which_nothing_was_fetched_yet_has_no_end() -> None:
    partitions = {
        "0": {"ls_offset": 15, "app_offset": 10},
        "1": {"ls_offset": -1001, "app_offset": -1001},
    }
    report = {"brokers": {"a": {"state": "UP"}}, "topics": {"t": {"partitions": partitions}}}
    found = read_statistics(json.dumps(report))
    assert found.is_connected
    assert found.ends == {("t", 0): PartitionEnd(stable=15, passed=10)}


def test_no_broker_is_up() -> None:
    assert not read_statistics(json.dumps({"brokers": {"a": {"state": "DOWN"}}})).is_connected
