"""Records of other event types that share the topic: each type said once, and by choice (`--only`) passed over.

Without that choice each of them is undecodable, and becomes a dead letter: nothing is skipped that nobody asked for.
"""

import logging

from pipeline.errors import OtherEvent

# Each schema of another type is said once, so many of them.
SAID_MAX = 100
_log = logging.getLogger(__name__)


class OtherEvents:
    """What a stage does with a record of another event type than the reader's."""

    def __init__(self, *, only: bool) -> None:
        self.only = only
        self._said: set[str] = set()

    def passes_over(self, error: BaseException) -> bool:
        """Whether a record that failed so is another event, and is passed over by choice. Says it, once for each schema."""
        # Not isinstance: that asks the object for its class, and a handler's exception says what it likes.
        if not issubclass(type(error), OtherEvent):
            return False
        words = str(error)
        if words not in self._said and len(self._said) < SAID_MAX:
            self._said.add(words)
            what = (
                "Its records are passed over, as --only says: counted, and committed."
                if self.only
                else "Its records become dead letters. Where several event types share the topic, --only passes others over."
            )
            _log.warning("%s %s", words, what)
        return self.only
