"""Recovery mode: what a worker with many hands does after another one died, and when it does nothing of the kind."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from pipeline.core.offsets import METADATA_BYTES_MAX, Note, read_note
from pipeline.core.record import Record
from pipeline.errors import SinkUnavailable
from pipeline.stages.care import CAREFUL_RECORDS, COMPANY_MAX
from pipeline.stages.crew import Done
from tests.stages.broker import HeldCrew
from tests.stages.test_retries import F0, P0, S0, Bench, Killed, mortal

HANDS = 8
KEYS = "abcdefghijklmnopqrst"


class Hands(HeldCrew):
    """Many hands, of which any may end next; the process dies as soon as one of them has a `deadly` record."""

    def __init__(self, bench: Bench, deadly: Callable[[Record], bool], hands: int = HANDS, seed: int = 0) -> None:
        super().__init__(bench.handler, hands)
        self._deadly = deadly
        self._random = Random(seed)
        self.most = 0

    def finished(self, timeout_s: float) -> list[Done]:
        self.most = max(self.most, len(self.held))
        if any(self._deadly(work.record) for work in self.held):
            raise Killed
        if not self.held:
            return []
        work = self.held.pop(self._random.randrange(len(self.held)))
        try:
            self._handler.function(work.event, work.record)
        except Exception as error:  # noqa: BLE001  # its class decides, in the stage
            return [Done(work, error)]
        return [Done(work)]


def die_with_hands(bench: Bench, deadly: Callable[[Record], bool], seed: int = 0, **changes: Any) -> None:
    bench.start(crew=Hands(bench, deadly, seed=seed), **changes)
    with pytest.raises(Killed):
        bench.turns(5_000)
    bench.kill()


def live_on(bench: Bench, deadly: Callable[[Record], bool] = lambda record: False, **changes: Any) -> Hands:
    crew = Hands(bench, deadly)
    bench.start(crew=crew, **changes)
    bench.turns(5_000)
    return crew


def is_(value: str) -> Callable[[Record], bool]:
    return lambda record: record.value == value.encode()


def test_hands_work_side_by_side_after_a_death_and_every_record_in_flight_is_named() -> None:
    bench = mortal(*(f"{key}{n}" for n in range(5) for key in KEYS))
    die_with_hands(bench, lambda record: record.offset == 30)
    unnamed: list[Record] = []

    def look(record: Record) -> None:
        if record.offset not in dict(bench.note().suspects):
            unnamed.append(record)

    bench.on_touch = look
    crew = live_on(bench)
    assert unnamed == []
    assert crew.most == HANDS, "not one by one"
    assert bench.broker.letters() == []


@pytest.mark.parametrize("seed", range(6))
def test_record_that_kills_among_others_is_found_at_the_limit_and_no_other_is_given_up(seed: int) -> None:
    bench = mortal(*(f"{key}{n}" for n in range(3) for key in KEYS))
    for _ in range(3):
        die_with_hands(bench, is_("k1"), seed)
    live_on(bench)
    assert [(letter["value"], letter["reason"]) for letter in bench.broker.letters()] == [(b"k1", "crash_loop")]
    assert set(bench.effects) == {f"{key}{n}" for n in range(3) for key in KEYS} - {"k1"}
    ks = [each for each in dict.fromkeys(bench.effects) if each[0] == "k"]
    assert ks == ["k0", "k2"], "the order of its key holds"


def test_two_records_that_kill_are_both_found() -> None:
    bench = mortal(*(f"{key}{n}" for n in range(2) for key in KEYS))
    deadly = lambda record: record.value in {b"c0", b"d0"}  # noqa: E731
    for _ in range(4):
        die_with_hands(bench, deadly)
    live_on(bench, deadly)
    assert sorted(letter["value"] for letter in bench.broker.letters()) == [b"c0", b"d0"]
    assert len(set(bench.effects)) == 2 * len(KEYS) - 2


def test_limit_of_two_deaths_is_kept_and_no_other_is_given_up() -> None:
    bench = mortal(*(f"{key}0" for key in KEYS), crash_limit=2)
    for _ in range(2):
        die_with_hands(bench, is_("e0"))
    live_on(bench)
    assert [letter["value"] for letter in bench.broker.letters()] == [b"e0"]


def test_suspect_runs_alone_and_what_is_no_suspect_does_not() -> None:
    bench = mortal(*(f"{key}0" for key in KEYS))
    for _ in range(2):
        die_with_hands(bench, is_("h0"))
    suspects = {offset for offset, _ in bench.note().suspects}
    assert len(suspects) > 1
    crew = Hands(bench, lambda record: False)
    alone: dict[int, bool] = {}
    bench.start(crew=crew)
    for _ in range(2_000):
        bench.stage._turn()
        for work in crew.held:
            alone[work.record.offset] = alone.get(work.record.offset, True) and len(crew.held) == 1
    assert all(alone.get(offset, True) for offset in suspects)
    assert not all(alone.values())


def test_partitions_that_a_living_worker_lost_and_got_back_need_no_care(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a1", "b1", "c1", life="one")
    bench.kill()
    crew = HeldCrew(bench.handler, hands=2)
    bench.start(crew=crew)
    bench.until(lambda: len(crew.held) == 2)
    bench.broker.lose(P0, F0, S0)
    bench.turns(2)
    bench.broker.give(bench.member, P0, F0, S0)
    bench.turns(2)
    crew.let_go = True
    bench.turns(50)
    assert bench.stage.gauges()["recovery_mode"] == 0
    assert "cleanly" not in caplog.text
    assert set(bench.effects) == {"a1", "b1", "c1"}


def test_partitions_that_another_one_had_meanwhile_and_died_with_need_care() -> None:
    bench = Bench("a1", "b1", life="one")
    bench.turns(20)
    bench.broker.lose(P0, F0, S0)
    first, member = bench.stage, bench.member
    bench.turns(2)
    bench.start(life="two")
    bench.turns(5)
    bench.kill()
    bench.broker.give(member, P0, F0, S0)
    bench.stage = first
    bench.turns(2)
    assert bench.stage.gauges()["recovery_mode"] == 1


def test_recovery_mode_ends_by_time_and_by_records_and_is_a_metric() -> None:
    by_time = mortal(*(f"{key}0" for key in KEYS), careful_s=5.0)
    die_with_hands(by_time, is_("t0"))
    by_time.start()
    by_time.turns(2)
    assert by_time.stage.gauges()["recovery_mode"] == 1
    by_time.clock.now += 5
    by_time.write("z1")
    by_time.turns(50)
    assert by_time.stage.gauges()["recovery_mode"] == 0
    by_records = mortal(*(f"a{n}" for n in range(CAREFUL_RECORDS + 10)), careful_s=1e9)
    die_with_hands(by_records, is_("a0"))
    by_records.start()
    by_records.turns(3 * CAREFUL_RECORDS)
    assert by_records.stage.gauges()["recovery_mode"] == 0
    assert by_records.note().suspects == ()


def test_time_does_not_end_the_search_for_a_record_that_killed() -> None:
    """With no time for care at all, what was in flight at a named death is still tried alone, and found."""
    bench = mortal(*(f"{key}0" for key in KEYS), careful_s=2.0)
    for _ in range(3):
        die_with_hands(bench, is_("b0"))
        bench.clock.now += 100
    live_on(bench)
    assert [letter["value"] for letter in bench.broker.letters()] == [b"b0"]


def test_suspects_that_wait_for_the_sink_are_not_blamed_for_the_deaths_of_others() -> None:
    bench = mortal(*(f"{key}0" for key in KEYS))
    bench.fails = {"a0": [SinkUnavailable("down.")] * 3}
    for _ in range(3):
        die_with_hands(bench, is_("m0"))
    live_on(bench)
    assert [letter["value"] for letter in bench.broker.letters()] == [b"m0"]


def test_note_holds_as_many_suspects_as_may_be_in_flight_beside_all_that_is_done_ahead() -> None:
    at = 2**40
    suspects = tuple((at + 17 * n * 100, 1) for n in range(COMPANY_MAX))
    done = tuple((at + 2 * n + 1, at + 2 * n + 2) for n in range(1_000))
    text = Note(False, done, owner="a" * 16).naming(suspects).text(at)
    assert len(text) <= METADATA_BYTES_MAX
    assert read_note(text, at).suspects == suspects
    assert read_note(text, at).done == done
