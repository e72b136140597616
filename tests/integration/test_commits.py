import threading
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry

from consumer.adapters import kafka_clients
from consumer.adapters.kafka_sink import ExactlyOnceSink
from consumer.app import App
from consumer.errors import AssignmentLostError, BatchAbortedError, FatalError
from consumer.records import Outputs
from consumer.settings import load_settings
from consumer.telemetry import Telemetry
from tests.integration.checker import check
from tests.integration.conftest import BOTH, BOTH_IF_SLOW
from tests.integration.harness import Scene, eventually, interrupt, run_here
from tests.integration.traffic import Input


class Bystander:
    """A member of the group that takes its share of partitions and does nothing with it."""

    def __init__(self, scene: Scene, assignor: str = "cooperative-sticky") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": scene.address,
                "group.id": scene.topics.group,
                "partition.assignment.strategy": assignor,
                "session.timeout.ms": 6_000,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._topic = scene.topics.payments
        self.joined = threading.Event()
        self.owned = 0
        self.metadata: Any = None
        self._assigned = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._be, daemon=True)

    def join(self) -> None:
        """Return when the group has a generation with this member in it."""
        self._thread.start()
        assert self.joined.wait(30), "the bystander was not let in within 30 s"

    def leave(self) -> None:
        """Give all back."""
        self._left.set()
        self._thread.join(30)

    def _be(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._take, on_revoke=self._give)
        while not self._left.is_set():
            self._consumer.poll(0.05)
            # On this thread: from another one, the call and a callback can wait for each other.
            self.metadata = self._consumer.consumer_group_metadata()
            if self._assigned:
                self.joined.set()
        self._consumer.close()

    def _take(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.owned += len(partitions)
        self._assigned = True

    def _give(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.owned -= len(partitions)


class Member:
    """A membership whose metadata the test chooses."""

    def __init__(self, topic: str, metadata: Any) -> None:
        self._topic = topic
        self.group_metadata = metadata

    def is_member(self) -> bool:
        return True

    def commit(self, next_offsets: dict[int, int], within_seconds: float) -> None:
        raise NotImplementedError

    def committed(self, partitions: list[int]) -> dict[int, int | None]:
        raise NotImplementedError

    def places(self, next_offsets: dict[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p, o) for p, o in next_offsets.items()]


def test_an_aborted_batch_leaves_nothing_visible(real, scene):
    """
    A batch whose offsets the group refuses is on the topics and no committed reader sees any of
    it; the same batch under a valid membership is seen whole, with its offset.
    """
    settings = load_settings(scene.config("one", kafka={"linger.ms": "0"}))
    telemetry = Telemetry(CollectorRegistry(), settings.group, settings.topics.input)
    member = Bystander(scene)
    member.join()
    stale = member.metadata
    member.leave()
    configs = [kafka_clients.transactional_config(settings, lambda _: None, k) for k in (0, 1)]
    sink = ExactlyOnceSink(configs, Member(scene.topics.payments, stale), telemetry, 30)
    sink.open()
    batch = [
        Outputs(topic, [b"a"] * 1_000, [b"1"] * 1_000, [[]] * 1_000, [0, 1] * 500, [1] * 1_000)
        for topic in scene.topics.outputs
    ]

    with pytest.raises(AssignmentLostError):
        sink.publish(batch, {0: 2})

    assert written(scene) > 0
    assert seen(scene) == ([], 0)
    member = Bystander(scene)
    member.join()
    sink._membership = Member(scene.topics.payments, member.metadata)
    sink.publish(batch, {0: 2})
    member.leave()
    sink.close()
    values, committed = seen(scene)
    assert values == [b"1"] * 3_000
    assert committed == 2


def test_who_is_fenced_while_it_produces_gives_way(real, scene):
    """
    A second instance of the same id appears while outputs are queued, and a third: the elder,
    fenced twice, says whose id it has, and leaves it to the youngest, which is not fenced in turn.
    """
    settings = load_settings(scene.config("one", kafka={"linger.ms": "0"}))
    telemetry = Telemetry(CollectorRegistry(), settings.group, settings.topics.input)
    configs = [kafka_clients.transactional_config(settings, lambda _: None, k) for k in (0, 1)]
    member = Bystander(scene)
    member.join()
    elder, younger, youngest = (
        ExactlyOnceSink(configs, Member(scene.topics.payments, member.metadata), telemetry, 30)
        for _ in range(3)
    )
    elder.open()
    topic = scene.topics.predictions
    keys = [str(number).encode() for number in range(1_000)]

    class Interrupted(list):
        def __init__(self, other):
            super().__init__([b"elder"] * len(keys))
            self.other = other

        def __iter__(self):
            yield self[0]
            self.other.open()
            for value in self[1:]:
                time.sleep(0.01)  # the client learns of it meanwhile
                yield value

    with pytest.raises(BatchAbortedError):
        elder.publish([Outputs(topic, keys, Interrupted(younger))], {0: 2})
    with pytest.raises(FatalError, match="another instance uses the transactional id"):
        elder.publish([Outputs(topic, keys, Interrupted(youngest))], {0: 2})

    youngest.publish([Outputs(topic, [b"key"], [b"youngest"])], {0: 2})
    member.leave()
    for sink in (elder, younger, youngest):
        sink.close()
    assert seen(scene) == ([b"youngest"], 2)


def written(scene: Scene) -> int:
    """Count what is on the output topics, aborted records and markers included."""
    reader = Consumer(
        {
            "bootstrap.servers": scene.address,
            "group.id": scene.topics.group,
            "isolation.level": "read_uncommitted",
        }
    )
    places = [TopicPartition(topic, p) for topic in scene.topics.outputs for p in (0, 1)]
    ends = [reader.get_watermark_offsets(place, timeout=10)[1] for place in places]
    reader.close()
    return sum(ends)


def seen(scene: Scene) -> tuple[list[bytes | None], int]:
    """Return what a committed reader sees, and the group's offset in partition 0."""
    history = scene.history()
    assert history.stuck == []
    outputs = (history.predictions, history.alerts, history.dead_letters)
    return [read.value for reads in outputs for read in reads], history.committed[0]


@BOTH
def test_an_output_that_the_broker_refuses_is_one_dead_letter(real, scene):
    """
    A prediction that is larger than its topic allows is found among its neighbours, whose batch
    the broker refuses with it: its record becomes a dead letter, and they are predicted once.
    """
    scene.limit(scene.topics.predictions, 700)
    traffic = scene.upstream.traffic
    for _ in range(2):
        scene.upstream.send_mixed(20)
        longest = dict.fromkeys(("transaction_id", "terminal_id"), "x" * 256)
        large = traffic.payment(kind="CLEARING", **longest)
        scene.upstream.send(Input(large.key, large.value, "poison"))
    scene.upstream.send_mixed(20)

    consumer = scene.start()
    scene.wait_done()

    assert check(scene.history()) == []
    assert consumer.total("dead_letters_total", 'reason="poison"') == 2


@BOTH_IF_SLOW
def test_a_refused_generation_with_partitions_kept_loses_nothing(real, scene):
    """
    A member joins while a batch is in hand: the batch may be refused, yet some of its partitions
    stay. They are read again from their own next offset, and no record is passed over.
    """
    scene.upstream.send_mixed(1_500)
    app = App(load_settings(scene.config("one", batch={"max_records": 50})))
    bystander = Bystander(scene)
    interrupt(app, 10, bystander.join)

    def meanwhile() -> None:
        eventually(lambda: bystander.owned == 2, 30)
        bystander.leave()
        scene.wait_done()

    run_here(app, meanwhile)

    refused = app._registry.get_sample_value(
        "fraudstream_records_reprocessed_total", {"cause": "AssignmentLostError"}
    )
    assert check(scene.history()) == []
    assert not scene.exactly_once or refused >= 50
