"""Which partitioner put records where they are: two at once split the histories of cards."""

import zlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from consumer.records import Records

EVERY: Final = 128
"""One record in so many is looked at: hashing each would cost as much as decoding it."""
SAMPLE: Final = 64
"""Keys that a verdict is made of."""
_FEWEST: Final = 3
_NEITHER: Final = 8
_MIX: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_WORD: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Placed:
    """How many keys of a sample lie where one partitioner alone would put them, or none of both."""

    murmur2: int
    crc32: int
    neither: int

    @property
    def is_mixed(self) -> bool:
        """
        Say whether both were at work. A partitioner of another kind agrees with each now and then,
        and far more often with neither, as does one that counted other partitions.
        """
        fewer = min(self.murmur2, self.crc32)
        return fewer >= _FEWEST and self.neither * _NEITHER < fewer


@dataclass(slots=True)
class Placement:
    """
    Looks at a sample of a topic's keys. `width` is its number of partitions, 0 while unknown.

    Java's partitioner is murmur2, librdkafka's CRC-32 (`consistent_random`) unless it is told
    otherwise: upstream applications in two languages put the same card in two partitions.
    """

    width: int = 0
    _votes: list[tuple[bool, bool]] = field(default_factory=list)

    def count(self, records: Records) -> Placed | None:
        """Look at a batch; return the verdict on a sample that it completes."""
        if self.width < 2:  # noqa: PLR2004 - one partition, or nobody knows how many
            return None
        for row in np.flatnonzero((records.offsets % EVERY == 0) & records.live).tolist():
            key, partition = records.keys[row], int(records.partitions[row])
            if key:
                self._votes.append(
                    (
                        murmur2(key) % self.width == partition,
                        zlib.crc32(key) % self.width == partition,
                    )
                )
        if len(self._votes) < SAMPLE:
            return None
        votes, self._votes = self._votes, []
        return Placed(
            votes.count((True, False)), votes.count((False, True)), votes.count((False, False))
        )


def murmur2(key: bytes) -> int:
    """
    Return the hash of a key that Java's partitioner divides by the number of partitions, 31 bits.

    Source: Apache Kafka, org.apache.kafka.common.utils.Utils, murmur2 and toPositive.
    """
    found = _SEED ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _MIX & _WORD
        k = (k ^ k >> 24) * _MIX & _WORD
        found = found * _MIX & _WORD ^ k
    if rest := key[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * _MIX & _WORD
    found = (found ^ found >> 13) * _MIX & _WORD
    return (found ^ found >> 15) & 0x7FFFFFFF
