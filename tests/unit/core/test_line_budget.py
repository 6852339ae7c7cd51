"""How many lines of a kind are written, whatever fails how often."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.line_budget import KINDS_MAX, LineBudget


def test_burst_of_ten_thousand_writes_a_handful_and_counts_the_rest() -> None:
    budget = LineBudget(burst=10, every_s=1.0)
    written = sum(budget.admits("transient", at / 10_000) for at in range(10_000))
    assert 10 <= written <= 11
    assert budget.left_out() == {"transient": 10_000 - written}
    assert (budget.has_left_out, budget.left_out()) == (False, {})


def test_trickle_is_written_whole() -> None:
    budget = LineBudget(burst=1, every_s=1.0)
    assert all(budget.admits("transient", float(at)) for at in range(100))


def test_flood_of_one_kind_hides_no_other() -> None:
    budget = LineBudget(burst=2)
    for _ in range(1_000):
        budget.admits("transient", 0.0)
    assert budget.admits("rejected", 0.0)


def test_ever_new_kinds_share_what_is_left() -> None:
    budget = LineBudget(burst=1, every_s=1e9)
    assert sum(budget.admits(f"kind {n}", 0.0) for n in range(100_000)) == KINDS_MAX + 1


@given(st.lists(st.floats(0, 10), max_size=50), st.integers(1, 5), st.floats(0.1, 3))
def test_no_window_has_more_than_burst_and_rate(steps: list[float], burst: int, every_s: float) -> None:
    budget, now, times = LineBudget(burst, every_s), 0.0, []
    for step in steps:
        now += step
        if budget.admits("a", now):
            times.append(now)
    for at, first in enumerate(times):
        for count, last in enumerate(times[at:], 1):
            assert count <= burst + (last - first) / every_s + 1e-6
