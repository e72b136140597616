import signal
import time

import pytest
from confluent_kafka import Producer

from tests.integration.checker import check
from tests.integration.conftest import BOTH
from tests.integration.harness import SLOW, eventually

SMALL = {"batch": {"max_records": 20}}
SHORT, LONG = 3.0, 7.5
"""Seconds: beyond session.timeout.ms, within and beyond transaction.timeout.ms."""


@BOTH
def test_a_stopped_instance_wakes_up_as_a_zombie(real, scene):
    """
    SIGSTOP in the middle of a batch until the session is over and another has its partitions, then
    SIGCONT: what the zombie held is refused or is the same again, and it joins as a new member.
    """
    with scene.feed(200):
        zombie = scene.start("zombie", **SMALL)
        zombie.go_on(50)
        other = scene.start("other", **SMALL)
        other.go_on(50)
        for seconds in (SHORT, LONG) * 5 if SLOW else (SHORT, LONG)[: 1 + scene.exactly_once]:
            zombie.go_on(50)
            zombie.signal(signal.SIGSTOP)
            begin = time.monotonic()
            eventually(lambda: other.total("assigned_partitions") == 4, 20, other.tail)
            eventually(lambda: time.monotonic() - begin > seconds, 20)  # noqa: B023 - asked at once
            zombie.signal(signal.SIGCONT)
            eventually(lambda: zombie.total("assigned_partitions") == 2, 20, zombie.tail)

    scene.wait_done()

    assert zombie.exit_code is None
    assert check(scene.history()) == []


def fence(scene, name, slot):
    """Take one of an instance's transactional ids, as its coordinator or another one may."""
    name = f"{scene.topics.group}-{name}-{slot}"
    Producer({"bootstrap.servers": scene.address, "transactional.id": name}).init_transactions(20)


@pytest.mark.parametrize("guarantee", ["exactly-once"])
def test_fenced_once_is_a_transaction_ended_early(real, scene):
    """
    As by a coordinator whose clock jumps: it goes on. Who is fenced again shares its ids with
    another instance, ends, and says so.
    """
    with scene.feed(100):
        consumer = scene.start(**SMALL)
        consumer.go_on(50)
        fence(scene, "one", 0)
        consumer.go_on(100)
        assert consumer.events("producer_replaced")

        def ended():
            fence(scene, "one", 1)
            return consumer.exit_code is not None

        eventually(ended, 40, consumer.tail)
        assert consumer.exit_code == 70
        assert any("give each instance an instance.id of its own" in s for s in consumer.lines())
        scene.start(**SMALL)

    scene.wait_done()

    assert check(scene.history()) == []
