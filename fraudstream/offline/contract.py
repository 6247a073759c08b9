"""The event contract, a column at a time: the same verdicts as `fraudstream.event`, row by row.

    a slice of the file ─ mapping ─▶ our columns ─┬─▶ values
                                                  └─▶ faults: field and reason code, or null

A row has the first fault that is found, in the order in which a worker looks. What an expression
cannot judge exactly (an amount with float noise, text that may hold a card number, an odd way to
write a time) is judged by the worker's own functions, for the few rows that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final

import msgspec
import numpy as np
import polars as pl

from fraudstream.card_number import holds_card_number, tokenize, value_holds_card_number
from fraudstream.currency import MINOR_UNIT_DECIMALS
from fraudstream.errors import Reason
from fraudstream.event import (
    AMOUNT_MINOR_MAX,
    CONTRACT_FIELDS,
    EVENT_TIME_MAX_MS,
    EVENT_TIME_MIN_MS,
)
from fraudstream.mapping import EventMapping, FieldMapping, compile_mapping
from fraudstream.offline.columns import UNKNOWN_AMOUNT
from fraudstream.rows import read_truth

_ID: Final = r"\A[A-Za-z0-9._:-]{1,64}\z"
_CURRENCY: Final = r"\A[A-Z]{3}\z"
#: Whatever a card number is part of.
_MANY_DIGITS: Final = r"[0-9](?:[ -]?[0-9]){12}"
#: Times that every reader takes alike: no leap seconds, nothing finer than microseconds.
_RFC_3339: Final = (
    r"\A\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
    r"(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)\z"
)
_NOISE_MINOR: Final = 1e-6
#: Below it, binary rounding is far smaller than the noise that is allowed for.
_EXACT_MINOR: Final = 1e8
_MS_PER_UNIT: Final = {"s": 1_000.0, "us": 0.001}
_NEAR_MS: Final = 1e-3
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a file is read.

    Parameters
    ----------
    currency
        The profiles' currency.
    mapping
        What the file's columns mean; None if they have our names.
    extra_fields
        Fields beyond the contract that the features read.
    needs_truth, truth_for
        Whether ``is_fraud`` must say true or false; and what that is needed for, in words.
    has_types
        False for CSV, where a cell of a column of numbers may be text.
    """

    currency: str = "EUR"
    mapping: EventMapping | None = None
    extra_fields: tuple[str, ...] = ()
    needs_truth: bool = False
    has_types: bool = True
    truth_for: str = "for --labels-after"


@dataclass(slots=True, eq=False)
class _Columns:
    """One slice on its way through the checks."""

    raw: pl.DataFrame
    mapping: EventMapping | None
    has_types: bool = True
    faults: list[pl.Series] = field(default_factory=list)

    def mapped(self, name: str) -> FieldMapping | None:
        """Say what the mapping makes of a field, if the file has what it is made of."""
        found = self.mapping.fields.get(name) if self.mapping is not None else None
        if found is None or found.value is not None or found.source in self.raw.columns:
            return found
        return None

    def source(self, name: str) -> pl.Series | None:
        """Give a field as the file has it; None where it has not."""
        found = self.mapped(name)
        if found is not None and found.value is not None:
            return pl.Series(name, [found.value]).new_from_index(0, len(self.raw))
        column = found.source if found is not None and found.source is not None else name
        if column not in self.raw.columns or (found is None and name in self._taken()):
            return None
        return self.raw[column].alias(name)

    def _taken(self) -> set[str | None]:
        """Name the columns that a mapping takes away for fields of other names."""
        fields = self.mapping.fields.values() if self.mapping is not None else ()
        return {field.source for field in fields}

    def apply(self, name: str, values: Iterable[object], **others: object) -> list[object]:
        """Map single values of a field as a worker would."""
        apply = compile_mapping(self.mapping or EventMapping(fields={}))
        found = self.mapped(name)
        column = found.source if found is not None and found.source is not None else name
        return [apply({column: value} | others).get(name) for value in values]

    def blame(self, name: str, is_wrong: pl.Series, reason: Reason) -> None:
        """Give rows a fault; an earlier one stands."""
        if is_wrong.any():
            words = pl.lit(f"{name}: {reason.value}")
            self.faults.append(
                is_wrong.to_frame("wrong").select(pl.when("wrong").then(words)).to_series()
            )

    def first_faults(self) -> pl.Series:
        """Give each row's first fault, or null."""
        if not self.faults:
            return pl.Series("fault", [None], dtype=pl.String).new_from_index(0, len(self.raw))
        columns = [fault.alias(str(number)) for number, fault in enumerate(self.faults)]
        return pl.DataFrame(columns).select(pl.coalesce(pl.all()).alias("fault")).to_series()


def check_payments(raw: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Check a slice of payments.

    Returns
    -------
    checked
        As many rows: the ids, ``currency`` and the extra fields as strings, ``event_time_ms``,
        ``amount_base_minor`` (−1: unknown), ``is_fraud`` and ``fault``. Where there is a fault the
        rest means nothing.
    """
    columns = _Columns(raw, rules.mapping, rules.has_types)
    _check_card_id(columns)
    columns.blame("record", _others_hold_card_number(columns), Reason.CARD_NUMBER)
    found = [_id(columns, "transaction_id"), _time_ms(columns, "event_time")]
    found += [_id(columns, name) for name in ("card_id", "terminal_id")]
    currency = _text(columns, "currency")
    amount = _amount(columns, "amount_minor", currency, is_optional=False)
    columns.blame("currency", currency.is_null(), Reason.WRONG_TYPE)
    columns.blame("currency", ~_matches(currency, _CURRENCY), Reason.BAD_FORMAT)
    base = _amount(columns, "amount_base_minor", currency, is_optional=True)
    known = currency.is_in(list(MINOR_UNIT_DECIMALS)).fill_null(False)
    columns.blame("currency", ~known, Reason.UNKNOWN_CURRENCY)
    _check_time(columns, found[1])
    found += [_extra(columns, name) for name in rules.extra_fields]
    no_truth = _nothing(columns, "is_fraud", pl.Boolean())
    found.append(_truth(columns) if rules.needs_truth else no_truth)
    is_ours = (currency == rules.currency).fill_null(False)
    base_minor = amount.zip_with(is_ours, base).fill_null(UNKNOWN_AMOUNT)
    return pl.DataFrame(
        [*found, currency, base_minor.alias("amount_base_minor"), columns.first_faults()]
    )


def check_labels(raw: pl.DataFrame, mapping: EventMapping | None) -> pl.DataFrame:
    """Check a file of findings.

    Returns
    -------
    checked
        As many rows: ids, ``event_time_ms``, ``reported_at_ms``, ``is_fraud`` and ``fault``.
    """
    columns = _Columns(raw, mapping)
    _check_card_id(columns)
    found = [_id(columns, name) for name in ("transaction_id", "card_id", "terminal_id")]
    for name in ("event_time", "reported_at"):
        found.append(_time_ms(columns, name))
        _check_time(columns, found[-1])
    found.append(_truth(columns))
    return pl.DataFrame([*found, columns.first_faults()])


def _check_card_id(columns: _Columns) -> None:
    """Refuse card numbers for card ids, also where a prefix would hide them."""
    for text in (_text(columns, "card_id", prefixed=False), _text(columns, "card_id")):
        columns.blame("card_id", _hold_card_number(text), Reason.CARD_NUMBER)


def _text(columns: _Columns, name: str, *, prefixed: bool = True) -> pl.Series:
    """Give a field's text, whole numbers written out if a mapping names it; null for no text."""
    source = columns.source(name)
    if source is None:
        return _nothing(columns, name, pl.String())
    if isinstance(source.dtype, (pl.Categorical, pl.Enum)):
        source = source.cast(pl.String)
    found = columns.mapped(name)
    is_id = found is not None and name != "currency"
    if source.dtype == pl.String or (source.dtype.is_integer() and is_id):
        prefix = found.prefix if found is not None and is_id and prefixed else ""
        text = source.cast(pl.String)
        return prefix + text if prefix else text
    return _nothing(columns, name, pl.String())


def _id(columns: _Columns, name: str) -> pl.Series:
    text = _text(columns, name)
    columns.blame(name, text.is_null(), Reason.WRONG_TYPE)
    columns.blame(name, ~_matches(text, _ID), Reason.BAD_FORMAT)
    return text.alias(name)


def _extra(columns: _Columns, name: str) -> pl.Series:
    """Take a field beyond the contract: an id, or missing; a card number becomes a token."""
    text = _text(columns, name)
    source = columns.source(name)
    if source is not None:
        columns.blame(name, text.is_null() & source.is_not_null(), Reason.WRONG_TYPE)
    if (is_number := _hold_card_number(text)).any():
        tokens = [tokenize(value, b"") for value in text.filter(is_number)]
        text = text.scatter(is_number.arg_true(), tokens)
    columns.blame(name, ~_matches(text, _ID), Reason.BAD_FORMAT)
    return text.alias(name)


def _matches(text: pl.Series, pattern: str) -> pl.Series:
    """Tell which texts match; null does not speak against it."""
    return text.str.contains(pattern).fill_null(True)


def _hold_card_number(text: pl.Series) -> pl.Series:
    suspects = text.str.contains(_MANY_DIGITS).fill_null(False)
    if not suspects.any():
        return suspects
    found = [holds_card_number(value) for value in text.filter(suspects)]
    return suspects.cast(pl.Boolean).scatter(suspects.arg_true(), found)


def _others_hold_card_number(columns: _Columns) -> pl.Series:
    """Look for card numbers in all that the contract does not name."""
    mapping = columns.mapping.fields if columns.mapping is not None else {}
    taken = {*CONTRACT_FIELDS, *mapping, *(f.source for f in mapping.values() if f.source)}
    found = pl.Series("record", [False], dtype=pl.Boolean).new_from_index(0, len(columns.raw))
    for column in columns.raw.iter_columns():
        if column.name in taken:
            continue
        if holds_card_number(column.name):
            found |= True
        elif isinstance(column.dtype, (pl.Categorical, pl.Enum)) or column.dtype == pl.String:
            found |= _hold_card_number(column.cast(pl.String))
        elif column.dtype.is_nested():
            found |= pl.Series([value_holds_card_number(value) for value in column.to_list()])
    return found


def _amount(columns: _Columns, name: str, currency: pl.Series, *, is_optional: bool) -> pl.Series:
    """Give an amount in minor units, null where it is not known."""
    source = columns.source(name)
    nothing = _nothing(columns, name, pl.Int64())
    if source is None:
        return nothing
    found = columns.mapped(name)
    is_major = found is not None and found.unit == "major"
    is_given = source.is_not_null()
    if isinstance(source.dtype, pl.Decimal):
        source = source.cast(pl.Float64)
    elif source.dtype == pl.String and not columns.has_types:
        source = source.cast(pl.Float64 if is_major else pl.Int64, strict=False)
    if not source.dtype.is_numeric():
        minor = nothing
    elif is_major:
        minor = _from_major(columns, name, source, currency)
    else:
        minor = source.cast(pl.Int64) if source.dtype.is_integer() else nothing
    is_missing = minor.is_null() & is_given if is_optional else minor.is_null()
    columns.blame(name, is_missing, Reason.WRONG_TYPE)
    is_inside = minor.is_between(0, AMOUNT_MINOR_MAX).fill_null(True)
    columns.blame(name, ~is_inside, Reason.OUT_OF_RANGE)
    return minor


def _from_major(columns: _Columns, name: str, source: pl.Series, currency: pl.Series) -> pl.Series:
    """Turn major units into minor ones; null for more decimals than the currency has."""
    scales = {code: 10.0**decimals for code, decimals in MINOR_UNIT_DECIMALS.items()}
    scale = currency.replace_strict(scales, default=None, return_dtype=pl.Float64)
    computed = (source.cast(pl.Float64) * scale).fill_null(np.nan).to_numpy()
    computed = np.where(np.isfinite(computed), computed, np.nan)
    nearest = np.rint(computed)
    is_plain = np.abs(computed - nearest) <= _NOISE_MINOR / 2
    is_plain &= np.abs(computed) < _EXACT_MINOR
    minor = pl.Series(name, np.where(is_plain, nearest, 0).astype(np.int64))
    minor = minor.set(pl.Series(~is_plain), None)
    unclear = np.flatnonzero(~is_plain & np.isfinite(computed))
    if len(unclear):
        pairs = zip(source.gather(unclear), currency.gather(unclear), strict=True)
        exact = [_whole(*columns.apply(name, [value], currency=code)) for value, code in pairs]
        minor = minor.scatter(unclear, pl.Series(exact, dtype=pl.Int64))
    return minor


def _whole(value: object) -> int | None:
    # Far beyond the contract's bounds it only matters that it is beyond them.
    return min(max(value, -1), AMOUNT_MINOR_MAX + 1) if type(value) is int else None


def _time_ms(columns: _Columns, name: str) -> pl.Series:
    """Give a time in epoch milliseconds, null where none can be read."""
    source, nothing = columns.source(name), _nothing(columns, name, pl.Int64())
    times, reason = nothing, Reason.WRONG_TYPE
    if source is not None:
        columns.blame(name, source.is_null(), Reason.WRONG_TYPE)
        if source.dtype.is_numeric():
            times = _counted_times(columns, name, source)
        elif source.dtype == pl.String or isinstance(source.dtype, pl.Datetime):
            times, reason = _written_times(columns, name, source), Reason.BAD_FORMAT
    columns.blame(name, times.is_null(), reason)
    return times.alias(f"{name}_ms")


def _counted_times(columns: _Columns, name: str, source: pl.Series) -> pl.Series:
    """Read times that are numbers, in the mapping's unit."""
    found = columns.mapped(name)
    unit = found.unit if found is not None else None
    if unit not in _MS_PER_UNIT:
        is_time = source.dtype.is_integer() or unit == "ms"
        whole = source.cast(pl.Int64, strict=False)
        return whole if is_time else _nothing(columns, name, pl.Int64())
    computed = source.cast(pl.Float64) * _MS_PER_UNIT[unit]
    times = computed.floor().cast(pl.Int64, strict=False)
    # 0.345 s is 344.99999 ms: near a whole number the decimal digits have the last word.
    distance = (computed - computed.round()).abs()
    unclear = ((distance > 0) & (distance < _NEAR_MS)).fill_null(False).arg_true()
    exact = columns.apply(name, source.gather(unclear))
    return times.scatter(unclear, pl.Series(exact, dtype=pl.Int64))


def _written_times(columns: _Columns, name: str, source: pl.Series) -> pl.Series:
    """Read times of the usual form at once, any other as a worker reads it."""
    if isinstance(source.dtype, pl.Datetime):
        found = columns.mapped(name)
        usual = source
        if source.dtype.time_zone is None:
            zone = found.zone if found is not None and found.zone is not None else "UTC"
            usual = source.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    else:
        is_usual = source.str.contains(_RFC_3339).fill_null(False)
        usual = source.set(~is_usual, None).str.to_datetime("%+", strict=False, time_unit="us")
    times = usual.dt.epoch("ms")
    others = (times.is_null() & source.is_not_null()).arg_true()
    if len(others):
        values: list[object] = source.gather(others).to_list()
        if not columns.has_types and source.dtype == pl.String:
            numbers = source.gather(others).cast(pl.Int64, strict=False)
            values = [v if n is None else n for v, n in zip(values, numbers, strict=True)]
        read = [_written_time(value) for value in columns.apply(name, values)]
        times = times.scatter(others, pl.Series(read, dtype=pl.Int64))
    return times


def _nothing(columns: _Columns, name: str, dtype: pl.DataType) -> pl.Series:
    """Give a column of nulls."""
    return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(columns.raw))


def _written_time(value: object) -> int | None:
    if type(value) is int:
        return value
    try:
        moment = msgspec.convert(value, _Time)
    except msgspec.ValidationError:
        return None
    return int(moment.timestamp() * 1000 // 1)


def _check_time(columns: _Columns, times_ms: pl.Series) -> None:
    name = times_ms.name.removesuffix("_ms")
    columns.blame(name, (times_ms < EVENT_TIME_MIN_MS).fill_null(False), Reason.TIME_TOO_EARLY)
    columns.blame(name, (times_ms > EVENT_TIME_MAX_MS).fill_null(False), Reason.TIME_IN_FUTURE)


def _truth(columns: _Columns) -> pl.Series:
    source = columns.source("is_fraud")
    if source is None:
        source = _nothing(columns, "is_fraud", pl.Boolean())
    truths = {value: read_truth(value) for value in _few(source)}
    read = source.replace_strict(
        list(truths), list(truths.values()), default=None, return_dtype=pl.Boolean
    )
    columns.blame("is_fraud", read.is_null(), Reason.WRONG_TYPE)
    return read.alias("is_fraud")


def _few(source: pl.Series) -> Iterator[object]:
    """Give the different values of a column that should have two; of others only some."""
    yield from source.unique().head(1_000).drop_nulls()
