"""Model files damaged before their hashes were taken: refused, or harmless, but never a crash.

XGBoost's own reader crashes on such files, so what is tried here on many of them runs in a process
of its own, with a bound on memory and time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fraudstream.errors import BundleError
from fraudstream.score import Model
from fraudstream.training.optimize.forest import Forest
from fraudstream.ubj import Ubj, UbjError, check_model, read_ubj, write_ubj

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def ubj() -> bytes:
    rows = np.random.default_rng(1).random((200, 2), dtype=np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0.5, feature_names=list(NAMES), nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    return bytes(xgboost.train(parameters, matrix, 2).save_raw("ubj"))


def test_a_whole_file_says_its_columns(ubj: bytes) -> None:
    assert check_model(ubj) == NAMES


def test_cut_short_anywhere_it_is_refused(ubj: bytes) -> None:
    for length in range(len(ubj)):
        with pytest.raises(UbjError):
            check_model(ubj[:length])


FLIPS = """
import pathlib, resource, sys
import numpy as np
from fraudstream.errors import BundleError
from fraudstream.score import Model

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
ubj = pathlib.Path(sys.argv[1]).read_bytes()
rows = np.random.default_rng(2).random((20, 2), dtype=np.float32)
loaded = refused = 0
for place in range(len(ubj)):
    damaged = bytearray(ubj)
    damaged[place] ^= 1 << place % 8
    try:
        model = Model(bytes(damaged), ("a", "b"))
    except BundleError:
        refused += 1
        continue
    model.score(rows)
    loaded += 1
print(loaded, refused)
"""


def test_no_flipped_bit_crashes_the_process(ubj: bytes, tmp_path: Path) -> None:
    """Every byte of the file, one after the other."""
    file = tmp_path / "model.ubj"
    file.write_bytes(ubj)
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(file)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    loaded, refused = map(int, done.stdout.split())
    assert loaded + refused == len(ubj)
    assert refused > loaded > 0


def _with_children(ubj: bytes, left: list[int], right: list[int]) -> bytes:
    """Replace the children of the first tree, which has 7 nodes or more."""
    content = bytearray(ubj)
    for name, children in ((b"left_children", left), (b"right_children", right)):
        start = content.index(name + b"[$l#L") + len(name) + 5 + 8
        content[start : start + 4 * len(children)] = np.array(children, ">i4").tobytes()
    return bytes(content)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1, 0], [2, 2]),  # back to the root: a walk without end
        ([1, 1], [2, 2]),  # to itself
        ([1, 3], [1, 4]),  # two parents' child
        ([1, 1_000], [2, 4]),  # out of the array
        ([1, -7], [2, 4]),  # before the array
        ([1, -1], [2, 4]),  # a leaf on one side only
    ],
)
def test_trees_that_lead_nowhere_are_refused(ubj: bytes, left: list[int], right: list[int]) -> None:
    with pytest.raises(UbjError, match="tree 0 is damaged"):
        check_model(_with_children(ubj, left, right))


def _with_value(ubj: bytes, name: str, tree: int, node: int, value: float) -> bytes:
    """Replace one node's number in an array of floats."""
    content, start = bytearray(ubj), 0
    for _ in range(tree + 1):
        start = content.index(name.encode() + b"[$d#L", start) + len(name) + 5 + 8
    content[start + 4 * node : start + 4 * node + 4] = np.array(value, ">f4").tobytes()
    return bytes(content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("split_conditions", 0),  # the root's threshold
        ("split_conditions", -1),  # a leaf
        ("base_weights", -1),
        ("sum_hessian", 1),  # contributions divide by it
        ("loss_changes", 0),
    ],
)
@pytest.mark.parametrize("tree", [0, 1])
def test_values_that_are_not_finite_are_refused(
    ubj: bytes, name: str, node: int, tree: int, value: float
) -> None:
    """XGBoost would load them, and score NaN wherever such a leaf is reached."""
    nodes = len(Forest.read(ubj).trees[tree])
    damaged = _with_value(ubj, name, tree, node % nodes, value)
    with pytest.raises(UbjError, match=f"^its tree {tree} has a value that is not finite$"):
        check_model(damaged)


def test_a_finite_value_is_put_where_it_is_meant(ubj: bytes) -> None:
    """Otherwise the test above would pass for the wrong reason."""
    leaf = int(Forest.read(ubj).trees[1].leaves[-1])
    changed = _with_value(ubj, "split_conditions", 1, leaf, 0.25)
    assert Forest.read(changed).trees[1].value[leaf] == 0.25


@pytest.mark.parametrize("text", [b"[0E0]", b"[1E0]", b"[NAN]", b"[-1] ", b"[5 1]"])
def test_a_base_score_that_is_no_probability_is_refused(ubj: bytes, text: bytes) -> None:
    place = ubj.index(b"base_scoreSL") + len(b"base_scoreSL")
    length = int.from_bytes(ubj[place : place + 8], "big")
    rest = ubj[place + 8 + length :]
    damaged = ubj[:place] + len(text).to_bytes(8, "big") + text + rest
    with pytest.raises(UbjError, match="its base score is no"):
        check_model(damaged)


def test_what_xgboost_wrote_is_written_again_byte_for_byte(ubj: bytes) -> None:
    assert write_ubj(read_ubj(ubj)) == ubj


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 2)
    | st.floats(width=32, allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Ubj) -> None:
    assert read_ubj(write_ubj(value)) == value


@given(hnp.arrays(st.sampled_from(["i1", "u1", "i2", "i4", "i8"]), st.integers(0, 9)))
def test_arrays_are_written_in_their_own_type(values: NDArray[np.generic]) -> None:
    again = read_ubj(write_ubj(values))
    assert isinstance(again, np.ndarray)
    assert again.dtype == values.dtype.newbyteorder(">")
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("value", [2**63, np.empty(2, np.complex64)])
def test_what_ubjson_cannot_hold_is_not_written(value: Ubj) -> None:
    with pytest.raises(ValueError, match=r"64 bits|no arrays"):
        write_ubj(value)


def test_the_sentence_is_made_for_a_files_name_before_it(ubj: bytes) -> None:
    with pytest.raises(BundleError, match=r"^is no whole model file: it ends too early$"):
        Model(ubj[:-1], NAMES)


def _key(name: str) -> bytes:
    return b"L" + len(name).to_bytes(8, "big") + name.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends too early"),
        (b"{", "ends too early"),
        (b"{}x", "goes on after its end"),
        (b"N", "not in XGBoost's UBJSON format"),
        (b"{" + _key("a") + b"Z" + _key("a") + b"Z}", "holds 'a' twice"),
        (b"{" + (b"L" + bytes(7) + b"\x01\xff") + b"Z}", "not UTF-8"),
        (b"{L" + b"\xff" * 8 + b"}", "ends too early"),
        (b"[$d#L" + (1 << 62).to_bytes(8, "big"), "ends too early"),
        (b"[#L" + (1 << 62).to_bytes(8, "big") + b"Z", "ends too early"),
        ((b"[#L" + bytes(7) + b"\x01") * 1_000, "nested too deeply"),
        (b"[$S#L" + bytes(8), "not in XGBoost's UBJSON format"),
    ],
)
def test_bytes_that_are_no_ubjson_are_refused_at_once(content: bytes, words: str) -> None:
    """Sizes in the file are never believed: nothing is allocated for what is not there."""
    with pytest.raises(UbjError, match=words):
        read_ubj(content)


@pytest.mark.parametrize("content", [b"{}", b"[#L" + bytes(8), b"Z"])
def test_ubjson_that_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(UbjError, match="it lacks 'learner'"):
        check_model(content)
