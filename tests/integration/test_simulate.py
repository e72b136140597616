"""The simulator as a process, against whichever broker the ladder gave the session."""

import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from fastavro import parse_schema, schemaless_reader

import schemas
from producer_sim import handbook
from producer_sim.command import parse_time
from producer_sim.errors import SimulationError
from producer_sim.events import event_times, row_of
from producer_sim.labels import Exactly, fraud_labels
from producer_sim.partitions import partitions_of
from producer_sim.simulation import IfHeld, Options, run
from tests.integration.harness import eventually

PARTITIONS = 4
RANGE = ["--from", "2018-04-02", "--to", "2018-04-04", "--labels", "exactly:1d"]
"""Some 19,000 payments: the in-process cluster forgets what is beyond 5 MB a partition."""
START, END = parse_time("2018-04-02"), parse_time("2018-04-04")


@dataclass(frozen=True)
class Kafka:
    """A broker with two topics of this test alone."""

    address: str
    payments: str
    labels: str

    def options(self, **changes: object) -> Options:
        return Options(
            **{
                "properties": {"bootstrap.servers": self.address},
                "insecure": True,
                "topic": self.payments,
                "labels_topic": self.labels,
                "law": Exactly(1),
                "start": START,
                "end": END,
                **changes,
            }
        )

    def read(self, topic: str) -> list[Message]:
        """Everything in the topic, partition after partition, each in order."""
        with Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
            }
        ) as consumer:
            consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
            records: list[Message] = []
            ended = 0
            while ended < PARTITIONS:
                message = consumer.poll(10)
                assert message is not None, "the broker fell silent"
                if message.error() is None:
                    records.append(message)
                else:
                    assert message.error().name() == "_PARTITION_EOF"
                    ended += 1
            return sorted(records, key=lambda record: (record.partition(), record.offset()))

    def count(self, topic: str) -> int:
        """How many records the topic has taken."""
        with Consumer({"bootstrap.servers": self.address, "group.id": "test"}) as consumer:
            ends = consumer.offsets_for_times(
                [TopicPartition(topic, p, -1) for p in range(PARTITIONS)], timeout=10
            )
            return sum(end.offset for end in ends)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Iterator[Path]:
    """The payments, drawn once and kept for every process of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    handbook.load(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FRAUDSTREAM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def new_topics(broker, cache) -> Callable[[], Kafka]:
    """Makes two fresh topics at every call."""

    def make() -> Kafka:
        name = uuid.uuid4().hex[:8]
        kafka = Kafka(broker.bootstrap_servers, f"payments-{name}", f"labels-{name}")
        # The broker's own clock is the better witness of the order of records.
        config = {"message.timestamp.type": "LogAppendTime"}
        broker.create_topics(dict.fromkeys((kafka.payments, kafka.labels), PARTITIONS), config)
        return kafka

    return make


@pytest.fixture
def kafka(new_topics) -> Kafka:
    return new_topics()


@pytest.fixture(scope="module")
def published(new_topics) -> Kafka:
    """Topics that one run has filled, to be looked at only."""
    kafka = new_topics()
    run(kafka.options())
    return kafka


@pytest.fixture
def simulate(kafka) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m producer_sim` on the test's topics; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "producer_sim", "--bootstrap-servers", kafka.address]
        command += ["--topic", kafka.payments, "--labels-topic", kafka.labels, *RANGE, *arguments]
        command.append("--insecure")  # a container's address may not be loopback
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def rows(records: list[Message]) -> list[int | None]:
    return [row_of(record.value()) for record in records]


def expected_rows() -> tuple[list[int], list[int]]:
    """The payments and the labelled payments of the range, in order of publishing."""
    payments = handbook.load()
    times = event_times(payments)
    labels = fraud_labels(payments, Exactly(1), seed=0)
    published = (labels.published_at >= START) & (labels.published_at < END)
    return ((times >= START) & (times < END)).nonzero()[0].tolist(), labels.row[published].tolist()


def assert_complete(kafka: Kafka) -> None:
    """Both topics hold what the range holds: once, in order within each partition."""
    payments, labels = expected_rows()
    found = kafka.read(kafka.payments)
    assert Counter(rows(found)) == Counter(payments)
    for partition in range(PARTITIONS):
        own = rows([record for record in found if record.partition() == partition])
        assert own == sorted(own)
    assert Counter(rows(kafka.read(kafka.labels))) == Counter(labels)


def test_a_range_is_published_whole_and_in_order(published):
    """Every payment and every label of the range is there once, ordered in each partition."""
    assert_complete(published)


def test_records_are_in_avro_and_keyed_by_card_and_terminal(published):
    """Values are single-object encoded with our schemas; keys are ids of the event itself."""
    for topic, name, key in (
        (published.payments, "transaction", "card_id"),
        (published.labels, "label", "terminal_id"),
    ):
        header = schemas.single_object_header(schemas.load(name))
        schema = parse_schema(schemas.load(name))
        for record in published.read(topic)[:100]:
            assert record.value().startswith(header)
            event = schemaless_reader(BytesIO(record.value()[10:]), schema)
            assert record.key() == event[key].encode()


def test_records_lie_where_javas_murmur2_puts_them(published):
    """The partition of a key is known beforehand, and is the Java client's."""
    for topic in (published.payments, published.labels):
        records = published.read(topic)
        placed = partitions_of([record.key() for record in records], PARTITIONS)
        assert placed.tolist() == [record.partition() for record in records]


def test_timestamps_are_wall_clock(published):
    """Lag and latency are measured against Kafka's timestamps, so they are of now, not of 2018."""
    for record in published.read(published.payments):
        assert time.time() - 3_600 < record.timestamp()[1] / 1_000 < time.time() + 1


def test_no_payment_is_older_than_a_label_of_its_time(published):
    """A label is in its topic before any payment that is not earlier than it."""
    payments = handbook.load()
    times = event_times(payments)
    labels = fraud_labels(payments, Exactly(1), seed=0)
    published_at = dict(zip(labels.row.tolist(), labels.published_at.tolist(), strict=True))
    merged = [
        (published_at[row_of(record.value())], "label", record.timestamp()[1])
        for record in published.read(published.labels)
    ] + [
        (int(times[row_of(record.value())]), "payment", record.timestamp()[1])
        for record in published.read(published.payments)
    ]

    newest_label = 0
    for _, kind, timestamp in sorted(merged):
        if kind == "label":
            newest_label = max(newest_label, timestamp)
        assert timestamp >= newest_label


@pytest.mark.parametrize("count", [1, 10_000])
def test_a_killed_run_is_resumed_without_gap_or_repeat(kafka, simulate, count):
    """SIGKILL anywhere, then --resume: as if nothing had happened."""
    killed = simulate("--rate", "10000")
    eventually(lambda: kafka.count(kafka.payments) >= count, 60)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert kafka.count(kafka.payments) < len(expected_rows()[0])

    resumed = simulate("--resume")

    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert_complete(kafka)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_is_clean_and_says_how_to_go_on(kafka, simulate, number, code):
    """A signal ends the run with everything acknowledged; --resume does the rest."""
    stopped = simulate("--rate", "5000")
    eventually(lambda: kafka.count(kafka.payments) > 1_000, 60)
    stopped.send_signal(number)

    _, said = stopped.communicate()
    assert stopped.returncode == code
    assert "--resume" in said
    [acknowledged] = re.findall(r"published ([\d,]+) payments", said)
    assert int(acknowledged.replace(",", "")) == kafka.count(kafka.payments)
    assert "not acknowledged" not in said

    resumed = simulate("--resume")
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert_complete(kafka)


def test_topics_that_are_not_empty_are_not_filled_again_unasked(kafka, simulate):
    """The same payments twice would be twice the spending: that must be meant."""
    options = kafka.options(end=parse_time("2018-04-03"))
    first = run(options)

    refused = simulate()
    _, said = refused.communicate()
    assert refused.returncode == 1
    assert "--resume" in said
    assert "--again" in said
    assert kafka.count(kafka.payments) == first.payments

    run(kafka.options(end=parse_time("2018-04-03"), if_held=IfHeld.REPEAT))
    assert kafka.count(kafka.payments) == 2 * first.payments


def test_the_records_of_others_do_not_hide_where_to_go_on(kafka):
    """The last payment of this scenario is found behind any number of other records."""
    run(kafka.options(end=parse_time("2018-04-03")))
    others = Producer({"bootstrap.servers": kafka.address})
    for _ in range(500):
        others.produce(kafka.payments, b"something else")
    assert others.flush(10) == 0

    outcome = run(kafka.options(if_held=IfHeld.RESUME))

    payments, _ = expected_rows()
    found = [row for row in rows(kafka.read(kafka.payments)) if row is not None]
    assert Counter(found) == Counter(payments)
    assert outcome.payments < len(payments)


def test_a_reader_is_waited_for(kafka):
    """The end of the topic stays within --max-unread of what the group has committed."""
    seen: list[int] = []
    behind: list[int] = []
    total = len(expected_rows()[0])

    def read_slowly() -> None:
        with Consumer(
            {
                "bootstrap.servers": kafka.address,
                "group.id": f"scorers-{kafka.payments}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        ) as consumer:
            consumer.subscribe([kafka.payments])
            deadline = time.monotonic() + 60
            while sum(seen) < total and time.monotonic() < deadline:
                behind.append(kafka.count(kafka.payments) - sum(seen))
                records = consumer.consume(1_000, 0.05)
                if records:
                    consumer.commit(asynchronous=False)
                    seen.append(len(records))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    run(kafka.options(group=f"scorers-{kafka.payments}", unread_max=2_000))
    reader.join()

    assert sum(seen) == total
    assert max(behind) <= 2_000


def test_a_missing_topic_is_named_with_what_to_do(kafka, simulate):
    """One sentence, no traceback, exit code 1."""
    process = simulate("--topic", "no-such-topic")

    _, said = process.communicate()
    assert process.returncode == 1
    assert "there is no topic no-such-topic" in said
    assert "fraudstream topics" in said
    assert "Traceback" not in said


def test_a_broker_that_does_not_answer_is_named_with_what_to_do(cache):
    """The reason is the client's own, not its time-out."""
    with pytest.raises(SimulationError, match=r"127\.0\.0\.1:1 .*refused.*--bootstrap-servers"):
        run(Options(properties={"bootstrap.servers": "127.0.0.1:1"}))
