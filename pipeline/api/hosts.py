"""By which name the app was reached, and from where a change comes: what keeps other web pages out.

A page of anybody's may point its own name at this machine (DNS rebinding), and its scripts then read and change what they
like: the browser thinks it is the page's own server. Only the Host header says so, so it has to name this app. And a page
of another origin may send what a form can send: what changes something must come from a page of ours, or from no page.
"""

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.api.problems import Problem

LOCAL = ("localhost", "*.localhost", "127.0.0.1", "::1")
_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::(?P<port>[0-9]{0,5}))?",
    re.ASCII | re.IGNORECASE,
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>.+)", re.ASCII)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_PORTS = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """Host and port of a Host header or an origin; the host in lower case, an address as Python writes it."""

    host: str
    port: int | None


def authority(text: str) -> Authority | None:
    """What `Host: text` names (RFC 9110, 7.2); None when it is malformed: a user, a path, two hosts, a port beyond 65535."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    host = (found["name"] or found["address"]).lower()
    if found["address"]:
        try:
            host = str(ip_address(host))
        except ValueError:
            return None
    return None if port is not None and port > 2**16 - 1 else Authority(host, port)


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a host is one of these: names, `*.` and a name for all below it, addresses, networks."""
    names, networks = set(), []
    for pattern in patterns:
        try:
            networks.append(ip_network(pattern.strip("[]")))
        except ValueError:
            names.add(pattern.lower().removesuffix("."))
    below = tuple(name[1:] for name in names if name.startswith("*."))

    def matches(host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return host in names or host.endswith(below)
        return any(address in network for network in networks)

    return matches


class Hosts:
    """Answers 400 to a request without exactly one Host, 421 to one for another host, 403 to a change from another origin.

    `allowed` are hosts beside `LOCAL`; `origins` those whose pages may change things under another name than the request's,
    because a proxy has it. The paths of `open_to_all` tell nothing and change nothing: probes
    ask them by an address that nobody knows beforehand.
    """

    def __init__(
        self, app: ASGIApp, allowed: Sequence[str], origins: Sequence[str], open_to_all: frozenset[str]
    ) -> None:
        self._app = app
        self._open = open_to_all
        self._is_configured = matcher(origins)
        self._is_ours = matcher((*LOCAL, *allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        named = _all(scope, b"host")
        host = authority(named[0]) if len(named) == 1 else None
        if host is None:
            raise Problem(400, "bad-host", "A request has one Host header, and in it a host and perhaps a port.")
        if not self._is_ours(host.host) and scope["path"] not in self._open:
            raise Problem(
                421, "other-host", "This is not the host that the request names; api.allowed_hosts lists what it is."
            )
        if scope["method"] not in _SAFE and not self._comes_from_us(scope, host):
            raise Problem(403, "other-origin", "A page of another origin may change nothing here.")

    def _comes_from_us(self, scope: Scope, host: Authority) -> bool:
        """No page sent it, or one that this app served, under whichever of its names a proxy has."""
        origins = _all(scope, b"origin")
        if not origins:
            return not {"cross-site", "same-site"}.intersection(_all(scope, b"sec-fetch-site"))
        found = _ORIGIN.fullmatch(origins[0]) if len(origins) == 1 else None
        origin = authority(found["authority"]) if found else None
        if found is None or origin is None:
            return False
        default = _PORTS[found["scheme"]]
        same = (origin.host, origin.port or default) == (host.host, host.port or default)
        return same or self._is_configured(origin.host)


def _all(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in scope["headers"] if name == wanted]
