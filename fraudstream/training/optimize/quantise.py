"""Coarser numbers: the same splits and leaves, which pack to a fraction of the size.

Nothing becomes faster; it is for where a file's size counts. A feature keeps at most 255 different
thresholds, of those that the model has. Leaves lie on a grid. Covers, which only contributions
weigh with, keep a few digits, and a split's cover is made the sum of its children's, so that a
row's contributions still add up to its margin. What nothing is computed with becomes 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.training.optimize.forest import Forest, Tree

#: How many different thresholds a feature keeps.
THRESHOLDS_MAX: Final = 255
#: Log-odds: the distance of two leaves on the grid. Over some hundred trees the errors, each at
#: most half of it, mostly cancel.
LEAF_STEP: Final = 2.0**-9
#: Binary digits that a cover keeps.
COVER_BITS: Final = 3


def quantise(forest: Forest) -> Forest:
    """Make a model's numbers coarser."""
    kept = _kept_thresholds(forest)
    return forest.with_trees([_coarse(tree, kept) for tree in forest.trees])


def _kept_thresholds(forest: Forest) -> dict[int, NDArray[np.float32]]:
    """Choose by feature, sorted: all thresholds where they are few, else such as are used alike."""
    asked = np.concatenate([tree.feature[tree.splits] for tree in forest.trees])
    thresholds = np.concatenate([tree.value[tree.splits] for tree in forest.trees])
    kept = {}
    for feature in np.unique(asked):
        used = np.sort(thresholds[asked == feature])
        different = np.unique(used)
        if len(different) > THRESHOLDS_MAX:
            places = np.linspace(0, len(used) - 1, THRESHOLDS_MAX).round().astype(np.int64)
            different = np.unique(used[places])
        kept[int(feature)] = different
    return kept


def _coarse(tree: Tree, kept: dict[int, NDArray[np.float32]]) -> Tree:
    value = (np.round(tree.value / LEAF_STEP) * LEAF_STEP).astype(np.float32)
    for node in tree.splits:
        value[node] = _nearest(kept[int(tree.feature[node])], tree.value[node])
    cover = _rounded(tree.cover)
    for node in tree.splits[::-1]:
        cover[node] = cover[tree.left[node]] + cover[tree.right[node]]
    nothing = np.zeros(len(tree), np.float32)
    return replace(tree, value=value, cover=cover, weight=nothing, gain=nothing)


def _nearest(sorted_values: NDArray[np.float32], value: np.float32) -> np.float32:
    place = int(np.searchsorted(sorted_values, value))
    around = sorted_values[max(place - 1, 0) : place + 1]
    nearest: np.float32 = around[np.abs(around - value).argmin()]
    return nearest


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the first binary digits. What is above 0 stays so, for contributions divide by it."""
    fraction, exponent = np.frexp(values)
    scale = 2.0**COVER_BITS
    return np.ldexp(np.round(fraction * scale) / scale, exponent).astype(np.float32)
