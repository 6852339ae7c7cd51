"""What stands between clients and brokers: a proxy before each broker that delays, stalls, cuts, and holds requests back.

Brokers talk to each other directly. The proxies read Kafka's frames (size, then the API's number, its version, a correlation
id and the client's name), so that one kind of request can be held, or its reply dropped.
"""

import asyncio
import random
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 0, 22, 24, 26, 28
_LOOK_S = 0.02


@dataclass(eq=False)
class Hold:
    """The next request of this kind from this client: the connection is cut for the client, its bytes wait to be released.

    Without `cut` the client is left waiting for its answer. `caught` is set once it is held, `answered` once the broker has
    said something to it.
    """

    api: int
    client: str
    cut: bool = True
    caught: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    send: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Link:
    """The way to one broker and what is wrong with it now."""

    behind: int
    delay_s: float = 0
    stalled: bool = False  # nothing passes, either way; it does once this ends
    mute: bool = False  # requests arrive, replies do not: half-open
    cut_chance: float = 0  # of each piece of data
    connections: set[asyncio.Transport] = field(default_factory=set)


class Network:
    """The proxies of one cluster, on a thread of their own."""

    def __init__(self, seed: int = 0) -> None:
        self.links: list[Link] = []
        self.holds: list[Hold] = []
        # Requests whose reply is dropped, once each: (API, client).
        self.drops: list[tuple[int, str]] = []
        # Every request of these kinds, as it came: (API, client).
        self.seen: list[tuple[int, str]] = []
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def in_front(self, port: int) -> int:
        """Stand in front of this port; the port to go to instead."""
        link = Link(port)
        server = self._run(asyncio.start_server(lambda r, w: self._connected(link, r, w), "127.0.0.1", 0))
        self.links.append(link)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def heal(self) -> None:
        """All is well again; what is held is let go."""
        for hold in self.holds:
            hold.send()
        self.holds.clear()
        self.drops.clear()
        for link in self.links:
            link.delay_s, link.stalled, link.mute, link.cut_chance = 0, False, False, 0

    def cut(self, link: Link) -> None:
        """Reset every connection of this link."""
        self._loop.call_soon_threadsafe(lambda: [each.abort() for each in list(link.connections)])

    def hold(self, api: int, client: str, *, cut: bool = True) -> Hold:
        """Hold the next such request."""
        hold = Hold(api, client, cut)
        self.holds.append(hold)
        return hold

    def close(self) -> None:
        """End it, with every connection."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    async def _connected(self, link: Link, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, broker = await asyncio.open_connection("127.0.0.1", link.behind)
        except OSError:
            client.transport.abort()
            return
        link.connections |= {client.transport, broker.transport}
        dropped: set[int] = set()
        held: list[tuple[Hold, int]] = []
        for work in (
            self._requests(link, reader, client, broker, dropped, held),
            self._replies(link, answers, client, broker, dropped, held),
        ):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        broker: asyncio.StreamWriter,
        dropped: set[int],
        held: list[tuple[Hold, int]],
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                api, _, correlation, length = struct.unpack_from(">hhih", frame, 4)
                name = frame[14 : 14 + max(0, length)].decode(errors="replace")
                self.seen.append((api, name))
                if (api, name) in self.drops:
                    self.drops.remove((api, name))
                    dropped.add(correlation)
                hold = next((it for it in self.holds if (it.api, it.client) == (api, name)), None)
                if hold is not None and not hold.caught.is_set():
                    hold.send = partial(self._loop.call_soon_threadsafe, self._release, broker, frame)
                    held.append((hold, correlation))
                    if hold.cut:
                        client.transport.abort()
                        hold.caught.set()
                        return
                    hold.caught.set()
                    continue
                await self._pass(link, frame, broker)
        # What a client has sent arrives, even if it does not wait for it.
        if not held:
            broker.close()

    def _release(self, broker: asyncio.StreamWriter, frame: bytes) -> None:
        with suppress(OSError, RuntimeError):
            broker.write(frame)

    async def _replies(
        self,
        link: Link,
        answers: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        broker: asyncio.StreamWriter,
        dropped: set[int],
        held: list[tuple[Hold, int]],
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(answers)
                (correlation,) = struct.unpack_from(">i", frame, 4)
                for hold, its in held:
                    if its == correlation:
                        hold.answered.set()
                if held and client.transport.is_closing():
                    continue  # nobody waits for it
                if correlation in dropped:
                    break
                while link.mute:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)  # the test's thread sets it
                await self._pass(link, frame, client)
        for each in (client, broker):
            each.transport.abort()
            link.connections.discard(each.transport)

    async def _pass(self, link: Link, frame: bytes, to: asyncio.StreamWriter) -> None:
        if link.delay_s:
            await asyncio.sleep(link.delay_s)
        while link.stalled:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)  # the test's thread sets it
        if link.cut_chance and self._random.random() < link.cut_chance:
            raise ConnectionResetError
        to.write(frame)
        await to.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(struct.unpack(">i", size)[0])
