"""Proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in both cases).

What listens on this machine is never asked for through one: a proxy would look for it on its own machine. Where one stands
between, whatever goes wrong may be its doing, so messages name it, without its credentials.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.addresses import is_loopback, public

_NAMES = ("http_proxy", "https_proxy", "all_proxy")


def is_direct(url: str) -> bool:
    """Whether this URL is of this machine, so that no proxy may stand before it."""
    return is_loopback(urlsplit(url).hostname or "")


def by_way_of(url: str) -> str:
    """` by way of the proxy …`, as the environment asks for, or nothing."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_direct(url) or proxy_bypass(parts.hostname or ""):
        return ""
    return f" by way of the proxy {public(proxy if '://' in proxy else f'http://{proxy}')} (HTTP_PROXY and its like)"


@contextmanager
def without_proxies() -> Iterator[None]:
    """Whatever is set up in here sees no proxy in the environment, not even one that it could not use."""
    held = {name: os.environ.pop(name) for name in list(os.environ) if name.lower() in _NAMES}
    try:
        yield
    finally:
        os.environ.update(held)
