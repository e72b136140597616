"""
The consumer that one writes first: poll, fastavro, predict, produce, auto-commit. What it loses and
repeats under the same faults is what the promises are worth.

It is no straw man: it reads every partition in order, computes the right features while it lives,
logs a record that it cannot read and goes on, flushes when it ends, and restarts when it crashed.
"""

import io
import signal
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, KafkaException, Producer

import schemas
from tests.integration.history import decode
from tests.integration.oracle import DAY, Partition

_SCHEMA = fastavro.parse_schema(schemas.load("prediction"))
_HEADER = schemas.single_object_header(schemas.load("prediction"))


class Naive:
    """Its steps have names, so that faults can be put between them."""

    def __init__(self, config: dict[str, Any]) -> None:
        """`config` is a file of the consumer under test; the Kafka properties in it count here."""
        kafka, self._topics = config["kafka"], config["topics"]
        members = {key: kafka[key] for key in kafka if not key.startswith("transaction")}
        client = {"client.id": f"fraudstream-{config['instance']['id']}", "log_level": 0}
        self._consumer = Consumer({"auto.offset.reset": "earliest", **members, **client})
        ours = ("bootstrap.servers", "reconnect.backoff.max.ms", "security.", "sasl.", "ssl.")
        only = {key: kafka[key] for key in kafka if key.startswith(ours)}
        self._producer = Producer({**only, **client})
        model = Path(config["model"]["path"]) / "model.onnx"
        self._session = onnxruntime.InferenceSession(model)
        self._state: dict[int, Partition] = defaultdict(lambda: Partition(DAY))

    def run(self) -> None:
        """Go on until SIGTERM, or the first error that nobody thought of."""
        stopping: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
        self._consumer.subscribe([self._topics["input"]])
        while not stopping:
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                print(message.error(), flush=True)
                continue
            try:
                payment = self.decode(message.value())
            except Exception as error:  # noqa: BLE001 - so do they
                print(f"bad record: {error}", flush=True)
                continue
            features = self.measure(message.partition(), payment)
            probability = self.predict(features)
            self.publish(message, payment, features, probability)
        self._consumer.close()
        self._producer.flush(10)

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """Read a payment."""
        return decode("transaction", value)

    def measure(self, partition: int, payment: dict[str, Any]) -> list[float]:
        """Return the features, of what it has seen since it started."""
        features, *_ = self._state[partition].observe(payment, [0, 0, 0])
        return features

    def predict(self, features: list[float]) -> float:
        """Return the probability of one payment."""
        name = self._session.get_inputs()[0].name
        rows = np.array([features], np.float32)
        return float(self._session.run(None, {name: rows})[1][0, 1])

    def publish(
        self, message: Any, payment: dict[str, Any], features: list[float], probability: float
    ) -> None:
        """Produce the prediction; it goes out when the client sends it."""
        names = ("event_id", "transaction_id", "card_id", "terminal_id", "event_time")
        out = io.BytesIO(_HEADER)
        out.seek(0, io.SEEK_END)
        fields = {name: payment[name] for name in names} | {
            "scored_at": 0, "model_name": "naive", "model_version": "1", "feature_set": "arrival-1",
            "probability": probability, "score": 1 + int(998 * probability),
            "decision": "APPROVE" if probability < 0.5 else "DECLINE", "features": features,
            "source_topic": message.topic(), "source_partition": message.partition(),
            "source_offset": message.offset(),
        }  # fmt: skip
        fastavro.schemaless_writer(out, _SCHEMA, fields)
        while True:
            try:
                self._producer.produce(self._topics["predictions"], out.getvalue(), message.key())
            except BufferError:
                self._producer.poll(0.1)
            else:
                break
        self._producer.poll(0)


def run(arguments: list[str]) -> None:
    """Be the naive consumer; the arguments are those of `fraudstream run`."""
    config = tomllib.loads(Path(arguments[arguments.index("--config") + 1]).read_text())
    try:
        Naive(config).run()
    except KafkaException as error:
        raise SystemExit(str(error)) from error
