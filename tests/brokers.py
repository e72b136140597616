"""
The broker ladder: one way to a Kafka, shared by demo, tests and benchmarks.

    choice = choose(None, os.environ)
    with open_broker(choice, nodes=3) as broker:
        broker.create_topics({"transactions.raw": 8})
        broker.nodes[0].kill()

Rungs: an address that is given, librdkafka's in-process cluster, a real Kafka as local processes,
a container. By hand: `python -m tests.brokers run --rung kafka --nodes 3`.
The consumer never imports this module: it is given an address.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.util import find_spec

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from consumer.kafka_properties import exposures
from tests.kafka.embedded import run_embedded
from tests.kafka.processes import (
    JVM_FLAGS,
    START_SECONDS,
    BrokerUnavailable,
    Listener,
    Node,
    admin_client,
    await_nodes,
    cluster_properties,
    ensure_jars,
    jars_are_current,
    run_nodes,
)

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "Choice",
    "Listener",
    "Node",
    "Rung",
    "choose",
    "choose_for_tests",
    "open_broker",
    "why_missing",
]

ADDRESS_VARIABLE = "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS"
TEST_RUNG_VARIABLE = "FRAUDSTREAM_TEST_BROKER"
_LEADER_SECONDS = 60
_ASKING_SECONDS = 3
DOCKER_IMAGE = "confluentinc/cp-kafka:7.6.0"
EMBEDDED_LIMITS = (
    "it proves nothing about exactly-once: it fences nobody, shows aborted records to everyone, "
    "stores no transactional offsets, and drops the oldest records of a partition that holds 5 MB"
)


class Rung(StrEnum):
    ADDRESS = "address"
    EMBEDDED = "embedded"
    KAFKA = "kafka"
    DOCKER = "docker"

    @property
    def proves_guarantees(self) -> bool:
        """Whether transactions and committed offsets mean here what they mean in production."""
        return self is not Rung.EMBEDDED


@dataclass(frozen=True, slots=True)
class Choice:
    """A rung and why it was taken; as text also what it cannot prove."""

    rung: Rung
    reason: str
    address: str = ""

    def __str__(self) -> str:
        limits = "" if self.rung.proves_guarantees else f"; {EMBEDDED_LIMITS}"
        return f"{self.rung} ({self.reason}{limits})"


def why_missing(rung: Rung) -> str | None:
    """Say what to install before `rung` can be used; None where nothing is missing."""
    if rung is Rung.KAFKA and not shutil.which("java"):
        return "a local Kafka needs Java: install a JRE, version 17 or newer"
    if rung is Rung.KAFKA and not jars_are_current() and not shutil.which("mvn"):
        return "a local Kafka needs its jars: install Maven, which fetches them once"
    if rung is Rung.DOCKER:
        return _why_no_docker()
    return None


def _why_no_docker() -> str | None:
    if not (docker := shutil.which("docker")):
        return "a container needs the docker command: install Docker"
    if not find_spec("testcontainers"):
        return "a container needs the package testcontainers: pip install testcontainers"
    try:
        subprocess.run([docker, "info"], check=True, capture_output=True, timeout=20)
    except subprocess.SubprocessError:
        return "a container needs Docker's engine, and `docker info` gets no answer: start it"
    return None


def choose(
    wanted: str | None,
    environ: Mapping[str, str],
    default: Rung = Rung.KAFKA,
    missing: Callable[[Rung], str | None] = why_missing,
) -> Choice:
    """
    Take the wanted rung; with None or "auto" a given address, else `default`, else what there is.

    A rung asked for by name is taken or refused, never replaced by another.
    """
    address = environ.get(ADDRESS_VARIABLE, "")
    if wanted and wanted != "auto":
        return _asked_for(wanted, address, missing)
    if address:
        return Choice(Rung.ADDRESS, f"{ADDRESS_VARIABLE} is set", address)
    if default is Rung.EMBEDDED:
        return Choice(default, "the default, which needs nothing installed")
    lacking: list[str] = []
    for rung in dict.fromkeys((default, Rung.KAFKA, Rung.DOCKER)):
        if not (why := missing(rung)):
            return Choice(rung, "; ".join(lacking) or "the default, and what it needs is installed")
        lacking.append(why)
    return Choice(Rung.EMBEDDED, "; ".join(lacking))


def choose_for_tests() -> Choice:
    """Take the rung that `FRAUDSTREAM_TEST_BROKER` names, else the ladder's choice."""
    return choose(os.environ.get(TEST_RUNG_VARIABLE), os.environ)


def _asked_for(wanted: str, address: str, missing: Callable[[Rung], str | None]) -> Choice:
    if wanted not in list(Rung):
        raise BrokerUnavailable(f"no rung is called {wanted!r}: take auto, {', '.join(Rung)}")
    rung = Rung(wanted)
    if rung is Rung.ADDRESS and not address:
        raise BrokerUnavailable(f"no address is given: set {ADDRESS_VARIABLE}")
    if why := missing(rung):
        raise BrokerUnavailable(why)
    return Choice(rung, "asked for", address if rung is Rung.ADDRESS else "")


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A cluster that answers. `nodes` can be killed and paused; only the kafka rung has them."""

    rung: Rung
    bootstrap_servers: str
    nodes: Sequence[Node] = ()

    @property
    def proves_guarantees(self) -> bool:
        return self.rung.proves_guarantees

    @property
    def is_remote(self) -> bool:
        """
        Whether a consumer must be told to reach it in clear: a container's port may be published on
        an address that is not loopback.
        """
        return any(exposures({"bootstrap.servers": self.bootstrap_servers}))

    def create_topics(
        self, partitions_by_topic: Mapping[str, int], config: Mapping[str, str] | None = None
    ) -> None:
        """Create topics, on up to three nodes each; return when every partition is led."""
        admin = admin_client(self.bootstrap_servers)
        replicas = min(3, len(admin.list_topics(timeout=10).brokers))
        topics = [
            NewTopic(topic, partitions, replicas, config=dict(config or {}))
            for topic, partitions in partitions_by_topic.items()
        ]
        for created in admin.create_topics(topics).values():
            created.result(timeout=30)
        deadline = time.monotonic() + _LEADER_SECONDS
        while not _all_led(admin, partitions_by_topic):
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"no leader after {_LEADER_SECONDS} s for {', '.join(partitions_by_topic)}"
                )
            time.sleep(0.02)


def _all_led(admin: AdminClient, partitions_by_topic: Mapping[str, int]) -> bool:
    """
    Ask the leaders: metadata names a node some time before that node knows that it leads. Who they
    are is asked each time, since the client keeps to an answer that led nowhere.
    """
    ends = {
        TopicPartition(topic, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for topic, count in partitions_by_topic.items()
        for partition in range(count)
    }
    try:
        admin.list_topics(timeout=_ASKING_SECONDS)
        for end in admin.list_offsets(ends, request_timeout=_ASKING_SECONDS).values():
            end.result(timeout=2 * _ASKING_SECONDS)
    except (KafkaException, TimeoutError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _EmbeddedBroker(Broker):
    create: Callable[[str, int], None]

    def create_topics(
        self, partitions_by_topic: Mapping[str, int], config: Mapping[str, str] | None = None
    ) -> None:
        """Create topics before any client asks for them: asking creates them with 4 partitions."""
        for topic, partitions in partitions_by_topic.items():
            self.create(topic, partitions)


@contextmanager
def open_broker(
    choice: Choice,
    nodes: int = 1,
    *,
    port: int = 0,
    jvm_flags: Sequence[str] = JVM_FLAGS,
    properties: Mapping[str, str] | None = None,
    advertise: Callable[[str], str] = str,
    listeners: Mapping[str, Listener] | None = None,
) -> Iterator[Broker]:
    """
    Open the chosen rung, print where it is and why it was taken, and leave nothing behind.

    `port` (the first node's), `jvm_flags`, `advertise` (for a node's address, the one that clients
    are sent to) and further `listeners` are for the kafka rung, `properties` also for docker.
    """
    opened = {
        Rung.ADDRESS: partial(_given, choice.address, nodes),
        Rung.EMBEDDED: partial(_embedded, nodes),
        Rung.KAFKA: partial(
            _kafka, nodes, port, jvm_flags, properties or {}, advertise, listeners or {}
        ),
        Rung.DOCKER: partial(_docker, nodes, properties or {}),
    }[choice.rung]
    with opened() as broker:
        print(f"broker at {broker.bootstrap_servers}: {choice}", file=sys.stderr, flush=True)
        yield broker


@contextmanager
def _given(address: str, nodes: int) -> Iterator[Broker]:
    await_nodes(address, lambda node_ids: len(node_ids) >= nodes, within_seconds=15)
    yield Broker(rung=Rung.ADDRESS, bootstrap_servers=address)


@contextmanager
def _embedded(nodes: int) -> Iterator[Broker]:
    with run_embedded(nodes) as (address, create):
        yield _EmbeddedBroker(rung=Rung.EMBEDDED, bootstrap_servers=address, create=create)


@contextmanager
def _kafka(
    nodes: int,
    port: int,
    jvm_flags: Sequence[str],
    properties: Mapping[str, str],
    advertise: Callable[[str], str],
    listeners: Mapping[str, Listener],
) -> Iterator[Broker]:
    with run_nodes(nodes, port, jvm_flags, properties, advertise, listeners) as running:
        addresses = ",".join(node.address for node in running)
        yield Broker(rung=Rung.KAFKA, bootstrap_servers=addresses, nodes=running)


@contextmanager
def _docker(nodes: int, properties: Mapping[str, str]) -> Iterator[Broker]:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - a demo may lack it

    if nodes > 1:
        raise BrokerUnavailable("the docker rung is one node: ask for the kafka rung")
    container = KafkaContainer(DOCKER_IMAGE).with_kraft()
    for key, value in {**cluster_properties(1), **properties}.items():
        container.with_env(f"KAFKA_{key.upper().replace('.', '_')}", value)
    try:
        try:
            container.start(timeout=int(START_SECONDS))
        except OSError as error:  # as the engine's refusals, requests' faults and time-outs all are
            raise BrokerUnavailable(f"Docker cannot run {DOCKER_IMAGE}: {error}") from error
        address = container.get_bootstrap_server()
        await_nodes(address, bool)
        yield Broker(rung=Rung.DOCKER, bootstrap_servers=address)
    finally:
        container.stop()


def main() -> None:
    """Fetch the jars, or run a broker in the foreground until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch Apache Kafka's jars into .kafka/libs")
    run = commands.add_parser("run", help="run a broker and print its address")
    run.add_argument("--rung", default="auto", choices=["auto", *Rung])
    run.add_argument("--nodes", type=int, default=1)
    run.add_argument("--port", type=int, default=0, help="of the first node (kafka rung)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(number, signal.default_int_handler)
    try:
        if arguments.command == "fetch":
            print(f"Apache Kafka's jars are in {ensure_jars()}")
            return
        choice = choose(arguments.rung, os.environ)
        opened = open_broker(choice, arguments.nodes, port=arguments.port)
        with suppress(KeyboardInterrupt), opened as broker:
            print(broker.bootstrap_servers, flush=True)  # alone on stdout, for a script
            signal.pause()
    except BrokerUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
