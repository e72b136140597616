"""The dead letters of the input topic, and what people did with them, as both topics say."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from confluent_kafka import Message

from consumer.adapters.kafka_clients import place, reader_config
from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import headers_of
from consumer.core.dead_letter import Letter, Place, read_letter
from consumer.errors import ConfigError, FatalError
from consumer.settings import Settings

_REQUEST_SECONDS: Final = 10.0

Identity: TypeAlias = tuple[Place, str]
"""
Where a record was refused, and the SHA-256 of its value: two letters of one record, as
at-least-once may leave them, are one; records of an input topic that was made anew are others.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which letters: of these reasons (none: all), of one partition, of one offset of the input, and
    with timestamps in [begin, end), milliseconds. None is no limit.
    """

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    offset: int | None = None
    begin: int | None = None
    end: int | None = None

    def admits(self, letter: Letter, timestamp: int) -> bool:
        """Say whether a letter of these partitions is wanted."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.partition is None or letter.place.partition == self.partition)
            and (self.offset is None or letter.place.offset == self.offset)
            and (self.begin is None or timestamp >= self.begin)
            and (self.end is None or timestamp < self.end)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What was done with a letter: `replayed` or `discarded`, when, by whom, and why."""

    action: str
    at: str
    by: str
    because: str | None


@dataclass(frozen=True, slots=True)
class Filed:
    """A dead letter as it lies in its topic; `timestamp` is its record's, in milliseconds."""

    letter: Letter
    at: Place
    key: bytes | None
    value: bytes | None
    timestamp: int
    identity: Identity


class DeadLetterLog:
    """Reads both topics beside the group; commits nothing."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is read yet."""
        config = reader_config(settings, lambda _: None)
        self.input: Final = settings.topics.input
        self._letters = LogReader(config, settings.dead_letter_topic)
        self._audit = LogReader(config, settings.audit_topic)
        self.strangers = 0
        """Records seen in the dead-letter topic that are no letters of this input topic."""

    def marks(self) -> dict[Identity, Mark]:
        """
        Return what was done with which letter, nothing where there is no audit yet.

        Raises KafkaException; FatalError for a record that cannot be read, since what it says was
        done could be done again.
        """
        partitions = self._audit.partitions(_REQUEST_SECONDS)
        found: dict[Identity, Mark] = {}
        for messages in self._audit.scan(partitions):
            for message in messages:
                identity, mark = self._read_mark(message)
                found[identity] = mark
        return found

    def has_audit(self) -> bool:
        """Say whether the audit topic exists. Raises KafkaException."""
        return bool(self._audit.partitions(_REQUEST_SECONDS))

    def letters(self, wanted: Wanted) -> Iterator[Filed]:
        """
        Yield the letters up to the topic's present end, in order within a partition; of several
        letters of one record the first.

        Raises KafkaException, and ConfigError when there is no such topic or partition.
        """
        partitions = self._letters.partitions(_REQUEST_SECONDS)
        if not partitions:
            raise ConfigError(
                f"topic {self._letters.topic} does not exist; run `fraudstream topics`"
            )
        if wanted.partition is not None and wanted.partition not in partitions:
            raise ConfigError(f"--partition: {self._letters.topic} has no {wanted.partition}")
        if wanted.partition is not None:
            partitions = [wanted.partition]
        begins = (
            self._letters.beginnings(partitions, _REQUEST_SECONDS)
            if wanted.begin is None
            else self._letters.since(partitions, wanted.begin, _REQUEST_SECONDS)
        )
        ends = self._letters.ends(partitions, _REQUEST_SECONDS)
        seen: set[Identity] = set()
        for messages in self._letters.between({p: (begins[p], ends[p]) for p in partitions}):
            for message in messages:
                filed = self._read(message)
                if filed is None:
                    self.strangers += 1
                elif wanted.admits(filed.letter, filed.timestamp) and filed.identity not in seen:
                    seen.add(filed.identity)
                    yield filed

    def close(self) -> None:
        """Close the clients."""
        self._letters.close()
        self._audit.close()

    def _read(self, message: Message) -> Filed | None:
        letter = read_letter(headers_of(message) or [])
        if letter is None or letter.place.topic != self.input:
            return None
        key, value = message.key(), message.value()
        digest = letter.value_sha256 or hashlib.sha256(value or b"").hexdigest()
        at = Place(self._letters.topic, *place(message))
        return Filed(letter, at, key, value, message.timestamp()[1], (letter.place, digest))

    def _read_mark(self, message: Message) -> tuple[Identity, Mark]:
        try:
            line: dict[str, Any] = json.loads(message.value() or b"")
            where = Place(line["topic"], line["partition"], line["offset"])
            mark = Mark(line["action"], line["at"], line["by"], line["because"])
            return (where, line["value_sha256"]), mark
        except (ValueError, KeyError, TypeError) as error:
            raise FatalError(
                f"{Place(self._audit.topic, *place(message))} is no line of an audit: somebody"
                " else writes to this topic; name another one in topics.dead_letter_audit"
            ) from error
