"""Rows G, T and M: the group is unsettled, clocks jump, the model is slow or wrong."""

import signal
import time
from functools import partial
from typing import Any

from tests.chaos.course import Run
from tests.chaos.failpoints import Failpoint, run_with_jumping_clock
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, not_made, row
from tests.integration.harness import eventually

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
NEXT_PROTOCOL = {
    "group.protocol": "consumer", "session.timeout.ms": None, "heartbeat.interval.ms": None,
}  # fmt: skip


def storm(run: Run) -> None:
    """Let members come and go, some of them without a word, and see that work goes on."""
    for number in range(10):
        name = f"m{number}"
        run.start(name)
        time.sleep(run.draw.uniform(0.5, 2.5))
        run.remove(name) if number % 3 == 0 else run.stop(name)
        run.go_on(10)


row("G1", "a rebalance storm, classic protocol, cooperative-sticky")(storm)
row("G1b", "a rebalance storm, group.protocol=consumer", kafka=NEXT_PROTOCOL)(storm)
row(
    "G1c", "a rebalance storm, classic protocol, range",
    kafka={"partition.assignment.strategy": "range"},
)(storm)  # fmt: skip


@row("G2", "from one instance to six, of four partitions, and back", instances=("a",))
def scale(run: Run) -> None:
    names = ("b", "c", "d", "e", "f")
    run.start(*names)
    if not run.is_naive:
        for name in names:
            run[name].wait_ready(60)
        owned = [int(run[name].total("assigned_partitions")) for name in ("a", *names)]
        run.expect(holds=sum(owned) == 4, what=f"4 partitions are owned {owned} times")
    run.go_on(50)
    for name in names:
        run.stop(name)


@row(
    "G3", "the same group.instance.id twice", guarantees=OURS, instances=("b",),
)  # fmt: skip
def same_member(run: Run) -> None:
    """A static member that is there is fenced by one that comes: one of them ends, and says why."""
    twice = {"kafka": {"group.instance.id": "slot-1"}}
    run.start("a", **twice)
    eventually(lambda: run["a"].total("assigned_partitions") == 2, 30, run.tails)
    run.start("c", **twice)
    eventually(lambda: any(name in {"a", "c"} for name, _ in run.exits), 40, run.tails)
    name, code = next((name, code) for name, code in run.exits if name in {"a", "c"})
    run.expect(holds=code == 70, what=f"it ended with {code}, not 70")
    run.remove(name)
    run.go_on(20)


@row("G4", "the same transactional.id twice", guarantees=(EXACTLY_ONCE,))
def same_transactions(run: Run) -> None:
    """The one that is fenced ends, and says what to change."""
    run.start("c", instance={"id": "a"})
    eventually(lambda: run.exits, 40, run.tails)
    name, code = run.exits[0]
    said = [line for line in run[name].lines() if "instance.id of its own" in line]
    run.expect(holds=code == 70, what=f"it ended with {code}, not 70")
    run.expect(holds=bool(said), what="it did not say what to change")
    run.remove("c")
    run.go_on(20)


@row("G5", "a rolling change from the classic protocol to group.protocol=consumer", guarantees=OURS)
def change_protocol(run: Run) -> None:
    for name in ("a", "b"):
        run.stop(name)
        run.start(name, kafka=NEXT_PROTOCOL)
        run.go_on(20)


SOON = {"max.poll.interval.ms": "3000"}


@row("G6", "the model takes twice max.poll.interval.ms", kafka=SOON)
def slow_model(run: Run) -> None:
    run.remove("a")
    run.start("a", strike=Failpoint("after-features", "delay", 10, seconds=6.0))
    time.sleep(9)
    run.go_on(20)


@row("T1", "the wall clock jumps by ten minutes, ahead and back, every second", guarantees=OURS)
def jump(run: Run) -> None:
    run.remove("a")
    run.start("a", program=partial(run_with_jumping_clock, 600.0, 1.0))
    eventually(lambda: run["a"].total("assigned_partitions") == 2, 30, run.tails)
    lags: list[float] = []

    def seen() -> int:
        names = {"consumer_lag_seconds"}
        lags.extend(value for (name, _), value in run["a"].metrics().items() if name in names)
        time.sleep(0.1)
        return len(lags) > 60

    eventually(seen, 30)
    run.expect(holds=min(lags) >= 0, what=f"lag was {min(lags)} s")
    run.kill("a")


@row("T1b", "the clock of upstream jumps by ten minutes, ahead and back, every second")
def upstream_jumps(run: Run) -> None:
    """Kafka's timestamps jump; windows go by the time of the payments, and lag is never below 0."""
    lags: list[float] = []
    for jump in (600, -600, 0) * 4:
        run.scene.upstream.ahead_seconds = jump
        time.sleep(1)
        if not run.is_naive:
            lags.append(run["a"].total("consumer_lag_seconds"))
    run.expect(holds=min(lags, default=0) >= 0, what=f"lag was {min(lags, default=0)} s")


not_made("T1c", "the clock of a broker jumps", "brokers share this machine's clock")
not_made("M1", "a model is replaced by a damaged one", "a model is loaded at start alone")


@row("M2", "the model gives no number for a batch, once", guarantees=OURS)
def no_number(run: Run) -> None:
    run.remove("a")
    run.start("a", strike=Failpoint("after-features", "nan", 10))
    run.go_on(100)
    run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")


@row("M2b", "the model hangs, and is killed by the liveness probe", guarantees=OURS, kafka=SOON)
def hang(run: Run) -> None:
    """The probe tells, an orchestrator acts: what it held is scored by another."""
    run.remove("a")
    instance = run.start("a", strike=Failpoint("after-features", "delay", 10, seconds=600.0))
    eventually(lambda: not alive(instance), 30, run.tails)
    instance.signal(signal.SIGKILL)
    run.go_on(20)


def alive(instance: Any) -> bool:
    """Say what /livez says."""
    return bool(instance.answers("/livez"))
