"""Polls the input topic as a member of the group, and knows where every partition goes on."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.adapters.bounded_calls import BoundedCalls
from consumer.adapters.kafka_clients import place, uses_incremental_rebalance
from consumer.adapters.kafka_errors import Consequence, consequence, fatal, kafka_error
from consumer.adapters.message_columns import as_records
from consumer.adapters.offset_metadata import OffsetMetadata
from consumer.adapters.topic_identity import TopicIdentity
from consumer.core.batching import BatchControl
from consumer.core.letter_limits import LetterLimits, Limit
from consumer.core.placement import Placement
from consumer.core.restore import Plan
from consumer.errors import FatalError
from consumer.records import Records, Refused, by_partition
from consumer.telemetry import Telemetry

_IDLE_SECONDS: Final = 0.1
_REQUEST_SECONDS: Final = 5.0
_SEEK_ATTEMPTS: Final = 50
_NO_OFFSET: Final = -1001
_BEYOND_SECONDS: Final = 5.0


class PartitionObserver(Protocol):
    """Who must know when a partition comes and goes: the state."""

    def plan(self, partition: int, committed: int | None) -> Plan | None:
        """
        Return where to start the partition; None while that is still being found out.

        Raises KafkaException when the broker is away.
        """

    def begin(self, partition: int, plan: Plan) -> None:
        """The partition starts with the records of the plan."""

    def part(self, partition: int, next_offset: int) -> None:
        """The partition is about to go to another, with all before the offset done."""

    def drop(self, partition: int) -> None:
        """The partition is no longer ours."""


@dataclass(slots=True)
class _Owned:
    """
    One partition of ours. `position` is our own next offset, None until its start is known;
    `is_paused` says that it has too many dead letters, and waits for somebody to look at it.

    `committed` is the group's; None while it was not asked for, _NO_OFFSET where there is none. No
    other member may move it while the partition is ours. From `decided_since` up to it our model
    and policy decided, before it another's.
    """

    position: int | None = None
    live_from: int = 0
    is_paused: bool = False
    committed: int | None = None
    decided_since: int = 0
    beyond_since: float = math.inf

    def expects(self, offset: int) -> bool:
        """Say whether a record with that offset is to be processed."""
        return self.position is not None and offset >= self.position and not self.is_paused


class KafkaSource:
    """
    The only owner of the group membership. All of it runs on the thread that polls.

    Callbacks run inside poll alone, between two batches, so a partition can neither come nor go
    while one is in hand. They never raise and never block: an exception in a callback would make
    the client throw away records that it had already moved past.
    """

    def __init__(  # noqa: PLR0913 - what a partition's start and its pauses depend on
        self,
        config: dict[str, Any],
        identity: TopicIdentity,
        scorer: str,
        observer: PartitionObserver,
        control: BatchControl,
        telemetry: Telemetry,
        limits: LetterLimits,
    ) -> None:
        """
        `config` is that of kafka_clients.group_consumer_config; the topic is the identity's.
        `scorer` is a word that another model or policy has not.
        """
        self._consumer: Final = Consumer(config)
        self._calls: Final = BoundedCalls()
        self._identity = identity
        self._topic = identity.topic
        self._scorer = scorer
        self._observer = observer
        self._control = control
        self._telemetry = telemetry
        self._limits = limits
        self._incremental = uses_incremental_rebalance(config)
        self._owned: dict[int, _Owned] = {}
        self._placement: Final = Placement()
        self._joined = False
        self._callback_fault: Exception | None = None
        self.group_metadata: Any = None
        self.in_hand: dict[int, tuple[int, int]] = {}
        """First record of each partition in the current batch: (offset, timestamp in ms)."""

    def subscribe(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost,
        )  # fmt: skip

    def poll(self) -> Records:
        """
        Return the next records, none when there are none.

        Raises FatalError where going on would lose records.
        """
        messages = self._fetch()
        if self._callback_fault is not None:
            raise FatalError("a rebalance callback failed") from self._callback_fault
        self._begin_assigned()
        self._telemetry.polled()
        if messages:
            # Captured here: at commit time it might be that of a membership that is already over.
            self.group_metadata = self._consumer.consumer_group_metadata()
        return self._columns(messages)

    def settled(self, records: Records, refused: Refused) -> None:
        """
        The batch is committed, these of it as dead letters or skips: go on after it.

        A partition with too many dead letters is paused: what it has next is left where it is.
        """
        for partition, position in records.positions.items():
            if partition in self._owned:
                self._owned[partition].position = position
        for partition, limit in self._limits.count(records, refused).items():
            self._pause(partition, limit)
        if (placed := self._placement.count(records)) is not None:
            self._telemetry.placement_seen(placed)
        self.in_hand = {}
        if not records.live.all():
            self._telemetry.restore_progressed(self.restore_remaining)

    def rewind(self, held: Sequence[int] = ()) -> None:
        """
        Go back to our own next offset on every partition still owned; those held are paused.

        The client's position has moved on; without this, a later commit would pass over what lay
        between.
        """
        self.in_hand = {}
        for partition, owned in self._owned.items():
            if partition in held:
                owned.is_paused = True
                self._consumer.pause([TopicPartition(self._topic, partition)])
            if owned.position is not None:
                self._seek(partition, owned.position)

    def resume_paused(self) -> None:
        """Go on with the partitions that are paused, each where it was."""
        for partition, owned in self._owned.items():
            if owned.is_paused and owned.position is not None:
                self._limits.forget(partition)
                owned.is_paused = False
                self._seek(partition, owned.position)
                self._consumer.resume([TopicPartition(self._topic, partition)])
                self._telemetry.partition_resumed(partition, owned.position)

    def commit(self, next_offsets: dict[int, int], within_seconds: float) -> None:
        """
        Commit, and wait for the answer. Raises KafkaException; TimeoutError if none comes, after
        which nothing more can be asked of the client.

        librdkafka 2.16 waits without end where all brokers are silent.
        """
        self._calls.make(self._commit, next_offsets, within_seconds=within_seconds)

    def _commit(self, next_offsets: dict[int, int]) -> None:
        for part in self._consumer.commit(offsets=self.places(next_offsets), asynchronous=False):
            if part.error is not None:
                raise KafkaException(part.error)

    def places(self, next_offsets: dict[int, int]) -> list[TopicPartition]:
        """Return next offsets as they are committed: with whose they are, and who decided."""
        return [
            TopicPartition(self._topic, partition, offset, self._metadata(partition))
            for partition, offset in next_offsets.items()
        ]

    def _metadata(self, partition: int) -> str:
        owned = self._owned.get(partition)
        since = 0 if owned is None else owned.decided_since
        return str(self._identity.metadata(self._scorer, since))

    def committed(self, partitions: list[int]) -> dict[int, int | None]:
        """
        Ask the broker for committed offsets; None where there is none, or one of a topic of that
        name that was deleted since. Raises KafkaException.
        """
        return {p: known and known[0] for p, known in self._ask(partitions).items()}

    def _ask(self, partitions: list[int]) -> dict[int, tuple[int, OffsetMetadata] | None]:
        """Ask for committed offsets, and for what was committed with them."""
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        answered = self._consumer.committed(wanted, timeout=_REQUEST_SECONDS)
        return {part.partition: self._known(part) for part in answered}

    def _known(self, part: TopicPartition) -> tuple[int, OffsetMetadata] | None:
        if part.offset < 0:
            return None
        said = self._identity.believed(OffsetMetadata.parse(part.metadata))
        if said is None:
            self._telemetry.offset_disregarded(part.partition, part.offset)
            return None
        return part.offset, said

    def is_member(self) -> bool:
        """Say whether the group still knows us; if not, our metadata would not be checked."""
        return bool(self._consumer.memberid())

    @property
    def uncommitted_from(self) -> dict[int, int]:
        """For each partition of ours that has begun, the first offset not yet committed."""
        return {
            partition: max(owned.position, owned.live_from)
            for partition, owned in list(self._owned.items())
            if owned.position is not None
        }

    @property
    def settled_offsets(self) -> dict[int, int]:
        """
        Our own next offset of each partition that is restored: between two batches, its state is
        what follows from all records before it.
        """
        return {
            partition: owned.position
            for partition, owned in self._owned.items()
            if owned.position is not None and owned.position >= owned.live_from
        }

    @property
    def restore_remaining(self) -> int:
        """Records still to be replayed; a partition whose start is not known counts as one."""
        return sum(
            1 if owned.position is None else max(0, owned.live_from - owned.position)
            for owned in self._owned.values()
        )

    @property
    def is_ready(self) -> bool:
        """
        Say whether the group answered, if with no partition, and none is still being restored.
        """
        return self._joined and self.restore_remaining == 0

    def close(self) -> None:
        """Leave the group, unless the client is stuck: to end it under a call would crash."""
        self._calls.close()
        if not self._calls.is_stuck:
            self._consumer.close()

    def _fetch(self) -> list[Message]:
        """
        Wait for one record, then a moment for more: consume() alone would wait in vain when idle.
        """
        limit = self._control.max_records
        messages: list[Message] = self._consumer.consume(limit, timeout=self._control.wait_seconds)
        if not messages:
            messages = self._consumer.consume(1, timeout=_IDLE_SECONDS)
            if messages and limit > 1:
                wait = self._control.wait_seconds
                messages += self._consumer.consume(limit - 1, timeout=wait)
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not self._is_error(message)]
        return messages

    def _is_error(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            partition, offset = place(message)
            owned = self._owned.get(partition)
            if owned is None or owned.position is None:
                return True  # a fetch at 0 was under way before the pause held
            if not 0 <= offset < owned.position:
                raise self._gone(partition, owned.position)
            self._seek(partition, owned.position)  # the same, told after the partition began
            return True
        if consequence(error) is Consequence.FATAL:
            raise fatal("the group consumer cannot go on", error)
        self._telemetry.client_error("group", error.name(), error.str())
        return True

    def _columns(self, messages: list[Message]) -> Records:
        """
        Return the messages as columns; those of partitions that are not ours any more are left.
        """
        records = as_records(self._topic, messages)
        first: dict[int, tuple[int, int]] = {}
        for partition, rows in by_partition(records.partitions):
            owned = self._owned.get(partition)
            offset = int(records.offsets[rows[0]])
            if owned is None or not owned.expects(offset):
                return self._columns([m for m in messages if self._is_expected(m)])
            records.live[rows] = records.offsets[rows] >= owned.live_from
            first[partition] = (offset, int(records.timestamps[rows[0]]))
        self.in_hand = first
        return records

    def _is_expected(self, message: Message) -> bool:
        """
        Refuse records of partitions that went while they were on their way, were rewound or paused.
        """
        partition, offset = place(message)
        owned = self._owned.get(partition)
        return owned is not None and owned.expects(offset)

    def _begin_assigned(self) -> None:
        """
        Find out where new partitions start, and let them run: outside the callback, as it blocks.
        """
        if self._owned and self._placement.width == 0:
            self._ask_width()
        new = {p: owned for p, owned in self._owned.items() if owned.position is None}
        if not new:
            return
        try:
            self._ask_committed([p for p, owned in new.items() if owned.committed is None])
            plans = {
                partition: self._observer.plan(
                    partition, None if owned.committed == _NO_OFFSET else owned.committed
                )
                for partition, owned in new.items()
            }
            beyond = [p for p, plan in plans.items() if plan and self._is_beyond_end(p)]
        except KafkaException as exception:
            error = kafka_error(exception)
            if consequence(error) is Consequence.RETRY:
                return  # they stay paused, and the next poll asks again
            raise fatal("committed offsets cannot be read", error) from exception
        for partition, plan in plans.items():
            if plan is None or partition in beyond:
                continue  # it stays paused, others go on, and the next poll asks again
            next_offset = new[partition].committed
            if next_offset not in {None, _NO_OFFSET} and next_offset < plan.live_from:
                raise self._gone(partition, next_offset)
            since = new[partition].decided_since
            self._observer.begin(partition, replace(plan, decided_since=since))
            self._seek(partition, plan.start)
            self._owned[partition] = _Owned(plan.start, plan.live_from, decided_since=since)
            self._consumer.resume([TopicPartition(self._topic, partition)])
        self._telemetry.restore_progressed(self.restore_remaining)

    def _pause(self, partition: int, limit: Limit) -> None:
        owned = self._owned.get(partition)
        if owned is None or owned.position is None:
            return
        owned.is_paused = True
        self._consumer.pause([TopicPartition(self._topic, partition)])
        self._telemetry.partition_paused(partition, owned.position, limit)

    def _gone(self, partition: int, offset: int) -> FatalError:
        """Return why the next record cannot be read. Raises TopicRemadeError where that is why."""
        self._identity.require_same_now()
        end = offset
        with contextlib.suppress(KafkaException):
            end = self._identity.end(partition)
        why = (
            f"partition {partition} ends before offset {offset}, so its log was cut or the offset"
            " set too high"
            if end < offset
            else "retention passed it before it was read"
        )
        return FatalError(
            f"the next record of {self._topic} is gone: {why} (the group's offset is kept; move it"
            " on purpose to go on)"
        )

    def _is_beyond_end(self, partition: int) -> bool:
        """
        Say whether the group's offset is beyond the end of the log. Raises FatalError when it is
        for some seconds: a broker that led before, and does not know better yet, may say so too.
        """
        owned = self._owned[partition]
        offset, now = owned.committed, time.monotonic()
        if offset in {None, _NO_OFFSET} or offset <= self._identity.end(partition):
            owned.beyond_since = math.inf
            return False
        owned.beyond_since = min(owned.beyond_since, now)
        if now - owned.beyond_since > _BEYOND_SECONDS:
            raise self._gone(partition, offset)
        return True

    def _ask_width(self) -> None:
        """Find out how many partitions the topic has; if no broker answers, at the next poll."""
        with contextlib.suppress(KafkaException):
            topics = self._consumer.list_topics(self._topic, timeout=_REQUEST_SECONDS).topics
            self._placement.width = len(topics[self._topic].partitions)

    def _ask_committed(self, partitions: list[int]) -> None:
        if partitions:
            self._identity.require_same_now()
            for partition, known in self._ask(partitions).items():
                owned = self._owned[partition]
                offset, metadata = (_NO_OFFSET, OffsetMetadata()) if known is None else known
                owned.committed = offset
                owned.decided_since = self._decided_since(offset, metadata)

    def _decided_since(self, committed: int, metadata: OffsetMetadata) -> int:
        """Return from where on our model and policy decided; offsets that others set are ours."""
        return metadata.since if metadata.scorer in {"", self._scorer} else committed

    def _seek(self, partition: int, offset: int) -> None:
        refusal: KafkaException | None = None
        for _ in range(_SEEK_ATTEMPTS):
            try:
                self._consumer.seek(TopicPartition(self._topic, partition, offset))
            except KafkaException as exception:
                refusal = exception
                time.sleep(0.02)  # the client has not begun the partition yet
            else:
                return
        if not self._incremental:
            raise FatalError(f"partition {partition} cannot be set to offset {offset}") from refusal
        self._assign_again(partition, offset)

    def _assign_again(self, partition: int, offset: int) -> None:
        """
        Begin a partition anew: the client leaves one for good whose fetch at 0 was refused, as
        retention took what was there.
        """
        self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guarded(lambda: self._take(consumer, partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guarded(lambda: self._part(partitions))
        self._guarded(lambda: self._give(consumer, partitions, self._telemetry.partitions_revoked))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guarded(lambda: self._give(consumer, partitions, self._telemetry.partitions_lost))

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as fault:  # noqa: BLE001 - the client would throw records away
            self._callback_fault = fault

    def _take(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = True
        self._placement.width = 0  # it may have grown
        for partition in partitions:
            # Set right in _begin_assigned. Not the log's end: the answer to where that is may come
            # after the seek, and everything up to it would be passed over.
            partition.offset = 0
            self._owned[partition.partition] = _Owned()
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._telemetry.partitions_assigned(_numbers(partitions), len(self._owned))

    def _part(self, partitions: list[TopicPartition]) -> None:
        settled = self.settled_offsets
        for partition in partitions:
            if partition.partition in settled:
                self._observer.part(partition.partition, settled[partition.partition])

    def _give(
        self,
        consumer: Consumer,
        partitions: list[TopicPartition],
        tell: Callable[[list[int], int], None],
    ) -> None:
        for partition in partitions:
            if self._owned.pop(partition.partition, None) is not None:
                self._observer.drop(partition.partition)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()
        tell(_numbers(partitions), len(self._owned))


def _numbers(partitions: list[TopicPartition]) -> list[int]:
    return sorted(partition.partition for partition in partitions)
