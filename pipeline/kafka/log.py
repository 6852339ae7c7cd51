"""librdkafka's own log lines, into the log of the process instead of raw onto stderr."""

import logging


def librdkafka_logger() -> logging.Logger:
    """The logger to hand to every client; its lines arrive while the client is polled."""
    return logging.getLogger("librdkafka")
