"""Figures by hand, and those of the command against scikit-learn's and a plain count."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from evaluated import DAYS, LEARNT_DAYS, MEASURED_FROM_MS, START_MS, World, make_world, payments
from evaluated import scores_of as scored
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    brier_score_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from typer.testing import CliRunner, Result

from fraudstream.cli import app
from fraudstream.decision import Policy
from fraudstream.errors import UsageError
from fraudstream.event import format_time
from fraudstream.profile import DAY_MS
from fraudstream.training.dataset import LabelledVectors
from fraudstream.training.detection import (
    by_cards_per_day,
    by_share,
    by_threshold,
    detect,
    precision_recall_curve,
    reaches,
    value_detected_share,
)
from fraudstream.training.evaluation import EvaluationPlan, cut_periods, evaluate
from fraudstream.training.figures import Figures, Judged, Lines, by_segment, summarise_figures
from fraudstream.training.importance import importance_of
from fraudstream.training.provenance import Span, choose_span, describe_labels
from fraudstream.training.quality import CardDays
from fraudstream.training.reliability import reliability_of, spread_of

POLICY = Policy(review_threshold=0.3, decline_threshold=0.8, fallback_review_threshold=0.3)
END_MS = START_MS + DAYS * DAY_MS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("evaluated"))


def plan_of(fold_days: int = 6, segment: str | None = None) -> EvaluationPlan:
    return EvaluationPlan(
        POLICY, 7 * DAY_MS, "world.parquet", END_MS, fold_days=fold_days, segment=segment
    )


# ------------------------------------------------------------------ cards a day


def test_of_equal_cards_the_first_by_name_is_looked_at() -> None:
    rows = payments((0, "b", True), (0, "a", False), (0, "c", True))
    work = CardDays(rows).look(scored(0.5, 0.5, 0.5), 1)
    assert (work.looked_at, work.found, work.precision) == (1, 0, 0.0)
    assert work.is_detected.tolist() == [False, True, False]


def test_a_found_card_leaves_and_one_that_was_not_found_stays() -> None:
    """Card a is found on day 0. b is looked at on days 0 and 1, and found on the second."""
    rows = payments(
        *((0, "a", True), (0, "b", False), (0, "c", True)),
        *((1, "a", True), (1, "b", True), (1, "c", False)),
    )
    work = CardDays(rows).look(scored(0.9, 0.8, 0.1, 0.9, 0.8, 0.1), 2)
    assert work.precision == (1 / 2 + 1 / 2) / 2
    # On day 1 a is blocked, so b and c are looked at.
    assert (work.looked_at, work.found) == (4, 2)
    assert work.is_detected.tolist() == [True, True, False, True, True, True]


def test_fewer_cards_than_can_be_looked_at_do_not_lower_the_bar() -> None:
    rows = payments((0, "a", True), (0, "a", False), (0, "b", False))
    work = CardDays(rows).look(scored(0.1, 0.2, 0.3), 10)
    assert (work.precision, work.looked_at, work.found) == (1 / 10, 2, 1)


def test_a_card_counts_once_a_day_with_its_highest_score() -> None:
    rows = payments((0, "a", False), (0, "a", True), (0, "a", True), (0, "b", False))
    work = CardDays(rows).look(scored(0.1, 0.2, 0.9, 0.5), 1)
    assert (work.found, work.precision) == (1, 1.0)
    assert work.is_detected.tolist() == [True, True, True, False]


def test_found_cards_are_back_in_the_next_fold_even_after_a_day_without_payments() -> None:
    rows = payments((0, "a", True), (1, "a", True), (4, "a", True))
    scores = scored(0.9, 0.9, 0.9)
    assert CardDays(rows).look(scores, 1).precision == 1 / 3
    back = CardDays(rows, returns_ms=(2 * DAY_MS,)).look(scores, 1)
    assert (back.found, back.precision) == (2, 2 / 3)


def test_work_by_hand() -> None:
    """One card a day finds a on day 0, so its fraud of day 1 is detected; b's never is."""
    rows = payments(
        *((0, "a", True), (0, "b", True), (1, "a", True), (1, "c", False)),
        amounts_minor=[100, 700, 200, 900],
    )
    scores = scored(0.9, 0.5, 0.9, 0.8)
    found = {at.cards_per_day: at for at in by_cards_per_day(scores, rows, 1)}
    assert sorted(found) == [1, 10, 20, 50, 100, 200, 500]
    assert (found[1].recall, found[1].value_detected_share) == (2 / 3, 300 / 1000)
    assert (found[1].card_precision, found[1].card_precision_best) == (1 / 2, 1 / 2)
    assert (found[1].cards_looked_at, found[1].cards_found) == (2, 1)
    assert (found[10].recall, found[10].value_detected_share) == (1.0, 1.0)


# ------------------------------------------------------------------ lines on the score


def test_a_score_equal_to_the_threshold_is_an_alert() -> None:
    assert reaches(scored(0.7, 0.69999, 0.70001), 0.7).tolist() == [True, False, True]


def test_detection_by_hand() -> None:
    rows = payments(
        *((0, "a", True), (0, "b", True), (1, "c", False), (1, "d", False), (1, "e", False)),
        amounts_minor=[300, 100, 50, 50, 50],
    )
    found = detect(np.array([True, False, True, False, False]), rows)
    assert asdict(found) == {
        "alerts": 2,
        "alert_rate": 2 / 5,
        "alerts_per_day": 1.0,
        "frauds_detected": 1,
        "precision": 1 / 2,
        "recall": 1 / 2,
        "value_detected_share": 300 / 400,
        "false_positive_rate": 1 / 3,
    }


def test_where_nothing_can_be_divided_there_is_no_figure() -> None:
    genuine = payments((0, "a", False), (0, "b", False))
    none = detect(np.array([False, False]), genuine)
    assert (none.precision, none.recall, none.value_detected_share) == (None, None, None)
    assert none.false_positive_rate == 0.0


def test_frauds_without_an_amount_count_in_no_value() -> None:
    rows = payments((0, "a", True), (0, "b", True), (0, "c", True), amounts_minor=[100, -1, 300])
    assert value_detected_share(np.array([True, True, False]), rows) == 100 / 400
    unknown = replace(rows, amount_minor=np.full(3, -1))
    assert value_detected_share(np.array([True, True, False]), unknown) is None


def test_the_policy_s_thresholds_are_among_the_others() -> None:
    rows = payments((0, "a", True), (0, "b", False), (0, "c", False))
    lines = by_threshold(scored(0.9, 0.42, 0.1), rows, Policy(0.42, 0.9, 0.5))
    thresholds = [at.score_threshold for at in lines]
    assert thresholds == sorted(thresholds)
    assert {at.policy: at.score_threshold for at in lines if at.policy} == {
        "review": 0.42,
        "decline": 0.9,
    }
    assert next(at for at in lines if at.policy == "review").detection.alerts == 2
    both = by_threshold(scored(0.9, 0.4, 0.1), rows, Policy(0.5, 0.5, 0.5))
    assert [at.score_threshold for at in both if at.policy == "review, decline"] == [0.5]


def test_a_share_of_payments_takes_the_highest_scores_and_of_equal_ones_the_earlier() -> None:
    rows = payments(*((number / 1000, f"c{number}", number < 20) for number in range(200)))
    scores = np.full(200, 0.5, dtype=np.float32)
    scores[:2] = 0.9
    found = {at.share_of_payments: at for at in by_share(scores, rows)}
    assert (found[0.01].detection.alerts, found[0.01].score_threshold) == (
        2,
        float(np.float32(0.9)),
    )
    assert (found[0.02].detection.frauds_detected, found[0.02].score_threshold) == (4, 0.5)
    assert (found[0.05].detection.precision, found[0.05].detection.recall) == (1.0, 0.5)
    # 0.05 % of 200 payments is none.
    assert (found[0.0005].detection.alerts, found[0.0005].score_threshold) == (0, None)


def test_each_point_of_the_curve_is_a_threshold_s_precision_and_recall() -> None:
    rng = np.random.default_rng(5)
    is_fraud = rng.random(3_000) < 0.1
    # Rounded, so that many scores are equal.
    scores = np.round(rng.random(3_000) * 0.6 + is_fraud * 0.3, 2).astype(np.float32)
    curve = precision_recall_curve(scores, is_fraud)
    assert curve[-1].recall == 1.0
    assert [at.recall for at in curve] == sorted({at.recall for at in curve})
    for at in curve:
        alerts = scores >= np.float32(at.score_threshold)
        assert at.precision == pytest.approx(precision_score(is_fraud, alerts))
        assert at.recall == pytest.approx(recall_score(is_fraud, alerts))


# ------------------------------------------------------------------ scores as such


def test_calibration_by_hand() -> None:
    """Scores 0.05 and 0.15 lie in two bins; 0.7 and 1.0 belong to the bins that begin there."""
    scores = scored(0.05, 0.05, 0.15, 0.7, 1.0)
    is_fraud = np.array([False, True, False, True, True])
    found = reliability_of(scores, is_fraud)
    counts = [(at.payments, at.frauds) for at in found.bins]
    assert counts == [(2, 1), (1, 0), *[(0, 0)] * 5, (1, 1), (0, 0), (1, 1)]
    assert found.bins[0].score_mean == pytest.approx(0.05)
    assert found.bins[0].fraud_share == 0.5
    low, high = found.bins[0].fraud_share_low, found.bins[0].fraud_share_high
    assert low is not None
    assert high is not None
    assert 0 < low < 0.5 < high < 1
    assert found.bins[2].score_mean is None
    error = 2 / 5 * abs(0.05 - 0.5) + 1 / 5 * 0.15 + 1 / 5 * 0.3
    assert found.expected_calibration_error == pytest.approx(error)
    assert found.brier_score == pytest.approx(brier_score_loss(is_fraud, scores))
    assert found.brier_score_of_constant == pytest.approx(0.6 * 0.4)


def test_scores_are_counted_where_they_lie() -> None:
    spread = spread_of(scored(0.0, 0.05, 0.3, 0.7, 1.0), np.array([False, True, False, True, True]))
    found = {at.score_from: (at.frauds, at.genuine) for at in spread if at.frauds or at.genuine}
    assert found == {0.0: (0, 1), 0.05: (1, 0), 0.3: (0, 1), 0.7: (1, 0), 0.95: (1, 0)}


# ------------------------------------------------------------------ folds and segments


def test_periods_follow_each_other_and_the_last_may_be_shorter() -> None:
    span = Span(10 * DAY_MS, 25 * DAY_MS, is_in_sample=False, warnings=())
    found = [fold.test_ms for fold in cut_periods(span, plan_of(fold_days=7))]
    assert [(start // DAY_MS, end // DAY_MS) for start, end in found] == [
        (10, 17),
        (17, 24),
        (24, 25),
    ]


def figures(auc: float | None, recall: float | None = 0.5) -> Figures:
    return Figures(9, 3, auc, 0.5, 0.5, 0.5, 0.5, 0.5, recall, 0.5, 0.5)


def test_means_and_deviations_are_of_what_every_fold_has() -> None:
    mean, deviation = summarise_figures([figures(0.5), figures(0.7), figures(0.9, recall=None)])
    assert mean["auc_roc"] == pytest.approx(0.7)
    assert deviation["auc_roc"] == pytest.approx(0.2)
    assert (mean["recall"], deviation["recall"]) == (None, None)
    assert "payments" not in mean
    alone, nothing = summarise_figures([figures(0.5)])
    assert (alone["auc_roc"], nothing["auc_roc"]) == (0.5, None)
    assert set(summarise_figures([])[0].values()) == {None}


def test_segments_by_hand() -> None:
    """Of 14 values twelve are shown; one of them has no fraud, and one has nothing else."""
    lines: list[tuple[float, str, bool]] = []
    segments: list[str] = []
    for number in range(14):
        for repeated in range(20 - number):
            truth = (repeated % 2 == 0 and number != 3) or number == 4
            lines.append((len(lines) / 1000, f"c{repeated}", truth))
            segments.append(f"value{number:02}" if number else "")
    rows = payments(*lines, segments=segments)
    scores = np.where(rows.is_fraud, 0.9, 0.1).astype(np.float32)
    found = list(by_segment(Judged(rows, scores), Lines(0.3, 100)))
    assert [at.value for at in found[:2]] == ["", "value01"]
    assert [at.figures.payments for at in found[:12]] == list(range(20, 8, -1))
    assert (found[12].value, found[12].is_rest) == ("2 other values", True)
    assert found[12].figures.payments == 8 + 7
    assert len(found) == 13
    assert (found[0].figures.auc_roc, found[0].figures.recall) == (1.0, 1.0)
    no_fraud, all_fraud = found[3].figures, found[4].figures
    assert (no_fraud.auc_roc, no_fraud.card_precision, no_fraud.recall) == (None, None, None)
    assert (no_fraud.alert_rate, no_fraud.false_positive_rate) == (0.0, 0.0)
    assert (all_fraud.average_precision, all_fraud.recall) == (None, 1.0)


# ------------------------------------------------------------------ what is measured


def test_what_the_model_cannot_know_is_measured_by_default(world: World) -> None:
    span = choose_span(world.rows, world.bundle, None)
    assert (span.start_ms, span.end_ms, span.is_in_sample) == (MEASURED_FROM_MS, END_MS, False)
    assert span.warnings == ()


def test_what_the_model_learnt_from_is_measured_with_a_warning(world: World) -> None:
    learnt_end_ms = START_MS + LEARNT_DAYS * DAY_MS
    span = choose_span(world.rows.between(START_MS, learnt_end_ms), world.bundle, None)
    assert (span.start_ms, span.end_ms, span.is_in_sample) == (START_MS, learnt_end_ms, True)
    assert span.warnings[0].startswith("The model learnt from these payments (2026-01-15 to before")
    assert "look back" in span.warnings[1].replace("looks", "look")
    # Other payments of the same days: who knows.
    others = replace(world.rows, is_fraud=~world.rows.is_fraud)
    span = choose_span(others, world.bundle, START_MS + 14 * DAY_MS)
    assert span.is_in_sample
    assert "if it learnt from these payments" in span.warnings[0]


def test_a_model_of_later_days_is_said_to_know_the_future(world: World) -> None:
    span = choose_span(world.rows.between(START_MS, START_MS + 14 * DAY_MS), world.bundle, None)
    assert not span.is_in_sample
    assert "learnt from later days" in span.warnings[0]


def test_days_that_the_data_do_not_have_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match="from 2026-02-26 on: the data end on 2026-02-25"):
        choose_span(world.rows, world.bundle, END_MS)


def test_label_maturity_is_a_sentence() -> None:
    found = describe_labels(7 * DAY_MS, END_MS - 30 * DAY_MS, END_MS, "all reported.")
    assert (found.known_after_days, found.youngest_days) == (7.0, 30)
    assert found.statement == (
        "Labels are known after 7 days; the last measured day ends 30 days before the data do: "
        "frauds reported later are missing. All reported."
    )


def known_by_then(rows: LabelledVectors, start_day: int, day: int) -> set[str]:
    """Count cards as the protocol says: a week before the delay began, up to the delay."""
    return {
        str(card)
        for card, time_ms, is_fraud in zip(
            rows.card_id, rows.event_time_ms, rows.is_fraud, strict=True
        )
        if is_fraud and start_day - 7 - 7 <= time_ms // DAY_MS <= day - 7 - 1
    }


def judged_by_hand(rows: LabelledVectors, start_ms: int, end_ms: int) -> NDArray[np.bool_]:
    start_day = start_ms // DAY_MS
    known = {day: known_by_then(rows, start_day, day) for day in range(start_day, end_ms // DAY_MS)}
    return np.array(
        [
            start_ms <= time_ms < end_ms and card not in known[int(time_ms) // DAY_MS]
            for card, time_ms in zip(rows.card_id, rows.event_time_ms, strict=True)
        ]
    )


FOLDS = (
    (MEASURED_FROM_MS, MEASURED_FROM_MS + 6 * DAY_MS),
    (MEASURED_FROM_MS + 6 * DAY_MS, MEASURED_FROM_MS + 12 * DAY_MS),
    (MEASURED_FROM_MS + 12 * DAY_MS, END_MS),
)


def test_figures_are_those_of_a_plain_count(world: World) -> None:
    rows, model = world.rows, world.bundle.model
    found = evaluate(world.bundle, rows, plan_of(segment="channel"))
    masks = [judged_by_hand(rows, *bounds) for bounds in FOLDS]
    for fold, bounds, mask in zip(found.folds, FOLDS, masks, strict=True):
        assert fold.measured_from == format_time(bounds[0])
        assert fold.figures.payments == mask.sum() > 0
        assert fold.known_card_payments == len(rows.between(*bounds)) - mask.sum() > 0
        truth, scores = rows.is_fraud[mask], model.score(rows.vectors[mask])
        assert fold.figures.auc_roc == pytest.approx(roc_auc_score(truth, scores))
        assert fold.figures.average_precision == pytest.approx(
            average_precision_score(truth, scores)
        )
    assert [fold.left_out_because for fold in found.folds] == [
        None,
        None,
        "shorter than the others",
    ]
    precisions = [fold.figures.average_precision for fold in found.folds[:2]]
    assert found.mean["average_precision"] == pytest.approx(np.mean(np.array(precisions)))
    assert found.deviation["average_precision"] == pytest.approx(
        np.std(np.array(precisions), ddof=1)
    )
    together = np.flatnonzero(np.any(masks, axis=0))
    truth, scores = rows.is_fraud[together], model.score(rows.vectors[together])
    assert found.together.auc_roc == pytest.approx(roc_auc_score(truth, scores))
    assert found.calibration.brier_score == pytest.approx(brier_score_loss(truth, scores))
    for at in found.by_threshold:
        alerts = scores >= np.float32(at.score_threshold)
        assert at.detection.recall == pytest.approx(recall_score(truth, alerts))
        assert at.detection.alerts == alerts.sum()
    assert sum(at.frauds for at in found.score_distribution) == truth.sum()
    by_channel = Counter(rows.segment[together])
    assert {at.value: at.figures.payments for at in found.by_segment} == by_channel


def test_the_mean_of_card_precision_over_whole_folds_is_that_of_their_days(world: World) -> None:
    """12 days, 2 folds: the table by cards a day begins each fold anew, as the folds do."""
    found = evaluate(world.bundle, world.rows.between(START_MS, FOLDS[1][1]), plan_of())
    at = next(at for at in found.by_cards_per_day if at.cards_per_day == 100)
    assert at.card_precision == pytest.approx(found.mean["card_precision"])
    assert at.card_precision_best == pytest.approx(found.mean["card_precision_best"])
    assert found.together.card_precision == at.card_precision


def test_a_fold_without_fraud_counts_in_no_mean_and_says_so(world: World) -> None:
    quiet_ms = (MEASURED_FROM_MS, MEASURED_FROM_MS + 6 * DAY_MS)
    rows = world.rows
    is_quiet = (rows.event_time_ms >= quiet_ms[0]) & (rows.event_time_ms < quiet_ms[1])
    found = evaluate(world.bundle, replace(rows, is_fraud=rows.is_fraud & ~is_quiet), plan_of())
    first, second, _ = found.folds
    assert first.left_out_because == "no fraud"
    assert first.figures.auc_roc is None
    assert first.figures.false_positive_rate is not None
    assert found.mean["auc_roc"] == second.figures.auc_roc
    assert any("counts in no mean: no fraud" in warning for warning in found.warnings)


def test_one_short_fold_is_better_than_none(world: World) -> None:
    found = evaluate(world.bundle, world.rows, plan_of(fold_days=30))
    assert [fold.left_out_because for fold in found.folds] == [None]
    assert found.mean["auc_roc"] == pytest.approx(found.together.auc_roc)
    assert set(found.deviation.values()) == {None}


@pytest.mark.parametrize(("truth", "words"), [(False, "no fraud"), (True, "no genuine payment")])
def test_nothing_to_tell_apart_is_refused(world: World, *, truth: bool, words: str) -> None:
    # Cards of their own, so that none is known to be compromised.
    rows = replace(
        world.rows,
        is_fraud=np.full(len(world.rows), truth),
        card_id=np.array([f"c{number}" for number in range(len(world.rows))], dtype=object),
    )
    with pytest.raises(UsageError, match=rf"there is {words} in what is measured \(2026-02-12 to"):
        evaluate(world.bundle, rows, plan_of())


def test_what_moves_scores_is_what_decisions_give_as_reasons(world: World) -> None:
    rows = world.rows.between(MEASURED_FROM_MS, END_MS)
    is_alert = reaches(world.bundle.model.score(rows.vectors), 0.3)
    found = importance_of(world.bundle, rows.vectors, is_alert)
    assert found.alerts_sampled == is_alert.sum()
    assert found.payments_sampled == 1_000
    contributions = world.bundle.model.contributions(rows.vectors[is_alert])
    names = [feature.name for feature in world.bundle.features]
    by_feature = {at.feature: at.mean_abs_log_odds_alerts for at in found.by_feature}
    for column, name in enumerate(names):
        assert by_feature[name] == pytest.approx(np.abs(contributions[:, column]).mean())
    totals: dict[str, Any] = defaultdict(lambda: 0)
    for column, name in enumerate(names):
        totals[world.bundle.reasons[name][0]] += contributions[:, column]
    by_reason = {at.reason_code: at.mean_abs_log_odds_alerts for at in found.by_reason}
    assert set(by_reason) == set(totals)
    for code, total in totals.items():
        assert by_reason[code] == pytest.approx(np.abs(total).mean(), rel=1e-5)
    shares = [at.leading_share_alerts or 0 for at in found.by_reason]
    assert sum(shares) == pytest.approx(1)
    sizes = [at.mean_abs_log_odds_alerts or 0 for at in found.by_reason]
    assert sizes == sorted(sizes, reverse=True)


def test_without_alerts_importance_is_that_of_all_payments(world: World) -> None:
    vectors = world.rows.vectors[:50]
    found = importance_of(world.bundle, vectors, np.zeros(50, dtype=np.bool_))
    assert (found.alerts_sampled, found.payments_sampled) == (0, 50)
    assert {at.mean_abs_log_odds_alerts for at in found.by_reason} == {None}
    assert {at.leading_share_alerts for at in found.by_reason} == {None}
    assert found.by_feature[0].mean_abs_log_odds_payments > 0


# ------------------------------------------------------------------ the command


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(
        app, ["evaluate", *(str(word) for word in words)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result


def run_json(world: World, *words: str | Path) -> dict[str, Any]:
    printed = run(world.folder, world.file, "--fold-days", "6", "--json", *words)
    found: dict[str, Any] = json.loads(printed.stdout)
    return found


def test_json_holds_the_figures_in_full(world: World) -> None:
    found = run_json(world, "--segment", "channel")
    expected = evaluate(world.bundle, world.rows, plan_of(segment="channel"))
    assert found["layout"] == 1
    assert found["together"]["auc_roc"] == expected.together.auc_roc
    assert found["mean"] == expected.mean
    # Figures stand beside what they are the figures of.
    assert found["folds"][0]["average_precision"] == expected.folds[0].figures.average_precision
    review = next(at for at in found["by_threshold"] if at["policy"] == "review")
    assert review["score_threshold"] == 0.3
    assert review["recall"] == found["together"]["recall"]
    assert found["data"]["fraud_amount_minor"] > 0
    assert found["data"]["measured_from"] == format_time(MEASURED_FROM_MS)
    assert found["model"]["sha256"] == world.bundle.sha256
    assert (found["model"]["is_probability"], found["is_in_sample"]) == (False, False)
    assert found["labels"]["youngest_days"] == 0
    assert {at["value"] for at in found["by_segment"]} == {"web", "pos", "atm"}


def test_thresholds_are_the_settings(world: World, tmp_path: Path) -> None:
    config = tmp_path / "fraudstream.yaml"
    config.write_text("policy: {name: mine, review_threshold: 0.11, decline_threshold: 0.77}\n")
    found = run_json(world, "--config", config)
    named = {at["policy"]: at["score_threshold"] for at in found["by_threshold"] if at["policy"]}
    assert named == {"review": 0.11, "decline": 0.77}
    assert found["policy"]["name"] == "mine"


def test_days_and_labels_are_as_asked_for(world: World) -> None:
    found = run_json(
        *(world, "--from", "2026-02-14", "--until", "2026-02-20", "--labels-after", "9d"),
        *("--maturity", "complete", "--cards-per-day", "30"),
    )
    assert found["data"]["measured_from"] == "2026-02-14T00:00:00.000Z"
    assert found["data"]["measured_until"] == "2026-02-21T00:00:00.000Z"
    assert found["data"]["ends"] == "2026-02-26T00:00:00.000Z"
    assert (found["labels"]["known_after_days"], found["labels"]["youngest_days"]) == (9.0, 5)
    assert found["labels"]["maturity"] == "complete"
    assert found["labels"]["statement"].endswith("frauds reported later are missing. Complete.")
    assert "known after 7 days, and is measured with 9" in found["warnings"][0]
    assert 30 in [at["cards_per_day"] for at in found["by_cards_per_day"]]


def test_payments_too_young_for_their_labels_are_not_measured(world: World) -> None:
    found = run_json(world, "--maturity", "4d")
    assert found["data"]["measured_until"] == format_time(END_MS - 4 * DAY_MS)
    assert (found["labels"]["youngest_days"], found["labels"]["maturity"]) == (4, None)


def test_what_was_learnt_from_is_said_on_every_way_out(world: World) -> None:
    words = ("--from", "2026-01-20")
    found = run_json(world, *words)
    assert found["is_in_sample"] is True
    assert found["warnings"][0].startswith("The model learnt from these payments")
    shown = run(world.folder, world.file, *words)
    assert "warning: The model learnt from these payments" in shown.stdout
    assert "yes: see the warning" in shown.stdout
    assert "warning: The model" in run(world.folder, world.file, "--json", *words).stderr


def test_people_get_tables(world: World) -> None:
    shown = run(world.folder, world.file, "--segment", "channel").stdout
    for words in (
        *("small, version 1", "Labels are known after 7 days", "Figures of each fold", "deviation"),
        *("What each threshold catches", "review", "What so many cards a day catch", "atm"),
        *("What moves scores, by reason", "AMOUNT", "Brier score"),
    ):
        assert words in shown


def test_rows_that_break_the_contract_are_left_out_and_counted(
    world: World, tmp_path: Path
) -> None:
    frame = pl.read_parquet(world.file)
    broken = pl.when(pl.int_range(pl.len()) == 5).then(-1).otherwise(pl.col("amount_minor"))
    file = tmp_path / "broken.parquet"
    frame.with_columns(amount_minor=broken).write_parquet(file)
    with pytest.raises(UsageError, match=r"row 6: amount_minor: out_of_range.*--skip-invalid"):
        run(world.folder, file)
    found = json.loads(run(world.folder, file, "--skip-invalid", "--json").stdout)
    assert found["data"]["invalid_rows"] == 1
    assert "Rows left out because they break the event contract: 1." in found["warnings"]


def test_a_foreign_file_needs_a_mapping(world: World, tmp_path: Path) -> None:
    file, mapping = tmp_path / "foreign.parquet", tmp_path / "mapping.yaml"
    pl.read_parquet(world.file).rename({"card_id": "CUSTOMER"}).write_parquet(file)
    with pytest.raises(UsageError, match=r"lacks card_id.*--mapping FILE"):
        run(world.folder, file)
    mapping.write_text("fields: {card_id: {from: CUSTOMER}}\n")
    words = ("--fold-days", "6", "--json", "--mapping", mapping)
    found = json.loads(run(world.folder, file, *words).stdout)
    assert found["together"] == run_json(world)["together"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--segment", "colour"], "no payment has the field 'colour': give another to --segment"),
        (["--segment", "is_fraud"], "--segment is_fraud: its values are no text"),
        (["--segment", "amount_minor"], "--segment amount_minor: its values are no text"),
        (["--from", "2027-01-01"], "nothing is left to measure from 2027-01-01 on"),
        (["--from", "2026-02-01T12:00:00Z"], "--from .*: write the first day that counts"),
        (["--until", "2025-01-01"], "nothing is left to measure; the data go from 2026-01-01"),
        (["--maturity", "90d"], "nothing is left to measure; the data go from 2026-01-01"),
        (["--labels-after", "soon"], "--labels-after soon: write a whole number and a unit"),
        (["--report", "report.pdf"], "--report report.pdf: give the name of an .html file"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(world: World, words: Sequence[str], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        run(world.folder, world.file, *words)
