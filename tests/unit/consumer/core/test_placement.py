import zlib

import pytest

from consumer.core.placement import EVERY, SAMPLE, Placement, murmur2
from tests.builders import records_of

KEYS = [f"card-{number}".encode() for number in range(SAMPLE)]


def by_murmur2(key, width):
    return murmur2(key) % width


def by_crc32(key, width):
    return zlib.crc32(key) % width


def by_length_and_last(key, width):
    return (len(key) + key[-1]) % width


def placed(width, *partitioners, keys=KEYS, counted=None, **columns):
    """Return the verdict on keys that these partitioners placed by turns."""
    chosen = [partitioners[k % len(partitioners)](key, width) for k, key in enumerate(keys)]
    looked_at = [EVERY * k for k in range(len(keys))]
    records = records_of([b""] * len(keys), keys, partitions=chosen, offsets=looked_at, **columns)
    return Placement(counted or width).count(records)


@pytest.mark.parametrize(
    ("key", "found"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829), (b"abc", 479470107)],
)  # fmt: skip
def test_the_hash_is_java_s(key, found):
    """Numbers of Kafka's own test of it, made positive."""
    assert murmur2(key) == found & 0x7FFFFFFF


@pytest.mark.bad_input("c8")
@pytest.mark.parametrize("width", [2, 6, 50])
def test_two_partitioners_are_told_from_one(width):
    """Whichever one it is, as long as it is one; also one of a kind that nobody here knows."""
    assert placed(width, by_murmur2, by_crc32).is_mixed
    assert not placed(width, by_murmur2).is_mixed
    assert not placed(width, by_crc32).is_mixed
    assert not placed(width, by_length_and_last).is_mixed


def test_producers_that_count_other_partitions_are_no_other_partitioner():
    """As after a topic grew, until they have noticed."""
    assert not placed(4, by_murmur2, counted=6).is_mixed


@pytest.mark.parametrize(
    "columns", [{"live": False}, {"keys": [None] * SAMPLE}], ids=["read again", "no keys"]
)
def test_records_that_say_nothing_of_a_partitioner_are_not_looked_at(columns):
    """What is read again was placed before, and what has no key is placed anywhere."""
    keys = columns.pop("keys", KEYS)

    assert placed(6, lambda *_: 0, keys=keys, **columns) is None


@pytest.mark.parametrize("width", [0, 1])
def test_one_partition_needs_no_partitioner(width):
    """Nor does a topic of which nobody knows how many it has."""
    records = records_of([b""] * SAMPLE, KEYS, offsets=[EVERY * k for k in range(SAMPLE)])

    assert Placement(width).count(records) is None
