"""The collector's setting holds for a process, so each is asked in one of its own."""

import subprocess
import sys

LOOK = """
import gc
from pipeline import heap
before = gc.get_threshold()
heap.settle()
print(gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold() == (heap.YOUNG, *before[1:]))
class Ring:
    alive = 0
    def __init__(self): self.me = self; Ring.alive += 1
    def __del__(self): Ring.alive -= 1
for _ in range(10 * heap.YOUNG): Ring()
print(Ring.alive < 2 * heap.YOUNG)
"""


def test_cycles_that_a_handler_leaves_behind_are_collected_still() -> None:
    said = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "True", "True", "True"]
