"""The features of a whole file, as the stream would have given them.

    payments (file) ─ sources ─▶ slices of checked columns ─ evaluator ─▶ float32 (n, features)
    labels ── labels ─▶ from which row on each finding is known ─┘           └─ writing ─▶ Parquet

The very definitions and the very arithmetic of the stream (`fraudstream.features`); what differs is
how the integers are found: rows are sorted by entity once, every edge of a window becomes a number
of rows, and counts and sums are differences of two places of a cumulative sum.

A finding counts for a payment only if it was known then: ``is_fraud`` of a file enters a feature in
no other way than by a rule that says when it became known (`fraudstream.offline.labels`).
"""
