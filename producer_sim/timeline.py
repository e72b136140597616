"""
The order in which payments and labels are published: by time, labels first at equal times.

What a scorer may know about a payment is every label published up to its time; so payments
follow only once the labels before them are acknowledged.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
"""Rows of payments or places of labels: both count up in the order of publishing."""
Times = NDArray[np.int64]
"""Microseconds since 1970 on the clock of the payments, ascending."""

FOREVER: Final = int(np.iinfo(np.int64).max)
"""A time that nothing is later than, in microseconds."""


@dataclass(frozen=True, slots=True)
class Position:
    """How many payments and labels of a timeline come before it."""

    payments: int
    labels: int


@dataclass(frozen=True, slots=True)
class Lane:
    """What goes to one topic."""

    numbers: Numbers
    times: Times

    def __len__(self) -> int:
        return len(self.numbers)

    def between(self, start: int, end: int) -> "Lane":
        """Return what is published from `start` on and before `end`, in microseconds."""
        first, last = np.searchsorted(self.times, (start, end), side="left")
        return Lane(self.numbers[first:last], self.times[first:last])

    def after(self, last_number: NDArray[np.int64], partition: NDArray[np.int32]) -> "Lane":
        """
        Return what comes after each partition's last record.

        `last_number` has one entry per partition, -1 where it holds nothing; `partition` has one
        per number of the whole data set.
        """
        rest = self.numbers > last_number[partition[self.numbers]]
        return Lane(self.numbers[rest], self.times[rest])

    def time(self, place: int) -> int:
        """Return the time at `place`, or FOREVER past the end."""
        return int(self.times[place]) if place < len(self.times) else FOREVER

    def until(self, time: int) -> int:
        """Return how many come before `time`."""
        return int(np.searchsorted(self.times, time, side="left"))

    def through(self, time: int) -> int:
        """Return how many come up to and at `time`."""
        return int(np.searchsorted(self.times, time, side="right"))


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is to be published to both topics."""

    payments: Lane
    labels: Lane

    def end(self) -> Position:
        """Return the position after everything."""
        return Position(len(self.payments), len(self.labels))

    def next_time(self, at: Position) -> int:
        """Return when the next payment or label is due, FOREVER at the end."""
        return min(self.payments.time(at.payments), self.labels.time(at.labels))

    def step(self, at: Position, horizon: int, payments_max: int) -> Position:
        """
        Return how far publishing may go from `at`: the labels first, then the payments.

        None of them is later than `horizon`, no payment is as late as a label that is still to
        come, and at most `payments_max` are payments. It is `at` where nothing is due.
        """
        labels = self.labels.through(min(horizon, self.payments.time(at.payments)))
        labels = max(labels, at.labels)
        payments = min(
            self.payments.through(horizon),
            self.payments.until(self.labels.time(labels)),
            at.payments + payments_max,
        )
        return Position(max(payments, at.payments), labels)
