"""Polls stretches of the input topic by offset, beside the group: a source for the same loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Message

from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import as_records
from consumer.records import Records, Refused


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records [start, end) of a partition; those before `live_from` only rebuild state."""

    partition: int
    start: int
    live_from: int
    end: int


class LogSource:
    """One stretch after the other, each from its start to its end. Commits nothing."""

    def __init__(self, reader: LogReader, topic: str, most_records: int) -> None:
        """`reader` reads nothing else while a stretch is under way."""
        self._reader = reader
        self._topic = topic
        self._most_records = most_records
        self._stretch = Stretch(0, 0, 0, 0)
        self._batches: Iterator[list[Message]] = iter(())
        self.position = 0
        """The next offset that is not settled."""
        self.finished = True

    def begin(self, stretch: Stretch) -> None:
        """Poll this stretch from now on."""
        self._stretch = stretch
        self.position = stretch.start
        self.rewind()

    def poll(self) -> Records:
        """Return the next records, none at the end. Raises KafkaException."""
        messages = next(self._batches, [])
        self.finished = not messages
        records = as_records(self._topic, messages)
        records.live[:] = records.offsets >= self._stretch.live_from
        if self.finished:  # what is left of the stretch, if anything, is no record
            self.position = self._stretch.end
        return records

    def settled(self, records: Records, _: Refused) -> None:
        """The batch is done with: go on after it."""
        self.position = records.positions[self._stretch.partition]

    def rewind(self, _: Sequence[int] = ()) -> None:
        """Go back to what is not settled; nothing is published, so no partition is held."""
        self.finished = self.position >= self._stretch.end
        self._batches = self._reader.between(
            {self._stretch.partition: (self.position, self._stretch.end)}, self._most_records
        )
