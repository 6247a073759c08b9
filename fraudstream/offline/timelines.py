"""Where each entity's rows lie, and where a window of them begins and ends.

    stream rows     0  1  2  3  4  5           in order of event time
    of entity       b  a  b  b  a  a
    timeline        1  4  5 │ 0  2  3          rows by entity, each entity's in order
                    └─ a ─┘   └─ b ─┘

An edge in time is first turned into an edge in the stream (how many rows are not later), then, by
one search over (entity, row), into a place of the timeline. What lies between two places is a
difference of two cumulative sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.offline.columns import NO_CODE
from fraudstream.profile import Window

Integers = NDArray[np.int64]


class Edges:
    """Edges of windows as numbers of rows of the stream, each found once.

    Parameters
    ----------
    times_ms
        Shape (n,), never falling.
    """

    def __init__(self, times_ms: Integers) -> None:
        self._times_ms = times_ms
        self._found: dict[int, Integers] = {}

    def __getitem__(self, age_ms: int) -> Integers:
        """Give, for every row, how many rows are at least so much older; shape (n,)."""
        if age_ms not in self._found:
            edge = np.searchsorted(self._times_ms, self._times_ms - age_ms, side="right")
            self._found[age_ms] = edge
        return self._found[age_ms]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The rows of n that name an entity, m of them, by entity and then in order.

    Attributes
    ----------
    rows
        Shape (m,): rows of the stream.
    entities
        The entities' codes, rising.
    keys
        Shape (m,), rising: the entity's index times ``stride``, plus the row.
    stride
        More than the number of rows.
    """

    rows: Integers
    entities: Integers
    keys: Integers
    stride: int

    def __len__(self) -> int:
        """Return the number of rows that name an entity."""
        return len(self.rows)

    def places(self, bases: Integers, rows: Integers) -> Integers:
        """Find where rows of the stream lie in an entity's part, whether it has them or not.

        Parameters
        ----------
        bases
            The entities' indices times the stride.
        rows
            The rows, at most n.
        """
        found: Integers = np.searchsorted(self.keys, bases + rows)
        return found

    def without(self, is_left_out: NDArray[np.bool_]) -> Timeline:
        """Leave out some of its places."""
        kept = ~is_left_out
        return Timeline(self.rows[kept], self.entities, self.keys[kept], self.stride)


def timeline(entity_codes: Integers) -> Timeline:
    """Sort the rows of a stream by entity.

    Parameters
    ----------
    entity_codes
        Shape (n,): equal entities alike, `NO_CODE` for a row without one.
    """
    order = np.argsort(entity_codes, kind="stable")
    rows = order[np.searchsorted(entity_codes[order], NO_CODE, side="right") :]
    sorted_codes = entity_codes[rows]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = sorted_codes[1:] != sorted_codes[:-1]
    stride = len(entity_codes) + 1
    keys = (np.cumsum(is_first) - 1) * stride + rows
    return Timeline(rows, sorted_codes[is_first], keys, stride)


def copies(line: Timeline, times_ms: Integers, ids: pl.Series) -> Integers:
    """Find copies: payments of one entity with the same time and transaction id.

    Returns
    -------
    first
        Shape (m,): for each place of the timeline that of the first copy, its own nearly always.
    """
    times = times_ms[line.rows]
    entity = line.keys // line.stride
    is_same = (times[1:] == times[:-1]) & (entity[1:] == entity[:-1])
    first = np.arange(len(line))
    tied = np.flatnonzero(np.append(is_same, False) | np.append(False, is_same))
    if len(tied):
        runs = np.append(0, np.cumsum(~is_same))[tied]
        frame = pl.DataFrame({"run": runs, "id": ids[line.rows[tied]], "place": tied})
        first[tied] = frame.select(pl.col("place").min().over("run", "id")).to_series().to_numpy()
    return first


def window_places(
    line: Timeline, own: Integers, edges: Edges, window: Window
) -> tuple[Integers, Integers]:
    """Find the half-open range of places that a window of the entity's own records holds.

    Parameters
    ----------
    line, edges
        Of one series, without copies.
    own
        The places that it is read for.
    window
        Which window.
    """
    rows = line.rows[own]
    bases = line.keys[own] - rows
    lower = line.places(bases, edges[window.reach_ms][rows])
    if window.lag_ms:
        return lower, line.places(bases, edges[window.lag_ms][rows])
    return lower, own + 1 if window.counts_present else own
