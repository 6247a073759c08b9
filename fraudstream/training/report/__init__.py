"""An evaluation as tables, and as one HTML file with pictures.

Evaluation ─┬─ tables ─┬──────────▶ command line
            └─ charts ─┴─ document ▶ report.html      no script, no network, the same bytes again
"""
