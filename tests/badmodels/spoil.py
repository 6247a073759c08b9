"""Ways to damage a bundle, and to see how it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fraudstream.bundle import load_bundle
from fraudstream.errors import BundleError, ExitCode

#: Changes the manifest's fields, and makes all hashes right.
Reseal = Callable[..., None]


def refusal(folder: Path) -> str:
    """Load the bundle, which must fail, and return the sentence without the bundle's path."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    sentence = str(caught.value)
    start = f"model bundle {folder}: "
    assert sentence.startswith(start)
    assert "\n" not in sentence
    assert caught.value.exit_code is ExitCode.BUNDLE
    return sentence.removeprefix(start)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x01
    file.write_bytes(content)


def golden_scores(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    change(golden)
    (folder / "golden.json").write_text(json.dumps(golden))
