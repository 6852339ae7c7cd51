"""Where a letter may be sent, decided.

A letter names its topic and its group itself, and whoever may write to the dead-letter topic may write any name there. A
redrive writes with the operator's rights, so it believes neither: it sends to this pipeline's own topics and groups, and to
another topic only where the operator names it in full.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.redrive import PARKED, REDRIVEN, SourceRange
from pipeline.core.topic_file import Declared, is_topic_name
from pipeline.errors import Refused


@dataclass(frozen=True, slots=True)
class Destinations:
    """`topics` and `groups` are those that letters of the dead-letter topic `letters` may go back to."""

    letters: str
    topics: frozenset[str]
    groups: frozenset[str]

    def refusal_of_topic(self, topic: str) -> str | None:
        """Why a letter may not go to its source topic; None where it may."""
        if topic in self.topics:
            return None
        if reason := _never(topic, self.letters):
            return reason
        return (
            f"its topic {topic} is none of this pipeline's ({', '.join(sorted(self.topics))}); if it may be written to, "
            f"say --source {topic} --allow-topic {topic}"
        )

    def refusal_of_group(self, group: str) -> str | None:
        """Why a letter may not go back to the group that gave it up; None where it may."""
        if group in self.groups:
            return None
        return (
            f"the group {group} is none of these settings ({', '.join(sorted(self.groups))}); --group {group} redrives its "
            "letters, --to-source sends them to all groups"
        )


def destinations(letters: str, topics: Iterable[str], groups: Iterable[str]) -> Destinations:
    """The pipeline's own: the source of its settings, and the one that the dead-letter topic's name tells."""
    named = Declared(letters.removesuffix(PARKED), 1).source
    base = letters.removesuffix(PARKED)
    own = {*topics, *([named] if named else [])} - {letters, base, base + PARKED, base + REDRIVEN}
    return Destinations(letters, frozenset(each for each in own if not each.startswith("_")), frozenset(groups))


def allowing(own: Destinations, topic: str, source: SourceRange | None) -> Destinations:
    """With another topic, named by the operator; `Refused` unless its letters alone are selected."""
    if reason := _never(topic, own.letters):
        raise Refused(f"--allow-topic {topic}: {reason}. Nothing was redriven.")
    if source is None or source.topic != topic:
        raise Refused(
            f"--allow-topic {topic} goes with --source {topic}: only the letters of a topic that is named in full are sent "
            "there. Nothing was redriven."
        )
    return Destinations(own.letters, own.topics | {topic}, own.groups)


def _never(topic: str, letters: str) -> str | None:
    """Why nothing is ever redriven into a topic of this name."""
    base = letters.removesuffix(PARKED)
    if not is_topic_name(topic):
        return "it names no topic that can be"
    if topic.startswith("_"):
        return f"{topic} is a topic that a system keeps for itself"
    if topic.startswith(base) or topic.endswith((PARKED, REDRIVEN)):
        return f"{topic} holds letters or the marks of redriven ones"
    return None
