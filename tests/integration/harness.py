"""Consumers as processes of their own, the topics of one test, and questions to both."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from consumer.app import App
from consumer.settings import load_settings
from tests.brokers import Broker
from tests.integration.forked import Program, fraudstream, mutated, run_forked
from tests.integration.history import History, Topics, load_bundles, read_history
from tests.integration.traffic import Feeder, Upstream
from tests.kafka.processes import admin_client

T = TypeVar("T")
SLOW = os.environ.get("FRAUDSTREAM_SLOW") == "1"
COMMAND = (sys.executable, "-m", "consumer")
PARTITIONS = 4
PATIENCE = 10 if SLOW else 1
"""How many times as long the long forms wait: for minutes, beside whatever else runs here."""
_FORKS = multiprocessing.get_context("forkserver")
_SAMPLE = re.compile(r"^fraudstream_(\w+?)(?:\{(.*)\})? (\S+)$")


def eventually(check: Callable[[], T], within_seconds: float, hint: Callable[[], str] = str) -> T:
    """Return the first true answer; fail with the last one, or its exception, at the deadline."""
    within_seconds *= PATIENCE
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer: object = check()
            if answer:
                return answer  # type: ignore[return-value] # it is what check returned
        except (OSError, AssertionError, KafkaException) as error:
            answer = error
        assert time.monotonic() < deadline, f"still {answer!r} after {within_seconds} s{hint()}"
        time.sleep(0.02)


@cache
def compile_kernels() -> None:
    """
    Compile what is not in numba's cache, as after a change of it, which takes half a minute: a test
    waits for its consumer, and not for that.
    """
    subprocess.run([sys.executable, "-m", "tests.integration.preload"], check=True)


class Instance:
    """One consumer process, by default forked from a process that has its modules loaded."""

    def __init__(
        self, name: str, config: Path, *, fresh: bool, program: Program | None = None
    ) -> None:
        """
        `fresh` runs the command as a user would, in an interpreter of its own; `program` runs
        something else than the command, always forked.
        """
        self.name = name
        self.log = config.with_suffix(".log")
        self._port = 0
        arguments = ["run", "--config", str(config)]
        if self.log.exists() and not self.log.read_bytes().endswith(b"\n"):
            with self.log.open("ab") as log:
                log.write(b"\n")  # the one before was killed in the middle of a line
        self._began = len(self.lines())
        if program is None and (fresh or SLOW):
            compile_kernels()
            with self.log.open("ab") as log:
                self._popen = subprocess.Popen([*COMMAND, *arguments], stdout=log, stderr=log)
            self.pid = self._popen.pid
        else:
            self._popen = None
            self._fork = _FORKS.Process(
                target=run_forked,
                args=(program or fraudstream, arguments, str(self.log)),
                daemon=True,
            )
            self._fork.start()
            self.pid = self._fork.pid or 0

    @property
    def exit_code(self) -> int | None:
        """What it ended with, minus the signal that killed it; None while it runs."""
        return self._popen.poll() if self._popen else self._fork.exitcode

    def wait(self, within_seconds: float) -> int:
        """Return the exit code."""
        eventually(lambda: self.exit_code is not None, within_seconds, self.tail)
        return self.exit_code or 0

    def signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.exit_code is None:
            os.kill(self.pid, number)

    def catches(self, number: int) -> bool:
        """Say whether it has a handler for a signal: until Python sets one, the system's holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> number - 1 & 1)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def show_stacks(self) -> None:
        """SIGABRT: it ends, and leaves in its log where each of its threads was."""
        self.signal(signal.SIGABRT)
        self.wait(10)

    def stop(self, within_seconds: float = 10) -> int:
        """SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_seconds)

    def lines(self) -> list[str]:
        """Return the lines of its log; a restarted instance goes on in the same file."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's entries of one name, of this process alone."""
        entries = [json.loads(line) for line in self.lines()[self._began :] if line[:1] == "{"]
        return [entry for entry in entries if entry["event"] == name]

    def tail(self) -> str:
        """Return the end of the log, for a failure's message."""
        return "\n".join(["", f"log of {self.name}:", *self.lines()[-60:]])

    def ready(self) -> bool:
        """Say what /readyz says."""
        return self.answers("/readyz")

    def answers(self, path: str) -> bool:
        """Say whether a probe is answered with 200."""
        try:
            with self._get(path) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def wait_ready(self, within_seconds: float = 30) -> "Instance":
        """Return when /readyz says 200, and fail at once when the process ends."""

        def is_ready() -> bool:
            if self.exit_code is not None:
                raise RuntimeError(f"{self.name} ended with {self.exit_code}{self.tail()}")
            return self.ready()

        eventually(is_ready, within_seconds, self.tail)
        return self

    def metrics(self) -> dict[tuple[str, str], float]:
        """Scrape /metrics: (name without prefix, labels as text) -> value."""
        with self._get("/metrics") as answer:
            found = map(_SAMPLE.match, answer.read().decode().splitlines())
        return {(m[1], m[2] or ""): float(m[3]) for m in found if m}

    def total(self, name: str, *labels: str) -> float:
        """Sum a metric over all its series that carry these labels; 0 when there are none."""
        return sum(
            value
            for (found, text), value in self.metrics().items()
            if found == name and all(label in text for label in labels)
        )

    def places(self) -> dict[tuple[str, str], float]:
        """Return its own next offsets, the ends that it sees, and its lag; nothing if it ended."""
        if self.exit_code is not None:
            return {}
        names = {"committed_offset", "partition_last_stable_offset", "consumer_lag_messages"}
        return {key: value for key, value in self.metrics().items() if key[0] in names}

    def go_on(self, more: int = 100, within_seconds: float = 40) -> None:
        """Return when it has published so many predictions more than it has now."""
        name = "predictions_committed_total"
        [begin] = eventually(lambda: [self.total(name)], 30, self.tail)
        eventually(lambda: self.total(name) >= begin + more, within_seconds, self.tail)

    @property
    def http_port(self) -> int:
        """Where it serves metrics and probes, as its log tells. Raises ConnectionError before."""
        if not self._port:
            started = self.events("started")
            if not started:
                raise ConnectionError("it has not told its port yet")
            self._port = started[0]["http_port"]
        return self._port

    def _get(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5)


def run_here(app: App, meanwhile: Callable[[], object]) -> None:
    """Run a consumer in this process until `meanwhile` has returned; raise what it raised."""
    faults: list[BaseException] = []

    def accompany() -> None:
        try:
            meanwhile()
        except BaseException as fault:  # noqa: BLE001 - the main thread raises it
            faults.append(fault)
        finally:
            app._stopping.set()

    companion = threading.Thread(target=accompany)
    companion.start()
    app.run()
    companion.join()
    if faults:
        raise faults[0]


def interrupt(app: App, at: int, act: Callable[[], object]) -> None:
    """Let something happen while the nth batch is in hand, between its poll and its commit."""
    pipeline = app._loop._pipeline
    catch_up = pipeline._catch_up
    batches = iter(range(1, 1_000_000))

    def interrupted() -> Any:
        if next(batches) == at:
            act()
        return catch_up()

    pipeline._catch_up = interrupted


class Scene:
    """Topics and group of one test, its upstream, and its consumers."""

    def __init__(
        self, broker: Broker, folder: Path, bundle: Path, guarantee: str, *, seed: int = 1
    ) -> None:
        """Create the topics, named after the test's folder; `seed` is the traffic's."""
        self.broker = broker
        self.address = broker.bootstrap_servers
        self.folder = folder
        self.exactly_once = guarantee == "exactly-once"
        names = ("group", "payments", "labels", "predictions", "alerts", "payments-dlt")
        stem = f"{folder.name}-{uuid.uuid4().hex[:6]}"
        self.topics = Topics(*(f"{stem}.{name}" for name in names))
        self.partitions = PARTITIONS
        self.instances: list[Instance] = []
        self.asker = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": self.topics.group,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self.admin = admin_client(self.address)
        self.bundle = bundle
        self.bundles = [bundle]
        """What predictions may be by: the one that instances serve, and those that a test adds."""
        os.environ |= {"FRAUDSTREAM_TEST_BUNDLE": str(bundle), "PYTHONFAULTHANDLER": "1"}
        _FORKS.set_forkserver_preload(["tests.integration.preload"])
        self._settings: dict[str, dict[str, Any]] = {
            "kafka": {
                "bootstrap.servers": self.address,
                "group.id": self.topics.group,
                "session.timeout.ms": "2000",
                "heartbeat.interval.ms": "300",
                "transaction.timeout.ms": "5000",
                "reconnect.backoff.max.ms": "500",
            },
            "security": {"insecure": broker.is_remote},
            "topics": {
                "input": self.topics.payments,
                "predictions": self.topics.predictions,
                "alerts": self.topics.alerts,
                "labels": self.topics.labels,
            },
            "processing": {"guarantee": guarantee},
            "model": {"path": str(bundle)},
            "http": {"port": 0},
            "lag": {"interval": "200ms"},
            "batch": {"max_records": 100},
            "log": {"format": "json"},
        }
        widths = dict.fromkeys((self.topics.payments, *self.topics.outputs), PARTITIONS)
        broker.create_topics(widths | {self.topics.labels: 1})
        self.upstream = Upstream(self.address, self.topics.payments, self.topics.labels, seed)

    def config(self, name: str, **changes: Mapping[str, Any]) -> Path:
        """Write a configuration file: the scene's, and over it these sections."""
        sections = {**self._settings, "instance": {"id": name}}
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        lines = []
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [
                f"{json.dumps(key)} = {json.dumps(value)}"
                for key, value in values.items()
                if value is not None
            ]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines))
        return path

    def narrow_topic(self) -> str:
        """Return a new topic of one partition."""
        name = f"{self.topics.group}.narrow"
        self.broker.create_topics({name: 1})
        return name

    def limit(self, topic: str, most_bytes: int) -> None:
        """Let a topic refuse what is larger."""
        limit = ConfigEntry(
            "max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])
        [changed] = self.admin.incremental_alter_configs([resource]).values()
        changed.result(30)

    def start(
        self,
        name: str = "one",
        *,
        fresh: bool = False,
        program: Program | None = None,
        mutants: Sequence[str] = (),
        **changes: Mapping[str, Any],
    ) -> Instance:
        """Start a consumer and return at once; the name is its instance.id."""
        if mutants:
            program = partial(mutated, tuple(mutants))
        instance = Instance(name, self.config(name, **changes), fresh=fresh, program=program)
        self.instances.append(instance)
        return instance

    def feed(self, per_second: int, *, refused_every: int = 0) -> Feeder:
        """Return a feeder; while it is entered, payments, labels and some rubbish keep coming."""
        return Feeder(self.upstream, per_second, refused_every)

    def published(self) -> int:
        """Return how far the topic of predictions has grown, whoever wrote to it."""
        ends = [TopicPartition(self.topics.predictions, p, OFFSET_END) for p in range(PARTITIONS)]
        self.asker.list_topics(self.topics.predictions, timeout=5)  # who leads may have changed
        answered = self.asker.offsets_for_times(ends, timeout=2)
        for end in answered:
            if end.error is not None:
                raise KafkaException(end.error)
        return sum(end.offset for end in answered)

    def committed(self) -> dict[int, int]:
        """Return the group's offsets, as a committed reader is told; 0 where there is none."""
        asked = [TopicPartition(self.topics.payments, p) for p in range(self.partitions)]
        return {p.partition: max(0, p.offset) for p in self.asker.committed(asked, timeout=5)}

    def commit(self, next_offsets: dict[int, int]) -> None:
        """Set the group's offsets, as an operator does while no consumer runs."""
        offsets = [TopicPartition(self.topics.payments, p, o) for p, o in next_offsets.items()]
        self.asker.commit(offsets=offsets, asynchronous=False)

    def done(self) -> bool:
        """Say whether all that is in the journal is committed."""
        sent = self.upstream.journal.sent
        return sum(self.committed().values()) == len(sent)

    def wait_done(self, within_seconds: float = 30) -> None:
        """Return when everything that was sent is committed."""
        eventually(self.done, within_seconds, self._progress)

    def _progress(self) -> str:
        """
        Return how far the group is in what was sent, where each instance says that it is itself,
        and the ends of all logs.
        """
        sent = Counter(sent.partition for sent in self.upstream.journal.sent)
        places = "".join(f"\n{instance.name}: {instance.places()}" for instance in self.instances)
        logs = "".join(instance.tail() for instance in self.instances)
        return f": committed {self.committed()} of {dict(sent)}{places}{logs}"

    def history(self, **about: Any) -> History:
        """Read everything back, for `check` to judge."""
        settings = load_settings(self.config("checker"))
        return read_history(
            settings, self.upstream.journal.sent, load_bundles(self.bundles),
            committed=eventually(self.committed, 30), exactly_once=self.exactly_once, **about,
        )  # fmt: skip

    def close(self) -> None:
        """End every consumer that still runs."""
        for instance in self.instances:
            instance.signal(signal.SIGCONT)
            instance.kill()
        self.asker.close()
