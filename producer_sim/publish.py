"""
Payments and labels, published in the order of their timeline and at the pace asked for.

Labels are acknowledged before any later payment is produced, so whoever has read a payment can
read every label that was published up to its time.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from producer_sim.pace import Pace
from producer_sim.timeline import Lane, Numbers, Position, Timeline

_PAYMENTS_AT_ONCE: Final = 1_000
_IDLE_SECONDS: Final = 0.02
_LAST_FLUSH_SECONDS: Final = 10.0


class Writer(Protocol):
    """Makes records out of rows or places: events.TransactionWriter, labels.LabelWriter."""

    def keys(self, numbers: Numbers, /) -> list[bytes]:
        """Return each record's key."""
        ...

    def values(self, numbers: Numbers, /) -> list[bytes]:
        """Return each record's value."""
        ...


class Outlet(Protocol):
    """Takes the records of one topic: producer.TopicProducer."""

    def produce(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Hand over keys and values, in order; returns when there was room for all of them."""
        ...

    def poll(self, seconds: float) -> None:
        """Wait for an acknowledgement, for at most this long."""
        ...

    def unacknowledged(self) -> int:
        """Return how many records are handed over and not acknowledged."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """Where the records of one lane are made and where they go."""

    lane: Lane
    writer: Writer
    outlet: Outlet

    def records(self, start: int, end: int) -> list[tuple[bytes, bytes]]:
        """Return keys and values of the lane's records from `start` on and before `end`."""
        numbers = self.lane.numbers[start:end]
        return list(zip(self.writer.keys(numbers), self.writer.values(numbers), strict=True))


@dataclass(frozen=True, slots=True)
class Status:
    """How far a simulation has come."""

    done: Position
    total: Position
    next_time: int
    """When the next payment or label is due, microseconds since 1970; FOREVER at the end."""
    waiting_for: str
    """The consumer group that holds it back, empty where none does."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer group that must never be far behind, and how to ask how far it is."""

    group: str
    unread_max: int
    unread: Callable[[], int]
    """How many payments it has not committed."""


@dataclass(frozen=True, slots=True)
class Control:
    """What sets the speed, whom to wait for, when to stop, and whom to tell."""

    pace: Pace
    reader: Reader | None
    stopped: Callable[[], bool]
    report: Callable[[Status], None]


class Publisher:
    """
    Publishes one timeline, once.

    Its methods raise SimulationError where the broker refuses a record or does not answer.
    """

    def __init__(self, payments: Stream, labels: Stream, control: Control) -> None:
        self._payments = payments
        self._labels = labels
        self._timeline = Timeline(payments.lane, labels.lane)
        self._control = control
        self._at = Position(0, 0)
        self._room = 0.0
        self._waiting_for = ""

    def run(self) -> Status:
        """
        Publish until the timeline ends or a stop is asked for; return how far that went.

        What was handed over by then is acknowledged; after a stop it is given 10 seconds for that.
        """
        self._control.pace.start(self._timeline.next_time(self._at))
        while self._at != self._timeline.end() and not self._control.stopped():
            reached = self._timeline.step(
                self._at, self._control.pace.horizon(), self._payments_allowed()
            )
            if reached == self._at:
                self._payments.outlet.poll(_IDLE_SECONDS)
            else:
                self._carry(reached)
            self._control.report(self._status())
        self._flush()
        return self._status()

    def _carry(self, reached: Position) -> None:
        """Publish what lies between here and `reached`: first the labels, then the payments."""
        self._labels.outlet.produce(self._labels.records(self._at.labels, reached.labels))
        # Encoded while the labels are on their way, which hides most of the wait for them.
        payments = self._payments.records(self._at.payments, reached.payments)
        while self._labels.outlet.unacknowledged():
            if self._control.stopped():
                return
            self._labels.outlet.poll(_IDLE_SECONDS)
        self._payments.outlet.produce(payments)
        self._control.pace.spend(len(payments))
        self._room -= len(payments)
        self._at = reached

    def _payments_allowed(self) -> int:
        """Return how many payments may go now: what the reader and the rate have room for."""
        reader = self._control.reader
        if reader is None:
            self._room = math.inf
        elif self._room < 1:
            # Counted before the question, so that nothing on its way is left out.
            unacknowledged = self._payments.outlet.unacknowledged()
            self._room = reader.unread_max - unacknowledged - reader.unread()
            self._waiting_for = reader.group if self._room < 1 else ""
        return max(0, int(min(_PAYMENTS_AT_ONCE, self._room, self._control.pace.allowance())))

    def _status(self) -> Status:
        return Status(
            done=self._at,
            total=self._timeline.end(),
            next_time=self._timeline.next_time(self._at),
            waiting_for=self._waiting_for,
        )

    def _flush(self) -> None:
        seconds = _LAST_FLUSH_SECONDS if self._control.stopped() else math.inf
        deadline = time.monotonic() + seconds
        while self._payments.outlet.unacknowledged() and time.monotonic() < deadline:
            self._payments.outlet.poll(_IDLE_SECONDS)
