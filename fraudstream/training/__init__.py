"""How a frozen model comes to be: simulated streams, training sets, training, quality.

Nothing here runs in the worker. A bundle made here is read by `fraudstream.bundle`.
"""
