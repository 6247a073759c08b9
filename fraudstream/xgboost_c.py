"""What scoring needs of XGBoost, called in its shared library by the documented C API.

    bytes of a model ─▶ Booster ─┬─ predict ───────▶ float32[n]
                                 └─ contributions ─▶ float32[n, columns + 1]

The library is that of the installed package `xgboost`, which is found but not imported: that would
load SciPy and more, for matrices and models that are none of ours (docs/adr/0022). The library gets
what the package's own `Booster` hands it, so the numbers are the same to the last bit.

It trusts a model's bytes (`fraudstream.ubj` checks them) and what it is told of a matrix's memory.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from fraudstream.errors import SettingsError

#: What the library is called where it is not called libxgboost.so.
_FILES: Final = {"darwin": "libxgboost.dylib", "win32": "xgboost.dll"}

_Handle, _Text, _Count = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
_Log = ctypes.CFUNCTYPE(None, _Text)
_Shape = ctypes.POINTER(_Count)
#: Where a prediction's shape, its number of dimensions and its address are written.
_PREDICTION: Final = tuple(ctypes.POINTER(kind) for kind in (_Shape, _Count, ctypes.c_void_p))
#: What is called, and its arguments. All but the first return 0 when they succeed.
_FUNCTIONS: Final[dict[str, tuple[type, ...]]] = {
    "XGBoostVersion": (ctypes.POINTER(ctypes.c_int),) * 3,
    "XGBuildInfo": (ctypes.POINTER(_Text),),
    "XGBRegisterLogCallback": (_Log,),
    "XGBoosterCreate": (_Handle, _Count, ctypes.POINTER(_Handle)),
    "XGBoosterFree": (_Handle,),
    "XGBoosterSetParam": (_Handle, _Text, _Text),
    "XGBoosterLoadModelFromBuffer": (_Handle, _Text, _Count),
    "XGBoosterPredictFromDense": (_Handle, _Text, _Text, _Handle, *_PREDICTION),
    "XGBoosterPredictFromDMatrix": (_Handle, _Handle, _Text, *_PREDICTION),
    "XGProxyDMatrixCreate": (ctypes.POINTER(_Handle),),
    "XGDMatrixCreateFromDense": (_Text, _Text, ctypes.POINTER(_Handle)),
    "XGDMatrixFree": (_Handle,),
}

# All trees; the package's `inplace_predict` and `predict` say the same.
_TREES: Final = '"training": false, "iteration_begin": 0, "iteration_end": 0, "strict_shape": false'
_SCORES: Final = f'{{"type": 0, {_TREES}, "missing": NaN, "cache_id": 0}}'.encode()
_EXACT: Final = f'{{"type": 2, {_TREES}}}'.encode()
_APPROXIMATE: Final = f'{{"type": 3, {_TREES}}}'.encode()
_INTERFACE: Final = b'{"data": [%d, true], "shape": [%d, %d], "typestr": "<f4", "version": 3}'
_MATRIX: Final = b'{"missing": NaN, "nthread": 1, "data_split_mode": 0}'


class XGBoostError(ValueError):
    """XGBoost refused a call, in words of its own, or gave what was not asked for."""


def library_file(folders: Sequence[Path], system: str = sys.platform) -> Path:
    """Find the library in the first of some folders that has it, by its name on a system.

    Raises
    ------
    SettingsError
        It is in none of them.
    """
    name = _FILES.get(system, "libxgboost.so")
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        raise SettingsError(f"the package xgboost is here, but not its {name}: install it again")
    return found[0]


def _folders() -> list[Path]:
    """Say where the library may be: in the package, or where conda puts it."""
    package = find_spec("xgboost")
    if package is None:
        # As an import would say it: the command line has a sentence for that.
        raise ModuleNotFoundError("No module named 'xgboost'", name="xgboost")
    inside = [Path(place) / "lib" for place in package.submodule_search_locations or ()]
    return [*inside, Path(sys.base_prefix) / "lib"]


def _open(file: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(file))
        for name, arguments in _FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise SettingsError(f"the library of xgboost cannot be used ({error})") from error
    library.XGBoostVersion.restype = None
    library.XGBGetLastError.restype = _Text
    return library


_LIBRARY: Final = _open(library_file(_folders()))


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        raise XGBoostError(_LIBRARY.XGBGetLastError().decode(errors="replace"))


def _warn(message: bytes) -> None:
    """Make a Python warning of what XGBoost would print, as the package does."""
    warnings.warn(message.decode(errors="replace"), UserWarning, stacklevel=2)


_CALLBACK: Final = _Log(_warn)
# A thread has one: the package's stays, whichever of us comes first.
if "xgboost" not in sys.modules:
    _call(_LIBRARY.XGBRegisterLogCallback, _CALLBACK)


def version() -> str:
    """Say which version the library is of, as ``3.2.0``."""
    parts = [ctypes.c_int() for _ in range(3)]
    _LIBRARY.XGBoostVersion(*map(ctypes.byref, parts))
    return ".".join(str(part.value) for part in parts)


def has_cuda() -> bool:
    """Say whether the library was built for GPUs; whether there is one, only using it shows."""
    info = _Text()
    _call(_LIBRARY.XGBuildInfo, ctypes.byref(info))
    return orjson.loads(info.value or b"{}").get("USE_CUDA") is True


class _Proxy:
    """A matrix that stands for other memory at each prediction."""

    def __init__(self) -> None:
        self.handle = _Handle()
        _call(_LIBRARY.XGProxyDMatrixCreate, ctypes.byref(self.handle))
        weakref.finalize(self, _LIBRARY.XGDMatrixFree, self.handle).atexit = False


class Booster:
    """A model in the library's memory, which is freed with this object.

    Parameters
    ----------
    model
        The bytes of a whole model file: see `fraudstream.ubj.check_model`.
    parameters
        XGBoost's own, such as ``nthread`` and ``device``.

    Raises
    ------
    XGBoostError
        The library refuses the bytes.
    """

    def __init__(self, model: bytes, parameters: Mapping[str, str]) -> None:
        self._handle = _Handle()
        _call(_LIBRARY.XGBoosterCreate, None, 0, ctypes.byref(self._handle))
        # But not at exit, when a daemon thread may still predict.
        weakref.finalize(self, _LIBRARY.XGBoosterFree, self._handle).atexit = False
        #: Those that no thread is using. Given none, a prediction makes one of its own: 60 µs, half
        #: of what a single row takes.
        self._proxies: list[_Proxy] = []
        for name, value in parameters.items():
            _call(_LIBRARY.XGBoosterSetParam, self._handle, name.encode(), value.encode())
        _call(_LIBRARY.XGBoosterLoadModelFromBuffer, self._handle, model, len(model))

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score n > 0 rows, C-contiguous; NaN is "not known". Gives shape (n,)."""
        try:
            proxy = self._proxies.pop()
        except IndexError:
            proxy = _Proxy()
        arguments = (self._handle, _interface(rows), _SCORES, proxy.handle)
        scores = _predict(_LIBRARY.XGBoosterPredictFromDense, arguments, (len(rows),))
        self._proxies.append(proxy)
        return scores

    def contributions(
        self, rows: NDArray[np.float32], *, is_approximate: bool
    ) -> NDArray[np.float32]:
        """Say what each column added to the log-odds; gives shape (n, columns + 1), last the bias.

        Exact are Shapley values, approximate is what each split on a row's way changed.
        """
        matrix = _Handle()
        _call(_LIBRARY.XGDMatrixCreateFromDense, _interface(rows), _MATRIX, ctypes.byref(matrix))
        try:
            arguments = (self._handle, matrix, _APPROXIMATE if is_approximate else _EXACT)
            shape = (len(rows), rows.shape[1] + 1)
            return _predict(_LIBRARY.XGBoosterPredictFromDMatrix, arguments, shape)
        finally:
            _call(_LIBRARY.XGDMatrixFree, matrix)


def _interface(rows: NDArray[np.float32]) -> bytes:
    """Describe a matrix by numpy's array interface, in JSON."""
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.flags.c_contiguous:
        raise ValueError("expected a C-contiguous matrix of float32")
    return _INTERFACE % (rows.ctypes.data, *rows.shape)


def _predict(
    function: Callable[..., int], arguments: tuple[object, ...], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Copy a result out of the library's memory, where the next call puts another."""
    found, dimensions, address = _Shape(), _Count(), ctypes.c_void_p()
    _call(function, *arguments, *map(ctypes.byref, (found, dimensions, address)))
    if (given := tuple(found[: dimensions.value])) != shape:
        raise XGBoostError(f"a result has the shape {given} instead of {shape}")
    result = np.empty(shape, np.float32)
    ctypes.memmove(result.ctypes.data, address, result.nbytes)
    return result
