import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer_sim.timeline import FOREVER, Lane, Position, Timeline


def lane(times: list[int]) -> Lane:
    return Lane(np.arange(len(times)), np.array(times, np.int64))


def walk(timeline: Timeline, horizon: int, payments_max: int) -> list[tuple[str, int]]:
    """Publish on paper: what goes out, in order."""
    out: list[tuple[str, int]] = []
    at = Position(0, 0)
    while (reached := timeline.step(at, horizon, payments_max)) != at:
        out += [("label", t) for t in timeline.labels.times[at.labels : reached.labels].tolist()]
        out += [
            ("payment", t) for t in timeline.payments.times[at.payments : reached.payments].tolist()
        ]
        at = reached
    return out


sorted_times = st.lists(st.integers(0, 30), max_size=30).map(sorted)


@given(sorted_times, sorted_times, st.integers(1, 5))
def test_everything_goes_out_once_merged_by_time_with_labels_first(payments, labels, payments_max):
    """At equal times labels go first: they are known when the payment is made."""
    out = walk(Timeline(lane(payments), lane(labels)), FOREVER, payments_max)

    assert out == sorted(
        [("label", t) for t in labels] + [("payment", t) for t in payments],
        key=lambda record: (record[1], record[0]),
    )


@given(sorted_times, sorted_times, st.integers(0, 30))
def test_nothing_goes_out_before_its_time(payments, labels, horizon):
    """Up to the horizon everything goes out, and nothing that is later."""
    out = walk(Timeline(lane(payments), lane(labels)), horizon, 3)

    due = [t for t in payments + labels if t <= horizon]
    assert sorted(t for _, t in out) == sorted(due)


def test_a_step_takes_the_labels_between_two_payments_together():
    """Labels that no payment parts are acknowledged in one go."""
    timeline = Timeline(lane([10, 20]), lane([11, 12, 13, 25]))

    first = timeline.step(Position(0, 0), FOREVER, 100)

    assert first == Position(1, 0)
    assert timeline.step(first, FOREVER, 100) == Position(2, 3)


def test_without_room_for_payments_due_labels_still_go():
    """Holding payments back holds no label back that is due before them."""
    timeline = Timeline(lane([10, 20]), lane([5, 15]))

    assert timeline.step(Position(0, 0), FOREVER, 0) == Position(0, 1)
    assert timeline.step(Position(0, 1), FOREVER, 0) == Position(0, 1)


def test_a_range_holds_its_start_and_not_its_end():
    """Ranges that share a date publish nothing twice and leave nothing out."""
    whole = lane([1, 2, 2, 3, 4])

    assert whole.between(2, 3).numbers.tolist() == [1, 2]
    assert whole.between(3, FOREVER).numbers.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("at", "expected"), [(Position(0, 0), 7), (Position(1, 0), 9), (Position(1, 1), FOREVER)]
)
def test_the_next_time_is_of_whatever_is_due_next(at, expected):
    """Payments and labels are awaited alike."""
    assert Timeline(lane([7]), lane([9])).next_time(at) == expected
