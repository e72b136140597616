"""Publishes a batch and commits its offsets: all of it or nothing, as the guarantee says."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from consumer.adapters.bounded_calls import BoundedCalls
from consumer.adapters.kafka_errors import (
    Consequence,
    consequence,
    fatal,
    is_denial,
    kafka_error,
)
from consumer.errors import (
    AssignmentLostError,
    BatchAbortedError,
    FatalError,
    OutageError,
    OutputRefusedError,
    PartitionsHeldError,
)
from consumer.records import Outputs
from consumer.telemetry import Telemetry

_RETRY_SECONDS: Final = 0.1
_SLICE_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 2.0
_FENCED_AGAIN_SECONDS: Final = 600.0


class Membership(Protocol):
    """What a sink needs of the source: offsets are committed in the name of its membership."""

    group_metadata: Any

    def is_member(self) -> bool:
        """Say whether the group still knows us."""

    def commit(self, next_offsets: dict[int, int], within_seconds: float) -> None:
        """Commit, and wait for the answer. Raises KafkaException; TimeoutError if none comes."""


class TransactionalMembership(Membership, Protocol):
    """What a sink needs besides where the offsets are part of its transaction."""

    def committed(self, partitions: list[int]) -> dict[int, int | None]:
        """Ask the broker for committed offsets. Raises KafkaException."""

    def places(self, next_offsets: dict[int, int]) -> list[TopicPartition]:
        """Return next offsets as they are committed."""


class _Deliveries:
    """Delivery reports of one producer: only failures are reported, and the first is kept."""

    def __init__(self) -> None:
        self.failed: KafkaError | None = None
        self.failed_topic = ""

    def begin(self) -> None:
        """Forget what became of an earlier batch."""
        self.failed = None

    def report(self, error: KafkaError | None, message: Message) -> None:
        """Keep the first failure. Must not raise: that would surface from an unrelated call."""
        if error is not None and self.failed is None:
            self.failed = error
            self.failed_topic = message.topic() or ""


class _Places:
    """Knows the partitions of topics whose records name theirs: those of dead letters."""

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}

    def require(self, producer: Producer, outputs: Sequence[Outputs]) -> None:
        """
        Return when all partitions that are named exist. Raises PartitionsHeldError, or what
        `consequent` says where the brokers cannot be asked.

        The client would only call the partition unknown, as it does while a broker comes back.
        """
        for batch in outputs:
            if not batch.partitions or max(batch.partitions) < self._widths.get(batch.topic, 0):
                continue
            try:
                found = producer.list_topics(batch.topic, timeout=_REQUEST_SECONDS)
            except KafkaException as exception:
                raise consequent(kafka_error(exception)) from exception
            topic = found.topics[batch.topic]
            if topic.error is not None and is_denial(topic.error):
                raise consequent(topic.error, batch.topic)
            width = len(topic.partitions)
            if width == 0:  # no broker knows it at the moment
                raise BatchAbortedError(f"topic {batch.topic} is not there")
            self._widths[batch.topic] = width
            if missing := sorted({p for p in batch.partitions if p >= width}):
                raise PartitionsHeldError(batch.topic, width, missing)


class AtLeastOnceSink:
    """Commits offsets once every output of the batch is acknowledged by all in-sync replicas."""

    def __init__(
        self, config: dict[str, Any], membership: Membership, outage_limit_seconds: float
    ) -> None:
        """`config` is that of kafka_clients.producer_config."""
        self._deliveries = _Deliveries()
        self._places = _Places()
        self._producer = Producer(
            {
                "message.timeout.ms": int(outage_limit_seconds * 1_000),
                **config,
                "on_delivery": self._deliveries.report,
            }
        )
        self._membership = membership
        self._outage_limit = outage_limit_seconds

    def publish(self, outputs: Sequence[Outputs], next_offsets: dict[int, int]) -> None:
        """
        Return when all is out and committed; raise BatchAbortedError when the offsets are not.

        Outputs may then be seen twice, and are the same predictions.
        """
        if not next_offsets:
            return
        deadline = time.monotonic() + self._outage_limit
        self._places.require(self._producer, outputs)
        self._deliveries.begin()
        produce(self._producer, outputs)
        while self._producer.flush(_SLICE_SECONDS) > 0:
            if time.monotonic() > deadline:
                raise OutageError(self._outage_limit)
        if self._deliveries.failed is not None:
            raise consequent(self._deliveries.failed, self._deliveries.failed_topic)
        self._commit(next_offsets, deadline)

    def close(self) -> None:
        """Give up what is still queued: it belongs to a batch that is not committed."""
        self._producer.purge()
        self._producer.flush(_SLICE_SECONDS)

    def _commit(self, next_offsets: dict[int, int], deadline: float) -> None:
        while True:
            left = max(_SLICE_SECONDS, deadline - time.monotonic())
            try:
                self._membership.commit(next_offsets, left)
            except TimeoutError as fault:
                raise OutageError(self._outage_limit) from fault
            except KafkaException as exception:
                error = kafka_error(exception)
                if consequence(error) is not Consequence.RETRY:
                    raise consequent(error) from exception
                if time.monotonic() > deadline:
                    raise OutageError(self._outage_limit) from exception
                time.sleep(_RETRY_SECONDS)
            else:
                return


class ExactlyOnceSink:
    """
    One transaction a batch holds its outputs and its offsets.

    Two producers take turns: after a commit, the coordinator is still writing the markers of one
    transactional id while the other may begin. Never are two transactions open, and none begins
    while the outcome of the one before is unknown.
    """

    def __init__(
        self,
        configs: Sequence[dict[str, Any]],
        membership: TransactionalMembership,
        telemetry: Telemetry,
        outage_limit_seconds: float,
    ) -> None:
        """`configs` are those of kafka_clients.transactional_config, one for each slot."""
        self._deliveries = _Deliveries()
        self._places = _Places()
        self._configs = [{**config, "on_delivery": self._deliveries.report} for config in configs]
        self._clients: list[_Client | None] = [None] * len(configs)
        self._transaction_seconds = min(int(c["transaction.timeout.ms"]) for c in configs) / 1_000
        self._membership = membership
        self._telemetry = telemetry
        self._outage_limit = outage_limit_seconds
        self._turn = 0
        self._fenced_at = -math.inf

    def open(self) -> None:
        """Fence whoever held these transactional ids, and finish what it left open."""
        for slot in range(len(self._configs)):
            self._ready_client(slot)

    def publish(self, outputs: Sequence[Outputs], next_offsets: dict[int, int]) -> None:
        """
        Return when all is out and committed; raise BatchAbortedError when nothing is.

        An outcome that is unknown is resolved in here. Raises FatalError when another instance
        uses our transactional ids, OutageError when the brokers stay away.
        """
        if not next_offsets:
            return
        if not self._membership.is_member():
            raise AssignmentLostError("the group does not know us any more")
        slot, self._turn = self._turn, (self._turn + 1) % len(self._configs)
        self._places.require(self._ready_client(slot).producer, outputs)
        transaction = _Transaction(self._ready_client(slot), self._transaction_seconds)
        offsets = self._membership.places(next_offsets)
        self._deliveries.begin()
        try:
            transaction.run(outputs, offsets, self._membership.group_metadata)
        except KafkaException as exception:
            error = kafka_error(exception)
            if error.code() == KafkaError._INCONSISTENT and self._deliveries.failed is not None:
                error = self._deliveries.failed  # the commit knows how many failed, and not why
        except BaseException as fault:
            self._end(slot, transaction)
            if transaction.is_fenced and isinstance(fault, FatalError):  # as produce() has it
                raise BatchAbortedError("fenced") from None
            raise
        else:
            return
        # Outside the handler, whose traceback would keep the old producer alive.
        self._resolve(slot, transaction, error, next_offsets)

    def close(self) -> None:
        """Drop both producers; the next holder of their ids ends what one may have left open."""
        for slot in range(len(self._configs)):
            self._drop_client(slot)

    def _resolve(
        self,
        slot: int,
        transaction: "_Transaction",
        error: KafkaError,
        next_offsets: dict[int, int],
    ) -> None:
        """Return if the transaction was committed after all; raise what follows if it was not."""
        self._note_fenced(slot, transaction, error)
        self._end(slot, transaction)
        if not (transaction.commit_was_called and self._is_committed(next_offsets)):
            if error.fatal():  # to the producer, which is replaced
                raise BatchAbortedError(error.name())
            raise consequent(error, self._deliveries.failed_topic)

    def _note_fenced(self, slot: int, transaction: "_Transaction", error: KafkaError) -> None:
        """
        Note where an error says that a younger producer has our transactional id; raise FatalError
        where one of another transaction did, soon before.

        The first is passed over: a coordinator whose clock jumps ends so what it finds open. An
        instance with our id fences us again and again.
        """
        if error.code() != KafkaError._FENCED or transaction.is_overdue or transaction.is_fenced:
            return
        transaction.is_fenced = True
        since, self._fenced_at = self._fenced_at, time.monotonic()
        if self._fenced_at - since < _FENCED_AGAIN_SECONDS:
            name = self._configs[slot]["transactional.id"]
            raise FatalError(
                f"another instance uses the transactional id {name}: give each instance an"
                " instance.id of its own"
            )

    def _end(self, slot: int, transaction: "_Transaction") -> None:
        """
        Leave no transaction open: abort it, or replace its producer, whose successor ends it.

        A producer that could not deliver is not used again: its sequence has a hole, for which the
        broker refuses what comes after the abort. Raises FatalError when another instance uses our
        transactional id: a fenced producer's produce() says only that there was a fatal fault, and
        the abort which.
        """
        if self._deliveries.failed is None:
            refusal = transaction.abort()
            if refusal is None:
                return
            self._note_fenced(slot, transaction, refusal)
        self._telemetry.producer_replaced()
        self._drop_client(slot)
        # The client ends here, before its successor begins; one that is stuck, when it is fenced.
        del transaction.producer
        self._ready_client(slot)

    def _is_committed(self, next_offsets: dict[int, int]) -> bool:
        """Ask the broker what became of the transaction, now that it is no longer open."""
        deadline = time.monotonic() + self._outage_limit
        while True:
            try:
                committed = self._membership.committed(list(next_offsets))
            except KafkaException as exception:
                self._wait(exception, deadline)
                continue
            is_committed = all((committed[p] or 0) >= o for p, o in next_offsets.items())
            self._telemetry.outcome_resolved(committed=is_committed)
            return is_committed

    def _drop_client(self, slot: int) -> None:
        client, self._clients[slot] = self._clients[slot], None
        if client is not None:
            client.calls.close()

    def _ready_client(self, slot: int) -> "_Client":
        client = self._clients[slot]
        if client is not None:
            return client
        producer = Producer(self._configs[slot])
        deadline = time.monotonic() + self._outage_limit
        while True:
            try:
                producer.init_transactions(_SLICE_SECONDS)
            except KafkaException as exception:
                self._wait(exception, deadline)
            else:
                self._clients[slot] = client = _Client(producer, BoundedCalls())
                return client

    def _wait(self, exception: KafkaException, deadline: float) -> None:
        """Wait a moment after an error that time may heal; raise for any other."""
        error = kafka_error(exception)
        if consequence(error) is not Consequence.RETRY:
            raise fatal("the transaction coordinator refuses us", error) from exception
        if time.monotonic() > deadline:
            raise OutageError(self._outage_limit) from exception
        time.sleep(_RETRY_SECONDS)


@dataclass(frozen=True)
class _Client:
    """A producer and who makes its calls."""

    producer: Producer
    calls: BoundedCalls


class _Transaction:
    """One attempt to get a batch out; it remembers how far it came."""

    def __init__(self, client: _Client, budget_seconds: float) -> None:
        self.producer = client.producer
        self._calls = client.calls
        self.commit_was_called = False
        self.is_fenced = False
        self._overdue_at = time.monotonic() + budget_seconds

    @property
    def is_overdue(self) -> bool:
        """Say whether the coordinator may have ended the transaction by itself, and fenced us."""
        return time.monotonic() > self._overdue_at

    def run(
        self, outputs: Sequence[Outputs], offsets: list[TopicPartition], group_metadata: Any
    ) -> None:
        """Produce, send the offsets and commit. Raises KafkaException, OutputRefusedError."""
        self.producer.begin_transaction()
        produce(self.producer, outputs)
        self._resumed(self.producer.send_offsets_to_transaction, offsets, group_metadata)
        self.commit_was_called = True
        self._resumed(self.producer.commit_transaction)

    def abort(self) -> KafkaError | None:
        """Abort; return None when the broker confirmed it, else why it did not."""
        try:
            self._make(self.producer.abort_transaction, seconds=_SLICE_SECONDS)
        except KafkaException as exception:
            return kafka_error(exception)
        return None

    def _resumed(self, call: Callable[..., None], *args: Any) -> None:
        """Make a call, and the same call again while it only timed out: it goes on where it was."""
        while True:
            left = min(_CALL_SECONDS, self._overdue_at - time.monotonic())
            try:
                self._make(call, *args, seconds=max(_SLICE_SECONDS, left))
            except KafkaException as exception:
                error = kafka_error(exception)
                if self.is_overdue or self._calls.is_stuck or not error.retriable():
                    raise
            else:
                return

    def _make(self, call: Callable[..., None], *args: Any, seconds: float) -> None:
        """
        Make a call with that time-out, which it may not keep. Raises KafkaException.

        librdkafka 2.16 has send_offsets_to_transaction() wait for a coordinator that left the
        cluster, until a connection happens to change, and its commits for brokers that are frozen.
        """
        try:
            self._calls.make(call, *args, seconds, within_seconds=seconds + _GRACE_SECONDS)
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def produce(producer: Producer, outputs: Sequence[Outputs]) -> None:
    """
    Queue all outputs, or raise: a record that is dropped here would be missing from the commit.

    Raises OutputRefusedError for one that is too large, else what `consequent` says.
    """
    topic = ""
    try:
        for batch in outputs:
            topic = batch.topic
            if batch.headers is None:
                # Two thirds of the cost of produce_batch(), which wants a dictionary a record.
                calls = map(producer.produce, repeat(batch.topic), batch.values, batch.keys)
                deque(calls, maxlen=0)
            else:
                _produce_with_headers(producer, batch)
    except KafkaException as exception:
        raise consequent(kafka_error(exception), topic) from exception
    except BufferError as error:
        raise BatchAbortedError(
            "a batch does not fit the producer's queue (queue.buffering.max.messages, .kbytes)"
        ) from error


def _produce_with_headers(producer: Producer, batch: Outputs) -> None:
    columns = (batch.keys, batch.values, batch.headers, batch.partitions, batch.timestamps)
    for key, value, headers, partition, timestamp in zip(*columns, strict=True):  # type: ignore[arg-type]
        producer.produce(
            batch.topic, value, key, partition, timestamp=timestamp, headers=list(headers)
        )


def consequent(error: KafkaError, topic: str = "") -> Exception:
    """
    Return what to raise for an error that left nothing of the batch committed; `topic` is of the
    output that it is about.
    """
    match consequence(error):
        case Consequence.ASSIGNMENT_LOST:
            return AssignmentLostError(error.name())
        case Consequence.OUTPUT_REFUSED:
            return OutputRefusedError(error.name(), topic)
        case Consequence.RETRY:
            return BatchAbortedError(error.name())
    return fatal("the outputs cannot be published", error)
