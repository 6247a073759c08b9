"""How two model bundles differ, for whoever is about to replace one by the other.

What a new model would change is asked in this order: does it need other features, and other
profiles, which would have to be filled first; was it made otherwise, and is it better; do alerts
say something else; and how differently does it score vectors that both can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudstream.bundle import Bundle
from fraudstream.manifest import CalibrationRecord, Quality, SigmoidCalibration, Variant

#: Fields of a training record that lines of their own are about, or that are too long for one.
_TOLD_APART = {"train", "folds", "parameters"}


@dataclass(frozen=True, slots=True)
class Line:
    """Something that has a value in each bundle."""

    what: str
    a: str
    b: str

    @property
    def is_equal(self) -> bool:
        """Whether both are the same."""
        return self.a == self.b


@dataclass(frozen=True, slots=True)
class FeatureChanges:
    """How the second model's columns differ from the first's.

    Attributes
    ----------
    added, removed
        Names that only one has.
    redefined
        Names that mean something else.
    is_reordered
        Those that both have come in another order.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    redefined: tuple[str, ...]
    is_reordered: bool


@dataclass(frozen=True, slots=True)
class ScoreChanges:
    """How differently both score vectors.

    Attributes
    ----------
    rows
        How many of the two bundles' golden vectors both can read.
    difference_max
        The greatest difference of their scores.
    flips
        How many of the vectors get another outcome under the policy.
    """

    rows: int
    difference_max: float
    flips: int


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """What differs between two bundles.

    Attributes
    ----------
    lines
        What has a value in each; the quality also where it is equal.
    features
        Their columns.
    are_profiles_shared
        Profiles that one has filled serve the other.
    reasons
        Features of both whose alerts say something else.
    scores
        Null where neither reads the other's vectors.
    is_same
        They are the same bundle, byte for byte.
    """

    lines: tuple[Line, ...]
    features: FeatureChanges
    are_profiles_shared: bool
    reasons: tuple[str, ...]
    scores: ScoreChanges | None
    is_same: bool

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)


def diff_bundles(a: Bundle, b: Bundle, thresholds: Sequence[float]) -> BundleDiff:
    """Compare two bundles.

    Parameters
    ----------
    a, b
        The bundle in use, and the one that might replace it.
    thresholds
        The policy's, on the score.
    """
    lines = [
        line
        for line in (*_identity(a, b), *_training(a, b), *_quality(a, b), *_certified(a, b))
        if line.what.startswith("quality") or not line.is_equal
    ]
    # In any currency, for a deployment has one.
    digests = {bundle.feature_set.profile_definition("EUR").digest for bundle in (a, b)}
    return BundleDiff(
        tuple(lines),
        _feature_changes(a, b),
        len(digests) == 1,
        tuple(
            name for name in a.reasons if a.reasons[name] != b.reasons.get(name, a.reasons[name])
        ),
        _score_changes(a, b, thresholds),
        a.sha256 == b.sha256,
    )


def _identity(a: Bundle, b: Bundle) -> Iterator[Line]:
    yield from _lines("", *({"name": x.name, "version": x.version} for x in (a, b)))
    yield Line("sha256", a.sha256, b.sha256)
    for what in ("engine", "engine_version", "xgboost_version", "label_maturity"):
        yield Line(what, *(_word(getattr(x.manifest, what)) for x in (a, b)))
    yield Line("feature set", *(f"{x.feature_set.name} {x.feature_set.sha256}" for x in (a, b)))
    yield Line("fallback features", *(_word(x.manifest.fallback_features) for x in (a, b)))
    yield Line("variant", *(_variant(x.manifest.variant) for x in (a, b)))
    yield Line("calibration", *(_calibration(x.manifest.calibration) for x in (a, b)))


def _variant(variant: Variant | None) -> str:
    return "none" if variant is None else f"{variant.kind}, of {variant.of}"


def _calibration(record: CalibrationRecord | None) -> str:
    if isinstance(record, SigmoidCalibration):
        return f"sigmoid, slope {record.slope:g}, intercept {record.intercept:g}"
    return "none" if record is None else f"isotonic, {len(record.scores)} points"


def _training(a: Bundle, b: Bundle) -> Iterator[Line]:
    records = [x.manifest.training.model_dump() for x in (a, b)]
    yield from _lines("trained ", *(record["train"] for record in records))
    yield from _lines("parameter ", *(record["parameters"] for record in records))
    others = [{k: v for k, v in record.items() if k not in _TOLD_APART} for record in records]
    yield from _lines("training ", *others)


def _quality(a: Bundle, b: Bundle) -> Iterator[Line]:
    for what in ("quality", "fallback_quality"):
        yield from _lines(
            f"{what.replace('fallback_quality', 'quality of the fallback')}: ",
            *(_figures(getattr(x.manifest, what)) for x in (a, b)),
        )


def _certified(a: Bundle, b: Bundle) -> Iterator[Line]:
    """Tell variants from what they stand in for: their quality fields are the model's own."""
    yield from _lines("certified ", _certified_figures(a, b), _certified_figures(b, a))


def _certified_figures(bundle: Bundle, other: Bundle) -> dict[str, object]:
    """Give a variant's own figures, or those of the model that the other one was made from."""
    for source, end in ((bundle, ""), (other, "_before")):
        certificate, variant = source.certificate, source.manifest.variant
        if certificate is None or variant is None:
            continue
        if source is bundle or variant.of == bundle.sha256:
            return {
                name: getattr(certificate, name + end)
                for name in ("average_precision", "card_precision_100", "model_bytes")
            }
    return {}


def _figures(quality: Quality) -> dict[str, str]:
    return {name: f"{figure:.4f}" for name, figure in quality.model_dump().items()}


def _lines(start: str, a: Mapping[str, object], b: Mapping[str, object]) -> Iterator[Line]:
    for name in dict.fromkeys((*a, *b)):
        yield Line(start + name, _word(a.get(name)), _word(b.get(name)))


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def _feature_changes(a: Bundle, b: Bundle) -> FeatureChanges:
    old, new = ({f.name: f.definition() for f in x.features} for x in (a, b))
    kept = [name for name in old if name in new]
    return FeatureChanges(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        redefined=tuple(name for name in kept if old[name] != new[name]),
        is_reordered=kept != [name for name in new if name in old],
    )


def _score_changes(a: Bundle, b: Bundle, thresholds: Sequence[float]) -> ScoreChanges | None:
    parts = [(_scores_of(own, own), _scores_of(other, own)) for own, other in ((a, b), (b, a))]
    known = [(own, other) for own, other in parts if own is not None and other is not None]
    if not known:
        return None
    own, other = (np.concatenate(scores) for scores in zip(*known, strict=True))
    limits = np.array(thresholds, np.float32)
    flips = (own[:, None] >= limits) != (other[:, None] >= limits)
    return ScoreChanges(
        rows=len(own),
        difference_max=float(np.abs(own.astype(np.float64) - other).max()),
        flips=int(flips.any(axis=1).sum()),
    )


def _scores_of(bundle: Bundle, source: Bundle) -> NDArray[np.float32] | None:
    """Score another bundle's golden vectors; None where they lack one of this model's columns."""
    there = {feature.name: feature.definition() for feature in source.features}
    if any(there.get(f.name) != f.definition() for f in bundle.features):
        return None
    columns = [source.model.columns.index(feature.name) for feature in bundle.features]
    return bundle.model.score(np.ascontiguousarray(source.golden_vectors[:, columns]))
