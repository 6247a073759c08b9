"""Fixtures of the fault tests that must be the same one for all of them."""

from __future__ import annotations

from fault_stack import faults_fixture  # noqa: F401 - for the tests
