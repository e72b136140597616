import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

from consumer.adapters.lag import LagMonitor
from consumer.telemetry import Telemetry


class Reader:
    """Answers that every partition ends at 0, or does not answer."""

    def __init__(self):
        self.answers = True

    def ends(self, partitions, _):
        return dict.fromkeys(self.partitions(0) and partitions, 0)

    def partitions(self, _):
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
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

    reader.answers = False
    monitor.look()
    now += 5
    monitor.look()
    now += 2

    assert monitor.seconds_without_answer == 7


def test_an_answer_ends_the_silence(monitor, reader):
    reader.answers = False
    monitor.look()
    reader.answers = True

    monitor.look()

    assert monitor.seconds_without_answer == 0
