"""Servers that will not do, and keys that hold something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import redis
from feeds import (
    CARD_TX,
    DEFINITION,
    HORIZON_MS,
    LONG,
    TERMINAL_TX,
    Feed,
    T,
    answers_of,
    entry,
    payment,
    record,
)
from places import (  # noqa: F401
    PATIENT,
    SmallChunksPlace,
    ValkeyPlace,
    own_valkey_fixture,
    running_valkey,
    small_chunks_fixture,
    valkey_fixture,
)

from fraudstream.adapters.profile_backend import ProfileBackend
from fraudstream.adapters.valkey import ValkeyBackend
from fraudstream.adapters.valkey_fit import require_fit
from fraudstream.adapters.valkey_wire import ValkeyLimits
from fraudstream.errors import (
    ProfileLossError,
    StoreUnavailableError,
    StoreUnfitError,
)
from fraudstream.local.ready import find_free_port, wait_until
from fraudstream.profile import DAY_MS, ProfileDefinition


def mangled(at: int) -> Callable[[bytes], bytes]:
    """Add one to a byte of a series' header."""
    return lambda packed: packed[:at] + bytes([packed[at] + 1]) + packed[at + 1 :]


#: What may lie where a series should, made of what did; None: a hash.
FOREIGN = [
    pytest.param(mangled(0), id="another layout"),
    pytest.param(mangled(1), id="more columns"),
    pytest.param(mangled(2), id="more attributes"),
    pytest.param(lambda packed: packed[:-9], id="half a record"),
    pytest.param(lambda packed: packed[:20], id="half a header"),
    pytest.param(lambda _: b"{}", id="a short string"),
    pytest.param(lambda _: b'{"profile": "of somebody else"}' * 9, id="a longer string"),
    pytest.param(lambda _: None, id="a hash"),
]


def overwrite(
    valkey: ValkeyPlace, key: bytes, change: Callable[[bytes], bytes | None]
) -> dict[bytes, bytes]:
    """Put something else in the place of a key; give what all keys hold then."""
    packed = valkey.client.get(key)
    assert isinstance(packed, bytes)
    valkey.client.delete(key)
    changed = change(packed)
    if changed is None:
        valkey.client.hset(key, "field", "value")
    else:
        valkey.client.set(key, changed)
    return dumps(valkey, key.split(b":")[1])


def dumps(valkey: ValkeyPlace, namespace: bytes) -> dict[bytes, bytes]:
    keys = valkey.client.scan_iter(match=b"fs:%s:*" % namespace, count=10_000)
    found = {key: valkey.client.dump(key) for key in keys}
    return {key: packed for key, packed in found.items() if packed is not None}


@pytest.mark.services
@pytest.mark.parametrize("change", FOREIGN)
@pytest.mark.parametrize("name", [b":card_tx:c1", b":terminal_tx:t1"])
def test_a_key_that_holds_something_else_is_refused_and_nothing_is_half_written(
    valkey: ValkeyPlace, name: bytes, change: Callable[[bytes], bytes | None]
) -> None:
    feed = Feed(valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    (key,) = [key for key in valkey.keys(feed.backend) if key.endswith(name)]
    series, entity = (CARD_TX, "c1") if b"card" in name else (TERMINAL_TX, "t1")
    content = feed.backend.content(series, entity)
    assert content is not None
    before = overwrite(valkey, key, change)
    with pytest.raises(StoreUnfitError, match="another layout"):
        feed.pay(payment("b", T + 1))
    for touch in (
        lambda: feed.backend.merge([content.run]),
        lambda: feed.backend.forget(series, entity, T),
        lambda: feed.backend.content(series, entity),
    ):
        with pytest.raises(StoreUnfitError, match="another layout"):
            touch()
    assert dumps(valkey, key.split(b":")[1]) == before


@pytest.mark.services
@pytest.mark.parametrize("is_cut_short", [False, True])
def test_a_series_without_one_of_its_chunks_is_refused_and_nothing_is_half_written(
    small_chunks: SmallChunksPlace, is_cut_short: bool
) -> None:
    feed = Feed(small_chunks.open(LONG), LONG)
    feed.pay(*[payment(f"x{number}", T + number) for number in range(40)])
    chunk = next(key for key in small_chunks.keys(feed.backend) if b":card_tx:c1#" in key)
    packed = small_chunks.client.get(chunk)
    assert isinstance(packed, bytes)
    small_chunks.client.delete(chunk)
    if is_cut_short:
        small_chunks.client.set(chunk, packed[:-1])
    before = dumps(small_chunks, chunk.split(b":")[1])
    with pytest.raises(StoreUnfitError, match="a piece of a profile is gone"):
        feed.pay(payment("late", T))
    with pytest.raises(StoreUnfitError, match="a piece of a profile is gone"):
        feed.store.content("card_tx", "c1")
    assert dumps(small_chunks, chunk.split(b":")[1]) == before


@pytest.mark.services
def test_code_with_other_definitions_never_meets_our_keys(valkey: ValkeyPlace) -> None:
    other = ProfileDefinition(tuple(s for s in DEFINITION.series if s.name != "terminal_label"))
    assert other.digest != DEFINITION.digest
    ours = valkey.open(DEFINITION)
    Feed(ours).pay(payment("a", T))
    assert all(f":{DEFINITION.digest}:".encode() in key for key in valkey.keys(ours))


@pytest.mark.services
def test_idle_series_expire_and_the_books_do_not(valkey: ValkeyPlace) -> None:
    """A series may go when no window can reach it; a watermark that went would look like a loss."""
    feed = Feed(valkey.open(DEFINITION))
    feed.pay(*[payment(f"x{number}", T + 500 * number) for number in range(10)])  # trimmed, too
    ttls = {
        key.decode().rsplit("}:", 1)[1]: valkey.client.pttl(key)
        for key in valkey.keys(feed.backend)
    }
    assert ttls.pop("watermarks") == -1
    assert set(ttls) == {"card_tx:c1", "terminal_tx:t1"}
    assert all(ttl_ms > 2 * HORIZON_MS for ttl_ms in ttls.values())


@pytest.mark.services
def test_the_life_of_a_series_is_renewed_on_each_new_day_of_its_events(valkey: ValkeyPlace) -> None:
    backend = valkey.open(LONG)
    record(backend, entry("a", T, 0, (1,)))
    (key,) = [key for key in valkey.keys(backend) if key.endswith(b":card_tx:c1")]
    valkey.client.pexpire(key, 60_000)
    record(backend, entry("b", T + 1_000, 1, (1,)))
    assert valkey.client.pttl(key) <= 60_000
    record(backend, entry("c", T + DAY_MS, 2, (1,)))
    assert valkey.client.pttl(key) > 60_000


@pytest.mark.services
def test_a_server_that_may_evict_keys_is_refused(own_valkey: ValkeyPlace) -> None:
    own_valkey.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnfitError, match="maxmemory-policy is allkeys-lru"):
        Feed(own_valkey.open(DEFINITION))
    assert own_valkey.client.dbsize() == 0
    own_valkey.client.config_set("maxmemory-policy", "noeviction")
    Feed(own_valkey.open(DEFINITION)).pay(payment("a", T))


def as_limited_user(own_valkey: ValkeyPlace, *rules: str) -> ValkeyBackend:
    """Open a backend as a user who may do everything but what the rules take away."""
    rights = ("on", ">words", "~*", "&*", "+@all", *rules)
    own_valkey.client.execute_command("ACL", "SETUSER", "limited", *rights)  # type: ignore[no-untyped-call]
    address = own_valkey.url.removeprefix("redis://")
    url = f"redis://limited:words@{address}"
    return ValkeyBackend(url, DEFINITION, namespace="limited", limits=PATIENT)


@pytest.mark.services
@pytest.mark.parametrize("forbidden", ["-function", "-fcall", "-info", "-hgetall"])
def test_a_server_that_denies_what_we_need_is_refused_and_nothing_is_half_written(
    own_valkey: ValkeyPlace, forbidden: str
) -> None:
    backend = as_limited_user(own_valkey, forbidden)
    with pytest.raises(StoreUnfitError, match="ACL refuses what the worker needs"):
        Feed(backend)
    assert own_valkey.client.dbsize() == 0
    backend.close()


@pytest.mark.services
@pytest.mark.parametrize("command", ["FUNCTION", "FCALL"])
def test_a_server_without_functions_is_refused_and_nothing_is_half_written(
    tmp_path: Path, command: str
) -> None:
    with running_valkey(tmp_path, "--rename-command", command, "") as valkey:
        with pytest.raises(StoreUnfitError, match="has no functions"):
            Feed(valkey.open(DEFINITION))
        assert valkey.client.dbsize() == 0


@dataclass
class Claimed:
    """Says of itself what it is told to say."""

    fields: dict[str, str]

    def info(self) -> dict[str, str]:
        return self.fields


def claiming(name: str, version: str) -> redis.Redis:
    return cast("redis.Redis", Claimed({f"{name}_version": version}))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("valkey", "7.2.11"),
        ("valkey", "8.0.6"),
        ("valkey", "8.1.8"),
        ("valkey", "9.0.4"),
        ("valkey", "9.1.0"),
        ("redis", "6.2.20"),
        ("redis", "7.0.15"),
        ("redis", "7.1.9"),
    ],
)
def test_a_server_that_is_too_old_is_refused(name: str, version: str) -> None:
    with pytest.raises(StoreUnfitError, match="too old"):
        require_fit(claiming(name, version))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("valkey", "8.1.9"),
        ("valkey", "9.0.5"),
        ("valkey", "9.1.1"),
        ("valkey", "9.2.0"),
        ("valkey", "10.0.0"),
        ("redis", "7.2.0"),
        ("redis", "8.4.0"),
    ],
)
def test_a_server_that_is_new_enough_is_taken(name: str, version: str) -> None:
    require_fit(claiming(name, version))


@pytest.mark.services
def test_a_server_without_memory_left_is_away_and_nothing_is_half_written(
    own_valkey: ValkeyPlace,
) -> None:
    feed = Feed(own_valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    namespace = own_valkey.keys(feed.backend)[0].split(b":")[1]
    before = dumps(own_valkey, namespace)
    own_valkey.client.config_set("maxmemory", 1)
    located = feed.read(payment("b", T + 1))
    with pytest.raises(StoreUnavailableError):
        feed.apply(located)
    assert dumps(own_valkey, namespace) == before
    own_valkey.client.config_set("maxmemory", 0)
    wait_until(lambda: is_available(feed.backend), timeout_s=5)
    assert answers_of(feed.apply(located))[0].counts[0] == 2


def is_available(backend: ProfileBackend) -> bool:
    try:
        backend.require_available()
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.services
def test_a_server_restarted_empty_gets_our_functions_back_and_the_loss_is_noticed(
    own_valkey: ValkeyPlace,
) -> None:
    feed = Feed(own_valkey.open(DEFINITION))
    feed.pay(payment("a", T))
    own_valkey.client.flushall()
    own_valkey.client.function_flush("SYNC")
    with pytest.raises(ProfileLossError):
        feed.pay(payment("b", T + 1))
    assert own_valkey.client.dbsize() == 0
    assert own_valkey.client.function_list()


@pytest.mark.services
def test_two_releases_of_the_functions_live_side_by_side(own_valkey: ValkeyPlace) -> None:
    """Loading is never replacing: the library is named by the hash of its content."""
    own_valkey.client.function_load(
        "#!lua name=fraudstream_000000000000\n"
        "redis.register_function('fs_apply_000000000000', function() return 'older' end)"
    )
    Feed(own_valkey.open(DEFINITION)).pay(payment("a", T))
    assert own_valkey.client.fcall("fs_apply_000000000000", 0) == b"older"
    assert len(own_valkey.client.function_list()) == 2


def test_a_server_that_is_gone_is_away_and_is_left_alone_for_a_moment() -> None:
    backend = ValkeyBackend(
        f"redis://127.0.0.1:{find_free_port()}/0",
        DEFINITION,
        namespace="nobody",
        limits=ValkeyLimits(breaker_min_s=30.0, breaker_max_s=30.0),
    )
    with pytest.raises(StoreUnavailableError, match="ConnectionError"):
        backend.states()
    with pytest.raises(StoreUnavailableError, match="left alone"):
        backend.states()
    with pytest.raises(StoreUnavailableError, match="left alone"):
        backend.require_available()
    backend.close()


@pytest.mark.services
def test_an_error_about_the_store_never_tells_its_password(own_valkey: ValkeyPlace) -> None:
    port = own_valkey.url.split(":")[-1]
    backend = ValkeyBackend(
        f"redis://user:canary-secret@127.0.0.1:{port}", DEFINITION, namespace="x", limits=PATIENT
    )
    with pytest.raises((StoreUnavailableError, StoreUnfitError)) as caught:
        backend.states()
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    backend.close()
    assert isinstance(caught.value.__cause__, redis.RedisError)
