"""Histories that were damaged on purpose, each in one way: the checker has to name every one.

A damage is made as small as it can be: where a record goes, the number of records that its attempt
says it has goes down with it, so that losing it is all that is wrong. Where a second check cannot
help noticing, the table says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import damaged_outputs as outputs
import damaged_state as state
import damaged_values as values
from history import History

Change: TypeAlias = Callable[[History], History]


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to a good history, and who has to notice.

    Parameters
    ----------
    change
        Gives a damaged copy.
    check
        The check that it belongs to.
    also
        Checks that cannot help noticing too.
    """

    change: Change
    check: str
    also: frozenset[str] = frozenset()


#: By name.
DAMAGES: Mapping[str, Damage] = {
    "drop decision": Damage(outputs.drop_decision, "C1"),
    "double decision": Damage(outputs.double_decision, "C1"),
    "drop dead letter": Damage(outputs.drop_dead_letter, "C1"),
    "drop label dead letter": Damage(outputs.drop_label_dead_letter, "C1"),
    "double dead letter": Damage(outputs.double_dead_letter, "C1"),
    "give up good record": Damage(outputs.give_up_good_record, "C1"),
    "invent decision": Damage(outputs.invent_decision, "C2"),
    "invent dead letter": Damage(outputs.invent_dead_letter, "C2"),
    "forget source": Damage(outputs.forget_source, "C2"),
    "alter amount": Damage(outputs.alter_amount, "C2"),
    "alter card of alert": Damage(outputs.alter_card_of_alert, "C2"),
    "alter time": Damage(outputs.alter_time, "C2"),
    "alter body source": Damage(outputs.alter_body_source, "C2"),
    "alter reason": Damage(outputs.alter_reason, "C2"),
    "show aborted": Damage(outputs.show_aborted, "C3", frozenset({"C1", "C6"})),
    "journal aborted": Damage(outputs.journal_aborted, "C3"),
    "journal unknown": Damage(outputs.journal_unknown, "C3"),
    "tear attempt": Damage(outputs.tear_attempt, "C4", frozenset({"C1"})),
    "lose attempt": Damage(outputs.lose_attempt, "C4", frozenset({"C1"})),
    "miscount attempt": Damage(outputs.miscount_attempt, "C4"),
    "journal more records": Damage(outputs.journal_more_records, "C4"),
    "forget offsets": Damage(outputs.forget_offsets, "C4"),
    "forget offsets without journal": Damage(outputs.forget_offsets_without_journal, "C4"),
    "forget label offsets": Damage(outputs.forget_label_offsets, "C4"),
    "swap decisions": Damage(outputs.swap_decisions, "C5"),
    "swap alerts": Damage(outputs.swap_alerts, "C5"),
    "drop alert": Damage(outputs.drop_alert, "C6"),
    "double alert": Damage(outputs.double_alert, "C6"),
    "alert approved": Damage(outputs.alert_approved, "C6"),
    "alert duplicate": Damage(outputs.alert_duplicate, "C6"),
    "misname alert": Damage(outputs.misname_alert, "C6"),
    "take retry for duplicate": Damage(outputs.take_retry_for_duplicate, "C6"),
    "call original duplicate": Damage(outputs.call_original_duplicate, "C6"),
    "hide duplicate": Damage(outputs.hide_duplicate, "C6"),
    "nudge amount": Damage(values.nudge_amount, "C7"),
    "nudge card mean": Damage(values.nudge_card_mean, "C7"),
    "nudge card ratio": Damage(values.nudge_card_ratio, "C7"),
    "count card twice": Damage(values.count_card_twice, "C7"),
    "forget card maximum": Damage(values.forget_card_maximum, "C7"),
    "count terminal twice": Damage(values.count_terminal_twice, "C7"),
    "nudge terminal rate": Damage(values.nudge_terminal_rate, "C7"),
    "forget feature": Damage(values.forget_feature, "C7"),
    "forget terminal feature": Damage(values.forget_terminal_feature, "C7"),
    "excuse wrongly": Damage(values.excuse_wrongly, "C7"),
    "claim incomplete": Damage(values.claim_incomplete, "C7"),
    "claim late": Damage(values.claim_late, "C7"),
    "hide lateness": Damage(values.hide_lateness, "C7"),
    "hide too late": Damage(values.hide_too_late, "C7"),
    "name missing": Damage(values.name_missing, "C7"),
    "fill in degraded": Damage(values.fill_in_degraded, "C7"),
    "nudge score": Damage(values.nudge_score, "C8"),
    "nudge degraded score": Damage(values.nudge_degraded_score, "C8"),
    "decline degraded": Damage(values.decline_degraded, "C8"),
    "decline mildest": Damage(values.decline_mildest, "C8"),
    "forget record": Damage(state.forget_record, "C9"),
    "forget terminal record": Damage(state.forget_terminal_record, "C9"),
    "forget label": Damage(state.forget_label, "C9"),
    "forget card": Damage(state.forget_card, "C9"),
    "count twice": Damage(state.count_twice, "C9"),
    "invent record": Damage(state.invent_record, "C9"),
    "alter value": Damage(state.alter_value, "C9"),
    "keep old finding": Damage(state.keep_old_finding, "C9"),
    "turn finding": Damage(state.turn_finding, "C9"),
    "shuffle records": Damage(state.shuffle_records, "C9"),
    "advance watermark": Damage(state.advance_watermark, "C9"),
    "hold watermark": Damage(state.hold_watermark, "C9"),
    "lose watermark": Damage(state.lose_watermark, "C9"),
    "hang output": Damage(state.hang_output, "C10"),
    "hang input": Damage(state.hang_input, "C10"),
    "degrade without fault": Damage(state.degrade_without_fault, "C11"),
    "degrade after fault": Damage(state.degrade_after_fault, "C11"),
}
