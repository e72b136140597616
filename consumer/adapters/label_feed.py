"""The label topic, read whole by every instance, and held against its end before each batch."""

import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.adapters.kafka_clients import place
from consumer.adapters.kafka_errors import kafka_error
from consumer.adapters.log_reader import LogReader
from consumer.core.batch import LabelsKnown
from consumer.core.labels import TerminalFrauds
from consumer.errors import FatalError
from consumer.telemetry import Telemetry

_SECONDS_BETWEEN_METADATA: Final = 60.0
_REQUEST_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.05
_STALE_WAIT_SECONDS: Final = 0.1
_MOST_RECORDS: Final = 10_000


class LabelFeed:
    """
    Feeds TerminalFrauds, and says how far it is.

    The end is asked for on a client of its own: on the consumer that long-polls an idle topic, the
    question waits behind the poll for half a second.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        frauds: TerminalFrauds,
        telemetry: Telemetry,
        max_wait_seconds: float,
    ) -> None:
        """`config` is that of kafka_clients.reader_config."""
        self._consumer = Consumer({**config, "enable.partition.eof": True})
        self._ends = LogReader(config, topic)
        self._topic = topic
        self._frauds = frauds
        self._telemetry = telemetry
        self._max_wait = max_wait_seconds
        self._next_offsets: dict[int, int] = {}
        self._metadata_due = 0.0
        self._stale = False

    def load(self) -> bool:
        """
        Read on for a while, and say whether the topic's present end is reached.

        Raises KafkaException when the brokers do not answer.
        """
        if not self._reached_end(time.monotonic() + _REQUEST_SECONDS):
            return False
        self._telemetry.labels_loaded(self._frauds.fraud_count)
        return True

    def catch_up(self) -> LabelsKnown:
        """
        Read up to the topic's end as it is now, so that no label is counted by luck.

        Waits `max_wait_seconds` at most: what is known by then is used, and called stale. As long
        as it is, the batches that follow ask again and hardly wait: an outage of the labels must
        not hold up each of them.
        """
        wait = min(_STALE_WAIT_SECONDS, self._max_wait) if self._stale else self._max_wait
        deadline = time.monotonic() + wait
        reached, cause = False, "it is read no faster"
        while not reached and time.monotonic() < deadline:
            try:
                reached = self._reached_end(deadline)
            except KafkaException as exception:
                cause = kafka_error(exception).str()
                time.sleep(_RETRY_SECONDS)  # the brokers may come back in time
        if reached is self._stale:
            self._stale = not reached
            self._telemetry.labels_stale(cause if self._stale else None)
        offsets = tuple(self._next_offsets[partition] for partition in sorted(self._next_offsets))
        return LabelsKnown(offsets, stale=self._stale)

    def close(self) -> None:
        """Close both clients."""
        self._ends.close()
        self._consumer.close()

    def _reached_end(self, deadline: float) -> bool:
        self._look_for_partitions(_request_seconds(deadline))
        ends = self._ends.ends(self._next_offsets, _request_seconds(deadline))
        while any(self._next_offsets[partition] < end for partition, end in ends.items()):
            wait = deadline - time.monotonic()
            if wait <= 0:
                return False
            self._take_in(self._consumer.consume(_MOST_RECORDS, timeout=min(wait, 0.05)))
        return True

    def _look_for_partitions(self, timeout_seconds: float) -> None:
        """Start on partitions that are new; a label in an unread one would be missed in silence."""
        if time.monotonic() < self._metadata_due:
            return
        found = self._ends.partitions(timeout_seconds)
        new = [partition for partition in found if partition not in self._next_offsets]
        if new:
            starts = self._ends.beginnings(new, timeout_seconds)
            self._next_offsets.update(starts)
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, partition, starts[partition]) for partition in new]
            )
        self._metadata_due = time.monotonic() + _SECONDS_BETWEEN_METADATA

    def _take_in(self, messages: list[Message]) -> None:
        values: list[bytes | None] = []
        timestamps: list[int] = []
        for message in messages:
            error = message.error()
            partition, offset = place(message)
            if error is None:
                values.append(message.value())
                timestamps.append(message.timestamp()[1])
                self._next_offsets[partition] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                # Control records at the end have no message: only the end itself moves us past.
                self._next_offsets[partition] = offset
            elif error.fatal():
                raise FatalError(f"the label feed cannot go on: {error.str()}")
        if values:
            late, refused = self._frauds.add(values, timestamps)
            self._telemetry.labels_read(len(values), refused, late, max(timestamps) / 1_000)


def _request_seconds(deadline: float) -> float:
    """Return how long to wait for one answer: a moment at least, since none takes no time."""
    return min(_REQUEST_SECONDS, max(deadline - time.monotonic(), _RETRY_SECONDS))
