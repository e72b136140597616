from dataclasses import replace

import numpy as np
import pytest

import schemas
from consumer.core.batch import LabelsKnown, Rows
from consumer.core.decide import Explainer, Policy, decide
from consumer.core.encode import PredictionEncoder
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.manifest import ModelIdentity
from consumer.core.symbols import DECISIONS
from tests.builders import JANUARY, decoded, encoded, events_of, payment
from tests.fakes import FixedModel

WIDTH = len(ARRIVAL_1.names)
IDENTITY = ModelIdentity("tiny", "abc123", "arrival-1", WIDTH, "tiny-abc123")
ENCODER = PredictionEncoder("transactions.scored", "transactions.raw", IDENTITY)
POLICY = Policy("tiny-abc123", challenge=0.2, review=0.5, decline=0.9)
SCORED_AT = JANUARY + 123_456
LABELS = LabelsKnown((7, 9), stale=False)


def rows_of(values, *, late=False, cold=False, hot=False):
    n = len(values)
    return Rows(
        np.array(values, np.float32).reshape(n, WIDTH),
        *(np.broadcast_to(np.asarray(flag, np.bool_), n) for flag in (late, cold, hot)),
    )


def features_of(probabilities):
    """Return rows whose first feature is the probability that `MODEL` gives them."""
    rows = np.random.default_rng(0).gamma(1, 5, (len(probabilities), WIDTH)).astype(np.float32)
    rows[:, 0] = probabilities
    return rows


MODEL = FixedModel(lambda row: float(row[0]))
EXPLAINER = Explainer(ARRIVAL_1, np.full(WIDTH, 0.01, np.float32))


def encode(payments, probabilities, *, labels=LABELS, flags=(), **columns):
    """Return the batch's outputs, and what was put into them."""
    events = events_of(payments, **columns)
    rows = rows_of(features_of(probabilities), **dict(flags))
    scores = MODEL.score(rows.values)
    decisions = decide(rows.values, scores, POLICY, EXPLAINER, MODEL)
    keys = [b"key-%d" % k for k in range(len(payments))]
    outputs = ENCODER.encode(events, rows, decisions, labels, keys, SCORED_AT)
    return outputs, rows, decisions


def predictions(outputs):
    return [decoded("prediction", value) for value in outputs.values]


def micros(time):
    return round(time.timestamp() * 1_000_000)


def test_every_field_of_a_prediction_is_what_the_steps_said():
    """All twenty of them, read back by fastavro."""
    paid = payment(
        5, terminal_id="término €", currency="JPY", event_time=JANUARY + 1, card_id="\U0001f4b3"
    )

    outputs, rows, decisions = encode([paid], [0.25], partitions=3, offsets=[2**40])

    [prediction] = predictions(outputs)
    assert micros(prediction.pop("event_time")) == JANUARY + 1
    assert micros(prediction.pop("scored_at")) == SCORED_AT
    assert str(prediction.pop("event_id")) == paid["event_id"]
    assert prediction == {
        "transaction_id": "payment-5",
        "card_id": "\U0001f4b3",
        "terminal_id": "término €",
        "model_name": "tiny",
        "model_version": "abc123",
        "feature_set": "arrival-1",
        "probability": 0.25,
        "score": int(decisions.scores[0]),
        "decision": "CHALLENGE",
        "policy_version": "tiny-abc123",
        "reasons": [],
        "features": rows.values[0].tolist(),
        "degraded": [],
        "source_topic": "transactions.raw",
        "source_partition": 3,
        "source_offset": 2**40,
        "label_offsets": [7, 9],
    }


def test_no_field_of_the_schema_is_left_out():
    """A new field needs a source before it can be written."""
    outputs, _, _ = encode([payment()], [0.1])

    names = {part["name"] for part in schemas.load("prediction")["fields"]}
    assert set(predictions(outputs)[0]) == names
    assert len(names) == 20


def test_predictions_come_in_log_order_with_their_columns():
    """Row by row, whatever lies between them in the batch."""
    probabilities = [0.0, 0.2, 0.5, 0.9, 1.0, 0.95, 0.1]
    payments = [payment(k, event_time=JANUARY + k) for k in range(7)]

    outputs, rows, decisions = encode(payments, probabilities, offsets=range(10, 17))

    found = predictions(outputs)
    assert outputs.topic == "transactions.scored"
    assert outputs.keys == [b"key-%d" % k for k in range(7)]
    assert [each["transaction_id"] for each in found] == [f"payment-{k}" for k in range(7)]
    assert [each["source_offset"] for each in found] == list(range(10, 17))
    assert [each["probability"] for each in found] == rows.values[:, 0].astype(float).tolist()
    assert [each["score"] for each in found] == decisions.scores.tolist()
    assert [each["decision"] for each in found] == [DECISIONS[d] for d in decisions.decisions]
    assert [each["features"] for each in found] == rows.values.tolist()


def test_what_is_flagged_carries_its_reasons_and_nothing_else_does():
    """As many as there are, strongest first, with the value to show."""
    outputs, rows, decisions = encode([payment(k) for k in range(3)], [0.9, 0.4, 0.6])

    found = predictions(outputs)
    contributions = decisions.reasons.contributions.astype(np.float32)[:, 0].tolist()
    amounts = rows.values[:, 0].tolist()
    assert [each["reasons"] for each in found] == [
        [{"code": "R01", "contribution": contributions[0], "value": amounts[0]}],
        [],
        [{"code": "R01", "contribution": contributions[1], "value": amounts[2]}],
    ]  # fmt: skip


def test_up_to_four_reasons_are_written():
    """A batch holds predictions with none, some and the most."""
    model = FixedModel(lambda row: min(0.99, 0.1 * np.count_nonzero(row[[0, 1, 3, 4, 9]])))
    values = np.zeros((6, WIDTH), np.float32)
    for k, column in enumerate((0, 1, 3, 4, 9)):
        values[k + 1 :, column] = 5
    rows = rows_of(values)
    explainer = Explainer(ARRIVAL_1, np.zeros(WIDTH, np.float32))
    decisions = decide(
        values,
        model.score(values),
        Policy("p", challenge=0.0, review=0.0, decline=1.0),
        explainer,
        model,
    )
    events = events_of([payment(k) for k in range(6)])

    outputs = ENCODER.encode(events, rows, decisions, LABELS, [b""] * 6, 0)

    reasons = [each["reasons"] for each in predictions(outputs)]
    assert [len(each) for each in reasons] == [0, 1, 2, 3, 4, 4]
    for each in reasons:
        strengths = [reason["contribution"] for reason in each]
        assert strengths == sorted(strengths, reverse=True)
        assert {reason["value"] for reason in each} <= {0.0, 5.0}


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("hot", [False, True])
def test_what_was_missing_is_told_in_every_combination(cold, stale, late, hot):
    """In the order that the schema names them."""
    outputs, _, _ = encode(
        [payment()], [0.1], flags={"cold": cold, "late": late, "hot": hot},
        labels=LabelsKnown((1,), stale=stale),
    )  # fmt: skip

    words = {"STATE_COLD": cold, "LABELS_STALE": stale, "LATE_EVENT": late, "HOT_KEY": hot}
    expected = [word for word, told in words.items() if told]
    assert predictions(outputs)[0]["degraded"] == expected


def test_what_was_missing_is_told_row_by_row():
    """Only the labels are the batch's."""
    outputs, _, _ = encode(
        [payment(k) for k in range(3)], [0.1] * 3,
        flags={"cold": [True, False, False], "late": [True, True, False], "hot": [0, 1, 0]},
    )  # fmt: skip

    assert [each["degraded"] for each in predictions(outputs)] == [
        ["STATE_COLD", "LATE_EVENT"], ["LATE_EVENT", "HOT_KEY"], [],
    ]  # fmt: skip


@pytest.mark.parametrize("offsets", [(), (0,), (2**40, 0, 5)])
def test_the_label_offsets_read_so_far_are_evidence(offsets):
    """In the order of the label topic's partitions; none where it has none yet."""
    outputs, _, _ = encode([payment()], [0.1], labels=LabelsKnown(offsets, stale=False))

    assert predictions(outputs)[0]["label_offsets"] == list(offsets)


@pytest.mark.parametrize(
    "live", [[True] * 4, [False] * 4, [False, False, True, True], [True, False, True, False]]
)
def test_only_live_events_are_predicted(live):
    """With their own keys: replayed ones were published before."""
    whole, _, _ = encode([payment(k) for k in range(4)], [0.1, 0.95, 0.6, 0.2])

    outputs, _, _ = encode([payment(k) for k in range(4)], [0.1, 0.95, 0.6, 0.2], live=live)

    kept = [k for k in range(4) if live[k]]
    assert list(outputs.values) == [whole.values[k] for k in kept]
    assert list(outputs.keys) == [b"key-%d" % k for k in kept]


def test_keys_are_those_of_the_events_own_records():
    """Refused records stand between them, with keys of their own."""
    events = events_of([payment(k) for k in range(3)])
    rows = rows_of(features_of([0.1] * 3))
    decisions = decide(rows.values, MODEL.score(rows.values), POLICY, EXPLAINER, MODEL)
    apart = replace(events, rows=np.array([0, 2, 5]))

    outputs = ENCODER.encode(apart, rows, decisions, LABELS, [b"%d" % k for k in range(6)], 0)

    assert list(outputs.keys) == [b"0", b"2", b"5"]


def test_an_empty_batch_gives_no_predictions():
    """And asks nothing of the encoder."""
    outputs, _, _ = encode([], [])

    assert len(outputs) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0, 3.4028235e38])
def test_features_are_written_bit_for_bit(value):
    """The exact float32 vector, so that a replay can be compared with it."""
    rows = rows_of(np.full((1, WIDTH), value))
    decisions = decide(rows.values, np.array([0.1]), POLICY, EXPLAINER, MODEL)

    outputs = ENCODER.encode(events_of([payment()]), rows, decisions, LABELS, [b""], 0)

    found = np.array(predictions(outputs)[0]["features"], np.float32)
    assert found.tobytes() == rows.values.tobytes()


def test_a_prediction_is_what_fastavro_would_have_written():
    """Byte for byte: the canonical form, one block an array."""
    outputs, _, _ = encode([payment(k) for k in range(2)], [0.1, 0.9])

    again = [encoded("prediction", prediction) for prediction in predictions(outputs)]

    assert again == list(outputs.values)
