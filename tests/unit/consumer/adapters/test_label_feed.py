import time

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

import schemas
from consumer.adapters.label_feed import LabelFeed
from consumer.core.labels import TerminalFrauds
from consumer.telemetry import Telemetry

MAX_WAIT_SECONDS = 0.5


class Away:
    """A topic that nobody can say anything of, after as long as one may ask."""

    def partitions(self, timeout_seconds):
        time.sleep(timeout_seconds)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def close(self):
        """Nothing is open."""


@pytest.fixture
def feed():
    """Nothing is connected, and the brokers are away."""
    telemetry = Telemetry(CollectorRegistry(), "group", "transactions.raw")
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
    config = {"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "log_level": 0}
    made = LabelFeed(config, "fraud.labels", frauds, telemetry, MAX_WAIT_SECONDS)
    made._ends.close()
    made._ends = Away()
    yield made
    made.close()


def test_an_outage_of_the_labels_is_waited_for_once(feed):
    """The first batch waits; those behind it ask again, and are not held up as long each."""
    begin = time.monotonic()
    assert feed.catch_up().stale
    first = time.monotonic() - begin

    for _ in range(10):
        assert feed.catch_up().stale
    others = time.monotonic() - begin - first

    assert first >= MAX_WAIT_SECONDS
    assert others < 5 * MAX_WAIT_SECONDS
