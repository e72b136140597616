"""Read a topic by offset, beside the consumer group: ends, beginnings, single records."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.adapters.kafka_clients import place
from consumer.adapters.kafka_errors import Consequence, consequence, is_denial, kafka_error

_EARLIEST: Final = -2
_LATEST: Final = -1
_READ_TIMEOUT_SECONDS: Final = 5.0
_MOST_RECORDS: Final = 10_000
_FILL_SECONDS: Final = 0.05


class LogReader:
    """
    A client of its own for one topic: it never joins a group and never commits.

    Not for use by two threads. Reads committed records, so an end is the last stable offset.
    """

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        """`config` is that of kafka_clients.reader_config."""
        # A fetch at the end of a partition would hold up the next place to read for half a second.
        quick = {"fetch.wait.max.ms": "10"}
        self._consumer: Final = Consumer({**quick, **config, "enable.partition.eof": True})
        self.topic = topic

    def partitions(self, timeout_seconds: float) -> list[int]:
        """
        Return the partitions of the topic, none when it does not exist.

        Raises KafkaException, which names the topic if it may not be read.
        """
        try:
            metadata = self._consumer.list_topics(self.topic, timeout=timeout_seconds)
        except KafkaException:
            self._consumer.poll(0)  # which calls error_cb: it knows why
            raise
        found = metadata.topics.get(self.topic)
        if found is None or found.error is not None:
            if found is not None and is_denial(found.error):
                denied = f"Read on topic {self.topic} is denied"
                raise KafkaException(KafkaError(found.error.code(), denied))
            return []
        return sorted(found.partitions)

    def ends(self, partitions: Iterable[int], timeout_seconds: float) -> dict[int, int]:
        """Return each partition's last stable offset, in one request. Raises KafkaException."""
        return self._offsets(partitions, _LATEST, timeout_seconds)

    def beginnings(self, partitions: Iterable[int], timeout_seconds: float) -> dict[int, int]:
        """Return each partition's first offset that retention has left. Raises KafkaException."""
        return self._offsets(partitions, _EARLIEST, timeout_seconds)

    def since(
        self, partitions: Iterable[int], timestamp: int, timeout_seconds: float
    ) -> dict[int, int]:
        """
        Return each partition's first offset of a record with that timestamp (milliseconds) or a
        later one, its end where there is none. Raises KafkaException.
        """
        found = self._offsets(partitions, max(0, timestamp), timeout_seconds)
        ends = self.ends([p for p, offset in found.items() if offset < 0], timeout_seconds)
        return found | ends

    def read(self, partition: int, offset: int, count: int) -> list[Message]:
        """
        Return up to `count` records from `offset` on; fewer at the end of the partition.

        Raises KafkaException when the broker does not answer in time.
        """
        self._consumer.assign([TopicPartition(self.topic, partition, offset)])
        deadline = time.monotonic() + _READ_TIMEOUT_SECONDS
        found: list[Message] = []
        try:
            while time.monotonic() < deadline:
                for message in self._consumer.consume(count - len(found), timeout=0.5):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        return found
                    else:
                        raise KafkaException(error)
                if len(found) == count:
                    return found
        finally:
            self._consumer.unassign()
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def scan(self, partitions: Iterable[int]) -> Iterator[list[Message]]:
        """
        Yield all records of these partitions, from their beginnings to their present ends.

        Within a partition they come in order. Raises KafkaException when the broker goes silent.
        """
        ends = self.ends(partitions, _READ_TIMEOUT_SECONDS)
        begins = self.beginnings(ends, _READ_TIMEOUT_SECONDS)
        return self.between(
            {partition: (begins[partition], end) for partition, end in ends.items()}
        )

    def between(
        self, ranges: Mapping[int, tuple[int, int]], most: int = _MOST_RECORDS
    ) -> Iterator[list[Message]]:
        """
        Yield the records [begin, end) of each partition, in its order, `most` of them at a time.

        Nothing else may be read here before the last is taken or the iterator is closed. Raises
        KafkaException when the broker goes silent, or what is to be read is gone and the
        configuration has it so.
        """
        ends = {partition: end for partition, (begin, end) in ranges.items() if begin < end}
        waiting = set(ends)
        begins = [TopicPartition(self.topic, partition, ranges[partition][0]) for partition in ends]
        self._consumer.assign(begins)
        deadline = time.monotonic() + _READ_TIMEOUT_SECONDS
        try:
            while waiting:
                records = []
                for message in self._consumer.consume(most, timeout=_FILL_SECONDS):
                    if _is_passing(message.error()):
                        continue
                    partition, offset = place(message)
                    is_record = message.error() is None
                    if is_record and offset < ends[partition]:
                        records.append(message)
                    if offset + is_record >= ends[partition] and partition in waiting:
                        waiting.discard(partition)
                        self._consumer.pause([TopicPartition(self.topic, partition)])
                if records:
                    yield records
                    deadline = time.monotonic() + _READ_TIMEOUT_SECONDS
                elif time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        finally:
            self._consumer.resume(begins)  # the client would remember a pause past the assignment
            self._consumer.unassign()

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

    def _offsets(self, partitions: Iterable[int], at: int, timeout: float) -> dict[int, int]:
        # A logical offset in place of the timestamp asks for all partitions in one request;
        # get_watermark_offsets() takes one request for each.
        wanted = [TopicPartition(self.topic, partition, at) for partition in partitions]
        if not wanted:
            return {}
        try:
            answered = self._ask(wanted, timeout)
        except KafkaException:
            self._look_at_topic(timeout)
            raise
        return {part.partition: part.offset for part in answered}

    def _ask(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        answered: list[TopicPartition] = self._consumer.offsets_for_times(wanted, timeout=timeout)
        for part in answered:
            if part.error is not None:
                raise KafkaException(part.error)
        return answered

    def _look_at_topic(self, timeout: float) -> None:
        """
        Ask who leads the partitions now: of what is not being fetched, librdkafka 2.16 remembers
        the leader that it knew, for minutes after that one has died.

        Raises KafkaException if the topic may not be read, for which offsets are merely unknown.
        """
        try:
            self.partitions(timeout)
        except KafkaException as exception:
            if is_denial(kafka_error(exception)):
                raise


def _is_passing(error: KafkaError | None) -> bool:
    """Say whether an error may pass by itself; raise KafkaException for one that will not."""
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return False
    if consequence(error) is Consequence.RETRY:
        return True
    raise KafkaException(error)
