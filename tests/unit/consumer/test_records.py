import re

import numpy as np
import pytest

from consumer.core import avro_kernel, validate_kernel
from consumer.records import Outputs, Status, by_partition, last_offsets
from tests.builders import records_of


@pytest.fixture
def records():
    """Five records of two partitions, the first two of them replayed."""
    return records_of(
        [b"a", b"b", b"c", None, b"e"],
        [b"1", None, b"3", b"4", b"5"],
        partitions=[2, 0, 2, 0, 2],
        offsets=[10, 5, 12, 6, 13],
        timestamps=[1, 2, 3, 4, -1],
        live=[False, False, True, False, True],
        headers=[[("h", b"%d" % k)] for k in range(5)],
    )


def test_what_is_committed_is_the_offset_after_the_last_live_record(records):
    """A partition that is still being replayed commits nothing."""
    assert records.next_offsets == {2: 14}


def test_positions_are_of_all_records(records):
    """Where each partition goes on, replayed or not."""
    assert records.positions == {2: 14, 0: 7}


def test_records_can_be_taken_one_by_one(records):
    """Each with its own headers, as a batch of its own."""
    singles = list(records.singly())

    assert [len(one) for one in singles] == [1] * 5
    assert [one.values[0] for one in singles] == records.values
    assert [one.keys[0] for one in singles] == records.keys
    assert [one.headers(0) for one in singles] == [[("h", b"%d" % k)] for k in range(5)]
    assert [one.next_offsets for one in singles] == [{}, {}, {2: 13}, {}, {2: 14}]


def test_no_records_commit_nothing():
    """An empty poll."""
    none = records_of([])

    assert len(none) == 0
    assert none.next_offsets == {}
    assert none.positions == {}
    assert list(none.singly()) == []


def test_the_last_offset_told_of_a_partition_stands():
    """Offsets rise within a partition."""
    assert last_offsets(np.array([1, 0, 1]), np.array([5, 7, 9])) == {1: 9, 0: 7}


def test_rows_are_told_partition_by_partition():
    """In the order they have in the batch."""
    found = {p: rows.tolist() for p, rows in by_partition(np.array([3, 0, 3, 7, 0]))}

    assert found == {0: [1, 4], 3: [0, 2], 7: [3]}


def test_statuses_keep_their_numbers():
    """Kernels know them, and dead letters of older builds hold their words."""
    assert {status.name: status.value for status in Status} == {
        "GOOD": 0, "TOMBSTONE": 1, "OVERSIZE": 2, "FRAMING": 3, "SCHEMA_NOT_ALLOWED": 4,
        "DECODE": 5, "TRAILING": 6, "NOT_FINITE": 7, "ID": 8, "KEY": 9, "TIME": 10, "FUTURE": 11,
        "RANGE": 12, "CARD_NUMBER": 13, "SCORE_INVALID": 14, "POISON": 15,
    }  # fmt: skip


@pytest.mark.parametrize("status", Status)
def test_reasons_are_words_and_stages_a_closed_set(status):
    """Both are metric labels."""
    assert re.fullmatch(r"[a-z_]+", status.reason)
    assert status.stage in {"decode", "validate", "score", "process"}


@pytest.mark.parametrize(
    ("status", "stage"),
    [(Status.NOT_FINITE, "decode"), (Status.ID, "validate"), (Status.CARD_NUMBER, "validate"),
     (Status.SCORE_INVALID, "score"), (Status.POISON, "process")],
)  # fmt: skip
def test_each_status_belongs_to_the_step_that_gives_it(status, stage):
    """The edges between them."""
    assert status.stage == stage


def test_kernels_number_statuses_as_the_records_do():
    """They cannot import an enumeration."""
    for kernel in (avro_kernel, validate_kernel):
        for status in Status:
            assert getattr(kernel, status.name, status) == status


@pytest.mark.parametrize("columns", [([b"k"], [b"v"] * 2), ([b"k"] * 2, [b"v"] * 2, [[]])])
def test_outputs_are_columns_of_one_length(columns):
    """A shorter column would end the loop that produces, and the rest would be lost."""
    with pytest.raises(ValueError, match="columns for alerts differ in length"):
        Outputs("alerts", *columns)
