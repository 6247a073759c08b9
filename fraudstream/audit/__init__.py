"""The parity meter: whether features that were decided on are what the log gives.

    decisions ─ sample ─▶ some decisions ─┐            ┌─ past ─▶ what their cards and
                └▶ decided: when what ────┤            │          terminals had done by then
    transactions, labels (one pass each) ─┴─ parity ───┤
                                                       └─ recompute ─▶ float32 (features,)
                                                              └─ compare ─▶ verdicts, a report

Some decisions are drawn by the hash of their id: the same ones whoever asks. Their features are
computed again by the offline evaluator, from nothing but what the log says had been recorded when
each was made, and compared bit for bit. `watch` lets a running worker do so now and then, in a
process of its own.

What came before a decision, the log tells exactly within its partition: by offset. Across
partitions there is no such order, only time stamps, so whatever happened within a small interval
of a decision may or may not have been seen by it. A difference that such records could explain is
called uncertain, never a mismatch, and never a match either.
"""
