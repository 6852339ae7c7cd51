"""Which keys of one partition wait in retry topics, so that later records of the same key wait behind them.

The order of a key: what waits in a later tier came before what waits in an earlier one, and all of it before what is still
in the source (tier 0). Two rules keep it so. A record is worked off only when no later tier holds its key. Otherwise it
follows to the *lowest* of the later tiers that hold it, since the key's youngest records wait there.
"""

Key = bytes


class Fence:
    """The records of one partition that are parked, by tier (from 1), offset and key."""

    def __init__(self) -> None:
        self._keys: dict[tuple[int, int], Key] = {}
        self._counts: dict[Key, dict[int, int]] = {}

    def __len__(self) -> int:
        """How many records are parked."""
        return len(self._keys)

    def park(self, tier: int, offset: int, key: Key | None) -> None:
        """A record lies in the tier now; one without a key keeps nobody waiting."""
        if key is None or (tier, offset) in self._keys:
            return
        self._keys[tier, offset] = key
        tiers = self._counts.setdefault(key, {})
        tiers[tier] = tiers.get(tier, 0) + 1

    def settle(self, tier: int, offset: int) -> None:
        """A parked record is worked off, given up, or moved on; one that nobody parked here is no matter."""
        key = self._keys.pop((tier, offset), None)
        if key is None:
            return
        tiers = self._counts[key]
        tiers[tier] -= 1
        if not tiers[tier]:
            del tiers[tier]
        if not tiers:
            del self._counts[key]

    def tier_after(self, tier: int, key: Key | None) -> int | None:
        """The tier that a record of this key, read from `tier`, has to follow to; None when it may be worked off."""
        held = self._counts.get(key) if key is not None else None
        if held is None:
            return None
        return min((each for each in held if each > tier), default=None)
