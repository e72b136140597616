"""What the steps hand to each other: columns of the events of one batch."""

from collections.abc import Mapping, Sequence
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

    def take(self, rows: NDArray[np.intp]) -> "Text":
        """Return the spans of these rows over the same buffer."""
        return Text(self.names, self.buffer, self.starts[:, rows], self.lengths[:, rows])


@dataclass(frozen=True, slots=True)
class Events:
    """
    n decoded payments, one row each.

    `rows` is the position in the Records they came from. `times` are microseconds since 1970, UTC.
    `amounts` are ten-thousandths of the major unit (12.34 is 123400), billing currency where the
    event has one. `cards` and `terminals` are int64[n, 2]: 128-bit hashes of the ids.
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


@dataclass(frozen=True, slots=True)
class Reason:
    """One group of features, and how much of the log-odds goes without what is unusual in it."""

    code: str
    contribution: float
    value: float

    def as_dict(self) -> dict[str, str | float]:
        """Return the reason as the schemas have it."""
        return {"code": self.code, "contribution": self.contribution, "value": self.value}


@dataclass(frozen=True, slots=True)
class Decisions:
    """
    The outcome of n events.

    `scores` are 1 to 999; `decisions` number DECISIONS; `reasons` maps the row of each event that
    reaches the review threshold to its reasons, strongest first.
    """

    probabilities: NDArray[np.float64]
    scores: Longs
    decisions: Longs
    reasons: Mapping[int, Sequence[Reason]]

    @property
    def flagged(self) -> NDArray[np.intp]:
        """Rows at or above the review threshold, in log order."""
        return np.array(list(self.reasons), np.intp)


class Degraded(IntFlag):
    """What was missing when an event was scored."""

    STATE_COLD = 1
    LABELS_STALE = 2
    LATE_EVENT = 4

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
