"""A good bundle to spoil, and a way to make its hashes right again afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fraudstream.bundle import hash_line

DEFAULT = Path(__file__).resolve().parents[2] / "models" / "default"

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the shipped bundle."""
    return Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))


@pytest.fixture
def reseal(folder: Path) -> Callable[[Change], None]:
    """Change the manifest's fields, and make all hashes right: damage that no hash shows."""

    def apply(change: Change = lambda _: None) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in manifest["files"]:
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        change(manifest)
        content = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sha256").write_bytes(hash_line(content))

    return apply
