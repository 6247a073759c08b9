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
_NUMBER_MARKERS = {np.dtype(name): marker.encode() for marker, name in _NUMBERS.items()}
_CONSTANT_MARKERS = {constant: marker.encode() for marker, constant in _CONSTANTS.items()}
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


def write_ubj(value: Ubj) -> bytes:
    r"""Write a value as `read_ubj` reads it; what XGBoost wrote comes out byte for byte.

    Raises
    ------
    ValueError
        An integer has more than 64 bits, or an array holds numbers of a type that UBJSON lacks.

    Examples
    --------
    >>> write_ubj({"size": 7})
    b'{L\x00\x00\x00\x00\x00\x00\x00\x04sizei\x07}'
    """
    if value is None or isinstance(value, bool):
        return _CONSTANT_MARKERS[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"d" + struct.pack(">f", value)
    if isinstance(value, str):
        return b"S" + _text(value)
    if isinstance(value, dict):
        members = [_text(key) + write_ubj(item) for key, item in value.items()]
        return b"{" + b"".join(members) + b"}"
    if isinstance(value, list):
        return b"[#" + _length(len(value)) + b"".join(write_ubj(item) for item in value)
    return _array(value)


def _integer(value: int) -> bytes:
    for marker in "iIlL":
        kind = np.dtype(_NUMBERS[marker])
        # The shortest, as XGBoost does, which takes the next one for the ends themselves.
        if np.iinfo(kind).min < value < np.iinfo(kind).max:
            return marker.encode() + np.array(value, kind).tobytes()
    msg = f"{value} has more than 64 bits"
    raise ValueError(msg)


def _array(values: NDArray[np.generic]) -> bytes:
    kind = values.dtype.newbyteorder(">")
    marker = _NUMBER_MARKERS.get(kind)
    if marker is None:
        msg = f"UBJSON has no arrays of {values.dtype}"
        raise ValueError(msg)
    return b"[$" + marker + b"#" + _length(values.size) + values.astype(kind).tobytes()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


def _length(count: int) -> bytes:
    return b"L" + struct.pack(">q", count)


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
    learner = member(read_ubj(data), "learner")
    booster = member(learner, "gradient_booster")
    if (
        member(booster, "name") != "gbtree"
        or member(learner, "objective", "name") != "binary:logistic"
    ):
        raise UbjError("it is not a gbtree model with the objective binary:logistic")
    names = member_list(learner, "feature_names")
    columns = tuple(name for name in names if isinstance(name, str))
    parameters = member(learner, "learner_model_param")
    if (
        _count(parameters, "num_feature") != len(columns)
        or len(columns) != len(names)
        or _count(parameters, "num_class") != 0
        or _count(parameters, "num_target") != 1
    ):
        raise UbjError("its feature names do not belong to its trees")
    if not 0 < base_score(learner) < 1:
        raise UbjError("its base score is no probability")
    _check_forest(member(booster, "model"), len(columns))
    return columns


def base_score(learner: Ubj) -> float:
    """Get the probability that all trees' sums start from.

    Parameters
    ----------
    learner
        The file's ``learner``.

    Raises
    ------
    UbjError
        It is no number.
    """
    text = member(learner, "learner_model_param", "base_score")
    try:
        # Since XGBoost 3.1 a list with one entry, "[5E-1]".
        return float(str(text).removeprefix("[").removesuffix("]"))
    except ValueError:
        raise UbjError("its base score is no number") from None


def _check_forest(model: Ubj, features: int) -> None:
    trees = member_list(model, "trees")
    if (
        _count(member(model, "gbtree_model_param"), "num_trees") != len(trees)
        or member_list(model, "tree_info") != [0] * len(trees)
        or member_list(model, "iteration_indptr") != list(range(len(trees) + 1))
    ):
        raise UbjError("its number of trees is not what it says")
    for number, tree in enumerate(trees):
        if not _is_tree_sound(tree, number, features):
            raise UbjError(f"its tree {number} is damaged")


def _is_tree_sound(tree: Ubj, number: int, features: int) -> bool:
    """Say whether a walk from the root always ends in a leaf, and asks for known features."""
    parameters = member(tree, "tree_param")
    nodes = _count(parameters, "num_nodes")
    numbers = _node_numbers(tree, number, nodes)
    asked = numbers["split_indices"]
    return (
        nodes > 0
        and member(tree, "id") == number
        and _count(parameters, "num_feature") == features
        and _count(parameters, "size_leaf_vector") <= 1
        and not numbers["split_type"].any()
        and bool(((asked >= 0) & (asked < features)).all())
        and _are_children_sound(
            numbers["left_children"], numbers["right_children"], numbers["parents"]
        )
    )


def _node_numbers(tree: Ubj, number: int, nodes: int) -> dict[str, NDArray[np.int64]]:
    """Check the length and type of all of a tree's arrays, and get those of integers."""
    numbers: dict[str, NDArray[np.int64]] = {}
    for name, marker in _NODE_ARRAYS.items():
        array = member(tree, name)
        kind = np.dtype(_NUMBERS[marker])
        if not isinstance(array, np.ndarray) or array.dtype != kind or array.size != nodes:
            raise UbjError(f"a tree's {name!r} has not one entry for each node")
        if kind.kind == "f":
            if not np.isfinite(array.astype(np.float32)).all():
                raise UbjError(f"its tree {number} has a value that is not finite")
        else:
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


def member(value: Ubj, *path: str) -> Ubj:
    """Follow a path of keys.

    Raises
    ------
    UbjError
        It leads nowhere.
    """
    for key in path:
        if not isinstance(value, dict) or key not in value:
            raise UbjError(f"it lacks {key!r}")
        value = value[key]
    return value


def member_list(value: Ubj, key: str) -> list[Ubj]:
    """Get what must be a list of values.

    Raises
    ------
    UbjError
        There is none.
    """
    items = member(value, key)
    if not isinstance(items, list):
        raise UbjError(f"its {key!r} is no list")
    return items


def _count(value: Ubj, key: str) -> int:
    text = member(value, key)
    if not isinstance(text, str) or not text.isdecimal() or len(text) > 9:
        raise UbjError(f"its {key!r} is no number")
    return int(text)
