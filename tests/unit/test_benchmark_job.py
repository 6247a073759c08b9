"""What the benchmarks make by themselves, from nothing, as in a fresh checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.job import model


def test_model_is_trained_from_nothing_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build folder that is there hides what only a fresh checkout needs."""
    bundle = model.make_bundle(tmp_path / "build")
    assert (bundle / "model.ubj").stat().st_size > 0

    monkeypatch.setattr("sys.executable", "/nowhere/python")  # it is not made again
    assert model.make_bundle(tmp_path / "build") == bundle
