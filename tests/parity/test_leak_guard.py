"""Average precision on the reference data, clean and with defects put in on purpose.

    clean ─────────────────▶ inside its band: above it something knows too much, below it is broken
    a defect put in ───────▶ moves the figure as far as it is known to move it, or half of that

The handbook's own model (100 trees of depth 3 at rate 0.1) learns for 7 days, its labels come 7
days later, and it is judged on the 7 days after that; four such folds end with 2018-07-31, the
validation folds. The stated figures are of later, the test folds, whose reference is 0.690: so what
is compared is how far a defect moves the figure. Here the reference is 0.704.

=====================================  ======  ============  ==========
defect                                 stated  moves it by   moves here
=====================================  ======  ============  ==========
labels known at once                   .906    +.216         +.193
own label in the terminal's rate       .990    +.300         +.269
rate always 0, learnt and served       .266    −.424         −.394
rate always 0, served alone            .266    −.424         −.388
no profile features, served alone      .209    −.481         −.482
=====================================  ======  ============  ==========

Whether a model has learnt what the rates are without labels hardly matters; having learnt it is
nearer to what is stated. Two other defects, a present payment that is not counted and counts that
are doubled, move the figure by less than 0.01: those are found by comparing features alone
(``test_offline_twin.py``). The data are simulated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT
from numpy.typing import NDArray
from reference import PUBLISHED_NAMES, TRANSACTIONS
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from fraudstream.cli.reading import read_mapping
from fraudstream.feature_files import default_feature_set
from fraudstream.feature_set import FeatureSet, parse_feature_set
from fraudstream.offline.contract import Rules
from fraudstream.offline.evaluator import Evaluator
from fraudstream.offline.labels import LabelsAfter
from fraudstream.offline.sources import PaymentSource
from fraudstream.offline.stretches import Plan, Tally, evaluate_stretches
from fraudstream.profile import DAY_MS
from fraudstream.score import Model
from fraudstream.training.boosting import Examples, Fitter
from fraudstream.training.dataset import LabelledVectors, concatenate
from fraudstream.training.protocol import FoldPlan, cut_folds, each_fold
from fraudstream.training.recipe import BoosterSettings

pytestmark = pytest.mark.reference_data

Vectors = NDArray[np.float32]

#: The first training week begins on 2018-06-20.
FROM_MS = 1_529_452_800_000
DELAY_DAYS = 7
PLAN = FoldPlan(count=4, train_days=7, label_delay_days=DELAY_DAYS, test_days=7)
NAMES = ("amount", *PUBLISHED_NAMES)
RATES = [NAMES.index(name) for name in NAMES if name.startswith("terminal_fraud_rate")]
COUNTS = [NAMES.index(name) for name in NAMES if name.startswith("terminal_tx_count")]
STATELESS = ("amount", "is_weekend", "is_night")
TREES = 100
BOOSTER = BoosterSettings(
    rounds_max=TREES, rounds_step=TREES, learning_rate=0.1, max_depth=3, max_bin=4096
)
REFERENCE = 0.690


@dataclass(frozen=True)
class Guard:
    """The payments, their clean vectors, and the row numbers of each fold's two periods."""

    rows: LabelledVectors
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]

    def fit(self, learnt: Vectors) -> list[Model]:
        """Fit each fold's model on vectors of all rows."""

        def fit_one(fold: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Model:
            examples = Examples(learnt[fold[0]], self.rows.is_fraud[fold[0]])
            return Model(Fitter(NAMES, seed=1).fit(examples, BOOSTER, TREES), NAMES)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(fit_one, self.folds))

    def judge(self, models: list[Model], served: Vectors) -> float:
        """Give the mean over folds of the average precision, with vectors of all rows."""
        figures = [
            average_precision_score(self.rows.is_fraud[test], model.score(served[test]))
            for model, (_, test) in zip(models, self.folds, strict=True)
        ]
        return float(np.mean(figures))


def read_rows(reference_data: Path, feature_set: FeatureSet, delay_ms: int) -> LabelledVectors:
    """Make the vectors of all payments of the folds, with all their past."""
    mapping = read_mapping(ROOT / "configs/mappings/handbook.yaml")
    source = PaymentSource(reference_data / TRANSACTIONS, Rules(mapping=mapping, needs_truth=True))
    names = [feature.name for feature in feature_set.features]
    chosen = [next(name for name in names if without_lag(name) == own) for own in OWN_NAMES]
    evaluator = Evaluator(feature_set, labels=LabelsAfter(delay_ms), names=chosen)
    parts = []
    plan = Plan(evaluator, from_ms=FROM_MS)
    for part in evaluate_stretches(source, TRANSACTIONS, plan, Tally()):
        payments, first = part.payments, part.first
        assert payments.is_fraud is not None
        texts = payments.texts[first:]
        nothing = np.full(len(texts), "", dtype=np.object_)
        parts.append(
            LabelledVectors(
                part.vectors,
                payments.is_fraud[first:],
                payments.event_time_ms[first:],
                payments.amount_base_minor[first:],
                texts["transaction_id"].to_numpy(),
                texts["card_id"].to_numpy(),
                nothing,
            )
        )
    return concatenate(parts)


def without_lag(name: str) -> str:
    return name.partition("_lag")[0]


#: The fifteen, whatever lag a feature set gives them.
OWN_NAMES = tuple(without_lag(name) for name in NAMES)


@pytest.fixture(scope="module")
def guard(reference_data: Path) -> Guard:
    rows = read_rows(reference_data, default_feature_set(), DELAY_DAYS * DAY_MS)
    folds = cut_folds(rows.start_ms, rows.end_ms, PLAN)
    # Row numbers in the place of amounts, which are not looked at here.
    numbered = replace(rows, amount_minor=np.arange(len(rows)))
    periods = [
        (train.amount_minor, test.amount_minor)
        for train, test in each_fold(numbered, folds, DELAY_DAYS)
    ]
    return Guard(rows, periods)


@pytest.fixture(scope="module")
def clean_models(guard: Guard) -> list[Model]:
    return guard.fit(guard.rows.vectors)


@pytest.fixture(scope="module")
def clean(guard: Guard, clean_models: list[Model]) -> float:
    return guard.judge(clean_models, guard.rows.vectors)


def as_they_are(guard: Guard) -> Vectors:
    return guard.rows.vectors.copy()


def with_own_label(guard: Guard) -> Vectors:
    """Count the payment itself, and what it turned out to be, in its terminal's rates."""
    vectors = guard.rows.vectors.copy()
    counts = vectors[:, COUNTS]
    frauds = vectors[:, RATES] * counts + guard.rows.is_fraud[:, None]
    vectors[:, RATES] = frauds / (counts + 1)
    return vectors


def with_rate_0(guard: Guard) -> Vectors:
    """Let no label reach the profiles."""
    vectors = guard.rows.vectors.copy()
    vectors[:, RATES] = 0
    return vectors


def without_profiles(guard: Guard) -> Vectors:
    """Serve what is known when the cache is missing."""
    vectors = guard.rows.vectors.copy()
    vectors[:, [name not in STATELESS for name in NAMES]] = np.nan
    return vectors


def require_moved(moved: float, stated: float) -> None:
    """Hold a defect to at least half of what it is known to do, in its own direction."""
    expected = stated - REFERENCE
    assert moved / expected >= 0.5, f"{moved:+.3f}, and {expected:+.3f} is stated"


def test_the_folds_are_the_published_validation_folds(guard: Guard) -> None:
    weeks = [
        [guard.rows.event_time_ms[rows[[0, -1]]] // DAY_MS for rows in fold] for fold in guard.folds
    ]
    first_day = FROM_MS // DAY_MS
    for number, (train, test) in enumerate(weeks):
        assert (train - first_day).tolist() == [7 * number, 7 * number + 6]
        assert (test - first_day).tolist() == [7 * number + 14, 7 * number + 20]


def test_the_clean_figure_lies_in_its_band(clean: float) -> None:
    """With fifteen features and a week to learn from, above means a leak; published is .705."""
    assert 0.70 <= clean <= 0.72


def test_without_a_defect_nothing_moves(guard: Guard, clean: float) -> None:
    vectors = as_they_are(guard)
    assert guard.judge(guard.fit(vectors), vectors) == clean
    for stated in (0.906, 0.990, 0.266, 0.209):
        with pytest.raises(AssertionError):
            require_moved(0.0, stated)


@pytest.mark.parametrize(("defect", "stated"), [(with_own_label, 0.990), (with_rate_0, 0.266)])
def test_a_defect_that_is_learnt_and_served_shows(
    defect: Callable[[Guard], Vectors], stated: float, guard: Guard, clean: float
) -> None:
    vectors = defect(guard)
    require_moved(guard.judge(guard.fit(vectors), vectors) - clean, stated)


@pytest.mark.parametrize(("defect", "stated"), [(with_rate_0, 0.266), (without_profiles, 0.209)])
def test_a_defect_that_is_served_alone_shows(
    defect: Callable[[Guard], Vectors],
    stated: float,
    guard: Guard,
    clean: float,
    clean_models: list[Model],
) -> None:
    require_moved(guard.judge(clean_models, defect(guard)) - clean, stated)


def test_labels_that_are_known_at_once_show(
    reference_data: Path, guard: Guard, clean: float
) -> None:
    """Rates up to the present payment, of labels that are known when their payments are made."""
    document = copy.deepcopy(default_feature_set().document)
    for line in document["features"]:
        line.pop("lag", None)
    leaking = read_rows(reference_data, parse_feature_set(document), delay_ms=0)
    assert (leaking.transaction_id == guard.rows.transaction_id).all()
    vectors = leaking.vectors
    require_moved(guard.judge(guard.fit(vectors), vectors) - clean, 0.906)
