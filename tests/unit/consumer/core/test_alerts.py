import uuid

import numpy as np
import pytest

from consumer.core.alerts import ALERT_NAMESPACE, AlertEncoder, alert_id
from consumer.core.batch import Rows
from consumer.core.decide import Explainer, Policy, decide
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.manifest import ModelIdentity
from consumer.core.state import VelocityState
from tests.builders import DAY, JANUARY, decoded, encoded, events_of, payment
from tests.fakes import FixedModel

WIDTH = len(ARRIVAL_1.names)
IDENTITY = ModelIdentity("tiny", "abc123", "arrival-1", WIDTH, "tiny-abc123")
POLICY = Policy("tiny-abc123", challenge=0.2, review=0.4, decline=0.9)
MODEL = FixedModel(lambda row: float(row[0]))
EXPLAINER = Explainer(ARRIVAL_1, np.zeros(WIDTH, np.float32))


class Desk:
    """An encoder and a state of two partitions, one fresh for each test."""

    def __init__(self, window=DAY):
        self.state = VelocityState(ARRIVAL_1.plan, grace=DAY, alert_window=window)
        self.state.begin(0)
        self.state.begin(1)
        self.encoder = AlertEncoder("fraud.alerts", "transactions.raw", IDENTITY, window)

    def raise_alerts(self, payments, probabilities, **columns):
        events = events_of(payments, **columns)
        velocity = self.state.observe(events, np.ones(len(events), np.bool_))
        rows = np.zeros((len(payments), WIDTH), np.float32)
        rows[:, 0] = probabilities
        decisions = decide(rows, MODEL.score(rows), POLICY, EXPLAINER, MODEL)
        rows = Rows(rows, velocity.late, velocity.cold, velocity.hot)
        replayed = np.zeros(len(decisions.flagged), np.bool_)
        return self.encoder.raise_alerts(events, rows, decisions, self.state, replayed)


def alerts_in(raised):
    return [decoded("alert", value) for value in raised.outputs.values]


def micros(time):
    return round(time.timestamp() * 1_000_000)


def paid(k, at=0, card="card", **overrides):
    return payment(k, event_time=JANUARY + at, card_id=card, **overrides)


def test_every_field_of_an_alert_is_what_the_payment_said():
    """All of them, read back by fastavro."""
    first = paid(5, at=12 * 3_600 * 1_000_000, card="kártya", amount_minor=4_321, currency="HUF")

    raised = Desk().raise_alerts([first], [0.75], partitions=1, offsets=[2**40])

    [alert] = alerts_in(raised)
    times = {name: micros(alert.pop(name)) - JANUARY for name in
             ("window_start", "opened_at", "updated_at", "expires_at")}  # fmt: skip
    assert times == {
        "window_start": 0, "opened_at": DAY // 2, "updated_at": DAY // 2, "expires_at": DAY,
    }  # fmt: skip
    [reason] = alert.pop("reasons")
    assert (reason["code"], reason["value"]) == ("R01", 0.75)
    assert alert.pop("alert_id") == uuid.uuid5(ALERT_NAMESPACE, f"CARD_COMPROMISE:kártya:{JANUARY}")
    assert alert == {
        "kind": "CARD_COMPROMISE",
        "status": "OPENED",
        "subject_id": "kártya",
        "severity": 2,
        "event_ids": [first["event_id"]],
        "max_score": 749,
        "events": 1,
        "amount_minor": 4_321,
        "currency": "HUF",
        "sequence": 1,
        "model_name": "tiny",
        "model_version": "abc123",
        "source_topic": "transactions.raw",
        "source_partition": 1,
        "source_offset": 2**40,
    }


def test_an_alert_is_keyed_by_its_card():
    """So that all alerts of a card are in one partition."""
    raised = Desk().raise_alerts([paid(0, card="card-9")], [0.9])

    assert raised.outputs.topic == "fraud.alerts"
    assert raised.outputs.keys == [b"card-9"]


@pytest.mark.parametrize(
    ("score", "severity"),
    [(999, 1), (900, 1), (899, 2), (700, 2), (699, 3), (400, 3), (399, 4), (1, 4)],
)
def test_severity_follows_the_score(score, severity):
    """1 is the highest."""
    desk = Desk()
    everything = Policy("p", challenge=0.0, review=0.0, decline=1.0)
    rows = np.zeros((1, WIDTH), np.float32)
    probabilities = np.array([(score - 0.5) / 998])
    decisions = decide(rows, probabilities, everything, EXPLAINER, MODEL)

    in_time = Rows(rows, *np.zeros((3, 1), np.bool_))
    raised = desk.encoder.raise_alerts(
        events_of([paid(0)]), in_time, decisions, desk.state, np.zeros(1, np.bool_)
    )

    assert decisions.scores.tolist() == [score]
    assert list(raised.severities) == [severity]
    assert alerts_in(raised)[0]["severity"] == severity


def test_below_the_review_threshold_nobody_is_alerted():
    """A challenge is between the card and its holder."""
    raised = Desk().raise_alerts([paid(0), paid(1, card="other")], [0.39, 0.0])

    assert len(raised.outputs) == 0
    assert list(raised.severities) == []


def test_a_card_has_one_alert_in_a_window():
    """Of its first flagged payment; the next day has one of its own."""
    payments = [paid(k, at=at) for k, at in enumerate((0, 5, DAY - 1, DAY, DAY + 1))]

    raised = Desk().raise_alerts(payments, [0.3, 0.9, 0.95, 0.5, 0.99])

    assert [alert["event_ids"] for alert in alerts_in(raised)] == [
        [payments[1]["event_id"]], [payments[3]["event_id"]],
    ]  # fmt: skip


def test_alerts_of_several_cards_come_in_log_order():
    """Each with what belongs to it."""
    payments = [paid(k, card=f"card-{k}", amount_minor=100 + k) for k in range(6)]
    probabilities = [0.9, 0.1, 0.5, 0.45, 0.2, 0.99]

    raised = Desk().raise_alerts(payments, probabilities, offsets=range(20, 26))

    alerts = alerts_in(raised)
    assert [alert["subject_id"] for alert in alerts] == ["card-0", "card-2", "card-3", "card-5"]
    assert [alert["source_offset"] for alert in alerts] == [20, 22, 23, 25]
    assert [alert["amount_minor"] for alert in alerts] == [100, 102, 103, 105]
    assert [alert["max_score"] for alert in alerts] == [
        1 + int(998 * p) for p in (0.9, 0.5, 0.45, 0.99)
    ]
    assert [round(alert["reasons"][0]["value"], 6) for alert in alerts] == [0.9, 0.5, 0.45, 0.99]


@pytest.mark.parametrize("live", [False, True])
def test_a_replayed_alert_is_remembered_and_not_written(live):
    """It suppresses the next one as it did before."""
    desk = Desk()

    raised = desk.raise_alerts([paid(0), paid(1, at=1)], [0.9, 0.9], live=[live, True])

    assert len(raised.outputs) == (1 if live else 0)


def test_an_alert_that_was_rolled_back_is_raised_again():
    """Nothing of it was published."""
    desk = Desk()
    before = desk.raise_alerts([paid(0)], [0.9])
    desk.state.roll_back()

    again = desk.raise_alerts([paid(0)], [0.9])

    assert again.outputs.values == before.outputs.values


def test_windows_are_as_long_as_configured():
    """An hour here."""
    hour = DAY // 24
    raised = Desk(window=hour).raise_alerts(
        [paid(0), paid(1, at=hour - 1), paid(2, at=hour)], [0.9] * 3
    )

    starts = [micros(alert["window_start"]) - JANUARY for alert in alerts_in(raised)]
    ends = [micros(alert["expires_at"]) - JANUARY for alert in alerts_in(raised)]
    assert starts == [0, hour]
    assert ends == [hour, 2 * hour]


@pytest.mark.parametrize("subject", ["card", "", "kártya €", "x" * 256])
@pytest.mark.parametrize("start", [0, JANUARY, 2**62])
def test_an_alert_id_is_a_uuid_5_of_what_the_alert_is_about(subject, start):
    """The same in every replay, by every instance."""
    expected = uuid.uuid5(ALERT_NAMESPACE, f"CARD_COMPROMISE:{subject}:{start}")

    assert alert_id("CARD_COMPROMISE", subject.encode(), start) == str(expected)


def test_an_alert_is_what_fastavro_would_have_written():
    """Byte for byte."""
    raised = Desk().raise_alerts([paid(0), paid(1, card="b", amount_minor=10**13)], [0.9, 0.5])

    assert [encoded("alert", alert) for alert in alerts_in(raised)] == raised.outputs.values


def test_an_empty_batch_raises_nothing():
    """No events, no alerts."""
    assert len(Desk().raise_alerts([], []).outputs) == 0
