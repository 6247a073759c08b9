"""Whether a Valkey (or Redis) server is one on which profiles stay right."""

from __future__ import annotations

from typing import Any

import redis

from fraudstream.errors import StoreUnfitError

#: First releases without the known holes in the Lua engine (CVE-2025-49844 and later).
_VALKEY_VERSIONS_MIN = ((8, 1, 9), (9, 0, 5), (9, 1, 1))
_REDIS_VERSION_MIN = (7, 2, 0)


def require_fit(client: redis.Redis) -> None:
    """Refuse a server on which profiles would be silently wrong.

    Raises
    ------
    StoreUnfitError
        It is too old, or it may evict keys.
    """
    info: dict[str, Any] = client.info()
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnfitError(
            f"Valkey's maxmemory-policy is {policy}: an evicted key is a wrong feature that "
            "nobody notices. Set it to noeviction."
        )
    if "valkey_version" in info:
        version = _version(str(info["valkey_version"]))
        fits = any(v[:2] == version[:2] and version >= v for v in _VALKEY_VERSIONS_MIN)
        if not fits and version < _VALKEY_VERSIONS_MIN[-1]:
            raise StoreUnfitError(
                f"Valkey {info['valkey_version']} is too old: 8.1.9, 9.0.5 or 9.1.1 close the "
                "known holes in its Lua engine."
            )
    elif _version(str(info.get("redis_version", "0"))) < _REDIS_VERSION_MIN:
        raise StoreUnfitError("the Redis server is too old: functions need 7.2 or newer.")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
