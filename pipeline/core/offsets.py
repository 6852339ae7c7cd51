"""One partition's offsets: what was delivered, what of it is done, what may be committed, and what a restart may skip.

The terms: an offset is *open* from its delivery until it is done; *committable* is the first open one, or the next to be
read when none is. Only offsets that were delivered are tracked, so holes (compaction, markers of transactions, aborted
records) need no rule of their own. Done offsets above the committable one travel in the commit's metadata (`Note`), bound
to the offset that is committed with them, so that they are not worked off again.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

# Kafka's own limit (offset.metadata.max.bytes); a commit with more is refused whole.
METADATA_BYTES_MAX = 4096
# What the words around the runs may take, and base64's third.
_RUNS_BYTES_MAX = (METADATA_BYTES_MAX - 128) * 3 // 4
# Two numbers of 63 bits; what is longer is no words of ours, and would not fit beside the runs.
_SUSPECT_CHARACTERS_MAX = 40
# The other suspects: what does not fit is not named. Runs that are not crowded fit beside them.
_OTHERS_CHARACTERS_MAX = 700
_OWNER_CHARACTERS_MAX = 32
# From here on nothing new is read from the partition, so that the runs never have to be cut.
_CROWDED_BYTES = _RUNS_BYTES_MAX * 3 // 4
_VERSION = "1"

Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Note:
    """What is committed beside an offset.

    `done` are runs [first, last) of offsets above it that are done already. `clean` says that the worker stopped in good
    order; without it the next one takes care, unless it is the `owner` itself, by a name that no other process ever has.
    `suspect` is an offset that was in flight in that care, the `tries`th time; `others` are more of them, each with its
    tries.
    """

    clean: bool = True
    done: tuple[Run, ...] = ()
    suspect: int | None = None
    tries: int = 0
    others: tuple[tuple[int, int], ...] = ()
    owner: str = ""

    @property
    def suspects(self) -> tuple[tuple[int, int], ...]:
        """All of them, each with its tries."""
        return () if self.suspect is None else ((self.suspect, self.tries), *self.others)

    def naming(self, suspects: Sequence[tuple[int, int]]) -> "Note":
        """The same with these suspects."""
        first, *others = suspects or ((None, 0),)
        return replace(self, suspect=first[0], tries=first[1], others=tuple(others))

    def text(self, offset: int, topic_id: str = "") -> str:
        """As committed, at most `METADATA_BYTES_MAX` bytes; runs that do not fit are left out, and so done again.

        `topic_id` is the id of the topic that the offset is of.
        """
        state = "stopped" if self.clean else f"running:{self.owner}" if self.owner else "running"
        suspect = "" if self.suspect is None else f"{self.suspect}x{self.tries}"
        others = self._others_text()
        room = _RUNS_BYTES_MAX - len(others) * 3 // 4 - 3 if others else _RUNS_BYTES_MAX
        runs = urlsafe_b64encode(_packed(offset, self.done, room)).decode()
        rest = (others, topic_id) if topic_id else (others,) if others else ()
        return ";".join((_VERSION, str(offset), state, suspect, runs, *rest))

    def _others_text(self) -> str:
        words, length = [], 0
        for offset, tries in self.others:
            words.append(f"{offset - (self.suspect or 0):+}x{tries}")
            length += len(words[-1]) + 1
            if length > _OTHERS_CHARACTERS_MAX:
                words.pop()
                break
        return ",".join(words)


def read_note(text: str | None, offset: int) -> Note:
    """The note that was committed with `offset`; an empty one where there is none, or it is another's or of another one."""
    parts = _parts(text, offset)
    if parts is None:
        return Note()
    suspect, _, tries = parts[3].partition("x")
    if len(parts[3]) > _SUSPECT_CHARACTERS_MAX or len("".join(parts[5:6])) > _OTHERS_CHARACTERS_MAX:
        return Note()
    state, _, owner = parts[2].partition(":")
    try:
        done = tuple(_unpacked(offset, urlsafe_b64decode(parts[4])))
        first = int(suspect) if suspect else None
        others = tuple(_others(first or 0, parts[5])) if any(parts[5:6]) else ()
        return Note(state == "stopped", done, first, int(tries or 0), others, owner[:_OWNER_CHARACTERS_MAX])
    except (ValueError, NotBase64):
        return Note()


def _others(first: int, text: str) -> Iterator[tuple[int, int]]:
    for word in text.split(","):
        gap, _, tries = word.partition("x")
        yield first + int(gap), int(tries)


def topic_id_of(text: str | None, offset: int) -> str:
    """The id of the topic that this offset was committed for; empty where the words do not tell, or are another's."""
    parts = _parts(text, offset)
    return parts[6] if parts is not None and len(parts) > 6 else ""  # noqa: PLR2004  # as `Note.text` writes


def _parts(text: str | None, offset: int) -> list[str] | None:
    parts = (text or "").split(";")
    return parts if len(parts) in {5, 6, 7} and parts[0] == _VERSION and parts[1] == str(offset) else None


class Progress:
    """The offsets of one partition from `start` on, of which `done` are done already."""

    def __init__(self, start: int, done: Iterable[Run] = ()) -> None:
        self._open: dict[int, None] = {}
        self._next = start
        self._restored = sorted(run for run in done if run[1] > start)

    def deliver(self, offset: int) -> bool:
        """Take note of a record that was read; False when it is done already, or was delivered before."""
        if offset < self._next:
            return False
        self._next = offset + 1
        while self._restored and self._restored[0][1] <= offset:
            self._restored.pop(0)
        if self._restored and self._restored[0][0] <= offset:
            return False
        self._open[offset] = None
        return True

    def done(self, offset: int) -> None:
        """The record of an open offset is settled."""
        del self._open[offset]

    def deliver_run(self, offsets: Sequence[int]) -> bool:
        """`deliver` of all of these, which follow each other, at once; False when some need a look one by one."""
        if not offsets or offsets[0] < self._next or self._restored:
            return False
        self._open |= dict.fromkeys(offsets)
        self._next = offsets[-1] + 1
        return True

    def done_run(self, offsets: Iterable[int]) -> None:
        """`done` of all of these."""
        for offset in offsets:
            del self._open[offset]

    def reached(self, position: int) -> None:
        """Nothing was delivered below `position`: markers of transactions, aborted records and holes lie there."""
        self._next = max(self._next, position)

    @property
    def next(self) -> int:
        """The offset after all that was delivered: what is read below it is no news of this log."""
        return self._next

    @property
    def committable(self) -> int:
        """The offset to commit: everything below it is done."""
        return next(iter(self._open), self._next)

    @property
    def open(self) -> int:
        """How many were delivered and are not done."""
        return len(self._open)

    def ahead(self) -> tuple[Run, ...]:
        """The runs of done offsets from `committable` on; one begins there when it was done before and not read again yet."""
        runs: list[Run] = []
        at = self.committable
        for offset in self._open:
            if offset > at:
                runs.append((at, offset))
            at = offset + 1
        if at < self._next:
            runs.append((at, self._next))
        for first, last in self._restored:
            first = max(first, self._next)  # noqa: PLW2901  # what lies below was counted already
            if runs and runs[-1][1] == first:
                runs[-1] = (runs[-1][0], last)
            elif first < last:
                runs.append((first, last))
        return tuple(runs)

    @property
    def crowded(self) -> bool:
        """Whether the runs come near to what the metadata holds: read nothing more until some are closed."""
        # A run takes two bytes at least, so few open offsets need no closer look.
        return (
            len(self._open) * 2 > _CROWDED_BYTES // 2 and len(_packed(self.committable, self.ahead())) > _CROWDED_BYTES
        )


def _packed(offset: int, runs: Iterable[Run], room: int = _RUNS_BYTES_MAX) -> bytes:
    """Gaps and lengths in turn, each as a varint, as far as whole pairs fit."""
    packed = bytearray()
    at = offset
    for first, last in runs:
        pair = _varint(first - at) + _varint(last - first)
        if len(packed) + len(pair) > room:
            break
        packed += pair
        at = last
    return bytes(packed)


def _unpacked(offset: int, packed: bytes) -> Iterator[Run]:
    numbers = list(_numbers(packed))
    if len(numbers) % 2:
        raise ValueError("a gap without a length")
    at = offset
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        yield at + gap, at + gap + length
        at += gap + length


def _varint(number: int) -> bytes:
    packed = bytearray()
    while number > 127:  # noqa: PLR2004  # seven bits a byte
        packed.append(number & 127 | 128)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _numbers(packed: bytes) -> Iterator[int]:
    number, shift = 0, 0
    for byte in packed:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:  # noqa: PLR2004  # the continuation bit
            yield number
            number, shift = 0, 0
    if shift:
        raise ValueError("a number without an end")
