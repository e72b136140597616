import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from consumer.adapters import http_server
from consumer.adapters.http_server import MOST_CONNECTIONS, HttpServer
from consumer.errors import ConfigError
from consumer.settings import Settings


class Health:
    """What the checks answer."""

    def __init__(self):
        self.live = {"polling": True}
        self.ready = {"assigned": True, "committing": True}


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health) -> Iterator[HttpServer]:
    registry = CollectorRegistry()
    Gauge("answer", "Of everything.", registry=registry).set(42)
    server = HttpServer("127.0.0.1", 0, registry, lambda: health.live, lambda: health.ready)
    server.start()
    yield server
    server.stop()


def get(server, path, **headers):
    return httpx.get(f"http://127.0.0.1:{server.port}{path}", headers=headers)


def test_metrics_are_at_their_path_itself(server):
    """As Prometheus asks by default, and curl without -L."""
    answer = get(server, "/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "answer 42.0" in answer.text


def test_metrics_come_in_the_format_that_is_asked_for(server):
    """Prometheus prefers OpenMetrics."""
    answer = get(server, "/metrics", accept="application/openmetrics-text; version=1.0.0")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_200_when_every_part_holds(server, path):
    """And says which parts there are."""
    answer = get(server, path)

    assert answer.status_code == 200
    assert all(answer.json().values())


def test_readiness_is_503_and_names_what_is_missing(server, health):
    """An operator sees at once what is waited for."""
    health.ready["assigned"] = False

    answer = get(server, "/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"assigned": False, "committing": True}
    assert get(server, "/livez").status_code == 200


def test_a_port_that_is_taken_is_refused_with_its_setting(server):
    """At start, before anything is consumed."""
    with pytest.raises(ConfigError, match=r"http\.port: cannot listen on 127\.0\.0\.1"):
        HttpServer("127.0.0.1", server.port, CollectorRegistry(), dict, dict)


def test_a_stopped_server_has_given_its_port_back():
    """Another one can have it at once."""
    first = HttpServer("127.0.0.1", 0, CollectorRegistry(), dict, dict)
    first.start()
    first.stop()

    second = HttpServer("127.0.0.1", first.port, CollectorRegistry(), dict, dict)

    second.stop()


def connect(server) -> socket.socket:
    """Return a connection that has said nothing yet."""
    connection = socket.create_connection(("127.0.0.1", server.port), 5)
    connection.settimeout(5)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server to end the connection; whatever it says before does not matter."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.fixture
def impatient(monkeypatch):
    """A request has less time than in earnest."""
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.5)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of the connections are in this process, which may have 1,024 files by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_idle_connections_keep_nobody_out(server):
    """Those who ask nothing make room for those who do, and no more than a few are kept."""
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(1_000)]
        assert get(server, "/readyz").status_code == 200
        asking = stack.enter_context(connect(server))
        asking.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert asking.recv(15) == b"HTTP/1.1 200 OK"

        assert len(server._server.server_state.connections) <= MOST_CONNECTIONS
        assert all(map(is_closed, idle[:-MOST_CONNECTIONS]))


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_asks_nothing_ends(server):
    """However few there are."""
    with connect(server) as idle:
        assert is_closed(idle)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_request_that_does_not_come_to_its_end_is_ended(server, before):
    """A byte now and then buys no time, on a new connection or on one that was answered."""
    with connect(server) as slow:
        slow.sendall(before + b"GET /metrics HTTP/1.1\r\nx: ")
        begin = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - begin < 5:
                slow.sendall(b"a")
                time.sleep(0.02)

    assert time.monotonic() - begin < 3
    assert get(server, "/livez").status_code == 200


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_nobody_reads_is_given_up():
    """It would be held in memory for as long as the reader likes."""
    registry = CollectorRegistry()
    large = Gauge("large", "Labels by the thousand.", ["label"], registry=registry)
    for number in range(10_000):
        large.labels(f"{number:01000}").set(1)
    server = HttpServer("127.0.0.1", 0, registry, dict, dict)
    server.start()
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while not (connections := server._server.server_state.connections):
            assert time.monotonic() < deadline
        while connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    server.stop()


def test_giant_headers_are_refused(server):
    """Before they take memory, and whether they end or not."""
    with connect(server) as giant:
        with suppress(ConnectionError):
            giant.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 50_000_000)
        assert is_closed(giant)

    assert get(server, "/metrics").status_code == 200


def test_nothing_can_be_changed(server):
    """It is for looking."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        for path in ("metrics", "livez", "readyz"):
            answer = httpx.request(method, f"http://127.0.0.1:{server.port}/{path}", content=b"x")
            assert answer.status_code == 405


def test_it_listens_on_loopback_unless_told_otherwise():
    """Whoever opens it to others does so in the configuration."""
    settings = Settings(kafka={"bootstrap.servers": "localhost"})
    server = HttpServer(settings.http.host, 0, CollectorRegistry(), dict, dict)

    assert server._socket.getsockname()[0] == "127.0.0.1"
    server.stop()
