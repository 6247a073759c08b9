"""Payments as columns, in the order of a stream: event time; equal times as the file has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraudstream.event import TEXT_FIELDS, Transaction
from fraudstream.features import EventColumns

#: Amounts that nobody said in the profiles' currency.
UNKNOWN_AMOUNT: Final = -1
#: The code of a text that is not there.
NO_CODE: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Payments:
    """n checked payments in the order of their stream.

    Attributes
    ----------
    event_time_ms
        Shape (n,), int64, epoch milliseconds, never falling.
    amount_base_minor
        Shape (n,), int64: minor units of the profiles' currency, −1 where that is not known.
    texts
        n rows of strings: ids, currency, and the fields beyond the contract that are read.
    is_fraud
        Shape (n,), bool: what became of them; None if that is not looked at. No feature reads it
        but by a rule of `fraudstream.offline.labels`.
    """

    event_time_ms: NDArray[np.int64]
    amount_base_minor: NDArray[np.int64]
    texts: pl.DataFrame
    is_fraud: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of payments."""
        return len(self.event_time_ms)

    @classmethod
    def of(
        cls,
        transactions: Sequence[Transaction],
        extra_fields: Sequence[str] = (),
        is_fraud: NDArray[np.bool_] | None = None,
    ) -> Payments:
        """Take the columns out of transactions, which are put into order of event time.

        Examples
        --------
        >>> later = Transaction("t2", 7, "c1", "shop1", 100, "EUR", 100)
        >>> Payments.of([later, Transaction("t1", 5, "c1", "shop1", 100, "USD", None)]).texts.rows()
        [('t1', 'c1', 'shop1', 'USD'), ('t2', 'c1', 'shop1', 'EUR')]
        """
        events = EventColumns.of(transactions, (*TEXT_FIELDS, *extra_fields))
        order = np.argsort(events.event_time_ms, kind="stable")
        texts = pl.DataFrame(events.texts, schema=dict.fromkeys(events.texts, pl.String))
        return cls(
            events.event_time_ms[order],
            events.amount_base_minor[order],
            texts[order],
            None if is_fraud is None else is_fraud[order],
        )

    def events(self, first: int, fields: Sequence[str]) -> EventColumns:
        """Give what features need of the payments from a row on."""
        return EventColumns(
            self.event_time_ms[first:],
            self.amount_base_minor[first:],
            {name: self.texts[name][first:].to_list() for name in fields},
        )


def codes(texts: pl.Series) -> NDArray[np.int64]:
    """Give texts numbers: equal ones alike, `NO_CODE` where there is none.

    Examples
    --------
    >>> found = codes(pl.Series(["b", None, "a", "b"]))
    >>> int(found[1]), bool(found[0] == found[3] != found[2])
    (-1, True)
    """
    numbers = texts.cast(pl.Categorical).to_physical().cast(pl.Int64).fill_null(NO_CODE)
    return numbers.to_numpy()
