import random
import time

import pytest

from tests.integration.checker import check
from tests.integration.conftest import BOTH, BOTH_IF_SLOW
from tests.integration.harness import SLOW, Instance, eventually

ROUNDS = 25 if SLOW else 3
PER_SECOND = 60 if SLOW else 400
"""Long forms may run beside much else: what piles up while nobody scores must not grow for ever."""
SMALL = {"batch": {"max_records": 20}}
"""Batches so small that hardly a moment is without one in hand."""


def work_a_while(instance: Instance, draw: random.Random) -> None:
    """Return at some moment after it has restored its state and published something new."""
    instance.go_on(50)
    time.sleep(draw.uniform(0, 0.2))  # not for something to happen: for a moment of no choosing


@BOTH_IF_SLOW
def test_one_instance_killed_again_and_again(real, scene):
    """
    SIGKILL at any moment, and a restart: every input has its outcome, with exactly-once once, with
    at-least-once again only as the same prediction; state is rebuilt as the oracle has it.
    """
    draw = random.Random(ROUNDS)
    with scene.feed(PER_SECOND):
        for _ in range(ROUNDS):
            instance = scene.start(**SMALL)
            work_a_while(instance, draw)
            instance.kill()
    scene.start()

    scene.wait_done()

    assert check(scene.history()) == []


@BOTH
def test_of_two_instances_one_dies_and_another_joins(real, scene):
    """
    The survivor takes the dead one's partitions over, a later one takes some of its: state moves
    by the log alone, and every prediction is the oracle's all along.
    """
    draw = random.Random(ROUNDS)
    with scene.feed(PER_SECOND):
        survivor = scene.start("0", **SMALL)
        for number in range(1, 8 if SLOW else 3):
            other = scene.start(str(number), **SMALL)
            work_a_while(other, draw)
            eventually(lambda: survivor.total("assigned_partitions") == 2, 20, survivor.tail)
            other.kill()
            eventually(lambda: survivor.total("assigned_partitions") == 4, 20, survivor.tail)
            survivor.wait_ready()

    scene.wait_done()

    assert survivor.total("rebalances_total") > 3
    assert check(scene.history()) == []


@pytest.mark.skipif(not SLOW, reason="FRAUDSTREAM_SLOW=1 runs it")
def test_both_instances_killed_in_turn(real, scene):
    """While one is dead the other goes on: neither gap nor duplicate, whoever publishes."""
    draw = random.Random(ROUNDS)
    running = {name: scene.start(name, **SMALL) for name in ("a", "b")}
    with scene.feed(PER_SECOND):
        for number in range(ROUNDS):
            victim = "ab"[number % 2]
            work_a_while(running[victim], draw)
            running[victim].kill()
            running[victim] = scene.start(victim, **SMALL)

    scene.wait_done(180)  # what piled up while one of them was dead or restored its state

    assert check(scene.history()) == []
