"""The worker as `python -m pipeline.consume` runs it: manual commits, retries and dead letters armed."""

from bench import handlers
from bench.ten_ms.task import Outcome, Task, run
from pipeline import wiring


def work(task: Task) -> Outcome:
    handler = "bench.handlers:ten_ms_noted" if task.keyed else "bench.handlers:ten_ms"
    with wiring.consume(
        task.settings(), handler=handler, until_end=True, stopping=lambda: False, verbose=False
    ) as stage:
        totals = stage.run(lambda: stage.totals.handled >= task.orders)
    assert totals.committed == totals.handled == totals.consumed
    return Outcome(totals.handled, totals.seconds, handlers.key_order.overtaken)


if __name__ == "__main__":
    run(work)
