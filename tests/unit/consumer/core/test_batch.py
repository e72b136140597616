import numpy as np
import pytest

from consumer.core.batch import Degraded
from tests.builders import events_of, payment


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (0, []),
        (1, ["STATE_COLD"]),
        (2, ["LABELS_STALE"]),
        (4, ["LATE_EVENT"]),
        (5, ["STATE_COLD", "LATE_EVENT"]),
        (7, ["STATE_COLD", "LABELS_STALE", "LATE_EVENT"]),
        (8, ["HOT_KEY"]),
        (15, ["STATE_COLD", "LABELS_STALE", "LATE_EVENT", "HOT_KEY"]),
    ],
)
def test_what_was_missing_is_told_in_the_words_of_the_schema(flags, names):
    """In the order of the bits."""
    assert Degraded(flags).names == names


def test_events_are_taken_with_all_their_columns():
    """In the order asked for, over the same bytes."""
    events = events_of([payment(k) for k in range(4)])

    taken = events.take(np.array([3, 1]))

    assert len(taken) == 2
    assert taken.rows.tolist() == [3, 1]
    assert taken.cards.tolist() == events.cards[[3, 1]].tolist()
    assert taken.amounts.tolist() == events.amounts[[3, 1]].tolist()
    assert [taken.text.bytes_of("transaction_id", row) for row in (0, 1)] == [
        b"payment-3", b"payment-1",
    ]  # fmt: skip


def test_no_events_may_be_taken():
    """An empty batch is a batch."""
    assert len(events_of([payment()]).take(np.empty(0, np.intp))) == 0
