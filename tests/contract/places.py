"""Where the contract is held: the twin in memory, a real Valkey, and a real cluster of three.

A test that takes ``place`` runs on all of them. What a place holds is looked at through the
contract's own ``content``, so that no test depends on how records are packed.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from services import Services

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import ProfileBackend, SeriesContent
from fraudstream.adapters.valkey import ValkeyBackend
from fraudstream.adapters.valkey_wire import ValkeyLimits, connect
from fraudstream.local.ready import find_free_port, wait_until
from fraudstream.local.valkey import ValkeyNode
from fraudstream.profile import ProfileDefinition

#: Long enough for a busy machine: deadlines have tests of their own.
PATIENT = ValkeyLimits(deadline_s=20, connect_timeout_s=5, breaker_min_s=0.001, breaker_max_s=0.001)


class KeptRecord(NamedTuple):
    """One record of a series, with its own values."""

    time_ms: int
    id_hash: bytes
    position: bytes
    version_ms: int
    values: tuple[int, ...]
    attributes: tuple[bytes, ...]


class Kept(NamedTuple):
    """What a series holds: header, then its records."""

    trimmed_to_ms: int
    base_count: int
    base_sums: tuple[int, ...]
    records: list[KeptRecord]


class Place(Protocol):
    """Where backends are opened, and can be robbed of what they hold."""

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        """Open a backend that shares nothing with any other."""
        ...

    def reopen(self, backend: ProfileBackend) -> ProfileBackend:
        """Open what a backend holds anew, as a process does that starts again."""
        ...

    def wipe(self, backend: ProfileBackend) -> None:
        """Lose all that a backend holds, as FLUSHALL does."""
        ...

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        """Look at what a backend holds, by series and entity."""
        ...


class MemoryPlace:
    """The twin."""

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        return MemoryBackend(definition, buckets, known_from_ms)

    def reopen(self, backend: ProfileBackend) -> ProfileBackend:
        assert isinstance(backend, MemoryBackend)
        return MemoryBackend.restore(backend.definition, backend.snapshot())

    def wipe(self, backend: ProfileBackend) -> None:
        assert isinstance(backend, MemoryBackend)
        backend.flush()

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        assert isinstance(backend, MemoryBackend)
        names = {series.name: n for n, series in enumerate(backend.definition.series)}
        return {
            (name, entity): kept_of(backend.content(names[name], entity))
            for name, entity in backend.all_series()
        }


class ValkeyPlace:
    """A real server; every backend has a namespace of its own there."""

    #: By name, other values of constants of ``profile.lua``.
    constants: Mapping[str, int] = {}

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url, PATIENT)
        self._opened: list[tuple[ValkeyBackend, dict[str, object]]] = []

    def open(
        self, definition: ProfileDefinition, *, buckets: int = 1, known_from_ms: int = 0
    ) -> ProfileBackend:
        return self._open(
            {
                "definition": definition,
                "namespace": f"test-{uuid.uuid4().hex}",
                "buckets": buckets,
                "known_from_ms": known_from_ms,
            }
        )

    def reopen(self, backend: ProfileBackend) -> ProfileBackend:
        found = next(pair for pair in self._opened if pair[0] is backend)
        self._opened.remove(found)
        found[0].close()
        return self._open(found[1])

    def wipe(self, backend: ProfileBackend) -> None:
        if keys := self.keys(backend):
            self.client.delete(*keys)

    def kept(self, backend: ProfileBackend) -> dict[tuple[str, str], Kept]:
        definition = self._how(backend)["definition"]
        assert isinstance(definition, ProfileDefinition)
        names = {series.name: n for n, series in enumerate(definition.series)}
        found = {}
        for key in self.keys(backend):
            name, _, entity = key.decode().split("}:", 1)[1].partition(":")
            if entity and "#" not in entity:  # neither a bucket's books nor a chunk
                found[name, entity] = kept_of(backend.content(names[name], entity))
        return found

    def keys(self, backend: ProfileBackend) -> list[bytes]:
        """List a backend's keys."""
        namespace = self._how(backend)["namespace"]
        return sorted(self.client.scan_iter(match=f"fs:{namespace}:*", count=10_000))

    def close(self) -> None:
        for backend, _ in self._opened:
            self.wipe(backend)
            backend.close()
        self.client.close()

    def _open(self, how: dict[str, object]) -> ValkeyBackend:
        backend = ValkeyBackend(self.url, limits=PATIENT, **how)  # type: ignore[arg-type]
        self._opened.append((backend, how))
        for name, number in self.constants.items():
            _replace_constant(backend, name, number)
        return backend

    def _how(self, backend: ProfileBackend) -> dict[str, object]:
        return next(how for opened, how in self._opened if opened is backend)


class SmallChunksPlace(ValkeyPlace):
    """A server on which a series of a few records is cut as one of many thousands is."""

    constants: Mapping[str, int] = {"HEAD_MAX": 6, "CHUNK_MAX": 5, "BLOCK": 2, "MERGE_WORK_MAX": 4}


def _replace_constant(backend: ValkeyBackend, name: str, number: int) -> None:
    """Have a backend load and call a library of its own, with another number in it."""
    library = backend._library
    renamed = f"{name[:2].lower()}{number}"
    source, count = re.subn(rf"(?m)^(local {name} =) \d+", rf"\1 {number}", library.source)
    assert count == 1, f"profile.lua does not define {name} once"
    digest = library.apply.removeprefix("fs_apply_")
    library.source = source.replace(digest, digest + renamed)
    library.apply, library.merge, library.forget = (
        function + renamed for function in (library.apply, library.merge, library.forget)
    )


def kept_of(content: SeriesContent | None) -> Kept:
    """Give a series' content in a form that can be compared."""
    assert content is not None
    run = content.run
    rows = zip(
        run.times_ms.tolist(),
        _octets(run.hashes.tolist()),
        _octets(run.positions.tolist()),
        run.versions_ms.tolist(),
        map(tuple, run.values.tolist()),
        map(_octets, run.attributes.tolist()),
        strict=True,
    )
    records = [KeptRecord(*row) for row in rows]
    return Kept(content.trimmed_to_ms, content.base_count, tuple(content.base_sums), records)


def _octets(numbers: list[int]) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(8, "big") for number in numbers)


# Imported by the tests under these names; as fixtures they are called as they are below.


@pytest.fixture(
    name="place",
    params=[
        "memory",
        pytest.param("valkey", marks=pytest.mark.services),
        pytest.param("cluster", marks=pytest.mark.services),
    ],
)
def place_fixture(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield MemoryPlace()
        return
    if request.param == "cluster":
        yield request.getfixturevalue("cluster_place")
        return
    found: Services = request.getfixturevalue("services")
    valkey = ValkeyPlace(found.valkey_url)
    yield valkey
    valkey.close()


@pytest.fixture(name="valkey")
def valkey_fixture(services: Services) -> Iterator[ValkeyPlace]:
    found = ValkeyPlace(services.valkey_url)
    yield found
    found.close()


@pytest.fixture(name="small_chunks")
def small_chunks_fixture(services: Services) -> Iterator[SmallChunksPlace]:
    found = SmallChunksPlace(services.valkey_url)
    yield found
    found.close()


@contextmanager
def running_valkey(folder: Path, *options: str) -> Iterator[ValkeyPlace]:
    """Start a server of our own, with options of its own."""
    node = ValkeyNode(folder, folder / "log", find_free_port())
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([*node.server_command(), *options], stdout=log, stderr=log) as server,
    ):
        try:
            assert wait_until(lambda: node.is_answering(server.pid), timeout_s=20)
            found = ValkeyPlace(node.url)
            yield found
            found.client.config_set("maxmemory", 0)
            found.close()
        finally:
            server.kill()


@pytest.fixture(name="own_valkey")
def own_valkey_fixture(tmp_path: Path) -> Iterator[ValkeyPlace]:
    """Start a server for one test, which may do with it what it likes."""
    with running_valkey(tmp_path) as found:
        yield found
