"""What the checker asks of brokers that have just come back."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.settings import Settings
from consumer.verify import log as module
from consumer.verify.log import Log


class _Forgetful:
    """Refuses the first request for offsets, as a client does whose metadata is old."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.codes = [KafkaError._UNKNOWN_PARTITION]

    def offsets_for_times(self, parts: list[TopicPartition], timeout: float) -> Any:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop()))
        return [TopicPartition(part.topic, part.partition, 7) for part in parts]

    def list_topics(self, topic: str, timeout: float) -> None: ...

    def close(self) -> None: ...


def test_partitions_that_the_client_does_not_know_yet_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
):
    """After an outage metadata without the partitions is no answer; the next one has them."""
    monkeypatch.setattr(module, "Consumer", _Forgetful)
    with Log(Settings(kafka={"bootstrap.servers": "localhost"}), "group") as log:
        assert log.beginnings("payments", [0, 1]) == {0: 7, 1: 7}
