"""The stream that is measured: Handbook payments in full records, and a model for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

import schemas
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.labels import TerminalFrauds
from consumer.core.manifest import Thresholds
from producer_sim import handbook
from producer_sim.events import TransactionWriter, event_times
from producer_sim.labels import Exactly, LabelWriter, fraud_labels
from producer_sim.population import card_ids, terminal_ids
from tests.brokers import Broker
from training.bundle import Engine, Trained, write_bundle
from training.history import NEVER, hash_texts, measure
from training.sources import from_columns

TREES, LEAVES = 100, 31
_FIRST_DAY: Final = 91  # 2018-07-01
_SEED: Final = 0
_DAY_MICROS: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """n payments in order: their keys and Avro values, and float32[n, features] as scored."""

    keys: list[bytes]
    values: list[bytes]
    rows: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]
    label_keys: list[bytes]
    label_values: list[bytes]


def make_workload(count: int) -> Workload:
    """Take the first `count` payments of July 2018 and later, with labels exactly 7 days late."""
    payments = handbook.load()
    first = int(np.searchsorted(payments.second, _FIRST_DAY * handbook.DAY_SECONDS))
    chosen = np.arange(first, first + count)
    writer = TransactionWriter(payments, _SEED)
    labels = fraud_labels(payments, Exactly(7), _SEED)
    times = event_times(payments)
    known = np.flatnonzero(
        (labels.published_at >= times[first]) & (labels.published_at < times[chosen[-1]])
    )
    label_writer = LabelWriter(payments, labels, _SEED)
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
    label_values = label_writer.values(known)
    frauds.add(label_values, [0] * len(label_values))
    cards = hash_texts([card.encode() for card in card_ids(_SEED)])
    terminals = hash_texts([terminal.encode() for terminal in terminal_ids(_SEED)])
    history = from_columns(
        times[chosen], cards[payments.customer[chosen]], terminals[payments.terminal[chosen]],
        payments.cents[chosen], np.full(count, NEVER, np.int64),
    )  # fmt: skip
    rows = measure(history, ARRIVAL_1, frauds, _DAY_MICROS, lambda _: None)
    return Workload(
        writer.keys(chosen), writer.values(chosen), rows, payments.scenario[chosen] > 0,
        label_writer.keys(known), label_values,
    )  # fmt: skip


def train_model(folder: Path, workload: Workload, engine: Engine) -> Any:
    """Write a bundle of 100 trees of 31 leaves, trained on the workload: only its cost counts."""
    classifier = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, early_stopping=False, random_state=0
    ).fit(workload.rows, workload.is_fraud)
    scores = classifier.predict_proba(workload.rows)[:, 1]
    review = float(np.quantile(scores, 0.99))
    thresholds = Thresholds(challenge=review, review=review, decline=1.0)
    trained = Trained(classifier, workload.rows, workload.is_fraud, thresholds, {}, {})
    return write_bundle(folder, trained, ARRIVAL_1, "bench", engine)


def publish(broker: Broker, workload: Workload, topics: dict[str, int]) -> None:
    """Create the topics and fill input and labels."""
    broker.create_topics(topics)
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    for topic, keys, values in (
        ("fraud.labels", workload.label_keys, workload.label_values),
        ("transactions.raw", workload.keys, workload.values),
    ):
        messages = [{"key": k, "value": v} for k, v in zip(keys, values, strict=True)]
        if producer.produce_batch(topic, messages) < len(messages) or producer.flush(120) > 0:
            raise RuntimeError(f"{topic} could not be filled")
