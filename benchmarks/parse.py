"""Ways to validate one event, side by side: ``python -m benchmarks.parse``.

The figures behind ``docs/adr/0010-…``. All ways check the same fields, types, ranges and patterns
of the same event; what differs is what else they can tell. Best of seven, microseconds an event.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Annotated

import msgspec
import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from fraudstream.event import EventRules, Record, TransactionEvent, parse_transaction

_REPEATS = 7
_NUMBER = 20_000
_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$", strict=True)]
_Amount = Annotated[int, Field(ge=0, le=10**12)]


class _PydanticEvent(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    transaction_id: _Id
    event_time: AwareDatetime | int
    card_id: _Id
    terminal_id: _Id
    amount_minor: _Amount
    currency: Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
    amount_base_minor: _Amount | None = None


_EVENT = {
    "transaction_id": "tx00012345",
    "event_time": "2018-07-25T10:11:12.345Z",
    "card_id": "c0000123",
    "terminal_id": "t0000456",
    "amount_minor": 12345,
    "currency": "EUR",
}


def ways() -> dict[str, Callable[[bytes], object]]:
    """Give each way by name."""
    typed = msgspec.json.Decoder(TransactionEvent)
    adapter = TypeAdapter(_PydanticEvent)
    rules = EventRules()

    def ours(raw: bytes) -> object:
        return parse_transaction(Record("t", 0, 0, 2_000_000_000_000, None, raw), rules)

    return {
        "orjson.loads alone (validates nothing)": orjson.loads,
        "msgspec, bytes to struct (cannot count unknown fields)": typed.decode,
        "pydantic, bytes to model (cannot count unknown fields)": adapter.validate_json,
        "orjson, then msgspec.convert": lambda raw: msgspec.convert(
            orjson.loads(raw), TransactionEvent
        ),
        "parse_transaction, whole: times, currency, card numbers, unknown fields": ours,
    }


def main() -> None:
    """Time every way and print a table."""
    raw = orjson.dumps(_EVENT)
    for name, way in ways().items():
        best_s = min(timeit.repeat(lambda way=way: way(raw), number=_NUMBER, repeat=_REPEATS))  # type: ignore[misc]
        print(f"{1e6 * best_s / _NUMBER:6.2f} us  {name}")


if __name__ == "__main__":
    main()
