"""Benchmarks: each module is a command; what was measured is told in ``docs/benchmarks.md``."""
