"""The garbage collector, set for a process through which records stream.

Reference counts free a record as soon as nobody needs it. What the collector adds is looks at what lives: at the young
whenever some hundred objects more were made than freed, and now and then at all. A worker with thousands of records in hand
makes that happen all the time, and nothing is found.
"""

import gc

# So many objects more than before, each time the young ones are looked at: what some thousand records in hand are made of.
YOUNG = 50_000


def settle() -> None:
    """What was loaded by now is never looked at again, and what comes is looked at in larger lots.

    Cycles that a handler leaves behind are collected still, at most `YOUNG` objects later. Called once by a command, when
    all is imported and nothing has been read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
