"""What follows when the process of a member ends."""

import pytest

from pipeline.core.members import FIRST_DELAY_S, LONGEST_DELAY_S, STEADY_S, Life, Over, StartAgain, merged, worst

KILLED = -9


@pytest.mark.parametrize(
    ("once", "code", "follows"),
    [
        (False, 0, Over.ALONE),
        (False, 1, StartAgain(1.0)),
        (False, 2, Over.ALL),
        (False, 4, Over.ALONE),
        (False, KILLED, StartAgain(1.0)),
        (True, 0, Over.ALONE),
        (True, 1, Over.ALONE),
        (True, 2, Over.ALL),
        (True, 4, Over.ALONE),
        (True, KILLED, StartAgain(1.0)),
    ],
)
def test_end_of_a_process_decides_by_its_exit_code(once: bool, code: int, follows: StartAgain | Over) -> None:
    life = Life(once)
    assert life.ended(code, 5.0) == follows
    assert life.restarts == isinstance(follows, StartAgain)


def test_member_that_crashes_again_and_again_waits_longer_and_longer() -> None:
    life = Life(once=False)
    delays = [life.ended(KILLED, 1.0) for _ in range(8)]
    assert delays == [StartAgain(delay) for delay in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)]
    assert (delays[0], delays[-1]) == (StartAgain(FIRST_DELAY_S), StartAgain(LONGEST_DELAY_S))


def test_crash_after_a_steady_minute_is_a_first_one() -> None:
    life = Life(once=False)
    for _ in range(5):
        life.ended(1, 1.0)
    assert life.ended(1, STEADY_S) == StartAgain(FIRST_DELAY_S)
    assert life.ended(1, 1.0) == StartAgain(FIRST_DELAY_S * 2)


def test_member_killed_by_the_stop_itself_has_not_failed() -> None:
    life = Life(once=False)
    life.stopped(-15)
    assert life.code == 0
    life.stopped(1)
    assert life.code == 1


def test_crashed_member_that_was_not_started_again_has_failed() -> None:
    life = Life(once=False)
    life.ended(KILLED, 1.0)
    assert life.code == 1


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 0), ([0, 0], 0), ([0, 4, 0], 4), ([4, 1, 0], 1), ([1, 2, 4], 2), ([0, 130], 130), ([2, 130], 2)],
)
def test_exit_code_of_all_is_the_worst(codes: list[int], code: int) -> None:
    assert worst(codes) == code


def test_summaries_are_summed_but_the_time_which_ran_side_by_side() -> None:
    assert merged([{"handled": 3, "seconds": 1.5}, {"handled": 4, "parked": 1, "seconds": 0.5}]) == {
        "handled": 7,
        "parked": 1,
        "seconds": 1.5,
    }
    assert merged([]) == {}
