import pytest

from producer_sim.partitions import murmur2, partitions_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key, hashed):
    """The hash is the one of Kafka's Java client: these are the vectors of its own test."""
    assert murmur2(key) == hashed & 0xFFFF_FFFF


def test_a_partition_is_the_hash_without_its_sign_modulo_the_count():
    """A negative hash loses its sign bit; it is not negated (Kafka's toPositive)."""
    assert partitions_of([b"21", b"abc"], 7).tolist() == [
        (-973932308 & 0x7FFF_FFFF) % 7,
        479470107 % 7,
    ]
