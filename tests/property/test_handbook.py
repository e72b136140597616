"""The Handbook's data streamed through the consumer's steps, against the book's batch rules."""

import os

import numpy as np
import pytest

import schemas
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import HANDBOOK_1
from consumer.core.features import FeatureStep
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from producer_sim import handbook
from producer_sim.events import TransactionWriter, event_times
from producer_sim.labels import Exactly, LabelWriter, fraud_labels
from tests.builders import DAY, records_of
from tests.property.handbook_reference import reference

SLOW = os.environ.get("FRAUDSTREAM_SLOW") == "1"
ALL_ROWS = 1_754_155
LONGEST_DAYS = 37
QUICK_DAYS = 44  # a week with every window full


def first_days(payments: handbook.Payments, days: int) -> handbook.Payments:
    end = int(np.searchsorted(payments.second, days * handbook.DAY_SECONDS))
    return handbook.Payments(**{name: column[:end] for name, column in payments.columns().items()})


def streamed(payments: handbook.Payments, seed: int = 0) -> np.ndarray:
    """
    Return the rows that the consumer would score: records decoded in batches of many sizes, each
    label folded in when its time has come, exactly 7 days after its payment.
    """
    rng = np.random.default_rng(seed)
    writer, times = TransactionWriter(payments, seed), event_times(payments)
    labels = fraud_labels(payments, Exactly(7), seed)
    label_writer = LabelWriter(payments, labels, seed)
    decoder = PaymentDecoder([schemas.load("transaction")])
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
    state = VelocityState(HANDBOOK_1.plan, grace=DAY, alert_window=DAY)
    state.begin(0)
    step = FeatureStep(HANDBOOK_1, state, frauds)
    rows = np.empty((len(payments), len(HANDBOOK_1.names)), np.float32)
    begin, known = 0, 0
    while begin < len(payments):
        chosen = np.arange(begin, min(begin + int(rng.integers(1, 10_000)), len(payments)))
        due = int(np.searchsorted(labels.published_at, times[chosen[-1]], side="right"))
        values = label_writer.values(np.arange(known, due))
        frauds.add(values, [0] * len(values))
        events, refused = decoder.decode(records_of(writer.values(chosen), writer.keys(chosen)))
        assert len(refused.rows) == 0
        _, measured = step.measure(events)
        rows[chosen] = measured.values
        state.settle()
        begin, known = begin + len(chosen), due
    return rows


@pytest.fixture(scope="module")
def payments() -> handbook.Payments:
    return handbook.load() if SLOW else first_days(handbook.load(), QUICK_DAYS)


def test_streamed_features_are_the_book_s(payments):
    """
    All 15 on every row, within the rounding of float32; the whole data set in the slow suite.

    Ties of a second need no exception: both sides place them as they come in the log.
    """
    expected = reference(payments)

    found = streamed(payments)

    assert len(payments) == ALL_ROWS or not SLOW
    assert payments.second[-1] > LONGEST_DAYS * handbook.DAY_SECONDS
    for column, name in enumerate(HANDBOOK_1.names):
        np.testing.assert_allclose(
            found[:, column], expected[:, column], rtol=1e-6, atol=0, err_msg=name
        )
    assert (expected != 0).any(axis=0).all(), "a column that is 0 everywhere proves nothing"
