"""Rows Q and E: bad and huge records, and what happens to the topics themselves."""

import time

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.chaos.course import PER_SECOND, Run
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, STALE, row
from tests.integration.harness import eventually
from tests.integration.history import decode
from tests.integration.traffic import PREDICTION, Feeder, Input

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
MEGABYTE = 950_000


def read_topic(bootstrap_servers: str, topic: str) -> list[bytes]:
    """Return the values that a committed reader finds in a topic now."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "checker",
            "client.id": "checker",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    waiting = set(reader.list_topics(topic, timeout=30).topics[topic].partitions)
    reader.assign([TopicPartition(topic, partition, 0) for partition in waiting])
    found: list[bytes] = []
    while waiting:
        for message in reader.consume(5_000, timeout=0.2):
            error = message.error()
            if error is None:
                found.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            else:
                raise KafkaException(error)
    reader.close()
    return found


def rest(run: Run) -> Feeder:
    """Send nothing more, and return when all that was sent is committed."""
    assert run.feeder is not None
    run.feeder.go_at(0)
    time.sleep(0.5)
    run.scene.upstream.flush()
    eventually(run.scene.done, 60, run.tails)
    return run.feeder


@row(
    "Q1", "every second record is refused, and the limit is above that", refused_every=1,
    dead_letters={"max_ratio": 0.9},
)  # fmt: skip
def poison(run: Run) -> None:
    run.go_on(300)


@row("Q2", "the topic of dead letters is gone", guarantees=OURS, allowed=STALE, refused_every=0)
def letters_gone(run: Run) -> None:
    """What cannot be dead-lettered is not passed over: it waits for the topic."""
    upstream, topic = run.scene.upstream, run.scene.topics.dead_letters
    run.cluster.delete_topics(topic)
    try:
        for refused in upstream.traffic.refused():
            upstream.send(refused)
        upstream.flush()
        time.sleep(8)
        [done] = eventually(lambda: [run.scene.done()], 30)
        run.expect(holds=not done, what="refused records were passed over")
    finally:
        run.cluster.broker.create_topics({topic: run.scene.partitions})


@row("Q3", "records of 950 kB, nearly the most that a broker takes", guarantees=OURS)
def huge(run: Run) -> None:
    payment = run.scene.upstream.traffic.payment()
    for number in range(20):
        value = (payment.value or b"") + run.draw.randbytes(MEGABYTE)
        run.scene.upstream.send(Input(b"huge-%d" % number, value, "oversize"))
    run.go_on(50)


@row("Q4", "bombs: batches of a few kB that unpack to 20 MB", guarantees=OURS)
def bombs(run: Run) -> None:
    """Memory is bounded by what a client fetches at a time, times what zstd can pack."""
    process = psutil.Process(run["a"].pid)
    before = process.memory_info().rss
    value = (run.scene.upstream.traffic.payment().value or b"") + bytes(MEGABYTE)
    run.scene.upstream.send_packed(
        [Input(b"bomb-%d" % k, value, "oversize") for k in range(100)], "zstd"
    )
    run.go_on(50)
    grown = process.memory_info().rss - before if process.is_running() else 0
    run.expect(holds=grown < 400 << 20, what=f"it grew by {grown >> 20} MB")


@row(
    "E1", "the topic of labels is deleted, and made again", guarantees=OURS, allowed=STALE,
    forgives=frozenset({"features", "labels"}),
)  # fmt: skip
def labels_gone(run: Run) -> None:
    """
    Predictions say LABELS_STALE while it is away, and work does not slow down to a crawl. What the
    new topic holds is not what the deleted one held, so features are not judged.
    """
    topic = run.scene.topics.labels
    run.scene.upstream.has_labels = False
    time.sleep(1)
    run.cluster.delete_topics(topic)
    try:
        run.go_on(1_000, within_seconds=30)
        stale = run["a"].total("labels_stale") + run["b"].total("labels_stale")
        run.expect(holds=stale == 2, what="a metric does not say that labels are stale")
    finally:
        run.cluster.broker.create_topics({topic: 1})
    run.go_on(20)


OTHER_TOPIC = frozenset(
    {"no_repeat", "no_phantom", "order", "dead_letters", "offsets", "alerts", "labels", "balance",
     "outcome", "prediction", "features", "degraded", "probability", "velocity", "lateness"}
)  # fmt: skip
"""Rules that cannot be held against outputs of two topics with one name, whose places coincide."""


@row(
    "E2", "the topic of payments is deleted, and made again", guarantees=OURS, forgives=OTHER_TOPIC,
)  # fmt: skip
def payments_gone(run: Run) -> None:
    """
    Instances notice, end, and are started again: all that comes to the new topic is scored, from
    its first record on.
    """
    topics, upstream = run.scene.topics, run.scene.upstream
    rest(run)
    run.cluster.delete_topics(topics.payments)
    time.sleep(3)
    run.cluster.broker.create_topics({topics.payments: 4})
    upstream.begin_again()
    upstream.send_mixed(2_000)
    new = {
        decode("transaction", sent.value)["event_id"]
        for sent in upstream.journal.sent if sent.outcome == PREDICTION
    }  # fmt: skip

    def missing() -> int:
        found = read_topic(run.scene.address, topics.predictions)
        return len(new - {decode("prediction", value)["event_id"] for value in found})

    try:
        eventually(lambda: missing() == 0, 60)
    except AssertionError:
        run.expect(
            holds=False, what=f"{missing()} of {len(new)} payments of the new topic are lost"
        )
    run.recovery_seconds = 0.0


@row(
    "E3", "retention passes the group's offset while nobody reads", guarantees=OURS,
    allowed=frozenset({"STATE_COLD"}),
    # What was said of inputs that are gone cannot be held against them.
    forgives=frozenset({"journal", "no_phantom", "balance", "labels", "alerts"}),
)  # fmt: skip
def retention(run: Run) -> None:
    """
    It ends with code 70 and says so, again and again, until an operator moves the offset; what
    retention took is lost, and nothing else.
    """
    topics = run.scene.topics
    # All that is published is committed: what is gone afterwards was scored by nobody.
    feeder = rest(run)
    for name in ("a", "b"):
        run.stop(name)
    feeder.go_at(PER_SECOND)
    committed = run.scene.committed()
    target = len(run.scene.upstream.journal.sent) + 400
    eventually(lambda: len(run.scene.upstream.journal.sent) > target, 30)
    gone = {partition: offset + 20 for partition, offset in committed.items()}
    places = [TopicPartition(topics.payments, p, offset) for p, offset in gone.items()]
    for deleted in run.cluster.admin.delete_records(places).values():
        deleted.result(30)
    run.start("a")
    code = run.wait_exit("a")
    run.expect(holds=code == 70, what=f"it ended with {code}, not 70")
    run.expect(
        holds=any("retention passed it" in line for line in run["a"].lines()),
        what="it did not say that records are gone",
    )
    run.remove("a")
    run.scene.commit(gone)
    run.forget(committed, gone)
    run.start("a", "b")
