import numpy as np
import pytest
from confluent_kafka import Message

from consumer.adapters.log_source import LogSource, Stretch
from consumer.records import Refused

NONE = Refused(np.empty(0, np.intp), np.empty(0, np.int8))


def message(partition, offset):
    return Message("payments", partition, offset, value=b"v", timestamp=(1, offset))


class FakeReader:
    """A log in which every third offset is a transaction's marker, and no record."""

    def between(self, ranges, most):
        [(partition, (begin, end))] = ranges.items()
        offsets = [offset for offset in range(begin, end) if offset % 3 != 2]
        for start in range(0, len(offsets), most):
            yield [message(partition, offset) for offset in offsets[start : start + most]]


@pytest.fixture
def source():
    return LogSource(FakeReader(), "payments", most_records=2)


def polled(source):
    """Poll and settle to the end; return (offset, live) of each record."""
    found = []
    while not source.finished:
        records = source.poll()
        found += zip(records.offsets.tolist(), records.live.tolist(), strict=True)
        if len(records):
            source.settled(records, NONE)
    return found


@pytest.mark.bad_input("g2", "g3")
def test_a_stretch_is_polled_to_its_end_and_live_from_its_own_offset_on(source):
    """Offsets without a record are passed over, also at the end."""
    source.begin(Stretch(3, start=3, live_from=7, end=12))

    assert polled(source) == [(3, False), (4, False), (6, False), (7, True), (9, True), (10, True)]
    assert source.position == 12


def test_what_is_not_settled_is_polled_again_after_a_rewind(source):
    """As the loop does when a batch was not committed."""
    source.begin(Stretch(0, start=0, live_from=0, end=6))
    source.settled(source.poll(), NONE)
    source.poll()

    source.rewind()

    assert polled(source) == [(3, True), (4, True)]


def test_an_empty_stretch_is_finished_at_once(source):
    """Nothing is polled for it."""
    source.begin(Stretch(0, start=6, live_from=6, end=6))

    assert source.finished
    assert source.position == 6


def test_one_stretch_follows_another(source):
    """The source is used again for the next partition."""
    for partition in (0, 1):
        source.begin(Stretch(partition, start=0, live_from=0, end=2))
        assert len(polled(source)) == 2
