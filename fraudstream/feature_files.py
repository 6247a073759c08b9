"""Feature sets on disk: the one that comes with the package, and those of a deployment."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from fraudstream.errors import FeatureSetError
from fraudstream.feature_set import FeatureSet, parse_feature_set


def load_feature_set(file: Path) -> FeatureSet:
    """Read a feature set.

    Raises
    ------
    FeatureSetError
        It cannot be read, or is wrong; says where, and what to write instead.
    """
    try:
        document = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FeatureSetError(f"feature set {file}: cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise FeatureSetError(f"feature set {file}: this is not YAML{where}") from None
    try:
        return parse_feature_set(document)
    except FeatureSetError as error:
        raise FeatureSetError(f"feature set {file}: {error}") from None


@cache
def default_feature_set() -> FeatureSet:
    """Give the feature set that comes with the package, ``configs/features/default.yaml``."""
    text = files("fraudstream.feature_sets").joinpath("default.yaml").read_text("utf-8")
    return parse_feature_set(yaml.safe_load(text))


def chosen_feature_set(file: Path | None) -> FeatureSet:
    """Read a feature set, or give the one that comes with the package where none was chosen."""
    return default_feature_set() if file is None else load_feature_set(file)
