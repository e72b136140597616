from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from consumer.adapters.kafka_sink import _Places
from consumer.errors import BatchAbortedError, DeniedError, PartitionsHeldError
from consumer.records import Outputs

LETTERS = Outputs("letters", [b""], [b""], [()], [3], [0])


class Told:
    """A producer of brokers that tell this of the topic."""

    def __init__(self, partitions: int, error: KafkaError | None = None) -> None:
        self._topic = SimpleNamespace(partitions=range(partitions), error=error)

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={topic: self._topic})


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (Told(0), BatchAbortedError),
        (Told(0, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)), BatchAbortedError),
        (Told(0, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), DeniedError),
        (Told(3), PartitionsHeldError),
    ],
)
def test_letters_wait_for_a_topic_and_not_for_a_right(told, fault):
    """Brokers that deny a topic tell of no partition; waiting would not bring one."""
    with pytest.raises(fault):
        _Places().require(told, [LETTERS])


def test_a_partition_that_exists_is_asked_for_once():
    """A topic never gets narrower."""
    places = _Places()
    places.require(Told(4), [LETTERS])

    places.require(Told(0), [LETTERS])
