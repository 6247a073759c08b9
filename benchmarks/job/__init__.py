"""The one job of all contestants: its stream, its features and its model."""
