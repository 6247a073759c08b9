"""How a history is taken apart and put together again, for `damaged`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import orjson
from harness import Position, Row
from history import History

Body: TypeAlias = "dict[str, Any]"


def pick(history: History, kind: str, is_wanted: Callable[[Body], bool] = lambda _: True) -> Row:
    """Find an output to damage: one in the middle, of those whose body is as wanted."""
    rows = [row for row in history.outputs[kind] if is_wanted(row.json())]
    return rows[len(rows) // 2]


def approved(body: Body) -> bool:
    """Say whether a decision has no alert, and no flag."""
    return body["outcome"] == "APPROVE" and not body["flags"]


def alerted(body: Body) -> bool:
    """Say whether a decision has an alert, and no flag."""
    return body["outcome"] != "APPROVE" and not body["flags"]


def answering(history: History, kind: str, source: Position) -> Row:
    """Find the output that answers an input record."""
    return next(row for row in history.outputs[kind] if row.source == source)


def with_rows(history: History, kind: str, rows: Iterable[Row]) -> History:
    """Put other rows in an output topic."""
    return replace(history, outputs=history.outputs | {kind: list(rows)})


def without(history: History, kind: str, row: Row) -> History:
    """Take a row out, as if its attempt had never had it."""
    return resized(with_rows(history, kind, (r for r in history.outputs[kind] if r is not row)))


def swapped_for(history: History, kind: str, row: Row, other: Row) -> History:
    """Put another row in the place of one."""
    rows = history.outputs[kind]
    return with_rows(history, kind, (other if r is row else r for r in rows))


def appended(history: History, kind: str, row: Row) -> History:
    """Put a row behind the last of its partition, as if its attempt had always had it."""
    rows = history.outputs[kind]
    ends = [r.offset + 1 for r in rows if r.partition == row.partition]
    return resized(with_rows(history, kind, [*rows, row._replace(offset=max(ends, default=0))]))


def inserted(history: History, kind: str, row: Row) -> History:
    """Put a row where the order of its sources wants it, as if its attempt had always had it."""
    rows = history.outputs[kind]
    place = next(
        (n for n, r in enumerate(rows) if r.source[:2] == row.source[:2] and r.source > row.source),
        len(rows),
    )
    return resized(with_rows(history, kind, [*rows[:place], row, *rows[place:]]))


def resized(history: History) -> History:
    """Let every visible attempt say as many records as it has."""
    counts = Counter(row.headers["fs_attempt"] for rows in history.outputs.values() for row in rows)

    def sized(row: Row) -> Row:
        count = str(counts[row.headers["fs_attempt"]])
        return row._replace(headers={**row.headers, "fs_attempt_records": count})

    return replace(
        history,
        outputs={kind: [sized(row) for row in rows] for kind, rows in history.outputs.items()},
        attempts=[
            replace(a, records=counts[a.attempt]) if a.attempt in counts else a
            for a in history.attempts
        ],
    )


def edited(row: Row, **changes: object) -> Row:
    """Change some fields of a row's body."""
    return row._replace(value=orjson.dumps(row.json() | changes))


def with_header(row: Row, name: str, value: str) -> Row:
    """Change a header."""
    return row._replace(headers={**row.headers, name: value})


def altered(history: History, kind: str, row: Row, **changes: object) -> History:
    """Change some fields of an output where it lies."""
    return swapped_for(history, kind, row, edited(row, **changes))
