"""The transactional producer on a real broker: fenced, it says so by its own errors alone."""

import pytest

from pipeline.errors import ProducerFenced
from pipeline.kafka import config
from pipeline.kafka.transactions import TransactionalProducer
from pipeline.settings import Kafka
from tests.integration.conftest import Pipe

pytestmark = pytest.mark.integration


@pytest.fixture
def properties(pipe: Pipe) -> dict:
    return config.producer(Kafka(bootstrap_servers=pipe.bootstrap_servers))


def test_fenced_producer_commits_nothing_and_its_abort_and_close_are_quiet(pipe: Pipe, properties: dict) -> None:
    first = TransactionalProducer(properties, pipe.topic)
    first.begin()
    first.publish(pipe.topic, b"k", b"first")
    second = TransactionalProducer(properties, pipe.topic)
    second.begin()
    second.publish(pipe.topic, b"k", b"second")
    second.commit()
    with pytest.raises(ProducerFenced):
        first.commit()
    assert not first.usable
    first.abort()
    first.close()
    second.close()
    assert [record.value for record in pipe.records(pipe.topic)] == [b"second"]


def test_fenced_producer_that_aborts_first_is_not_usable_and_raises_nothing(pipe: Pipe, properties: dict) -> None:
    first = TransactionalProducer(properties, pipe.topic)
    first.begin()
    first.publish(pipe.topic, b"k", b"first")
    second = TransactionalProducer(properties, pipe.topic)
    first.abort()
    assert not first.usable
    first.close()
    second.close()
    assert pipe.records(pipe.topic) == []
