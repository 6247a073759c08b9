"""Two evaluators' vectors side by side: the same number, another, or none where the other has one.

Quality metrics do not notice that a payment is missing from its own window, or that a card's counts
are doubled; only a comparison of every number does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FeatureParity:
    """How one feature's n numbers compare.

    Attributes
    ----------
    name
        The feature.
    matches
        Equal to the bit, or NaN in both.
    mismatches
        Two different numbers.
    missing
        NaN in one of the two.
    first_row
        The first row that is no match, −1 if there is none.
    """

    name: str
    matches: int
    mismatches: int
    missing: int
    first_row: int

    @property
    def is_whole(self) -> bool:
        """Whether all is the same."""
        return self.mismatches == 0 and self.missing == 0


def compare(
    found: NDArray[np.float32], expected: NDArray[np.float32], names: Sequence[str]
) -> list[FeatureParity]:
    """Compare vectors feature by feature.

    Parameters
    ----------
    found, expected
        Shape (n, features), float32, of the same n payments.
    names
        The features.

    Raises
    ------
    ValueError
        They are not of the same shape.

    Examples
    --------
    >>> nan = float("nan")
    >>> ours = np.array([[1, nan], [2, 3]], dtype=np.float32)
    >>> theirs = np.array([[1, nan], [4, nan]], dtype=np.float32)
    >>> [(f.matches, f.mismatches, f.missing) for f in compare(ours, theirs, ["a", "b"])]
    [(1, 1, 0), (1, 0, 1)]
    """
    if found.shape != expected.shape or found.shape[1] != len(names):
        raise ValueError(f"vectors of {found.shape} and {expected.shape} for {len(names)} names")
    has_none = np.isnan(found), np.isnan(expected)
    is_missing = has_none[0] != has_none[1]
    # As bits: −0 and 0 are two numbers to a model's file.
    is_same = (found.view(np.int32) == expected.view(np.int32)) | (has_none[0] & has_none[1])
    rows = np.where(is_same.all(axis=0), -1, np.argmin(is_same, axis=0))
    return [
        FeatureParity(
            name,
            int(is_same[:, index].sum()),
            int((~is_same & ~is_missing)[:, index].sum()),
            int(is_missing[:, index].sum()),
            int(rows[index]),
        )
        for index, name in enumerate(names)
    ]
