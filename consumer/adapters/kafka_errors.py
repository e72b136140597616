"""KafkaError -> what the caller does about it: one table."""

from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from consumer.errors import DeniedError, FatalError


class Consequence(Enum):
    """What follows from an error of a Kafka call."""

    RETRY = auto()
    """The same call again, until the outage limit."""
    ASSIGNMENT_LOST = auto()
    """Roll the batch back and poll: the group is being rebalanced."""
    OUTPUT_REFUSED = auto()
    """An output itself is at fault; find its record."""
    FATAL = auto()
    """Stop."""


_RETRY: Final = frozenset(
    {
        KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE, KafkaError._WAIT_COORD, KafkaError._RESOLVE,
        # What was asked of a broker that has left the cluster, as while it is restarted.
        KafkaError._DESTROY_BROKER,
        KafkaError._MSG_TIMED_OUT, KafkaError._WAIT_CACHE, KafkaError._RETRY,
        KafkaError._AUTHENTICATION, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT,
        KafkaError.REQUEST_TIMED_OUT, KafkaError.NETWORK_EXCEPTION,
        KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE, KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR, KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE, KafkaError.THROTTLING_QUOTA_EXCEEDED,
    }
)  # fmt: skip
_ASSIGNMENT_LOST: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST, KafkaError._MAX_POLL_EXCEEDED,
    }
)  # fmt: skip
_DENIED: Final = MappingProxyType(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
        KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional-id",
    }
)
_OUTPUT_REFUSED: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG}
)


def consequence(error: KafkaError) -> Consequence:
    """
    Say what follows from an error.

    The table decides where it knows the code: an error made from a plain code answers False to
    retriable() even for a lost connection. A transaction that has to be aborted may be tried again.
    Whatever nobody placed is fatal, as rdkafka.h advises; and so is a right that we lack, even
    where the client would abort the transaction and go on.
    """
    if error.fatal() or is_denial(error):
        return Consequence.FATAL
    for codes, follows in (
        (_ASSIGNMENT_LOST, Consequence.ASSIGNMENT_LOST),
        (_OUTPUT_REFUSED, Consequence.OUTPUT_REFUSED),
        (_RETRY, Consequence.RETRY),
    ):
        if error.code() in codes:
            return follows
    may_go_on = error.retriable() or error.txn_requires_abort()
    return Consequence.RETRY if may_go_on else Consequence.FATAL


def is_denial(error: KafkaError) -> bool:
    """Say whether an ACL is missing."""
    return error.code() in _DENIED


def fatal(sentence: str, error: KafkaError) -> FatalError:
    """Return what to raise for an error that ends the process: DeniedError where an ACL is."""
    text = f"{sentence}: {error.str()}"
    if is_denial(error):
        return DeniedError(text, _DENIED[error.code()])
    return FatalError(text)


def kafka_error(exception: KafkaException) -> KafkaError:
    """Return the error inside the exception."""
    error: KafkaError = exception.args[0]
    return error
