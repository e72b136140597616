from io import BytesIO

import numpy as np
import pytest
from fastavro import parse_schema, schemaless_writer, validate

import schemas
from producer_sim.events import TransactionWriter, event_times
from producer_sim.labels import (
    Exactly,
    Exponential,
    LabelWriter,
    Lognormal,
    Shared,
    Within,
    fraud_labels,
    parse_law,
)

DAY = 86_400_000_000


def test_every_fraud_is_labelled_once_and_nothing_else_is(payments):
    """A label says fraud: the genuine get none."""
    labels = fraud_labels(payments, Exactly(7), seed=0)

    assert sorted(labels.row.tolist()) == np.flatnonzero(payments.scenario).tolist()


def test_exactly_n_days_means_to_the_second(payments):
    """The label of a fraud is published N days after it."""
    labels = fraud_labels(payments, Exactly(7), seed=0)

    assert (labels.published_at - event_times(payments)[labels.row] == 7 * DAY).all()


def test_exponential_delays_have_their_mean_and_shape(payments):
    """The mean is as asked, and half of the labels are out after log(2) of it."""
    labels = fraud_labels(payments, Exponential(7), seed=0)
    days = (labels.published_at - event_times(payments)[labels.row]) / DAY

    assert days.min() > 0
    assert days.mean() == pytest.approx(7, rel=0.03)
    assert np.median(days) == pytest.approx(7 * np.log(2), rel=0.03)


def test_an_exponential_delay_belongs_to_seed_and_row(payments):
    """The same seed gives the same delays, another seed others."""
    first, again, other = (
        fraud_labels(payments, Exponential(7), seed).published_at for seed in (3, 3, 4)
    )

    assert (first == again).all()
    assert (first != other).mean() > 0.99


def test_within_a_time_any_moment_is_as_likely(payments):
    """Delays are spread evenly up to the time, and none is longer."""
    labels = fraud_labels(payments, Within(2), seed=0)
    days = (labels.published_at - event_times(payments)[labels.row]) / DAY

    assert days.min() > 0
    assert days.max() <= 2
    assert np.quantile(days, [0.25, 0.5, 0.75]) == pytest.approx([0.5, 1.0, 1.5], abs=0.03)


def test_lognormal_delays_have_their_median_and_95th_percentile(payments):
    """Those two numbers are the law, and its logarithms lie symmetrically around the median."""
    labels = fraud_labels(payments, Lognormal(14, 60), seed=0)
    days = (labels.published_at - event_times(payments)[labels.row]) / DAY

    assert np.quantile(days, [0.05, 0.5, 0.95]) == pytest.approx([14 * 14 / 60, 14, 60], rel=0.05)


def test_a_share_follows_one_law_and_the_others_another(payments):
    """Two fifths are out within a day; of the others as many as their own law says."""
    labels = fraud_labels(payments, Shared(0.4, Within(1), Lognormal(14, 60)), seed=0)
    days = (labels.published_at - event_times(payments)[labels.row]) / DAY

    assert (days <= 1).mean() == pytest.approx(0.4, abs=0.02)
    assert np.median(days[days > 1]) == pytest.approx(14, rel=0.06)


def test_a_share_of_the_rest_is_drawn_anew(payments):
    """Half at once and half of the rest after a day leaves a quarter, not none."""
    law = parse_law("50%:exactly:1d+50%:exactly:2d+exactly:3d")
    labels = fraud_labels(payments, law, seed=0)
    days = (labels.published_at - event_times(payments)[labels.row]) // DAY

    assert np.bincount(days)[1:] / len(labels) == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


@pytest.mark.parametrize(
    "law",
    [
        *(law(days) for law in (Exactly, Within, Exponential) for days in (7, 1e-9)),
        Lognormal(14, 60),
        Lognormal(1e-9, 2e-9),
        Shared(0.4, Within(1), Lognormal(14, 60)),
    ],
    ids=str,
)
def test_labels_are_in_order_of_publishing_and_after_their_payments(payments, law):
    """However short the delay, no label is out before its own payment."""
    labels = fraud_labels(payments, law, seed=0)

    assert (np.diff(labels.published_at) >= 0).all()
    assert (labels.published_at > event_times(payments)[labels.row]).all()


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("exactly:7d", Exactly(7)),
        ("exactly:0.5d", Exactly(0.5)),
        ("exponential:21d", Exponential(21)),
        ("within:1d", Within(1)),
        ("lognormal:14d:60d", Lognormal(14, 60)),
        ("40%:within:1d+lognormal:14d:60d", Shared(0.4, Within(1), Lognormal(14, 60))),
        (
            "12.5%:exactly:1d+50%:within:2d+exponential:3d",
            Shared(0.125, Exactly(1), Shared(0.5, Within(2), Exponential(3))),
        ),
    ],
)
def test_a_delay_law_is_read(text, law):
    """A law is a name and its days; a share goes before the law it is of."""
    assert parse_law(text) == law


@pytest.mark.parametrize(
    "text", ["", "7d", "exactly", "exactly:7", "exactly:0d", "exactly:-1d", "normal:7d",
             "exactly:7d ", "exponential:99999d", "lognormal:14d", "lognormal:60d:14d",
             "lognormal:0d:1d", "within:0d", "exactly:1d+exactly:2d", "40%:exactly:1d",
             "0%:exactly:1d+exactly:2d", "100%:exactly:1d+exactly:2d", "40%:+exactly:2d",
             "40%:normal:1d+exactly:2d"]
)  # fmt: skip
def test_what_is_not_a_delay_law_is_refused(text):
    """The message says what to write; a delay of 0 would publish a label before its payment."""
    with pytest.raises(ValueError, match="is not a delay law: write exactly:7d"):
        parse_law(text)


def test_a_label_is_valid_and_repeats_its_payment(payments):
    """A label fits the schema and needs no join: card, terminal, time and amount are copied."""
    labels = fraud_labels(payments, Exactly(7), seed=0)
    places = np.arange(0, len(labels), 50)
    writer = LabelWriter(payments, labels, seed=0)
    schema = parse_schema(schemas.load("label"))
    transactions = TransactionWriter(payments, seed=0).records(labels.row[places])

    for label, transaction in zip(writer.records(places), transactions, strict=True):
        validate(label, schema)
        copied = label.keys() & transaction.keys()
        assert copied >= {"event_id", "transaction_id", "card_id", "terminal_id", "event_time"}
        assert {name: label[name] for name in copied} == {
            name: transaction[name] for name in copied
        }
        assert (label["verdict"], label["source"]) == ("FRAUD", "SIMULATOR")
        assert label["reported_at"] == label["published_at"]


def test_a_labels_value_is_its_record_and_its_key_the_terminal(payments):
    """Labels of one terminal share a partition."""
    labels = fraud_labels(payments, Exactly(7), seed=0)
    places = np.arange(5)
    writer = LabelWriter(payments, labels, seed=0)
    body = BytesIO()
    [record, *_] = writer.records(places)
    schemaless_writer(body, parse_schema(schemas.load("label")), record)

    assert writer.values(places)[0] == (
        schemas.single_object_header(schemas.load("label")) + body.getvalue()
    )
    assert writer.keys(places)[0] == record["terminal_id"].encode()


def test_a_label_names_its_scenario(payments):
    """The scenario goes into the label alone, as text, with the kind of fraud it plays."""
    labels = fraud_labels(payments, Exactly(7), seed=0)
    records = LabelWriter(payments, labels, seed=0).records(np.arange(len(labels)))

    assert {(record["scenario"], record["fraud_type"]) for record in records} == {
        ("1", "STOLEN"),
        ("2", "COUNTERFEIT"),
        ("3", "CARD_NOT_PRESENT"),
    }
    assert [int(record["scenario"]) for record in records] == payments.scenario[labels.row].tolist()
