"""
A real Apache Kafka as local processes: jars by Maven, one Java process a node, on 127.0.0.1 alone.

Speaks no word of the ladder: tests/brokers.py is what demo, tests and benchmarks call.
"""

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

# For a quick start. A benchmark passes its own: the first compiler tier is no measure of Kafka.
JVM_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
START_SECONDS = 120.0

_PROPERTIES = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "4000",  # a silent node is replaced after 4 s, by default after 9
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes 128 MB of a small heap
    "log.retention.ms": "-1",  # a replay may carry old timestamps
    "offsets.topic.num.partitions": "4",  # the default of 50 slows the start
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "transaction.state.log.num.partitions": "4",
}
_POM = Path(__file__).parent / "pom.xml"
_CACHE = Path(__file__).parents[2] / ".kafka"
_LIBS = _CACHE / "libs"
_STAMP = _LIBS / "pom.sha256"
# Becomes the broker, and leaves a child that reads its pipe. The pipe ends when we do, even by
# SIGKILL, and the child then kills the broker and removes its data. No preexec_fn, which may
# deadlock among a client's threads; no PR_SET_PDEATHSIG, which strikes when a thread ends.
_WATCHED = """
import os, shutil, signal, sys
broker = os.getpid()
if os.fork() == 0:
    os.read(0, 1)
    if os.getppid() == broker:
        os.kill(broker, signal.SIGKILL)
        shutil.rmtree(sys.argv[1], ignore_errors=True)
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class BrokerUnavailable(Exception):  # noqa: N818 - it states what is the case, as its message does
    """There is no such broker here; the message says what to install or to change."""


@dataclass(frozen=True)
class Listener:
    """A further way into each node; `advertise` tells, for its address, where clients are sent."""

    protocol: str
    advertise: Callable[[str], str] = str


_BETWEEN_NODES = {"BROKERS": Listener("PLAINTEXT"), "CONTROLLER": Listener("PLAINTEXT")}


class Node:
    """One broker process; down or up, it keeps its address and its data until the cluster ends."""

    def __init__(self, node_id: int, port: int, java: Sequence[str], folder: Path) -> None:
        self.node_id = node_id
        self.address = f"127.0.0.1:{port}"
        self.log = folder / f"{folder.name}-{node_id}.log"
        self.data = folder / f"data-{node_id}"
        self.environment: dict[str, str] = {}
        """What it is started with beside our own environment."""
        config = folder / f"node-{node_id}.properties"
        self._command = [str(folder), *java, "kafka.Kafka", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BrokerUnavailable(f"node {self.node_id} was never started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return at once; restart() waits until it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", _WATCHED, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the nodes
            )

    def kill(self) -> None:
        """SIGKILL: the node says goodbye to nobody. Ends a paused node too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()  # before the pipe closes: only an orphan's data may be removed
            self._process.communicate()

    def stop(self) -> None:
        """SIGTERM, and return when it has handed over what it led and ended."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(START_SECONDS)
        self.kill()

    def pause(self) -> None:
        """SIGSTOP, as a frozen machine: connections stay open, silent from the return on."""
        os.kill(self.pid, signal.SIGSTOP)
        # It is on its way to each thread; the parent is told, once, when the last has stopped.
        deadline = time.monotonic() + 5
        while os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG) is None:
            if not self.alive or time.monotonic() > deadline:
                return
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill what still runs, start on the same data, and return when it serves clients."""
        self.kill()
        self.start()
        self.wait_serving()

    def wait_serving(self) -> None:
        """Return when it serves clients."""
        await_nodes(self.address, lambda node_ids: self.node_id in node_ids, [self])

    def log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace")
        return "\n".join(line[:300] for line in text.splitlines()[-lines:])


@contextmanager
def run_nodes(
    count: int,
    port: int,
    jvm_flags: Sequence[str],
    properties: Mapping[str, str],
    advertise: Callable[[str], str] = str,
    listeners: Mapping[str, Listener] = MappingProxyType({}),
) -> Iterator[Sequence[Node]]:
    """
    Run a cluster on a temporary folder; the first node listens on `port`, 0 for a free one.

    `advertise` tells, for the address of each, the one that clients are sent to; `listeners` are
    others beside it, by name, whose protocols the properties go into.
    """
    logging = "-Dorg.apache.logging.log4j.level=WARN"
    java = ["java", *jvm_flags, logging, "-cp", f"{ensure_jars()}/*"]
    with ExitStack() as cleanup:
        temporary = tempfile.TemporaryDirectory(prefix="fraudstream-kafka-")
        folder = Path(cleanup.enter_context(temporary))
        own = {"PLAINTEXT": Listener("PLAINTEXT", advertise), **_BETWEEN_NODES}
        ways = own | dict(listeners)
        ports = [
            {name: _reserve(port if (i, name) == (0, "PLAINTEXT") else 0, cleanup) for name in ways}
            for i in range(count)
        ]
        _format(java, [_write_config(folder, i, ports, ways, properties) for i in range(count)])
        nodes = [Node(i + 1, ports[i]["PLAINTEXT"], java, folder) for i in range(count)]
        for node in nodes:
            cleanup.callback(node.kill)
            node.start()
        addresses = ",".join(node.address for node in nodes)
        try:
            await_nodes(addresses, lambda node_ids: len(node_ids) == count, nodes)
            yield nodes
        except Exception:
            for node in nodes:
                shutil.copy(node.log, _CACHE)
            raise


def await_nodes(
    addresses: str,
    enough: Callable[[Collection[int]], bool],
    nodes: Sequence[Node] = (),
    within_seconds: float = START_SECONDS,
) -> None:
    """Return when a metadata request names enough node ids; raise once one of `nodes` has died."""
    admin = admin_client(addresses)
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        with suppress(KafkaException):
            if enough(admin.list_topics(timeout=1).brokers):
                return
        for node in nodes:
            if not node.alive:
                raise BrokerUnavailable(f"{_of(node)} ended (it needs Java 17):\n{node.log_tail()}")
        time.sleep(0.02)
    tails = "".join(f"\n{_of(node)}:\n{node.log_tail()}" for node in nodes)
    raise BrokerUnavailable(
        f"no answer from {addresses} within {within_seconds:.0f} s: see that it runs there{tails}"
    )


def _of(node: Node) -> str:
    return f"Kafka node {node.node_id}, log {_CACHE / node.log.name},"


def admin_client(addresses: str) -> AdminClient:
    """A quiet client: a broker that is not there yet is no news."""
    return AdminClient(
        {
            "bootstrap.servers": addresses,
            "broker.address.family": "v4",
            "log_level": 0,
            "reconnect.backoff.max.ms": 200,
        }
    )


def cluster_properties(nodes: int) -> dict[str, str]:
    """What a test's cluster needs wherever it runs: quick timeouts, no more replicas than nodes."""
    replicas, in_sync = str(min(3, nodes)), str(min(2, nodes))
    return _PROPERTIES | {
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.replication.factor": replicas,
    }


def _write_config(
    folder: Path,
    i: int,
    ports: Sequence[Mapping[str, int]],
    ways: Mapping[str, Listener],
    properties: Mapping[str, str],
) -> Path:
    addresses = [{name: f"127.0.0.1:{port}" for name, port in of_node.items()} for of_node in ports]
    shown = {
        name: ways[name].advertise(address)
        for name, address in addresses[i].items()
        if name != "CONTROLLER"
    }
    voters = (f"{n}@{of_node['CONTROLLER']}" for n, of_node in enumerate(addresses, start=1))
    own = {
        "node.id": str(i + 1),
        "process.roles": "broker,controller",
        "controller.quorum.voters": ",".join(voters),
        "listeners": _listed(addresses[i], "://"),
        "advertised.listeners": _listed(shown, "://"),
        "controller.listener.names": "CONTROLLER",
        # Brokers talk past whatever a test puts between them and their clients.
        "inter.broker.listener.name": "BROKERS",
        "listener.security.protocol.map": _listed(
            {name: way.protocol for name, way in ways.items()}, ":"
        ),
        "log.dirs": str(folder / f"data-{i + 1}"),
    }
    lines = [
        f"{key}={value}"
        for key, value in (cluster_properties(len(ports)) | own | dict(properties)).items()
    ]
    config = folder / f"node-{i + 1}.properties"
    config.write_text("\n".join(lines))
    return config


def _listed(of: Mapping[str, str], separator: str) -> str:
    return ",".join(f"{name}{separator}{value}" for name, value in of.items())


def _format(java: Sequence[str], configs: Sequence[Path]) -> None:
    cluster_id = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
    tool = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c"]
    running = [  # side by side, since each takes a second
        subprocess.Popen([*tool, str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for config in configs
    ]
    for process in running:
        output, _ = process.communicate()
        if process.returncode:
            raise BrokerUnavailable(
                f"Kafka cannot format its folder (it needs Java 17):\n{output.decode()}"
            )


def _reserve(port: int, cleanup: ExitStack) -> int:
    """
    Take a free port on 127.0.0.1, and on Linux hold it for this cluster until `cleanup`.

    Bound and not listening, it lets the broker in and keeps others out while the broker is down.
    """
    held = cleanup.enter_context(socket.socket())
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("127.0.0.1", port))
    except OSError as error:
        raise BrokerUnavailable(f"port {port} is taken: choose another, or 0 for any") from error
    taken: int = held.getsockname()[1]
    if sys.platform != "linux":
        held.close()
    return taken


def jars_are_current() -> bool:
    """Whether the jars are those that pom.xml asks for."""
    return _STAMP.exists() and _STAMP.read_text() == _pom_hash()


def ensure_jars() -> Path:
    """Return the folder of Kafka's jars; Maven fetches them (40 MB) once for each pom.xml."""
    if jars_are_current():
        return _LIBS
    if not (maven := shutil.which("mvn")):
        raise BrokerUnavailable(
            "a local Kafka needs its jars: install Maven, which fetches them once"
        )
    _CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="libs-", dir=_CACHE) as fresh:
        command = [maven, "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
        fetched = subprocess.run(
            [*command, f"-DoutputDirectory={fresh}/libs"],
            capture_output=True,
            text=True,
            check=False,
        )
        if fetched.returncode:
            raise BrokerUnavailable(f"Maven cannot fetch Kafka's jars:\n{fetched.stdout[-2000:]}")
        Path(fresh, "libs", _STAMP.name).write_text(_pom_hash())
        shutil.rmtree(_LIBS, ignore_errors=True)  # jars of another version would shadow these
        Path(fresh, "libs").rename(_LIBS)
    return _LIBS


def _pom_hash() -> str:
    return hashlib.sha256(_POM.read_bytes()).hexdigest()
