"""The one stack of all fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stage import FaultStack


@pytest.fixture(scope="session", name="faults")
def faults_fixture() -> Iterator[FaultStack]:
    """Start Kafka and Valkey behind proxies; every `stage.Stage` renews them."""
    with FaultStack() as started:
        yield started
