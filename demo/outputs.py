"""Reads what the consumer publishes, while it publishes: an embedded broker keeps little."""

import io
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition
from numpy.typing import NDArray

import schemas
from consumer.core.avro_decoder import AvroDecoder
from consumer.core.avro_program import Column
from producer_sim.events import row_of

PREDICTIONS: Final = "transactions.scored"
ALERTS: Final = "fraud.alerts"
DEAD_LETTERS: Final = "transactions.raw-dlt"

_COLUMNS: Final = (
    Column("transaction_id", "string"),
    Column("probability", "double"),
    Column("source_partition", "long"),
    Column("source_offset", "long"),
)
_MOST_RECORDS: Final = 20_000
_LARGEST_BYTES: Final = 1 << 20
_ALERTS_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Scored:
    """
    Distinct predictions: the simulated payment's row, its probability, and where it came from.

    A row is -1 where the prediction is of no simulated payment.
    """

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    repeated: int


class OutputReader(threading.Thread):
    """Takes in predictions, alerts and dead letters from the beginning, until told to stop."""

    def __init__(
        self, bootstrap_servers: str, topics: tuple[str, ...] = (PREDICTIONS, ALERTS, DEAD_LETTERS)
    ) -> None:
        """`topics` are those of predictions, alerts and dead letters, in that order."""
        super().__init__(name="outputs", daemon=True)
        self._topics = topics
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "demo-outputs",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._decoder = AvroDecoder([schemas.load("prediction")], _COLUMNS, _LARGEST_BYTES)
        self._alert_schema: Any = fastavro.parse_schema(schemas.load("alert"))
        self._stop_asked = threading.Event()
        self._batches: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
        self.prediction_count = 0
        self.alert_count = 0
        self.dead_letter_count = 0
        self.last_alerts: deque[dict[str, Any]] = deque(maxlen=_ALERTS_SHOWN)

    def run(self) -> None:
        """Read until stopped."""
        metadata = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(t, p, 0) for t in self._topics for p in metadata[t].partitions]
        )
        while not self._stop_asked.is_set():
            self._take_in(self._consumer.consume(_MOST_RECORDS, timeout=0.2))

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self.join()
        self._consumer.close()

    def scored(self) -> Scored:
        """Return every prediction once: those of one source record are the same."""
        rows, probabilities, places = (
            np.concatenate([batch[k] for batch in self._batches] or [np.zeros((0, *shape))])
            for k, shape in enumerate(((), (), (2,)))
        )
        _, first = np.unique(places, axis=0, return_index=True)
        return Scored(rows[first].astype(np.int64), probabilities[first], len(places) - len(first))

    def _take_in(self, messages: list[Message]) -> None:
        messages = [message for message in messages if message.error() is None]
        predictions, alerts, dead_letters = (
            [message for message in messages if message.topic() == topic] for topic in self._topics
        )
        if predictions:
            columns = self._decoder.decode(list(map(Message.value, predictions)))
            ids = (columns.text.bytes_of("transaction_id", i) for i in range(len(predictions)))
            rows = [row_of(transaction_id) for transaction_id in ids]
            self._batches.append(
                (
                    np.array([-1 if row is None else row for row in rows], np.int64),
                    columns.doubles[0].copy(),
                    np.stack([columns.long("source_partition"), columns.long("source_offset")], 1),
                )
            )
            self.prediction_count += len(predictions)
        for message in alerts:
            value = message.value() or b""
            self.last_alerts.append(
                fastavro.schemaless_reader(io.BytesIO(value[10:]), self._alert_schema, None)  # type: ignore[arg-type]
            )
        self.alert_count += len(alerts)
        self.dead_letter_count += len(dead_letters)
