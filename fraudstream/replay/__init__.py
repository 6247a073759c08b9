"""Streams for operations: a file, or a simulated world, published as if it happened now.

    source ─▶ stream ─▶ replayer ─▶ Kafka
    file      labels     ├ speed     when each event is due
              merged     └ backlog   what the group has not committed yet

``span`` reads times and durations; ``sending`` is the producer. ``source`` reads files as training
does (`fraudstream.rows`). Only it needs polars, so the demo, which makes its stream
itself, gets along without it.

A replay never sets a record's Kafka timestamp: an old one would be deleted by retention at once, a
future one refused. The event's own time is in the event.
"""
