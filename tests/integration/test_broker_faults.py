import random
import time

import psutil
import pytest

from tests.integration.checker import check
from tests.integration.conftest import BOTH
from tests.integration.harness import SLOW, eventually

SMALL = {"batch": {"max_records": 20}, "labels": {"max_wait": "60s"}}
"""Labels are waited for, as long as an outage of these tests may take."""
LAG = ("consumer_lag_messages", "consumer_lag_seconds", "partition_last_stable_offset")


def let_pass(seconds: float) -> None:
    """Let a fault last: nothing is waited for."""
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > seconds, seconds + 5)


def test_a_broker_that_stops_answering(node, scene):
    """
    The broker is frozen in the middle of commits, for less and for more than
    transaction.timeout.ms: whatever became of the transaction in hand, nothing is lost or repeated.
    """
    draw = random.Random(1)
    consumer = scene.start(**SMALL)
    with scene.feed(200):
        for seconds in (1, 7) * (4 if SLOW else 1):
            consumer.go_on(50)
            let_pass(draw.uniform(0, 0.1))
            node.pause()
            try:
                let_pass(seconds)
            finally:
                node.resume()
        consumer.go_on(50)

    scene.wait_done()

    assert consumer.exit_code is None
    assert check(scene.history()) == []


@BOTH
def test_the_only_broker_dies_and_comes_back(node, scene):
    """
    While the broker is away the consumer waits, within the memory that it had, and shows no lag
    rather than an old one; then it goes on by itself.
    """
    consumer = scene.start(**SMALL)
    with scene.feed(200):
        consumer.go_on()
        memory = psutil.Process(consumer.pid)
        before = memory.memory_info().rss
        node.kill()
        try:
            eventually(lambda: not any(consumer.total(name) for name in LAG), 20, consumer.tail)
            series = {name for name, _ in consumer.metrics()}
            assert series.isdisjoint(LAG)
        finally:
            node.restart()
        consumer.go_on()
        after = memory.memory_info().rss

    scene.wait_done()

    assert consumer.exit_code is None
    assert after - before < 64 * 2**20
    eventually(lambda: {name for name, _ in consumer.metrics()} >= set(LAG), 20)
    assert check(scene.history()) == []


@pytest.mark.parametrize("busy", [True, False] if SLOW else [False])
def test_an_outage_that_outlasts_the_limit_ends_the_process(node, scene, busy):
    """Code 75 tells an orchestrator that a restart may help; it does, and nothing is missing."""
    consumer = scene.start(**SMALL, delivery={"outage_limit": "3s"})
    scene.upstream.send_mixed(200)
    scene.wait_done()
    with scene.feed(200 if busy else 0):
        if busy:
            consumer.go_on(50)
        node.pause()
        try:
            assert consumer.wait(40) == 75
        finally:
            node.resume()
        assert "did not answer for 3 s (delivery.outage_limit)" in consumer.tail()
        scene.start(**SMALL)

    scene.wait_done()

    assert check(scene.history()) == []


def test_a_call_of_the_client_that_never_returns_ends_the_process(real, scene):
    """No exception gets there and no signal's handler runs; a restart goes on where it was."""
    limits = {"max.poll.interval.ms": "6000", "transaction.timeout.ms": "2000"}
    stuck = scene.start(
        **SMALL | {"kafka": limits}, delivery={"outage_limit": "3s"},
        mutants=("never_hears_of_offsets",),
    )  # fmt: skip
    scene.upstream.send_mixed(200)

    assert stuck.wait(60) == 75

    assert '"stuck"' in stuck.tail()
    scene.start(**SMALL)
    scene.wait_done()
    assert check(scene.history()) == []


def test_a_call_of_a_producer_that_never_returns_is_left_behind(real, scene):
    """Its transaction is ended by another producer, and the batch is published again, once."""
    scene.start(**SMALL, mutants=("offsets_never_arrive_once",))
    scene.upstream.send_mixed(200)

    scene.wait_done()

    [consumer] = scene.instances
    assert consumer.exit_code is None
    assert len(consumer.events("producer_replaced")) == 1
    assert check(scene.history()) == []


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_commit_that_never_returns_is_an_outage(real, scene):
    """Silent brokers are waited for no longer in a commit than anywhere else."""
    stuck = scene.start(
        **SMALL, delivery={"outage_limit": "3s"}, mutants=("never_hears_of_a_commit",)
    )
    scene.upstream.send_mixed(200)

    assert stuck.wait(30) == 75

    scene.start(**SMALL)
    scene.wait_done()
    assert check(scene.history()) == []


def test_sigterm_ends_a_call_that_never_returns(real, scene):
    """Within the ten seconds of any other, though no handler of Python's can run."""
    stuck = scene.start(**SMALL, mutants=("never_hears_of_offsets",))
    scene.upstream.send_mixed(200)
    eventually(lambda: "in a call that never returns" in stuck.lines(), 30, stuck.tail)

    assert stuck.stop(within_seconds=10) == 75
