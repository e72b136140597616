"""
One run: instances under traffic, a fault, the recovery, and the verdict of the checker.

Recovery is the time from the end of the fault until everything that was acknowledged to upstream
before that end is committed by the group. A fault ends when the last process that it killed or
stopped may run again, or the last broken thing is whole.
"""

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from consumer.errors import FraudstreamError
from consumer.verify.formats import letter_facts
from tests.chaos import naive
from tests.chaos.cluster import Cluster
from tests.chaos.failpoints import Failpoint, run_naive_with, run_with
from tests.integration.checker import Violation, judge
from tests.integration.forked import Program
from tests.integration.harness import Instance, Scene, eventually
from tests.integration.history import History, decode, source
from tests.integration.oracle import Partition
from tests.integration.traffic import PREDICTION, TOMBSTONE, Feeder, Sent

NAIVE = "naive"
GUARANTEES = ("exactly-once", "at-least-once", NAIVE)
RECOVERY_LIMIT_SECONDS = 90.0
RESTART_SECONDS = 0.2
PER_SECOND = 60
"""Payments, where a row does not say another rate."""
CHECKED_NAIVELY = ("no_loss", "no_repeat", "features")
KEPT_LOGS = Path("build/chaos-logs")
SETTINGS: dict[str, dict[str, Any]] = {
    "batch": {"max_records": 25},
    "kafka": {"socket.timeout.ms": "3000"},
}
"""Small batches, so that hardly a moment is without one in hand; silence is noticed in seconds."""


@dataclass
class Verdict:
    """
    What the checker found. `twice` counts inputs with more than one outcome; `wrong` predictions
    on features that are not those of the log; `checked` names the rules that judged.
    """

    records: int
    lost: int
    twice: int
    wrong: int
    dead_letters: int
    violations: list[str]
    checked: Sequence[str] = ()


@dataclass
class Run:
    """A scene on the cluster, and what a row of the plan does to it."""

    cluster: Cluster
    scene: Scene
    guarantee: str
    draw: random.Random
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    exits: list[tuple[str, int]] = field(default_factory=list)
    recovery_seconds: float | None = None
    violations: list[str] = field(default_factory=list)
    feeder: Feeder | None = None
    _gone: dict[int, range] = field(default_factory=dict)
    _changes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _running: dict[str, Instance] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closed: threading.Event = field(default_factory=threading.Event)

    @property
    def is_naive(self) -> bool:
        return self.guarantee == NAIVE

    def start(
        self, *names: str, program: Program | None = None, strike: Failpoint | None = None,
        **changes: Mapping[str, Any],
    ) -> Instance:  # fmt: skip
        """
        Start instances; one that ends by itself is started again, without its `program` and
        `strike`, as an orchestrator would. Return the last.
        """
        if strike is not None:
            program = partial(run_naive_with if self.is_naive else run_with, strike)
        with self._lock:
            for name in names:
                self._changes[name] = changes
                self._start(name, program)
            return self._running[names[-1]]

    def _start(self, name: str, program: Program | None = None) -> None:
        sections = _over(self.settings, self._changes[name])
        if self.is_naive and program is None:
            program = naive.run
        self._running[name] = self.scene.start(name, program=program, **sections)

    def __getitem__(self, name: str) -> Instance:
        return self._running[name]

    def stop(self, name: str, within_seconds: float = 15) -> int:
        """SIGTERM to an instance that is not to come back; return its exit code."""
        with self._lock:
            instance = self._running.pop(name)
        return instance.stop(within_seconds)

    def kill(self, name: str) -> None:
        """SIGKILL; it is started again."""
        self._running[name].kill()

    def remove(self, name: str) -> None:
        """SIGKILL to an instance that is not to come back."""
        with self._lock:
            instance = self._running.pop(name)
        instance.kill()

    def halt(self) -> None:
        """End all instances for good, and leave in their logs where each thread was."""
        with self._lock:
            ended, self._running = self._running, {}
        for instance in ended.values():
            instance.show_stacks()

    def keep_logs(self) -> None:
        """Copy the logs to where they outlast the run."""
        kept = KEPT_LOGS / self.scene.folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for log in self.scene.folder.glob("*.log"):
            shutil.copy(log, kept)
        self.tell(f"logs are kept in {kept}")

    def wait_exit(self, name: str, count: int = 1, within_seconds: float = 40) -> int:
        """Return the exit code of an instance that ended by itself so many times by now."""

        def codes() -> list[int]:
            return [code for of, code in self.exits if of == name]

        eventually(lambda: len(codes()) >= count, within_seconds, self._running[name].tail)
        return codes()[count - 1]

    def supervise(self) -> None:
        """Be the orchestrator, until the run is closed."""
        while not self._closed.wait(0.05):
            with self._lock:
                for name, instance in list(self._running.items()):
                    if instance.exit_code is not None and not self._closed.is_set():
                        self.exits.append((name, instance.exit_code))
                        time.sleep(RESTART_SECONDS)
                        self._start(name)

    def go_on(self, more: int = 60, within_seconds: float = 60) -> None:
        """Return when so much more is published than now, by whomever."""
        [begin] = eventually(lambda: [self.scene.published()], 30)
        eventually(lambda: self.scene.published() >= begin + more, within_seconds, self.tails)

    def recover(self, within_seconds: float = RECOVERY_LIMIT_SECONDS) -> None:
        """The fault has ended: measure how long it is until its traces are gone."""
        due: Counter[int] = Counter()
        for sent in list(self.scene.upstream.journal.sent):
            due[sent.partition] = max(due[sent.partition], sent.offset + 1)
        begin = time.monotonic()

        def caught_up() -> bool:
            committed = self.scene.committed()
            return all(committed[partition] >= offset for partition, offset in due.items())

        try:
            eventually(caught_up, within_seconds, self.tails)
        except AssertionError:
            self.violations.append(f"not recovered within {within_seconds:g} s")
            return
        self.recovery_seconds = round(time.monotonic() - begin, 1)

    def expect(self, *, holds: bool, what: str) -> None:
        """Note what a row promises beside the checker's rules, unless it holds."""
        if not (holds or self.is_naive):
            self.violations.append(what)

    def forget(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Expect no outcome for inputs of these offsets: they were deleted unread, and told so."""
        self._gone = {partition: range(begins[partition], end) for partition, end in ends.items()}

    def expected(self) -> list[Sent]:
        """Return what was acknowledged to upstream, but for what was deleted unread."""
        sent = list(self.scene.upstream.journal.sent)
        return [each for each in sent if each.offset not in self._gone.get(each.partition, ())]

    def tell(self, text: str) -> None:
        """Print what is being done, for a row whose seed decides it."""
        print(f"     {self.scene.folder.name}: {text}", flush=True)

    def tails(self) -> str:
        """Return the ends of the logs."""
        return "".join(instance.tail() for instance in list(self._running.values()))

    def close(self) -> None:
        """End the supervision, the instances, and the topics."""
        self._closed.set()
        with self._lock:
            self.scene.close()
        topics = self.scene.topics
        with suppress(KafkaException):
            self.cluster.delete_topics(topics.payments, topics.labels, *topics.outputs)


def verdict(
    run: Run, allowed: frozenset[str], forgives: frozenset[str], *, complete: bool
) -> Verdict:
    """
    Read everything back with a committed reader, and judge it.

    `allowed` are flags that predictions may carry, `forgives` rules that the fault suspends.
    """
    history = run.scene.history(
        allowed=frozenset({"LATE_EVENT"}) | allowed, complete=complete, within_seconds=30
    )
    history = replace(history, sent=run.expected())
    if run.is_naive:
        return judge_naively(history)
    judgement = judge(history)
    found = [violation for violation in judgement.violations if violation.rule not in forgives]
    outcomes = _outcomes(history)
    rules = Counter(violation.rule for violation in found)
    return Verdict(
        records=len(history.sent),
        lost=sum(
            (sent.partition, sent.offset) not in outcomes
            for sent in history.sent
            if sent.outcome != TOMBSTONE
            and (complete or sent.offset < history.committed.get(sent.partition, 0))
        ),
        twice=0 if "no_repeat" in forgives else sum(count > 1 for count in outcomes.values()),
        wrong=rules["features"] + rules["probability"],
        dead_letters=len(history.dead_letters),
        violations=[_text(violation) for violation in found],
        checked=[name for name in judgement.checked if name not in forgives],
    )


def _outcomes(history: History) -> Counter[tuple[int, int]]:
    """Count the predictions and dead letters of each input."""
    places = [source(decode("prediction", read.value)) for read in history.predictions]
    return Counter(places + [letter_facts(read.headers).place for read in history.dead_letters])


def judge_naively(history: History) -> Verdict:
    """
    Count what is lost and repeated of the payments that can be scored, and how many predictions
    are not on the card's history. Of more the naive consumer promises nothing.
    """
    predictions = [decode("prediction", read.value) for read in history.predictions]
    outcomes = Counter(map(source, predictions))
    features = {source(p): p["features"] for p in reversed(predictions)}
    state: dict[int, Partition] = {}
    lost = twice = wrong = 0
    for sent in sorted(history.sent, key=lambda sent: (sent.partition, sent.offset)):
        if sent.outcome != PREDICTION:
            continue
        place = sent.partition, sent.offset
        partition = state.setdefault(sent.partition, Partition(history.grace))
        expected, *_ = partition.observe(decode("transaction", sent.value), [0, 0, 0])
        lost += outcomes[place] == 0
        twice += outcomes[place] > 1
        wrong += place in features and features[place] != expected
    return Verdict(len(history.sent), lost, twice, wrong, 0, [], CHECKED_NAIVELY)


def _text(violation: Violation) -> str:
    return f"{violation.rule} at {violation.where}: {violation.what}"[:300]


Act = Callable[[Run], None]


def perform(
    cluster: Cluster, folder: Path, bundle: Path, act: Act, guarantee: str, seed: int, *,
    instances: tuple[str, ...] = ("a", "b"), per_second: int = PER_SECOND, refused_every: int = 40,
    allowed: frozenset[str] = frozenset(), forgives: frozenset[str] = frozenset(),
    **settings: Mapping[str, Any],
) -> tuple[Run, Verdict]:  # fmt: skip
    """
    Start instances, keep traffic coming, let the act happen, and wait until all is committed.

    Whatever goes wrong on the way is a violation; what is published by then is judged all the same.
    """
    real = guarantee if guarantee != NAIVE else "at-least-once"
    scene = Scene(cluster.broker, folder, bundle, real, seed=seed)
    run = Run(cluster, scene, guarantee, random.Random(seed), _over(SETTINGS, settings))
    run.feeder = scene.feed(per_second, refused_every=refused_every)
    supervisor = threading.Thread(target=run.supervise, name="supervisor", daemon=True)
    supervisor.start()
    try:
        complete = _complete(run, act, instances)
        try:
            found = verdict(run, allowed, forgives, complete=complete or run.is_naive)
        except (AssertionError, FraudstreamError, KafkaException) as fault:
            found = Verdict(0, 0, 0, 0, 0, [f"not judged: {type(fault).__name__}: {fault}"[:2_000]])
        if not run.is_naive:
            found.violations[:0] = run.violations
        if found.violations or any(code > 0 for _, code in run.exits):
            run.keep_logs()
        return run, found
    finally:
        run.close()
        supervisor.join(10)


def _complete(run: Run, act: Act, instances: tuple[str, ...]) -> bool:
    """Go through with it, and say whether all that was sent is committed in the end."""
    assert run.feeder is not None
    try:
        with run.feeder:
            if instances:
                run.start(*instances)
                run.go_on(100)
            act(run)
            if run.recovery_seconds is None and not run.violations:
                run.recover()
        eventually(run.scene.done, RECOVERY_LIMIT_SECONDS, run.tails)
    except (AssertionError, OSError, RuntimeError, KafkaException) as fault:
        run.violations.append(f"{type(fault).__name__}: {fault}"[:2_000])
        run.halt()  # what is still being published has no offsets yet
        return False
    return True


def _over(
    below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the sections of a configuration with those of another over them."""
    names = below.keys() | above.keys()
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in names}
