"""`--processes N` on a real broker: members that share the work, crash, are fenced, and stop together."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Pipe, Process, order, wait_until
from tests.integration.test_forward import decoded, forwarded, forwarder

pytestmark = pytest.mark.integration
__all__ = ["forwarder"]
ORDERS = 600


def children(process: Process) -> dict[int, int]:
    """The pids of its members by their numbers, once they are Python with the pipeline's arguments."""
    found = {}
    for pid in Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text().split():
        with suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if arguments[1:2] == ["-m"]:
                found[int(arguments[-5].rpartition("-")[2])] = int(pid)
    return found


def started(process: Process, *numbers: int) -> dict[int, int]:
    """The pids of these members."""
    return wait_until(lambda: (it := children(process)).keys() == set(numbers) and it, f"members {numbers}")


def members(pipe: Pipe) -> list[dict[str, Any]]:
    """The group's members, by instance, each with its partitions of the source; empty while it is not stable."""
    ended = pipe.run("groups", "describe", pipe.group, "--json")
    if ended.code or ended.json["state"] != "stable":
        return []
    return sorted(ended.json["members"], key=lambda each: str(each["instance"]))


def share(pipe: Pipe, *instances: str) -> Callable[[], bool]:
    """Whether these, and no others, are members."""
    return lambda: [each["instance"] for each in members(pipe)] == list(instances)


def lines(numbers: range) -> list[dict[str, Any]]:
    return [order(number) for number in numbers]


def test_members_share_the_partitions_and_handle_each_order_once(pipe: Pipe) -> None:
    worker = pipe.start("consume", "--processes", "3", "--instance", "w", "--json")
    wait_until(share(pipe, "w-1", "w-2", "w-3"), "three members")
    described = pipe.run("groups", "describe", pipe.group, "--json").json
    assert len({partition["member"] for partition in described["partitions"]}) == 3, "a partition each"
    pipe.produce(lines(range(ORDERS)))
    wait_until(lambda: pipe.lag() == 0, "all of them committed")
    ended = worker.end()
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert (ended.json["handled"], ended.json["committed"], ended.json["restarts"]) == (ORDERS, ORDERS, 0)
    assert pipe.rows("select count(*), count(distinct order_id) from orders") == [(ORDERS, ORDERS)]
    assert pipe.rows("select count(distinct source_partition) from orders") == [(3,)]


def test_killed_member_is_started_again_and_goes_on(pipe: Pipe) -> None:
    worker = pipe.start("consume", "--processes", "2", "--instance", "w", "--json")
    pipe.produce(lines(range(ORDERS)))
    before = started(worker, 1, 2)
    wait_until(lambda: pipe.lag() == 0, "the first ones")
    os.kill(before[2], signal.SIGKILL)
    pipe.produce(lines(range(ORDERS, 2 * ORDERS)))
    after = wait_until(lambda: (it := children(worker)).keys() == {1, 2} and it[2] != before[2] and it, "a new one")
    assert after[1] == before[1], "the other one went on"
    wait_until(lambda: pipe.lag() == 0, "the others")
    ended = worker.end()
    assert ended.code == 0, ended.stderr
    assert ended.json["restarts"] == 1
    assert "member 2 was killed by SIGKILL: starting it again in 1 s" in ended.stderr
    assert pipe.rows("select count(*) from orders") == [(2 * ORDERS,)]


def test_member_fenced_by_a_twin_is_not_started_again_and_the_other_goes_on(pipe: Pipe) -> None:
    if pipe.env["PIPELINE_KAFKA__GROUP_PROTOCOL"] != "classic":
        pytest.skip("in KIP-848 it is the newcomer that is refused")
    worker = pipe.start("consume", "--processes", "2", "--instance", "w")
    wait_until(share(pipe, "w-1", "w-2"), "two members")
    twin = pipe.start("consume", "--instance", "w-2")
    wait_until(lambda: children(worker).keys() == {1}, "the fenced one is gone")
    pipe.produce(lines(range(30)))
    wait_until(lambda: pipe.lag() == 0, "the twin and the other one work")
    ended = worker.end()
    assert ended.code == 4, ended.stderr
    assert "starting it again" not in ended.stderr
    assert "0 restarts" in ended.stdout
    assert twin.end().code == 0


def test_refused_start_of_one_ends_all_with_exit_2(pipe: Pipe) -> None:
    ended = pipe.run("consume", "--processes", "2", "--handler", "nowhere:nothing")
    assert ended.code == 2
    assert "nowhere" in ended.stderr
    assert "starting it again" not in ended.stderr


def test_supervisor_killed_leaves_no_member_behind(pipe: Pipe) -> None:
    worker = pipe.start("consume", "--processes", "2")
    wait_until(lambda: len(members(pipe)) == 2, "two members")
    pids = Path(f"/proc/{worker.popen.pid}/task/{worker.popen.pid}/children").read_text().split()
    assert len(pids) == 2
    worker.popen.kill()
    worker.popen.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "they end")


def test_topic_is_worked_off_to_its_end_by_several_and_the_command_ends(pipe: Pipe) -> None:
    pipe.produce(lines(range(ORDERS)))
    ended = pipe.run("consume", "--processes", "4", "--until-end", "--json")  # one more than there are partitions
    assert ended.code == 0, ended.stderr
    assert ended.json["committed"] >= ORDERS, "what a rebalance interrupted may be counted twice"
    assert pipe.lag() == 0
    assert pipe.rows("select count(*) from orders") == [(ORDERS,)]


def test_metrics_of_all_members_are_on_one_port_each_with_its_process(pipe: Pipe) -> None:
    port = free_ports(3)
    pipe.env["PIPELINE_METRICS__PORT"] = str(port)
    pipe.produce(lines(range(ORDERS)))
    worker = pipe.start("consume", "--processes", "2", "--instance", "w")

    def handled() -> list[float]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        except httpx.TransportError:
            return []
        counts = dict(line.rsplit(" ", 1) for line in answer.splitlines() if not line.startswith("#"))
        group, topic = f'group="{pipe.group}"', f'topic="{pipe.topic}"'
        assert counts[f'pipeline_restarts_total{{{group},process="1",{topic}}}'] == "0.0"
        names = [f'pipeline_records_total{{{group},outcome="handled",process="{n}",{topic}}}' for n in (1, 2)]
        return [float(counts[name]) for name in names if name in counts]

    wait_until(lambda: len(counts := handled()) == 2 and sum(counts) >= ORDERS and counts, "both members' counts")
    assert worker.end().code == 0


def test_two_forwarders_of_which_one_is_killed_forward_each_order_once(forwarder: Pipe) -> None:
    worker = forwarder.start("forward", "--processes", "2", "--instance", "f", "--json")
    forwarder.produce(lines(range(ORDERS)))
    before = started(worker, 1, 2)
    wait_until(lambda: len(forwarded(forwarder)) > 0, "the first transaction")
    os.kill(before[1], signal.SIGKILL)
    forwarder.produce(lines(range(ORDERS, 2 * ORDERS)))
    wait_until(lambda: forwarder.lag() == 0, "all of them committed")
    # The other one may be done with all of it within the second after which the killed one is started again.
    wait_until(lambda: children(worker).get(1) not in {None, before[1]}, "it is started again")
    ended = worker.end()
    assert ended.code == 0, ended.stderr
    assert ended.json["restarts"] == 1
    ids = [decoded(record)["order_id"] for record in forwarded(forwarder)]
    assert len(ids) == len(set(ids)) == 2 * ORDERS


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        with suppress(OSError, OverflowError):
            for port in range(first, first + count):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", port))
            return first
