import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

from consumer.adapters.lag import LagMonitor
from consumer.telemetry import Telemetry


class Reader:
    """Answers that every partition ends at 0, or fails so."""

    def __init__(self):
        self.fault = None

    def ends(self, partitions, _):
        return dict.fromkeys(self.partitions(0) and partitions, 0)

    def partitions(self, _):
        if self.fault is not None:
            raise KafkaException(KafkaError(self.fault))
        return [0]


class Progress:
    """Partitions that are ours, all of them committed."""

    def __init__(self, partitions):
        self.in_hand = {}
        self.uncommitted_from = dict.fromkeys(partitions, 0)


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture(params=[[0], []], ids=["one partition is ours", "none is"])
def monitor(reader, request):
    """A monitor that looks when it is told to."""
    telemetry = Telemetry(CollectorRegistry(), "group", "transactions.raw")
    return LagMonitor(reader, Progress(request.param), telemetry, interval_seconds=60)


def test_silence_begins_with_the_first_question_in_vain(monitor, reader, monkeypatch):
    """However long ago the last answer was: nobody asked since."""
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monitor.look()
    now += 500
    assert monitor.seconds_without_answer == 0

    reader.fault = KafkaError._TIMED_OUT
    monitor.look()
    now += 5
    monitor.look()
    now += 2

    assert monitor.seconds_without_answer == 7


def test_an_answer_ends_the_silence(monitor, reader):
    reader.fault = KafkaError._TIMED_OUT
    monitor.look()
    reader.fault = None

    monitor.look()

    assert monitor.seconds_without_answer == 0


def test_a_denial_is_told_apart_from_silence(monitor, reader):
    """As long as it holds: the brokers that do not answer may have given the right back."""
    monitor.look()
    assert monitor.denial is None

    reader.fault = KafkaError.TOPIC_AUTHORIZATION_FAILED
    monitor.look()
    assert monitor.denial.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    for reader.fault in (KafkaError._TIMED_OUT, None):
        monitor.look()
        assert monitor.denial is None
