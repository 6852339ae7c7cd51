"""What is scarce, shared: places that one client cannot have all of, and slow questions that keep no other waiting."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from typing import ParamSpec, TypeVar

from starlette.types import Scope

from pipeline.api.problems import Problem, busy

_P = ParamSpec("_P")
_T = TypeVar("_T")


def client(scope: Scope) -> str:
    """Who asks, as far as the connection tells: its address; of IPv6 the network, which one client has all of."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or int(address) >> 64)


class Places:
    """So many places in all, and so many for each client."""

    def __init__(self, limit: int, each: int, full: Callable[[], Problem]) -> None:
        self._limit = limit
        self._each = each
        self._full = full
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, who: str) -> Iterator[None]:
        """Have a place while the block runs; raises the problem when there is none."""
        if self._taken.total() >= self._limit or self._taken[who] >= self._each:
            raise self._full()
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


class Aside:
    """Runs what blocks on threads of its own, `at_once` of them, and has `waiting` more wait for their turn.

    A thread cannot be ended: one that hangs keeps its place, and its question is answered 503 after `within_s` seconds.
    What others need does not run here. Belongs to one event loop.
    """

    def __init__(self, at_once: int, waiting: int, within_s: float | None) -> None:
        self._limit = at_once + waiting
        self._within_s = within_s
        self._inside = 0
        self._room = asyncio.Semaphore(at_once)

    async def __call__(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """What `work` returns or raises; 503 when too many wait, or it takes too long."""
        if self._inside >= self._limit:
            raise busy("overloaded", "Too many questions of this kind are in hand.")
        self._inside += 1
        try:
            async with asyncio.timeout(self._within_s) as limit:
                await self._room.acquire()
                return await self._begin(lambda: work(*arguments, **named))
        except TimeoutError:
            if not limit.expired():
                raise
            raise busy("too-long", f"It took longer than {self._within_s:g} s.") from None
        finally:
            self._inside -= 1

    def _begin(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def done(result: _T | None, error: BaseException | None) -> None:
            self._room.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # what `work` returned

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001  # told to the one who waits
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done, result, error)

        try:
            threading.Thread(target=run, name="aside", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            self._room.release()
            raise
        return answer
