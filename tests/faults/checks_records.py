"""C1 to C6: every input answered once, by whole transactions, in order, with its alert.

Each check gives a sentence for whatever must not be; what it is about is named by its position.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from harness import Partition, Position, Row
from run_view import Answer, RunView, every_output, source_of

from fraudstream.errors import Reason
from fraudstream.event import Label, Transaction


def at(place: Position) -> str:
    """Write a position."""
    return f"{place[0]}/{place[1]}@{place[2]}"


# ------------------------------------------------------------------ C1, C2


def check_counts(view: RunView) -> Iterator[str]:
    """C1: each transaction, and each malformed label, has exactly one decision or dead letter."""
    answers = Counter(answer.source for answer in view.decisions)
    answers.update(filter(None, map(source_of, view.outputs["dead_letters"])))
    for place, event in view.events.items():
        if isinstance(event, Label):
            continue
        count = answers[place]
        if count == 0:
            yield f"lost: {at(place)} has no decision and no dead letter"
        elif count > 1:
            yield f"doubled: {at(place)} has {count} decisions and dead letters"
        elif isinstance(event, Transaction) and _is_given_up(view, place):
            yield f"lost: {at(place)} is a good record and has a dead letter"


def _is_given_up(view: RunView, place: Position) -> bool:
    """Say whether a record was dead-lettered for its own sake, not for an output of it."""
    letter = view.dead.get(place)
    return letter is not None and letter.headers.get("fs_reason") != Reason.OUTPUT_REFUSED


def check_phantoms(view: RunView) -> Iterator[str]:
    """C2: no output without input, and what it says of its input is so."""
    for kind, rows in view.outputs.items():
        for row in rows:
            if source_of(row) is None:
                yield f"phantom: {kind} {at(row.place)} does not say what it answers"
    for kind, answers in (("decision", view.decisions), ("alert", view.alerts)):
        for answer in answers:
            yield from _check_payload(view, kind, answer)
    for source, row in view.dead.items():
        yield from _check_dead_letter(view, source, row)


def _check_payload(view: RunView, kind: str, answer: Answer) -> Iterator[str]:
    event = view.events.get(answer.source)
    if not isinstance(event, Transaction):
        yield f"phantom: the {kind} {at(answer.place)} answers {at(answer.source)}, no transaction"
        return
    payload = (
        event.transaction_id,
        event.event_time_ms,
        event.card_id,
        event.terminal_id,
        event.amount_minor,
        event.currency,
    )
    if answer.payload != payload:
        yield f"payload: the {kind} {at(answer.place)} is not what {at(answer.source)} says"
    if answer.body_source != answer.source:
        yield f"payload: the {kind} {at(answer.place)} names {at(answer.body_source)} in its body"


def _check_dead_letter(view: RunView, source: Position, row: Row) -> Iterator[str]:
    if source not in view.events:
        yield f"phantom: the dead letter {at(row.place)} answers {at(source)}, which is no record"
        return
    event = view.events[source]
    said = row.headers.get("fs_reason")
    if isinstance(event, Label):
        yield f"phantom: the dead letter {at(row.place)} is of {at(source)}, a good label"
    elif isinstance(event, Reason) and said not in {event, Reason.OUTPUT_REFUSED}:
        yield f"payload: the dead letter {at(row.place)} says {said}, not {event}"


# ------------------------------------------------------------------ C3, C4, C5


def check_aborted_reads(view: RunView) -> Iterator[str]:
    """C3: nothing is visible of an attempt that aborted."""
    for row in every_output(view.history.outputs):
        attempt = view.journal.get(row.headers.get("fs_attempt", ""))
        if attempt is not None and attempt.is_committed is False:
            yield f"aborted read: {at(row.place)} is of {attempt.attempt}, which was aborted"


def check_whole(view: RunView) -> Iterator[str]:
    """C4: each visible attempt is whole, and its offsets are committed."""
    for name, visible in view.visible_attempts.items():
        if not name:
            yield f"torn: {visible.records} records do not name their attempt"
        elif visible.said != {str(visible.records)}:
            yield f"torn: {visible.records} of {'/'.join(sorted(visible.said))} records of {name}"
    yield from _check_journal(view)
    yield from _check_committed_sources(view)


def _check_journal(view: RunView) -> Iterator[str]:
    """Compare what workers say they committed with what is visible, and with the offsets."""
    committed = view.history.committed
    for attempt in view.history.attempts:
        is_visible = attempt.attempt in view.visible_attempts
        if not (is_visible or attempt.is_committed):
            continue
        visible = view.visible_attempts[attempt.attempt].records if is_visible else 0
        if visible != attempt.records:
            yield f"torn: {visible} of {attempt.records} records of {attempt.attempt}, as it says"
        for place, end in attempt.ends.items():
            if committed.get(place, -1) < end:
                yield f"torn: {attempt.attempt} sent {at((*place, end))}, which is not committed"


def _check_committed_sources(view: RunView) -> Iterator[str]:
    """Compare the offsets with what is visible: needs no journal."""
    newest: dict[Partition, int] = {}
    for row in every_output(view.history.outputs):
        source = source_of(row)
        if source is not None and source in view.events:
            place = source[:2]
            newest[place] = max(newest.get(place, -1), source[2])
    for place, offset in newest.items():
        if view.history.committed.get(place, -1) <= offset:
            yield f"torn: {at((*place, offset))} is answered and its offset is not committed"


def check_order(view: RunView) -> Iterator[str]:
    """C5: decisions and alerts in the order of the offsets that they answer."""
    for kind, answers in (("decision", view.decisions), ("alert", view.alerts)):
        newest: dict[tuple[Partition, Partition], int] = {}
        seen: set[Position] = set()
        for answer in answers:
            if answer.source in seen:
                continue  # doubled is another matter
            seen.add(answer.source)
            lane = (answer.place[:2], answer.source[:2])
            if answer.source[2] < newest.get(lane, -1):
                yield f"reordered: the {kind} of {at(answer.source)} comes after a later one"
            newest[lane] = max(newest.get(lane, -1), answer.source[2])


# ------------------------------------------------------------------ C6


def check_alerts(view: RunView) -> Iterator[str]:
    """C6: an alert if and only if the decision calls for one, and one a payment."""
    raised = Counter(alert.source for alert in view.alerts)
    for source, decision in view.decided.items():
        if decision.calls_for_alert and not raised[source]:
            yield f"alert lost: the decision on {at(source)} calls for one"
    for source, count in raised.items():
        if count > 1:
            yield f"alert doubled: {at(source)} has {count}"
    for alert in view.alerts:
        yield from _check_alert(view.decided.get(alert.source), alert)
    yield from _check_once(view)
    yield from _check_duplicates(view)


def _check_alert(decision: Answer | None, alert: Answer) -> Iterator[str]:
    if decision is None:
        yield f"alert doubled: {at(alert.place)} is of {at(alert.source)}, which has no decision"
    elif not decision.calls_for_alert:
        yield f"alert doubled: the decision on {at(alert.source)} calls for none"
    elif (alert.decision_id, alert.score, alert.outcome) != (
        decision.decision_id,
        decision.score,
        decision.outcome,
    ):
        yield f"alert lost: {at(alert.place)} is not of the decision on {at(alert.source)}"


def _check_once(view: RunView) -> Iterator[str]:
    """See that there is one alert a payment, unless a copy was decided degraded or was too late.

    Neither is remembered when the other one comes, and neither is promised.
    """
    unknown = {
        decision.payload[:2]
        for decision in view.decided.values()
        if decision.is_degraded or "too_late" in decision.flags
    }
    alerted: dict[tuple[str, int], Position] = {}
    for alert in view.alerts:
        identity = alert.payload[:2]
        first = alerted.setdefault(identity, alert.source)
        if first != alert.source and identity not in unknown:
            yield f"alert doubled: {at(alert.source)} is a copy of {at(first)}"


def _check_duplicates(view: RunView) -> Iterator[str]:
    """See that a copy is called one, and nothing else: a copy has no alert of its own."""
    copies = _copies(view)
    for source, decision in view.decided.items():
        others = copies.get(source, ())
        is_flagged = "duplicate" in decision.flags
        earlier = [o for o in others if o[:2] != source[:2] or o[2] < source[2]]
        if is_flagged and not earlier:
            yield f"alert lost: {at(source)} is flagged duplicate and is the first of its kind"
        is_certain = any(o[:2] == source[:2] for o in earlier)
        if is_certain and not is_flagged and not decision.flags & {"degraded", "too_late"}:
            yield f"alert doubled: {at(source)} is a copy and is not flagged"


def _copies(view: RunView) -> dict[Position, list[Position]]:
    """Find the records with the identity of another one, at the same card or terminal."""
    alike: dict[tuple[str, str, int], list[Position]] = defaultdict(list)
    for place, event in view.transactions:
        for entity in (f"c{event.card_id}", f"t{event.terminal_id}"):
            alike[entity, event.transaction_id, event.event_time_ms].append(place)
    found: dict[Position, list[Position]] = defaultdict(list)
    for places in alike.values():
        if len(places) > 1:
            for place in places:
                found[place] += _others(places, place)
    return found


def _others(places: Iterable[Position], place: Position) -> list[Position]:
    return [other for other in places if other != place]
