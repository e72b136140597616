"""
What is remembered of each record of the input topic and of its answers: a row of fixed size each.

Rows are in a file without a name that the system pages in and out, so that a long range needs
room on disk and not in memory.
"""

import tempfile
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.errors import ConfigError

Rows = NDArray[np.void]

HOLE, RECORD, TOMBSTONE = range(3)
LATE, COLD, STALE, FLAGGED, HOT, REPLAYED, DOUBTFUL, MODELS = 1, 2, 4, 8, 16, 32, 64, 128
"""
Flags of a row. DOUBTFUL: refused, but a rebuilt state may count it all the same. MODELS: more than
one model decided on it.
"""

ROW: Final = np.dtype(
    [
        ("seen", "u1"),  # HOLE, RECORD or TOMBSTONE
        ("timestamp", "i8"),
        ("appended", "?"),
        ("key", "u8"),  # digests, 0 where there is nothing
        ("value", "u8"),
        ("length", "i4"),  # of the value, -1 where it is null
        ("headers", "u8"),
        ("numberless_headers", "u8"),  # of those that cannot hold a card number
        ("payment", "u8"),  # ids and event time
        ("predictions", "u2"),
        ("prediction", "u8"),  # what of it never changes
        ("model", "u8"),  # and policy
        ("maker", "u8"),  # the model alone, as alerts name it
        ("flags", "u1"),
        ("event", "u8"),
        ("event_time", "i8"),  # 0 where no payment can be read
        ("watermark", "i8"),  # latest event time before it, of what counted for sure
        ("watermark_at_most", "i8"),  # and of what may have counted, too
        ("out_partition", "i4"),
        ("out_offset", "i8"),
        ("letters", "u2"),
        ("letter", "u8"),
        ("letter_offset", "i8"),
        ("alerts", "u2"),
        ("alert", "u8"),
        ("alert_window", "i8"),
    ]
)
_CHUNK: Final = 2**18


class Stretch:
    """The records [begin, end) of one partition of the input topic."""

    def __init__(self, partition: int, begin: int, end: int) -> None:
        """All rows are empty."""
        self.partition: Final = partition
        self.begin: Final = begin
        self.end: Final = end
        self.rows: Final = _mapped(end - begin)

    def has(self, offset: int) -> bool:
        """Say whether the record is in here; there may be a hole in its place."""
        return self.begin <= offset < self.end

    def row(self, offset: int) -> Any:
        """Return the row of a record, to be read and written."""
        return self.rows[offset - self.begin]

    def put(self, name: str, offsets: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Write a column of the rows of these records: those of `chunks` are copies."""
        self.rows[name][offsets - self.begin] = values

    def chunks(self, end: int | None = None) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """Yield offsets and rows of the records up to an offset, in their order, in pieces."""
        count = max(0, min(self.end, self.end if end is None else end) - self.begin)
        for first in range(0, count, _CHUNK):
            rows = self.rows[first : min(first + _CHUNK, count)]
            present = np.flatnonzero(rows["seen"])
            yield present + (self.begin + first), rows[present]


class KeyOrder:
    """The last answer of every key: 28 bytes each, sorted by the key's digest."""

    def __init__(self) -> None:
        """No key was seen."""
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._partitions: NDArray[np.int32] = np.empty(0, np.int32)
        self._offsets: NDArray[np.int64] = np.empty(0, np.int64)

    def breaches(
        self,
        keys: NDArray[np.uint64],
        partitions: NDArray[np.int32],
        offsets: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """
        Take in the places of answers, in the order of their records; return which come before the
        answer of an earlier record of their key, and which are in another partition than it.
        """
        every = np.concatenate([self._keys, keys])
        places = np.concatenate([self._partitions, partitions])
        at = np.concatenate([self._offsets, offsets])
        order = np.argsort(every, kind="stable")
        same = every[order][1:] == every[order][:-1]
        moved = same & (places[order][1:] != places[order][:-1])
        before = same & ~moved & (at[order][1:] < at[order][:-1])
        known = len(self._keys)
        last = order[np.append(~same, [True] * (len(order) > 0)).astype(bool)]
        self._keys, self._partitions, self._offsets = every[last], places[last], at[last]
        return order[1:][before] - known, order[1:][moved] - known


def _mapped(count: int) -> Rows:
    if count <= 0:
        return np.zeros(0, ROW)
    try:
        with tempfile.TemporaryFile(prefix="fraudstream-verify-") as file:
            return np.asarray(np.memmap(file, ROW, "w+", shape=(count,)))
    except OSError as error:
        raise ConfigError(
            f"no temporary file of {count * ROW.itemsize / 1e6:,.0f} MB can be made for"
            f" {count:,} records ({error.strerror}): set TMPDIR to a folder with room for it"
        ) from error
