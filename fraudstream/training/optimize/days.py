"""Which days variants learn from, and which they are judged on.

    teacher's training ───────────────┃─ label delay ─┃─ judged ─────────┃ end of the data
    ── a student learns ── chosen on ─┃

Judged are days that neither the teacher nor a variant learnt from, cards left out that are known to
be compromised. Where the data do not go that far, their last week is judged, and marked: there
both look better than they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fraudstream.errors import UsageError
from fraudstream.manifest import Training
from fraudstream.profile import DAY_MS
from fraudstream.replay.span import parse_time
from fraudstream.training.dataset import LabelledVectors, require_both_kinds
from fraudstream.training.protocol import Fold, judged_rows

_JUDGED_DAYS: Final = 7
_CHOSEN_ON_DAYS: Final = 7


@dataclass(frozen=True, slots=True, eq=False)
class Days:
    """How the data are divided.

    Attributes
    ----------
    learnt
        What a student learns from: days of the teacher's training.
    chosen_on
        The last of them, on which it is chosen how small a variant may be.
    judged, judged_ms
        What certificates are about, and its bounds.
    is_of_training
        ``judged`` lies in the teacher's training, for the data end too soon after it.
    """

    learnt: LabelledVectors
    chosen_on: LabelledVectors
    judged: LabelledVectors
    judged_ms: tuple[int, int]
    is_of_training: bool


def divide(rows: LabelledVectors, training: Training) -> Days:
    """Divide labelled rows by the teacher's training period.

    Parameters
    ----------
    rows
        In event-time order, with the teacher's features.
    training
        How the teacher was made.

    Raises
    ------
    UsageError
        No row is of its training, or what is to be judged has no frauds.
    """
    train_ms = (
        parse_time(training.train.start, "train.start"),
        parse_time(training.train.end, "train.end"),
    )
    delay_days = training.label_delay_days
    judged_from_ms = train_ms[1] + delay_days * DAY_MS
    judged_ms = (judged_from_ms, max(judged_from_ms, rows.end_ms))
    judged = judged_rows(rows, Fold(train_ms, judged_ms), delay_days)
    is_of_training = not judged.is_fraud.any() or bool(judged.is_fraud.all())
    if is_of_training:
        judged_ms = (rows.end_ms - _JUDGED_DAYS * DAY_MS, rows.end_ms)
        judged = judged_rows(rows, Fold(train_ms, judged_ms), delay_days)
        require_both_kinds(judged, f"the last {_JUDGED_DAYS} days, which are to be judged")
    learnt = rows.between(train_ms[0], min(train_ms[1], judged_ms[0]))
    if not len(learnt):
        raise UsageError(
            f"the data hold nothing of the days that the model learnt from "
            f"({training.train.start[:10]} to before {training.train.end[:10]}) and that are not "
            "judged: give the file that it was trained on, or a longer one"
        )
    chosen_on = learnt.between(learnt.end_ms - _CHOSEN_ON_DAYS * DAY_MS, learnt.end_ms)
    return Days(learnt, chosen_on, judged, judged_ms, is_of_training)
