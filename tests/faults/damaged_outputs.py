"""Damages to C1 to C6: to which outputs there are, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from damaging import (
    Body,
    alerted,
    altered,
    answering,
    appended,
    approved,
    inserted,
    pick,
    swapped_for,
    with_header,
    with_rows,
    without,
)
from harness import Row
from history import Attempt, History
from run_view import RunView

from fraudstream.errors import Reason
from fraudstream.event import Label

# ------------------------------------------------------------------ C1


def drop_decision(history: History) -> History:
    """Lose a decision that has no alert."""
    return without(history, "decisions", pick(history, "decisions", approved))


def double_decision(history: History) -> History:
    """Publish a decision twice."""
    return appended(history, "decisions", pick(history, "decisions", approved))


def drop_dead_letter(history: History) -> History:
    """Lose the dead letter of a payment."""
    return without(history, "dead_letters", _letter_of(history, history.transactions_topic))


def drop_label_dead_letter(history: History) -> History:
    """Lose the dead letter of a malformed label."""
    return without(history, "dead_letters", _letter_of(history, history.labels_topic))


def double_dead_letter(history: History) -> History:
    """Publish a dead letter twice."""
    row = _letter_of(history, history.transactions_topic)
    return appended(history, "dead_letters", row)


def give_up_good_record(history: History) -> History:
    """Dead-letter a good payment in the place of deciding it."""
    row = pick(history, "decisions", approved)
    letter = with_header(row._replace(topic="out.dead-letters"), "fs_reason", "invalid_json")
    return inserted(without(history, "decisions", row), "dead_letters", letter)


def _letter_of(history: History, topic: str) -> Row:
    return next(row for row in history.outputs["dead_letters"] if row.source[0] == topic)


# ------------------------------------------------------------------ C2


def invent_decision(history: History) -> History:
    """Decide a payment that nobody made."""
    row = pick(history, "decisions", approved)
    offset = max(r.offset for r in history.inputs if r.place[:2] == row.source[:2]) + 7
    phantom = with_header(row, "fs_source_offset", str(offset))
    return appended(history, "decisions", phantom)


def invent_dead_letter(history: History) -> History:
    """Dead-letter a good label."""
    view = RunView(history)
    place = next(place for place, event in view.events.items() if isinstance(event, Label))
    row = _letter_of(history, history.labels_topic)
    headers = {"fs_source_partition": str(place[1]), "fs_source_offset": str(place[2])}
    letter = row._replace(headers={**row.headers, **headers})
    return appended(history, "dead_letters", letter)


def forget_source(history: History) -> History:
    """Publish a record that does not say what it answers."""
    row = pick(history, "decisions", approved)
    headers = {n: v for n, v in row.headers.items() if not n.startswith("fs_source")}
    return appended(history, "decisions", row._replace(headers=headers))


def alter_amount(history: History) -> History:
    """Decide another amount than was paid."""
    row = pick(history, "decisions", approved)
    return altered(history, "decisions", row, amount_minor=row.json()["amount_minor"] + 1)


def alter_card_of_alert(history: History) -> History:
    """Raise the alert for another card."""
    row = pick(history, "alerts")
    return altered(history, "alerts", row, card_id=row.json()["card_id"] + "0")


def alter_time(history: History) -> History:
    """Write the time down a millisecond off."""
    row = pick(history, "decisions", approved)
    text = row.json()["event_time"]
    last = "1" if text[-2] == "0" else "0"
    return altered(history, "decisions", row, event_time=f"{text[:-2]}{last}Z")


def alter_body_source(history: History) -> History:
    """Name another place in the body than in the headers."""
    row = pick(history, "decisions", approved)
    source = row.json()["source"]
    return altered(history, "decisions", row, source=source | {"offset": source["offset"] + 1})


def alter_reason(history: History) -> History:
    """Give a wrong reason in a dead letter."""
    row = _letter_of(history, history.transactions_topic)
    other = next(r for r in (Reason.FRAMING, Reason.EMPTY) if r != row.headers["fs_reason"])
    return swapped_for(history, "dead_letters", row, with_header(row, "fs_reason", other))


# ------------------------------------------------------------------ C3, C4


def show_aborted(history: History) -> History:
    """Let a reader see all of an attempt that was aborted."""
    visible = RunView(history).visible_attempts
    name = next(
        a.attempt
        for a in history.attempts
        if a.state == "aborted" and a.records and a.attempt not in visible
    )
    outputs = {
        kind: [r for r in rows if r.headers["fs_attempt"] in {*visible, name}]
        for kind, rows in history.uncommitted.items()
    }
    return replace(history, outputs=outputs)


def journal_aborted(history: History) -> History:
    """Let the worker say of a visible attempt that it was aborted."""
    return _with_attempt(history, lambda attempt: replace(attempt, state="aborted"))


def journal_unknown(history: History) -> History:
    """Let the worker find out, wrongly, that a visible attempt was not committed."""
    return _with_attempt(
        history, lambda attempt: replace(attempt, state="unknown", was_committed=False)
    )


def tear_attempt(history: History) -> History:
    """Lose one record of an attempt."""
    row = pick(history, "decisions", approved)
    return with_rows(
        history, "decisions", (r for r in history.outputs["decisions"] if r is not row)
    )


def lose_attempt(history: History) -> History:
    """Lose everything of an attempt that was committed."""
    name = _middle_attempt(history).attempt
    outputs = {
        kind: [row for row in rows if row.headers["fs_attempt"] != name]
        for kind, rows in history.outputs.items()
    }
    return replace(history, outputs=outputs)


def miscount_attempt(history: History) -> History:
    """Let an attempt say that it has one record more."""
    name = _middle_attempt(history).attempt

    def larger(row: Row) -> Row:
        if row.headers["fs_attempt"] != name:
            return row
        return with_header(
            row, "fs_attempt_records", f"{int(row.headers['fs_attempt_records']) + 1}"
        )

    rows = {kind: [larger(row) for row in rows] for kind, rows in history.outputs.items()}
    return replace(history, outputs=rows)


def journal_more_records(history: History) -> History:
    """Let the worker say that it produced one record more."""
    return _with_attempt(history, lambda attempt: replace(attempt, records=attempt.records + 1))


def forget_offsets(history: History) -> History:
    """Leave the offsets of visible decisions uncommitted, and the profiles there too."""
    place = pick(history, "decisions", approved).source[:2]
    offset = history.committed[place] - 1
    return replace(
        history,
        committed=history.committed | {place: offset},
        watermarks=history.watermarks | {place: offset},
    )


def forget_offsets_without_journal(history: History) -> History:
    """Do the same where there is no journal."""
    return replace(forget_offsets(history), attempts=[])


def forget_label_offsets(history: History) -> History:
    """Leave the offsets of labels uncommitted, of which only the journal knows."""
    place = next(p for p, o in history.committed.items() if p[0] == history.labels_topic and o)
    letters = [row.source[2] for row in history.outputs["dead_letters"] if row.source[:2] == place]
    offset = max([0, *letters]) + 1
    return replace(
        history,
        committed=history.committed | {place: offset},
        watermarks=history.watermarks | {place: offset},
    )


def _middle_attempt(history: History) -> Attempt:
    visible = RunView(history).visible_attempts
    own = [a for a in history.attempts if a.attempt in visible and a.state == "committed"]
    return own[len(own) // 2]


def _with_attempt(history: History, change: Callable[[Attempt], Attempt]) -> History:
    chosen = _middle_attempt(history)
    attempts = [change(a) if a is chosen else a for a in history.attempts]
    return replace(history, attempts=attempts)


# ------------------------------------------------------------------ C5


def swap_decisions(history: History) -> History:
    """Write two decisions of a partition in the wrong order."""
    return _swapped(history, "decisions")


def swap_alerts(history: History) -> History:
    """Write two alerts of a partition in the wrong order."""
    return _swapped(history, "alerts")


def _swapped(history: History, kind: str) -> History:
    rows = list(history.outputs[kind])
    at = next(n for n in range(5, len(rows)) if rows[n - 1].source[:2] == rows[n].source[:2])
    first, second = rows[at - 1], rows[at]
    rows[at - 1] = second._replace(offset=first.offset)
    rows[at] = first._replace(offset=second.offset)
    return with_rows(history, kind, rows)


# ------------------------------------------------------------------ C6


def drop_alert(history: History) -> History:
    """Lose an alert."""
    return without(history, "alerts", pick(history, "alerts"))


def double_alert(history: History) -> History:
    """Publish an alert twice."""
    return appended(history, "alerts", pick(history, "alerts"))


def alert_approved(history: History) -> History:
    """Raise an alert for a payment that was approved."""
    return _with_alert_of(history, approved)


def alert_duplicate(history: History) -> History:
    """Raise an alert for a copy."""
    return _with_alert_of(
        history, lambda body: body["outcome"] != "APPROVE" and "duplicate" in body["flags"]
    )


def misname_alert(history: History) -> History:
    """Raise an alert in the name of another decision."""
    return altered(history, "alerts", pick(history, "alerts"), decision_id="d-0")


def take_retry_for_duplicate(history: History) -> History:
    """Call a payment a copy that is none, and keep its alert back."""
    row = pick(history, "decisions", alerted)
    changed = without(history, "alerts", answering(history, "alerts", row.source))
    row = answering(changed, "decisions", row.source)
    return altered(changed, "decisions", row, flags=["duplicate"])


def call_original_duplicate(history: History) -> History:
    """Call a payment a copy that is none, where no alert hangs on it."""
    return altered(history, "decisions", pick(history, "decisions", approved), flags=["duplicate"])


def hide_duplicate(history: History) -> History:
    """Do not call a copy one."""

    def is_copy(body: Body) -> bool:
        return body["outcome"] == "APPROVE" and "duplicate" in body["flags"]

    row = pick(history, "decisions", is_copy)
    flags = [flag for flag in row.json()["flags"] if flag != "duplicate"]
    return altered(history, "decisions", row, flags=flags)


def _with_alert_of(history: History, is_wanted: Callable[[Body], bool]) -> History:
    row = pick(history, "decisions", is_wanted)
    return inserted(history, "alerts", row._replace(topic="out.alerts"))
