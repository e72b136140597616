"""Rows L and O: more load than can be borne, a card that is much of it, and who looks on."""

import os
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

import psutil
from confluent_kafka import KafkaException

from tests.chaos.course import RECOVERY_LIMIT_SECONDS, Run
from tests.chaos.failpoints import run_slowed
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, not_made, row
from tests.integration.harness import Instance, eventually

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS", "20"))
"""How long the load lasts; LOAD_SECONDS=300 for the long form."""
BEARABLE = 40
"""Records a second of a consumer whose model takes 25 ms for each: few, as all are judged."""
BATCH = 200
DRAIN_SECONDS = RECOVERY_LIMIT_SECONDS + 2 * LOAD_SECONDS
"""How long the backlog may last, which is worked off in transactions of two hundred records."""
GROWTH = 1.5
"""How much memory may be taken, to that of a bearable load."""


@dataclass
class Watch:
    """Follows one instance's memory and what it says of its lag, beside what is the case."""

    run: Run
    rss: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """
        Look twice a second. Lag is said honestly if what is said lies between what is sent and not
        committed before the question and after it, give or take what is sent between two looks.
        """
        instance = self.run["a"]
        process = psutil.Process(instance.pid)
        while not self.over.wait(0.5) and process.is_running():
            self.rss.append(process.memory_info().rss)
            with suppress(KafkaException, OSError):  # a question that is late is asked again
                self._compare(instance)

    def _compare(self, instance: Instance) -> None:
        before = self._waiting()
        told = instance.places()
        after = self._waiting()
        lags = [lag for (name, _), lag in told.items() if name == "consumer_lag_messages"]
        if len(lags) < self.run.scene.partitions:
            return  # it does not know, and says nothing: that is honest
        said = sum(lags)
        low, high = min(before, after), max(before, after)
        self.lags.append(said)
        self.errors.append(max(low - said, said - high, 0))

    def _waiting(self) -> int:
        sent = len(self.run.scene.upstream.journal.sent)
        return sent - sum(self.run.scene.committed().values())


@row(
    "L1", f"ten times the bearable load for {LOAD_SECONDS:g} s (LOAD_SECONDS)", guarantees=OURS,
    instances=(), per_second=BEARABLE // 2, batch={"max_records": BATCH}, refused_every=0,
)  # fmt: skip
def overload(run: Run) -> None:
    """Memory stays, lag is said as it is, and afterwards all of it is worked off."""
    slow = run.scene.folder / "slow"
    slow.touch()
    run.start("a", program=partial(run_slowed, str(slow), 1 / BEARABLE)).wait_ready()
    assert run.feeder is not None
    watch = Watch(run)
    thread = threading.Thread(target=watch.follow, daemon=True)
    thread.start()
    time.sleep(20)
    steady = max(watch.rss)
    run.feeder.go_at(10 * BEARABLE)
    time.sleep(LOAD_SECONDS)
    run.feeder.go_at(BEARABLE // 2)
    slow.unlink()
    run.recover(DRAIN_SECONDS)
    eventually(lambda: run["a"].total("consumer_lag_messages") < BEARABLE, 30, run.tails)
    watch.over.set()
    thread.join(10)
    most, worst = max(watch.rss), max(watch.errors)
    run.tell(
        f"memory {steady >> 20} MB, under load {most >> 20} MB; most lag {max(watch.lags):.0f},"
        f" said wrongly by {worst:.0f} at most"
    )
    run.expect(
        holds=most < GROWTH * steady, what=f"memory went from {steady >> 20} to {most >> 20} MB"
    )
    run.expect(holds=max(watch.lags) > 5 * BEARABLE, what="the load was none")
    # What a look's age of lag.interval (200 ms) and a batch can make of it, at the full rate.
    run.expect(holds=worst < 10 * BEARABLE * 1.0 + BATCH, what=f"lag was wrong by {worst:.0f}")


@row("L1b", "half of all payments are of one card")
def hot_card(run: Run) -> None:
    run.scene.upstream.traffic.favour("card-0")
    run.go_on(300)
    for name in ("a", "b"):
        run.kill(name)
        run.go_on(100)


@row("O1", "200 scrapes that never end, and others beside", guarantees=OURS)
def hanging_scrapes(run: Run) -> None:
    """Work goes on, who asks is answered, and threads do not become more by each who hangs."""
    begun, threads = psutil.Process(run["a"].pid).num_threads, []
    before = begun()
    with ExitStack() as stack:
        for _ in range(200):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", run["a"].http_port)))
            half.sendall(b"GET /metrics HTTP/1.1\r\n")
        for _ in range(30):
            run["a"].metrics()
            threads.append(begun())
            time.sleep(0.2)
        run.go_on(100)
    run.expect(holds=max(threads) < before + 50, what=f"{before} threads became {max(threads)}")


not_made("R1", "the schema registry is away or wrong", "schemas are files: there is no registry")
