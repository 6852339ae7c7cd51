"""How much a worker has read and not settled, and whether it reads more now."""

from collections.abc import Callable

from pipeline.core.ports import Source
from pipeline.stages.partitions import Partitions, Stream

# So many at once while there is room; of those that fill it up not many more than fit.
POLL_RECORDS_MAX = 2_000
LAST_POLL_RECORDS = 500
# What is read and not settled: bounds the memory, and how much is read again after a crash. More only for long lists.
IN_FLIGHT_RECORDS_MAX = 4_000
IN_FLIGHT_RECORDS_LIMIT = 20_000
IN_FLIGHT_BYTES_MAX = 64_000_000
# So long the polling rests while that is full; only then partitions are paused, which drops what was fetched ahead.
FULL_PATIENCE_S = 1.0


class Room:
    """Room for as many records as `lists` hold, within bounds, and for `IN_FLIGHT_BYTES_MAX` bytes of values.

    `size` is everywhere the number of records that are read and not settled.
    """

    def __init__(self, lists: int, partitions: Partitions, clock: Callable[[], float]) -> None:
        self._records_max = max(IN_FLIGHT_RECORDS_MAX, min(IN_FLIGHT_RECORDS_LIMIT, lists))
        self._partitions = partitions
        self._clock = clock
        self._record_bytes = IN_FLIGHT_BYTES_MAX // LAST_POLL_RECORDS
        self._full_since: float | None = None
        self._paused = False
        self.bytes = 0

    @property
    def rests(self) -> bool:
        """It was full, and is not half empty again where that lasted."""
        return self._full_since is not None

    def poll_limit(self, size: int) -> int:
        """How many records to ask for: as many as there is room for, if they are as large as those of the last time."""
        bytes_room = (IN_FLIGHT_BYTES_MAX - self.bytes) // self._record_bytes
        return max(1, min(POLL_RECORDS_MAX, max(LAST_POLL_RECORDS, self._records_max - size), bytes_room))

    def polled(self, count: int, bytes_before: int) -> None:
        """So many records came by the last poll; what waits for its time, or is not ours any more, says nothing."""
        if self.bytes > bytes_before:
            self._record_bytes = max(1, (self.bytes - bytes_before) // count)

    def weigh(self, stream: Stream, size: int) -> None:
        """So many bytes of this stream were read; negative when they are settled."""
        self.bytes += size
        stream.shard.bytes += size

    def leave(self, streams: list[Stream]) -> None:
        """These were closed: what is unsettled of them takes no room any more."""
        self.bytes -= sum(shard.bytes for shard in {stream.shard for stream in streams})

    def is_full(self, size: int, source: Source) -> bool:
        """Whether to read nothing now. When that lasts, partitions are paused, so that polling can go on."""
        full = size >= self._records_max or self.bytes >= IN_FLIGHT_BYTES_MAX
        if self._paused:
            if not full and size <= self._records_max // 2:
                self._paused, self._full_since = False, None
                self._partitions.free(source, self._partitions.open.values(), "full")
            return False
        if not full:
            self._full_since = None
            return False
        now = self._clock()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < FULL_PATIENCE_S:
            return True
        self._paused = True
        self._partitions.hold(source, self._partitions.open.values(), "full")
        return False

    def opened(self, streams: list[Stream], source: Source) -> None:
        """These are read from now on, unless all rest."""
        if self._paused:
            self._partitions.hold(source, streams, "full")
