"""Rows B: brokers die, freeze, come back, and hand what they lead to each other."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewPartitions

from tests.chaos.cluster import Member
from tests.chaos.course import Run
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, STALE, promised, row
from tests.integration.harness import eventually
from tests.kafka.processes import Node

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
AWAY_SECONDS = 8.0


@contextmanager
def dead(*nodes: Node) -> Iterator[None]:
    """Kill nodes; afterwards start them all, and return when they serve."""
    for node in nodes:
        node.kill()
    try:
        yield
    finally:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_serving()


def lose(find: Callable[[Run], Member], run: Run) -> None:
    """Kill the broker that does something for us, and bring it back after a while."""
    with dead(find(run).node):
        time.sleep(AWAY_SECONDS)
        run.go_on(20)


@row("B1", "SIGKILL to the leader of an input partition", allowed=STALE)
def lose_leader(run: Run) -> None:
    lose(lambda run: run.cluster.leader(run.scene.topics.payments, 0), run)


@row("B2", "SIGKILL to the group's coordinator", allowed=STALE)
def lose_group_coordinator(run: Run) -> None:
    lose(lambda run: run.cluster.group_coordinator(run.scene.topics.group), run)


@row("B3", "SIGKILL to the coordinator of transactions", guarantees=(EXACTLY_ONCE,), allowed=STALE)
def lose_transaction_coordinator(run: Run) -> None:
    name = f"{run.scene.topics.group}-a-0"
    lose(lambda run: run.cluster.transaction_coordinator(name), run)


@row("B4", "a rolling restart of all brokers", allowed=STALE)
def roll(run: Run) -> None:
    for node in run.cluster.nodes:
        node.stop()
        node.restart()
        run.go_on(20)


@row("B5", "SIGKILL to one broker after the other", allowed=STALE)
def roll_hard(run: Run) -> None:
    for node in run.cluster.nodes:
        node.restart()
        run.go_on(20)


@row("B6", "two of three brokers dead: too few to acknowledge anything", allowed=STALE)
def lose_two(run: Run) -> None:
    process = psutil.Process(run["a"].pid)
    before = process.memory_info().rss
    with dead(*run.cluster.nodes[1:]):
        time.sleep(AWAY_SECONDS)
        if promised(run):
            grown = process.memory_info().rss - before
            run.expect(holds=grown < 64 << 20, what=f"it grew by {grown >> 20} MB in the outage")
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


@row("B6b", "all brokers killed and restarted at once", allowed=STALE)
def lose_all(run: Run) -> None:
    with dead(*run.cluster.nodes):
        if promised(run):
            # The gauges of lag say nothing rather than something old, and readiness goes.
            gone = ("consumer_lag_messages", "consumer_lag_seconds")
            eventually(lambda: not any(run["a"].total(name) for name in gone), 20, run.tails)
            waited = sum(run["a"].total(name) for name in ("kafka_client_errors_total",))
            run.expect(holds=waited > 0, what="no metric tells of the outage")
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


@row(
    "B6c", "no broker for longer than delivery.outage_limit", guarantees=OURS, allowed=STALE,
    delivery={"outage_limit": "5s"},
)  # fmt: skip
def outlast_the_limit(run: Run) -> None:
    """The exit code is the one that says: a restart may help."""
    for node in run.cluster.nodes:
        node.pause()
    try:
        code = run.wait_exit("a")
        run.expect(holds=code == 75, what=f"it ended with {code}, not 75")
        time.sleep(1)
    finally:
        for node in run.cluster.nodes:
            node.resume()


@row("B7", "the disk of one broker is full", allowed=STALE)
def fill_disk(run: Run) -> None:
    """No file of it may grow, as on a full disk: it gives up its folder, and ends."""
    node = run.cluster.leader(run.scene.topics.payments, 0).node
    broker = psutil.Process(node.pid)
    _, most = broker.rlimit(psutil.RLIMIT_FSIZE)
    broker.rlimit(psutil.RLIMIT_FSIZE, (1, most))
    eventually(lambda: not node.alive, 30, node.log_tail)
    run.go_on(60)
    node.restart()


@row("B8", "leaders of all partitions moved again and again", allowed=STALE)
def move_leaders(run: Run) -> None:
    for node in run.cluster.nodes:
        node.stop()
        run.go_on(20)
        node.restart()
        run.cluster.make_whole()
        run.cluster.elect_preferred_leaders()
        run.go_on(20)


@row("B9", "both coordinators moved by an election", allowed=STALE)
def move_coordinators(run: Run) -> None:
    member = run.cluster.group_coordinator(run.scene.topics.group)
    member.node.stop()
    run.go_on(20)
    member.node.restart()
    run.cluster.make_whole()
    run.cluster.elect_preferred_leaders()
    run.go_on(20)


@row("B10", "a broker frozen for 8 s, with its connections open", allowed=STALE)
def freeze(run: Run) -> None:
    member = run.cluster.leader(run.scene.topics.payments, 1)
    member.node.pause()
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        member.node.resume()


@row("B11", "SIGKILL to the active controller", allowed=STALE)
def lose_controller(run: Run) -> None:
    lose(lambda run: run.cluster.active_controller(), run)


@row(
    "B12", "the input grows from 4 to 6 partitions", guarantees=OURS,
    forgives=frozenset({"order"}), kafka={"topic.metadata.refresh.interval.ms": "1000"},
)  # fmt: skip
def grow(run: Run) -> None:
    """
    Cards move to other partitions, where their history is not: every record has its one outcome,
    on the history of its own partition, and a card's order is that of each partition alone.
    """
    topics = run.scene.topics
    wider = [NewPartitions(name, 6) for name in (topics.dead_letters, topics.payments)]
    for grown in run.cluster.admin.create_partitions(wider).values():
        grown.result(30)
    run.scene.partitions = 6
    eventually(lambda: all(run.scene.committed()[p] > 20 for p in (4, 5)), 60, run.tails)


@row("B14", "the topic of predictions takes no batch of more than one", guarantees=OURS)
def narrow_output(run: Run) -> None:
    """max.message.bytes is about a whole request's batch: what is too large goes out one by one."""
    topic = run.scene.topics.predictions
    set_topic(run, topic, "max.message.bytes", "900")
    run.go_on(60)
    set_topic(run, topic, "max.message.bytes", "1048588")


def set_topic(run: Run, topic: str, name: str, value: str) -> None:
    """Set a property of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for altered in run.cluster.admin.incremental_alter_configs([resource]).values():
        altered.result(30)
