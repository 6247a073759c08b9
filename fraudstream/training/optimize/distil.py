"""A small student that learns a teacher's scores instead of the truth (Hinton et al. 2015).

A score says more about a payment than fraud or not, so fewer trees learn it. Students of several
depths are fitted and each is pruned; the smallest whose loss is permitted is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fraudstream.training.boosting import Examples, Fitter
from fraudstream.training.optimize import prune
from fraudstream.training.optimize.forest import Forest
from fraudstream.training.optimize.loss import Allowance
from fraudstream.training.recipe import BoosterSettings

DEPTHS: Final = (3, 4, 5)
_ROUNDS: Final = 100
#: Of leaves: a score near 0 or 1 weighs little, and what is learnt has no noise to be wary of.
_WEIGHT: Final = 0.1
#: Few trees have to go far.
_LEARNING_RATE: Final = 0.5
#: How often `distil` tells that it goes on.
STEPS: Final = len(DEPTHS) * (1 + prune.STEPS)


@dataclass(frozen=True, slots=True)
class Student:
    """A student, and the depth that its trees may have."""

    forest: Forest
    depth: int


def distil(
    examples: Examples, columns: tuple[str, ...], allowance: Allowance, on_step: Callable[[], None]
) -> Student:
    """Find the smallest student whose loss is permitted, or the one that loses least.

    Parameters
    ----------
    examples
        Vectors, and as their target the teacher's scores before any calibration.
    columns
        The features' names.
    allowance
        What may be lost.
    on_step
        Told `STEPS` times on the way.
    """
    students = []
    for depth in DEPTHS:
        settings = BoosterSettings(
            rounds_max=_ROUNDS,
            learning_rate=_LEARNING_RATE,
            max_depth=depth,
            min_child_weight=_WEIGHT,
            reg_lambda=_WEIGHT,
        )
        fitted = Forest.read(Fitter(columns, seed=1).fit(examples, settings, _ROUNDS))
        on_step()
        students.append(Student(prune.prune(fitted, allowance, on_step), depth))
    permitted = [student for student in students if allowance.permits(student.forest)]
    if permitted:
        return min(permitted, key=lambda student: len(student.forest.write()))
    return min(students, key=lambda student: allowance.loss(student.forest))
