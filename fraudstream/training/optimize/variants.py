"""All variants of one bundle: made, certified, written as bundles of their own.

    teacher ─┬─ prune ──────────────┐
             ├─ distil ─┬───────────┤
             │          └─ convert ─┤
             ├─ quantise ───────────┼─▶ made ─▶ latencies in turns ─▶ certificates ─▶ bundles
             └─ convert ────────────┘

A variant has the teacher's features, fallback model, reasons and calibration. The calibration may
stay because every variant aims at the teacher's own scores, and the certificate compares scores
after it: where they drift apart, it says how far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from fraudstream.bundle import Bundle, load_bundle, make_model
from fraudstream.bundle_folder import (
    FALLBACK,
    MANIFEST,
    MANIFEST_HASH,
    MODEL,
    BundleFolder,
    open_folder,
)
from fraudstream.bundle_writing import BundleDraft, write_bundle
from fraudstream.errors import BundleError, UsageError
from fraudstream.manifest import Variant
from fraudstream.score import Model
from fraudstream.training.boosting import Examples
from fraudstream.training.certify import (
    Certified,
    Evaluation,
    certify,
    greatest_difference,
    measure_latencies,
    rows_on_splits,
)
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.optimize import distil, prune
from fraudstream.training.optimize.card import variant_card
from fraudstream.training.optimize.comparison import Comparison, compare
from fraudstream.training.optimize.days import Days
from fraudstream.training.optimize.forest import Forest
from fraudstream.training.optimize.loss import Allowance
from fraudstream.training.optimize.onnx_graph import to_onnx
from fraudstream.training.optimize.quantise import COVER_BITS, LEAF_STEP, THRESHOLDS_MAX, quantise
from fraudstream.training.train import with_forgotten_windows

Kind = Literal["pruned", "distilled", "quantised", "onnx", "distilled-onnx"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
#: How far a converted model's scores may be from the trees that it was converted from.
CONVERTED_DIFFERENCE_MAX: Final = 1e-6
#: More rows tell no more about what a ranking loses, and each is scored some hundred times.
_CHOSEN_ON_ROWS: Final = 40_000
#: What a manifest says of its own writing, which `write_bundle` finds out by itself.
_OF_WRITING: Final = frozenset(
    {"layout", "files", "engine", "engine_version", "xgboost_version", "platform"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A bundle that variants are made of, with its files as they are."""

    bundle: Bundle
    ubj: bytes
    fallback_ubj: bytes
    forest: Forest
    bundle_bytes: int

    @classmethod
    def load(cls, location: str) -> Teacher:
        """Load a bundle.

        Raises
        ------
        BundleError
            It is refused.
        UsageError
            It is itself a variant.
        """
        bundle = load_bundle(location)
        if bundle.manifest.variant is not None:
            raise UsageError(
                f"{location} is a variant itself ({bundle.manifest.variant.kind}): give the model "
                "that it was made from"
            )
        folder = open_folder(location)
        ubj, fallback_ubj = folder.read(MODEL), folder.read(FALLBACK)
        size = _bundle_bytes(folder, bundle)
        return cls(bundle, ubj, fallback_ubj, Forest.read(ubj), size)

    @property
    def raw_model(self) -> Model:
        """The model without its calibration."""
        return Model(self.ubj, self.forest.columns)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A variant's model before it is certified, and how it was made, for its manifest."""

    kind: Kind
    forest: Forest
    parameters: dict[str, int | float | str]
    onnx: bytes | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed and wanted.

    Parameters
    ----------
    loss_max
        How much average precision a variant may lose.
    seed
        Of the rows that are drawn.
    """

    loss_max: float = 0.005
    seed: int = 1


class Workshop:
    """Makes variants of one teacher.

    Parameters
    ----------
    teacher
        What they are made of.
    days
        What they learn from and are judged on.
    limits
        What is allowed.
    on_step
        Told after every step; `steps` says how many there are.
    """

    def __init__(
        self, teacher: Teacher, days: Days, limits: Limits, on_step: Callable[[], None]
    ) -> None:
        self.teacher, self.days, self.limits = teacher, days, limits
        self._on_step = on_step
        chosen_on = _drawn(days.chosen_on, _CHOSEN_ON_ROWS, limits.seed)
        probability = teacher.bundle.model.score(chosen_on.vectors)
        self._allowance = Allowance(chosen_on.vectors, probability, limits.loss_max)

    def make(self, kind: Kind) -> Made:
        """Make one variant.

        Raises
        ------
        BundleError
            The converted model does not score as the trees do.
        """
        made: Made = {
            "pruned": self._prune,
            "distilled": self._distil,
            "quantised": self._quantise,
            "onnx": lambda: self._convert("onnx", self.teacher.forest, self.teacher.ubj),
            "distilled-onnx": self._distil_and_convert,
        }[kind]()
        self._on_step()
        return made

    def _prune(self) -> Made:
        forest = prune.prune(self.teacher.forest, self._allowance, self._on_step)
        return Made("pruned", forest, self._size(forest) | self._chosen(forest))

    def _distil(self) -> Made:
        return self._distilled

    def _distil_and_convert(self) -> Made:
        student = self._distilled
        converted = self._convert("distilled-onnx", student.forest, student.forest.write())
        return replace(converted, parameters=student.parameters)

    @cached_property
    def _distilled(self) -> Made:
        """The student, which two variants are made of."""
        teacher, training = self.teacher, self.teacher.bundle.manifest.training
        rows = self.days.learnt
        shown = with_forgotten_windows(
            Examples(rows.vectors, rows.is_fraud),
            teacher.bundle.features,
            training.forgotten_share,
            self.limits.seed,
        )
        examples = Examples(shown.vectors, teacher.raw_model.score(shown.vectors))
        student = distil.distil(examples, teacher.forest.columns, self._allowance, self._on_step)
        return Made(
            "distilled",
            student.forest,
            self._size(student.forest)
            | self._chosen(student.forest)
            | {"max_depth": student.depth, "rows": len(examples.vectors)},
        )

    def _quantise(self) -> Made:
        forest = quantise(self.teacher.forest)
        coarse: dict[str, int | float | str] = {
            "thresholds_max": THRESHOLDS_MAX,
            "leaf_step": LEAF_STEP,
            "cover_bits": COVER_BITS,
        }
        return Made("quantised", forest, self._size(forest) | coarse)

    def _convert(self, kind: Kind, forest: Forest, ubj: bytes) -> Made:
        onnx = to_onnx(forest)
        difference = self._conversion_difference(onnx, ubj)
        if not difference <= CONVERTED_DIFFERENCE_MAX:
            raise BundleError(
                f"the model converted to ONNX differs from its trees by {difference:.1e} where at "
                f"most {CONVERTED_DIFFERENCE_MAX:.0e} is allowed: it is not written; leave {kind} "
                "out"
            )
        return Made(kind, forest, self._size(forest), onnx)

    def _conversion_difference(self, onnx: bytes, ubj: bytes) -> float:
        from fraudstream.converted import OnnxModel  # ONNX Runtime is an extra

        forest, judged = Forest.read(ubj), self.days.judged.vectors
        try:
            converted = OnnxModel(onnx, ubj, forest.columns)
        except BundleError as error:
            raise BundleError(
                f"the model converted to ONNX {error}: it is not written; leave onnx out"
            ) from error
        trees = Model(ubj, forest.columns)
        on_splits = rows_on_splits([forest], judged, self.limits.seed)
        return max(
            greatest_difference(trees.score(vectors), converted.score(vectors))
            for vectors in (judged, on_splits)
        )

    def _size(self, forest: Forest) -> dict[str, int | float | str]:
        whole = self.teacher.forest
        return {
            "trees": len(forest.trees),
            "trees_before": len(whole.trees),
            "nodes": forest.nodes,
            "nodes_before": whole.nodes,
        }

    def _chosen(self, forest: Forest) -> dict[str, int | float | str]:
        return {
            "loss_max": self.limits.loss_max,
            "loss_expected": round(self._allowance.loss(forest), 6),
        }


def write_variants(
    workshop: Workshop, made: Sequence[Made], out: Path, thresholds: tuple[float, ...]
) -> list[Bundle]:
    """Certify variants and write them beside each other, as ``<teacher's name>-<kind>``.

    All are timed in turns with the teacher, so their latencies can be compared.

    Parameters
    ----------
    workshop
        Where they were made.
    made
        The variants.
    out
        The folder of their folders.
    thresholds
        The policy's, on the score.

    Raises
    ------
    BundleError
        A place holds something that is no bundle, or cannot be written.
    """
    teacher, days = workshop.teacher, workshop.days
    before = Certified(teacher.bundle.model, teacher.forest, len(teacher.ubj))
    drafts = [_draft(teacher, each) for each in made]
    after = [as_served(teacher, each) for each in made]
    latencies = measure_latencies(
        [before.model, *(certified.model for certified in after)], days.judged.vectors
    )
    evaluation = Evaluation(days.judged, days.judged_ms, days.is_of_training, thresholds)
    written = []
    for draft, certified, latency_us in zip(drafts, after, latencies[1:], strict=True):
        certificate = certify(before, certified, evaluation, (latencies[0], latency_us))
        whole = replace(draft, certificate=certificate, card=variant_card(draft.about, certificate))
        written.append(write_bundle(out / str(draft.about["name"]), whole))
    return written


def compare_written(
    teacher: Teacher, written: Sequence[Bundle], out: Path, loss_max: float
) -> Comparison:
    """Put what `write_variants` wrote beside the teacher.

    Parameters
    ----------
    teacher
        The model itself.
    written, out
        The variants, and the folder of their folders.
    loss_max
        How much average precision a variant may lose.
    """
    variants = []
    for bundle in written:
        assert bundle.certificate is not None
        size = _bundle_bytes(open_folder(out / bundle.name), bundle)
        variants.append((bundle.name, size, bundle.certificate))
    return compare((teacher.bundle.name, teacher.bundle_bytes), variants, loss_max)


def steps_of(kinds: Sequence[Kind]) -> int:
    """Say how often a workshop tells that it goes on."""
    inner = prune.STEPS * ("pruned" in kinds)
    inner += distil.STEPS * any(kind.startswith("distilled") for kind in kinds)
    return len(kinds) + inner


def name_of(teacher: Teacher, kind: Kind) -> str:
    """Name a variant."""
    return f"{teacher.bundle.name}-{kind}"


def _bundle_bytes(folder: BundleFolder, bundle: Bundle) -> int:
    """Add up the sizes of all files."""
    names = (*bundle.manifest.files, MANIFEST, MANIFEST_HASH)
    return sum(len(folder.read(name)) for name in names)


def as_served(teacher: Teacher, made: Made, *, is_raw: bool = False) -> Certified:
    """Load a variant as a worker would its bundle.

    Parameters
    ----------
    teacher, made
        What it is made of, and what was made.
    is_raw
        Without the teacher's calibration.
    """
    record = None if is_raw else teacher.bundle.manifest.calibration
    files = _draft(teacher, made).model_files()
    model = make_model(files, made.forest.columns, None if record is None else record.function())
    return Certified(model, made.forest, sum(map(len, files.values())))


def _draft(teacher: Teacher, made: Made) -> BundleDraft:
    """Lay out a variant's bundle, its card and certificate still missing."""
    bundle = teacher.bundle
    variant = Variant(kind=made.kind, of=bundle.sha256, parameters=made.parameters)
    about = bundle.manifest.model_dump(exclude=set(_OF_WRITING)) | {
        "name": name_of(teacher, made.kind),
        "variant": variant.model_dump(),
    }
    return BundleDraft(
        about,
        made.forest.write(),
        teacher.fallback_ubj,
        bundle.golden_vectors,
        card="",
        onnx=made.onnx,
        is_packed=True,
    )


def _drawn(rows: LabelledVectors, count: int, seed: int) -> LabelledVectors:
    """Draw some rows, all where there are no more; they keep their order."""
    if len(rows) <= count:
        return rows
    drawn = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return rows.take(np.sort(drawn))
