"""
Which partition a key lands on, as Kafka's Java client and librdkafka's `murmur2_random` decide.

The simulator must know it beforehand: to resume, it continues each partition after that
partition's own last record.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_M = 0x5BD1E995
_WORD = 0xFFFF_FFFF


def murmur2(key: bytes) -> int:
    """
    Return the 32-bit hash of a key as Kafka computes it, as an unsigned number.

    Source: Austin Appleby's MurmurHash2 with the seed of org.apache.kafka.common.utils.Utils.
    """
    hashed = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _M & _WORD
        word = (word ^ word >> 24) * _M & _WORD
        hashed = hashed * _M & _WORD ^ word
    if rest := key[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _M & _WORD
    hashed = (hashed ^ hashed >> 13) * _M & _WORD
    return hashed ^ hashed >> 15


def partitions_of(keys: Iterable[bytes], partition_count: int) -> NDArray[np.int32]:
    """Return the partition of each key, int32[n]: the hash without its sign bit, modulo."""
    return np.array([(murmur2(key) & 0x7FFF_FFFF) % partition_count for key in keys], np.int32)
