import pytest

from consumer.core.batching import BatchControl


def test_the_first_batch_is_not_waited_for():
    """Nothing is known yet, so nothing is lost by going at once."""
    assert BatchControl(100, 0.01).wait_seconds == 0


@pytest.mark.parametrize(("took", "wait"), [(0.0, 0.0), (0.004, 0.001), (0.04, 0.01), (10, 0.01)])
def test_a_batch_is_let_grow_for_a_quarter_of_the_time_that_the_last_one_took(took, wait):
    """And for no longer than `batch.max_wait`."""
    control = BatchControl(100, 0.01)

    control.finished(took)

    assert control.wait_seconds == pytest.approx(wait)


def test_only_the_last_batch_counts():
    """A slow one is forgotten with the next quick one."""
    control = BatchControl(100, 0.01)
    control.finished(10)

    control.finished(0.0)

    assert control.wait_seconds == 0
