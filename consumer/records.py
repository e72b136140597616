"""
Values that travel between the steps. A batch is columns of NumPy arrays, never a list of objects.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Longs: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


class Status(IntEnum):
    """
    What became of a record: GOOD, skipped (TOMBSTONE), or the reason of its dead letter.

    A closed set, because it is a metric label and a header; never renumbered, because kernels
    know the numbers.
    """

    GOOD = 0
    TOMBSTONE = 1
    OVERSIZE = 2
    FRAMING = 3
    SCHEMA_NOT_ALLOWED = 4
    DECODE = 5
    TRAILING = 6
    NOT_FINITE = 7
    ID = 8
    KEY = 9
    TIME = 10
    FUTURE = 11
    RANGE = 12
    CARD_NUMBER = 13
    SCORE_INVALID = 14
    POISON = 15

    @property
    def reason(self) -> str:
        """The word for headers and metric labels."""
        return self.name.lower()

    @property
    def stage(self) -> str:
        """The step that refused the record."""
        if self <= Status.NOT_FINITE:
            return "decode"
        if self <= Status.CARD_NUMBER:
            return "validate"
        return "score" if self is Status.SCORE_INVALID else "process"


@dataclass(frozen=True, slots=True)
class Records:
    """
    One poll of n records, in the order polled: offsets rise within each partition.

    `live` is False for a record below the offset that was committed when its partition came to us:
    it only rebuilds state, and publishes nothing. `timestamps` are milliseconds since 1970, -1
    where the record has none. `headers(i)` reads those of record i, which few records need; None
    where the client cannot.
    """

    topic: str
    values: list[bytes | None]
    keys: list[bytes | None]
    partitions: Longs
    offsets: Longs
    timestamps: Longs
    live: Bools
    headers: Callable[[int], Headers | None]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def next_offsets(self) -> dict[int, int]:
        """What to commit: for each partition with a live record, the offset after its last."""
        return last_offsets(self.partitions[self.live], self.offsets[self.live] + 1)

    @property
    def positions(self) -> dict[int, int]:
        """Where each partition goes on after this batch, replayed records included."""
        return last_offsets(self.partitions, self.offsets + 1)

    def singly(self) -> Iterator[Self]:
        """Yield each record as a batch of its own."""
        for row in range(len(self)):
            one = slice(row, row + 1)
            yield type(self)(
                self.topic, self.values[one], self.keys[one], self.partitions[one],
                self.offsets[one], self.timestamps[one], self.live[one],
                lambda _, row=row: self.headers(row),  # type: ignore[misc]
            )  # fmt: skip


def last_offsets(partitions: Longs, offsets: Longs) -> dict[int, int]:
    """Return the last of the offsets for each partition."""
    return {partition: int(offsets[rows[-1]]) for partition, rows in by_partition(partitions)}


@dataclass(frozen=True, slots=True)
class Refused:
    """Records that are not scored: `rows` in the Records, and a Status each."""

    rows: NDArray[np.intp]
    statuses: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Outputs:
    """
    Records to produce to one topic, as columns of the same length.

    Without `partitions`, the key chooses; without `timestamps` (milliseconds), it is now; without
    `headers`, there are none.
    """

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None = None
    partitions: Sequence[int] | None = None
    timestamps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for columns of unequal length: mapped over, they would lose records."""
        others = (self.keys, self.headers, self.partitions, self.timestamps)
        if any(column is not None and len(column) != len(self.values) for column in others):
            raise ValueError(f"columns for {self.topic} differ in length")

    def __len__(self) -> int:
        return len(self.values)


def by_partition(partitions: Longs) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each partition of a batch with the rows that belong to it, in their order."""
    for partition in np.flatnonzero(np.bincount(partitions)).tolist():
        yield partition, np.flatnonzero(partitions == partition)
