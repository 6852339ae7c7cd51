"""How long ago something happened last, as a gauge."""

from collections.abc import Callable


def ages(clock: Callable[[], float], **last: float | None) -> dict[str, float]:
    """`<name>_age_seconds` of each time in seconds of the clock; what did not happen yet is left out."""
    now = clock()
    return {f"{name}_age_seconds": max(0.0, now - at) for name, at in last.items() if at is not None}
