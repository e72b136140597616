import pytest
from confluent_kafka import Message

from consumer.adapters import log_search
from consumer.adapters.log_search import SearchTimeoutError, search

BEGINS, ENDS = {0: 100, 1: 0}, {0: 1_000, 1: 300}


class FakeReader:
    """Two partitions; remembers in which order it was read."""

    def __init__(self):
        self.read = []

    def beginnings(self, partitions, _):
        return {p: BEGINS[p] for p in partitions}

    def ends(self, partitions, _):
        return {p: ENDS[p] for p in partitions}

    def between(self, ranges):
        for partition, (begin, end) in ranges.items():
            self.read += [(partition, offset) for offset in range(begin, end)]
            yield [Message("topic", partition, offset) for offset in range(begin, end)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(log_search, "_CHUNK", 50)


def place(message):
    return message.partition(), message.offset()


@pytest.mark.parametrize("wanted", [(0, 100), (0, 999), (1, 0), (1, 299), (0, 420)])
@pytest.mark.parametrize("origins", [{0: 1_000, 1: 300}, {0: 100, 1: 0}, {0: 400, 1: 300}])
def test_a_record_is_found_from_any_origin(origins, wanted):
    """First and last offsets included."""
    found = search(FakeReader(), lambda m: place(m) == wanted, origins, lambda *_: None)

    assert place(found) == wanted


def test_each_offset_is_looked_at_once_and_those_near_the_origin_first():
    """Up to the ends as they were, and no further."""
    reader, told = FakeReader(), []

    assert search(reader, lambda _: False, {0: 400, 1: 0}, lambda *at: told.append(at)) is None

    everything = [(p, offset) for p in BEGINS for offset in range(BEGINS[p], ENDS[p])]
    assert sorted(reader.read) == everything
    assert set(reader.read[:150]) == {
        *((0, offset) for offset in range(350, 450)), *((1, offset) for offset in range(50))
    }  # fmt: skip
    assert told[-1] == (1_200, 1_200)


def test_time_is_up_before_all_is_looked_at():
    """Then it is not known whether there is one."""
    with pytest.raises(SearchTimeoutError):
        search(FakeReader(), lambda _: False, {0: 100}, lambda *_: None, within_seconds=-1)
