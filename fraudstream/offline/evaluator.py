"""Columns of payments and findings → the profile store's answers, and features of them.

Payments ──┐           ┌─ own series: places in a timeline, differences of cumulative sums
Findings ──┴─ answers ─┴─ label series: each finding is added to a range of its entity's payments
                 └──▶ ProfileAnswers ─ VectorBuilder ─▶ float32 (n, features)

What is given is what a store would give that was empty before the first payment, was sent the
payments in order, and each finding when it became known. A copy (same entity, time and transaction
id) counts once; the first one stands, and it is answered as that one was. Label series are read as
of its own row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.currency import minor_units_per_major
from fraudstream.errors import UsageError
from fraudstream.feature_set import FeatureSet
from fraudstream.features import VectorBuilder
from fraudstream.offline import scans
from fraudstream.offline.columns import UNKNOWN_AMOUNT, Payments, codes
from fraudstream.offline.labels import KnownFindings, LabelRule
from fraudstream.offline.timelines import Edges, Timeline, copies, timeline, window_places
from fraudstream.profile import (
    SCAN_UNKNOWN,
    SQUARE_LIMB_BITS,
    Mark,
    ProfileAnswers,
    ProfileDefinition,
    Recording,
    Scan,
    Series,
    SeriesAnswers,
)

Integers = NDArray[np.int64]


class Evaluator:
    """Makes the features of payments whose whole past is known.

    Parameters
    ----------
    feature_set
        What is made.
    currency
        The profiles' currency.
    labels
        When findings become known; None without any.
    names
        Which features, in which order; all by default.

    Raises
    ------
    UsageError
        The features read labels, and no rule says when these became known.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        currency: str = "EUR",
        labels: LabelRule | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        features = feature_set.features if names is None else feature_set.select(names)
        self.feature_set, self.labels = feature_set, labels
        self.definition = feature_set.profile_definition(currency)
        self._builder = VectorBuilder(features, self.definition, minor_units_per_major(currency))
        if labels is None and (reader := self._first_that_reads_labels()):
            raise UsageError(
                f"{reader} depends on what became of earlier payments: say when that was known, "
                "so that no payment is judged by what nobody knew yet: --labels-after 7d "
                "(the frauds of the file, each known so long after its payment) or --labels FILE "
                "(findings with their reported_at)"
            )

    @property
    def names(self) -> list[str]:
        """The features' names, in the order of the columns."""
        return [feature.name for feature in self._builder.features]

    @property
    def reach_ms(self) -> int:
        """How far back before a payment its features look."""
        windows = [w for s in self.definition.series for w in s.windows]
        windows += [scan.window for s in self.definition.series for scan in s.scans]
        return max((window.reach_ms for window in windows), default=0)

    def build(self, payments: Payments, first: int = 0) -> NDArray[np.float32]:
        """Build the vectors of payments from a row on; those before it are past alone.

        Returns
        -------
        vectors
            Shape (n − first, features), float32.
        """
        answered = answers(self.definition, payments, self.labels, first)
        return self.build_from(payments, answered, first)

    def build_from(
        self, payments: Payments, answered: ProfileAnswers, first: int = 0
    ) -> NDArray[np.float32]:
        """Build the vectors of payments from a row on, out of answers that are there already."""
        return self._builder.build(payments.events(first, self._builder.text_fields), answered)

    def _first_that_reads_labels(self) -> str | None:
        kinds = {series.name: series.kind for series in self.definition.series}
        for feature in self._builder.features:
            if any(kinds[name] == "labels" for name in feature.series):
                return feature.name
        return None


def answers(
    definition: ProfileDefinition, payments: Payments, labels: LabelRule | None, first: int = 0
) -> ProfileAnswers:
    """Answer payments as a profile store would have.

    Parameters
    ----------
    definition
        The series.
    payments
        n payments, and before them all that their windows reach back to.
    labels
        When findings become known; None: none ever does.
    first
        The first row that is answered. No copies of one payment may lie on both sides of it.
    """
    edges = Edges(payments.event_time_ms)
    known = None if labels is None else labels.known(payments)
    found = {}
    for series in definition.series:
        if series.kind == "labels":
            found[series.name] = _label_series(series, payments, known, first)
        else:
            found[series.name] = _OwnSeries(series, payments, edges).answers(first)
    return ProfileAnswers(found)


class _OwnSeries:
    """A series of payments: each is recorded, and reads what stands before it."""

    def __init__(self, series: Series, payments: Payments, edges: Edges) -> None:
        self._series, self._payments, self._edges = series, payments, edges
        whole = timeline(codes(payments.texts[series.entity]))
        first_copy = copies(whole, payments.event_time_ms, payments.texts["transaction_id"])
        is_copy = first_copy != np.arange(len(whole))
        self._line = whole.without(is_copy) if is_copy.any() else whole
        self._values = _measures(series, payments.amount_base_minor)
        self._attributes = {name: codes(payments.texts[name]) for name in series.attributes}
        # Row of the stream → place of the record that stands for it; −1 without an entity.
        place_of_record = np.cumsum(~is_copy) - 1
        self._place = np.full(len(payments), -1, dtype=np.int64)
        self._place[whole.rows] = place_of_record[first_copy]
        self._copies = whole.rows[is_copy], whole.rows[first_copy[is_copy]]

    def answers(self, first: int) -> SeriesAnswers:
        """Answer the rows from the first on."""
        own = np.flatnonzero(self._line.rows >= first)
        counts, sums = self._windows(own)
        scanned = [self._scan(scan, own) for scan in self._series.scans]
        scan_columns = np.stack(scanned, axis=1) if scanned else np.empty((len(own), 0), np.int64)
        # Each row's record among those answered, which lie in order of the timeline.
        absent = self._place[first:] < 0
        index = np.searchsorted(own, self._place[first:])
        outcomes, marks = self._outcomes(first, absent)
        return SeriesAnswers(
            outcomes,
            marks,
            _spread(counts, index, absent, -1),
            _spread(sums, index, absent, 0),
            _spread(scan_columns, index, absent, SCAN_UNKNOWN),
            absent,
        )

    def _windows(self, own: Integers) -> tuple[Integers, Integers]:
        windows, line = self._series.windows, self._line
        counts = np.empty((len(own), len(windows)), dtype=np.int64)
        sums = np.empty((len(own), len(windows), len(self._values)), dtype=np.int64)
        running = [np.append(0, np.cumsum(column[line.rows])) for column in self._values]
        for w, window in enumerate(windows):
            lower, upper = window_places(line, own, self._edges, window)
            counts[:, w] = upper - lower
            for c, cumulative in enumerate(running):
                sums[:, w, c] = cumulative[upper] - cumulative[lower]
        return counts, sums

    def _scan(self, scan: Scan, own: Integers) -> Integers:
        line = self._line
        lower, upper = window_places(line, own, self._edges, scan.window)
        if scan.kind == "last":
            return scans.ages_of_last(self._payments.event_time_ms[line.rows], lower, own, upper)
        if scan.kind == "distinct":
            values = self._attributes[scan.attribute][line.rows]
            previous = scans.previous_places(line.keys // line.stride, values)
            return scans.distinct_counts(previous, lower, upper)
        amounts = self._payments.amount_base_minor[line.rows]
        is_known = amounts != UNKNOWN_AMOUNT
        return scans.quantiles(amounts, is_known, (lower, upper), scan.per_mille)

    def _outcomes(self, first: int, absent: NDArray[np.bool_]) -> tuple[Integers, Integers]:
        outcomes = np.full(len(self._payments), Recording.RECORDED, dtype=np.int64)
        marks = np.full(len(self._payments), Mark.NONE, dtype=np.int64)
        rows, originals = self._copies
        outcomes[rows] = Recording.DUPLICATE
        for column in (*self._values, *self._attributes.values()):
            marks[rows[column[rows] != column[originals]]] = Mark.CONFLICT
        return np.where(absent, Recording.READ_ONLY, outcomes[first:]), marks[first:]


def _label_series(
    series: Series, payments: Payments, known: KnownFindings | None, first: int
) -> SeriesAnswers:
    """Answer a series of findings: payments read it, and are not recorded in it.

    Findings name cards and terminals, which every payment has too.
    """
    assert not series.scans
    n = len(payments)
    counts = np.zeros((n, len(series.windows)), dtype=np.int64)
    frauds = np.zeros_like(counts)
    ids = payments.texts[series.entity]
    if known is not None and len(known.findings):
        both = codes(pl.concat([ids, known.findings.ids[series.entity]]))
        line = timeline(both[:n])
        versions = _versions(line, both[n:], known, n)
        for w, window in enumerate(series.windows):
            since_ms = versions.event_time_ms + window.lag_ms
            until_ms = since_ms + window.length_ms
            rows = (
                np.maximum(versions.since, np.searchsorted(payments.event_time_ms, since_ms)),
                np.minimum(versions.until, np.searchsorted(payments.event_time_ms, until_ms)),
            )
            ones = np.ones(len(versions.is_fraud), dtype=np.int64)
            counts[line.rows, w] = _add_ranges(line, versions.bases, rows, ones)
            values = versions.is_fraud.astype(np.int64)
            frauds[line.rows, w] = _add_ranges(line, versions.bases, rows, values)
    nothing = np.zeros(n - first, dtype=np.int64)
    return SeriesAnswers(
        nothing + Recording.READ_ONLY,
        nothing + Mark.NONE,
        counts[first:],
        frauds[first:, :, None],
        np.empty((n - first, 0), dtype=np.int64),
        np.zeros(n - first, dtype=bool),
    )


class _Versions:
    """Findings by payment, each with the rows of the stream ``[since, until)`` in which it stands.

    A newer finding about the same payment replaces an older one; of two at one time, genuine
    stands.
    """

    def __init__(self, bases: Integers, known: KnownFindings, rows: int) -> None:
        findings = known.findings
        numbers = codes(findings.ids["transaction_id"])
        order = np.lexsort(
            (
                ~findings.is_fraud,
                known.known_from,
                findings.reported_at_ms,
                numbers,
                findings.event_time_ms,
                bases,
            )
        )
        self.bases = bases[order]
        self.event_time_ms = findings.event_time_ms[order]
        self.is_fraud = findings.is_fraud[order]
        self.since = known.known_from[order]
        self.until = np.full(len(order), rows, dtype=np.int64)
        is_replaced = (
            (self.bases[1:] == self.bases[:-1])
            & (self.event_time_ms[1:] == self.event_time_ms[:-1])
            & (numbers[order][1:] == numbers[order][:-1])
        )
        self.until[:-1][is_replaced] = self.since[1:][is_replaced]


def _versions(line: Timeline, entity_codes: Integers, known: KnownFindings, rows: int) -> _Versions:
    """Leave out findings about entities that the stream does not have."""
    index = np.searchsorted(line.entities, entity_codes)
    is_there = index < len(line.entities)
    is_there[is_there] = line.entities[index[is_there]] == entity_codes[is_there]
    there = KnownFindings(known.findings.take(is_there), known.known_from[is_there])
    return _Versions(index[is_there] * line.stride, there, rows)


def _add_ranges(
    line: Timeline, bases: Integers, rows: tuple[Integers, Integers], values: Integers
) -> Integers:
    """Add values to ranges of rows of their entities; gives the sums by place of the timeline."""
    is_some = rows[0] < rows[1]
    bases, values = bases[is_some], values[is_some]
    steps = np.zeros(len(line) + 1, dtype=np.int64)
    np.add.at(steps, line.places(bases, rows[0][is_some]), values)
    np.subtract.at(steps, line.places(bases, rows[1][is_some]), values)
    return np.cumsum(steps[:-1])


def _measures(series: Series, amount_base_minor: Integers) -> list[Integers]:
    """Give the columns that a series sums up, as `fraudstream.profile.transaction_values` does."""
    known = np.where(amount_base_minor == UNKNOWN_AMOUNT, 0, amount_base_minor)
    # A square has up to 80 bits: (h·2²⁷ + l)² = h²·2⁵⁴ + 2hl·2²⁷ + l².
    limb = (1 << SQUARE_LIMB_BITS) - 1
    high, low = known >> SQUARE_LIMB_BITS, known & limb
    middle = 2 * high * low + (low * low >> SQUARE_LIMB_BITS)
    columns = {
        "amount_minor": known,
        "amount_known": (amount_base_minor != UNKNOWN_AMOUNT).astype(np.int64),
        "amount_square_0": low * low & limb,
        "amount_square_1": middle & limb,
        "amount_square_2": high * high + (middle >> SQUARE_LIMB_BITS),
    }
    return [columns[measure] for measure in series.measures]


def _spread(
    found: Integers, index: Integers, absent: NDArray[np.bool_], when_absent: int
) -> Integers:
    """Give each row the answers of its record."""
    if not len(found):
        return np.full((len(index), *found.shape[1:]), when_absent, dtype=np.int64)
    rows = found[np.where(absent, 0, index)]
    rows[absent] = when_absent
    return rows
