"""What a smaller or faster model changes, measured: the certificate that lies in its bundle.

    both models ─┬─ judged payments ─▶ difference, flipped decisions, quality of each
                 ├─ rows on splits ──▶ difference where converters and rounding go wrong
                 └─ in turns ────────▶ latency of each

A decision flips only where a score lies closer to a threshold than the two models differ; so the
greatest difference, beside the thresholds, says which payments could be decided otherwise.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.event import format_time
from fraudstream.manifest import Certificate, Latencies, Period
from fraudstream.score import Model
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.optimize.forest import Forest, Tree
from fraudstream.training.quality import measure

Vectors = NDArray[np.float32]
Scores = NDArray[np.float32]
#: How many rows a call has, where latency is measured.
CALL_ROWS: Final = (1, 16, 128, 1024)
#: Medians are over as many calls.
CALLS: Final = 200
#: So many calls of one model, then as many of the next.
_TURN_CALLS: Final = 10
#: Different rows are scored in turn: the same ones would stay in the processor's caches.
_BATCHES: Final = 16
_FLIPS_NAMED: Final = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Certified:
    """A model that is certified, or that certificates compare with.

    Attributes
    ----------
    model
        As a worker would load it.
    forest
        Its trees.
    model_bytes
        The size of the files that make its scores.
    """

    model: Model
    forest: Forest
    model_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What models are compared on.

    Attributes
    ----------
    rows
        Payments, as they are judged.
    bounds_ms
        From when to before when they were taken.
    is_of_training
        The teacher learnt from these days.
    thresholds
        The policy's, on the score.
    """

    rows: LabelledVectors
    bounds_ms: tuple[int, int]
    is_of_training: bool
    thresholds: tuple[float, ...]


def certify(
    before: Certified,
    after: Certified,
    evaluation: Evaluation,
    latencies: tuple[Latencies, Latencies],
    seed: int = 1,
) -> Certificate:
    """Compare a model with the one that it stands in for.

    Parameters
    ----------
    before, after
        The teacher and the variant.
    evaluation
        On what.
    latencies
        Of each, from `measure_latencies`.
    seed
        Of which payments the rows on splits are made.

    Raises
    ------
    UsageError
        There are only frauds among the rows, or none at all.
    """
    rows = evaluation.rows
    on_splits = rows_on_splits((before.forest, after.forest), rows.vectors, seed)
    old, new = before.model.score(rows.vectors), after.model.score(rows.vectors)
    flips = find_flips(old, new, evaluation.thresholds)
    quality_before, quality = measure(old, rows), measure(new, rows)
    start_ms, end_ms = evaluation.bounds_ms
    return Certificate(
        evaluated_on=Period(
            start=format_time(start_ms),
            end=format_time(end_ms),
            transactions=len(rows),
            frauds=int(rows.is_fraud.sum()),
        ),
        is_of_training=evaluation.is_of_training,
        rows_on_splits=len(on_splits),
        score_difference_max=greatest_difference(old, new),
        score_difference_max_on_splits=greatest_difference(
            before.model.score(on_splits), after.model.score(on_splits)
        ),
        thresholds=evaluation.thresholds,
        flips=len(flips.rows),
        flips_beyond_difference=flips.beyond_difference,
        flipped_transactions=tuple(map(str, rows.transaction_id[flips.rows[:_FLIPS_NAMED]])),
        average_precision=quality.average_precision,
        average_precision_before=quality_before.average_precision,
        card_precision_100=quality.card_precision_100,
        card_precision_100_before=quality_before.card_precision_100,
        model_bytes=after.model_bytes,
        model_bytes_before=before.model_bytes,
        latency_us=latencies[1],
        latency_us_before=latencies[0],
        machine=describe_machine(),
    )


def greatest_difference(before: Scores, after: Scores) -> float:
    """Give the greatest difference of two models' scores, shape (n,) each."""
    return float(np.abs(before.astype(np.float64) - after).max(initial=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Flips:
    """Rows that get another outcome, and how many of them should not have."""

    rows: NDArray[np.int64]
    beyond_difference: int


def find_flips(before: Scores, after: Scores, thresholds: Sequence[float]) -> Flips:
    """Find the rows on different sides of a threshold.

    Parameters
    ----------
    before, after
        Shape (n,): two models' scores of the same rows.
    thresholds
        From each on another outcome is taken; compared as float32, as decisions are.
    """
    difference = greatest_difference(before, after)
    is_flipped = np.zeros(len(before), np.bool_)
    is_beyond = np.zeros(len(before), np.bool_)
    for threshold in np.array(thresholds, np.float32):
        crosses = (before >= threshold) != (after >= threshold)
        is_flipped |= crosses
        is_beyond |= crosses & (np.abs(before.astype(np.float64) - threshold) > difference)
    return Flips(np.flatnonzero(is_flipped), int(is_beyond.sum()))


def rows_on_splits(forests: Sequence[Forest], vectors: Vectors, seed: int) -> Vectors:
    """Make rows that lie on the splits of some models, a float32 below, or lack the feature.

    Each row comes by the split that it lies on: it is a payment, changed no further than the
    splits above ask for, so that what it shows is what the split does. (A split that none can come
    by, for those above exclude it, gets a row that does not.)

    Parameters
    ----------
    forests
        The models, of the same columns.
    vectors
        Shape (n, columns), float32: payments to make them of; a tenth loses some features first.
    seed
        Which ones.

    Returns
    -------
    rows
        Shape (3 · all splits, columns), float32; the same row is there once only.
    """
    rng = np.random.default_rng(seed)
    made = [_on_splits_of(tree, vectors, rng) for forest in forests for tree in forest.trees]
    if not made:
        return np.empty((0, vectors.shape[1]), np.float32)
    # As bytes, for which NaN is equal to itself.
    rows = np.concatenate(made)
    _, first = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), return_index=True)
    return rows[np.sort(first)]


def _on_splits_of(tree: Tree, vectors: Vectors, rng: np.random.Generator) -> Vectors:
    splits = tree.splits
    low, below = _boxes(tree, vectors.shape[1])
    rows = vectors[rng.integers(len(vectors), size=len(splits))]
    rows[(rng.random(rows.shape) < 0.5) & (rng.random(len(rows)) < 0.1)[:, None]] = np.nan
    # Into the box of the rows that come by; where it asks nothing of a feature, NaN stays.
    high = np.nextafter(below, np.float32(-np.inf))
    is_asked = (low > -np.inf) | (below < np.inf)
    known = np.where(np.isnan(rows), 0, rows)
    moved = np.clip(known, low, np.maximum(low, high))
    rows = np.where(is_asked, moved, rows).astype(np.float32)
    at = (np.arange(len(splits)), tree.feature[splits])
    made = []
    for value in (
        tree.value[splits],
        np.nextafter(tree.value[splits], np.float32(-np.inf)),
        np.full(len(splits), np.nan, np.float32),
    ):
        changed = rows.copy()
        changed[at] = value
        made.append(changed)
    return np.concatenate(made)


def _boxes(tree: Tree, columns: int) -> tuple[Vectors, Vectors]:
    """Give for each split, by column, from where to below where rows lie that come by it."""
    low = np.full((len(tree), columns), -np.inf, np.float32)
    below = np.full((len(tree), columns), np.inf, np.float32)
    for node in tree.splits:
        left, right, feature = tree.left[node], tree.right[node], tree.feature[node]
        low[[left, right]], below[[left, right]] = low[node], below[node]
        below[left, feature] = min(below[left, feature], tree.value[node])
        low[right, feature] = max(low[right, feature], tree.value[node])
    return low[tree.splits], below[tree.splits]


def measure_latencies(
    models: Sequence[Model], vectors: Vectors, calls: int = CALLS
) -> list[Latencies]:
    """Measure how long calls take.

    Parameters
    ----------
    models
        All that are to be compared.
    vectors
        Shape (n, columns): the rows to score; as often as needed.
    calls
        Of how many calls the median is taken.

    Returns
    -------
    latencies
        One for each model.
    """
    scoring = [model.score for model in models]
    by_rows = [
        np.median(time_in_turns(scoring, vectors, rows, calls), axis=1) for rows in CALL_ROWS
    ]
    return [
        Latencies(
            **{
                f"rows_{rows}": round(float(medians_us[number]), 2)
                for rows, medians_us in zip(CALL_ROWS, by_rows, strict=True)
            }
        )
        for number in range(len(models))
    ]


def time_in_turns(
    scoring: Sequence[Callable[[Vectors], object]], vectors: Vectors, rows: int, calls: int
) -> NDArray[np.float64]:
    """Time calls of several functions in turns: some calls of one, of the next, and so on again.

    So whatever else the machine does meets all of them, and none finds its caches always empty.

    Returns
    -------
    taken_us
        Shape (functions, calls), microseconds; a first turn, to warm up, is left out.
    """
    places = (np.arange(_BATCHES * rows) % len(vectors)).reshape(_BATCHES, rows)
    batches = [np.ascontiguousarray(vectors[place]) for place in places]
    taken_us: list[list[float]] = [[] for _ in scoring]
    for first in range(0, calls + _TURN_CALLS, _TURN_CALLS):
        for score, taken in zip(scoring, taken_us, strict=True):
            for call in range(first, first + _TURN_CALLS):
                batch = batches[call % _BATCHES]
                start_ns = time.perf_counter_ns()
                score(batch)
                taken.append((time.perf_counter_ns() - start_ns) / 1e3)
    return np.array(taken_us)[:, _TURN_CALLS : _TURN_CALLS + calls]


def describe_machine() -> str:
    """Say what this runs on, without a name: system, processor, cores."""
    cores = os.cpu_count() or 1
    return f"{platform.system()} {platform.machine()}, {_processor()}, {cores} cores"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
