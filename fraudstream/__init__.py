"""fraudstream: decides card payments while the shopper waits.

A Kafka consumer group reads transaction events, builds feature vectors with the help of profiles
kept in Valkey, scores them with a frozen XGBoost model and publishes decisions and alerts.

The package reads in the data's way:

    event → profile → features → score → decision → alert      (the stages, pure)
    pipeline                                                   (all of them as one function)
    runtime                                                    (the loop around it)
    adapters, bundle, settings, app, cli                       (the world outside)

Everything from ``errors`` to ``pipeline`` does no I/O and has no clock: "now" is the time that
an event carries.
"""

__version__ = "0.1.0"
