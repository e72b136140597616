"""One broker for the session, by the ladder, and a scene of fresh topics for each test."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

# Before NumPy is loaded: its threads would survive no fork, and gain nothing on rows this short.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.brokers import (
    TEST_RUNG_VARIABLE,
    Broker,
    Node,
    Rung,
    choose,
    choose_for_tests,
    open_broker,
    why_missing,
)
from tests.integration.bundle import write_model
from tests.integration.harness import SLOW, Scene
from tests.integration.proxy import Proxy

BOTH = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
BOTH_IF_SLOW = BOTH if SLOW else pytest.mark.parametrize("guarantee", ["exactly-once"])
QUICK_GROUPS = {
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "300",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
}
"""With KIP-848 it is the broker that says how soon a member is missed."""


def missing(why: str) -> None:
    """Where guarantees are proven for others, what cannot be proven may not pass for a success."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The broker of the session, or of each of its processes."""
    with open_broker(choose_for_tests(), properties=QUICK_GROUPS) as opened:
        yield opened


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that raises alerts on the traffic of these tests."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    write_model(folder)
    return folder


@pytest.fixture
def real(broker: Broker) -> Broker:
    """The broker, where it proves guarantees."""
    if not broker.proves_guarantees:
        missing(f"needs a real broker: {why_missing(Rung.KAFKA) or 'the embedded one was chosen'}")
    return broker


@pytest.fixture
def node(real: Broker) -> Node:
    """The one node of the broker, to be killed and paused; it runs again after the test."""
    if not real.nodes:
        # Who asks for another rung by name does without; `make test` proves these.
        asked = os.environ.get(TEST_RUNG_VARIABLE, "auto") != "auto"
        (pytest.skip if asked else missing)(f"needs a broker process of our own: rung {Rung.KAFKA}")
    [only] = real.nodes
    return only


@pytest.fixture(scope="session")
def proxied() -> Iterator[tuple[Broker, Proxy]]:
    """A Kafka that all clients reach through a proxy, which can lose what they say."""
    if why := why_missing(Rung.KAFKA):
        missing(why)
    proxy = Proxy()
    with open_broker(
        choose(Rung.KAFKA, {}), properties=QUICK_GROUPS, advertise=proxy.open
    ) as broker:
        yield broker, proxy
    proxy.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@pytest.fixture
def proxy(proxied: tuple[Broker, Proxy]) -> Proxy:
    """The proxy that the `behind` scene's clients go through."""
    return proxied[1]


@pytest.fixture
def behind(
    proxied: tuple[Broker, Proxy], guarantee: str, bundle: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Scene]:  # fmt: skip
    """A scene whose clients go through the proxy."""
    yield from open_scene(proxied[0], guarantee, bundle, tmp_path, request)


@pytest.fixture
def guarantee() -> str:
    """The guarantee that a scene's consumers give; tests parametrize it."""
    return "exactly-once"


@pytest.fixture
def scene(
    broker: Broker, guarantee: str, bundle: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Scene]:  # fmt: skip
    """Fresh topics, a fresh group and their upstream, on the session's broker."""
    if guarantee == "exactly-once" and not broker.proves_guarantees:
        missing(f"{broker.rung} proves nothing about exactly-once")
    yield from open_scene(broker, guarantee, bundle, tmp_path, request)


def open_scene(
    broker: Broker, guarantee: str, bundle: Path, folder: Path, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    """Yield a scene, and end its consumers; a failure shows the ends of their logs."""
    scene = Scene(broker, folder, bundle, guarantee)
    request.node.stash[SCENE] = scene
    yield scene
    scene.close()


SCENE = pytest.StashKey[Scene]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Attach the consumers' logs to the report of a test that failed, and where they were."""
    report = yield
    scene = item.stash.get(SCENE, None)
    if report.failed and scene is not None:
        for instance in {instance.name: instance for instance in scene.instances}.values():
            instance.show_stacks()
            report.sections.append((f"log of {instance.name}", instance.tail()))
    return report
