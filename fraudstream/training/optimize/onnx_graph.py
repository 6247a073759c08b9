"""The same trees as a graph for ONNX Runtime, made without a converter.

One node holds all trees (TreeEnsemble of the operator set ai.onnx.ml 5, which keeps splits as
arrays), then the base score is added and the logistic function taken. What has to be right, and is
where converters have been wrong: a row goes left when it is *below* the threshold, not on it; a row
that lacks the feature goes where the split says; the base score is a probability and the sum is of
log-odds. The sums' order is ONNX Runtime's own, so scores differ in the last bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from fraudstream.training.optimize.forest import LEAF, Forest, Tree

INPUT: Final = "vectors"
OUTPUT: Final = "scores"
_ML_OPSET: Final = 5
_OPSET: Final = 21
_IR_VERSION: Final = 10
#: The operator's numbers for its modes: below is true; sum over trees; leave the sum as it is.
_BRANCH_LT, _SUM, _NONE = 1, 1, 0


def to_onnx(forest: Forest) -> bytes:
    """Convert a model.

    Returns
    -------
    onnx
        One input ``vectors``, float32 of shape (n, columns), and one output ``scores``, float32 of
        shape (n, 1): what XGBoost scores before any calibration.
    """
    margin = np.log(forest.base_score / (1 - forest.base_score))
    nodes = [
        onnx.helper.make_node(
            "TreeEnsemble",
            [INPUT],
            ["sum"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=_SUM,
            post_transform=_NONE,
            **_attributes(forest),
        ),
        onnx.helper.make_node("Add", ["sum", "base"], ["margin"]),
        onnx.helper.make_node("Sigmoid", ["margin"], [OUTPUT]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "fraudstream",
        [onnx.helper.make_tensor_value_info(INPUT, kind, [None, len(forest.columns)])],
        [onnx.helper.make_tensor_value_info(OUTPUT, kind, [None, 1])],
        initializer=[_floats("base", np.array([margin]))],
    )
    model = onnx.helper.make_model(
        graph,
        ir_version=_IR_VERSION,
        opset_imports=[
            onnx.helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
            onnx.helper.make_opsetid("", _OPSET),
        ],
    )
    onnx.checker.check_model(model)
    converted: bytes = model.SerializeToString(deterministic=True)
    return converted


def _attributes(forest: Forest) -> dict[str, Any]:
    """Lay all trees' splits, and all their leaves, one after the other; children point into these.

    The leaves' numbers and the splits' are two countings: a flag says which one a child is of.
    """
    trees = [_with_a_split(tree) for tree in forest.trees]
    columns: dict[str, list[NDArray[np.generic]]] = {}
    first_split = first_leaf = 0
    roots = []
    for tree in trees:
        splits, leaves = tree.splits, tree.leaves
        place = np.empty(len(tree), np.int64)
        place[splits] = np.arange(first_split, first_split + len(splits))
        place[leaves] = np.arange(first_leaf, first_leaf + len(leaves))
        below, other = tree.left[splits], tree.right[splits]
        for name, values in (
            ("nodes_featureids", tree.feature[splits]),
            ("nodes_splits", tree.value[splits]),
            ("nodes_truenodeids", place[below]),
            ("nodes_falsenodeids", place[other]),
            ("nodes_trueleafs", tree.left[below] == LEAF),
            ("nodes_falseleafs", tree.left[other] == LEAF),
            ("nodes_missing_value_tracks_true", tree.goes_left[splits]),
            ("leaf_weights", tree.value[leaves]),
        ):
            columns.setdefault(name, []).append(values)
        roots.append(first_split)
        first_split, first_leaf = first_split + len(splits), first_leaf + len(leaves)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    floats = {name: _floats(name, joined.pop(name)) for name in ("nodes_splits", "leaf_weights")}
    modes = np.full(first_split, _BRANCH_LT, np.uint8)
    return {
        "tree_roots": roots,
        "nodes_modes": onnx.numpy_helper.from_array(modes, "nodes_modes"),
        "leaf_targetids": [0] * first_leaf,
        **floats,
        **{name: values.astype(np.int64).tolist() for name, values in joined.items()},
    }


def _with_a_split(tree: Tree) -> Tree:
    """Give a tree of one leaf, for which the operator has no form, a split with equal sides."""
    if len(tree.splits):
        return tree
    return replace(
        tree,
        left=np.array([1, LEAF, LEAF]),
        right=np.array([2, LEAF, LEAF]),
        feature=np.zeros(3, np.int64),
        value=np.array([0, *tree.value.repeat(2)], np.float32),
        goes_left=np.zeros(3, np.bool_),
    )


def _floats(name: str, values: NDArray[np.generic]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(values.astype(np.float32), name)
