"""Places that one client cannot have all of, and slow questions that keep nobody else waiting."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline.api.problems import Problem, busy
from pipeline.api.shares import Aside, Places, client


def test_one_client_has_its_share_and_not_all() -> None:
    places = Places(4, 2, lambda: busy("overloaded", "full"))
    with ExitStack() as held:
        for who in ("a", "a", "b"):
            held.enter_context(places.one(who))
        with pytest.raises(Problem):
            held.enter_context(places.one("a"))
        held.enter_context(places.one("c"))
        with pytest.raises(Problem):
            held.enter_context(places.one("d"))
    with places.one("a"), places.one("a"):
        pass


@pytest.mark.parametrize(
    ("address", "who"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8::1", 1), client({"client": ("2001:db8::ffff", 2)})),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (None, ""),
    ],
)
def test_client_is_an_address_and_of_the_sixth_version_a_network(address: Any, who: str) -> None:
    assert client({"client": address}) == who
    assert client({"client": ("2001:db8:0:1::1", 1)}) != client({"client": ("2001:db8:0:2::1", 1)})


async def status(asked: Any) -> int:
    try:
        await asked
    except Problem as problem:
        return problem.status
    return 200


def in_a_loop(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_question_that_hangs_is_given_up_and_keeps_its_thread_from_no_other_kind() -> None:
    over = threading.Event()

    async def ask() -> None:
        slow, other = Aside(at_once=1, waiting=1, within_s=0.05), Aside(at_once=1, waiting=0, within_s=30)
        first, second = asyncio.create_task(status(slow(over.wait))), asyncio.create_task(status(slow(over.wait)))
        await asyncio.sleep(0)
        assert await status(slow(lambda: None)) == 503, "no more may wait"
        assert [await first, await second] == [503, 503]
        assert await other(lambda: "answered") == "answered"
        over.set()

    in_a_loop(ask)


def test_place_is_free_once_the_thread_has_ended() -> None:
    async def ask() -> None:
        aside, over = Aside(at_once=1, waiting=1, within_s=30), threading.Event()
        first = asyncio.create_task(aside(over.wait))
        second = asyncio.create_task(aside(lambda: 2))
        await asyncio.sleep(0)
        over.set()
        assert (await first, await second) == (True, 2)

    in_a_loop(ask)


def test_what_the_question_raises_is_raised() -> None:
    def refuse() -> None:
        raise KeyError("x")

    def too_late() -> None:
        raise TimeoutError

    async def ask() -> None:
        aside = Aside(at_once=1, waiting=0, within_s=None)
        with pytest.raises(KeyError):
            await aside(refuse)
        with pytest.raises(TimeoutError):
            await aside(too_late)

    in_a_loop(ask)
