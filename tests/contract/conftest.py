"""Fixtures of the contract tests that must be the same one for all of them."""

from __future__ import annotations

from cluster_place import (  # noqa: F401 - for the tests
    cluster_fixture,
    cluster_place_fixture,
    ends_fixture,
)
