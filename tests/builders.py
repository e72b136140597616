"""What tests are made of: payments, labels and a small model bundle, all deterministic."""

import functools
import io
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

import schemas
from consumer.core.batch import Events
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_4, FeatureSet
from consumer.core.manifest import Manifest, Thresholds
from consumer.records import Headers, Records
from training.bundle import Engine, Trained, write_bundle

DAY = 86_400_000_000
JANUARY = 1_577_836_800_000_000  # 2020-01-01, in microseconds


def payment(number: int = 0, **overrides: Any) -> dict[str, Any]:
    """Return the fields of a Transaction; fields left out have the schema's defaults."""
    fields = {
        "event_id": str(uuid.UUID(int=number)),
        "transaction_id": f"payment-{number}",
        "kind": "AUTHORISATION",
        "event_time": JANUARY + number * 1_000_000,
        "card_id": f"card-{number % 7}",
        "terminal_id": f"terminal-{number % 5}",
        "amount_minor": 1_000 + 37 * number % 20_000,
        "currency": "EUR",
    }
    return fields | overrides


def label(number: int, **overrides: Any) -> dict[str, Any]:
    """Return the fields of a Label that calls payment `number` a fraud, published a day later."""
    paid = payment(number)
    published_at = paid["event_time"] + DAY
    fields = {
        "label_id": str(uuid.UUID(int=number)),
        "transaction_id": paid["transaction_id"],
        "card_id": paid["card_id"],
        "terminal_id": paid["terminal_id"],
        "event_time": paid["event_time"],
        "amount_minor": paid["amount_minor"],
        "currency": "EUR",
        "verdict": "FRAUD",
        "reported_at": published_at,
        "published_at": published_at,
    }
    return fields | overrides


def encoded(name: str, fields: dict[str, Any]) -> bytes:
    """Return the record in Avro single-object encoding, written by fastavro."""
    header, schema = _writer(name)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, fields)
    return header + out.getvalue()


@functools.cache
def _writer(name: str) -> tuple[bytes, schemas.Schema]:
    """Return the header and the parsed schema: to compute them takes a thousand encodings."""
    schema = schemas.load(name)
    return schemas.single_object_header(schema), fastavro.parse_schema(schema)


def decoded(name: str, value: bytes) -> Any:
    """Read a single-object value with fastavro; its header must be the schema's."""
    header, schema = _codec(name)
    assert value[: len(header)] == header
    body = io.BytesIO(value[len(header) :])
    record = fastavro.schemaless_reader(body, schema, None)
    assert body.read() == b""
    return record


@cache
def _codec(name: str) -> tuple[bytes, Any]:
    """Return the header and fastavro's form of a schema: to work them out takes a millisecond."""
    schema = schemas.load(name)
    return schemas.single_object_header(schema), fastavro.parse_schema(schema)


def tiny_bundle(
    folder: Path, engine: Engine = "auto", trees: int = 20, feature_set: FeatureSet = ARRIVAL_1
) -> Manifest:
    """Train on made-up rows, where large amounts at terminals with frauds are fraud."""
    rng = np.random.default_rng(0)
    rows = np.floor(rng.gamma(1.5, 8.0, size=(4_000, len(feature_set.names)))).astype(np.float32)
    frauds = rows[:, feature_set.names.index("terminal_frauds_7d")]
    is_fraud = rows[:, 0] + 3 * frauds + rng.normal(size=len(rows)) * 5 > 90
    classifier = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=31, early_stopping=False, random_state=0
    ).fit(rows, is_fraud)
    thresholds = Thresholds(challenge=0.05, review=0.1, decline=0.9)
    trained = Trained(classifier, rows, is_fraud, thresholds, {"payments": len(rows)}, {})
    return write_bundle(folder, trained, feature_set, "tiny", engine)


def records_of(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    *,
    partitions: Sequence[int] | int = 0,
    offsets: Sequence[int] | None = None,
    timestamps: Sequence[int] | int = -1,
    live: Sequence[bool] | bool = True,
    headers: Sequence[Headers] | None = None,
) -> Records:
    """Return one poll; a single partition, timestamp or flag stands for all of them."""
    n = len(values)
    return Records(
        topic="transactions.raw",
        values=list(values),
        keys=list(keys) if keys is not None else [b"card"] * n,
        partitions=np.broadcast_to(np.asarray(partitions, np.int64), n).copy(),
        offsets=np.arange(n) if offsets is None else np.array(offsets, np.int64),
        timestamps=np.broadcast_to(np.asarray(timestamps, np.int64), n).copy(),
        live=np.broadcast_to(np.asarray(live, np.bool_), n).copy(),
        headers=lambda row: [] if headers is None else headers[row],
    )


def payment_records(payments: Sequence[dict[str, Any] | bytes | None], **columns: Any) -> Records:
    """Return payments as one poll, keyed by their cards; bytes and None stay what they are."""
    values = [encoded("transaction", p) if isinstance(p, dict) else p for p in payments]
    keys = [p["card_id"].encode() if isinstance(p, dict) else b"card" for p in payments]
    return records_of(values, columns.pop("keys", keys), **columns)


def events_of(payments: Sequence[dict[str, Any]], **columns: Any) -> Events:
    """Return payments as the decoder gives them, none of them refused."""
    decoder = PaymentDecoder([schemas.load("transaction")], attributes=ARRIVAL_4.attributes)
    events, refused = decoder.decode(payment_records(payments, **columns))
    assert len(refused.rows) == 0
    return events


def varint(value: int) -> bytes:
    """Return the zig-zag varint of a number of up to 64 bits, as Avro has it."""
    raw = value << 1 if value >= 0 else ((-value - 1) << 1) | 1
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def sized(data: bytes) -> bytes:
    """Return the data after its length."""
    return varint(len(data)) + data


def record_schema(**types: Any) -> schemas.Schema:
    """Return a record schema with a field of each type."""
    fields = [{"name": name, "type": type_} for name, type_ in types.items()]
    return {"type": "record", "name": "Record", "fields": fields}


def single_object(schema: schemas.Schema, body: bytes) -> bytes:
    """Return bytes, right or wrong, behind the header of the schema."""
    return schemas.single_object_header(schema) + body


def written(schema: schemas.Schema, record: Any) -> bytes:
    """Return the record as fastavro writes it, behind the header of the schema."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return single_object(schema, out.getvalue())
