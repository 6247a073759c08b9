"""A feature set as it is written: the words of the YAML file, and what they may hold.

`fraudstream.feature_set` turns it into series and features, and refuses what does not fit
together; here each word is checked by itself.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fraudstream.errors import FeatureSetError
from fraudstream.features import Aggregate
from fraudstream.profile import DAY_MS

WINDOW_MIN_MS: Final = 60_000
WINDOW_MAX_MS: Final = 90 * DAY_MS
_MS_PER_UNIT: Final = {"m": 60_000, "h": 3_600_000, "d": DAY_MS}
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,5})([mhd])")
_UNIT_WORDS: Final = {"m": "minute", "h": "hour", "d": "day"}

Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,47}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EntityDocument(_Strict):
    """Whom something is remembered of: the event field that names it."""

    field: Word
    #: Whether events may lack the field. Fields beyond the contract always may.
    optional: bool = False


class SeriesDocument(_Strict):
    """What is recorded of an entity."""

    entity: str
    records: Literal["transactions", "labels"]
    keeps: tuple[Word, ...] = ()
    allowed_lateness: str = "1d"


class FeatureDocument(_Strict):
    """One feature, or one for each window."""

    aggregate: Aggregate
    series: str | None = None
    against: str | None = None
    windows: tuple[str, ...] = ()
    lag: str = "0d"
    #: The event field of a categorical feature or a distinct count.
    field: Word | None = None
    quantile: Annotated[float, Field(gt=0, le=1)] | None = None
    buckets: Annotated[int, Field(ge=2, le=2**24)] | None = None
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    #: Whether the present payment counts; by default it does, where the window has no lag.
    counts_present: bool | None = None
    when_empty: float | None = None
    when_unknown: float | None = None
    name: Word | None = None
    reason: ReasonCode | None = None
    meaning: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> FeatureDocument:
        for value in (self.when_empty, self.when_unknown):
            if value is not None and not math.isfinite(value):
                msg = "when_empty and when_unknown are numbers; leave them out for NaN"
                raise ValueError(msg)
        return self


class FeatureSetDocument(_Strict):
    """A whole feature set, as it is written."""

    version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    entities: Annotated[dict[Word, EntityDocument], Field(min_length=1, max_length=16)]
    series: Annotated[dict[Word, SeriesDocument], Field(min_length=1, max_length=32)]
    features: Annotated[tuple[FeatureDocument, ...], Field(min_length=1)]


def parse_duration(text: str) -> int:
    """Read a duration like ``30m``, ``6h`` or ``7d``, milliseconds.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> parse_duration("7d") // DAY_MS
    7
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: write 30m, 6h or 7d")
    return int(found[1]) * _MS_PER_UNIT[found[2]]


def checked_duration(place: str, text: str, at_least_ms: int) -> int:
    """Read a duration between `at_least_ms` and 90 days, or say at which place it is wrong.

    Raises
    ------
    FeatureSetError
        It is none, or out of range.
    """
    try:
        duration_ms = parse_duration(text)
    except ValueError as error:
        raise FeatureSetError(f"{place}: {error}") from None
    if not at_least_ms <= duration_ms <= WINDOW_MAX_MS:
        raise FeatureSetError(f"{place}: {text} is out of range: one minute (1m) to 90 days (90d)")
    return duration_ms


def duration_words(duration: str) -> str:
    """Say a duration in words.

    Examples
    --------
    >>> duration_words("7d")
    '7 days'
    """
    number, unit = int(duration[:-1]), _UNIT_WORDS[duration[-1]]
    return f"{number} {unit}{'s' if number > 1 else ''}"


def refuse(place: str, sentence: str) -> NoReturn:
    """Raise a `FeatureSetError` that says where, and what to write instead."""
    raise FeatureSetError(f"{place}: {sentence}")
