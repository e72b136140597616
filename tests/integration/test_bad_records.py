import ctypes
import re
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition, cimpl

from consumer.core.dead_letter import read_letter
from tests.builders import payment
from tests.integration.harness import Instance, Scene, eventually
from tests.integration.history import decode, source
from tests.integration.test_dead_letters import committed, desk  # noqa: F401 - a fixture
from tests.integration.traffic import PREDICTION, encode

MEGABYTE = 2**20
NO_UTF_8 = b"\xff\xfe"


class Upstream:
    """Sends what no careful producer would, and remembers what each must become."""

    def __init__(self, scene: Scene, **config: object) -> None:
        self._topic = scene.topics.payments
        self.expected: dict[tuple[int, int], str] = {}
        self.producer = Producer(
            {
                "bootstrap.servers": scene.address, "compression.type": "gzip",
                "message.max.bytes": 64 * MEGABYTE, "linger.ms": 0, **config,
            }
        )  # fmt: skip

    def send(self, outcome: str, key: bytes | None, value: bytes, headers: object = ()) -> None:
        def delivered(error, message):
            assert error is None, error
            self.expected[message.partition(), message.offset()] = outcome

        self.producer.produce(
            self._topic, value, key, 0, headers=list(headers), on_delivery=delivered
        )
        self.producer.flush(30)

    def good(self, number: int, headers: object = ()) -> None:
        fields = payment(number, card_id=f"card-{number}")
        key = fields["card_id"].encode()
        self.send(PREDICTION, key, encode("transaction", fields), headers)


def send_with_header_of(scene: Scene, name: bytes, key: bytes, value: bytes) -> None:
    """Produce with a header of any bytes as its name, which the Python client does not offer."""
    kafka = ctypes.CDLL(cimpl.__file__)
    for function in ("conf_new", "new", "headers_new"):
        getattr(kafka, f"rd_kafka_{function}").restype = ctypes.c_void_p
    config = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    address = scene.address.encode()
    kafka.rd_kafka_conf_set(config, b"bootstrap.servers", address, None, ctypes.c_size_t(0))
    client = ctypes.c_void_p(kafka.rd_kafka_new(0, config, None, ctypes.c_size_t(0)))
    headers = ctypes.c_void_p(kafka.rd_kafka_headers_new(ctypes.c_size_t(1)))
    length = ctypes.c_ssize_t(len(name))
    kafka.rd_kafka_header_add(headers, name, length, b"v", ctypes.c_ssize_t(1))
    # Tags of rdkafka.h: topic 1, partition 3, value 4, key 5, flags 7 (2: copy), headers 10, end 0.
    failed = kafka.rd_kafka_producev(
        client, 1, scene.topics.payments.encode(), 3, 0, 4, value, ctypes.c_size_t(len(value)),
        5, key, ctypes.c_size_t(len(key)), 7, 2, 10, headers, 0,
    )  # fmt: skip
    assert failed == 0
    assert kafka.rd_kafka_flush(client, 30_000) == 0
    kafka.rd_kafka_destroy(client)


@pytest.mark.bad_input("c5", "c6", "c7", "g1", "g2")
def test_what_no_careful_producer_sends_has_its_outcome_and_holds_nothing_up(desk):  # noqa: F811
    """
    Bombs of a thousand to one, keys and headers of megabytes, a header without a readable name, and
    transactions that were aborted: each is one dead letter or nothing, and all between is scored.
    """
    upstream = Upstream(desk)
    for number, (outcome, key, value, headers) in enumerate(
        (
            ("oversize", b"card", bytes(32 * MEGABYTE), ()),
            ("key", bytes(10 * MEGABYTE), encode("transaction", payment(1)), ()),
            ("framing", b"card", b"?", [("h", bytes(3 * MEGABYTE))]),
            ("framing", b"card", b"?", [(f"h{k}", bytes(100)) for k in range(1_000)]),
            ("oversize", bytes(10 * MEGABYTE), bytes(10 * MEGABYTE), [("h", bytes(MEGABYTE))]),
        )
    ):
        upstream.good(10 + number, [("h", bytes(2 * MEGABYTE))])
        upstream.send(outcome, key, value, headers)
    paid = encode("transaction", payment(1, card_id="unreadable"))
    for outcome, key, value in (("framing", b"card", b"?"), (PREDICTION, b"unreadable", paid)):
        send_with_header_of(desk, NO_UTF_8, key, value)
        upstream.expected[0, max(upstream.expected)[1] + 1] = outcome
    upstream.good(20)
    aborted = Upstream(desk, **{"transactional.id": desk.topics.group})
    aborted.producer.init_transactions(30)
    aborted.producer.begin_transaction()
    aborted.good(21)
    aborted.producer.abort_transaction(30)
    upstream.good(22)
    aborted.producer.begin_transaction()
    aborted.send("decode", b"card", b"?")
    aborted.producer.abort_transaction(30)
    last = max(offset for _, offset in upstream.expected)

    instance = desk.start()

    eventually(lambda: desk.committed()[0] == last + 1, 30, instance.tail)
    eventually(lambda: instance.total("consumer_lag_messages") == 0, 20, instance.tail)
    predictions = [
        decode("prediction", m.value()) for m in committed(desk, desk.topics.predictions)
    ]
    found = Counter((source(prediction), PREDICTION) for prediction in predictions)
    for letter in desk.history().dead_letters:
        facts = read_letter(letter.headers)
        found[(facts.place.partition, facts.place.offset), facts.reason] += 1
    assert found == Counter(dict.fromkeys(upstream.expected.items(), 1))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{instance.pid}/status").read_text())
    assert int(peak[1]) < MEGABYTE  # of kB, as much as a small container has
    assert instance.stop() == 0


def delete_up_to(scene: Scene, offsets: dict[int, int]) -> None:
    """Delete the records before these offsets, as retention does."""
    gone = [TopicPartition(scene.topics.payments, p, offset) for p, offset in offsets.items()]
    for deleted in scene.admin.delete_records(gone).values():
        deleted.result(30)


@pytest.mark.bad_input("g3", "g4")
def test_retention_may_pass_what_was_read_and_nothing_else(real, scene):
    """
    A start over what is left of the log goes on; one whose next record is gone ends with exit code
    70 and says so: the group's offset is kept, and nothing skipped in silence.
    """
    assert run_to_the_end(scene).stop() == 0
    delete_up_to(scene, {p: offset - 5 for p, offset in scene.committed().items()})
    scene.upstream.send_mixed(40)
    assert run_to_the_end(scene).stop() == 0
    before = scene.committed()
    scene.upstream.send_mixed(40)
    delete_up_to(scene, {p: offset + 1 for p, offset in before.items()})

    again = scene.start()

    assert again.wait(30) == 70
    assert "retention passed it before it was read" in again.tail()
    assert scene.committed() == before


def run_to_the_end(scene: Scene) -> Instance:
    """Start a consumer and return when it has done all there is."""
    if not scene.upstream.journal.sent:
        scene.upstream.send_mixed(60)
    instance = scene.start().wait_ready()
    scene.wait_done()
    return instance
