"""
What a test looks back on: the journal of what was sent, and all that a committed reader finds.

Read by a plain consumer and decoded by fastavro; no line of this is the pipeline's.
"""

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, Message, Producer, TopicPartition

import schemas
from tests.integration.traffic import Sent

PREFIX = "__fraudstream.errors."
_SENTINEL = "sentinel"
_NAMES = ("transaction", "label", "prediction", "alert")


def _bare(schema: Any) -> Any:
    """Return the schema without logical types: times stay numbers, ids stay text."""
    if isinstance(schema, dict):
        return {key: _bare(part) for key, part in schema.items() if key != "logicalType"}
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


_SCHEMAS = {name: fastavro.parse_schema(_bare(schemas.load(name))) for name in _NAMES}
_HEADERS = {name: schemas.single_object_header(schemas.load(name)) for name in _NAMES}

Place = tuple[int, int]
"""Partition and offset of an input."""


@dataclass(frozen=True)
class Read:
    """A record as a consumer gave it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 0


@dataclass(frozen=True)
class Bundle:
    """What the checker believes of the model: thresholds, and a scorer that is not the served."""

    challenge: float
    review: float
    decline: float
    score: Callable[[Sequence[Sequence[float]]], Sequence[float]] | None = None

    def decision(self, probability: float) -> str:
        """Apply the thresholds."""
        if probability >= self.decline:
            return "DECLINE"
        if probability >= self.review:
            return "REVIEW"
        return "CHALLENGE" if probability >= self.challenge else "APPROVE"


@dataclass(frozen=True)
class History:
    """
    All there is to judge. `stuck` lists the output partitions whose sentinel stayed invisible;
    `committed` and `ends` are by partition of the input; `allowed` are the flags that the test
    brought about. A history that is not complete may lack outcomes from the committed offset on.
    """

    exactly_once: bool
    topic: str
    sent: Sequence[Sent]
    labels: Sequence[Read]
    predictions: Sequence[Read]
    alerts: Sequence[Read]
    dead_letters: Sequence[Read]
    committed: dict[int, int]
    ends: dict[int, int]
    bundle: Bundle
    stuck: Sequence[tuple[str, int]] = ()
    settle: int = 60_000_000
    grace: int = 86_400_000_000
    alert_window: int = 86_400_000_000
    allowed: frozenset[str] = frozenset({"LATE_EVENT"})
    complete: bool = True


def decode(name: str, value: bytes | None) -> dict[str, Any]:
    """Read a single-object value with fastavro; its header must be the schema's."""
    body = io.BytesIO(value or b"")
    if body.read(10) != _HEADERS[name]:
        raise ValueError(f"no {name}: {value!r}")
    record: Any = fastavro.schemaless_reader(body, _SCHEMAS[name], None)
    if body.read(1):
        raise ValueError(f"bytes after the {name}: {value!r}")
    return record


def source(prediction: dict[str, Any]) -> Place:
    """Return the coordinates of the input that a prediction or alert is about."""
    return prediction["source_partition"], prediction["source_offset"]


def letter_source(letter: Read) -> Place:
    """Return the coordinates that a dead letter's headers state; (-1, -1) where they do not."""
    facts = dict(letter.headers)
    parts = [facts.get(f"{PREFIX}{name}") or b"-1" for name in ("partition", "offset")]
    return int(parts[0]), int(parts[1])


@dataclass(frozen=True)
class Topics:
    """The five topics of one test, and their group."""

    group: str
    payments: str
    labels: str
    predictions: str
    alerts: str
    dead_letters: str

    @property
    def outputs(self) -> tuple[str, str, str]:
        """The topics that a transaction writes to."""
        return self.predictions, self.alerts, self.dead_letters


def load_thresholds(folder: Path) -> Bundle:
    """Read the manifest's thresholds; ONNX Runtime scores, which is not what serves the model."""
    thresholds = json.loads((folder / "manifest.json").read_text())["thresholds"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = session.get_inputs()[0].name

    def score(rows: Sequence[Sequence[float]]) -> Sequence[float]:
        scores: list[float] = session.run(None, {name: np.array(rows, np.float32)})[1][:, 1]
        return scores

    return Bundle(**thresholds, score=score)


def read_history(
    bootstrap_servers: str, topics: Topics, sent: Sequence[Sent], bundle: Bundle, *,
    within_seconds: float = 20, **about: Any,
) -> History:  # fmt: skip
    """Read all topics to their ends; a sentinel must come out of each output partition."""
    config = {"bootstrap.servers": bootstrap_servers, "client.id": "checker", "log_level": 0}
    reader = Consumer(
        {
            **config,
            "group.id": topics.group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    known = reader.list_topics(timeout=30).topics
    parts = {topic: sorted(known[topic].partitions) for topic in (topics.labels, *topics.outputs)}
    inputs = [TopicPartition(topics.payments, p) for p in known[topics.payments].partitions]
    ends = {p.partition: reader.get_watermark_offsets(p, timeout=30)[1] for p in inputs}
    targets = _send_sentinels(
        config, [(topic, partition) for topic in topics.outputs for partition in parts[topic]]
    )
    for partition in parts[topics.labels]:
        place = TopicPartition(topics.labels, partition)
        targets[topics.labels, partition] = reader.get_watermark_offsets(place, timeout=30)[1] - 1
    records = {topic: [] for topic in parts} | _read_until(reader, targets, within_seconds)
    reader.close()
    return History(
        topic=topics.payments,
        sent=sent,
        labels=records[topics.labels],
        predictions=records[topics.predictions],
        alerts=records[topics.alerts],
        dead_letters=records[topics.dead_letters],
        ends=ends,
        bundle=bundle,
        stuck=sorted(targets),
        **about,
    )


def _send_sentinels(
    config: dict[str, Any], places: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], int]:
    """Write a plain record to each partition; return their offsets."""
    sent: dict[tuple[str, int], int] = {}

    def delivered(_: object, message: Message) -> None:
        sent[message.topic(), message.partition()] = message.offset()

    producer = Producer(config)
    for topic, partition in places:
        producer.produce(
            topic, b"", b"", partition, headers=[(_SENTINEL, b"")], on_delivery=delivered
        )
    assert producer.flush(30) == 0
    return sent


def _read_until(
    reader: Consumer, targets: dict[tuple[str, int], int], within_seconds: float
) -> dict[str, list[Read]]:
    """Read up to each target, and take it from `targets`; an open transaction hides some."""
    reader.assign([TopicPartition(*place, 0) for place in targets])
    found: dict[str, list[Read]] = {topic: [] for topic, _ in targets}
    for place in [place for place, offset in targets.items() if offset < 0]:
        del targets[place]
    deadline = time.monotonic() + within_seconds
    while targets and time.monotonic() < deadline:
        for message in reader.consume(5_000, timeout=0.05):
            assert message.error() is None, message.error()
            headers = tuple(message.headers() or ())
            place = message.topic(), message.partition()
            if (_SENTINEL, b"") not in headers:
                found[place[0]].append(
                    Read(*place, message.offset(), message.key(), message.value(), headers,
                         message.timestamp()[1])
                )  # fmt: skip
            if message.offset() >= targets.get(place, message.offset() + 1):
                del targets[place]
    return found
