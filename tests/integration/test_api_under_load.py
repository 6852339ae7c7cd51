"""The API while orders stream in and something goes wrong: each answer is held against the topic, record by record."""

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from pipeline.local.artifacts import Installed
from pipeline.local.stack import LocalStack, ephemeral_stack
from tests.integration.conftest import Pipe, wait_until
from tests.integration.web import CAMEL, Web, running

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("api")]
CLIENTS = 16


class Load:
    """Clients that send one order after the other, each with an id of its own, and what each was answered."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.answers: dict[str, str] = {}
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    @contextmanager
    def flowing(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def count(self, answer: str) -> int:
        with self._lock:
            return sum(each == answer for each in self.answers.values())

    def ids(self, answer: str) -> set[str]:
        return {key for key, each in self.answers.items() if each == answer}

    def _send(self) -> None:
        with httpx.Client(timeout=60) as http:
            while not self._over.is_set():
                key = uuid4().hex
                try:
                    answer = http.post(f"{self._web.url}/api/orders", json=CAMEL | {"orderId": key})
                except httpx.ConnectError:
                    said = "not sent"
                    self._over.wait(0.02)
                except httpx.TransportError:
                    said = "broken off"
                else:
                    said = "accepted" if answer.status_code == 202 else answer.json().get("outcome", answer.text)
                    if answer.status_code == 503:
                        assert answer.headers["retry-after"]
                        self._over.wait(0.02)  # a client that keeps to Retry-After would wait for longer
                with self._lock:
                    self.answers[key] = said


def hold_against_the_topic(load: Load, pipe: Pipe) -> None:
    """Accepted: there exactly once. Unknown, or without an answer: at most once. Everything else: not there."""
    assert set(load.answers.values()) <= {"accepted", "unknown", "broken off", "not_accepted", "not sent"}
    found = Counter((record.key or b"").decode() for record in pipe.records(pipe.topic))
    maybe = load.ids("unknown") | load.ids("broken off")
    assert set(found.values()) <= {1}, "nothing is there twice"
    assert load.ids("accepted") <= set(found), "what was acknowledged is there"
    assert set(found) <= load.ids("accepted") | maybe, "what was refused is not"


def test_burst_beyond_what_may_be_in_hand_is_refused_and_each_answer_is_true(pipe: Pipe) -> None:
    pipe.env["PIPELINE_API__REQUESTS"] = "20"

    async def burst(url: str) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            each = [http.post(url, json=CAMEL | {"orderId": f"P-{n}"}) for n in range(400)]
            return await asyncio.gather(*each)

    with running(pipe, "--no-worker") as web:
        answers = asyncio.run(burst(f"{web.url}/api/orders"))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {202, 503}, statuses
    for answer in answers:
        if answer.status_code == 503:
            assert (answer.json()["outcome"], answer.headers["retry-after"]) == ("not_accepted", "1")
    found = {(record.key or b"").decode() for record in pipe.records(pipe.topic)}
    assert found == {f"P-{n}" for n, answer in enumerate(answers) if answer.status_code == 202}


def terminate_under_load(pipe: Pipe, times: int) -> None:
    answers: list[Load] = []
    for _ in range(times):
        with running(pipe) as web:
            load = Load(web)
            with load.flowing():
                wait_until(lambda it=load: it.count("accepted") > 100, "orders flow")
                ended = web.process.end(signal.SIGTERM)
            answers.append(load)
            assert ended.code == 0, ended.stderr
            assert "Traceback" not in ended.stderr
    whole = Load(web)
    for load in answers:
        whole.answers |= load.answers
    hold_against_the_topic(whole, pipe)


def test_terminated_under_load_loses_no_acknowledged_order(pipe: Pipe) -> None:
    terminate_under_load(pipe, 2)


@pytest.mark.long
def test_terminated_ten_times_under_load_loses_no_acknowledged_order(pipe: Pipe) -> None:
    terminate_under_load(pipe, 10)


@pytest.fixture(scope="module")
def fragile(installed: Installed) -> Iterator[LocalStack]:
    """A broker of its own, because it is stopped."""
    with ephemeral_stack(installed) as it:
        yield it


@pytest.fixture
def hurt(fragile: LocalStack, tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(fragile.bootstrap_servers, fragile.registry_url, tmp_path)
    pipe.create_topics()
    pipe.register_schemas()
    yield pipe
    pipe.stop_all()


def resident_mb(pid: int) -> float:
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("until_lost", [False, pytest.param(True, marks=pytest.mark.long)])
def test_broker_that_stands_still_is_said_and_every_answer_is_true_afterwards(
    hurt: Pipe, fragile: LocalStack, until_lost: bool
) -> None:
    hurt.env |= {
        "PIPELINE_API__PUBLISH_TIMEOUT": "2s",
        "PIPELINE_API__QUEUE": "40",
        "PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS": "6000",
    }
    broker = fragile.kafka.pid
    assert broker is not None
    with running(hurt) as web:
        load = Load(web)
        with load.flowing():
            wait_until(lambda: load.count("accepted") > 500, "orders flow")
            before = resident_mb(web.process.popen.pid)
            os.kill(broker, signal.SIGSTOP)
            try:
                wait_until(lambda: load.count("unknown") >= CLIENTS, "orders without the broker's word")
                wait_until(lambda: load.count("not_accepted") > 500, "orders that the full queue refuses")
                assert web.status("/healthz/live") == 200
                wait_until(lambda: web.status("/healthz/ready") == 503, "not ready while the broker says nothing")
                if until_lost:
                    # By then the broker's own session is over as well: when it goes on, it leads nothing for a moment.
                    web.process.wait_for_line("the group went on without this member")
                grown = resident_mb(web.process.popen.pid) - before
            finally:
                os.kill(broker, signal.SIGCONT)
            accepted = load.count("accepted")
            wait_until(lambda: load.count("accepted") > accepted + 500, "orders flow again")
            assert web.status("/healthz/live") == 200
        assert grown < 48, f"memory grew by {grown:.0f} MB while the broker stood still"
        wait_until(lambda: hurt.lag() == 0, "the worker goes on", timeout_s=90)
        ended = web.process.end()
    assert ended.code == 0, ended.stderr
    hold_against_the_topic(load, hurt)


def test_worker_drains_and_commits_before_the_process_ends(pipe: Pipe) -> None:
    with running(pipe) as web:
        load = Load(web)
        with load.flowing():
            wait_until(lambda: load.count("accepted") > 200, "orders flow")
        wait_until(lambda: pipe.lag() == 0, "everything worked off")
        assert web.process.end().code == 0
    assert len(pipe.rows("select order_id from orders")) == len(load.ids("accepted"))
