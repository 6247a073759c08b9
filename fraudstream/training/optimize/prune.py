"""Fewer trees, and branches that change little cut off: the same model, only less of it.

Boosted trees come in the order of their use, so the first trees are kept. Of those, splits go
whose two sides differ the least, the cheapest first (weakest-link pruning, Breiman et al. 1984):
the cost of making a leaf of a split is the variance of what lies below it, each leaf weighed with
how much of the training came by (its cover). The leaf then says the mean, which keeps the
contributions' bias. How many trees and splits stay is searched for: the smallest model whose loss
is permitted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fraudstream.training.optimize.forest import Forest, Tree
from fraudstream.training.optimize.loss import Allowance

#: How many lengths are tried.
_LENGTHS: Final = 8
#: How many splits are cut off is found to within so small a part.
_COUNT_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Cut:
    """A split to make a leaf of, and the log-odds that it then says."""

    tree: int
    node: int
    value: float


def prune(forest: Forest, allowance: Allowance, on_step: Callable[[], None]) -> Forest:
    """Find the smallest part of a model whose loss is permitted.

    Parameters
    ----------
    forest
        The model.
    allowance
        What may be lost.
    on_step
        Told `STEPS` times on the way.

    Returns
    -------
    pruned
        The whole where no part will do.
    """
    smallest = forest
    for number in range(_LENGTHS):
        on_step()
        trees = -(-len(forest.trees) * (_LENGTHS - number) // _LENGTHS)
        pruned = _cut_down(forest.with_trees(forest.trees[:trees]), allowance)
        if pruned is not None and len(pruned.write()) < len(smallest.write()):
            smallest = pruned
    return smallest


def _cut_down(forest: Forest, allowance: Allowance) -> Forest | None:
    """Cut off as much as is permitted; None where the loss is too large as it is."""
    if not allowance.permits(forest):
        return None
    cuts = weakest_first(forest)
    count = _most(len(cuts), lambda count: allowance.permits(apply(forest, cuts[:count])))
    return apply(forest, cuts[:count])


#: How often `prune` tells that it goes on.
STEPS: Final = _LENGTHS


def weakest_first(forest: Forest) -> list[Cut]:
    """Order all splits by what it costs to do without, children before their parents."""
    found: list[tuple[float, Cut]] = []
    for number, tree in enumerate(forest.trees):
        found += _of_tree(number, tree)
    # Within a tree a cut never costs less than one before it, and sorting is stable.
    return [cut for _, cut in sorted(found, key=lambda priced: priced[0])]


def apply(forest: Forest, cuts: list[Cut]) -> Forest:
    """Make the cuts."""
    by_tree: dict[int, dict[int, float]] = {}
    for cut in cuts:
        by_tree.setdefault(cut.tree, {})[cut.node] = cut.value
    return forest.with_trees(
        [
            tree.cut(by_tree[number]) if number in by_tree else tree
            for number, tree in enumerate(forest.trees)
        ]
    )


def _of_tree(number: int, tree: Tree) -> list[tuple[float, Cut]]:
    """Take a tree down split by split, the cheapest that has only leaves below it each time."""
    value, cover = tree.value.astype(np.float64), tree.cover.astype(np.float64)
    parent = np.full(len(tree), -1)
    splits = tree.splits
    parent[tree.left[splits]] = parent[tree.right[splits]] = splits
    open_children = np.zeros(len(tree), np.int64)
    np.add.at(open_children, parent[splits][parent[splits] >= 0], 1)
    heap: list[tuple[float, int]] = []

    def price(node: int) -> None:
        left, right = tree.left[node], tree.right[node]
        cover[node] = cover[left] + cover[right]
        share = cover[left] / cover[node] if cover[node] > 0 else 0.5
        value[node] = share * value[left] + (1 - share) * value[right]
        spread = cover[node] * share * (1 - share) * (value[left] - value[right]) ** 2
        heapq.heappush(heap, (float(spread), node))

    for node in splits[open_children[splits] == 0]:
        price(int(node))
    found, dearest = [], 0.0
    while heap:
        cost, node = heapq.heappop(heap)
        dearest = max(dearest, cost)
        found.append((dearest, Cut(number, node, float(value[node]))))
        above = int(parent[node])
        if above >= 0:
            open_children[above] -= 1
            if not open_children[above]:
                price(above)
    return found


def _most(count: int, is_permitted: Callable[[int], bool]) -> int:
    """Find the largest number up to `count` that is permitted, or nearly so.

    Parameters
    ----------
    count
        The largest that is asked for.
    is_permitted
        Holds for 0, and less and less for more.

    Examples
    --------
    >>> _most(10, lambda count: count <= 7), _most(10, lambda count: True)
    (7, 10)
    """
    low, high = 0, count
    while high - low > count // _COUNT_STEPS:
        middle = (low + high + 1) // 2
        if is_permitted(middle):
            low = middle
        else:
            high = middle - 1
    return low
