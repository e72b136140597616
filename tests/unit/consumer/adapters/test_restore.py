import pytest
from confluent_kafka import Message
from prometheus_client import CollectorRegistry

import schemas
from consumer.adapters.restore import StateRestorer
from consumer.core.decode import PaymentDecoder
from consumer.core.state import VelocityState
from consumer.telemetry import Telemetry
from tests.builders import DAY, encoded, payment

HOUR = DAY // 24
LENGTH = 5_000


class FakeReader:
    """A log of one payment an hour, each record made in the minute of its payment."""

    topic = "transactions.raw"

    def __init__(self, strangers):
        """`strangers` are event times, by offset, that stand in place of the regular ones."""
        self._strangers = strangers

    def beginnings(self, partitions, _):
        return dict.fromkeys(partitions, 0)

    def read(self, partition, offset, count):
        return [self._message(at) for at in range(offset, min(offset + count, LENGTH))]

    def _message(self, offset):
        regular = payment()["event_time"] + offset * HOUR
        fields = payment(event_time=self._strangers.get(offset, regular))
        value, key = encoded("transaction", fields), fields["card_id"].encode()
        return Message(self.topic, 0, offset, key=key, value=value, timestamp=(1, regular // 1_000))


def plan_of(strangers):
    telemetry = Telemetry(CollectorRegistry(), "group", FakeReader.topic)
    state = VelocityState({"card": (30 * DAY,)}, grace=DAY, alert_window=DAY)
    decoder = PaymentDecoder([schemas.load("transaction")])
    return StateRestorer(FakeReader(strangers), decoder, state, telemetry).plan(0, LENGTH)


def test_the_plan_reaches_back_over_windows_and_grace():
    """By the event times of the records themselves; one sample's width is not looked at."""
    reach = (30 + 2) * 24

    assert LENGTH - reach - 200 < plan_of({}).start <= LENGTH - reach


@pytest.mark.parametrize("offset", [LENGTH - 1, LENGTH - 50, LENGTH - 900])
def test_a_payment_from_the_future_hides_no_history(offset):
    """It is refused, so it says nothing of how far the log is; one record less is an hour less."""
    plan = plan_of({offset: payment()["event_time"] + 20_000 * DAY})

    assert plan_of({}).start - 1 <= plan.start <= plan_of({}).start
