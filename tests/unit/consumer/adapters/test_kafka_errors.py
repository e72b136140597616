import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.adapters.kafka_errors import Consequence, consequence, fatal, kafka_error
from consumer.errors import DeniedError

RETRY, LOST, REFUSED, FATAL = (
    Consequence.RETRY, Consequence.ASSIGNMENT_LOST, Consequence.OUTPUT_REFUSED, Consequence.FATAL,
)  # fmt: skip

CONSEQUENCES = {
    "_TRANSPORT": RETRY,
    "_ALL_BROKERS_DOWN": RETRY,
    "_TIMED_OUT": RETRY,
    "_TIMED_OUT_QUEUE": RETRY,
    "_WAIT_COORD": RETRY,
    "_RESOLVE": RETRY,
    "_DESTROY_BROKER": RETRY,
    "_MSG_TIMED_OUT": RETRY,
    "_WAIT_CACHE": RETRY,
    "_RETRY": RETRY,
    "_AUTHENTICATION": RETRY,
    "_PURGE_QUEUE": RETRY,
    "_PURGE_INFLIGHT": RETRY,
    "REQUEST_TIMED_OUT": RETRY,
    "NETWORK_EXCEPTION": RETRY,
    "LEADER_NOT_AVAILABLE": RETRY,
    "NOT_LEADER_FOR_PARTITION": RETRY,
    "BROKER_NOT_AVAILABLE": RETRY,
    "REPLICA_NOT_AVAILABLE": RETRY,
    "COORDINATOR_LOAD_IN_PROGRESS": RETRY,
    "COORDINATOR_NOT_AVAILABLE": RETRY,
    "NOT_COORDINATOR": RETRY,
    "NOT_ENOUGH_REPLICAS": RETRY,
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": RETRY,
    "KAFKA_STORAGE_ERROR": RETRY,
    "UNSTABLE_OFFSET_COMMIT": RETRY,
    "CONCURRENT_TRANSACTIONS": RETRY,
    "FENCED_LEADER_EPOCH": RETRY,
    "UNKNOWN_LEADER_EPOCH": RETRY,
    "UNKNOWN_TOPIC_OR_PART": RETRY,
    "_UNKNOWN_TOPIC": RETRY,
    "_UNKNOWN_PARTITION": RETRY,
    "OFFSET_NOT_AVAILABLE": RETRY,
    "THROTTLING_QUOTA_EXCEEDED": RETRY,
    "ILLEGAL_GENERATION": LOST,
    "UNKNOWN_MEMBER_ID": LOST,
    "REBALANCE_IN_PROGRESS": LOST,
    "STALE_MEMBER_EPOCH": LOST,
    "_ASSIGNMENT_LOST": LOST,
    "_MAX_POLL_EXCEEDED": LOST,
    "MSG_SIZE_TOO_LARGE": REFUSED,
    "INVALID_RECORD": REFUSED,
    "INVALID_MSG": REFUSED,
    "_FENCED": FATAL,
    "_FATAL": FATAL,
    "FENCED_INSTANCE_ID": FATAL,
    "PRODUCER_FENCED": FATAL,
    "INVALID_PRODUCER_EPOCH": FATAL,
    "INVALID_TXN_STATE": FATAL,
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": FATAL,
    "TOPIC_AUTHORIZATION_FAILED": FATAL,
    "GROUP_AUTHORIZATION_FAILED": FATAL,
    "CLUSTER_AUTHORIZATION_FAILED": FATAL,
    "OFFSET_OUT_OF_RANGE": FATAL,
    "_AUTO_OFFSET_RESET": FATAL,
    "_STATE": FATAL,
    "_INVALID_ARG": FATAL,
    "UNKNOWN": FATAL,
}


def every_code():
    """Return every error code that the client library knows by name."""
    names = {name for name in dir(KafkaError) if name.strip("_").isupper()}
    return {name: getattr(KafkaError, name) for name in sorted(names)}


@pytest.mark.parametrize("name", CONSEQUENCES)
def test_each_code_has_its_consequence(name):
    """One table, pinned: a code that changes sides loses records or stops processes."""
    assert consequence(KafkaError(every_code()[name])) is CONSEQUENCES[name]


@pytest.mark.parametrize("name", sorted(every_code().keys() - CONSEQUENCES.keys()))
def test_a_code_that_nobody_placed_is_fatal(name):
    """As rdkafka.h advises; a plain code is never retriable by itself."""
    assert consequence(KafkaError(every_code()[name])) is Consequence.FATAL


def test_a_fatal_flag_wins_over_the_table():
    """The client is done for, whatever the code."""
    error = KafkaError(KafkaError._TRANSPORT, "gone", fatal=True)

    assert consequence(error) is Consequence.FATAL


def test_a_retriable_flag_counts_where_the_table_has_no_answer():
    """The library may know codes that we do not."""
    error = KafkaError(KafkaError.UNKNOWN, "again", retriable=True)

    assert consequence(error) is Consequence.RETRY


def test_a_retriable_flag_does_not_win_over_the_table():
    """A batch whose partitions are gone must not be tried again."""
    error = KafkaError(KafkaError.ILLEGAL_GENERATION, "again", retriable=True)

    assert consequence(error) is Consequence.ASSIGNMENT_LOST


@pytest.mark.parametrize("name", ["TOPIC", "GROUP", "TRANSACTIONAL_ID"])
def test_a_missing_right_ends_the_process_even_where_an_abort_would_do(name):
    """librdkafka aborts the transaction, and would for ever; what is missing can be asked for."""
    code = getattr(KafkaError, f"{name}_AUTHORIZATION_FAILED")
    error = KafkaError(code, "denied", txn_requires_abort=True)

    assert consequence(error) is Consequence.FATAL
    denied = fatal("it cannot go on", error)
    assert isinstance(denied, DeniedError)
    assert denied.resource == name.lower().replace("_", "-")
    assert str(denied) == "it cannot go on: denied"


def test_the_error_is_taken_out_of_its_exception():
    """As the library wraps it."""
    error = KafkaError(KafkaError._TRANSPORT)

    assert kafka_error(KafkaException(error)) is error
