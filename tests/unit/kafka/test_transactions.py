"""What the transactional producer notices of its connections."""

import logging

from pipeline.kafka.transactions import _ConnectionWatch


def test_broken_connection_is_noticed_by_its_log_line_alone() -> None:
    watch = _ConnectionWatch()
    watch.logger.info("TXNSTATE [orders-pipeline#producer-1] [thrd:main]: FAIL is only mentioned")
    assert not watch.broken
    watch.logger.log(
        logging.INFO, "FAIL [%s] [thrd:host:9092/1]: Disconnected (after 12 ms)", "orders-pipeline#producer-1"
    )
    assert watch.broken
