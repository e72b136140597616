import numpy as np
import pytest

from consumer.core.letter_limits import LetterLimits
from consumer.records import Refused, Status
from tests.builders import records_of

GOOD, BAD, TOMBSTONE = ".", "x", "t"


def count(limits, outcomes, **columns):
    """Count a batch: `.` is scored, `x` a dead letter, `t` a tombstone."""
    rows = [row for row, outcome in enumerate(outcomes) if outcome != GOOD]
    statuses = [Status.TOMBSTONE if outcomes[row] == TOMBSTONE else Status.DECODE for row in rows]
    refused = Refused(np.array(rows, np.intp), np.array(statuses, np.int8))
    return limits.count(records_of([b"v"] * len(outcomes), **columns), refused)


@pytest.mark.parametrize(
    ("batches", "reached"),
    [
        (["xxx"], True),
        (["xx"], False),
        (["xx", "x"], True),
        (["xx", ".x"], False),
        (["xx", "x."], True),
        (["..xxx.."], True),
        (["xx.xx", "."], False),
        (["xx.xx", "x"], True),
        (["x", "t", "x", "tt", "x"], True),
        (["x", "", "x", "x"], True),
    ],
)
def test_dead_letters_in_a_row_are_counted_over_batches(batches, reached):
    """Where batches are cut changes nothing; tombstones are neither good nor bad."""
    limits = LetterLimits(3, 1.0, 1_000)

    found = [count(limits, batch) for batch in batches]

    assert found[:-1] == [{}] * (len(batches) - 1)
    assert found[-1] == ({0: "consecutive"} if reached else {})


@pytest.mark.parametrize(
    ("batches", "reached"),
    [(["x.x.x..."], False), (["x.x.xx.."], False), (["x.xx.xx."], True), (["x.xx", ".xx."], True)],
)
def test_the_share_is_taken_of_each_so_many_records(batches, reached):
    """Half of eight, and not more, is the most."""
    limits = LetterLimits(0, 0.5, 8)

    found = [count(limits, batch) for batch in batches]

    assert found[-1] == ({0: "ratio"} if reached else {})


def test_a_share_is_of_its_own_stretch_alone():
    """Good hours of yesterday hide nothing."""
    limits = LetterLimits(0, 0.5, 4)

    assert [count(limits, batch) for batch in ("....", "....", "x.xx")] == [{}, {}, {0: "ratio"}]


def test_partitions_are_counted_apart():
    """One of them may be good."""
    limits = LetterLimits(2, 1.0, 1_000)

    found = count(limits, "x.x.", partitions=[1, 0, 1, 0])

    assert found == {1: "consecutive"}


def test_replayed_records_were_counted_before():
    """By whoever published them."""
    assert count(LetterLimits(2, 0.1, 2), "xxxx", live=False) == {}


def test_a_partition_that_is_resumed_begins_from_nothing():
    """Else its next dead letter would pause it again."""
    limits = LetterLimits(2, 1.0, 1_000)
    count(limits, "xx")
    assert count(limits, "x") == {0: "consecutive"}

    limits.forget(0)

    assert count(limits, "x") == {}
    assert count(limits, "x") == {0: "consecutive"}


def test_no_limit_is_none():
    """0 in a row, and a share of 1."""
    assert count(LetterLimits(0, 1.0, 1), "x" * 10_000) == {}
