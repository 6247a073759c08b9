"""A model file's trees as arrays, to be looked at and edited, and written as a model file again.

What is written passes `fraudstream.ubj.check_model` and is read by XGBoost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.ubj import Ubj, base_score, check_model, member, member_list, read_ubj, write_ubj

LEAF: Final = -1
#: XGBoost's mark of a root, which has no parent.
_NO_PARENT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree; its arrays have an entry for each of n nodes. Level by level, the root first.

    Attributes
    ----------
    left, right
        int64: a split's children, `LEAF` in a leaf.
    feature
        int64: a split's column.
    value
        float32: a split's threshold (a row goes left when it is below), or a leaf's log-odds.
    goes_left
        bool: where a row goes that lacks the split's feature.
    cover
        float32: how much of the training came by (sum of hessians); contributions weigh with it.
    weight, gain
        float32: a node's own log-odds before the learning rate, and what its split brought. Nothing
        is computed with them.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]
    goes_left: NDArray[np.bool_]
    cover: NDArray[np.float32]
    weight: NDArray[np.float32]
    gain: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.left)

    @property
    def leaves(self) -> NDArray[np.int64]:
        """The nodes that are leaves."""
        return np.flatnonzero(self.left == LEAF)

    @property
    def splits(self) -> NDArray[np.int64]:
        """The nodes that are no leaves, parents before children."""
        return np.flatnonzero(self.left != LEAF)

    def cut(self, leaves: dict[int, float]) -> Tree:
        """Make leaves of some nodes, with these log-odds; what hung below them is gone.

        Parameters
        ----------
        leaves
            By node. Those below another are left out with it.
        """
        left, right = self.left.copy(), self.right.copy()
        value, feature = self.value.copy(), self.feature.copy()
        goes_left, gain = self.goes_left.copy(), self.gain.copy()
        nodes = list(leaves)
        left[nodes] = right[nodes] = LEAF
        value[nodes] = list(leaves.values())
        feature[nodes], goes_left[nodes], gain[nodes] = 0, False, 0
        return _levelled(
            replace(
                self,
                left=left,
                right=right,
                feature=feature,
                value=value,
                goes_left=goes_left,
                gain=gain,
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """All trees of a model, in the order in which they are added up.

    Attributes
    ----------
    trees
        As they are.
    columns
        The features' names.
    base_score
        The probability whose log-odds the sum starts from.
    """

    trees: tuple[Tree, ...]
    columns: tuple[str, ...]
    base_score: float
    _document: dict[str, Ubj]

    @classmethod
    def read(cls, ubj: bytes) -> Forest:
        """Read a model file.

        Raises
        ------
        UbjError
            It is no whole model file of ours.
        """
        columns = check_model(ubj)
        document = read_ubj(ubj)
        assert isinstance(document, dict)
        learner = member(document, "learner")
        model = member(learner, "gradient_booster", "model")
        trees = tuple(_read_tree(tree) for tree in member_list(model, "trees"))
        return cls(trees, columns, base_score(learner), document)

    @property
    def nodes(self) -> int:
        """How many nodes all trees have."""
        return sum(len(tree) for tree in self.trees)

    @property
    def splits(self) -> int:
        """How many splits all trees have."""
        return sum(len(tree.splits) for tree in self.trees)

    def with_trees(self, trees: Sequence[Tree]) -> Forest:
        """Give the same model with other trees."""
        return replace(self, trees=tuple(trees))

    def write(self) -> bytes:
        """Write a model file."""
        learner = _member(self._document, "learner")
        booster = _member(learner, "gradient_booster")
        model = _member(booster, "model")
        count = len(self.trees)
        written: dict[str, Ubj] = model | {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
            "iteration_indptr": [*range(count + 1)],
            "tree_info": [0] * count,
            "trees": [
                _write_tree(tree, number, len(self.columns))
                for number, tree in enumerate(self.trees)
            ],
        }
        changed: Ubj = learner | {"gradient_booster": booster | {"model": written}}
        return write_ubj(self._document | {"learner": changed})


def _member(value: dict[str, Ubj], key: str) -> dict[str, Ubj]:
    found = member(value, key)
    assert isinstance(found, dict)
    return found


def _read_tree(tree: Ubj) -> Tree:
    def array(name: str) -> NDArray[np.generic]:
        found = member(tree, name)
        assert isinstance(found, np.ndarray)
        return found

    return _levelled(
        Tree(
            array("left_children").astype(np.int64),
            array("right_children").astype(np.int64),
            array("split_indices").astype(np.int64),
            array("split_conditions").astype(np.float32),
            array("default_left").astype(np.bool_),
            array("sum_hessian").astype(np.float32),
            array("base_weights").astype(np.float32),
            array("loss_changes").astype(np.float32),
        )
    )


def _levelled(tree: Tree) -> Tree:
    """Put nodes in order of their level, from left to right; leave out what hangs nowhere."""
    order = [0]
    for node in order:
        if tree.left[node] != LEAF:
            order += (int(tree.left[node]), int(tree.right[node]))
    place = np.full(len(tree) + 1, LEAF)  # its last entry is the place of no child
    place[order] = np.arange(len(order))
    return Tree(
        place[tree.left[order]],
        place[tree.right[order]],
        tree.feature[order],
        tree.value[order],
        tree.goes_left[order],
        tree.cover[order],
        tree.weight[order],
        tree.gain[order],
    )


def _write_tree(tree: Tree, number: int, features: int) -> Ubj:
    splits = tree.splits
    parents = np.full(len(tree), _NO_PARENT)
    parents[tree.left[splits]] = parents[tree.right[splits]] = splits
    return {
        "base_weights": tree.weight,
        "categories": np.empty(0, np.int32),
        "categories_nodes": np.empty(0, np.int32),
        "categories_segments": np.empty(0, np.int64),
        "categories_sizes": np.empty(0, np.int64),
        "default_left": tree.goes_left.astype(np.uint8),
        "id": number,
        "left_children": tree.left.astype(np.int32),
        "loss_changes": tree.gain,
        "parents": parents.astype(np.int32),
        "right_children": tree.right.astype(np.int32),
        "split_conditions": tree.value,
        "split_indices": tree.feature.astype(np.int32),
        "split_type": np.zeros(len(tree), np.uint8),
        "sum_hessian": tree.cover,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(len(tree)),
            "size_leaf_vector": "1",
        },
    }
