"""Feature sets for tests, said by the names of their features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fraudstream.feature_files import default_feature_set
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.features import Feature
from fraudstream.profile import ProfileDefinition

DEFAULT = default_feature_set()
DEFAULT_FEATURES = DEFAULT.features
DEFAULT_DEFINITION = DEFAULT.profile_definition("EUR")
FALLBACK_FEATURES = tuple(feature for feature in DEFAULT_FEATURES if feature.is_stateless)

_NAME = re.compile(r"(?P<base>[a-z_]+)_(?P<window>[0-9]+[mhd])(?:_lag(?P<lag>[0-9]+[mhd]))?")
#: The lines of the default set, by the names of their features without window and lag.
_LINES: dict[str, dict[str, Any]] = {
    "amount": DEFAULT.document["features"][0],
    "is_weekend": DEFAULT.document["features"][1],
    "is_night": DEFAULT.document["features"][2],
    "card_tx_count": DEFAULT.document["features"][3],
    "card_amount_mean": DEFAULT.document["features"][4],
    "terminal_tx_count": DEFAULT.document["features"][5],
    "terminal_fraud_rate": DEFAULT.document["features"][6],
}


def feature_set_of(*names: str) -> FeatureSet:
    """Make a feature set like the default one, with these features alone."""
    lines = []
    for name in names:
        found = _NAME.fullmatch(name)
        if found is None:
            lines.append(_LINES[name])
            continue
        windows = {"windows": [found["window"]], "lag": found["lag"] or "0d"}
        lines.append(_LINES[found["base"]] | windows)
    series = dict(DEFAULT.document["series"])
    if any("card_" in name and "lag" in name for name in names):
        series["card_label"] = {"entity": "card", "records": "labels"}
    return parse_feature_set({**DEFAULT.document, "series": series, "features": lines})


def definition_of(features: Sequence[Feature]) -> ProfileDefinition:
    """Say what must be kept for some features."""
    return feature_set_of(*(feature.name for feature in features)).profile_definition("EUR")


def feature_named(name: str) -> Feature:
    """Make one feature."""
    return feature_set_of(name).features[0]
