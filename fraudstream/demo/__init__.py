"""The whole thing on one machine, in a minute: what ``fraudstream demo`` does.

    plan ─▶ crew (workers) ─▶ run ──────────────────▶ drain ─▶ count ─▶ summary
    world   faults, keys      │ replay ─▶ Kafka       all topics again, by a reader
                              └ live ◀─ observer      that knows nothing of the run
                                 └▶ show (panel or lines)

Real Kafka, real Valkey, real workers; only the payments are simulated. What the panel shows comes
from a reader of the topics and not from the workers, and what the summary claims is counted from
the topics once more when everything has stopped.
"""
