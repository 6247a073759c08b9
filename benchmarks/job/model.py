"""The model file that all contestants score with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_RECIPE_FILES = ("recipe.yaml", "features.yaml")


def make_bundle(folder: Path) -> Path:
    """Train the benchmark's model, unless it is there and newer than its recipe.

    The same recipe gives the same bundle, byte for byte.

    Returns
    -------
    bundle
        The folder; the model file in it is ``model.ubj``.
    """
    bundle, stream = folder / "bundle", folder / "stream.parquet"
    manifest = bundle / "manifest.json"
    recipes = [HERE / name for name in _RECIPE_FILES]
    if manifest.exists() and manifest.stat().st_mtime > max(r.stat().st_mtime for r in recipes):
        return bundle
    folder.mkdir(parents=True, exist_ok=True)
    size = ["--cards", "1000", "--terminals", "2000", "--days", "60", "--seed", "1"]
    _fraudstream(["simulate", *size, "--out", str(stream)])
    _fraudstream(
        ["train", str(stream), "--recipe", str(recipes[0]), "--out", str(bundle), "--replace"]
    )
    return bundle


def _fraudstream(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "fraudstream", *arguments], check=False)
    if done.returncode:
        sys.exit(f"fraudstream {arguments[0]} failed")
