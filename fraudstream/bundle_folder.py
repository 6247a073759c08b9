"""A bundle's files, as bytes: from a local folder, or by fsspec from an object store.

    models/mine                        a folder of this machine
    s3://models/mine, memory://mine    whatever fsspec has a driver for (pip install s3fs, gcsfs, …)

Nothing is parsed here. A file is read only if it is not too large, and in a local folder only if
it is the folder's own and not a link to somewhere else. What a store sends is not trusted more
than what a disk holds: `fraudstream.bundle` checks the hashes of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fraudstream.errors import BundleError

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

#: A file above this is no bundle's: the largest model worth serving is a few MB.
FILE_BYTES_MAX: Final = 256 * 1024 * 1024

MANIFEST: Final = "manifest.json"
MANIFEST_HASH: Final = "manifest.sha256"
MODEL: Final = "model.ubj"
PACKED_MODEL: Final = "model.ubj.gz"
ONNX_MODEL: Final = "model.onnx"
FALLBACK: Final = "fallback.ubj"
GOLDEN: Final = "golden.json"
CARD: Final = "MODEL_CARD.md"
CERTIFICATE: Final = "certificate.json"

_MISSING_FOLDER: Final = (
    "there is no such folder: give the one that holds manifest.json, or make one with "
    "`fraudstream train`"
)


class BundleFolder(Protocol):
    """Where a bundle's files are read from."""

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises
        ------
        BundleError
            It is missing, too large, not the folder's own, or cannot be read.
        """


def open_folder(location: Path | str) -> BundleFolder:
    """Find the folder of a bundle.

    Parameters
    ----------
    location
        A path, or an address with ``://``.

    Raises
    ------
    BundleError
        There is none, or what its address needs is not installed.
    """
    if "://" in str(location):
        return _RemoteFolder(str(location))
    path = Path(location)
    if path.is_file():
        raise BundleError(
            "this is a file, and a bundle is a folder: give the one that holds manifest.json"
        )
    if not path.is_dir():
        raise BundleError(_MISSING_FOLDER)
    return _LocalFolder(path)


class _LocalFolder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        file = self._path / name
        if file.is_symlink():
            raise BundleError(f"{name} is a symbolic link: put the file itself there")
        try:
            if file.stat().st_size > FILE_BYTES_MAX:
                raise _too_large(name)
            return file.read_bytes()
        except FileNotFoundError:
            raise _missing(name) from None
        except OSError as error:
            raise BundleError(
                f"{name} cannot be read ({error.strerror}): look at its rights"
            ) from None


class _RemoteFolder:
    def __init__(self, address: str) -> None:
        self._files, self._root = _connect(address)

    def read(self, name: str) -> bytes:
        place = f"{self._root.rstrip('/')}/{name}"
        try:
            if int(self._files.size(place) or 0) > FILE_BYTES_MAX:
                raise _too_large(name)
            with self._files.open(place, "rb") as opened:
                # The size that a store states is not believed either.
                content: bytes = opened.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            raise _missing(name) from None
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise BundleError(
                f"{name} cannot be read from there ({reason}): look at the address, the "
                "credentials and the network"
            ) from None
        if len(content) > FILE_BYTES_MAX:
            raise _too_large(name)
        return content


def _connect(address: str) -> tuple[AbstractFileSystem, str]:
    scheme = address.partition("://")[0]
    try:
        import fsspec  # type: ignore[import-untyped]  # an extra: most bundles lie in a folder

        files, root = fsspec.core.url_to_fs(address)
    except ModuleNotFoundError:
        raise BundleError(
            f"reading from {scheme}:// needs fsspec: pip install 'fraudstream[remote]'"
        ) from None
    except ImportError:
        raise BundleError(
            f"reading from {scheme}:// needs fsspec's driver for it, such as s3fs for s3:// or "
            "gcsfs for gs://: pip install it"
        ) from None
    except (TypeError, ValueError):  # unknown, or it lacks what its driver needs
        raise BundleError(
            f"there is no way to read from {scheme}://: look at the address"
        ) from None
    return files, str(root)


def _missing(name: str) -> BundleError:
    return BundleError(f"{name} is missing: copy the whole bundle again")


def _too_large(name: str) -> BundleError:
    return BundleError(f"{name} is far too large for a model: copy the bundle again")
