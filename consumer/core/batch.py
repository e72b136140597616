"""What the steps hand to each other: columns of the events of one batch."""

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Self

import numpy as np
from numpy.typing import NDArray

from consumer.records import Bools, Longs


@dataclass(frozen=True, slots=True)
class Text:
    """Text columns as spans of one byte buffer: `starts` and `lengths` are int64[fields, n]."""

    names: tuple[str, ...]
    buffer: NDArray[np.uint8]
    starts: Longs
    lengths: Longs

    def bytes_of(self, name: str, row: int) -> bytes:
        """Return one value; for the few rows that become alerts or dead letters."""
        slot = self.names.index(name)
        start = int(self.starts[slot, row])
        return self.buffer[start : start + int(self.lengths[slot, row])].tobytes()

    def first(self, count: int) -> "Text":
        """Return the first columns: those that every feature set has, which outputs are made of."""
        return Text(self.names[:count], self.buffer, self.starts[:count], self.lengths[:count])

    def take(self, rows: NDArray[np.intp]) -> "Text":
        """
        Return the spans of these rows over the same buffer.

        By take(): it keeps the order in memory that kernels are compiled for, indexing does not.
        """
        starts, lengths = (spans.take(rows, axis=1) for spans in (self.starts, self.lengths))
        return Text(self.names, self.buffer, starts, lengths)


@dataclass(frozen=True, slots=True)
class Events:
    """
    n decoded payments, one row each.

    `rows` is the position in the Records they came from. `times` are microseconds since 1970, UTC.
    `amounts` are ten-thousandths of the major unit (12.34 is 123400), billing currency where the
    event has one. `cards` and `terminals` are int64[n, 2]: 128-bit hashes of the ids.
    `fingerprints` are 11 bits of the event ids' hashes, or 0 where an event has no id. `countries`
    are the merchants', as `hashing.country_codes` gives them; 0 for all where nobody asks.
    """

    rows: NDArray[np.intp]
    partitions: Longs
    offsets: Longs
    live: Bools
    times: Longs
    kinds: Longs
    amounts: Longs
    amounts_minor: Longs
    utc_offset_minutes: Longs
    cards: Longs
    terminals: Longs
    fingerprints: Longs
    countries: Longs
    text: Text

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return the events at these rows, in that order."""
        columns = {
            column.name: getattr(self, column.name).take(rows, axis=0)
            for column in fields(self)
            if column.name != "text"
        }
        return type(self)(**columns, text=self.text.take(rows))


@dataclass(frozen=True, slots=True)
class Rows:
    """Model inputs float32[n, features] of n events, and what was wrong with their history."""

    values: NDArray[np.float32]
    late: Bools
    cold: Bools
    hot: Bools


_REASON = np.dtype(
    [("length", "u1"), ("code", "S3"), ("contribution", "<f4"), ("branch", "u1"), ("value", "<f8")]
)
"""A Reason in Avro binary: text of three bytes, a float, and a double behind a union's index."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """
    Why k events were flagged: up to m groups of features each, strongest first.

    `codes` S3[k, m]; `contributions` float64[k, m], the log-odds that go without what is unusual in
    the group; `values` float32[k, m], the feature to show for it. Only the first `counts` int64[k]
    of each line are reasons.
    """

    codes: NDArray[np.bytes_]
    contributions: NDArray[np.float64]
    values: NDArray[np.float32]
    counts: Longs

    def encoded(self) -> list[bytes]:
        """Return each event's reasons as an Avro array of the schemas' Reason."""
        items = np.zeros(self.codes.shape, _REASON)
        items["length"], items["branch"] = 6, 2  # zig-zag of 3, the code's length, and of 1
        items["code"] = self.codes
        items["contribution"] = self.contributions
        items["value"] = self.values
        data = items.tobytes()
        line = max(1, self.codes.shape[1]) * _REASON.itemsize
        return [
            bytes([2 * count]) + data[start : start + count * _REASON.itemsize] + b"\0"
            if count
            else b"\0"
            for start, count in zip(range(0, len(data), line), self.counts.tolist(), strict=True)
        ]

    def take(self, rows: NDArray[np.intp]) -> "Reasons":
        """Return the reasons of these of the k events."""
        return Reasons(
            self.codes[rows], self.contributions[rows], self.values[rows], self.counts[rows]
        )


@dataclass(frozen=True, slots=True)
class Decisions:
    """
    The outcome of n events.

    `scores` are 1 to 999; `decisions` number DECISIONS. `flagged` intp[k] are the rows that reach
    the review threshold, in log order, and `reasons` theirs.
    """

    probabilities: NDArray[np.float64]
    scores: Longs
    decisions: Longs
    flagged: NDArray[np.intp]
    reasons: Reasons


class Degraded(IntFlag):
    """What was missing when an event was scored, or not known exactly."""

    STATE_COLD = 1
    LABELS_STALE = 2
    LATE_EVENT = 4
    HOT_KEY = 8

    @property
    def names(self) -> list[str]:
        """The words of the schema, in the order of the bits."""
        return [flag.name or "" for flag in type(self) if flag in self]


@dataclass(frozen=True, slots=True)
class LabelsKnown:
    """
    How far the label topic was read: the next offset of each partition; stale if short of its end.
    """

    next_offsets: tuple[int, ...]
    stale: bool
