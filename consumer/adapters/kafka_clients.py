"""
Configuration of every Kafka client we open: the user's properties, and over them what we rest on.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from consumer.errors import ConfigError
from consumer.settings import Settings

_CONSUMER_ONLY: Final = frozenset(
    {
        "group.id", "group.instance.id", "group.protocol", "group.protocol.type",
        "group.remote.assignor", "partition.assignment.strategy", "session.timeout.ms",
        "heartbeat.interval.ms", "max.poll.interval.ms", "coordinator.query.interval.ms",
        "queued.min.messages", "queued.max.messages.kbytes", "fetch.wait.max.ms",
        "fetch.queue.backoff.ms", "fetch.message.max.bytes", "max.partition.fetch.bytes",
        "fetch.max.bytes", "fetch.min.bytes", "fetch.error.backoff.ms", "check.crcs",
        "auto.offset.reset", "allow.auto.create.topics",
    }
)  # fmt: skip
_PRODUCER_ONLY: Final = frozenset(
    {
        "transaction.timeout.ms", "enable.gapless.guarantee", "queue.buffering.max.messages",
        "queue.buffering.max.kbytes", "queue.buffering.max.ms", "linger.ms",
        "queue.buffering.backpressure.threshold", "message.send.max.retries", "retries",
        "compression.codec", "compression.type", "compression.level", "batch.num.messages",
        "batch.size", "sticky.partitioning.linger.ms", "request.timeout.ms", "message.timeout.ms",
        "delivery.timeout.ms", "queuing.strategy",
    }
)  # fmt: skip

ErrorCallback = Callable[[KafkaError], None]


def group_consumer_config(settings: Settings, on_error: ErrorCallback) -> dict[str, Any]:
    """
    Return the configuration of the member of the group; it starts where the source tells it to.
    """
    return {
        "group.id": settings.group,
        # A backlog may fill the queue, and each record in it takes as much again. When the queue is
        # full the client waits a second by default, in which we would empty a small one.
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 10,
        **_eager_or_not(settings.kafka),
        **_without(settings.kafka, _PRODUCER_ONLY),
        **_client(settings, on_error),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        # Every partition starts at an offset we chose; one that is gone must not pass silently.
        "auto.offset.reset": "error",
    }


def reader_config(settings: Settings, on_error: ErrorCallback) -> dict[str, Any]:
    """
    Return the configuration of a consumer that reads assigned partitions and never joins the group.
    """
    membership = {
        "group.instance.id", "group.protocol", "group.remote.assignor", "session.timeout.ms",
        "heartbeat.interval.ms", "max.poll.interval.ms", "partition.assignment.strategy",
    }  # fmt: skip
    return {
        **_without(settings.kafka, _PRODUCER_ONLY | membership),
        **_client(settings, on_error),
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    }


def place(message: Message) -> tuple[int, int]:
    """Return partition and offset of a consumed record, which the client's types leave open."""
    return cast(int, message.partition()), cast(int, message.offset())


def admin_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of an admin client."""
    return {**_quiet(settings.kafka), **_without(settings.kafka, _PRODUCER_ONLY | _CONSUMER_ONLY)}


def producer_config(settings: Settings, on_error: ErrorCallback) -> dict[str, Any]:
    """
    Return the configuration of an idempotent producer that puts a card where Java clients would.
    """
    return {
        # A batch is flushed as a whole, so waiting longer for a fuller request gains nothing.
        "linger.ms": 5,
        "queue.buffering.max.messages": 1_000_000,
        "message.max.bytes": 4 * 2**20,
        **_without(settings.kafka, _CONSUMER_ONLY),
        **_client(settings, on_error),
        "enable.idempotence": True,
        # A new leader that refuses one request may take the next of a producer that it does not
        # know; the client then counts both as delivered (docs/decisions/0010).
        "max.in.flight.requests.per.connection": 1,
        "acks": "all",
        "partitioner": "murmur2_random",
        "delivery.report.only.error": True,
    }


def transactional_config(settings: Settings, on_error: ErrorCallback, slot: int) -> dict[str, Any]:
    """Return the configuration of one of the two producers that take turns with transactions."""
    return _transactional(settings, on_error, f"{settings.instance.id}-{slot}")


def letters_producer_config(settings: Settings, on_error: ErrorCallback) -> dict[str, Any]:
    """
    Return the configuration of who replays and discards dead letters: one at a time in a group.

    What it leaves open when it is killed holds up the readers of the input, so that is not long.
    """
    config = _transactional(settings, on_error, "dead-letters")
    timeouts = {"message.timeout.ms", "delivery.timeout.ms"}  # the transaction's is theirs
    return {
        **_without(config, timeouts),
        "transaction.timeout.ms": 10_000,
        "delivery.report.only.error": False,
    }


def _transactional(settings: Settings, on_error: ErrorCallback, who: str) -> dict[str, Any]:
    config = producer_config(settings, on_error)
    config["transactional.id"] = f"{settings.group}-{who}"
    config.setdefault("transaction.timeout.ms", 60_000)
    # When all brokers are away, librdkafka 2.16 forgets them and bootstraps again; the next
    # send_offsets_to_transaction() then waits, for ever, for the coordinator that it had known.
    config.setdefault("metadata.recovery.strategy", "none")
    return config


def uses_incremental_rebalance(kafka: Mapping[str, str]) -> bool:
    """
    Say whether partitions come and go one by one, so that assign() must be the incremental one.
    """
    if kafka.get("group.protocol", "classic") == "consumer":
        return True
    return kafka.get("partition.assignment.strategy", "cooperative-sticky") == "cooperative-sticky"


def check_properties(settings: Settings) -> None:
    """Let the client library judge the Kafka properties. Raises ConfigError with its sentence."""
    faults = []
    for make, config in (
        (Consumer, group_consumer_config(settings, _ignore)),
        (Producer, producer_config(settings, _ignore)),
    ):
        try:
            client = make(config)
        except (KafkaException, TypeError) as error:
            cause = error.args[0]
            text = cause.str() if isinstance(cause, KafkaError) else str(cause)
            faults.append(f"kafka: {text}")
        else:
            client.close()
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def _client(settings: Settings, on_error: ErrorCallback) -> dict[str, Any]:
    name = f"fraudstream-{settings.instance.id}" if settings.instance.id else "fraudstream"
    return {
        "client.id": settings.kafka.get("client.id", name),
        "error_cb": on_error,
        **_quiet(settings.kafka),
    }


def _quiet(kafka: Mapping[str, str]) -> dict[str, str]:
    """
    Keep the client's own lines out of our log, unless they were asked for: error_cb tells the same.
    """
    return {} if kafka.keys() & {"debug", "log_level"} else {"log_level": "2"}


def _eager_or_not(kafka: Mapping[str, str]) -> dict[str, str]:
    if kafka.get("group.protocol", "classic") == "consumer":
        return {}
    return {"partition.assignment.strategy": "cooperative-sticky"}


def _without(kafka: Mapping[str, str], names: frozenset[str] | set[str]) -> dict[str, str]:
    return {name: value for name, value in kafka.items() if name not in names}


def _ignore(_: KafkaError) -> None:
    """Nothing is connected while properties are checked."""
