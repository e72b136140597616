"""A history as a flawless pipeline would leave it, made by the oracle, with random scores."""

import hashlib
import io
import uuid
from collections import defaultdict
from typing import Any

import fastavro

import schemas
from consumer.verify.formats import ERRORS, Record
from consumer.verify.frauds import KnownFrauds
from tests.integration.history import Bundle, History, decode
from tests.integration.oracle import WINDOWS, Partition
from tests.integration.traffic import PREDICTION, TOMBSTONE, Sent, Traffic

PARTITIONS = 2
BUNDLE = Bundle(challenge=0.05, review=0.9, decline=0.95)


def encode(name: str, fields: dict[str, Any]) -> bytes:
    schema = schemas.load(name)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), fields)
    return schemas.single_object_header(schema) + out.getvalue()


def journal(traffic: Traffic) -> tuple[list[Sent], list[Record]]:
    ends: dict[int, int] = defaultdict(int)
    sent, labels = [], []
    inputs = [traffic.payment() for _ in range(300)]
    inputs[100:100] = traffic.refused()
    for number, item in enumerate(inputs):
        if number % 30 == 29:
            labels.append(Record("labels", 0, len(labels), None, traffic.label()))
        partition = sum(item.key or b"") % PARTITIONS
        known = {"labels_before": len(labels), "timestamp": 1_000 + number}
        about = {"partition": partition, "offset": ends[partition], **known}
        sent.append(Sent(item.key, item.value, item.outcome, item.headers, **about))
        ends[partition] += 1
    return sent, labels


def prediction(
    sent: Sent, payment: dict[str, Any], features: list[float], late: bool, probability: float
) -> Record:
    names = ("event_id", "transaction_id", "card_id", "terminal_id", "event_time")
    decision = BUNDLE.decision(probability)
    reason = {"code": "R01", "contribution": 1.0, "value": 1.0}
    fields = {name: payment[name] for name in names} | {
        "scored_at": 0,
        "model_name": "m",
        "model_version": "1",
        "feature_set": "arrival-1",
        "probability": probability,
        "score": 1 + int(998 * probability),
        "decision": decision,
        "reasons": [reason] if decision in {"REVIEW", "DECLINE"} else [],
        "features": features,
        "degraded": ["LATE_EVENT"] if late else [],
        "source_topic": "payments",
        "source_partition": sent.partition,
        "source_offset": sent.offset,
        "label_offsets": [sent.labels_before],
    }
    return Record(
        "predictions", sent.partition, sent.offset, sent.key, encode("prediction", fields)
    )


def written(sent: Sent) -> Record:
    place = (sent.partition, sent.offset)
    return Record("payments", *place, sent.key, sent.value, sent.headers, sent.timestamp)


def letter(sent: Sent) -> Record:
    facts = {
        "topic": "payments",
        "partition": str(sent.partition),
        "offset": str(sent.offset),
        "reason": sent.outcome,
    }
    key, value = sent.key, sent.value
    if sent.outcome in {"oversize", "card_number"}:
        facts |= {
            "value.sha256": hashlib.sha256(value).hexdigest(),
            "value.length": str(len(value)),
        }
        value, key = None, None if sent.outcome == "card_number" else key
    headers = (*sent.headers, *((ERRORS + name, text.encode()) for name, text in facts.items()))
    return Record("dlt", sent.partition, sent.offset, key, value, headers, sent.timestamp)


def alert(item: dict[str, Any], offset: int) -> Record:
    day = 86_400_000_000
    window = item["event_time"] // day * day
    subject = item["card_id"]
    namespace = uuid.UUID("6f1d2a34-54c1-5c0c-9d1b-0b6f8f2a7c11")
    fields = {
        "alert_id": str(uuid.uuid5(namespace, f"CARD_COMPROMISE:{subject}:{window}")),
        "kind": "CARD_COMPROMISE",
        "status": "OPENED",
        "subject_id": subject,
        "window_start": window,
        "severity": 1,
        "opened_at": item["event_time"],
        "updated_at": item["event_time"],
        "event_ids": [item["event_id"]],
        "max_score": item["score"],
        "events": 1,
        "amount_minor": 1,
        "currency": "EUR",
        "source_topic": "payments",
        "source_partition": item["source_partition"],
        "source_offset": item["source_offset"],
    }
    return Record("alerts", 0, offset, subject.encode(), encode("alert", fields))


def sound_history() -> History:
    """Return what 300 payments, rubbish between them and 10 labels must lead to."""
    traffic = Traffic(4, cards=9)
    sent, labels = journal(traffic)
    frauds = KnownFrauds(60_000_000)
    for read in labels:
        frauds.add(0, read.offset, decode("label", read.value))
    states = [Partition(86_400_000_000) for _ in range(PARTITIONS)]
    predictions, alerts, opened = [], [], set()
    for item in sorted(sent, key=lambda s: (s.partition, s.offset)):
        if item.outcome != PREDICTION:
            continue
        payment = decode("transaction", item.value)
        terminal, time = payment["terminal_id"], payment["event_time"]
        counts = frauds.counts(terminal, time, [item.labels_before], WINDOWS)
        features, late, _ = states[item.partition].observe(payment, counts)
        probability = traffic.random.random()
        predictions.append(prediction(item, payment, features, late, probability))
        window = (item.partition, payment["card_id"], payment["event_time"] // 86_400_000_000)
        if probability >= BUNDLE.review and (late or window not in opened):
            opened |= set() if late else {window}
            alerts.append(alert(decode("prediction", predictions[-1].value), len(alerts)))
    refused = [item for item in sent if item.outcome not in {PREDICTION, TOMBSTONE}]
    ends = {p: sum(item.partition == p for item in sent) for p in range(PARTITIONS)}
    return History(
        exactly_once=True,
        topic="payments",
        sent=sent,
        inputs=[written(item) for item in sent],
        labels=labels,
        predictions=predictions,
        alerts=alerts,
        dead_letters=[letter(item) for item in refused],
        committed=ends,
        ends=ends,
        bundles={"1": BUNDLE},
    )
