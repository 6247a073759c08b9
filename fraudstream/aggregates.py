"""What is made of counts and sums: one function an aggregate, each with a worked example.

    counts, sums, scans (integers) ──▶ aggregate ──▶ values (float64), and where there is nothing

These few functions make every number of every evaluator (Valkey, memory, Polars): they differ in
how they find the integers, never in what becomes of them. All are elementwise over n payments.
Where a window holds nothing that a value could be made of, the value is NaN here; what stands for
nothing is the feature's own business (`fraudstream.features.Feature.when_empty`), and so is what
cannot be known.

Amounts go in as minor units and come out as major units, because models are trained on those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fraudstream.profile import DAY_MS, SQUARE_LIMB_BITS, id_hash

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_HOUR_MS = 3_600_000


def amount(amount_base_minor: Integers, minor_per_major: int) -> Floats:
    """Give the amount of the payment itself, in major units; −1 stands for unknown, NaN.

    ``amount``: a payment of 57.16 EUR, and one in a foreign currency whose worth nobody said.

    Examples
    --------
    >>> amount(np.array([5716, -1]), 100)
    array([57.16,   nan])
    """
    return np.where(amount_base_minor < 0, np.nan, amount_base_minor / minor_per_major)


def is_weekend(event_time_ms: Integers) -> Floats:
    """Give 1 for Saturday and Sunday (UTC), else 0. 1970-01-01 was a Thursday.

    ``is_weekend``: Friday 2018-07-27 at 23:59:59.999, and one millisecond later.

    Examples
    --------
    >>> is_weekend(np.array([1532735999999, 1532736000000]))
    array([0., 1.])
    """
    return ((event_time_ms // DAY_MS + 3) % 7 >= 5).astype(np.float64)


def is_night(event_time_ms: Integers) -> Floats:
    """Give 1 from 00:00:00 to 06:59:59.999 (UTC), else 0, as the reference data do.

    ``is_night``: 06:59:59.999 on 2018-07-27, and one millisecond later.

    Examples
    --------
    >>> is_night(np.array([1532674799999, 1532674800000]))
    array([1., 0.])
    """
    return (event_time_ms % DAY_MS // _HOUR_MS <= 6).astype(np.float64)


def hour(event_time_ms: Integers) -> Floats:
    """Give the hour of the day, 0 to 23 (UTC).

    Examples
    --------
    >>> hour(np.array([1532674799999, 1532674800000]))
    array([6., 7.])
    """
    return (event_time_ms % DAY_MS // _HOUR_MS).astype(np.float64)


def hashed(texts: Sequence[str | None], buckets: int) -> Floats:
    """Put a text into one of some buckets, the same everywhere and always; None gives NaN.

    Examples
    --------
    >>> hashed(["EUR", "USD", None, "EUR"], 1000)
    array([387., 489.,  nan, 387.])
    """
    numbers = {
        text: float(int.from_bytes(id_hash(text), "big") % buckets)
        for text in dict.fromkeys(texts)
        if text is not None
    }
    return np.array([np.nan if text is None else numbers[text] for text in texts], np.float64)


def frequency(texts: Sequence[str | None], shares: Mapping[str, float]) -> Floats:
    """Look up how frequent a text is; NaN for one that is not in the table, or None.

    Examples
    --------
    >>> frequency(["EUR", "USD", None], {"EUR": 0.9})
    array([0.9, nan, nan])
    """
    found = [np.nan if text is None else shares.get(text, np.nan) for text in texts]
    return np.array(found, np.float64)


def count(counts: Integers) -> Floats:
    """Give the number of records in a window.

    ``card_tx_count_1d``: a card paid on Monday at 09:00 and 21:00 and now, on Tuesday at 09:00.
    The window ``(t − 1 d, t]`` holds 21:00 and now: the payment exactly one day old is out, the
    present one counts, so the value is 2.

    ``terminal_tx_count_7d_lag7d``: now is day 20. The window ``(20 − 14, 20 − 7]`` holds a payment
    of exactly day 13, and none of exactly day 6.

    Examples
    --------
    >>> count(np.array([2, 0]))
    array([2., 0.])
    """
    return counts.astype(np.float64)


def total(amount_minor: Integers, minor_per_major: int) -> Floats:
    """Give the sum of the known amounts in a window, in major units; 0 for none.

    Examples
    --------
    >>> total(np.array([6000, 0]), 100)
    array([60.,  0.])
    """
    return amount_minor / minor_per_major


def mean(amount_minor: Integers, known: Integers, minor_per_major: int) -> Floats:
    """Give the mean of the known amounts in a window, in major units; NaN for none.

    ``card_amount_mean_7d``: a card paid 10.00, 20.00 and now 30.00 within seven days, so the sum is
    6000 minor units over 3 payments and the mean 20.00: the present one counts.

    Examples
    --------
    >>> mean(np.array([6000, 0]), np.array([3, 0]), 100)
    array([20., nan])
    """
    return _quotient(amount_minor / minor_per_major, known)


def deviation(
    amount_minor: Integers, squares: Sequence[Integers], known: Integers, minor_per_major: int
) -> Floats:
    """Give the sample standard deviation of the known amounts, in major units; NaN below two.

    √((n Σa² − (Σa)²) / (n (n − 1))), with whole numbers of any size up to the root, so that nothing
    cancels. ``squares`` are the sums of the three limbs of a², lowest first.

    Examples
    --------
    10.00, 20.00 and 30.00; one payment alone.

    >>> squares = [np.array([14_000_000, 0]), np.array([0, 0]), np.array([0, 0])]
    >>> deviation(np.array([6000, 500]), squares, np.array([3, 1]), 100)
    array([10., nan])
    """
    exact = [limb.astype(object) << i * SQUARE_LIMB_BITS for i, limb in enumerate(squares)]
    n, sums = known.astype(object), amount_minor.astype(object)
    scaled = n * (exact[0] + exact[1] + exact[2]) - sums * sums
    variance = _quotient(scaled.astype(np.float64), known * (known - 1))
    return np.sqrt(variance) / minor_per_major


def rate(frauds: Integers, counts: Integers) -> Floats:
    """Give the share of frauds among the payments of a window; NaN over none.

    ``terminal_fraud_rate_7d_lag7d``: of 8 payments at a terminal between 14 and 7 days ago, 2 are
    known to be frauds, so the value is 0.25. Over no payment at all the default features say 0.

    Examples
    --------
    >>> rate(np.array([2, 0]), np.array([8, 0]))
    array([0.25,  nan])
    """
    return _quotient(frauds.astype(np.float64), counts)


def seconds_since_last(age_ms: Integers) -> Floats:
    """Give the seconds since the record before the present one; NaN if the window has none.

    Examples
    --------
    Half a second ago; in the same millisecond; none.

    >>> seconds_since_last(np.array([500, 0, -2]))
    array([0.5, 0. , nan])
    """
    return np.where(age_ms < 0, np.nan, age_ms / 1000)


def ratio_to_mean(amount_base_minor: Integers, amount_minor: Integers, known: Integers) -> Floats:
    """Divide the present amount by the mean of a window; NaN without one, or if the mean is 0.

    Examples
    --------
    30.00 against a mean of 20.00; a card that only ever paid 0.00.

    >>> ratio_to_mean(np.array([3000, 0]), np.array([6000, 0]), np.array([3, 2]))
    array([1.5, nan])
    """
    present = np.where(amount_base_minor < 0, np.nan, amount_base_minor.astype(np.float64))
    return _quotient(present * known, amount_minor)


def distinct_count(scanned: Integers) -> Floats:
    """Give how many different values there are among the latest 256 records of a window.

    Examples
    --------
    >>> distinct_count(np.array([3, 0]))
    array([3., 0.])
    """
    return scanned.astype(np.float64)


def quantile(scanned_minor: Integers, minor_per_major: int) -> Floats:
    """Give an amount of a window by its rank, in major units; NaN where there is none.

    The nearest rank, so that it is an amount that was paid: the median of 10.00, 20.00, 30.00 and
    40.00 is 20.00, and the 90 % quantile 40.00. Of a long window the latest 256 records count.

    Examples
    --------
    >>> quantile(np.array([2000, -2]), 100)
    array([20., nan])
    """
    return np.where(scanned_minor < 0, np.nan, scanned_minor / minor_per_major)


def _quotient(dividend: Floats, divisor: Integers) -> Floats:
    result = np.full(len(dividend), np.nan)
    np.divide(dividend, divisor, out=result, where=divisor > 0)
    return result
