"""What became of a record of the input topic: its prediction, or its dead letter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Message

from consumer.adapters.avro_records import AvroRecords
from consumer.adapters.kafka_clients import place, reader_config
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_search import REQUEST_SECONDS, Progress, search
from consumer.adapters.message_columns import headers_of
from consumer.core.dead_letter import PREFIX
from consumer.settings import Settings

_CLOCKS_APART_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Published:
    """A prediction as it was published: its fields, and where it is, as topic[partition]@offset."""

    fields: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a dead letter's headers state, and where it is."""

    reason: str
    stage: str
    where: str


class Outcomes:
    """Finds outputs by the place of their input, committed ones only."""

    def __init__(self, settings: Settings, tell: Progress) -> None:
        """`tell` is told how far a search is."""
        config = reader_config(settings, lambda _: None)
        self._predictions = LogReader(config, settings.topics.predictions)
        self._dead_letters = LogReader(config, settings.dead_letter_topic)
        self._records = AvroRecords("prediction")
        self._tell = tell

    def prediction_of(self, record: Message) -> Published | None:
        """Return the record's prediction, None where there is none. Raises KafkaException."""
        source = (record.topic(), *place(record))

        def is_wanted(found: Message) -> bool:
            if found.key() != record.key():
                return False
            fields = self._records.read(found.value())
            return fields is not None and source == (
                fields["source_topic"], fields["source_partition"], fields["source_offset"],
            )  # fmt: skip

        found = self._near(self._predictions, record, is_wanted)
        fields = None if found is None else self._records.read(found.value())
        return None if found is None or fields is None else Published(fields, place_text(found))

    def dead_letter_of(self, record: Message) -> DeadLetter | None:
        """Return the record's dead letter, None where there is none. Raises KafkaException."""
        partition, offset = place(record)
        source = {"topic": record.topic(), "partition": str(partition), "offset": str(offset)}

        def is_wanted(found: Message) -> bool:
            return source.items() <= _stated(found).items()

        found = self._near(self._dead_letters, record, is_wanted)
        if found is None:
            return None
        stated = _stated(found)
        return DeadLetter(stated.get("reason", ""), stated.get("stage", ""), place_text(found))

    def close(self) -> None:
        """Close both clients."""
        self._predictions.close()
        self._dead_letters.close()

    def _near(
        self, reader: LogReader, record: Message, is_wanted: Callable[[Message], bool]
    ) -> Message | None:
        """
        Search from the record's own time on, in the partition of the same number first: there it is
        where the topic is as wide as the input.
        """
        partitions = reader.partitions(REQUEST_SECONDS)
        about = record.timestamp()[1] - _CLOCKS_APART_MS
        origins = reader.since(partitions, about, REQUEST_SECONDS)
        same = {p: at for p, at in origins.items() if p == place(record)[0]}
        others = {p: at for p, at in origins.items() if p not in same}
        for some in filter(None, (same, others)):
            found = search(reader, is_wanted, some, self._tell)
            if found is not None:
                return found
        return None


def place_text(message: Message) -> str:
    """Return a record's place as people write it."""
    partition, offset = place(message)
    return f"{message.topic()}[{partition}]@{offset}"


def _stated(message: Message) -> dict[str, str]:
    headers = headers_of(message) or []
    return {
        name.removeprefix(PREFIX): (value or b"").decode("utf-8", "replace")
        for name, value in headers
        if name.startswith(PREFIX)
    }
