"""The address of a Valkey: whether it can be one, and how it is shown without its password."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qs, urlsplit

#: What is shown in a secret's place.
HIDDEN = "********"
#: What may stand behind the ? of valkey.url; with ``rediss://`` the second, too.
_OPTIONS = frozenset({"db", "username", "password"})
_TLS_OPTIONS = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile"),
        *("ssl_check_hostname", "ssl_keyfile", "ssl_password"),
    }
)


def url_fault(url: str) -> str | None:
    """Say what is wrong with an address, in words that hold nothing of it."""
    scheme, separator, _ = url.partition("://")
    if scheme not in {"redis", "rediss", "unix"} or not separator:
        return "begin it with redis://, rediss:// or unix://, as redis://localhost:6379/0"
    try:
        parts = urlsplit(url)
        is_port_good = scheme == "unix" or parts.port != 0
    except ValueError:
        is_port_good = False
    fault: str | None = None
    if not is_port_good:
        fault = "its port must be a number from 1 to 65535"
    elif parts.fragment:
        fault = "it must not hold a #"
    elif scheme == "unix" and not parts.path:
        return "name the socket's file, as unix:///run/valkey.sock"
    else:
        fault = _options_fault(parts)
    # What is wrong may be a password that was cut in two.
    return fault and f"{fault}; in a user or password, write / as %2F, ? as %3F and # as %23"


def _options_fault(parts: SplitResult) -> str | None:
    options = parse_qs(parts.query, keep_blank_values=True)
    databases = options.get("db", ["0"])
    if parts.scheme != "unix":
        databases.append(parts.path[1:] or "0")
    if not all(re.fullmatch(r"[0-9]+", database) for database in databases):
        return "its database must be a number, as in redis://localhost:6379/0"
    known = _OPTIONS | (_TLS_OPTIONS if parts.scheme == "rediss" else set())
    if not options.keys() <= known:
        return f"behind its ? there can be only {', '.join(sorted(known))}"
    return None


def hide_password(url: str) -> str:
    """Write an address without its password."""
    # Up to the last @: it may be part of the password.
    hidden = re.sub(r"(//[^:/@]*:).*@", rf"\g<1>{HIDDEN}@", url)
    return re.sub(r"(password=)[^&]*", rf"\g<1>{HIDDEN}", hidden)
