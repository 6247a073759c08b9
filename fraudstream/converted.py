"""The same trees for ONNX Runtime, where single rows are scored one after the other.

XGBoost is built for batches: a call costs some 0.1 ms even for one row. ONNX Runtime takes a
fraction of that for one row, and from some hundred rows on they are alike (docs/model-quality.md
has the measured table). Reasons still come from the trees in XGBoost's format, which lie beside.

A converted model adds up its trees in another order, so scores may differ in the last bits; and
converters have been wrong exactly on the splits, so each conversion is certified with rows that
lie on them (`fraudstream.training.certify`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

from fraudstream.calibration import Calibration
from fraudstream.errors import BundleError
from fraudstream.score import Model

_FATAL_ONLY: Final = 4
#: ONNX Runtime's errors have no class in common, and some bytes it refuses with Python's own.
_REFUSALS: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    RuntimeError,
    ValueError,
)
#: Each fills a row. Whoever scores these as the trees do is a model of theirs: a bundle's golden
#: vectors look closer.
_PROBES: Final = (np.nan, -1.0, 0.0, 1.0, 30.0, 1e9)
_PROBE_DIFFERENCE_MAX: Final = 1e-5


class OnnxModel(Model):
    """A model whose scores are computed by ONNX Runtime, with one thread.

    Parameters
    ----------
    onnx
        The bytes of an ONNX model: one input of shape (n, columns), float32, and as its only
        output the scores, shape (n, 1), float32.
    ubj, columns, calibration
        As for `fraudstream.score.Model`: the trees that it was converted from.

    Raises
    ------
    BundleError
        As for `fraudstream.score.Model`, or ONNX Runtime refuses the bytes, or what it makes of
        them are not these trees' scores.
    """

    engine_version = onnxruntime.__version__

    def __init__(
        self,
        onnx: bytes,
        ubj: bytes,
        columns: Sequence[str],
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(ubj, columns, calibration)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                # Without the fallback, which prints where data are printed.
                onnx,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            if (
                len(inputs) != 1
                or len(outputs) != 1
                or (inputs[0].type, outputs[0].type) != ("tensor(float)", "tensor(float)")
                or inputs[0].shape[1:] != [len(columns)]
                or outputs[0].shape[1:] != [1]
            ):
                raise BundleError("does not take this model's vectors, or gives more than scores")
            self._input, self._outputs = inputs[0].name, [outputs[0].name]
            self._check_against_trees()
        except _REFUSALS as error:
            raise BundleError("is refused by ONNX Runtime") from error

    def _check_against_trees(self) -> None:
        probes = np.array(_PROBES, np.float32)[:, None].repeat(len(self.columns), 1)
        apart = np.abs(self._raw(probes) - super()._raw(probes))
        # Written so that a NaN is found too.
        if not (apart <= _PROBE_DIFFERENCE_MAX).all():
            raise BundleError("does not score as the trees do that lie beside it")

    def _raw(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._session.run(self._outputs, {self._input: rows})[0]
        return scores.reshape(-1)
