from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from prometheus_client import CollectorRegistry

from consumer.adapters.kafka_source import KafkaSource, _Owned
from consumer.adapters.offset_metadata import OffsetMetadata
from consumer.adapters.topic_identity import TopicIdentity
from consumer.core.batching import BatchControl
from consumer.core.letter_limits import LetterLimits
from consumer.errors import FatalError
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
        config, TopicIdentity({}, "payments"), "ours", Undecided(), BatchControl(10, 0.0),
        Telemetry(CollectorRegistry(), "g", "payments"), LetterLimits(0, 1.0, 1),
    )  # fmt: skip
    source._owned = {0: _Owned(), 1: _Owned()}
    yield source
    source.close()


def test_committed_offsets_are_asked_for_once(source, monkeypatch):
    """However long a snapshot is being read; a partition that comes later is asked for alone."""
    asked = []

    def ask(partitions):
        asked.append(partitions)
        return {partition: (7, OffsetMetadata()) if partition else None for partition in partitions}

    monkeypatch.setattr(source, "_ask", ask)
    for _ in range(3):
        source._begin_assigned()
    source._owned[2] = _Owned()
    source._begin_assigned()

    assert asked == [[0, 1], [2]]
    assert source._observer.asked[-3:] == [(0, None), (1, 7), (2, 7)]


@pytest.mark.parametrize(
    ("metadata", "since"),
    [
        (OffsetMetadata("k", "id", "ours", 3), 3),
        (OffsetMetadata("k", "id", "another's", 3), 7),
        (OffsetMetadata.parse("set by hand"), 0),
    ],
)
def test_it_is_known_from_where_on_our_model_decided(source, monkeypatch, metadata, since):
    """And handed on with each commit; an offset that somebody set is taken for ours."""
    monkeypatch.setattr(source, "_ask", lambda partitions: dict.fromkeys(partitions, (7, metadata)))

    source._begin_assigned()

    [first, _] = source.places({0: 9, 1: 9})
    assert OffsetMetadata.parse(first.metadata) == OffsetMetadata(scorer="ours", since=since)


def test_what_is_committed_beside_an_offset_is_read_again():
    """What others wrote there says nothing."""
    said = OffsetMetadata("k", "a-b_C", "f00", 12)
    assert OffsetMetadata.parse(str(said)) == said
    for text in (None, "", "by hand", "since=x topic-id", "="):
        assert OffsetMetadata.parse(text) == OffsetMetadata()


@pytest.fixture
def stuck(source, monkeypatch):
    """The client under a source, which seeks no partition any more; what it is told instead."""
    told = []

    def seek(part):
        raise KafkaException(KafkaError(KafkaError._STATE))

    client = SimpleNamespace(
        seek=seek, close=source._consumer.close,
        incremental_unassign=lambda parts: told.append(("leave", parts)),
        incremental_assign=lambda parts: told.append(("begin", parts)),
    )  # fmt: skip
    monkeypatch.setattr(source, "_consumer", client)
    monkeypatch.setattr("consumer.adapters.kafka_source.time.sleep", lambda _: None)
    return told


def test_a_partition_that_cannot_be_sought_is_begun_anew_at_its_offset(source, stuck):
    """The client leaves a partition for good whose fetch at 0 was refused by retention."""
    source._incremental = True
    source._owned[1] = _Owned(position=42)

    source.rewind()

    assert [(what, [(p.partition, p.offset) for p in parts]) for what, parts in stuck] == [
        ("leave", [(1, TopicPartition("payments").offset)]),
        ("begin", [(1, 42)]),
    ]


def test_without_incremental_rebalance_it_ends_the_process(source, stuck):
    """One partition cannot be assigned alone there; a restart starts it where it is committed."""
    source._incremental = False
    source._owned[1] = _Owned(position=42)

    with pytest.raises(FatalError, match="partition 1 cannot be set to offset 42"):
        source.rewind()
