"""Rows G, T and M: the group is unsettled, clocks jump, the model is slow or wrong."""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from tests.chaos.broker_faults import set_topic
from tests.chaos.clocks import NOTICED_SECONDS, open_cluster_with_clocks, set_clock
from tests.chaos.course import Run
from tests.chaos.failpoints import Failpoint, run_with_jumping_clock
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, STALE, promised, row
from tests.integration.bundle import write_model
from tests.integration.harness import eventually

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
JUMP = 600
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


@row(
    "T1c", "the clock of a broker jumps by ten minutes, ahead and back",
    cluster=open_cluster_with_clocks, allowed=STALE,
)  # fmt: skip
def broker_jumps(run: Run) -> None:
    """
    Brokers date the payments, so that lag takes over the jump; what the broker coordinates times
    out, and is taken up again. Lag is never below 0, nor more than the true one and the jump.

    A broker's own timers never go back: it may stand still until its clock is where it was, so an
    operator restarts it.
    """
    topic = run.scene.topics.payments
    set_topic(run, topic, "message.timestamp.type", "LogAppendTime")
    begin, lags = time.time(), Lags(run)
    for member in run.draw.sample(run.cluster.members, 2):
        for ahead in (JUMP, -JUMP, 0):
            run.tell(f"the clock of node {member.node.node_id} is {ahead:+} s")
            set_clock(member.node, ahead)
            end = time.monotonic() + NOTICED_SECONDS + 3
            while time.monotonic() < end:
                lags.look()
                time.sleep(0.4)
        member.node.restart()
        run.go_on(60, within_seconds=90)
    latest = run.cluster.latest_timestamp(topic)
    run.tell(f"lag was {lags.least:.1f} to {lags.most:.1f} s, at most {lags.excess:.1f} s too much")
    run.expect(holds=latest > begin + JUMP, what="the clocks did not jump")
    run.expect(holds=lags.least >= 0, what=f"lag was {lags.least} s")
    run.expect(holds=lags.excess < JUMP + 5, what=f"lag was {lags.excess} s more than the true one")


class Lags:
    """What instances say of their lag in seconds, beside the age of the oldest payment waiting."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting_since = time.time()
        self.least = self.most = self.excess = 0.0

    def look(self) -> None:
        """What is said now may be a look old: it is compared with what waited at the last one."""
        if not promised(self._run):
            return
        with suppress(OSError, KafkaException):
            said = [
                lag
                for name in ("a", "b")
                for (metric, _), lag in self._run[name].metrics().items()
                if metric == "consumer_lag_seconds"
            ]
            most = max(said, default=0.0)
            self.least, self.most = min(self.least, *said, most), max(self.most, most)
            self.excess = max(self.excess, most - (time.time() - self._waiting_since))
            self._waiting_since = self._oldest_waiting()

    def _oldest_waiting(self) -> float:
        committed, sent = self._run.scene.committed(), list(self._run.scene.upstream.journal.sent)
        waiting = (s.timestamp / 1_000 for s in sent if s.offset >= committed[s.partition])
        return min(waiting, default=time.time())


@row(
    "M1", "the files of the model are damaged while it serves, and an instance is killed",
    guarantees=OURS, instances=(),
)  # fmt: skip
def damage_model(run: Run) -> None:
    """
    Who runs goes on with the model that it loaded; who starts refuses, says which file is not what,
    and goes on when an orchestrator starts it after the files are whole again.
    """
    bundle = run.scene.folder / "model"
    shutil.copytree(run.scene.bundle, bundle)
    run.start("a", "b", model={"path": str(bundle)})
    run.go_on(100)
    for what, (damage, says) in DAMAGES.items():
        run.tell(what)
        refuse(run, bundle, damage, says)
    run.go_on(50)


def refuse(run: Run, bundle: Path, damage: Callable[[Path], None], says: str) -> None:
    """Damage the files, let an instance start on them, and make them whole again."""
    before = len(run.exits)
    damage(bundle)
    run.go_on(50)
    run.expect(holds=run.exits[before:] == [], what=f"who ran ended: {run.exits[before:]}")
    told = len(run["a"].lines())
    run.kill("a")
    eventually(lambda: ("a", 78) in run.exits[before:], 30, run.tails)
    said = any(says in line for line in run["a"].lines()[told:])
    run.expect(holds=said, what=f"it did not say {says!r}")
    run.go_on(20)
    shutil.copytree(run.scene.bundle, bundle, dirs_exist_ok=True)
    eventually(lambda: run["a"].answers("/readyz"), 60, run.tails)


def flip_bit(bundle: Path) -> None:
    """Change one bit in the middle of the model."""
    file = bundle / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(name: str, bundle: Path) -> None:
    """Leave the first half of a file, as who writes it in place does for a moment."""
    file = bundle / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def restate(bundle: Path, data: bytes) -> None:
    """Let the manifest vouch for a file of other bytes."""
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["model"] |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(manifest))


def state_other_hash(bundle: Path) -> None:
    """Let the manifest be that of a file of the same size."""
    restate(bundle, bytes((bundle / "model.onnx").stat().st_size))


def exchange(bundle: Path) -> None:
    """Put a sound model in place of the one whose golden rows the manifest has."""
    other = bundle.with_name("other-model")
    write_model(other, seed=1)
    data = (other / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data)
    restate(bundle, data)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit is another": (flip_bit, "model.onnx has sha256"),
    "the model is half written": (partial(cut, "model.onnx"), "model.onnx is not the"),
    "the manifest is half written": (partial(cut, "manifest.json"), "is no manifest"),
    "the hash is another's": (state_other_hash, "model.onnx has sha256"),
    "the model is another's": (exchange, "for golden row"),
}


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
