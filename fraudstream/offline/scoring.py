"""Features of a file → scores and outcomes, as the stream would have given them.

    stretch ─ evaluator ─▶ vectors ─ model ─▶ scores ─ policy ─▶ outcomes
                                                └──────┬────────────┘
                             transaction_id, score, outcome: one row a payment

The model, the policy's comparison and the features are those of a worker whose profiles are whole:
nothing here is decided by the fallback model. A payment that is in the file twice is scored twice,
alike, because its windows are those of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from fraudstream.bundle import Bundle
from fraudstream.decision import Outcome, Policy, number_outcomes
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.labels import LabelRule
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Evaluated, Plan, Tally
from fraudstream.offline.writing import Output, describe, write_evaluated

_OUTCOMES = (Outcome.APPROVE, Outcome.REVIEW, Outcome.DECLINE)


class Scorer:
    """Scores payments with a bundle's model under a policy.

    Parameters
    ----------
    bundle
        Whose model scores, and whose features are made.
    policy
        What makes outcomes of scores.
    currency
        The profiles' currency.
    labels
        When findings become known; None without any.

    Attributes
    ----------
    evaluator
        Makes the model's columns.
    counts
        How many payments had each outcome so far.

    Raises
    ------
    UsageError
        The model's features read labels, and no rule says when these became known.
    """

    def __init__(
        self, bundle: Bundle, policy: Policy, currency: str, labels: LabelRule | None
    ) -> None:
        names = [feature.name for feature in bundle.features]
        self.evaluator = Evaluator(bundle.feature_set, currency, labels, names)
        self.counts: Counter[Outcome] = Counter()
        self._bundle, self._policy = bundle, policy

    def frame(self, part: Evaluated) -> pl.DataFrame:
        """Give the rows that are written of a stretch, and count them."""
        scores = self._bundle.model.score(part.vectors)
        numbers = number_outcomes(scores, self._policy)
        for outcome, count in zip(_OUTCOMES, np.bincount(numbers, minlength=3), strict=True):
            self.counts[outcome] += int(count)
        words = pl.Series("outcome", [outcome.value for outcome in _OUTCOMES])
        texts = part.payments.texts["transaction_id"][part.first :]
        return pl.DataFrame([texts, pl.Series("score", scores), words.gather(numbers)])

    def describe(self) -> dict[str, str]:
        """Say which model and policy a file was made with, and when they knew of frauds."""
        bundle = self._bundle
        return {
            "fraudstream.model": f"{bundle.name} {bundle.version} {bundle.sha256}",
            "fraudstream.policy": self._policy.version,
            **describe(self.evaluator),
        }


def write_scores(
    source: PaymentSource,
    name: str,
    out: Path,
    plan: Plan,
    scorer: Scorer,
    on_progress: Callable[[int], None],
) -> Tally:
    """Score a file's payments.

    Parameters
    ----------
    source, name
        The payments, and their file's name for messages.
    out
        A Parquet file: ``transaction_id``, ``score`` (float32) and ``outcome``, in the order of
        the file that is read.
    plan
        Which rows are scored; its evaluator is the scorer's.
    scorer
        What scores them.
    on_progress
        Told how many rows of the stream are done.

    Raises
    ------
    UsageError
        As for `fraudstream.offline.writing.write_evaluated`.
    """
    output = Output(out, scorer.frame, scorer.describe())
    return write_evaluated(source, name, plan, output, on_progress)
