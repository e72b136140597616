"""What a period's published predictions answered, by the place of their payments."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
from confluent_kafka import Message

import schemas
from consumer.adapters.avro_records import AvroRecords
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_search import REQUEST_SECONDS, Progress
from consumer.core.avro_decoder import AvroDecoder
from consumer.core.avro_program import Column
from consumer.core.flips import Answers
from consumer.core.symbols import DECISIONS
from consumer.records import Longs, Status

_COLUMNS: Final = (
    Column("source_topic", "string"),
    Column("model_name", "string"),
    Column("model_version", "string"),
    Column("source_partition", "long"),
    Column("source_offset", "long"),
    Column("decision", "enum", default=0, symbols=DECISIONS),
    Column("probability", "double"),
)
_REVIEW: Final = DECISIONS.index("REVIEW")
_MOST_BYTES: Final = 2**20
_CLOCKS_APART_MS: Final = 60_000


class PublishedAnswers:
    """A column for each partition of the input, as long as its range; decision 0: none found."""

    def __init__(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> None:
        """`ranges` are offsets [begin, end) of the input topic, by partition."""
        self._topic = topic.encode()
        self._ranges = ranges
        self._answers = {
            partition: Answers(
                np.zeros(end - begin), np.zeros(end - begin, np.int64), np.zeros(end - begin, "S3")
            )
            for partition, (begin, end) in ranges.items()
        }
        self._decoder = AvroDecoder(schemas.versions("prediction"), _COLUMNS, _MOST_BYTES)
        self._records = AvroRecords("prediction")
        self.models: Counter[str] = Counter()
        """Predictions by the name and version of the model that made them."""

    def read(self, reader: LogReader, since: int | None, tell: Progress) -> None:
        """
        Read the topic of predictions from a timestamp (milliseconds) of the payments on.

        Raises KafkaException.
        """
        partitions = reader.partitions(REQUEST_SECONDS)
        begins = (
            reader.beginnings(partitions, REQUEST_SECONDS)
            if since is None
            else reader.since(partitions, since - _CLOCKS_APART_MS, REQUEST_SECONDS)
        )
        ends = reader.ends(partitions, REQUEST_SECONDS)
        seen, total = 0, sum(ends[p] - begins[p] for p in partitions)
        for messages in reader.between({p: (begins[p], ends[p]) for p in partitions}):
            self.add(messages)
            seen += len(messages)
            tell(seen, total)

    def add(self, messages: list[Message]) -> None:
        """Take in predictions; a second one of the same payment is the same."""
        columns = self._decoder.decode([message.value() for message in messages])
        partitions, offsets = columns.long("source_partition"), columns.long("source_offset")
        decisions, text = columns.long("decision"), columns.text
        probabilities = columns.doubles[columns.slots["probability"]]
        for row in np.flatnonzero(columns.statuses == Status.GOOD).tolist():
            partition, offset = int(partitions[row]), int(offsets[row])
            begin, end = self._ranges.get(partition, (0, 0))
            if not begin <= offset < end or text.bytes_of("source_topic", row) != self._topic:
                continue
            answers, at = self._answers[partition], offset - begin
            if answers.decisions[at] == 0:
                model = (text.bytes_of("model_name", row), text.bytes_of("model_version", row))
                self.models[b" ".join(model).decode()] += 1
            answers.probabilities[at] = probabilities[row]
            answers.decisions[at] = decisions[row]
            if decisions[row] >= _REVIEW:  # reasons are an array, which columns do not hold
                reasons = (self._records.read(messages[row].value()) or {}).get("reasons")
                answers.reasons[at] = reasons[0]["code"].encode() if reasons else b""

    def of(self, partition: int, offsets: Longs) -> Answers:
        """Return the answers for these payments of a partition."""
        return self._answers[partition].take(offsets - self._ranges[partition][0])
