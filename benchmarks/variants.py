"""What optimising a model brings, in time and in bytes: ``python -m benchmarks.variants``.

Makes the variants of a bundle as ``fraudstream model optimize`` does, and measures them, the model
itself and two peers in turns in one run: the same trees in treelite's general inference (GTIL), and
in the graph that onnxmltools makes. Ratios are of medians within a round; the machine is shared, so
they say more than microseconds do.

    variants       bytes, difference from the model's scores, decisions flipped, quality
    latency        1 to 1,024 rows a call: p50 and p99 over all rounds, ratio to the model itself
    explanations   exact and approximate contributions: time, and how often the reasons are alike

Without ``--data`` the payments are simulated, in the days of models/default's training and after.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxmltools  # type: ignore[import-untyped]
import onnxruntime  # type: ignore[import-untyped]
import treelite
import xgboost
from numpy.typing import NDArray
from onnxmltools.convert.common.data_types import (  # type: ignore[import-untyped]
    FloatTensorType,
)

from fraudstream.cli.reading import read_mapping
from fraudstream.decision import find_reasons
from fraudstream.profile import DAY_MS
from fraudstream.score import XGBOOST_VERSION, Model
from fraudstream.settings import PolicySettings
from fraudstream.training.certify import (
    CALL_ROWS,
    describe_machine,
    find_flips,
    greatest_difference,
    rows_on_splits,
    time_in_turns,
)
from fraudstream.training.dataset import Reading, open_labelled, read_labelled
from fraudstream.training.optimize.days import Days, divide
from fraudstream.training.optimize.variants import KINDS, Limits, Teacher, Workshop, as_served
from fraudstream.training.quality import measure
from fraudstream.training.simulate import SimulationSpec, simulate
from fraudstream.training.stream_file import write_stream

Vectors = NDArray[np.float32]
Score = Callable[[Vectors], NDArray[np.float32]]
_CALLS: Final = 200
_EXPLAINED_ROWS: Final = (1, 16, 128)
_EXPLAINED_CALLS: Final = 40
_EXPLAINED: Final = 2_000
_WORLD: Final = SimulationSpec(cards=600, terminals=1_200, days=110, seed=5)


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """Something that scores vectors before any calibration, and how many bytes it is made of."""

    name: str
    score: Score
    size: int


def treelite_peer(ubj: bytes) -> Entrant:
    """Give the trees to treelite's general tree inference, with one thread."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(ubj))
    model = treelite.frontend.from_xgboost(booster)

    def score(vectors: Vectors) -> NDArray[np.float32]:
        return np.asarray(treelite.gtil.predict(model, vectors, nthread=1)).reshape(-1)

    return Entrant("peer: treelite GTIL", score, len(model.serialize_bytes()))


def onnxmltools_peer(ubj: bytes) -> Entrant:
    """Convert with onnxmltools: a classifier's graph, with a label and two probabilities."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(ubj))
    width = booster.num_features()
    booster.feature_names = None  # it knows numbered features only
    converted = onnxmltools.convert_xgboost(
        booster, initial_types=[("vectors", FloatTensorType([None, width]))], target_opset=15
    ).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(converted, options, providers=["CPUExecutionProvider"])
    outputs = [session.get_outputs()[1].name]

    def score(vectors: Vectors) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(outputs, {"vectors": vectors})[0]
        return probabilities[:, 1]

    return Entrant("peer: onnxmltools' graph", score, len(converted))


def read_days(teacher: Teacher, data: Path, mapping: Path | None) -> Days:
    """Make vectors of labelled payments, and divide them."""
    bundle = teacher.bundle
    reading = Reading(
        bundle.feature_set,
        tuple(feature.name for feature in bundle.features),
        labels_after_ms=bundle.manifest.training.label_delay_days * DAY_MS,
        mapping=read_mapping(mapping),
    )
    rows = read_labelled(open_labelled(data, reading), data.name, reading)
    return divide(rows, bundle.manifest.training)


def compare_variants(
    teacher: Teacher, days: Days, thresholds: tuple[float, ...]
) -> tuple[list[Entrant], list[str]]:
    """Make everything that is compared, and a table of what it is."""
    workshop = Workshop(teacher, days, Limits(), lambda: None)
    own = teacher.raw_model
    entrants = [Entrant("the model itself", own.score, len(teacher.ubj))]
    lines = [
        "| | bytes | average precision | greatest difference | on splits | flips |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    on_splits = {"": rows_on_splits([teacher.forest], days.judged.vectors, seed=1)}
    for kind in KINDS:
        made = workshop.make(kind)
        served = as_served(teacher, made, is_raw=True)
        entrants.append(Entrant(kind, served.model.score, served.model_bytes))
        on_splits[kind] = rows_on_splits([teacher.forest, made.forest], days.judged.vectors, 1)
    entrants += [treelite_peer(teacher.ubj), onnxmltools_peer(teacher.ubj)]
    before = own.score(days.judged.vectors)
    for entrant in entrants:
        scores = entrant.score(days.judged.vectors)
        rows = on_splits.get(entrant.name, on_splits[""])
        lines.append(
            f"| {entrant.name} | {entrant.size:,} | "
            f"{measure(scores, days.judged).average_precision:.4f} | "
            f"{greatest_difference(before, scores):.2g} | "
            f"{greatest_difference(own.score(rows), entrant.score(rows)):.2g} | "
            f"{len(find_flips(before, scores, thresholds).rows)} |"
        )
    return entrants, lines


def measure_latency(entrants: Sequence[Entrant], vectors: Vectors, rounds: int) -> list[str]:
    """Measure all of them in turns, and make a table."""
    heads = [f"{rows:,} rows, µs (p99) | ratio" for rows in CALL_ROWS]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " --- |" * 2 * len(CALL_ROWS)]
    cells: dict[str, list[str]] = {entrant.name: [] for entrant in entrants}
    for rows in CALL_ROWS:
        # Shape (rounds, entrants, calls).
        taken_us = np.array(
            [
                time_in_turns([entrant.score for entrant in entrants], vectors, rows, _CALLS)
                for _ in range(rounds)
            ]
        )
        medians = np.median(taken_us, axis=2)
        ratios = medians / medians[:, :1]
        for number, entrant in enumerate(entrants):
            of_entrant = taken_us[:, number].ravel()
            p50, p99 = np.percentile(of_entrant, (50, 99))
            low, high = ratios[:, number].min(), ratios[:, number].max()
            cells[entrant.name].append(
                f"{p50:,.1f} ({p99:,.1f}) | {np.median(ratios[:, number]):.2f} "
                f"({low:.2f} to {high:.2f})"
            )
    return [*lines, *(f"| {name} | {' | '.join(found)} |" for name, found in cells.items())]


def measure_explanations(
    teacher: Teacher, days: Days, thresholds: tuple[float, ...], rounds: int
) -> list[str]:
    """Compare exact with approximate contributions of the model itself."""
    model, vectors = teacher.raw_model, days.judged.vectors
    lines = [
        "| rows a call | exact, µs a row | approximate, µs a row | ratio |",
        "| --- " * 4 + "|",
    ]

    def exact(rows: Vectors) -> object:
        return model.contributions(rows)

    def approximate(rows: Vectors) -> object:
        return model.contributions(rows, is_approximate=True)

    for rows in _EXPLAINED_ROWS:
        medians = np.array(
            [
                np.median(time_in_turns([exact, approximate], vectors, rows, _EXPLAINED_CALLS), 1)
                for _ in range(rounds)
            ]
        )
        slow, fast = np.median(medians, axis=0) / rows
        ratio = np.median(medians[:, 0] / medians[:, 1])
        lines.append(f"| {rows} | {slow:,.1f} | {fast:,.1f} | {ratio:.1f} |")
    scores = teacher.bundle.model.score(vectors)
    alerted = vectors[scores >= np.float32(thresholds[0])][:_EXPLAINED]
    drawn = vectors[np.random.default_rng(1).permutation(len(vectors))[:_EXPLAINED]]
    for what, chosen in (("payments that are alerted", alerted), ("any payments", drawn)):
        first, same = _agreement(teacher, model, chosen)
        lines.append(
            f"\nOf {len(chosen):,} {what}, {first:.1%} have the same first reason by both, and "
            f"{same:.1%} the same reasons in the same order."
        )
    return lines


def _agreement(teacher: Teacher, model: Model, vectors: Vectors) -> tuple[float, float]:
    """Give how often the first reason is the same, and how often all are."""
    bundle, found = teacher.bundle, []
    for is_approximate in (False, True):
        contributions = model.contributions(vectors, is_approximate=is_approximate)
        found.append(
            [
                [r.code for r in find_reasons(bundle.features, bundle.reasons, vector, parts)]
                for vector, parts in zip(vectors, contributions, strict=True)
            ]
        )
    pairs = list(zip(*found, strict=True))
    first = sum(exact[:1] == near[:1] for exact, near in pairs)
    return first / len(pairs), sum(exact == near for exact, near in pairs) / len(pairs)


def main() -> None:
    """Measure everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/default")
    parser.add_argument("--data", type=Path, help="labelled payments (default: simulated ones)")
    parser.add_argument("--mapping", type=Path, help="names of foreign columns")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    policy = PolicySettings()
    thresholds = (policy.review_threshold, policy.decline_threshold)
    teacher = Teacher.load(arguments.bundle)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "stream.parquet"
            write_stream(simulate(_WORLD), data)
        days = read_days(teacher, data, arguments.mapping)
    ran = {
        "command": "python -m benchmarks.variants " + " ".join(sys.argv[1:]),
        "machine": describe_machine(),
        "python": platform.python_version(),
        "xgboost": XGBOOST_VERSION,
        "onnxruntime": onnxruntime.__version__,
        "load before": f"{os.getloadavg()[0]:.1f}",
    }
    print(" · ".join(f"{name} {value}" for name, value in ran.items()) + "\n")
    entrants, lines = compare_variants(teacher, days, thresholds)
    print("\n".join(lines) + "\n")
    print("\n".join(measure_latency(entrants, days.judged.vectors, arguments.rounds)) + "\n")
    print("\n".join(measure_explanations(teacher, days, thresholds, arguments.rounds)))


if __name__ == "__main__":
    main()
