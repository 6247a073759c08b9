"""Fixtures of all tests. ``services.py`` says where Kafka and Valkey come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Services, refuse, running_services

from fraudstream.local.stack import LocalStack

REPOSITORY = Path(__file__).resolve().parents[1]
#: Of all variables with our prefix these are for the tests themselves; the rest are settings.
TEST_VARIABLES = ("FRAUDSTREAM_REQUIRE", "FRAUDSTREAM_REFERENCE_DATA", "FRAUDSTREAM_TEST_")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the shell that runs the tests out of the tests."""
    for name in list(os.environ):
        if name.startswith("FRAUDSTREAM_") and not name.startswith(TEST_VARIABLES):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Give all tests the same Kafka and Valkey."""
    with running_services() as found:
        yield found


@pytest.fixture
def stack(services: Services) -> Iterator[LocalStack]:
    """Give tests the session's stack to kill servers of; what they leave dead is started again."""
    if services.stack is None:
        refuse("services", "servers that may be killed; these are not of the local stack")
    yield services.stack
    services.stack.revive()


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Find the folder with the reference transactions."""
    default = REPOSITORY.parent / "shared" / "data" / "handbook"
    folder = Path(os.environ.get("FRAUDSTREAM_REFERENCE_DATA", default))
    if not folder.is_dir():
        refuse("reference-data", f"no folder {folder}; FRAUDSTREAM_REFERENCE_DATA names another")
    return folder
