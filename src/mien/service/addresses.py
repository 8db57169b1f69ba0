"""Which addresses the service may fetch from or call: what the operator allows, and never inside.

A name is resolved once, every address that it has is looked at, and the connection goes to one
that was looked at, so that a name that changes its mind between look and call gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from mien.errors import Refused, UsageError

Resolve = Callable[[str, int], list[str]]
"""Host and port → all its addresses."""

LONGEST: Final = 2000
"""Letters of a URL."""

_TRANSLATED: Final = tuple(
    ipaddress.ip_network(net)
    for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
"""IPv6 networks that carry an IPv4 address inside, which may be an inner one."""


class Place(NamedTuple):
    """Where to connect to.

    Attributes:
        url: As it was said.
        host: Its name, for the ``Host`` field and the certificate.
        port: Of the server.
        address: That was looked at.
    """

    url: str
    host: str
    port: int
    address: str


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system.

    Raises:
        UsageError: It has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host}: its address cannot be found") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check(
    url: str,
    *,
    what: str,
    prefixes: Sequence[str] | None = None,
    inner: bool = False,
    resolve: Resolve = resolve,
) -> Place:
    """Let a URL pass, or refuse it.

    Args:
        url: As a user said it.
        what: Of the request, for the message.
        prefixes: What the URL may begin with; None for anything.
        inner: Whether addresses inside are allowed: the operator said so.
        resolve: Of names.

    Raises:
        UsageError: It is no URL of http or https, or its host is not found.
        Refused: The operator does not allow it, or it leads inside.
    """
    parts = _split(url, what)
    if prefixes is not None and not any(_begins(parts, _split(p, "prefix")) for p in prefixes):
        raise Refused(f"{what}: the operator does not allow this address (rule service.urls)")
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = resolve(host, port)
    if not addresses:
        raise UsageError(f"{what}: the address of its host cannot be found")
    if not inner and not all(_is_outside(address) for address in addresses):
        raise Refused(f"{what}: leads to an address inside (rule service.addresses)")
    return Place(url, host, port, addresses[0])


def _split(url: str, what: str) -> SplitResult:
    good = len(url) <= LONGEST and url.isascii() and url.isprintable() and " " not in url
    try:
        parts = urlsplit(url)
        good = good and parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and parts.username is None and "\\" not in url and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{what}: expected an http or https URL without user name")
    return parts


def _begins(url: SplitResult, prefix: SplitResult) -> bool:
    """Whether scheme, host and port are the same, and the path begins alike, whole steps."""
    if (url.scheme, url.hostname, url.port) != (prefix.scheme, prefix.hostname, prefix.port):
        return False
    # What a server makes of dots and of encoded letters is its own affair: they do not pass.
    if "%2e" in url.path.lower() or "%2f" in url.path.lower() or "%5c" in url.path.lower():
        return False
    if any(step in (".", "..") for step in url.path.split("/")):
        return False
    base = prefix.path if prefix.path.endswith("/") else prefix.path + "/"
    return url.path == prefix.path or url.path.startswith(base)


def _is_outside(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_outside(str(address.ipv4_mapped))
        if any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast
