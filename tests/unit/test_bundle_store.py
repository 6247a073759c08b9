"""Bundles in an object store: fsspec's own memory store, and stores that are not as they say."""

from __future__ import annotations

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]
from tiny_bundle import draft_of
from typer.testing import CliRunner

from fraudstream.bundle import load_bundle
from fraudstream.bundle_folder import FILE_BYTES_MAX
from fraudstream.bundle_writing import write_bundle
from fraudstream.cli import app
from fraudstream.errors import BundleError

FILES = (
    "MODEL_CARD.md",
    "fallback.ubj",
    "golden.json",
    "manifest.json",
    "manifest.sha256",
    "model.ubj",
)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "mine", draft_of("mine"))
    return tmp_path / "mine"


@pytest.fixture
def address(local: Path) -> Iterator[str]:
    """Copy the bundle into the memory store, as anybody would."""
    place = f"/{uuid.uuid4().hex}/models/mine"
    store = fsspec.filesystem("memory")
    for file in local.iterdir():
        store.pipe_file(f"{place}/{file.name}", file.read_bytes())
    yield f"memory:/{place}"
    store.rm(place, recursive=True)


def change(address: str, name: str, content: bytes) -> None:
    with fsspec.open(f"{address}/{name}", "wb") as file:
        file.write(content)


def refusal(address: str) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(address)
    start, sentence = f"model bundle {address}: ", str(caught.value)
    assert sentence.startswith(start)
    assert "\n" not in sentence
    return sentence.removeprefix(start)


def test_a_bundle_is_the_same_wherever_it_lies(local: Path, address: str) -> None:
    near, far = load_bundle(local), load_bundle(address)
    assert far.sha256 == near.sha256
    assert far.manifest == near.manifest
    assert far.features == near.features
    vectors = near.golden_vectors
    np.testing.assert_array_equal(far.model.score(vectors), near.model.score(vectors))


@pytest.mark.parametrize("written", ["{}", "{}/", "file://{}"])
def test_a_local_folder_has_an_address_too(local: Path, written: str) -> None:
    assert load_bundle(written.format(local)).sha256 == load_bundle(local).sha256


def test_an_address_may_end_in_a_slash(local: Path, address: str) -> None:
    assert load_bundle(f"{address}/").sha256 == load_bundle(local).sha256


def test_commands_take_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the settings hand it on as it is."""
    expected = f"sha256 {load_bundle(address).sha256}"
    shown = CliRunner().invoke(app, ["model", "check", address], catch_exceptions=False)
    assert expected in shown.stdout
    words = ["feature-set", "list", "--bundle", address]
    assert "card_tx_count_1d" in CliRunner().invoke(app, words, catch_exceptions=False).stdout
    monkeypatch.setenv("FRAUDSTREAM_MODEL__BUNDLE", address)
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    checked = CliRunner().invoke(app, ["config", "check"], catch_exceptions=False)
    assert "settings and bundle are valid: mine 7" in checked.stdout


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", FILES)
def test_missing_file(address: str, name: str) -> None:
    fsspec.filesystem("memory").rm_file(f"{address.removeprefix('memory:/')}/{name}")
    assert refusal(address) == f"{name} is missing: copy the whole bundle again"


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("manifest")])
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit(local: Path, address: str, name: str, place: int) -> None:
    content = bytearray((local / name).read_bytes())
    content[place] ^= 1
    change(address, name, bytes(content))
    assert refusal(address).startswith(f"{name} is not the file that the bundle was made with")


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_one_flipped_bit_in_the_manifest(local: Path, address: str, name: str) -> None:
    content = bytearray((local / name).read_bytes())
    content[5] ^= 1
    change(address, name, bytes(content))
    assert refusal(address).startswith("manifest.json is not the file that the bundle was made")


def test_file_cut_short(local: Path, address: str) -> None:
    change(address, "model.ubj", (local / "model.ubj").read_bytes()[:-100])
    assert refusal(address).startswith("model.ubj is not the file that the bundle was made with")


def test_file_far_too_large(address: str) -> None:
    change(address, "model.ubj", bytes(FILE_BYTES_MAX + 1))
    assert refusal(address) == "model.ubj is far too large for a model: copy the bundle again"


def test_nothing_at_all() -> None:
    nowhere = f"memory://{uuid.uuid4().hex}"
    assert refusal(nowhere) == "manifest.json is missing: copy the whole bundle again"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("foo://a/b", "there is no way to read from foo://: look at the address"),
        # Its driver wants to know more than an address says.
        ("demanding://a/b", "there is no way to read from demanding://: look at the address"),
    ],
)
def test_unknown_protocol(address: str, words: str) -> None:
    assert refusal(address) == words


def test_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle("foo://user:s3cr3t-canary@host/models/mine")
    assert "s3cr3t-canary" not in str(caught.value)
    assert "foo://user:********@host/models/mine" in str(caught.value)


PROGRAM = """
import sys
sys.modules[sys.argv[1]] = None
from fraudstream.bundle import load_bundle
from fraudstream.errors import BundleError
try:
    load_bundle(sys.argv[2])
except BundleError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("fsspec", "needs fsspec: pip install 'fraudstream[remote]'"),
        ("s3fs", "needs fsspec's driver for it, such as s3fs for s3://"),
    ],
)
def test_what_an_address_needs_and_is_not_installed(module: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, "s3://bucket/models/mine"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert words in done.stdout
    assert not done.stderr


def test_a_folder_needs_no_fsspec(local: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{PROGRAM}\nprint('loaded')", "fsspec", str(local)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "loaded\n"


# ------------------------------------------------------------------ a store that is not as it says


class _Endless(io.RawIOBase):
    """A file without an end, and with a memory of how much of it was read."""

    given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all of an endless file was asked for"
        _Endless.given += size
        return bytes(size)


class _Odd(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store whose files fail in ways that the memory store's do not."""

    protocol = "odd"
    cachable = False
    #: By path: what `size` says (None: it cannot), or what it raises.
    sizes: dict[str, int | OSError | None]

    def __init__(self, **storage_options: Any) -> None:  # noqa: ANN401 - fsspec's own signature
        super().__init__(**storage_options)
        self.sizes = {
            "endless/manifest.json": 100,
            "unsized/manifest.json": None,
            "huge/manifest.json": FILE_BYTES_MAX + 1,
            "forbidden/manifest.json": PermissionError(13, "AccessDenied: key s3cr3t-canary"),
            "away/manifest.json": TimeoutError("s3cr3t-canary"),
        }

    def size(self, path: str) -> int | None:
        stated = self.sizes[path]
        if isinstance(stated, OSError):
            raise stated
        return stated

    def open(self, path: str, mode: str = "rb", **_: object) -> io.RawIOBase:
        assert not path.startswith("huge")
        return _Endless()


class _Demanding(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that cannot be had for its address alone."""

    protocol = "demanding"
    cachable = False

    def __init__(self, region: str, **storage_options: Any) -> None:  # noqa: ANN401 - as above
        super().__init__(**storage_options)
        self.region = region


for _kind in (_Odd, _Demanding):
    fsspec.register_implementation(_kind.protocol, _kind, clobber=True)


@pytest.mark.parametrize("place", ["endless", "unsized"])
def test_the_size_that_a_store_states_is_not_believed(place: str) -> None:
    _Endless.given = 0
    assert refusal(f"odd://{place}").startswith("manifest.json is far too large for a model")
    assert _Endless.given == FILE_BYTES_MAX + 1


def test_what_is_stated_to_be_too_large_is_not_read_at_all() -> None:
    _Endless.given = 0
    assert refusal("odd://huge").startswith("manifest.json is far too large for a model")
    assert _Endless.given == 0


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("forbidden", "manifest.json cannot be read from there (PermissionError): look at the"),
        ("away", "manifest.json cannot be read from there (TimeoutError): look at the address"),
    ],
)
def test_a_store_that_is_away_or_says_no_is_a_sentence_without_its_own_words(
    place: str, words: str
) -> None:
    sentence = refusal(f"odd://{place}")
    assert sentence.startswith(words)
    assert "s3cr3t-canary" not in sentence
