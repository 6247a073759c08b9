"""What is found by looking at a window's records one by one, many windows at a time.

The records of all windows are laid side by side in blocks of bounded size. A value counts as
different where the same entity's last record with it lies before the window's scanned part: no
window has to be sorted for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudstream.offline.columns import NO_CODE
from fraudstream.profile import SCAN_NOTHING, SCAN_RECORDS_MAX

Integers = NDArray[np.int64]
#: How many records are looked at at a time: 8 bytes each, a few times over.
_BLOCK_RECORDS: Final = 4_000_000
_NO_AMOUNT: Final = np.iinfo(np.int64).max


def ages_of_last(times_ms: Integers, lower: Integers, own: Integers, upper: Integers) -> Integers:
    """Say how long before the present record the latest other one of the window is.

    Parameters
    ----------
    times_ms
        Shape (m,): of all records of the timeline.
    lower, own, upper
        Shape (k,): the windows' places, and the present records' own.

    Returns
    -------
    ages_ms
        Shape (k,); `SCAN_NOTHING` where there is none.
    """
    last = np.minimum(upper, own) - 1
    return np.where(last >= lower, times_ms[own] - times_ms[last], SCAN_NOTHING)


def distinct_counts(previous: Integers, lower: Integers, upper: Integers) -> Integers:
    """Count the different values among the latest `SCAN_RECORDS_MAX` records of windows.

    Parameters
    ----------
    previous
        Of all records of the timeline, from `previous_places`.
    lower, upper
        Shape (k,): the windows' places.
    """
    start = np.maximum(lower, upper - SCAN_RECORDS_MAX)
    lengths = upper - start
    found = np.zeros(len(start), dtype=np.int64)
    for part in _blocks(lengths):
        owner = np.repeat(np.arange(part.start, part.stop), lengths[part])
        begins = np.cumsum(lengths[part]) - lengths[part]
        places = np.arange(len(owner)) - np.repeat(begins - start[part], lengths[part])
        is_new = previous[places] < start[owner]
        found[part] = np.bincount(owner[is_new] - part.start, minlength=part.stop - part.start)
    return found


def previous_places(entities: Integers, values: Integers) -> Integers:
    """Find each record's last one before it with the same entity and value.

    Returns
    -------
    previous
        Shape (m,): its place, −1 if there is none; where a record has no value, m, which is
        before no window.
    """
    order = np.lexsort((values, entities))
    is_same = (values[order][1:] == values[order][:-1]) & (
        entities[order][1:] == entities[order][:-1]
    )
    previous = np.full(len(values), -1, dtype=np.int64)
    previous[order[1:][is_same]] = order[:-1][is_same]
    previous[values == NO_CODE] = len(values)
    return previous


def quantiles(
    amounts: Integers, known: NDArray[np.bool_], bounds: tuple[Integers, Integers], per_mille: int
) -> Integers:
    """Give the nearest rank of the known amounts among the latest records of windows.

    Parameters
    ----------
    amounts, known
        Shape (m,): of all records of the timeline, and which of them are known.
    bounds
        The windows' places, each of shape (k,).
    per_mille
        Which quantile.

    Returns
    -------
    amounts
        Shape (k,); `SCAN_NOTHING` where no amount is known.
    """
    lower, upper = bounds
    start = np.maximum(lower, upper - SCAN_RECORDS_MAX)
    lengths = upper - start
    sortable = np.append(np.where(known, amounts, _NO_AMOUNT), _NO_AMOUNT)
    cumulative = np.append(0, np.cumsum(known))
    n_known = cumulative[upper] - cumulative[start]
    rank = np.maximum(-(-n_known * per_mille // 1000), 1) - 1
    found = np.full(len(start), SCAN_NOTHING, dtype=np.int64)
    # Windows of like length side by side, so that a block has few empty cells.
    order = np.argsort(lengths, kind="stable")
    for part in _blocks(lengths[order]):
        chosen = order[part]
        width = int(lengths[chosen].max(initial=0))
        cells = start[chosen, None] + np.arange(width)
        cells[cells >= upper[chosen, None]] = len(amounts)
        ranked = np.sort(sortable[cells], axis=1)
        has_any = n_known[chosen] > 0
        found[chosen[has_any]] = ranked[has_any, rank[chosen[has_any]]]
    return found


def _blocks(lengths: Integers) -> Iterator[slice]:
    """Cut windows into stretches that hold at most about `_BLOCK_RECORDS` records together."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = int(ends[start] - lengths[start])
        stop = int(np.searchsorted(ends, before + _BLOCK_RECORDS, side="right"))
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop
