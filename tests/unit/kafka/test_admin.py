"""Groups that cannot be described, as the client's answers have them. On a real broker: tests/integration/test_groups.py."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaError, KafkaException

from pipeline.core.group_plan import NOT_AUTHORISED, UNREADABLE
from pipeline.errors import BrokerUnavailable, SettingsRefused
from pipeline.kafka.admin import Cluster


def refused(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


def described(name: str, *members: Any) -> Any:
    state, kind = ConsumerGroupState.STABLE, ConsumerGroupType.CLASSIC
    return SimpleNamespace(group_id=name, state=state, type=kind, partition_assignor="range", members=members)


class Answers:
    """An admin client that knows these groups; where one cannot be parsed, every answer asked for with it fails."""

    def __init__(self, groups: dict[str, Any], broken: str | None = None) -> None:
        self._groups = groups
        self._broken = broken
        self.asked: list[list[str]] = []

    def poll(self, _timeout: float) -> None:
        pass

    def list_consumer_groups(self, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(valid=[SimpleNamespace(group_id=name) for name in self._groups], errors=[]))
        return future

    def describe_consumer_groups(self, names: list[str], **_: Any) -> dict[str, Future[Any]]:
        self.asked.append(names)
        futures: dict[str, Future[Any]] = {name: Future() for name in names}
        for name, future in futures.items():
            answer = refused(KafkaError._BAD_MSG) if self._broken in names else self._groups[name]
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        return futures


def cluster(answers: Answers) -> Cluster:
    it = Cluster({"bootstrap.servers": "127.0.0.1:1"})
    it._admin = answers  # type: ignore[assignment]
    return it


def test_group_that_may_not_be_described_is_listed_with_that_word_beside_the_others() -> None:
    answers = Answers(
        {
            "a": described("a"),
            "b": refused(KafkaError.GROUP_AUTHORIZATION_FAILED),
            "c": ValueError("Invalid enum value: 9"),
            "d": refused(KafkaError.GROUP_ID_NOT_FOUND),
        }
    )
    found = [(group.name, group.state) for group in cluster(answers).groups()]
    assert found == [("a", "stable"), ("b", NOT_AUTHORISED), ("c", UNREADABLE)]


def test_answer_that_cannot_be_read_costs_one_group_and_not_those_asked_for_with_it() -> None:
    answers = Answers({"a": described("a"), "connect": None, "z": described("z")}, broken="connect")
    found = [(group.name, group.state) for group in cluster(answers).groups()]
    assert found == [("a", "stable"), ("connect", UNREADABLE), ("z", "stable")]
    assert answers.asked == [["a", "connect", "z"], ["a"], ["connect"], ["z"]]


def test_member_of_another_kind_of_group_has_no_partitions() -> None:
    member = SimpleNamespace(
        member_id="connect-1", client_id="c", group_instance_id=None, host="/10.0.0.1", assignment=None
    )
    [group] = cluster(Answers({"connect": described("connect", member)})).groups()
    assert group.members[0].assigned == ()


def test_outage_is_still_one() -> None:
    with pytest.raises(BrokerUnavailable):
        cluster(Answers({"a": refused(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)})).groups()


def test_one_group_asked_for_by_name_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="this principal needs DESCRIBE on Group b"):
        cluster(Answers({"b": refused(KafkaError.GROUP_AUTHORIZATION_FAILED)})).group("b")
