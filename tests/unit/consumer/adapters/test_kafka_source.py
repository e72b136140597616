import pytest
from prometheus_client import CollectorRegistry

from consumer.adapters.kafka_source import KafkaSource, _Owned
from consumer.core.batching import BatchControl
from consumer.core.letter_limits import LetterLimits
from consumer.telemetry import Telemetry


class Undecided:
    """An observer that does not know yet where to start; it keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def plan(self, partition, committed):
        self.asked.append((partition, committed))


@pytest.fixture
def source():
    """A source with two new partitions, and no broker."""
    config = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0}
    source = KafkaSource(
        config, "payments", Undecided(), BatchControl(10, 0.0),
        Telemetry(CollectorRegistry(), "g", "payments"), LetterLimits(0, 1.0, 1),
    )  # fmt: skip
    source._owned = {0: _Owned(), 1: _Owned()}
    yield source
    source.close()


def test_committed_offsets_are_asked_for_once(source, monkeypatch):
    """However long a snapshot is being read; a partition that comes later is asked for alone."""
    asked = []

    def committed(partitions):
        asked.append(partitions)
        return {partition: 7 if partition else None for partition in partitions}

    monkeypatch.setattr(source, "committed", committed)
    for _ in range(3):
        source._begin_assigned()
    source._owned[2] = _Owned()
    source._begin_assigned()

    assert asked == [[0, 1], [2]]
    assert source._observer.asked[-3:] == [(0, None), (1, 7), (2, 7)]
