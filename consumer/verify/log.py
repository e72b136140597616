"""Plain consumers of this package's own: they read by offset, join no group, and change nothing."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import methodcaller
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented, not in __all__
    AdminClient,
    ConfigResource,
    ResourceType,
)

from consumer.errors import ConfigError
from consumer.settings import Settings
from consumer.verify.formats import Record

_EARLIEST: Final = -2
_LATEST: Final = -1
_REQUEST_SECONDS: Final = 10.0
_MOST_RECORDS: Final = 5_000
_FILL_SECONDS: Final = 0.05
_APPENDED: Final = 2
_CALL_HEADERS: Final = methodcaller("headers")
_OF_MEMBERS: Final = frozenset(
    {
        "group.instance.id", "group.protocol", "group.remote.assignor",
        "partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms",
    }
)  # fmt: skip
_PASSING: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._MAX_POLL_EXCEEDED,
        # What a client answers while a broker that comes back does not yet list its partitions.
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)

Ranges = Mapping[int, tuple[int, int]]
"""Partition -> offsets [begin, end)."""


class Log:
    """The topics as a read_committed consumer sees them; all calls raise KafkaException."""

    def __init__(self, settings: Settings, group: str) -> None:
        """`group` is the one whose offsets are asked for."""
        kafka = {name: value for name, value in settings.kafka.items() if name not in _OF_MEMBERS}
        config: dict[str, Any] = {
            "log_level": "2",
            "queued.max.messages.kbytes": "16384",
            **kafka,
            "group.id": group,
            "client.id": "verify",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            # A record that retention takes away while we read must not be left out in silence.
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": "10",
            "isolation.level": "read_committed",
        }
        self._committed: Final = Consumer(config)
        self._all: Final = Consumer({**config, "isolation.level": "read_uncommitted"})
        self._admin: Final = AdminClient({"log_level": "2", **kafka, "client.id": "verify"})

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both clients."""
        self._committed.close()
        self._all.close()

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic. Raises ConfigError where there is none."""
        found = self._committed.list_topics(topic, timeout=_REQUEST_SECONDS).topics.get(topic)
        if found is None or found.error is not None or not found.partitions:
            raise ConfigError(f"topic {topic} does not exist")
        return sorted(found.partitions)

    def beginnings(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return each partition's first offset that retention has left."""
        return _offsets(self._committed, topic, partitions, _EARLIEST)

    def stable_ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return each partition's last stable offset: no open transaction began before it."""
        return _offsets(self._committed, topic, partitions, _LATEST)

    def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return each partition's high watermark, records of open transactions included."""
        return _offsets(self._all, topic, partitions, _LATEST)

    def since(self, topic: str, partitions: Iterable[int], timestamp: int) -> dict[int, int]:
        """
        Return each partition's first offset of a record with that timestamp (milliseconds) or a
        later one, its end where there is none.
        """
        found = _offsets(self._committed, topic, partitions, max(0, timestamp))
        missing = [partition for partition, offset in found.items() if offset < 0]
        return found | self.stable_ends(topic, missing)

    def committed(
        self, topic: str, partitions: Iterable[int], within_seconds: float
    ) -> dict[int, int] | None:
        """
        Return the group's offsets, 0 where there is none; None where a transaction that holds
        newer ones stayed open for so long.
        """
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                return _positions(self._committed.committed(wanted, timeout=_REQUEST_SECONDS))
            except KafkaException as fault:
                if not _is_passing(fault.args[0]):
                    raise
                if time.monotonic() > deadline:
                    # Who does not ask for stable offsets is answered, if a broker is there at all.
                    self._all.committed(wanted, timeout=_REQUEST_SECONDS)
                    return None

    def first_timestamp(self, topic: str, partition: int, begin: int, end: int) -> int | None:
        """Return when the first record of a partition is from, None where none is left."""
        for records in self.read(topic, {partition: (begin, end)}, _REQUEST_SECONDS):
            for record in records:
                return record.timestamp
        return None

    def retention_ms(self, topic: str) -> int | None:
        """Return how long the topic keeps records, None for ever, or where we may not ask."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            [asked] = self._admin.describe_configs([resource]).values()
            kept = int(asked.result(_REQUEST_SECONDS)["retention.ms"].value)
        except KafkaException:
            return None
        return None if kept < 0 else kept

    def read(
        self,
        topic: str,
        ranges: Ranges,
        within_seconds: float,
        stuck: Callable[[int, int], None] = lambda _partition, _offset: None,
    ) -> Iterator[list[Record]]:
        """
        Yield the records of each range in their order.

        Where an open transaction hides the rest of a range for longer than `within_seconds`,
        `stuck` is told the partition and the offset that readers get no further than.
        """
        ends = {partition: end for partition, (begin, end) in ranges.items() if begin < end}
        if not ends:
            return
        at = {partition: ranges[partition][0] for partition in ends}
        places = [TopicPartition(topic, partition, begin) for partition, begin in at.items()]
        self._committed.assign(places)
        deadline = time.monotonic() + within_seconds
        try:
            while ends:
                messages = self._committed.consume(_MOST_RECORDS, timeout=_FILL_SECONDS)
                records = list(self._taken(topic, messages, at, ends))
                if records:
                    yield records
                if messages:
                    deadline = time.monotonic() + within_seconds
                elif time.monotonic() > deadline:
                    self._give_up(topic, at, ends, stuck)
                    return
        finally:
            self._committed.unassign()

    def _taken(
        self, topic: str, messages: list[Message], at: dict[int, int], ends: dict[int, int]
    ) -> Iterator[Record]:
        """Yield what belongs to the ranges; a partition that reached its end leaves `ends`."""
        for message in messages:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if _is_passing(error):
                    continue
                raise KafkaException(error)
            partition: int = message.partition()  # type: ignore[assignment] # it is a record's
            offset: int = message.offset()  # type: ignore[assignment]
            if partition not in ends:
                continue
            at[partition] = offset + (error is None)
            if error is None and offset < ends[partition]:
                yield _record(topic, partition, offset, message)
            if at[partition] >= ends[partition]:
                del ends[partition]
                self._committed.incremental_unassign([TopicPartition(topic, partition)])

    def _give_up(
        self,
        topic: str,
        at: Mapping[int, int],
        ends: Mapping[int, int],
        stuck: Callable[[int, int], None],
    ) -> None:
        stable = self.stable_ends(topic, ends)
        if any(at[partition] < stable[partition] for partition in ends):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"topic {topic} went silent"))
        for partition in ends:
            stuck(partition, stable[partition])


def _record(topic: str, partition: int, offset: int, message: Message) -> Record:
    kind, timestamp = message.timestamp()
    return Record(
        topic, partition, offset, message.key(), message.value(),
        _headers(message), timestamp,
        kind == _APPENDED,
    )  # fmt: skip


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """
    Return a record's headers, none where a name is no UTF-8: the client answers such a call with an
    exception and a broken list at once, and only a call from C is held to the exception.
    """
    try:
        return tuple(_CALL_HEADERS(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ()


def _offsets(consumer: Consumer, topic: str, partitions: Iterable[int], at: int) -> dict[int, int]:
    # A logical offset in place of the timestamp asks for all partitions in one request.
    wanted = [TopicPartition(topic, partition, at) for partition in partitions]
    if not wanted:
        return {}
    deadline = time.monotonic() + _REQUEST_SECONDS
    while True:
        try:
            answered = consumer.offsets_for_times(wanted, timeout=_REQUEST_SECONDS)
            return _positions(answered, nothing=_LATEST)
        except KafkaException as fault:
            if not _is_passing(fault.args[0]) or time.monotonic() > deadline:
                raise
            consumer.list_topics(topic, timeout=_REQUEST_SECONDS)  # who leads may have changed
            time.sleep(_FILL_SECONDS)


def _positions(answered: Iterable[TopicPartition], nothing: int = 0) -> dict[int, int]:
    found = {}
    for part in answered:
        if part.error is not None:
            raise KafkaException(part.error)
        found[part.partition] = part.offset if part.offset >= 0 else nothing
    return found


def _is_passing(error: KafkaError) -> bool:
    """Say whether an error may pass by itself."""
    return error.code() in _PASSING or error.retriable()
