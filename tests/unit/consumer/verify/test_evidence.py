import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import ConfigError
from consumer.verify.evidence import RECORD, KeyOrder, Stretch


def breaches(answers: list[tuple[int, int, int]], pieces: int = 1) -> set[int]:
    """Return which answers (key, partition, offset) breach the order, fed in so many pieces."""
    order, found, done = KeyOrder(), set(), 0
    for part in np.array_split(np.array(answers, np.int64).reshape(-1, 3), pieces):
        before, moved = order.breaches(
            part[:, 0].astype(np.uint64), part[:, 1].astype(np.int32), part[:, 2]
        )
        found |= {done + int(at) for at in (*before, *moved)}
        done += len(part)
    return found


def test_answers_of_a_key_that_changed_places_are_found():
    """The later record's answer is ahead: its own is what breaches."""
    assert breaches([(1, 0, 5), (2, 0, 3), (1, 0, 4)]) == {2}
    assert breaches([(1, 0, 5), (2, 0, 3), (1, 0, 6)]) == set()


def test_an_answer_in_another_partition_is_found():
    """Nobody can read the two in their order."""
    assert breaches([(1, 0, 5), (1, 1, 6)]) == {1}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 9)), max_size=30),
    st.integers(1, 5),
)
def test_the_last_answer_of_a_key_is_remembered_over_pieces(answers, pieces):
    """However a long stretch is cut, the same is found, as a plain walk finds it."""
    last: dict[int, tuple[int, int]] = {}
    expected = set()
    for at, (key, partition, offset) in enumerate(answers):
        before = last.get(key, (partition, offset))
        if before[0] != partition or offset < before[1]:
            expected.add(at)
        last[key] = (partition, offset)

    assert breaches(answers, pieces) == expected


def test_a_stretch_yields_its_records_and_no_holes():
    """Offsets that no record has, such as those of transaction markers, are left out."""
    stretch = Stretch(3, 100, 110)
    for offset in (101, 105, 109):
        stretch.row(offset)["seen"] = RECORD

    [(offsets, rows)] = stretch.chunks()
    [(below, _)] = stretch.chunks(end=105)

    assert offsets.tolist() == [101, 105, 109]
    assert len(rows) == 3
    assert below.tolist() == [101]
    assert (stretch.has(99), stretch.has(100), stretch.has(110)) == (False, True, False)
    assert list(Stretch(0, 5, 5).chunks()) == []


def test_a_machine_without_room_for_the_evidence_says_what_it_needs(monkeypatch):
    """As a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    with pytest.raises(ConfigError, match=r"1,000,000 records \(No such file.*set TMPDIR"):
        Stretch(0, 0, 1_000_000)
