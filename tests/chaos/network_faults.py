"""Rows N: what a network does between the consumer and its brokers."""

import random
import time
from functools import partial

from tests.chaos.cluster import open_distant_cluster
from tests.chaos.course import Run
from tests.chaos.network import Network
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, STALE, row
from tests.integration.harness import eventually
from tests.integration.proxy import END_TXN, PRODUCE, Fate, Way

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
SHORT, LONG = 1.5, 8.0
"""Seconds: within the session; beyond session and transaction time-out."""


@row("N1", "one instance cut off from every broker, for 1.5 s and for 8 s", allowed=STALE)
def cut(run: Run) -> None:
    for seconds in (SHORT, LONG):
        with run.cluster.weather("fraudstream-a", cut=True):
            time.sleep(seconds)
        run.go_on(20)


@row("N1b", "every instance cut off from every broker for 8 s", allowed=STALE)
def cut_all(run: Run) -> None:
    with run.cluster.weather(cut=True):
        time.sleep(LONG)
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


@row("N2", "one instance cut off from the group's coordinator for 8 s", allowed=STALE)
def cut_from_group(run: Run) -> None:
    member = run.cluster.group_coordinator(run.scene.topics.group)
    with run.cluster.weather("fraudstream-a", at=(member,), cut=True):
        time.sleep(LONG)


@row(
    "N3", "one instance cut off from its transactions' coordinator for 8 s",
    guarantees=(EXACTLY_ONCE,), allowed=STALE,
)  # fmt: skip
def cut_from_transactions(run: Run) -> None:
    member = run.cluster.transaction_coordinator(f"{run.scene.topics.group}-a-0")
    with run.cluster.weather("fraudstream-a", at=(member,), cut=True):
        time.sleep(LONG)


@row("N4", "one way only: requests arrive, and no answer for 8 s", allowed=STALE)
def cut_answers(run: Run) -> None:
    with run.cluster.weather("fraudstream-a", ways=frozenset({Way.TO_CLIENT}), cut=True):
        time.sleep(LONG)


@row(
    "N5",
    "connections half open for a minute, twenty times socket.timeout.ms",
    guarantees=OURS,
    allowed=STALE,
)
def half_open(run: Run) -> None:
    with run.cluster.weather("fraudstream-a", cut=True):
        time.sleep(60)


@row("N6", "each message takes 200 ms, more or less 100", allowed=STALE, per_second=50)
def delay(run: Run) -> None:
    with run.cluster.weather(delay_seconds=partial(run.draw.uniform, 0.1, 0.3)):
        time.sleep(10)


@row("N6b", "40 kB/s on each connection", allowed=STALE, per_second=50)
def throttle(run: Run) -> None:
    with run.cluster.weather(bytes_per_second=40_000.0):
        time.sleep(10)


@row("N6c", "every connection reset, twenty times in ten seconds", allowed=STALE)
def reset(run: Run) -> None:
    for _ in range(20):
        run.cluster.reset()
        time.sleep(0.5)


@row(
    "N6d", "packets lost, 5 % and 20 %, doubled, and out of order", allowed=STALE,
    cluster=open_distant_cluster,
)  # fmt: skip
def lose_packets(run: Run) -> None:
    link = network(run).link
    for chances in ({"lost": 0.05, "doubled": 0.05, "late": 0.1}, {"lost": 0.2}):
        before = link.fates.copy()
        with link.weather(random.Random(run.draw.random()), **chances):
            time.sleep(10)
        met = link.fates - before
        run.expect(holds=met.keys() == chances.keys(), what=f"of {chances} packets met {met}")
        run.go_on(20)


@row(
    "N7", "a commit is held up until its transaction has timed out, and delivered then",
    guarantees=(EXACTLY_ONCE,), allowed=STALE,
)  # fmt: skip
def commit_late(run: Run) -> None:
    with run.cluster.fault(END_TXN, Fate.LATE, times=1) as faults:
        eventually(lambda: any(fault.hits for fault in faults), 20)
        time.sleep(LONG)
    run.go_on(20)


@row(
    "N7b", "outputs are on the brokers and their acknowledgements lost, twelve times", allowed=STALE
)
def acknowledgements_lost(run: Run) -> None:
    with run.cluster.fault(PRODUCE, Fate.UNANSWERED, times=4) as faults:
        eventually(lambda: all(fault.hits >= 4 for fault in faults), 60)


@row(
    "N8", "every connection reset, and no name is resolved for 60 s", allowed=STALE,
    cluster=open_distant_cluster,
)  # fmt: skip
def forget_names(run: Run) -> None:
    with network(run).names.forgotten():
        for _ in range(5):  # one that is being made as others are reset has no client yet
            run.cluster.reset()
            time.sleep(1)
        before = run.scene.committed()  # the end of an output grows by a marker of abort, too
        time.sleep(55)
        run.expect(holds=run.scene.committed() == before, what="it went on without a name")
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


@row(
    "N8b", "the brokers' name means another address, and the old one is silent", allowed=STALE,
    cluster=open_distant_cluster,
)  # fmt: skip
def move_brokers(run: Run) -> None:
    before = network(run).move()
    for _ in range(3):
        for client in ("upstream", "rdkafka"):  # the tests' own, which would wait for a minute
            run.cluster.reset(client)
        time.sleep(1)
    network(run).link.lose_all_to(before)
    run.go_on(20, within_seconds=90)
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


def network(run: Run) -> Network:
    """Return the network between the cluster and its clients."""
    assert run.cluster.network is not None, "the row's cluster is no distant one"
    return run.cluster.network
