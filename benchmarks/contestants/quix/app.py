"""The benchmark's job in Quix Streams, row by row: ``python app.py run`` (see README.md beside it).

    payments ─▶ card windows ─▶ group_by terminal ─▶ terminal windows ─▶ score ─▶ decisions
                (state: card)   (a topic between)    (state: terminal)

A series is a value of Quix's RocksDB state: the times of the last 31 days in order, 8 bytes each,
and for a card its amounts behind them. A window is ``(event_time − w, event_time]``, the payment
itself included; the day beyond the longest one lets late payments find what their windows hold.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
import xgboost
from quixstreams import Application, State  # type: ignore[import-not-found]
from quixstreams.models import JSONDeserializer, JSONSerializer  # type: ignore[import-not-found]
from xgboost.libpath import find_lib_path

FEATURES = 12
ROW = struct.Struct(f"<{FEATURES}f")
DAY_MS = 86_400_000
WINDOWS_MS = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
#: A day beyond the longest window, so that late payments find what theirs hold.
KEPT_MS = 31 * DAY_MS
HOUR_MS = 3_600_000
#: 1970-01-01 was a Thursday: Saturday and Sunday are the days 2 and 3 of a week that begins then.
WEEKEND_DAYS = (2, 3)
#: 00:00 to 06:59.
NIGHT_HOURS = 7
#: The name of a key's only state value.
SERIES = b"series"
#: What goes on to the terminals.
CARRIED = (
    "transaction_id",
    "card_id",
    "event_time",
    "amount_minor",
    "card_counts",
    "card_totals",
)

CONSUMER: dict[str, object] = {
    "max.partition.fetch.bytes": 65_536,
    "queued.min.messages": 1_000,
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 10,
}
PRODUCER: dict[str, object] = {
    "retry.backoff.ms": 5,
    "retry.backoff.max.ms": 20,
    "linger.ms": 200,
    "compression.type": "zstd",
}


class RowScorer:
    """Scores one row at a time, without what the Python interface adds to each call.

    Parameters
    ----------
    model
        The model file.

    Notes
    -----
    ``Booster.inplace_predict`` on a row spends most of its time around the library's function, not
    in it. Here that function, ``XGBoosterPredictFromDense`` of XGBoost's documented C interface, is
    called itself, on one row in place.
    """

    def __init__(self, model: str) -> None:
        self._booster = xgboost.Booster(model_file=model)  # keeps the handle alive
        self._booster.set_param({"nthread": 1})
        self._library = ctypes.cdll.LoadLibrary(find_lib_path()[0])
        self._library.XGBGetLastError.restype = ctypes.c_char_p
        # Without one of its own, each call would make a new proxy: half as long again for a row.
        self._proxy = ctypes.c_void_p()
        self._check(self._library.XGProxyDMatrixCreate(ctypes.byref(self._proxy)))
        self._row = (ctypes.c_float * FEATURES)()
        self._scores = ctypes.POINTER(ctypes.c_float)()
        row = {
            "data": [ctypes.addressof(self._row), True],
            "shape": [1, FEATURES],
            "typestr": "<f4",
            "version": 3,
        }
        how = {
            "type": 0,
            "training": False,
            "iteration_begin": 0,
            "iteration_end": 0,
            "missing": float("nan"),
            "strict_shape": False,
        }
        self._arguments = (
            self._booster.handle,
            json.dumps(row).encode(),
            json.dumps(how).encode(),
            self._proxy,
            ctypes.byref(ctypes.POINTER(ctypes.c_uint64)()),
            ctypes.byref(ctypes.c_uint64()),
            ctypes.byref(self._scores),
        )

    def score(self, vector: Sequence[float]) -> float:
        """Score a feature vector; the result is a float32's value."""
        ROW.pack_into(self._row, 0, *vector)
        self._check(self._library.XGBoosterPredictFromDense(*self._arguments))
        score: float = self._scores[0]
        return score

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self._library.XGBGetLastError().decode())


def add_card_windows(payment: dict[str, Any], state: State) -> None:
    """Record a payment with its card, and note the card's windows in it.

    Parameters
    ----------
    payment
        The payment; gets ``card_counts`` and ``card_totals``, of 1, 7 and 30 days.
    state
        The card's.
    """
    stored = state.get_bytes(SERIES, b"")
    middle = len(stored) // 2
    times, amounts = array("q", stored[:middle]), array("q", stored[middle:])
    time_ms = payment["event_time"]
    end = bisect_right(times, time_ms)
    times.insert(end, time_ms)
    amounts.insert(end, payment["amount_minor"])
    end += 1
    starts = [bisect_right(times, time_ms - window_ms, 0, end) for window_ms in WINDOWS_MS]
    payment["card_counts"] = [end - start for start in starts]
    payment["card_totals"] = [sum(amounts[start:end]) for start in starts]
    outlived = bisect_right(times, times[-1] - KEPT_MS)
    state.set_bytes(SERIES, times[outlived:].tobytes() + amounts[outlived:].tobytes())


def add_terminal_windows(payment: dict[str, Any], state: State) -> None:
    """Record a payment at its terminal, and note the terminal's windows in it.

    Parameters
    ----------
    payment
        The payment; gets ``terminal_counts``, of 1, 7 and 30 days.
    state
        The terminal's.
    """
    times = array("q", state.get_bytes(SERIES, b""))
    time_ms = payment["event_time"]
    end = bisect_right(times, time_ms)
    times.insert(end, time_ms)
    end += 1
    payment["terminal_counts"] = [
        end - bisect_right(times, time_ms - window_ms, 0, end) for window_ms in WINDOWS_MS
    ]
    outlived = bisect_right(times, times[-1] - KEPT_MS)
    state.set_bytes(SERIES, times[outlived:].tobytes())


def feature_vector(payment: Mapping[str, Any]) -> list[float]:
    """Put a payment's features into the model's order."""
    days, ms_of_day = divmod(payment["event_time"], DAY_MS)
    counts, totals = payment["card_counts"], payment["card_totals"]
    return [
        payment["amount_minor"] / 100,
        days % 7 in WEEKEND_DAYS,
        ms_of_day < NIGHT_HOURS * HOUR_MS,
        *counts,
        *[total / (100 * count) for total, count in zip(totals, counts, strict=True)],
        *payment["terminal_counts"],
    ]


def to_terminals(payment: Mapping[str, Any]) -> bytes:
    """Write what the second half needs of a payment; its terminal is the record's key."""
    return orjson.dumps([payment[name] for name in CARRIED])


def from_cards(value: bytes) -> dict[str, Any]:
    """Read what `to_terminals` wrote."""
    return dict(zip(CARRIED, orjson.loads(value), strict=True))


def decision_json(payment: Mapping[str, Any]) -> bytes:
    """Write the decision on a scored payment; 9 digits are enough for every float32."""
    return orjson.dumps(
        {
            "transaction_id": payment["transaction_id"],
            "score": float(f"{payment['score']:.9g}"),
            "outcome": payment["outcome"],
        }
    )


def build(environ: Mapping[str, str]) -> Application:
    """Build the application with its topology; README.md gives the reason of each setting."""
    app = Application(
        broker_address=environ["BENCH_BOOTSTRAP"],
        consumer_group=environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=float(environ.get("BENCH_COMMIT_INTERVAL_S", "1.0")),
        consumer_poll_timeout=0.01,
        state_dir=environ["BENCH_STATE_DIR"],
        loglevel="WARNING",
        consumer_extra_config=CONSUMER,
        producer_extra_config=PRODUCER | {"transactional.id": environ["BENCH_GROUP"]},
    )
    scorer = RowScorer(environ["BENCH_MODEL"])
    threshold = float(np.float32(environ.get("BENCH_REVIEW_THRESHOLD", "0.3")))

    def decide(payment: dict[str, Any]) -> None:
        payment["score"] = score = scorer.score(feature_vector(payment))
        payment["outcome"] = "REVIEW" if score >= threshold else "APPROVE"

    decisions = app.topic(
        environ["BENCH_OUTPUT"],
        key_serializer="str",
        value_serializer=JSONSerializer(dumps=decision_json),
    )
    payments = app.dataframe(app.topic(environ["BENCH_INPUT"]))
    payments = payments.update(add_card_windows, stateful=True)
    payments = payments.group_by(
        "terminal_id",
        key_serializer="str",
        key_deserializer="bytes",
        value_serializer=JSONSerializer(dumps=to_terminals),
        value_deserializer=JSONDeserializer(loads=from_cards),
    )
    payments = payments.update(add_terminal_windows, stateful=True)
    payments = payments.update(decide)
    payments.to_topic(decisions, key=itemgetter("card_id"))
    return app


def score_file(model: str, vectors: str, out: str) -> None:
    """Score rows of raw little-endian float32, one by one as a run does, into raw float32."""
    scorer = RowScorer(model)
    rows = np.fromfile(vectors, dtype="<f4").reshape(-1, FEATURES)
    np.array([scorer.score(row.tolist()) for row in rows], dtype="<f4").tofile(out)


def main() -> None:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["run"]:
            build(os.environ).run()
        case ["score", model, vectors, out]:
            score_file(model, vectors, out)
        case _:
            sys.exit("usage: app.py run | app.py score MODEL VECTORS OUT")


if __name__ == "__main__":
    main()
