"""Topics as tables: Parquet, CSV or JSON lines, one row a record.

    topic ─drain─▶ records ─columns─▶ table ─files─▶ a file, a slice at a time

Read committed, from the beginning to the topic's present end.
"""
