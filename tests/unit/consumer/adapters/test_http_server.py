from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from consumer.adapters.http_server import HttpServer
from consumer.errors import ConfigError


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
