"""How far behind the group's member is, measured on a thread that the loop cannot hold up."""

import math
import threading
import time
from collections.abc import Mapping
from typing import Final, Protocol

from confluent_kafka import KafkaError, KafkaException

from consumer.adapters.kafka_errors import is_denial, kafka_error
from consumer.adapters.log_reader import LogReader
from consumer.telemetry import Lag, Telemetry

_REQUEST_SECONDS: Final = 5.0


class Progress(Protocol):
    """What the source tells of itself; read from the monitor's thread."""

    in_hand: dict[int, tuple[int, int]]

    @property
    def uncommitted_from(self) -> Mapping[int, int]:
        """For each partition, the first offset not yet committed."""


class LagMonitor(threading.Thread):
    """
    Measures lag against the last stable offset: in messages, and in seconds as the age of the
    oldest record that is not committed yet.

    Where it cannot know, it shows nothing: a frozen gauge would lie.
    """

    def __init__(
        self, reader: LogReader, progress: Progress, telemetry: Telemetry, interval_seconds: float
    ) -> None:
        """`reader` is this thread's own."""
        super().__init__(name="lag", daemon=True)
        self._reader = reader
        self._progress = progress
        self._telemetry = telemetry
        self._interval = interval_seconds
        self._stopped = threading.Event()
        self._silent_since = math.inf
        self.denial: KafkaError | None = None
        """What the brokers said last, where that is that we may not read the topic."""
        self._timestamps: dict[int, tuple[int, int | None]] = {}

    def run(self) -> None:
        """Measure until stopped."""
        while not self._stopped.wait(self._interval):
            self.look()

    def look(self) -> None:
        """Measure once, and show it."""
        try:
            self._telemetry.lag_measured(self.measure())
            self._silent_since = math.inf
            self.denial = None
        except KafkaException as exception:
            error = kafka_error(exception)
            self.denial = error if is_denial(error) else None
            self._telemetry.lag_unknown()
            self._silent_since = min(self._silent_since, time.monotonic())

    @property
    def seconds_without_answer(self) -> float:
        """Time since the brokers were first asked in vain; 0 while they answer."""
        return max(0.0, time.monotonic() - self._silent_since)

    def stop(self) -> None:
        """End the thread and close its client."""
        self._stopped.set()
        if self.is_alive():
            self.join(_REQUEST_SECONDS)
        self._reader.close()

    def measure(self) -> list[Lag]:
        """
        Return the lag of each partition of ours that has begun. Raises KafkaException when the
        brokers do not answer, which is found out also with none.
        """
        waiting = dict(self._progress.uncommitted_from)
        if not waiting:
            self._reader.partitions(_REQUEST_SECONDS)
        ends = self._reader.ends(waiting, _REQUEST_SECONDS)
        return [self._lag(partition, waiting[partition], end) for partition, end in ends.items()]

    def _lag(self, partition: int, next_offset: int, end: int) -> Lag:
        if next_offset >= end:
            return Lag(partition, next_offset, end, 0, 0.0)
        timestamp = self._timestamp_of(partition, next_offset)
        if timestamp is None:  # only control records are left, which nobody ever processes
            return Lag(partition, next_offset, end, 0, 0.0)
        seconds = max(0.0, time.time() - timestamp / 1_000)
        return Lag(partition, next_offset, end, end - next_offset, seconds)

    def _timestamp_of(self, partition: int, offset: int) -> int | None:
        """Return the timestamp of the first record from the offset on, None when there is none."""
        in_hand = self._progress.in_hand.get(partition)
        if in_hand is not None and in_hand[0] >= offset:
            return in_hand[1]
        known = self._timestamps.get(partition)
        if known is None or known[0] != offset or known[1] is None:
            records = self._reader.read(partition, offset, 1)
            known = (offset, records[0].timestamp()[1] if records else None)
            self._timestamps[partition] = known
        return known[1]
