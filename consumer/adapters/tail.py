"""Show what is on the output topics and the label topic, one line or one JSON object a record."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.adapters.avro_records import AvroRecords, plain
from consumer.adapters.kafka_clients import place, reader_config
from consumer.adapters.kafka_errors import Consequence, consequence
from consumer.adapters.message_columns import headers_of
from consumer.core.dead_letter import PREFIX
from consumer.errors import FatalError
from consumer.settings import Settings

KINDS: Final = ("predictions", "alerts", "dead-letters", "labels")
_SCHEMAS: Final[Mapping[str, str]] = {
    "predictions": "prediction", "alerts": "alert", "labels": "label",
}  # fmt: skip
_REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show; None shows all."""

    card: str | None = None
    decision: str | None = None
    reason: str | None = None

    def pass_(self, shown: Mapping[str, Any]) -> bool:
        """Say whether a record, as it would be shown, is wanted."""
        cards = {shown.get("card_id"), shown.get("subject_id"), shown.get("key")}
        reasons = {reason["code"] for reason in shown.get("reasons", ())} | {shown.get("reason")}
        return (
            (self.card is None or self.card in cards)
            and (self.decision is None or self.decision.upper() == shown.get("decision"))
            and (self.reason is None or self.reason in reasons)
        )


def topic_of(kind: str, settings: Settings) -> str:
    """Return the topic of a kind of record."""
    topics = settings.topics
    return {
        "predictions": topics.predictions, "alerts": topics.alerts,
        "dead-letters": settings.dead_letter_topic, "labels": topics.labels,
    }[kind]  # fmt: skip


def tail(
    settings: Settings, kind: str, *, from_beginning: bool, follow: bool
) -> Iterator[dict[str, Any]]:
    """
    Yield the records of a topic as they would be shown, committed ones only.

    Without `follow`, up to the topic's end as it was. Raises FatalError when it cannot be read.
    """
    topic = topic_of(kind, settings)
    consumer = Consumer(reader_config(settings, lambda _: None) | {"enable.partition.eof": True})
    show = _reader_of(kind)
    try:
        waiting = _partitions(consumer, topic)
        at = -2 if from_beginning else -1  # logical offsets: beginning and end
        consumer.assign([TopicPartition(topic, partition, at) for partition in waiting])
        while waiting or follow:
            for message in consumer.consume(500, timeout=0.5):
                error = message.error()
                if error is None:
                    yield show(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(place(message)[0])
                else:
                    _require_passing(error)
    except KafkaException as error:
        raise FatalError(f"{topic} cannot be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _require_passing(error: KafkaError) -> None:
    """Raise KafkaException for what waiting does not mend, as a right to read that we lack."""
    if consequence(error) is Consequence.FATAL:
        raise KafkaException(error)


def _partitions(consumer: Consumer, topic: str) -> set[int]:
    found = consumer.list_topics(topic, timeout=_REQUEST_SECONDS).topics[topic]
    if found.error is not None:
        raise FatalError(f"topic {topic} does not exist; run `fraudstream topics`")
    return set(found.partitions)


def as_line(kind: str, shown: Mapping[str, Any]) -> str:
    """Return one readable line."""
    if "unreadable" in shown:
        return str(shown["unreadable"])
    if kind == "dead-letters":
        return (
            f"{shown['timestamp']}  {shown['reason']:<18} {shown['stage']:<9}"
            f" {shown['topic']}[{shown['partition']}]@{shown['offset']}"
            f"  {shown['value_bytes']} bytes"
        )
    if kind == "labels":
        return (
            f"{shown['published_at']}  {shown['verdict']:<8} {shown['transaction_id']}"
            f"  at {shown['terminal_id']}  by {shown['source']}"
        )
    reasons = " ".join(reason["code"] for reason in shown["reasons"])
    if kind == "alerts":
        return (
            f"{shown['opened_at']}  severity {shown['severity']}  score {shown['max_score']:>3}"
            f"  {shown['subject_id']}  {shown['amount_minor']} minor {shown['currency']}  {reasons}"
        )
    flags = ",".join(shown["degraded"])
    return (
        f"{shown['event_time']}  {shown['decision']:<9} score {shown['score']:>3}"
        f"  p={shown['probability']:.6f}  {shown['card_id']}  {reasons} {flags}".rstrip()
    )


def as_json(shown: Mapping[str, Any]) -> str:
    """Return one JSON object on one line."""
    return json.dumps(shown, separators=(",", ":"))


def _reader_of(kind: str) -> Callable[[Message], dict[str, Any]]:
    if kind == "dead-letters":
        return _show_dead_letter
    records = AvroRecords(_SCHEMAS[kind])

    def show(message: Message) -> dict[str, Any]:
        record = records.read(message.value())
        if record is None:
            size = len(message.value() or b"")
            return {"unreadable": f"{size} bytes of no known schema", "reasons": []}
        return plain(record)

    return show


def _show_dead_letter(message: Message) -> dict[str, Any]:
    """Show where and why, never the value: it may hold anything."""
    headers = headers_of(message) or []
    facts = {
        name.removeprefix(PREFIX).replace(".", "_"): value.decode("utf-8", "replace")
        for name, value in headers
        if name.startswith(PREFIX) and value is not None
    }
    stamp = datetime.fromtimestamp(message.timestamp()[1] / 1_000, UTC)
    return {
        "timestamp": stamp.isoformat(), "reason": "", "stage": "", "topic": "",
        "partition": "", "offset": "", **facts, "value_bytes": len(message.value() or b""),
    }  # fmt: skip
