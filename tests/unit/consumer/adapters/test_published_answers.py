import numpy as np
import pytest
from confluent_kafka import Message

from consumer.adapters.published_answers import PublishedAnswers
from tests.builders import JANUARY, encoded, payment

RANGES = {0: (100, 104), 3: (0, 2)}


def prediction(partition, offset, decision="APPROVE", *codes, **overrides):
    """Return a message that holds the prediction of the payment at this place."""
    paid = payment()
    fields = {name: paid[name] for name in ("event_id", "transaction_id", "card_id", "terminal_id")}
    fields |= {
        "event_time": JANUARY, "scored_at": JANUARY, "model_name": "fixed", "model_version": "v1",
        "feature_set": "arrival-1", "probability": offset / 1_000, "score": 1,
        "decision": decision, "source_topic": "payments", "source_partition": partition,
        "source_offset": offset,
        "reasons": [{"code": code, "contribution": 1.0, "value": None} for code in codes],
    }  # fmt: skip
    return Message("scored", 0, 0, value=encoded("prediction", fields | overrides))


@pytest.fixture
def answers():
    return PublishedAnswers("payments", RANGES)


def test_an_answer_is_found_by_the_place_of_its_payment(answers):
    """In the order asked for, with its strongest reason; 0 is for one that is not there."""
    answers.add([prediction(3, 1, "CHALLENGE"), prediction(0, 102, "REVIEW", "R21", "R01")])

    found = answers.of(0, np.array([103, 102]))

    assert found.decisions.tolist() == [0, 3]
    assert found.probabilities.tolist() == [0, 0.102]
    assert found.reasons.tolist() == [b"", b"R21"]
    assert answers.of(3, np.array([1])).decisions.tolist() == [2]


def test_what_lies_outside_or_comes_from_elsewhere_is_passed_over(answers):
    """Other offsets, other partitions, another topic, and what is no prediction."""
    answers.add(
        [
            prediction(0, 99), prediction(0, 104), prediction(1, 100),
            prediction(0, 100, source_topic="others"), Message("scored", 0, 0, value=b"rubbish"),
            Message("scored", 0, 0, value=None),
        ]
    )  # fmt: skip

    assert answers.of(0, np.array([100, 101, 102, 103])).decisions.tolist() == [0] * 4
    assert answers.models == {}


def test_a_prediction_published_twice_counts_once(answers):
    """As at-least-once may; each model is told with how many it made."""
    answers.add([prediction(0, 100), prediction(0, 101, model_version="v2")])
    answers.add([prediction(0, 100)])

    assert answers.models == {"fixed v1": 1, "fixed v2": 1}
