import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from tests.brokers import (
    ADDRESS_VARIABLE,
    Broker,
    BrokerUnavailable,
    Choice,
    Rung,
    choose,
    open_broker,
    why_missing,
)
from tests.kafka.processes import admin_client

ADDRESS = {ADDRESS_VARIABLE: "broker:9092"}


def missing(*rungs: Rung) -> Callable[[Rung], str | None]:
    return lambda rung: f"install {rung}" if rung in rungs else None


@pytest.mark.parametrize(
    ("wanted", "environ", "default", "lacking", "expected"),
    [
        (None, {}, Rung.KAFKA, [], Rung.KAFKA),
        ("auto", {}, Rung.KAFKA, [], Rung.KAFKA),
        (None, {}, Rung.KAFKA, [Rung.KAFKA], Rung.DOCKER),
        (None, {}, Rung.KAFKA, [Rung.KAFKA, Rung.DOCKER], Rung.EMBEDDED),
        (None, {}, Rung.DOCKER, [Rung.DOCKER], Rung.KAFKA),
        (None, {}, Rung.EMBEDDED, [], Rung.EMBEDDED),
        (None, ADDRESS, Rung.KAFKA, [], Rung.ADDRESS),
        (None, ADDRESS, Rung.EMBEDDED, [], Rung.ADDRESS),
        ("address", ADDRESS, Rung.KAFKA, [], Rung.ADDRESS),
        ("embedded", ADDRESS, Rung.KAFKA, [], Rung.EMBEDDED),
        ("docker", ADDRESS, Rung.KAFKA, [], Rung.DOCKER),
    ],
)
def test_the_ladder_takes_the_first_rung_that_holds(wanted, environ, default, lacking, expected):
    """A rung asked for by name is taken, else a given address, else the default, else the next."""
    choice = choose(wanted, environ, default, missing(*lacking))

    assert choice.rung is expected
    assert choice.address == (ADDRESS[ADDRESS_VARIABLE] if expected is Rung.ADDRESS else "")
    assert all(f"install {rung}" in choice.reason for rung in lacking)
    assert ("proves nothing" in str(choice)) is (expected is Rung.EMBEDDED)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("kafka", "install kafka"),
        ("docker", "install docker"),
        ("address", f"set {ADDRESS_VARIABLE}"),
        ("rabbit", "take auto, address"),
    ],
)
def test_a_named_rung_is_never_replaced(wanted, sentence):
    """What cannot be had is refused with a sentence that says what to do."""
    with pytest.raises(BrokerUnavailable, match=sentence):
        choose(wanted, {}, missing=missing(*Rung))


@pytest.fixture(scope="module")
def embedded() -> Iterator[Broker]:
    with open_broker(choose("embedded", {})) as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka() -> Iterator[Broker]:
    with open_broker(kafka_or_stop()) as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka3() -> Iterator[Broker]:
    with open_broker(kafka_or_stop(), nodes=3) as broker:
        yield broker


def kafka_or_stop() -> Choice:
    if why := why_missing(Rung.KAFKA):
        # Where guarantees are proven for others, their absence may not pass for a success.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return choose("kafka", {})


def new_topic(broker: Broker, partitions: int = 1) -> str:
    topic = f"topic-{uuid.uuid4().hex[:8]}"
    broker.create_topics({topic: partitions})
    return topic


def producer(broker: Broker, **config: object) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, **config})


def transactional_producer(broker: Broker, name: str) -> Producer:
    made = producer(broker, **{"transactional.id": name})
    made.init_transactions(60)
    return made


def publish(broker: Broker, topic: str, values: list[bytes]) -> None:
    sender = producer(broker)
    refused: list[KafkaError] = []
    for i, value in enumerate(values):
        sender.produce(
            topic, value, key=str(i), on_delivery=lambda error, _: error and refused.append(error)
        )
    assert sender.flush(60) == 0
    assert refused == []


def read(broker: Broker, topic: str, partitions: int = 1, isolation: str = "read_committed"):
    """Read each partition to its end, as the isolation level sees it."""
    reader = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": topic,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "log_level": 0,
        }
    )
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    values, ended, deadline = [], set(), time.monotonic() + 60
    while len(ended) < partitions and time.monotonic() < deadline:
        if message := reader.poll(1):
            if not message.error():
                values.append(message.value())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    reader.close()
    assert len(ended) == partitions, "the end of the topic was not reached within 60 s"
    return sorted(values)


def round_trip(broker: Broker) -> None:
    topic = new_topic(broker, partitions=6)
    values = [f"{i:04}".encode() for i in range(500)]

    publish(broker, topic, values)

    [metadata] = admin_client(broker.bootstrap_servers).list_topics(topic).topics.values()
    assert len(metadata.partitions) == 6
    assert read(broker, topic, partitions=6) == values


def test_the_embedded_broker_carries_records(embedded):
    """Without anything installed, records come back from a topic as wide as it was asked for."""
    round_trip(embedded)


def test_the_embedded_broker_refuses_a_topic_that_exists(embedded):
    """Once a client has asked for a topic it has 4 partitions, and creating it is an error."""
    admin_client(embedded.bootstrap_servers).list_topics("asked-for")

    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        embedded.create_topics({"asked-for": 6})


def test_a_local_kafka_carries_records(kafka):
    """One node as a local process is a whole Kafka."""
    round_trip(kafka)


def test_a_given_address_is_used_as_it_is(kafka):
    """The address rung starts nothing, and asks the broker for its nodes before it goes on."""
    choice = choose(None, {ADDRESS_VARIABLE: kafka.bootstrap_servers})

    with open_broker(choice) as broker:
        round_trip(broker)


def test_aborted_records_are_hidden(kafka):
    """A read_committed reader never sees what a transaction took back; read_uncommitted does."""
    topic = new_topic(kafka)
    sender = transactional_producer(kafka, topic)
    for value, end in (
        (b"aborted", sender.abort_transaction),
        (b"kept", sender.commit_transaction),
    ):
        sender.begin_transaction()
        sender.produce(topic, value)
        sender.flush(30)
        end(30)

    assert read(kafka, topic) == [b"kept"]
    assert read(kafka, topic, isolation="read_uncommitted") == [b"aborted", b"kept"]


def test_a_second_producer_fences_the_first(kafka):
    """Of two producers with one transactional id only the younger one may commit."""
    topic = new_topic(kafka)
    elder = transactional_producer(kafka, topic)
    elder.begin_transaction()
    elder.produce(topic, b"elder")
    elder.flush(30)

    transactional_producer(kafka, topic)

    with pytest.raises(KafkaException) as refused:
        elder.commit_transaction(30)
    assert refused.value.args[0].fatal()
    assert read(kafka, topic) == []


def test_offsets_are_committed_with_their_transaction(kafka):
    """Offsets sent to a transaction become the group's when it commits, and not when it aborts."""
    topic = new_topic(kafka)
    publish(kafka, topic, [b"1", b"2", b"3"])
    reader = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": topic,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    reader.subscribe([topic])
    assert len(reader.consume(3, timeout=30)) == 3
    sender = transactional_producer(kafka, topic)
    for offset, end in ((3, sender.abort_transaction), (2, sender.commit_transaction)):
        sender.begin_transaction()
        sender.send_offsets_to_transaction(
            [TopicPartition(topic, 0, offset)], reader.consumer_group_metadata(), 30
        )
        end(30)
    reader.close()

    assert committed(kafka, topic) == 2


def committed(broker: Broker, group: str) -> int:
    admin = admin_client(broker.bootstrap_servers)
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    [partition] = asked.result(timeout=30).topic_partitions
    return partition.offset


def test_a_paused_node_answers_again_when_it_is_resumed(kafka):
    """SIGSTOP silences a node without breaking it: what was sent meanwhile arrives later."""
    topic = new_topic(kafka)
    [node] = kafka.nodes
    sender = producer(kafka)
    sender.list_topics(topic, timeout=10)

    node.pause()
    sender.produce(topic, b"patience")
    waiting = sender.flush(1)
    node.resume()

    assert waiting == 1
    assert sender.flush(60) == 0
    assert read(kafka, topic) == [b"patience"]


def test_records_go_through_when_one_of_three_nodes_dies(kafka3):
    """Two nodes of three carry on, and the third, started again, is one of them with its data."""
    topic = new_topic(kafka3, partitions=6)
    before, after = ([f"{word}-{i:03}".encode() for i in range(300)] for word in ("a", "b"))
    publish(kafka3, topic, before)

    kafka3.nodes[0].kill()
    assert not kafka3.nodes[0].alive
    publish(kafka3, topic, after)
    assert read(kafka3, topic, partitions=6) == before + after

    kafka3.nodes[0].restart()
    assert len(admin_client(kafka3.nodes[0].address).list_topics(timeout=10).brokers) == 3
    assert read(kafka3, topic, partitions=6) == before + after


def test_a_node_that_cannot_start_says_why():
    """What Kafka has to say about its failure is in the error, not in a log that nobody finds."""
    with (
        pytest.raises(BrokerUnavailable, match=r"message\.max\.bytes"),
        open_broker(kafka_or_stop(), properties={"message.max.bytes": "many"}),
    ):
        pass


def test_a_taken_port_is_refused(kafka):
    """A broker never shares a port with a process that is there already."""
    port = int(kafka.bootstrap_servers.rsplit(":", 1)[1])

    with (
        pytest.raises(BrokerUnavailable, match=f"port {port} is taken"),
        open_broker(kafka_or_stop(), port=port),
    ):
        pass


def test_a_broker_does_not_outlive_its_owner():
    """Even when the process that started a broker is killed, the broker ends."""
    kafka_or_stop()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.brokers", "run", "--rung", "kafka"], stdout=subprocess.PIPE
    ) as owner:
        line = owner.stdout.readline().decode()
        port = int(line.split(":")[1])
        assert accepts_connections(port)

        owner.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 10
    while accepts_connections(port):
        assert time.monotonic() < deadline, "the broker still listens 10 s after its owner's end"
        time.sleep(0.05)


def accepts_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_container_carries_records():
    """The docker rung is a whole Kafka too, transactions included."""
    if why := why_missing(Rung.DOCKER):
        pytest.skip(why)
    with open_broker(choose("docker", {})) as broker:
        round_trip(broker)
        test_aborted_records_are_hidden(broker)
