"""What topics and consumer groups hold at the moment: everything that is read from the broker."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producer_sim.errors import SimulationError
from producer_sim.properties import Properties

_ANSWER_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.1
_START: Final = -2
_END: Final = -1
"""Logical timestamps: offsets_for_times answers them with a partition's start and end."""
_FIRST_LOOK_RECORDS: Final = 10

T = TypeVar("T")


class Topics:
    """
    Answers questions about topics; never subscribes and never commits.

    With the name of a consumer group it also tells how far that group has come. Every method
    raises SimulationError where the broker does not answer.
    """

    def __init__(self, properties: Properties, group: str = "fraudstream-simulate") -> None:
        self._address = properties["bootstrap.servers"]
        self._trouble: KafkaError | None = None
        ours = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",
            "error_cb": self._note,
            "log_level": 0,  # what goes wrong is said once, in a sentence
        }
        try:
            self._consumer = Consumer({**properties, **ours})
        except KafkaException as error:
            raise SimulationError(
                f"the Kafka client refuses its properties ({error.args[0].str()}): "
                "change them in --command-config"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def brokers(self) -> list[tuple[str, int]]:
        """Return host and port of each broker, as the brokers themselves name them."""
        found = self._ask(lambda: self._consumer.list_topics(timeout=_ANSWER_SECONDS))
        return [(broker.host, broker.port) for broker in found.brokers.values()]

    def partition_count(self, topic: str) -> int:
        """Return how many partitions the topic has; SimulationError where there is no topic."""
        # All topics are listed, as asking for one could create it.
        found = self._ask(lambda: self._consumer.list_topics(timeout=_ANSWER_SECONDS))
        if topic not in found.topics:
            raise SimulationError(
                f"there is no topic {topic} at {self._address}: "
                "create it (fraudstream topics), or name another with --topic or --labels-topic"
            )
        return len(found.topics[topic].partitions)

    def unread(self, topic: str, partition_count: int) -> int:
        """Return how many records of the topic the group has not committed."""
        partitions = [TopicPartition(topic, partition) for partition in range(partition_count)]
        # In this order a record that arrives in between counts as unread, never as read.
        committed = self._ask(lambda: self._consumer.committed(partitions, _ANSWER_SECONDS))
        starts = self._offsets(topic, partition_count, _START)
        ends = self._offsets(topic, partition_count, _END)
        return sum(
            end - max(start, at.offset)
            for at, start, end in zip(committed, starts, ends, strict=True)
        )

    def last_records(
        self, topic: str, partition_count: int, wanted: Callable[[bytes], bool]
    ) -> dict[int, bytes]:
        """
        Return the value of each partition's last record that is `wanted`, where there is one.

        The search goes back from the end in ever longer steps, past the records of others.
        """
        starts = self._offsets(topic, partition_count, _START)
        until = dict(enumerate(self._offsets(topic, partition_count, _END)))
        found: dict[int, bytes] = {}
        look_back_records = _FIRST_LOOK_RECORDS
        while until := {p: end for p, end in until.items() if end > starts[p] and p not in found}:
            since = {p: max(starts[p], end - look_back_records) for p, end in until.items()}
            found |= self._last_between(topic, since, until, wanted)
            until = since
            look_back_records *= 10
        return found

    def _last_between(
        self,
        topic: str,
        since: dict[int, int],
        until: dict[int, int],
        wanted: Callable[[bytes], bool],
    ) -> dict[int, bytes]:
        """Read each partition from `since` on and before `until`; keep its last wanted value."""
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in since.items()])
        found: dict[int, bytes] = {}
        reading = set(since)
        while reading:
            record = self._next_record()
            partition, offset = record.partition() or 0, record.offset() or 0
            value = record.value()
            at_end = record.error() is not None or offset >= until[partition]
            if not at_end and value is not None and wanted(value):
                found[partition] = value
            if at_end or offset == until[partition] - 1:
                reading.discard(partition)
        self._consumer.unassign()
        return found

    def _next_record(self) -> Message:
        """Return the next record, or the notice that a partition has no more."""
        record = self._consumer.poll(_ANSWER_SECONDS)
        if record is None:
            raise self._no_answer(self._trouble)
        error = record.error()
        if error is not None and error.name() != "_PARTITION_EOF":
            raise self._no_answer(error)
        return record

    def _offsets(self, topic: str, partition_count: int, logical_time: int) -> list[int]:
        asked = [TopicPartition(topic, p, logical_time) for p in range(partition_count)]

        def offsets() -> list[int]:
            found = self._consumer.offsets_for_times(asked, _ANSWER_SECONDS)
            for partition in found:
                if partition.error is not None:
                    raise KafkaException(partition.error)
            return [partition.offset for partition in found]

        return self._ask(offsets)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask until there is an answer: a topic just created, for one, has no leader yet."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return question()
            except KafkaException as error:
                self._consumer.poll(_RETRY_SECONDS)  # lets the client say what its trouble is
                if time.monotonic() > deadline:
                    raise self._no_answer(self._trouble or error.args[0]) from error

    def _no_answer(self, reason: KafkaError | None) -> SimulationError:
        said = reason.str() if reason is not None else "no reason given"
        return SimulationError(
            f"the broker at {self._address} does not answer ({said}): "
            "check --bootstrap-servers and the properties in --command-config"
        )

    def _note(self, trouble: KafkaError) -> None:
        """Keep what the client says of its connections: it knows more than a time-out tells."""
        if trouble.name() != "_ALL_BROKERS_DOWN":  # the sum of troubles, not the cause of one
            self._trouble = trouble
