"""Addresses as they may be printed: without user, password, query or fragment, whatever was written there."""

from ipaddress import ip_address

HIDDEN = "••••"


def has_secret_part(text: str) -> bool:
    """Whether an address has a place where people put a secret: a user or a query."""
    return any(mark in text.partition("://")[2] or ("://" not in text and mark in text) for mark in "@?")


def public(url: str) -> str:
    """Scheme, host, port and path of a URL; what may be a part of a secret is not told.

    A password may hold anything, `://`, `@`, `/` and `?` too: all up to the last `@` belongs to it, and where a query may
    hold that `@` only the scheme is left. What has no scheme is masked whole where it has an `@` or a `?`.
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return HIDDEN if has_secret_part(url) else url
    before, at, after = rest.rpartition("@")
    if at and not rest.startswith("/"):
        return f"{scheme}://{HIDDEN}" if "?" in before or "#" in before else f"{scheme}://{_path(after)}"
    return f"{scheme}://{_path(rest)}"


def _path(text: str) -> str:
    for mark in "?#":
        text = text.partition(mark)[0]
    return text


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host, or is it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
